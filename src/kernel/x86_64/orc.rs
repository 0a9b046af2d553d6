//! ORC: the kernel's own table of how to get from a place in the code to its caller.
//!
//! Two sorted arrays, one of places (relative to themselves) and one of what holds from that place on.
//! Which bits mean what is among the kernel's types; which number means which register is not, and
//! changed in 7.x: it is learnt from the first instruction of `__switch_to_asm`, where the caller's
//! frame is at the stack pointer for certain.

use crate::kernel::memory::Fault;
use crate::kernel::space::Space;
use crate::kernel::types::layout::{self, View};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;

/// What an entry takes.
const ENTRY: u64 = 6;

/// Where the search goes on in what was read at once.
const BLOCK: u64 = 128;

/// Entries of a kernel: there are some 500,000.
const ENTRIES: u64 = 1 << 23;

/// Where the stack of the caller is found from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Base {
    Undefined,
    /// The stack pointer of the caller, which is known by then.
    Previous,
    Sp,
    SpIndirect,
    Bp,
    BpIndirect,
    R10,
    R13,
    Dx,
    Di,
}

/// What lies on the stack.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Shape {
    /// Nothing is known.
    Undefined,
    /// Nothing: this is where it all began.
    End,
    /// A return address.
    Call,
    /// All registers, after an interrupt or a system call.
    Registers,
    /// The five that the CPU itself stores.
    Interrupt,
}

/// How to get to the caller.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Entry {
    pub(super) sp_offset: i64,
    pub(super) sp: Base,
    pub(super) bp_offset: i64,
    pub(super) bp: Base,
    pub(super) shape: Shape,
    /// Whether the place is an instruction that was not finished, rather than where a call returns to.
    /// Early kernels do not say.
    pub(super) signal: Option<bool>,
}

/// A table of a kernel or of a module.
#[derive(Clone, Debug)]
pub(in crate::kernel) struct Table {
    /// The code that it is about.
    pub(in crate::kernel) code: Vec<Range<u64>>,
    pub(in crate::kernel) places: u64,
    pub(in crate::kernel) entries: u64,
    pub(in crate::kernel) count: u64,
}

/// All tables.
pub(in crate::kernel) struct Orc {
    layout: layout::OrcEntry,
    registers: Registers,
    tables: Vec<Table>,
    seen: RefCell<HashMap<u64, Option<Entry>>>,
}

/// What the numbers of registers mean.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Registers {
    Since4_14,
    Since7_0,
}

impl Orc {
    /// The tables, if their form is known. `first` is where `__switch_to_asm` begins.
    pub(in crate::kernel) fn new(
        space: &Space<'_>,
        layout: layout::OrcEntry,
        tables: Vec<Table>,
        first: u64,
    ) -> Result<Option<Self>, Fault> {
        let registers = Registers::Since4_14;
        let seen = RefCell::default();
        let mut orc = Self { layout, registers, tables, seen };
        let Some(bytes) = orc.bytes(space, first)? else { return Ok(None) };
        let Some(number) = layout.sp_reg.map(|field| View::of(&bytes).word(field)) else {
            return Ok(None);
        };
        orc.registers = match number {
            5 => Registers::Since4_14,
            3 => Registers::Since7_0,
            _ => return Ok(None),
        };
        Ok(Some(orc))
    }

    /// What holds at a place.
    pub(super) fn at(&self, space: &Space<'_>, place: u64) -> Result<Option<Entry>, Fault> {
        if let Some(entry) = self.seen.borrow().get(&place) {
            return Ok(*entry);
        }
        let bytes = self.bytes(space, place)?;
        let entry = bytes.and_then(|bytes| self.entry(&View::of(&bytes)));
        self.seen.borrow_mut().insert(place, entry);
        Ok(entry)
    }

    fn bytes(&self, space: &Space<'_>, place: u64) -> Result<Option<[u8; ENTRY as usize]>, Fault> {
        let is_in = |table: &&Table| table.code.iter().any(|code| code.contains(&place));
        let Some(table) = self.tables.iter().find(is_in) else { return Ok(None) };
        let Some(number) = table.search(space, place)? else { return Ok(None) };
        space.array(table.entries.wrapping_add(number * ENTRY)).map(Some)
    }

    fn entry(&self, view: &View<'_>) -> Option<Entry> {
        let layout = &self.layout;
        let word = |field: Option<layout::Field>| field.map(|field| view.word(field));
        let offset = |field| word(field).map(|word| i64::from((word as u16).cast_signed()));
        let sp = self.registers.base(word(layout.sp_reg)?)?;
        let kind = layout.kind?;
        let shape = match (kind.bits.map(|(_, bits)| bits), view.word(kind)) {
            (Some(3), number) => {
                [Shape::Undefined, Shape::End, Shape::Call, Shape::Registers, Shape::Interrupt]
                    .get(usize::try_from(number).ok()?)
                    .copied()?
            }
            // Before 6.4 there were two bits, and one more for the end.
            _ if sp == Base::Undefined && word(layout.end) == Some(1) => Shape::End,
            _ if sp == Base::Undefined => Shape::Undefined,
            (_, number) => [Shape::Call, Shape::Registers, Shape::Interrupt]
                .get(usize::try_from(number).ok()?)
                .copied()?,
        };
        Some(Entry {
            sp_offset: offset(layout.sp_offset)?,
            sp,
            bp_offset: offset(layout.bp_offset)?,
            bp: self.registers.base(word(layout.bp_reg)?)?,
            shape,
            signal: word(layout.signal).map(|bit| bit == 1),
        })
    }
}

impl Table {
    /// The last entry at or before a place.
    fn search(&self, space: &Space<'_>, place: u64) -> Result<Option<u64>, Fault> {
        let (mut first, mut last) = (0, self.count.min(ENTRIES));
        let at = |number: u64| self.places.wrapping_add(number * 4);
        let value =
            |at: u64, word: [u8; 4]| at.wrapping_add(i64::from(i32::from_le_bytes(word)) as u64);
        while last - first > BLOCK {
            let middle = first + (last - first) / 2;
            match value(at(middle), space.array(at(middle))?) <= place {
                true => first = middle,
                false => last = middle,
            }
        }
        let block = space.bytes(at(first), (last - first) as usize * 4)?;
        let words = block.chunks_exact(4).map(|word| [word[0], word[1], word[2], word[3]]);
        let before =
            (first..).zip(words).take_while(|(number, word)| value(at(*number), *word) <= place);
        Ok(before.last().map(|(number, _)| number))
    }
}

impl Registers {
    fn base(self, number: u64) -> Option<Base> {
        let bases = match self {
            Self::Since4_14 => [
                Base::Undefined,
                Base::Previous,
                Base::Dx,
                Base::Di,
                Base::Bp,
                Base::Sp,
                Base::R10,
                Base::R13,
                Base::BpIndirect,
                Base::SpIndirect,
                Base::Undefined,
            ],
            Self::Since7_0 => [
                Base::Undefined,
                Base::Undefined,
                Base::Dx,
                Base::Sp,
                Base::Bp,
                Base::Di,
                Base::R10,
                Base::R13,
                Base::Previous,
                Base::SpIndirect,
                Base::BpIndirect,
            ],
        };
        bases.get(usize::try_from(number).ok()?).copied()
    }
}
