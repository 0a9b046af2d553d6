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

/// What a probe found out, of which rung, and why it says so.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Finding {
    /// The rung that is proven by *alive*, refuted by *dead*.
    pub rung: Rung,
    /// What was found out.
    pub answer: Answer,
    /// A sentence for a person.
    pub reason: String,
}

impl Finding {
    /// It answered.
    #[must_use]
    pub fn alive(rung: Rung, reason: impl Into<String>) -> Self {
        Self { rung, answer: Answer::Alive, reason: reason.into() }
    }

    /// It was asked and did not answer.
    #[must_use]
    pub fn dead(rung: Rung, reason: impl Into<String>) -> Self {
        Self { rung, answer: Answer::Dead, reason: reason.into() }
    }

    /// It could not be asked.
    #[must_use]
    pub fn unknown(rung: Rung, reason: impl Into<String>) -> Self {
        Self { rung, answer: Answer::Unknown, reason: reason.into() }
    }
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
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
        f.pad(match self {
            Self::Alive => "alive",
            Self::Dead => "dead",
            Self::Unknown => "unknown",
        })
    }
}
