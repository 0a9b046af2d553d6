//! Where kallsyms is in the kernel.
//!
//! The parts follow each other in an order that changed with the years; only the tokens can be told by
//! their look. What is found is believed when it gives a symbol the address that it is known to have,
//! and the kernel's banner its text.
//!
//! ```text
//!   until 6.3   offsets  base  count  names  markers  (seqs)  token_table  token_index
//!   from 6.4    count  names  markers  token_table  token_index  offsets  (base)  seqs
//! ```
//!
//! Each begins at a multiple of 8 bytes, or, where there is no base, of 4. A count of 8 bytes is told by its
//! zeros, which names never hold so many of; one of 4 by the markers, which say how many names there are
//! and where about they begin.

use super::tokens::Tokens;
use super::{BANNER, SymbolsError};
use crate::kernel::memory::Fault;
use crate::kernel::space::{Space, Stream};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};

/// How many symbols a kernel has.
pub(super) const COUNTS: std::ops::RangeInclusive<u32> = 10_000..=1_000_000;

/// How far before the tokens the count is: names of a million symbols, their markers and sequence.
const SEARCHED: u64 = 16 << 20;

/// What is searched at once, and how much of the names is looked at in passing.
const WINDOW: u64 = 256 * 1024;
const GLANCE: u64 = 4 * 1024;
const GLANCED: usize = 48;

/// Numbers that look like a count with names behind it, of which all names are read.
const CANDIDATES: usize = 8;

/// A name, packed.
const NAME_BYTES: u64 = 512;

/// Names between two marks; the kernel's own markers have the same step.
pub(super) const STEP: u32 = 256;

/// How offsets become addresses.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) enum Rule {
    /// Below zero counted down from the base, otherwise the address of something per CPU.
    PercpuAbsolute(u64),
    /// Counted up from the base.
    Relative(u64),
    /// Counted from where the offset itself is.
    FromItself,
}

/// The addresses, one for each name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Offsets {
    /// Where they are.
    pub(super) at: u64,
    /// What they mean.
    pub(super) rule: Rule,
}

/// The names, gone through once.
pub(super) struct Names {
    pub(super) count: u32,
    /// Where every 256th name is, then where they end.
    pub(super) marks: Vec<u64>,
    /// Which of the wanted names there are, by number.
    pub(super) wanted: BTreeMap<&'static str, u32>,
}

/// What may be the count, where it is, and where names follow.
struct Candidate {
    count: u32,
    at: u64,
    names: u64,
}

/// Where every 256th name is, counted from the first; they follow the names.
struct Markers {
    count: u32,
    last: u32,
    at: u64,
}

/// Finds it, if it is there and gives the `known` symbols their addresses.
pub(super) fn locate(
    space: &Space<'_>,
    tokens: &Tokens,
    wanted: &HashMap<&[u8], &'static str>,
    known: &[(&'static str, u64)],
) -> Result<Option<(Names, Offsets)>, SymbolsError> {
    let mut end = tokens.at.start / 8 * 8;
    let first = end.saturating_sub(SEARCHED).max(space.image().at.start);
    let markers = Markers::before(space, tokens)?;
    let mut tried = 0;
    let mut has_functions_alone = false;
    while end > first && tried < CANDIDATES {
        let start = end.saturating_sub(WINDOW).max(first);
        // Before the start of RAM there is no kernel.
        let bytes = match space.bytes(start, (end - start + GLANCE) as usize) {
            Ok(bytes) => bytes,
            Err(Fault::Spent) => return Err(Fault::Spent.into()),
            Err(_) => break,
        };
        for Candidate { count, at, names } in candidates(tokens, markers.as_ref(), start, &bytes) {
            tried += 1;
            let names = Names::read(space, tokens, (names, count), wanted)?;
            let Some(names) = names else { continue };
            has_functions_alone |= !names.wanted.contains_key(BANNER);
            let mut layouts = layouts(space, tokens, at, count).into_iter();
            if let Some(offsets) = layouts.find(|offsets| offsets.are_right(space, &names, known)) {
                return Ok(Some((names, offsets)));
            }
        }
        end = start;
    }
    if has_functions_alone { Err(SymbolsError::Missing(BANNER)) } else { Ok(None) }
}

/// Counts in a window that have names behind them, the nearest to the tokens first.
fn candidates(
    tokens: &Tokens,
    markers: Option<&Markers>,
    start: u64,
    bytes: &[u8],
) -> Vec<Candidate> {
    let window = bytes.len().saturating_sub(GLANCE as usize);
    let word = |place: usize| {
        u32::from_le_bytes(bytes[place..].first_chunk().copied().unwrap_or_default())
    };
    let found = (0..window).step_by(4).rev().filter_map(|place| {
        let count = word(place);
        let is_long = place % 8 == 0 && word(place + 4) == 0;
        let behind = if is_long { 8 } else { 4 };
        let at = start + place as u64;
        let names = at + behind as u64;
        let fits = COUNTS.contains(&count)
            && room(tokens, names, count)
            && (is_long || markers.is_some_and(|markers| markers.fit(names, count)));
        (fits && glance(&bytes[place + behind..], tokens)).then_some(Candidate { count, at, names })
    });
    found.take(CANDIDATES).collect()
}

impl Markers {
    /// Those right before the tokens, if there are.
    fn before(space: &Space<'_>, tokens: &Tokens) -> Result<Option<Self>, Fault> {
        const MOST: u64 = (*COUNTS.end()).div_ceil(STEP) as u64 * 4;
        let bytes = match space.bytes(tokens.at.start.saturating_sub(MOST), MOST as usize) {
            Err(Fault::Spent) => return Err(Fault::Spent),
            bytes => bytes.unwrap_or_default(),
        };
        let mut words = bytes
            .rchunks_exact(4)
            .map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]));
        let Some(last) = words.next() else { return Ok(None) };
        let (mut count, mut next) = (1, last);
        for word in words {
            if next == 0 {
                break;
            }
            if word >= next {
                return Ok(None);
            }
            (count, next) = (count + 1, word);
        }
        let at = tokens.at.start.saturating_sub(u64::from(count) * 4);
        Ok((next == 0).then_some(Self { count, last, at }))
    }

    /// Whether so many names that begin there may be theirs: the last block of names ends before them.
    fn fit(&self, names: u64, count: u32) -> bool {
        let block = self.at.checked_sub(names.saturating_add(u64::from(self.last)));
        count.div_ceil(STEP) == self.count
            && block.is_some_and(|bytes| bytes < u64::from(STEP) * NAME_BYTES)
    }
}

/// A name takes two bytes at least.
fn room(tokens: &Tokens, names: u64, count: u32) -> bool {
    tokens.at.start.checked_sub(names).is_some_and(|room| room / 2 > u64::from(count))
}

fn glance(bytes: &[u8], tokens: &Tokens) -> bool {
    let mut at = 0;
    for _ in 0..GLANCED {
        let Some(length) = bytes.get(at).map(|byte| usize::from(*byte)) else { return false };
        // The first names are no longer than 127 pieces.
        let begins = bytes.get(at + 1).is_some_and(|token| tokens.begins(*token));
        if length == 0 || length >= 0x80 || !begins {
            return false;
        }
        at += 1 + length;
    }
    true
}

/// Where offsets may be, and how they may count.
fn layouts(space: &Space<'_>, tokens: &Tokens, count_at: u64, count: u32) -> Vec<Offsets> {
    let bytes = (u64::from(count) * 4).next_multiple_of(8);
    let before = (count_at / 8 * 8).wrapping_sub(8);
    let behind = tokens.at.end.next_multiple_of(8);
    let places = [(before.wrapping_sub(bytes), before), (behind, behind.wrapping_add(bytes))];
    let mut layouts = vec![Offsets { at: tokens.at.end, rule: Rule::FromItself }];
    for (at, base_at) in places {
        let base = space.u64(base_at).ok();
        let from_base = base.map(|base| [Rule::PercpuAbsolute(base), Rule::Relative(base)]);
        let rules = from_base.into_iter().flatten().chain([Rule::FromItself]);
        layouts.extend(rules.map(|rule| Offsets { at, rule }));
    }
    layouts
}

impl Names {
    /// Goes through all names once; nothing is there unless all look like names and end in time.
    fn read(
        space: &Space<'_>,
        tokens: &Tokens,
        (at, count): (u64, u32),
        wanted: &HashMap<&[u8], &'static str>,
    ) -> Result<Option<Self>, Fault> {
        let mut names = Self { count, marks: Vec::new(), wanted: BTreeMap::new() };
        let mut stream = space.stream(at..tokens.at.start);
        let (mut packed, mut name) = (Vec::new(), Vec::new());
        for number in 0..count {
            if number % STEP == 0 {
                names.marks.push(stream.at());
            }
            match next(&mut stream, &mut packed) {
                Ok(()) => {}
                Err(Fault::Spent) => return Err(Fault::Spent),
                Err(_) => return Ok(None),
            }
            if !packed.first().is_some_and(|token| tokens.begins(*token)) {
                return Ok(None);
            }
            tokens.unpack(&packed, &mut name);
            if let Some(wanted) = wanted.get(name.as_slice()) {
                names.wanted.entry(wanted).or_insert(number);
            }
        }
        names.marks.push(stream.at());
        Ok(Some(names))
    }
}

/// The next name, packed. Longer ones than 127 pieces have their length in two bytes.
pub(super) fn next(stream: &mut Stream<'_, '_>, packed: &mut Vec<u8>) -> Result<(), Fault> {
    let mut length = usize::from(stream.byte()?);
    if length & 0x80 != 0 {
        length = length & 0x7f | usize::from(stream.byte()?) << 7;
    }
    packed.clear();
    packed.extend_from_slice(stream.take(length)?);
    Ok(())
}

impl Rule {
    /// The same in a kernel that lies further by so much.
    pub(super) fn moved(self, by: u64) -> Self {
        match self {
            Self::PercpuAbsolute(base) => Self::PercpuAbsolute(base.wrapping_add(by)),
            Self::Relative(base) => Self::Relative(base.wrapping_add(by)),
            Self::FromItself => Self::FromItself,
        }
    }

    /// The address of the symbol whose offset, which stands at `at`, is this.
    pub(super) fn address(self, at: u64, offset: i32) -> u64 {
        let signed = i64::from(offset) as u64;
        match self {
            Self::PercpuAbsolute(base) if offset < 0 => base.wrapping_sub(1).wrapping_sub(signed),
            Self::PercpuAbsolute(_) => signed,
            Self::Relative(base) => base.wrapping_add(u64::from(offset as u32)),
            Self::FromItself => at.wrapping_add(signed),
        }
    }
}

impl Offsets {
    /// The address of a symbol, by its number.
    pub(super) fn address(self, space: &Space<'_>, number: u32) -> Result<u64, Fault> {
        let at = self.at.wrapping_add(u64::from(number) * 4);
        Ok(self.rule.address(at, space.u32(at)?.cast_signed()))
    }

    pub(super) fn are_right(
        self,
        space: &Space<'_>,
        names: &Names,
        known: &[(&'static str, u64)],
    ) -> bool {
        let address = |name| Some(self.address(space, *names.wanted.get(name)?).ok());
        let mut agree = known.iter().filter_map(|(name, at)| Some(address(*name)? == Some(*at)));
        let banner = address(BANNER).flatten();
        let begins = banner.and_then(|at| space.array(at).ok());
        agree.next() == Some(true)
            && agree.all(|agrees| agrees)
            && begins == Some(*b"Linux version ")
    }
}
