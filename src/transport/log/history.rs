//! What one guest said, as far as it is kept: how it began, and the most recent part.
//!
//! ```text
//!   offset  0          first.len()           end - recent.len()        end
//!           |  first   |      forgotten       |        recent          |
//! ```
//!
//! Offsets count all bytes ever said, so that two looks can be laid beside each other. Where lines
//! were missed nobody knows how much it was: the offset skips one, and what was said before is no
//! longer recent.
//!
//! Pure: bytes in, bytes out.

use super::Piece;
use crate::base::limits;
use std::collections::VecDeque;

/// One guest's.
#[derive(Clone, Debug, Default)]
pub struct History {
    first: Vec<u8>,
    recent: VecDeque<u8>,
    end: u64,
}

impl History {
    /// It said this.
    pub fn hear(&mut self, bytes: &[u8]) {
        if self.end == self.first.len() as u64 {
            let room = limits::LOG_FIRST_BYTES.saturating_sub(self.first.len()).min(bytes.len());
            self.first.extend_from_slice(&bytes[..room]);
        }
        let fits = &bytes[bytes.len().saturating_sub(limits::LOG_RECENT_BYTES)..];
        let excess = (self.recent.len() + fits.len()).saturating_sub(limits::LOG_RECENT_BYTES);
        self.recent.drain(..excess.min(self.recent.len()));
        self.recent.extend(fits);
        self.end += bytes.len() as u64;
    }

    /// It said more, and nobody heard it.
    pub fn miss(&mut self) {
        self.recent.clear();
        self.end += 1;
    }

    /// How much it has said.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.end
    }

    /// How it began; nothing of it is in what is recent.
    #[must_use]
    pub fn first(&self) -> &[u8] {
        let start = usize::try_from(self.start()).unwrap_or(usize::MAX);
        &self.first[..self.first.len().min(start)]
    }

    /// What it said from `offset` on, as far as that is known.
    #[must_use]
    pub fn since(&self, offset: u64) -> Piece {
        let start = self.start();
        let skip = usize::try_from(offset.saturating_sub(start)).unwrap_or(usize::MAX);
        let bytes = self.recent.iter().skip(skip).copied().collect();
        Piece { bytes, missed: start.saturating_sub(offset) }
    }

    /// Where the recent part begins.
    fn start(&self) -> u64 {
        self.end - self.recent.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn it_goes_on_where_one_stopped() {
        let mut history = History::default();
        history.hear(b"one\n");
        let read = history.end();
        history.hear(b"two\n");
        assert_eq!(history.since(read), Piece { bytes: b"two\n".to_vec(), missed: 0 });
        assert_eq!(history.since(history.end()), Piece::default());
        history.miss();
        history.hear(b"four\n");
        assert_eq!(history.since(8), Piece { bytes: b"four\n".to_vec(), missed: 1 });
        assert_eq!(history.first(), b"one\ntwo\n");
    }

    proptest! {
        #[test]
        fn the_beginning_and_the_end_are_kept(
            pieces in prop::collection::vec((0..3_usize, 0..60_000_usize), 1..12),
        ) {
            let (mut history, mut all) = (History::default(), Vec::new());
            for (number, (letter, length)) in pieces.into_iter().enumerate() {
                let piece = vec![b'a' + u8::try_from(letter * 8 + number % 8).unwrap(); length];
                history.hear(&piece);
                all.extend(piece);
            }
            let Piece { bytes, missed } = history.since(0);
            prop_assert!(all.ends_with(&bytes));
            prop_assert_eq!(missed as usize + bytes.len(), all.len());
            prop_assert!(bytes.len() == all.len().min(limits::LOG_RECENT_BYTES));
            prop_assert!(all.starts_with(history.first()));
            let known = (history.first().len() + bytes.len()).min(all.len());
            prop_assert_eq!(known, all.len().min(limits::LOG_FIRST_BYTES + limits::LOG_RECENT_BYTES));
        }
    }
}
