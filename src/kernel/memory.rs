//! Where a guest's bytes come from: physical reads, bounded and counted.

use std::cell::Cell;
use std::io;
use std::ops::Range;

/// The RAM of a guest, by physical address. It may change while it is read.
pub trait Memory {
    /// Fills `into` with what stands at `at`; touches nothing outside of [`Memory::ranges`].
    ///
    /// # Errors
    ///
    /// When any of it is no RAM, or cannot be read.
    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Fault>;

    /// Where there is RAM, ascending, without overlaps.
    fn ranges(&self) -> Vec<Range<u64>>;
}

/// Why something cannot be read.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Fault {
    /// There is no RAM at this physical address.
    #[error("there is no RAM at {0:#x}")]
    NoRam(u64),
    /// The guest's page tables lead nowhere.
    #[error("the guest maps nothing at {0:#x}")]
    NotMapped(u64),
    /// More was asked for than a look at a guest may cost.
    #[error("the limit of what may be read is reached")]
    Spent,
    /// The source failed.
    #[error("the memory of the guest cannot be read: {0}")]
    Source(io::ErrorKind),
}

/// What was read so far.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Spent {
    /// How often.
    pub reads: u64,
    /// How much.
    pub bytes: u64,
}

/// What may be read.
#[derive(Clone, Copy, Debug)]
pub struct Allowance {
    /// How often.
    pub reads: u64,
    /// How much.
    pub bytes: u64,
}

/// Reads until the allowance is spent. Every pointer of a guest may be a lie; this is what bounds the
/// harm of following one.
pub struct Reader<'m> {
    memory: &'m dyn Memory,
    allowance: Allowance,
    spent: Cell<Spent>,
}

impl<'m> Reader<'m> {
    /// Nothing is spent yet.
    #[must_use]
    pub fn new(memory: &'m dyn Memory, allowance: Allowance) -> Self {
        Self { memory, allowance, spent: Cell::default() }
    }

    /// As [`Memory::read`].
    ///
    /// # Errors
    ///
    /// As [`Memory::read`], and when the allowance is spent.
    pub fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Fault> {
        let before = self.spent.get();
        let spent = Spent { reads: before.reads + 1, bytes: before.bytes + into.len() as u64 };
        if spent.reads > self.allowance.reads || spent.bytes > self.allowance.bytes {
            return Err(Fault::Spent);
        }
        self.spent.set(spent);
        self.memory.read(at, into)
    }

    /// A little-endian word.
    ///
    /// # Errors
    ///
    /// As [`Reader::read`].
    pub fn u64(&self, at: u64) -> Result<u64, Fault> {
        let mut word = [0; 8];
        self.read(at, &mut word)?;
        Ok(u64::from_le_bytes(word))
    }

    /// What was read so far.
    #[must_use]
    pub fn spent(&self) -> Spent {
        self.spent.get()
    }

    /// Where there is RAM.
    #[must_use]
    pub fn ranges(&self) -> Vec<Range<u64>> {
        self.memory.ranges()
    }
}

#[cfg(test)]
mod tests {
    use super::super::faulty::Sparse;
    use super::*;

    #[test]
    fn what_is_spent_is_spent() {
        let mut memory = Sparse::default();
        memory.write(0x1000, &7_u64.to_le_bytes());
        let reader = Reader::new(&memory, Allowance { reads: 3, bytes: 20 });
        assert_eq!(reader.u64(0x1000), Ok(7));
        assert_eq!(reader.u64(0x9000), Err(Fault::NoRam(0x9000)));
        assert_eq!(reader.u64(0x1000), Err(Fault::Spent));
        assert_eq!(reader.read(0x1000, &mut [0; 4]), Ok(()));
        assert_eq!(reader.read(0x1000, &mut []), Err(Fault::Spent));
        assert_eq!(reader.spent(), Spent { reads: 3, bytes: 20 });
    }
}
