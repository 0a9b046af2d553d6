//! Descriptions as a compiler makes them, and rubbish.

use super::description::Description;
use super::*;
use crate::kernel::faulty::{Rubbish, Sparse};
use crate::kernel::memory::{Allowance, Memory, Reader};
use crate::kernel::paging::Paging;
use crate::kernel::space::Image;
use crate::kernel::x86_64;
use proptest::prelude::*;

const AT: u64 = 0x1_0000;

pub(in crate::kernel) fn space(memory: &dyn Memory) -> Space<'_> {
    let image = Image { at: 0..1 << 40, to_physical: 0 };
    let allowance = Allowance { reads: 100_000, bytes: 64 << 20 };
    Space::new(Reader::new(memory, allowance), Paging::new(0, x86_64::paging::form(0)), image)
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

/// Offset, bytes, and the first bit and how many there are of a bit field.
type Found = (u32, u32, Option<(u32, u32)>);

fn found(memory: &Sparse, bytes: usize, structure: &str, path: &str) -> Option<Found> {
    let space = space(memory);
    let types = Description::read(&space, AT..AT + bytes as u64, &WANTED).unwrap();
    let field = types.field(&space, structure, path).unwrap()?;
    Some((field.offset, field.bytes, field.bits))
}

#[test]
fn members_are_found() {
    let bytes = sample();
    let mut memory = Sparse::default();
    memory.write(AT, &bytes);
    let at = |structure, path| found(&memory, bytes.len(), structure, path);
    assert_eq!(at("task", "pid"), Some((4, 4, None)));
    assert_eq!(at("task", "deeper"), Some((16, 8, None)));
    assert_eq!(at("task", "info.last"), Some((48, 4, None)));
    assert_eq!(at("task", "comm"), Some((64, 16, None)));
    assert_eq!(at("info_t", "last"), Some((16, 4, None)));
    assert_eq!(at("bits", "high"), Some((4, 4, Some((5, 3)))));
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
    let read = |at| Description::read(&space, at, &WANTED).err();
    assert_eq!(read(AT + 4..AT + 400), Some(TypesError::Rubbish));
    assert_eq!(read(AT..AT + 400), Some(TypesError::Rubbish));
    assert_eq!(read(AT..AT + (1 << 30)), Some(TypesError::Rubbish));
    let reversed = Range { start: AT, end: AT - 1 };
    assert_eq!(read(reversed), Some(TypesError::Rubbish));
}

#[test]
fn sections_that_end_past_all_addresses_are_refused() {
    // Where kernels are, 2 GiB from the last address, every size that is no lie is far from it.
    const TOP: u64 = 0xffff_ffff_8000_0000;
    let mut memory = Sparse::default();
    memory.write(AT, &sample());
    let image = Image { at: TOP..u64::MAX, to_physical: AT.wrapping_sub(TOP) };
    for word in [4, 8, 12, 16, 20] {
        let mut memory = memory.clone();
        memory.write(AT + word, &u32::MAX.to_le_bytes());
        let reader = Reader::new(&memory, Allowance { reads: 100, bytes: 1 << 20 });
        let space = Space::new(reader, Paging::new(0, x86_64::paging::form(0)), image.clone());
        let refused = Description::read(&space, TOP..TOP + 8000, &WANTED).err();
        assert_eq!(refused, Some(TypesError::Rubbish), "word at {word}");
    }
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

// === what is remembered ===

#[test]
fn what_was_asked_before_is_answered_alike_and_nothing_else() {
    let mut writer = Writer::new();
    writer.structure("uts_namespace", 64, &[("name", 1, 0, 0)]);
    writer.structure("mutex", 32, &[("owner", 1, 64, 0), ("wait_list", 2, 131, 5)]);
    let bytes = writer.done();
    let mut memory = Sparse::default();
    memory.write(AT, &bytes);
    let space = space(&memory);
    let types = Types::read(&space, AT..AT + bytes.len() as u64).unwrap();
    let ask = |types: &Types| {
        let of = |structure, path| types.member(&space, structure, path);
        let sizes = ["mutex", "task_struct"].map(|structure| types.bytes_of(&space, structure));
        (["owner", "wait_list", "list"].map(|path| of("mutex", path)), sizes)
    };
    let first = ask(&types);
    assert_eq!(first.0[2..], [Ok(None)]);
    assert_eq!(first.1, [Ok(Some(32)), Ok(None)]);
    let again = Types::remembered(types.answers()).unwrap();
    let before = space.reader().spent();
    assert_eq!(ask(&again), first);
    assert_eq!(space.reader().spent(), before);
    let other = again.member(&space, "mutex", "task");
    assert_eq!(other, Err(TypesError::NotAsked("task")));
    assert_eq!(again.bytes_of(&space, "rq"), Err(TypesError::NotAsked("rq")));
}

#[test]
fn what_no_description_tells_is_not_remembered() {
    let remembered = |offset, bytes, bits| {
        let field = Some(Field { offset, bytes, bits });
        let members = [("pid".to_owned(), field)].into();
        let answers =
            Answers { members: [("task".to_owned(), members)].into(), ..Answers::default() };
        Types::remembered(answers).map(drop)
    };
    assert_eq!(remembered(65_528, 8, Some((7, 200))), Ok(()));
    assert_eq!(remembered(65_529, 8, None), Err(TypesError::Rubbish));
    assert_eq!(remembered(u32::MAX, u32::MAX, None), Err(TypesError::Rubbish));
    assert_eq!(remembered(0, 8, Some((8, 1))), Err(TypesError::Rubbish));
}

#[test]
fn names_are_no_longer_than_names_are() {
    let bytes = [b'a'; 300];
    let text = |bytes: &[u8], long| {
        let field = Field { offset: 8, bytes: long, bits: None };
        layout::View::of(bytes).text(field).len()
    };
    assert_eq!([0, 16, 56, 250, 65_000].map(|long| text(&bytes, long)), [0, 16, 56, 64, 0]);
    assert_eq!(text(b"........comm\0....", 9), 4);
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
        if let Ok(types) = Description::read(&space, AT..AT + length as u64, &WANTED) {
            for path in ["pid", "deeper", "info.last", "comm"] {
                if let Ok(Some(field)) = types.field(&space, "task", path) {
                    prop_assert!(field.is_sane());
                }
            }
        }
    }

    #[test]
    fn any_memory_is_taken(bytes in proptest::collection::vec(any::<u8>(), 1..200)) {
        let memory = Rubbish([b"\x9f\xeb\x01\x00", &bytes[..]].concat());
        let space = space(&memory);
        if let Ok(types) = Description::read(&space, 0..1 << 20, &WANTED) {
            _ = types.field(&space, "task", "pid");
        }
    }
}
