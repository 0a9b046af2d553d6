//! The registers of a CPU.
//!
//! The monitor tells neither where page tables are nor whether a CPU sleeps. The latter is seen in the
//! code: a CPU that waits stands behind the instruction that lets it.

use crate::kernel::machine::register;
use crate::kernel::space::Space;

/// Instructions that wait for an interrupt, or for an event.
const WAIT: [u32; 2] = [0xd503_207f, 0xd503_205f];

/// One CPU of an arm64 machine at one moment.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Registers {
    /// Where it is.
    pub pc: u64,
    /// Its stack.
    pub sp: u64,
    /// X29: the record of the innermost frame.
    pub fp: u64,
    /// X30: where the last call returns to.
    pub lr: u64,
    /// Bit 7 masks interrupts, bits 2 and 3 are the exception level.
    pub pstate: u64,
}

impl Registers {
    /// One CPU's part of what the monitor prints.
    pub(in crate::kernel) fn of(text: &str) -> Option<Self> {
        let value = |name| register(text, name);
        Some(Self {
            pc: value(" PC=")?,
            sp: value(" SP=")?,
            fp: value("X29=")?,
            lr: value("X30=")?,
            pstate: value("PSTATE=")?,
        })
    }

    /// Whether it runs a process.
    #[must_use]
    pub fn is_user(&self) -> bool {
        is_user(self.pstate)
    }

    /// Whether it takes interrupts.
    #[must_use]
    pub fn interrupts_on(&self) -> bool {
        self.pstate & 1 << 7 == 0
    }

    /// Whether the last instruction was one that waits.
    pub(in crate::kernel) fn waits(&self, space: &Space<'_>) -> bool {
        space.u32(self.pc.wrapping_sub(4)).is_ok_and(|instruction| WAIT.contains(&instruction))
    }
}

/// Whether a CPU in this state runs a process: at exception level 0.
pub(super) fn is_user(pstate: u64) -> bool {
    pstate >> 2 & 3 == 0
}
