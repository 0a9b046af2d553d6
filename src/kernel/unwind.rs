//! Who called whom: what is common to all architectures, and the choice of the one that it takes.
//!
//! A stack is read once, so that it is of one moment, and unwound from that copy; only what lies
//! elsewhere, as the stacks of interrupts do, is read from the guest as it goes.

use super::machine::{Architecture, Registers};
use super::memory::Fault;
use super::modules::Module;
use super::space::Space;
use super::symbols::Symbols;
use super::types::{Types, TypesError};
use super::{Kernel, arm64, x86_64};
use std::ops::Range;

/// Deeper stacks are shown up to here.
pub(super) const FRAMES: usize = 96;

/// Where a stack was unwound to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum End {
    /// To where the kernel was entered from a process.
    User,
    /// To where the task began.
    Start,
    /// Not to its end.
    Lost,
}

/// One call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Call {
    /// Where it returns to, or where it is.
    pub(super) at: u64,
    /// Whether it is where a CPU is, rather than where a call returns to.
    pub(super) is_exact: bool,
}

/// A part of a stack, of one moment.
pub(super) struct Stack<'s, 'm> {
    pub(super) space: &'s Space<'m>,
    pub(super) at: u64,
    pub(super) bytes: Vec<u8>,
}

/// The structures that unwinding takes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Layouts {
    X86_64(x86_64::unwind::Layouts),
    Arm64(arm64::unwind::Layouts),
}

/// Unwinds stacks.
pub(super) enum Unwinder {
    X86_64(x86_64::unwind::Unwinder),
    Arm64(arm64::unwind::Unwinder),
}

impl Stack<'_, '_> {
    pub(super) fn u64(&self, at: u64) -> Result<u64, Fault> {
        let place = usize::try_from(at.wrapping_sub(self.at)).ok();
        let copied = place.and_then(|place| self.bytes.get(place..)?.first_chunk());
        copied.map_or_else(|| self.space.u64(at), |word| Ok(u64::from_le_bytes(*word)))
    }

    pub(super) fn words<const N: usize>(&self, at: u64) -> Result<[u64; N], Fault> {
        let mut words = [0; N];
        for (place, word) in (0..).zip(&mut words) {
            *word = self.u64(at.wrapping_add(place * 8))?;
        }
        Ok(words)
    }
}

impl Layouts {
    pub(super) fn of(
        architecture: Architecture,
        types: &Types,
        space: &Space<'_>,
    ) -> Result<Self, TypesError> {
        Ok(match architecture {
            Architecture::X86_64 => Self::X86_64(x86_64::unwind::Layouts::of(types, space)?),
            Architecture::Arm64 { address_bits, .. } => {
                Self::Arm64(arm64::unwind::Layouts::of(address_bits, types, space)?)
            }
        })
    }
}

impl Unwinder {
    /// For a kernel with this code.
    pub(super) fn new(
        layouts: Layouts,
        space: &Space<'_>,
        symbols: &Symbols,
        text: &[Range<u64>],
        modules: &[Module],
    ) -> Result<Self, Fault> {
        Ok(match layouts {
            Layouts::X86_64(layouts) => {
                Self::X86_64(x86_64::unwind::Unwinder::new(layouts, space, symbols, text, modules)?)
            }
            Layouts::Arm64(layouts) => Self::Arm64(arm64::unwind::Unwinder::new(layouts)),
        })
    }

    /// The calls of a task that does not run, the innermost first. `saved` is where its stack pointer
    /// stands, which `stack` begins at.
    pub(super) fn asleep(
        &self,
        kernel: &Kernel<'_>,
        stack: &Stack<'_, '_>,
        saved: u64,
    ) -> Result<(Vec<Call>, End), Fault> {
        match self {
            Self::X86_64(unwinder) => unwinder.asleep(kernel, stack),
            Self::Arm64(unwinder) => unwinder.asleep(kernel, stack, saved),
        }
    }

    /// The calls on a CPU, if it is in the kernel.
    pub(super) fn running(
        &self,
        kernel: &Kernel<'_>,
        stack: &Stack<'_, '_>,
        cpu: &Registers,
    ) -> Option<(Vec<Call>, End)> {
        match (self, cpu) {
            (Self::X86_64(unwinder), Registers::X86_64(cpu)) => {
                unwinder.running(kernel, stack, cpu)
            }
            (Self::Arm64(unwinder), Registers::Arm64(cpu)) => unwinder.running(kernel, stack, cpu),
            (Self::X86_64(_) | Self::Arm64(_), _) => None,
        }
    }
}
