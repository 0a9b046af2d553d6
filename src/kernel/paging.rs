//! Page tables: tables of words, each of which leads to the next table or to a piece of RAM.
//!
//! What architectures differ in is their [`Form`]: how large pages are, how many tables lead to one, and
//! what the bits of an entry mean.

use super::memory::{Fault, Reader};
use std::cell::RefCell;

/// Slices whose translation is remembered: those of a guest's working set.
const REMEMBERED: usize = 1024;

/// No architecture has longer physical addresses, and every root is at a multiple of 4 KiB.
const ROOT: u64 = 0x000f_ffff_ffff_f000;

/// Page tables that begin at a root.
pub(crate) struct Paging {
    root: u64,
    form: Form,
    /// By slice. The last level is never remembered: the kernel maps stacks anew all the time.
    slices: RefCell<Vec<Option<(u64, Slice)>>>,
}

/// How an architecture, as it is set up, lays out its tables.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Form {
    /// Pages have 2 to the power of this many bytes; a table is as large as a page.
    pub(crate) page_bits: u32,
    /// How many tables lead to a page.
    pub(crate) levels: u32,
    /// Lowest bits of an address that tables translate. All others are one.
    pub(crate) address_bits: u32,
    /// Whether the same tables translate addresses whose other bits are zero. Each half of them then
    /// has its half of the root.
    pub(crate) has_low_half: bool,
    /// What an entry of a table at a level means; level 1 leads to pages.
    pub(crate) entry: fn(u64, u32) -> Entry,
}

/// What an entry leads to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Entry {
    Nothing,
    /// The next table.
    Table(u64),
    /// All that this entry is about, in one piece.
    Piece(u64),
}

/// What the addresses of one table of the last level lead to.
#[derive(Clone, Copy)]
enum Slice {
    Piece(u64),
    Table(u64),
}

impl Paging {
    pub(crate) fn new(root: u64, form: Form) -> Self {
        Self { root: root & ROOT, form, slices: RefCell::new(vec![None; REMEMBERED]) }
    }

    /// Tables of the same form with another root.
    pub(crate) fn with_root(&self, root: u64) -> Self {
        Self::new(root, self.form)
    }

    /// Where an address is in RAM, and how much follows in one piece.
    pub(crate) fn physical(&self, reader: &Reader<'_>, at: u64) -> Result<(u64, u64), Fault> {
        let (start, bytes) = match self.slice(reader, at)? {
            Slice::Piece(start) => (start, self.form.piece(2)),
            Slice::Table(table) => match self.entry(reader, table, at, 1)? {
                Entry::Piece(start) => (start, self.form.piece(1)),
                Entry::Table(_) | Entry::Nothing => return Err(Fault::NotMapped(at)),
            },
        };
        Ok((start + at % bytes, bytes - at % bytes))
    }

    fn slice(&self, reader: &Reader<'_>, at: u64) -> Result<Slice, Fault> {
        let key = at / self.form.piece(2);
        let place = usize::try_from(key).unwrap_or_default() % REMEMBERED;
        if let Some((_, slice)) = self.slices.borrow()[place].filter(|(known, _)| *known == key) {
            return Ok(slice);
        }
        let slice = self.walk(reader, at)?;
        self.slices.borrow_mut()[place] = Some((key, slice));
        Ok(slice)
    }

    fn walk(&self, reader: &Reader<'_>, at: u64) -> Result<Slice, Fault> {
        if !self.form.translates(at) {
            return Err(Fault::NotMapped(at));
        }
        let mut table = self.root;
        for level in (2..=self.form.levels).rev() {
            match self.entry(reader, table, at, level)? {
                Entry::Nothing => return Err(Fault::NotMapped(at)),
                Entry::Table(next) => table = next,
                Entry::Piece(start) => {
                    let slice = self.form.piece(2);
                    return Ok(Slice::Piece(start + at % self.form.piece(level) / slice * slice));
                }
            }
        }
        Ok(Slice::Table(table))
    }

    /// An entry, whose address is aligned as what it leads to.
    fn entry(&self, reader: &Reader<'_>, table: u64, at: u64, level: u32) -> Result<Entry, Fault> {
        let word = reader.u64(table + self.form.index(at, level) * 8)?;
        let aligned = |address: u64, level| address & !(self.form.piece(level) - 1);
        Ok(match (self.form.entry)(word, level) {
            Entry::Nothing => Entry::Nothing,
            Entry::Table(next) => Entry::Table(aligned(next, 1)),
            Entry::Piece(start) => Entry::Piece(aligned(start, level)),
        })
    }
}

impl Form {
    /// How many bytes an entry at a level is about.
    pub(crate) fn piece(&self, level: u32) -> u64 {
        1 << self.shift(level)
    }

    fn shift(&self, level: u32) -> u32 {
        self.page_bits + (self.page_bits - 3) * (level - 1)
    }

    /// Which entry of a table an address chooses. The root may have fewer than the others.
    pub(crate) fn index(&self, at: u64, level: u32) -> u64 {
        let end = if level == self.levels { self.address_bits } else { self.shift(level + 1) };
        let shift = self.shift(level);
        at >> shift & ((1 << (end - shift)) - 1)
    }

    fn translates(&self, at: u64) -> bool {
        let rest = at.cast_signed() >> (self.address_bits - u32::from(self.has_low_half));
        rest == -1 || self.has_low_half && rest == 0
    }
}
