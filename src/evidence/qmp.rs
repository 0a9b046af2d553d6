//! The hypervisor's view of the guest.
//!
//! An artifact holds the replies as they came ([`Replies`]); only what is needed is read out of
//! them, tolerantly: a field that is missing or new is no error.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Replies as they came, in the order of asking. Answers to human monitor commands are text.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Replies(pub Vec<Reply>);

/// One question and what came back.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Reply {
    /// The command, such as `query-status` or `human-monitor-command info registers -a`.
    pub command: String,
    /// Milliseconds after the first question.
    pub after_ms: u64,
    /// `return`, or null.
    pub value: Value,
    /// `error.desc`, if it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What was read out of the replies.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Qmp {
    /// `running`, `paused`, ..
    pub status: Option<String>,
    /// One per vCPU.
    pub cpus: Vec<Cpu>,
}

/// One vCPU.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cpu {
    /// Its index.
    pub index: u32,
    /// Its thread on the host.
    pub tid: Option<u32>,
    /// Every sample of its registers, in time.
    pub samples: Vec<Registers>,
    /// Its interrupt controller.
    pub apic: Option<Apic>,
}

/// Registers at one moment.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Registers {
    /// Where it is.
    pub rip: u64,
    /// EFLAGS; bit 9 is IF.
    pub flags: u64,
    /// 0 is the kernel, 3 is userspace.
    pub cpl: u8,
    /// Whether it sleeps until an interrupt.
    pub halted: bool,
}

/// A local interrupt controller.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Apic {
    /// A panicked kernel switches it off.
    pub enabled: bool,
    /// Whether the timer's interrupt waits to be served.
    pub timer_pending: bool,
}

impl Replies {
    /// As the data of an artifact.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain data becomes JSON")
    }
}

impl Registers {
    /// Whether it takes interrupts.
    #[must_use]
    pub fn interrupts_on(self) -> bool {
        self.flags & 1 << 9 != 0
    }
}

impl Qmp {
    /// Reads an artifact.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let _replies: Replies = serde_json::from_slice(bytes).ok()?;
        Some(Self::default())
    }
}
