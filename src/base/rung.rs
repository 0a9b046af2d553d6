//! How far up life is proven, and what a probe may answer.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The rungs of life, from below.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Rung {
    /// The hypervisor process and its monitor answer.
    Vmm,
    /// Instructions retire.
    Vcpu,
    /// The kernel takes interrupts.
    Kernel,
    /// A process ran.
    Userspace,
    /// Writes reach the disk.
    Storage,
    /// The application answers.
    Service,
}

/// What a probe found out.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// It answered.
    Alive,
    /// It was asked and did not answer.
    Dead,
    /// It could not be asked: a busy socket, a missing device. Never leads to action.
    Unknown,
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vmm => "vmm",
            Self::Vcpu => "vcpu",
            Self::Kernel => "kernel",
            Self::Userspace => "userspace",
            Self::Storage => "storage",
            Self::Service => "service",
        })
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Alive => "alive",
            Self::Dead => "dead",
            Self::Unknown => "unknown",
        })
    }
}
