//! What explains silence without the app being at fault.

use super::verdict::Witnesses;
use super::{Transport, Verdict};
use crate::base::rung::Answer;
use std::fmt;

/// What is known around the app while a round is judged.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Context {
    /// The guest is held, or nobody wants to know.
    pub pause: Option<Pause>,
    /// The host itself waits for CPU, memory or IO for so much of its time that guests must be slow.
    pub host_starved: bool,
    /// The device's own uplink is down.
    pub uplink_down: bool,
}

/// Why an app is not judged, by nobody's fault.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Pause {
    /// The guest's run state is `paused`.
    Stopped,
    /// The guest is being written to a file, or read from one.
    Saved,
    /// The guest sleeps.
    Suspended,
    /// The guest moves to another host, or comes from one.
    Migrating,
    /// The guest is set up and was not started yet.
    Unstarted,
    /// It is in a maintenance window.
    Maintenance,
    /// An operator asked for it.
    Operator,
}

/// Why what was heard does not count.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Excuse {
    /// Nothing counts.
    Paused(Pause),
    /// What was dead does not count: the host starves.
    HostStarved,
    /// What was dead does not count: only the network was, and so is the uplink.
    UplinkDown,
}

impl Context {
    /// Nothing explains anything.
    pub const PLAIN: Self = Self { pause: None, host_starved: false, uplink_down: false };

    /// What excuses a round in which this was heard.
    pub(super) fn excuse(&self, verdict: &Verdict, dead: Witnesses) -> Option<Excuse> {
        if let Some(pause) = self.pause {
            return Some(Excuse::Paused(pause));
        }
        if verdict.answer() != Answer::Dead || dead.is_conclusive() {
            return None;
        }
        if self.host_starved {
            return Some(Excuse::HostStarved);
        }
        (self.uplink_down && dead.is_only(Transport::Network)).then_some(Excuse::UplinkDown)
    }
}

impl Pause {
    /// Of a run state of QEMU's, in which the guest stands still and is well.
    ///
    /// `io-error`, `internal-error`, `guest-panicked` and `watchdog` are not well, `shutdown` is over,
    /// and a guest that a debugger left in `debug` is nobody's wish.
    #[must_use]
    pub fn of_run_state(status: &str) -> Option<Self> {
        match status {
            "paused" => Some(Self::Stopped),
            "save-vm" | "restore-vm" => Some(Self::Saved),
            "suspended" => Some(Self::Suspended),
            "finish-migrate" | "inmigrate" | "postmigrate" | "colo" => Some(Self::Migrating),
            "prelaunch" | "preconfig" => Some(Self::Unstarted),
            _ => None,
        }
    }
}

impl fmt::Display for Pause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stopped => "the guest is paused",
            Self::Saved => "the guest is being saved or restored",
            Self::Suspended => "the guest is suspended",
            Self::Migrating => "the guest is being migrated",
            Self::Unstarted => "the guest was not started yet",
            Self::Maintenance => "this is a maintenance window",
            Self::Operator => "an operator paused the watch",
        })
    }
}

impl fmt::Display for Excuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Paused(pause) => pause.fmt(f),
            Self::HostStarved => f.write_str("the host itself starves"),
            Self::UplinkDown => {
                f.write_str("only the network is silent, and the device's uplink is down")
            }
        }
    }
}
