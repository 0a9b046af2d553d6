//! The arithmetic of chunks: which bytes of a bundle are here, which are missing, and which chunks
//! make no sense. No IO.

use crate::base::id::Digest;
use crate::base::limits;
use crate::pb::v1;
use std::ops::Range;

/// A chunk that carries more was cut by nobody of ours. Four times what is usual leaves room.
const CHUNK_BYTES_MAX: usize = 4 * limits::CHUNK_BYTES;

/// A chunk that carries less costs more to keep than it brings, unless it fills a gap or ends the
/// bundle: it bounds the rows of one transfer to 8192.
const CHUNK_BYTES_MIN: u64 = 1024;

/// Gaps that one answer names; the device sends these and asks again.
const GAPS: usize = 256;

/// What a message on the bundle topic says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Piece {
    /// The sealed bundle.
    pub digest: Digest,
    /// Its size.
    pub total: u64,
    /// Where the data begins.
    pub start: u64,
    /// The bytes; an offer has none.
    pub data: Vec<u8>,
    /// Whether it is of a dump, not of a bundle.
    pub dump: bool,
}

/// Why a chunk makes no sense.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Absurd {
    /// Nothing, or more than is ever taken.
    #[error("a bundle of {total} bytes is not taken: 1 to {max} are", max = limits::BUNDLE_BYTES)]
    Total {
        /// As announced.
        total: u64,
    },
    /// More than a chunk.
    #[error("a chunk of {0} bytes is not taken: {CHUNK_BYTES_MAX} are the most")]
    Large(usize),
    /// Ends behind the end.
    #[error("the chunk at {start} ends behind the {total} bytes that were announced")]
    Beyond {
        /// Where it begins.
        start: u64,
        /// What was announced.
        total: u64,
    },
    /// Too small to be worth keeping.
    #[error(
        "a chunk of {0} bytes in the middle of a bundle is not taken: {CHUNK_BYTES_MIN} are the \
         least"
    )]
    Crumb(u64),
}

/// What is here of a bundle: spans in order, which do not overlap.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Held(Vec<Range<u64>>);

impl Piece {
    /// Reads a message. `None`: it does not even say of which bundle it is, so nobody can be
    /// answered.
    #[must_use]
    pub fn new(chunk: v1::Chunk) -> Option<Self> {
        let digest = Digest::try_from(&*chunk.digest).ok()?;
        let v1::Chunk { total, offset: start, data, dump, .. } = chunk;
        Some(Self { digest, total, start, data, dump })
    }

    /// Whether it only asks what is wanted.
    #[must_use]
    pub fn is_offer(&self) -> bool {
        self.data.is_empty()
    }

    /// Which bytes it carries.
    #[must_use]
    pub fn span(&self) -> Range<u64> {
        self.start..self.start.saturating_add(self.data.len() as u64)
    }

    /// Whether it makes sense by itself.
    ///
    /// # Errors
    ///
    /// Why it does not.
    pub fn check(&self) -> Result<(), Absurd> {
        let total = self.total;
        if !(1..=limits::BUNDLE_BYTES).contains(&total) {
            return Err(Absurd::Total { total });
        }
        self.check_data()
    }

    /// Whether what it carries makes sense, however large the whole may be.
    ///
    /// # Errors
    ///
    /// Why it does not.
    pub fn check_data(&self) -> Result<(), Absurd> {
        let total = self.total;
        if self.data.len() > CHUNK_BYTES_MAX {
            return Err(Absurd::Large(self.data.len()));
        }
        if self.span().end > total {
            return Err(Absurd::Beyond { start: self.start, total });
        }
        Ok(())
    }
}

/// What a piece brings to a file that grows from its beginning and has `len` bytes: the part of its data
/// that continues them.
#[must_use]
pub fn continues(len: u64, piece: &Piece) -> &[u8] {
    let known = len.checked_sub(piece.start).and_then(|known| usize::try_from(known).ok());
    known.and_then(|known| piece.data.get(known..)).unwrap_or_default()
}

/// What is asked for next of such a file: the rest of a slice.
#[must_use]
pub fn next_slice(len: u64, total: u64) -> Range<u64> {
    let end = (len / limits::DUMP_SLICE_BYTES + 1).saturating_mul(limits::DUMP_SLICE_BYTES);
    len..end.min(total)
}

impl Held {
    /// From spans in order.
    #[must_use]
    pub fn new(spans: Vec<Range<u64>>) -> Self {
        debug_assert!(spans.is_sorted_by(|a, b| a.end <= b.start), "spans overlap: {spans:?}");
        Self(spans)
    }

    /// What is missing of `total` bytes, from the beginning, in an answer of bearable size.
    #[must_use]
    pub fn missing(&self, total: u64) -> Vec<Range<u64>> {
        let ends = self.0.iter().map(|span| span.end);
        let starts = self.0.iter().map(|span| span.start).chain([total]);
        std::iter::once(0)
            .chain(ends)
            .zip(starts)
            .filter(|(end, start)| end < start)
            .map(|(end, start)| end..start)
            .take(GAPS)
            .collect()
    }

    /// Those spans that share bytes with `span`.
    pub fn over<'a>(&'a self, span: &'a Range<u64>) -> impl Iterator<Item = &'a Range<u64>> {
        self.0.iter().filter(|held| held.start < span.end && span.start < held.end)
    }

    /// Whether a new chunk is too small to be kept: unless it ends at the end, or where another
    /// begins.
    ///
    /// # Errors
    ///
    /// If it is.
    pub fn check_size(&self, span: &Range<u64>, total: u64) -> Result<(), Absurd> {
        let size = span.end - span.start;
        let fills = span.end == total || self.0.iter().any(|held| held.start == span.end);
        if size < CHUNK_BYTES_MIN && !fills { Err(Absurd::Crumb(size)) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[expect(clippy::single_range_in_vec_init, reason = "a list of one range is meant")]
    #[test]
    fn gaps_are_what_is_not_here() {
        assert_eq!(Held::default().missing(10), [0..10]);
        assert_eq!(Held::new(vec![0..3, 5..7]).missing(10), [3..5, 7..10]);
        assert_eq!(Held::new(vec![2..10]).missing(10), [0..2]);
        assert!(Held::new(vec![0..4, 4..10]).missing(10).is_empty());
    }

    #[test]
    fn absurd_chunks_are_refused_with_a_sentence() {
        let digest = Digest::of(b"x");
        let piece =
            |total, start, size| Piece { digest, total, start, data: vec![0; size], dump: false };
        let refusal = |piece: Piece| piece.check().unwrap_err().to_string();
        assert!(piece(100, 90, 10).check().is_ok());
        insta::assert_snapshot!(refusal(piece(0, 0, 0)), @"a bundle of 0 bytes is not taken: 1 to 8388608 are");
        insta::assert_snapshot!(refusal(piece(u64::MAX, 0, 1)), @"a bundle of 18446744073709551615 bytes is not taken: 1 to 8388608 are");
        insta::assert_snapshot!(refusal(piece(100, 91, 10)), @"the chunk at 91 ends behind the 100 bytes that were announced");
        insta::assert_snapshot!(refusal(piece(100, u64::MAX, 10)), @"the chunk at 18446744073709551615 ends behind the 100 bytes that were announced");
        insta::assert_snapshot!(refusal(piece(1 << 20, 0, CHUNK_BYTES_MAX + 1)), @"a chunk of 131073 bytes is not taken: 131072 are the most");
        let held = Held::new(vec![30..40, 50..60]);
        assert_eq!(held.check_size(&(10..20), 100), Err(Absurd::Crumb(10)));
        assert_eq!(held.check_size(&(40..50), 100), Ok(()));
        assert_eq!(held.check_size(&(90..100), 100), Ok(()));
    }

    proptest! {
        /// Whatever pieces come, cut in any way, twice, out of order or with gaps: what is here is how
        /// the whole begins, and a device that sends what it is asked for comes to its end.
        #[test]
        fn what_continues_makes_the_whole(
            pieces in prop::collection::vec((0_usize..300, 0_usize..120), 0..40),
            size in 1_usize..300,
        ) {
            let whole: Vec<u8> = (0..size).map(|at| (at * 7) as u8 ^ (at >> 8) as u8).collect();
            let piece = |start: usize, end: usize| Piece {
                digest: Digest::of(&whole),
                total: size as u64,
                start: start as u64,
                data: whole.get(start..end.min(size)).unwrap_or_default().to_vec(),
                dump: true,
            };
            let mut here = Vec::new();
            for (start, length) in pieces {
                here.extend_from_slice(continues(here.len() as u64, &piece(start, start + length)));
                prop_assert!(whole.starts_with(&here));
            }
            while here.len() < size {
                let asked = next_slice(here.len() as u64, size as u64);
                prop_assert!(asked.start == here.len() as u64 && !asked.is_empty());
                let end = asked.end.min(asked.start + 50);
                let sent = piece(asked.start as usize, end as usize);
                here.extend_from_slice(continues(here.len() as u64, &sent));
            }
            prop_assert_eq!(here, whole);
        }

        #[test]
        fn slices_tile_a_file_whatever_its_size(total in 1_u64..=u64::MAX, at in 0_u64..u64::MAX) {
            let len = at % total;
            let slice = next_slice(len, total);
            prop_assert!(slice.start == len && len < slice.end && slice.end <= total);
            prop_assert!(slice.end - slice.start <= limits::DUMP_SLICE_BYTES);
            prop_assert!(slice.end == total || slice.end.is_multiple_of(limits::DUMP_SLICE_BYTES));
        }

        #[test]
        fn what_is_here_and_what_is_missing_make_the_whole(cuts in prop::collection::btree_set(0_u64..500, 2..40)) {
            let cuts: Vec<u64> = cuts.into_iter().collect();
            let held: Vec<Range<u64>> = cuts.chunks_exact(2).map(|c| c[0]..c[1]).collect();
            let mut all = held.clone();
            all.extend(Held::new(held).missing(500));
            all.sort_by_key(|span| span.start);
            prop_assert_eq!(all.first().map(|span| span.start), Some(0));
            prop_assert_eq!(all.last().map(|span| span.end), Some(500));
            prop_assert!(all.windows(2).all(|pair| pair[0].end == pair[1].start));
        }
    }
}
