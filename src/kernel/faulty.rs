//! Memory for tests: as a test wrote it, or hostile through and through.

use super::memory::{Fault, Memory};
use std::collections::BTreeMap;
use std::ops::Range;

const PAGE: u64 = 4096;

/// RAM is where something was written, by whole pages.
#[derive(Clone, Default)]
pub(crate) struct Sparse {
    pages: BTreeMap<u64, Vec<u8>>,
}

/// Every address has RAM, and what stands there is the same few bytes again and again: page tables
/// lead into themselves, lists bite their tail, lengths are absurd.
pub(crate) struct Rubbish(pub(crate) Vec<u8>);

impl Sparse {
    pub(crate) fn write(&mut self, mut at: u64, mut bytes: &[u8]) {
        loop {
            let page = self.pages.entry(at / PAGE).or_insert_with(|| vec![0; PAGE as usize]);
            let place = (at % PAGE) as usize;
            let (now, later) = bytes.split_at(bytes.len().min(PAGE as usize - place));
            page[place..place + now.len()].copy_from_slice(now);
            if later.is_empty() {
                break;
            }
            (at, bytes) = (at + now.len() as u64, later);
        }
    }
}

impl Memory for Sparse {
    fn read(&self, mut at: u64, mut into: &mut [u8]) -> Result<(), Fault> {
        while !into.is_empty() {
            let page = self.pages.get(&(at / PAGE)).ok_or(Fault::NoRam(at))?;
            let place = (at % PAGE) as usize;
            let (now, later) = into.split_at_mut(into.len().min(PAGE as usize - place));
            now.copy_from_slice(&page[place..place + now.len()]);
            (at, into) = (at.wrapping_add(now.len() as u64), later);
        }
        Ok(())
    }

    fn ranges(&self) -> Vec<Range<u64>> {
        self.pages.keys().map(|page| page * PAGE..(page + 1) * PAGE).collect()
    }
}

impl Memory for Rubbish {
    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Fault> {
        let length = self.0.len() as u64;
        if length == 0 {
            return Err(Fault::NoRam(at));
        }
        let mut from = (at % length) as usize;
        let mut into = into;
        while !into.is_empty() {
            let (now, later) = into.split_at_mut(into.len().min(self.0.len() - from));
            now.copy_from_slice(&self.0[from..from + now.len()]);
            (from, into) = (0, later);
        }
        Ok(())
    }

    fn ranges(&self) -> Vec<Range<u64>> {
        std::iter::once(0..1 << 20).collect()
    }
}
