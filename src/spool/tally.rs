//! What was dropped, so that it is never dropped in silence. No IO: see the parent for the bytes.

use super::Waiting;
use super::format::{array, check, number};
use crate::base::id::{Digest, IncidentId};
use crate::base::limits;
use std::collections::VecDeque;

/// The name of its file.
pub(super) const NAME: &str = "evicted";

/// The name under which it is written.
pub(super) const NAME_UNFINISHED: &str = "evicted.new";

/// It is never longer.
pub(super) const BYTES_MAX: u64 = (HEADER + limits::EVICTED_TOLD * RECORD) as u64;

/// The last two characters are the version: a reader refuses any other.
const MAGIC: [u8; 8] = *b"lfgone01";

const HEADER: usize = 40;
const RECORD: usize = 64;

/// What was dropped since the spool was made.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Tally {
    pub(super) evicted: u64,
    pub(super) bytes: u64,
    pub(super) lost: u64,
    /// The latest, oldest first.
    pub(super) gone: VecDeque<Gone>,
    /// The file does not say all of it.
    pub(super) is_behind: bool,
}

/// A bundle that was dropped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Gone {
    /// SHA-256 of its bytes.
    pub digest: Digest,
    /// Whose it was.
    pub incident: IncidentId,
    /// How many bytes it had.
    pub size: u64,
    pub(super) sequence: u64,
}

impl Gone {
    pub(super) fn new(sequence: u64, waiting: Waiting) -> Self {
        let Waiting { digest, incident, size, .. } = waiting;
        Self { digest, incident, size, sequence }
    }
}

impl Tally {
    pub(super) fn add(&mut self, gone: Gone) {
        self.evicted += 1;
        self.bytes = self.bytes.saturating_add(gone.size);
        self.gone.push_back(gone);
        if self.gone.len() > limits::EVICTED_TOLD {
            self.gone.pop_front();
        }
    }

    /// What is here comes after what another one tells.
    pub(super) fn put_behind(&mut self, before: Self) {
        let after = std::mem::replace(self, before);
        self.evicted += after.evicted;
        self.bytes = self.bytes.saturating_add(after.bytes);
        self.lost += after.lost;
        self.gone.extend(after.gone);
        let surplus = self.gone.len().saturating_sub(limits::EVICTED_TOLD);
        self.gone.drain(..surplus);
        self.is_behind = after.is_behind;
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let counts = [self.evicted, self.bytes, self.lost].map(u64::to_le_bytes).concat();
        let mut records = Vec::with_capacity(self.gone.len() * RECORD);
        for gone in &self.gone {
            records.extend(gone.sequence.to_le_bytes());
            records.extend(gone.size.to_le_bytes());
            records.extend(gone.incident.as_bytes());
            records.extend(gone.digest.as_bytes());
        }
        let covered = [&MAGIC[..], &counts, &records].concat();
        [&MAGIC[..], &counts, &check(&covered), &records].concat()
    }

    /// Nothing if these bytes are no tally.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (header, records) = bytes.split_at_checked(HEADER)?;
        let covered = [&header[..32], records].concat();
        let is_ours = header[..8] == MAGIC && header[32..] == check(&covered);
        if !is_ours || !records.len().is_multiple_of(RECORD) {
            return None;
        }
        let gone = records.chunks_exact(RECORD).map(|record| Gone {
            sequence: number(&record[..8]),
            size: number(&record[8..16]),
            incident: IncidentId::new(array(&record[16..32])),
            digest: Digest::new(array(&record[32..])),
        });
        Some(Self {
            evicted: number(&header[8..16]),
            bytes: number(&header[16..24]),
            lost: number(&header[24..32]),
            gone: gone.collect(),
            is_behind: false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tally(dropped: u64) -> Tally {
        let mut tally = Tally { lost: 3, ..Tally::default() };
        for sequence in 0..dropped {
            let digest = Digest::of(&sequence.to_le_bytes());
            let incident = IncidentId::new([sequence as u8; 16]);
            tally.add(Gone { digest, incident, size: 1000, sequence });
        }
        tally
    }

    #[test]
    fn what_is_written_is_read_and_stays_within_a_page() {
        for dropped in [0, 1, 200] {
            let tally = tally(dropped);
            let bytes = tally.encode();
            assert!(bytes.len() as u64 <= BYTES_MAX && BYTES_MAX <= 4096);
            assert_eq!(Tally::decode(&bytes).unwrap(), tally);
        }
        let many = tally(200);
        assert_eq!((many.evicted, many.bytes, many.gone.len()), (200, 200_000, 60));
        assert_eq!(many.gone.back().unwrap().sequence, 199);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let bytes = tally(2).encode();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Tally::decode(&flipped), None, "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert_eq!(Tally::decode(&bytes[..length]), None, "cut to {length}");
        }
    }

    proptest! {
        #[test]
        fn rubbish_never_panics(bytes: Vec<u8>) {
            let _ = Tally::decode(&bytes);
        }
    }
}
