//! What the kernel's functions and variables are called: its own table for `kallsyms`.
//!
//! The table is some 5 MB and is not kept: one pass notes where every 256th name is, and which number
//! the names have that are wanted. From then on a question reads the one block that it is about. What
//! that pass found is the same for as long as the kernel is the same build: its [`Places`].

mod locate;
mod tokens;

use super::memory::Fault;
use super::space::Space;
use locate::{COUNTS, Names, Offsets, Rule, STEP};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use tokens::Tokens;

/// What the kernel says of itself at boot.
const BANNER: &str = "linux_banner";

/// Why there are no symbols.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SymbolsError {
    /// Nothing looks like a table of names.
    #[error("the kernel carries no names of its functions (CONFIG_KALLSYMS)")]
    NoTokens,
    /// There is one, but it gives known symbols other addresses.
    #[error("the names of the kernel's functions are laid out in a way that is not known")]
    Unknown,
    /// It carries names of functions alone.
    #[error("the kernel does not tell where `{0}` is (CONFIG_KALLSYMS_ALL)")]
    Missing(&'static str),
    /// It cannot be read.
    #[error("failed to read the names of the kernel's functions")]
    Fault(#[from] Fault),
}

/// A place in the kernel, with a name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Symbol {
    pub(super) name: String,
    pub(super) start: u64,
    /// Where the next one begins.
    pub(super) end: u64,
}

/// Symbols that were asked for before, by address.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen(RefCell<BTreeMap<u64, Symbol>>);

/// The kernel's symbols.
pub(super) struct Symbols {
    tokens: Tokens,
    names: Names,
    offsets: Offsets,
    /// The addresses of every 256th symbol. They are sorted.
    firsts: Vec<u64>,
    wanted: BTreeMap<&'static str, u64>,
    seen: Seen,
}

/// Where the table is and what it has, counted from the kernel's start, wherever that is.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Places {
    tokens: u64,
    count: u32,
    marks: Vec<u64>,
    offsets: u64,
    rule: Rule,
    /// The numbers of all names that were wanted; nothing where there is no such name.
    numbers: BTreeMap<String, Option<u32>>,
    /// Where those are by which a kernel is found.
    known: BTreeMap<String, u64>,
}

impl Seen {
    /// The symbol that an address belongs to, searched where it was not seen yet.
    pub(super) fn or(
        &self,
        address: u64,
        search: impl FnOnce() -> Result<Option<Symbol>, Fault>,
    ) -> Result<Option<Symbol>, Fault> {
        if let Some((_, symbol)) = self.0.borrow().range(..=address).next_back()
            && address < symbol.end
        {
            return Ok(Some(symbol.clone()));
        }
        let found = search()?;
        if let Some(symbol) = &found {
            self.0.borrow_mut().insert(symbol.start, symbol.clone());
        }
        Ok(found)
    }
}

impl Places {
    /// The names of a kernel that starts at `start`; nothing unless all that are `wanted` now were
    /// wanted then, and the rest could be.
    fn names(&self, start: u64, wanted: &[&'static str]) -> Option<Names> {
        let is_sane = COUNTS.contains(&self.count)
            && self.marks.len() == self.count.div_ceil(STEP) as usize + 1;
        let mut numbers = BTreeMap::new();
        for name in wanted.iter().chain(&[BANNER]) {
            if let Some(number) = self.numbers.get(*name)? {
                numbers.insert(*name, *number);
            }
        }
        let marks = self.marks.iter().map(|mark| mark.wrapping_add(start)).collect();
        is_sane.then_some(Names { count: self.count, marks, wanted: numbers })
    }
}

impl Symbols {
    /// Finds them behind an address in the kernel's text. `known` are symbols whose addresses are
    /// known from elsewhere, by which the table is checked.
    pub(super) fn find(
        space: &Space<'_>,
        text: u64,
        known: &[(&'static str, u64)],
        wanted: &[&'static str],
    ) -> Result<Self, SymbolsError> {
        let tokens = Tokens::find(space, text)?.ok_or(SymbolsError::NoTokens)?;
        let names = known.iter().map(|(name, _)| *name).chain([BANNER]);
        let names = names.chain(wanted.iter().copied()).map(|name| (name.as_bytes(), name));
        let names: HashMap<&[u8], &'static str> = names.collect();
        let found = locate::locate(space, &tokens, &names, known)?;
        let (names, offsets) = found.ok_or(SymbolsError::Unknown)?;
        Ok(Self::of_table(space, tokens, names, offsets)?)
    }

    /// Finds them where they were in a kernel of the same build. Nothing is there unless the table
    /// agrees with what is `known` as at first, and has the `wanted` names where it had them.
    pub(super) fn again(
        space: &Space<'_>,
        places: &Places,
        known: &[(&'static str, u64)],
        wanted: &[&'static str],
    ) -> Option<Self> {
        let start =
            known.iter().find_map(|(name, at)| Some(at.wrapping_sub(*places.known.get(*name)?)))?;
        let names = places.names(start, wanted)?;
        let tokens = Tokens::at(space, places.tokens.wrapping_add(start)).ok()??;
        let at = places.offsets.wrapping_add(start);
        let offsets = Offsets { at, rule: places.rule.moved(start) };
        if !offsets.are_right(space, &names, known) {
            return None;
        }
        let symbols = Self::of_table(space, tokens, names, offsets).ok()?;
        let mut numbers = symbols.names.wanted.iter();
        let is_named = |(name, number): (&&str, &u32)| {
            symbols.name(space, *number).is_ok_and(|is| is.as_deref() == Some(*name))
        };
        numbers.all(is_named).then_some(symbols)
    }

    fn of_table(
        space: &Space<'_>,
        tokens: Tokens,
        names: Names,
        offsets: Offsets,
    ) -> Result<Self, Fault> {
        let mut firsts = Vec::new();
        for number in (0..names.count).step_by(STEP as usize) {
            firsts.push(offsets.address(space, number)?);
        }
        let mut wanted = BTreeMap::new();
        for (name, number) in &names.wanted {
            wanted.insert(*name, offsets.address(space, *number)?);
        }
        Ok(Self { tokens, names, offsets, firsts, wanted, seen: Seen::default() })
    }

    /// Where all of it is in a kernel that starts at `start`, for [`Symbols::again`].
    pub(super) fn places(
        &self,
        start: u64,
        known: &[&'static str],
        wanted: &[&'static str],
    ) -> Places {
        let from_start = |at: u64| at.wrapping_sub(start);
        let number = |name: &&str| ((*name).to_owned(), self.names.wanted.get(*name).copied());
        let place = |name: &&str| Some(((*name).to_owned(), from_start(self.maybe(name)?)));
        Places {
            tokens: from_start(self.tokens.at.start),
            count: self.names.count,
            marks: self.names.marks.iter().copied().map(from_start).collect(),
            offsets: from_start(self.offsets.at),
            rule: self.offsets.rule.moved(start.wrapping_neg()),
            numbers: wanted.iter().chain(&[BANNER]).map(number).collect(),
            known: known.iter().filter_map(place).collect(),
        }
    }

    /// The address of one of the wanted symbols.
    pub(super) fn maybe(&self, name: &str) -> Option<u64> {
        self.wanted.get(name).copied()
    }

    /// The address of one of the wanted symbols without which nothing goes on.
    pub(super) fn must(&self, name: &'static str) -> Result<u64, SymbolsError> {
        self.maybe(name).ok_or(SymbolsError::Missing(name))
    }

    /// The symbol that an address belongs to. Of several at one place it is the first, as the kernel
    /// itself has it.
    pub(super) fn at(&self, space: &Space<'_>, address: u64) -> Result<Option<Symbol>, Fault> {
        self.seen.or(address, || self.search(space, address))
    }

    fn search(&self, space: &Space<'_>, address: u64) -> Result<Option<Symbol>, Fault> {
        // Behind all that are before it, so that the first of several at one place is seen.
        let block = self.firsts.partition_point(|first| *first < address).saturating_sub(1);
        let step = STEP as usize;
        let first = u32::try_from(block * step).unwrap_or(u32::MAX);
        let left = self.names.count.saturating_sub(first).min(2 * STEP);
        let at = self.offsets.at.wrapping_add(u64::from(first) * 4);
        let bytes = space.bytes(at, left as usize * 4)?;
        let offsets = bytes
            .chunks_exact(4)
            .map(|word| i32::from_le_bytes([word[0], word[1], word[2], word[3]]));
        let places = (0_u64..).map(|number| at.wrapping_add(number * 4));
        let addresses: Vec<u64> =
            places.zip(offsets).map(|(at, offset)| self.offsets.rule.address(at, offset)).collect();
        let Some(start) = addresses.iter().copied().filter(|start| *start <= address).max() else {
            return Ok(None);
        };
        let end = addresses.iter().copied().filter(|end| *end > start).min();
        let (Some(number), Some(end)) = (addresses.iter().position(|it| *it == start), end) else {
            return Ok(None);
        };
        let name =
            self.name(space, first.saturating_add(u32::try_from(number).unwrap_or_default()))?;
        Ok(name.map(|name| Symbol { name, start, end }))
    }

    fn name(&self, space: &Space<'_>, number: u32) -> Result<Option<String>, Fault> {
        let block = (number / STEP) as usize;
        let marks = &self.names.marks;
        let (Some(start), Some(end)) = (marks.get(block), marks.get(block + 1)) else {
            return Ok(None);
        };
        let mut stream = space.stream(*start..*end);
        let (mut packed, mut name) = (Vec::new(), Vec::new());
        for _ in 0..=number % STEP {
            locate::next(&mut stream, &mut packed)?;
        }
        self.tokens.unpack(&packed, &mut name);
        Ok(String::from_utf8(name).ok())
    }
}

#[cfg(test)]
pub(super) mod tests;
