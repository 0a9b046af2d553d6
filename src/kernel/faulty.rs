//! Memory for tests.

use super::memory::{Fault, Memory};
use std::collections::BTreeMap;
use std::ops::Range;

const PAGE: u64 = 4096;

/// RAM is where something was written, by whole pages.
#[derive(Default)]
pub(crate) struct Sparse {
    pages: BTreeMap<u64, Vec<u8>>,
}

impl Sparse {
    pub(crate) fn write(&mut self, at: u64, bytes: &[u8]) {
        for (at, byte) in (at..).zip(bytes) {
            let page = self.pages.entry(at / PAGE).or_insert_with(|| vec![0; PAGE as usize]);
            page[(at % PAGE) as usize] = *byte;
        }
    }
}

impl Memory for Sparse {
    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Fault> {
        for (at, byte) in (at..).zip(into) {
            let page = self.pages.get(&(at / PAGE)).ok_or(Fault::NoRam(at))?;
            *byte = page[(at % PAGE) as usize];
        }
        Ok(())
    }

    fn ranges(&self) -> Vec<Range<u64>> {
        self.pages.keys().map(|page| page * PAGE..(page + 1) * PAGE).collect()
    }
}
