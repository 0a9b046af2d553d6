//! Evidence in; class, subject, title, signature, blame, and the facts for and against out.
//!
//! The same engine runs on the device and on the controller. It never looks at anything but the
//! evidence that it is given, and says how sure it is.

use crate::evidence::Evidence;
use std::fmt;

/// What happened, to whom, and why we think so.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Diagnosis {
    /// What happened, out of a closed list.
    pub class: Class,
    /// The guilty function or resource; empty when the evidence names none.
    pub subject: String,
    /// One line for an operator.
    pub title: String,
    /// `v1:<class>:<subject>:<hash8>`: what groups incidents of one cause.
    pub signature: String,
    /// Whose fault.
    pub blame: Blame,
    /// How sure.
    pub confidence: Confidence,
    /// Facts that speak for it, as sentences.
    pub facts_for: Vec<String>,
    /// Facts that speak against it.
    pub facts_against: Vec<String>,
}

/// What may have happened.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Class {
    /// The hypervisor's process is gone.
    VmmGone,
    /// The hypervisor's process is stopped.
    VmmStopped,
    /// Somebody paused the guest.
    Paused,
    /// The kernel panicked.
    Panic,
    /// The kernel oopsed and went on.
    Oops,
    /// A CPU spins with interrupts off.
    HardLockup,
    /// A CPU spins in the kernel with interrupts on.
    SoftLockup,
    /// Tasks wait for what never comes.
    HungTask,
    /// The kernel lives, but no process answers.
    UserspaceDead,
    /// Nothing answers and nothing tells why.
    Silent,
}

/// Whose fault.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Blame {
    /// The guest's kernel.
    GuestKernel,
    /// A process of the guest.
    GuestUserspace,
    /// The hypervisor or whoever controls it.
    Vmm,
    /// Not known.
    Unknown,
}

/// How sure.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Confidence {
    /// A guess.
    Low,
    /// One good fact.
    Medium,
    /// Several facts from independent sources, none against.
    High,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::VmmGone,
        Self::VmmStopped,
        Self::Paused,
        Self::Panic,
        Self::Oops,
        Self::HardLockup,
        Self::SoftLockup,
        Self::HungTask,
        Self::UserspaceDead,
        Self::Silent,
    ];

    /// The word for it in signatures, filters and metrics.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::VmmGone => "vmm-gone",
            Self::VmmStopped => "vmm-stopped",
            Self::Paused => "paused",
            Self::Panic => "panic",
            Self::Oops => "oops",
            Self::HardLockup => "hard-lockup",
            Self::SoftLockup => "soft-lockup",
            Self::HungTask => "hung-task",
            Self::UserspaceDead => "userspace-dead",
            Self::Silent => "silent",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl Blame {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::GuestKernel, Self::GuestUserspace, Self::Vmm, Self::Unknown];

    /// The words for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::GuestKernel => "guest kernel",
            Self::GuestUserspace => "guest userspace",
            Self::Vmm => "vmm",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Blame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl fmt::Display for Confidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        })
    }
}

/// Says what happened.
#[must_use]
pub fn diagnose(_evidence: &Evidence) -> Diagnosis {
    Diagnosis {
        class: Class::Silent,
        subject: String::new(),
        title: "nothing answers".to_owned(),
        signature: "v1:silent::00000000".to_owned(),
        blame: Blame::Unknown,
        confidence: Confidence::Low,
        facts_for: Vec::new(),
        facts_against: Vec::new(),
    }
}
