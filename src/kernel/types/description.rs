//! The kernel's own description of its types (BTF).
//!
//! It is some 5 MB and is not kept: one pass finds the wanted words among its strings, another the
//! wanted structures among its types, and notes where every 128th type is. Words are compared as
//! numbers from then on.

use super::layout::Field;
use super::{STRUCTURE_BYTES, TypesError};
use crate::kernel::memory::Fault;
use crate::kernel::space::Space;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;

const MAGIC: u16 = 0xeb9f;
const HEADER: u64 = 24;

/// The largest that was seen has 6 MB.
const BYTES: u64 = 32 << 20;

/// Longer words are not wanted.
const WORD_BYTES: usize = 256;

/// Types between two marks.
const STEP: u32 = 128;

/// `task_struct` has some 250 members; a structure with more is not what it says.
const MEMBERS: u16 = 4096;

/// How deep structures without a name are nested, and types are named anew.
const DEPTH: usize = 16;

/// A description that was gone through once.
pub(super) struct Description {
    /// Where types are, then strings.
    types: Range<u64>,
    /// The wanted words, and where they are among the strings.
    words: BTreeMap<&'static str, u32>,
    places: HashSet<u32>,
    /// Where types 1, 129, .. are.
    marks: Vec<u64>,
    /// Structures and unions by name, and names for others.
    named: BTreeMap<u32, u32>,
}

/// What stands where in a structure.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Member {
    kind: u32,
    /// From the start of the structure.
    bit: u64,
    /// Of a bit field; 0 where it is none.
    width: u32,
}

/// A type's head. What `size` means depends on the kind: bytes, or another type.
#[derive(Clone, Copy, Debug)]
struct Head {
    name: u32,
    info: u32,
    size: u32,
    /// Where what follows the head is.
    body: u64,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Pointer,
    Array,
    Compound,
    /// Another name for a type, or a qualifier of it.
    Alias,
    /// Has a size and nothing of interest.
    Plain,
    Other,
}

impl Description {
    /// Reads the description that is at `at`.
    pub(super) fn read(
        space: &Space<'_>,
        at: Range<u64>,
        wanted: &[&'static str],
    ) -> Result<Self, TypesError> {
        if at.end.checked_sub(at.start).is_none_or(|bytes| bytes > BYTES) {
            return Err(TypesError::Rubbish);
        }
        let head: [u8; HEADER as usize] = space.array(at.start)?;
        let word = |place: usize| u64::from(u32_of(&head, place));
        if u16::from_le_bytes([head[0], head[1]]) != MAGIC {
            return Err(TypesError::Rubbish);
        }
        let section = |place| {
            let start = at.start.checked_add(word(4))?.checked_add(word(place))?;
            let end = start.checked_add(word(place + 4))?;
            (end <= at.end).then_some(start..end)
        };
        let (Some(types), Some(strings)) = (section(8), section(16)) else {
            return Err(TypesError::Rubbish);
        };
        let words = words(space, strings, wanted)?;
        let places = words.values().copied().collect();
        let (marks, named) = (Vec::new(), BTreeMap::new());
        let mut description = Self { types, words, places, marks, named };
        description.index(space)?;
        Ok(description)
    }

    /// A member of a structure, as `sched_info.last_arrival`; structures without a name are looked into.
    pub(super) fn field(
        &self,
        space: &Space<'_>,
        structure: &str,
        path: &str,
    ) -> Result<Option<Field>, TypesError> {
        let Some(member) = self.member(space, structure, path)? else { return Ok(None) };
        let (bytes, offset) = (self.size(space, member.kind)?, member.bit / 8);
        if offset.saturating_add(bytes) > STRUCTURE_BYTES {
            return Err(TypesError::Rubbish);
        }
        let bits = (member.width > 0).then_some(((member.bit % 8) as u32, member.width));
        Ok(Some(Field { offset: offset as u32, bytes: bytes as u32, bits }))
    }

    /// Where it is.
    fn member(
        &self,
        space: &Space<'_>,
        structure: &str,
        path: &str,
    ) -> Result<Option<Member>, Fault> {
        let Some(kind) = self.structure(structure) else { return Ok(None) };
        let mut at = Member { kind, bit: 0, width: 0 };
        for name in path.split('.') {
            let Some(word) = self.words.get(name) else { return Ok(None) };
            let Some(next) = self.within(space, at.kind, *word, 0)? else { return Ok(None) };
            at = Member { bit: at.bit.saturating_add(next.bit), ..next };
        }
        Ok(Some(at))
    }

    /// How many bytes a structure takes.
    pub(super) fn bytes_of(
        &self,
        space: &Space<'_>,
        structure: &str,
    ) -> Result<Option<u32>, TypesError> {
        let Some(kind) = self.structure(structure) else { return Ok(None) };
        let bytes = self.size(space, kind)?;
        u32::try_from(bytes).map(Some).map_err(|_| TypesError::Rubbish)
    }

    fn structure(&self, name: &str) -> Option<u32> {
        self.named.get(self.words.get(name)?).copied()
    }

    /// Notes where types are, and those with wanted names; a structure rather than another name.
    fn index(&mut self, space: &Space<'_>) -> Result<(), TypesError> {
        let mut stream = space.stream(self.types.clone());
        let mut compound = BTreeMap::new();
        let mut number = 1;
        while stream.at() < self.types.end {
            if number % STEP == 1 {
                self.marks.push(stream.at());
            }
            let head = Head::of(stream.take(12)?, 0);
            if head.name != 0 && self.places.contains(&head.name) {
                match head.kind() {
                    Kind::Compound => _ = compound.entry(head.name).or_insert(number),
                    Kind::Alias => _ = self.named.entry(head.name).or_insert(number),
                    Kind::Pointer | Kind::Array | Kind::Plain | Kind::Other => {}
                }
            }
            stream.skip(head.body_bytes().ok_or(TypesError::Rubbish)?)?;
            number += 1;
        }
        self.named.extend(compound);
        Ok(())
    }

    fn within(
        &self,
        space: &Space<'_>,
        kind: u32,
        word: u32,
        depth: usize,
    ) -> Result<Option<Member>, Fault> {
        let Some(head) = self.resolved(space, kind)? else { return Ok(None) };
        if head.kind() != Kind::Compound || head.count() > MEMBERS || depth > DEPTH {
            return Ok(None);
        }
        let bytes = space.bytes(head.body, usize::from(head.count()) * 12)?;
        for member in bytes.chunks_exact(12) {
            let (name, kind, offset) = (u32_of(member, 0), u32_of(member, 4), u32_of(member, 8));
            let (bit, width) = if head.has_bit_fields() {
                (offset & 0xff_ffff, offset >> 24)
            } else {
                (offset, 0)
            };
            let bit = u64::from(bit);
            if name == word {
                return Ok(Some(Member { kind, bit, width }));
            }
            if name == 0
                && let Some(found) = self.within(space, kind, word, depth + 1)?
            {
                return Ok(Some(Member { bit: bit.saturating_add(found.bit), ..found }));
            }
        }
        Ok(None)
    }

    fn size(&self, space: &Space<'_>, kind: u32) -> Result<u64, Fault> {
        let Some(head) = self.resolved(space, kind)? else { return Ok(0) };
        match head.kind() {
            Kind::Pointer => Ok(8),
            Kind::Compound | Kind::Plain => Ok(u64::from(head.size)),
            Kind::Array => {
                let bytes: [u8; 12] = space.array(head.body)?;
                let (element, count) = (u32_of(&bytes, 0), u32_of(&bytes, 8));
                // An array of arrays is not asked for.
                let element = self.resolved(space, element)?;
                let bytes = element.map_or(0, |head| match head.kind() {
                    Kind::Pointer => 8,
                    Kind::Compound | Kind::Plain => u64::from(head.size),
                    Kind::Array | Kind::Alias | Kind::Other => 0,
                });
                Ok(bytes.saturating_mul(u64::from(count)))
            }
            Kind::Alias | Kind::Other => Ok(0),
        }
    }

    /// The type itself, whatever it is called and however it is qualified.
    fn resolved(&self, space: &Space<'_>, mut kind: u32) -> Result<Option<Head>, Fault> {
        for _ in 0..DEPTH {
            match self.head(space, kind)? {
                Some(head) if head.kind() == Kind::Alias => kind = head.size,
                found => return Ok(found),
            }
        }
        Ok(None)
    }

    fn head(&self, space: &Space<'_>, kind: u32) -> Result<Option<Head>, Fault> {
        let Some(place) = kind.checked_sub(1) else { return Ok(None) };
        let Some(mark) = self.marks.get((place / STEP) as usize) else { return Ok(None) };
        let next = self.marks.get((place / STEP) as usize + 1).copied();
        let mut stream = space.stream(*mark..next.unwrap_or(self.types.end));
        for _ in 0..place % STEP {
            let head = Head::of(stream.take(12)?, 0);
            let Some(bytes) = head.body_bytes() else { return Ok(None) };
            stream.skip(bytes)?;
        }
        let at = stream.at();
        Ok(Some(Head::of(stream.take(12)?, at + 12)))
    }
}

/// Where the wanted words are among the strings, each of which ends with a zero.
fn words(
    space: &Space<'_>,
    strings: Range<u64>,
    wanted: &[&'static str],
) -> Result<BTreeMap<&'static str, u32>, Fault> {
    let wanted: HashMap<&[u8], &'static str> =
        wanted.iter().map(|word| (word.as_bytes(), *word)).collect();
    let mut found = BTreeMap::new();
    let mut stream = space.stream(strings.clone());
    let (mut word, mut start) = (Vec::new(), strings.start);
    while stream.at() < strings.end {
        let byte = stream.byte()?;
        if byte != 0 {
            if word.len() < WORD_BYTES {
                word.push(byte);
            }
            continue;
        }
        if let Some(wanted) = wanted.get(word.as_slice()) {
            let place = u32::try_from(start - strings.start).unwrap_or_default();
            found.entry(*wanted).or_insert(place);
        }
        word.clear();
        start = stream.at();
    }
    Ok(found)
}

impl Head {
    fn of(bytes: &[u8], body: u64) -> Self {
        Self { name: u32_of(bytes, 0), info: u32_of(bytes, 4), size: u32_of(bytes, 8), body }
    }

    fn count(self) -> u16 {
        (self.info & 0xffff) as u16
    }

    fn has_bit_fields(self) -> bool {
        self.info >> 31 != 0
    }

    fn kind(self) -> Kind {
        match self.number() {
            2 => Kind::Pointer,
            3 => Kind::Array,
            4 | 5 => Kind::Compound,
            8..=11 | 18 => Kind::Alias,
            1 | 6 | 15 | 16 | 19 => Kind::Plain,
            _ => Kind::Other,
        }
    }

    /// How many bytes follow the head; `None` for kinds that are not known, behind which nothing can
    /// be read.
    fn body_bytes(self) -> Option<usize> {
        let count = usize::from(self.count());
        Some(match self.number() {
            2 | 7..=12 | 16 | 18 => 0,
            1 | 14 | 17 => 4,
            3 => 12,
            4 | 5 | 15 | 19 => 12 * count,
            6 | 13 => 8 * count,
            _ => return None,
        })
    }

    fn number(self) -> u32 {
        self.info >> 24 & 0x1f
    }
}

fn u32_of(bytes: &[u8], at: usize) -> u32 {
    let word = bytes.get(at..).and_then(<[u8]>::first_chunk);
    u32::from_le_bytes(word.copied().unwrap_or_default())
}
