//! Descriptions as a compiler makes them, and rubbish.

use super::*;
use crate::kernel::faulty::{Rubbish, Sparse};
use crate::kernel::memory::{Allowance, Memory, Reader};
use crate::kernel::space::Image;
use crate::kernel::x86_64::paging::Paging;
use proptest::prelude::*;

const AT: u64 = 0x1_0000;

pub(in crate::kernel) fn space(memory: &dyn Memory) -> Space<'_> {
    let image = Image { at: 0..1 << 40, to_physical: 0 };
    let allowance = Allowance { reads: 100_000, bytes: 64 << 20 };
    Space::new(Reader::new(memory, allowance), Paging::new(0, 0), image)
}

/// Writes a description; `u64` is type 1, `u32` is type 2.
#[derive(Default)]
pub(in crate::kernel) struct Writer {
    types: Vec<u8>,
    strings: Vec<u8>,
    count: u32,
}

impl Writer {
    pub(in crate::kernel) fn new() -> Self {
        let mut writer = Self { strings: vec![0], ..Self::default() };
        writer.put("u64", 1 << 24, 8, &[64]);
        writer.put("u32", 1 << 24, 4, &[32]);
        writer
    }

    fn put(&mut self, name: &str, info: u32, size: u32, rest: &[u32]) -> u32 {
        let place = if name.is_empty() { 0 } else { self.strings.len() as u32 };
        if place > 0 {
            self.strings.extend([name.as_bytes(), &[0]].concat());
        }
        for word in [&[place, info, size], rest].concat() {
            self.types.extend(word.to_le_bytes());
        }
        self.count += 1;
        self.count
    }

    /// The place of a word, which may have been written before.
    fn word(&mut self, name: &str) -> u32 {
        if name.is_empty() {
            return 0;
        }
        let whole = [&[0], name.as_bytes(), &[0]].concat();
        let known = self.strings.windows(whole.len()).position(|window| window == whole);
        known.map_or_else(
            || {
                self.strings.extend([name.as_bytes(), &[0]].concat());
                (self.strings.len() - name.len() - 1) as u32
            },
            |place| place as u32 + 1,
        )
    }

    /// A structure with members at bits; a width makes bit fields of them.
    pub(in crate::kernel) fn structure(
        &mut self,
        name: &str,
        bytes: u32,
        members: &[(&str, u32, u32, u32)],
    ) -> u32 {
        let fields = u32::from(members.iter().any(|member| member.3 > 0)) << 31;
        let mut rest = Vec::new();
        for (name, kind, bit, width) in members {
            rest.extend([self.word(name), *kind, bit | width << 24]);
        }
        let place = self.word(name);
        let words = [&[place, fields | 4 << 24 | members.len() as u32, bytes], &rest[..]].concat();
        self.types.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        self.count += 1;
        self.count
    }

    pub(in crate::kernel) fn array(&mut self, element: u32, count: u32) -> u32 {
        self.put("", 3 << 24, 0, &[element, 1, count])
    }

    pub(in crate::kernel) fn alias(&mut self, name: &str, kind: u32) -> u32 {
        self.put(name, 8 << 24, kind, &[])
    }

    pub(in crate::kernel) fn done(self) -> Vec<u8> {
        let (types, strings) = (self.types.len() as u32, self.strings.len() as u32);
        let head = [0x0001_eb9f, 24, 0, types, types, strings];
        let head = head.iter().flat_map(|word: &u32| word.to_le_bytes());
        head.chain(self.types).chain(self.strings).collect()
    }
}

fn sample() -> Vec<u8> {
    let mut writer = Writer::new();
    let inner = writer.structure("", 16, &[("deep", 1, 0, 0), ("deeper", 1, 64, 0)]);
    let info = writer.structure("info", 24, &[("first", 1, 0, 0), ("last", 2, 128, 0)]);
    let alias = writer.alias("info_t", info);
    let comm = writer.array(2, 4);
    (0..300).for_each(|number| _ = writer.alias(&format!("unused_{number}"), 1));
    writer.structure(
        "task",
        120,
        &[("pid", 2, 32, 0), ("", inner, 64, 0), ("info", alias, 256, 0), ("comm", comm, 512, 0)],
    );
    writer.structure("bits", 8, &[("low", 2, 32, 4), ("high", 2, 37, 3)]);
    writer.alias("task", 1);
    writer.done()
}

const WANTED: [&str; 13] = [
    "task", "pid", "deeper", "info", "info_t", "last", "comm", "bits", "low", "high", "absent",
    "u64", "loop",
];

fn found(memory: &Sparse, bytes: usize, structure: &str, path: &str) -> Option<(u64, u32, u64)> {
    let space = space(memory);
    let types = Types::read(&space, AT..AT + bytes as u64, &WANTED).unwrap();
    let member = types.member(&space, structure, path).unwrap()?;
    Some((member.bit, member.width, types.bytes(&space, member).unwrap()))
}

#[test]
fn members_are_found() {
    let bytes = sample();
    let mut memory = Sparse::default();
    memory.write(AT, &bytes);
    let at = |structure, path| found(&memory, bytes.len(), structure, path);
    assert_eq!(at("task", "pid"), Some((32, 0, 4)));
    assert_eq!(at("task", "deeper"), Some((128, 0, 8)));
    assert_eq!(at("task", "info.last"), Some((384, 0, 4)));
    assert_eq!(at("task", "comm"), Some((512, 0, 16)));
    assert_eq!(at("info_t", "last"), Some((128, 0, 4)));
    assert_eq!(at("bits", "high"), Some((37, 3, 4)));
    assert_eq!(at("task", "absent"), None);
    assert_eq!(at("task", "first"), None);
    assert_eq!(at("absent", "pid"), None);
    assert_eq!(at("task", "pid.pid"), None);
}

#[test]
fn what_is_none_is_refused() {
    let mut memory = Sparse::default();
    let bytes = sample();
    memory.write(AT, &bytes);
    let space = space(&memory);
    let read = |at| Types::read(&space, at, &WANTED).err();
    assert_eq!(read(AT + 4..AT + 400), Some(TypesError::Rubbish));
    assert_eq!(read(AT..AT + 400), Some(TypesError::Rubbish));
    assert_eq!(read(AT..AT + (1 << 30)), Some(TypesError::Rubbish));
    let reversed = Range { start: AT, end: AT - 1 };
    assert_eq!(read(reversed), Some(TypesError::Rubbish));
}

#[test]
fn types_that_lead_into_themselves_end() {
    let mut writer = Writer::new();
    writer.structure("task", 8, &[("", 3, 0, 0), ("", 4, 0, 0)]);
    writer.alias("loop", 4);
    let bytes = writer.done();
    let mut memory = Sparse::default();
    memory.write(AT, &bytes);
    assert_eq!(found(&memory, bytes.len(), "task", "pid"), None);
    assert_eq!(found(&memory, bytes.len(), "loop", "pid"), None);
}

proptest! {
    #[test]
    fn a_damaged_description_is_taken(damage in proptest::collection::vec((0_usize..4000, any::<u32>()), 1..20)) {
        let mut bytes = sample();
        let length = bytes.len();
        for (place, word) in damage {
            let place = 24 + place % (length - 28);
            bytes[place..place + 4].copy_from_slice(&word.to_le_bytes());
        }
        let mut memory = Sparse::default();
        memory.write(AT, &bytes);
        let space = space(&memory);
        if let Ok(types) = Types::read(&space, AT..AT + length as u64, &WANTED) {
            for path in ["pid", "deeper", "info.last", "comm"] {
                if let Ok(Some(member)) = types.member(&space, "task", path) {
                    _ = types.bytes(&space, member);
                }
            }
        }
    }

    #[test]
    fn any_memory_is_taken(bytes in proptest::collection::vec(any::<u8>(), 1..200)) {
        let memory = Rubbish([b"\x9f\xeb\x01\x00", &bytes[..]].concat());
        let space = space(&memory);
        if let Ok(types) = Types::read(&space, 0..1 << 20, &WANTED) {
            _ = types.member(&space, "task", "pid");
        }
    }
}
