//! What the guest's memory told of its keys, before one is pressed.

use crate::evidence::memory::Memory;
use crate::evidence::{Artifact, Kind};

/// Of the kernel's mask: dumps of tasks, CPUs and memory.
const DUMPS: u32 = 8;

/// Dumps are printed at levels below this one.
const SHOWS_DUMPS: u8 = 7;

/// What is known; nothing, if memory was not read.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::capture) struct Known {
    mask: Option<u32>,
    /// The log level of the console.
    pub(super) level: Option<u8>,
}

impl Known {
    /// Of a guest that was lent what it lacks.
    pub(in crate::capture) const LENT: Self = Self { mask: Some(1), level: Some(8) };

    /// What a capture brought so far tells.
    pub(in crate::capture) fn of(artifacts: &[Artifact]) -> Self {
        let memory = artifacts.iter().find(|artifact| artifact.kind == Kind::Memory);
        let memory = memory.and_then(|artifact| Memory::read(&artifact.data)).unwrap_or_default();
        Self { mask: memory.sysrq_mask, level: memory.console_level }
    }

    /// Whether the kernel takes no key at all.
    pub(super) fn is_off(self) -> bool {
        self.mask == Some(0)
    }

    /// Why no dump comes by a key, if none does.
    pub(super) fn forbids(self) -> Option<String> {
        let mask = self.mask.filter(|mask| *mask != 1 && mask & DUMPS == 0)?;
        Some(format!("the guest's memory shows its sysrq mask, {mask}: no key was pressed"))
    }

    /// Whether the console shows whatever is dumped.
    pub(super) fn shows_dumps(self) -> bool {
        self.level.is_some_and(|level| level >= SHOWS_DUMPS)
    }

    /// Whether dumps would come, but the console is too quiet to show them.
    pub(super) fn hides_dumps(self) -> bool {
        let permits = self.mask.is_some() && self.forbids().is_none();
        permits && self.level.is_some_and(|level| level < SHOWS_DUMPS)
    }

    /// Whether no dump would be seen as it is; nothing where that is not known.
    pub(in crate::capture) fn wants_a_loan(self) -> Option<bool> {
        self.mask.map(|_| self.forbids().is_some() || self.hides_dumps())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(mask: Option<u32>, level: Option<u8>) -> Known {
        let memory = Memory { sysrq_mask: mask, console_level: level, ..Memory::default() };
        let artifact =
            Artifact { kind: Kind::Memory, name: String::new(), data: memory.to_bytes() };
        Known::of(&[artifact])
    }

    #[test]
    fn masks_of_distributions_forbid_dumps() {
        for mask in [0, 16, 176, 438] {
            assert!(known(Some(mask), None).forbids().is_some(), "{mask}");
        }
        assert!(known(Some(0), None).is_off() && !known(Some(16), None).is_off());
        for mask in [1, 8, 0x1ff] {
            assert_eq!(known(Some(mask), None).forbids(), None, "{mask}");
        }
        let wants = |mask, level| known(mask, level).wants_a_loan();
        assert_eq!([wants(Some(438), Some(7)), wants(Some(1), Some(4))], [Some(true); 2]);
        assert_eq!((wants(Some(1), Some(7)), wants(None, Some(4))), (Some(false), None));
        assert_eq!(Known::LENT.wants_a_loan(), Some(false));
        assert!(Known::LENT.shows_dumps());
    }

    #[test]
    fn a_quiet_console_hides_only_what_would_come() {
        assert!(known(Some(1), Some(4)).hides_dumps());
        assert!(!known(Some(1), Some(7)).hides_dumps() && known(Some(1), Some(7)).shows_dumps());
        assert!(!known(Some(16), Some(4)).hides_dumps());
    }

    #[test]
    fn what_memory_did_not_tell_is_not_known() {
        for known in [Known::of(&[]), known(None, None)] {
            assert!(!known.is_off() && !known.shows_dumps() && !known.hides_dumps());
            assert_eq!((known.forbids(), known.level), (None, None));
        }
        let rubbish =
            Artifact { kind: Kind::Memory, name: String::new(), data: b"{\"sysrq".to_vec() };
        assert_eq!(Known::of(&[rubbish]).forbids(), None);
    }
}
