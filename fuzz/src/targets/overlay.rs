//! A guest's memory with what a hostile kernel wrote into it, perhaps while it is read.
//!
//! ```text
//!   byte   0      1 .. 3    4 .. 11
//!        kind     place     what           a piece of 12 bytes is one edit
//!   kind: the lowest two bits say what it is, the next five after how many reads it is made
//! ```
//!
//! Edits rather than whole tables, for a table with one lie in it gets further than rubbish does.

use lifesign::kernel::memory::{Fault, Memory};
use std::cell::Cell;
use std::ops::Range;

/// One edit in the fuzzer's bytes.
const EDIT: usize = 12;

/// More make a guest no more hostile, but reads slower.
const EDITS: usize = 64;

/// The bytes of an edit and where they stand.
#[derive(Clone, Debug)]
struct Edit {
    place: usize,
    bytes: Vec<u8>,
    /// Reads before it is made.
    after: u64,
}

/// All edits of an input.
#[derive(Clone, Debug, Default)]
pub(super) struct Edits(Vec<Edit>);

impl Edits {
    /// Reads them, over what stands in those `places` of `base`; `pointer` makes an address of a place.
    pub(super) fn read(
        input: &[u8],
        base: &[u8],
        places: &[Range<usize>],
        pointer: fn(u64) -> u64,
    ) -> Self {
        let edits = input.chunks_exact(EDIT).take(EDITS);
        Self(edits.map(|edit| Edit::read(edit, base, places, pointer)).collect())
    }

    /// Makes all of them.
    pub(super) fn apply(&self, to: &mut [u8]) {
        self.0.iter().for_each(|edit| edit.apply(0, to));
    }
}

impl Edit {
    fn read(bytes: &[u8], base: &[u8], places: &[Range<usize>], pointer: fn(u64) -> u64) -> Self {
        let word = |from: usize| {
            u64::from_le_bytes(bytes[from..][..8].try_into().expect("as many as were asked for"))
        };
        let (kind, place, what) = (bytes[0], word(1) & 0xff_ffff, word(4));
        let place = of(places, place);
        let source = of(places, what & 0xff_ffff);
        let (place, bytes) = match kind & 3 {
            0 => (place, what.to_le_bytes().to_vec()),
            1 => (place & !7, pointer(source as u64 & !7).to_le_bytes().to_vec()),
            2 => {
                let end = base.len().min(source + 1 + (what >> 24) as usize % 128);
                (place, base[source..end].to_vec())
            }
            _ => (place, vec![what as u8; 1 + (what >> 8) as usize % 64]),
        };
        let after = u64::from(kind >> 2 & 0x1f);
        Self { place, bytes, after: after * after * 8 }
    }

    /// Makes it in what was read from `at` on.
    fn apply(&self, at: usize, into: &mut [u8]) {
        let from = self.place.max(at);
        let to = (self.place + self.bytes.len()).min(at + into.len());
        if from < to {
            into[from - at..to - at]
                .copy_from_slice(&self.bytes[from - self.place..to - self.place]);
        }
    }
}

/// A place in one of the ranges.
fn of(places: &[Range<usize>], number: u64) -> usize {
    let all: usize = places.iter().map(Range::len).sum();
    let mut left = number as usize % all.max(1);
    for range in places {
        if left < range.len() {
            return range.start + left;
        }
        left -= range.len();
    }
    0
}

/// RAM from one address on, with edits; counts for itself what is read.
pub(super) struct Overlay<'a> {
    at: u64,
    base: &'a [u8],
    edits: Edits,
    reads: Cell<u64>,
    bytes: Cell<u64>,
}

impl<'a> Overlay<'a> {
    /// RAM that begins at `at`.
    pub(super) fn new(at: u64, base: &'a [u8], edits: Edits) -> Self {
        Self { at, base, edits, reads: Cell::new(0), bytes: Cell::new(0) }
    }

    /// How often it was read, and how much.
    pub(super) fn spent(&self) -> (u64, u64) {
        (self.reads.get(), self.bytes.get())
    }
}

impl Memory for Overlay<'_> {
    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Fault> {
        self.reads.set(self.reads.get() + 1);
        self.bytes.set(self.bytes.get() + into.len() as u64);
        let missing = Fault::NoRam(at);
        let place =
            usize::try_from(at.checked_sub(self.at).ok_or(missing)?).map_err(|_| missing)?;
        let end = place.checked_add(into.len()).ok_or(missing)?;
        into.copy_from_slice(self.base.get(place..end).ok_or(missing)?);
        let due = self.edits.0.iter().filter(|edit| edit.after < self.reads.get());
        due.for_each(|edit| edit.apply(place, into));
        Ok(())
    }

    fn ranges(&self) -> Vec<Range<u64>> {
        std::iter::once(self.at..self.at + self.base.len() as u64).collect()
    }
}
