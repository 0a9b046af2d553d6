//! Probe answers in, state and verdict out.
//!
//! ```text
//!                alive                         dead
//!   starting --------------> healthy ---------------------> suspect ---+
//!      |                      ^   ^                          |  |  ^   | dead
//!      | dead, the grace      |   +--------- alive ----------+  |  +---+
//!      v is over              |                                 |
//!   suspect                   | alive, successThreshold times   | dead, failureThreshold times,
//!                             | in a row                        v by enough witnesses
//!                             +------------------------------ failed
//!
//!   started:  from any state to starting; an open incident ends: it was restarted
//!   rebooted: to starting, from any state but failed and gone, if it answered since it last started;
//!             a guest that boots over and over has its grace once
//!   gone:     from any state to gone; an open incident ends with it; only `started` leads back
//!   paused:   from any state but failed and gone, while the guest is held for a healthy reason;
//!             then to starting if it never answered since its start, else to unknown
//!   unknown:  from any state but failed and gone, when failureThreshold rounds in a row said nothing;
//!             the next answer goes on where the last one left off
//! ```
//!
//! A round is what the probes of a scenario answered: [`Testimony`], one of each, by [`Transport`].
//! One *alive* above the vCPUs settles it; if nothing was alive and something was *dead*, the round is
//! dead; else it is unknown. [`Context`] tells what may explain a dead answer without the app being at
//! fault; such a round counts as unknown, and the [`Excuse`] is told.
//!
//! # Invariants
//!
//! The simulation checks them after every step, against a second implementation that keeps the whole
//! history and searches it.
//!
//! 1. The state is `failed` exactly while an incident is open. [`Turn::Failed`] opens one,
//!    [`Turn::Ended`] closes it: in turn, never two of a kind.
//! 2. No incident without `failure_threshold` dead rounds, by `witnesses` transports or one conclusive
//!    answer, since the app was last alive, started, rebooted or paused; none of them excused, none in
//!    its grace.
//! 3. An incident ends by `success_threshold` alive rounds with no dead one among them, by a new process
//!    or with the app; by nothing else.
//! 4. A round that says nothing moves no counter and no incident. It may only show `unknown`.
//! 5. A pause and an excused round neither begin nor end an incident. A pause hears nobody: user-mode
//!    networks accept connections for a paused guest. What is conclusive is not excused by a starving
//!    host or a dead uplink.
//! 6. While it flaps, a change must last for [`Flap::within`] before it is one. Flapping is told once,
//!    and once that it is calm again.
//! 7. Time never runs backward in here, whatever the caller says; a life before this boot began at the
//!    latest now.
//! 8. What is kept does not grow with time.
//!
//! Only an open incident survives the agent ([`Ladder::resumed`]): suspicions, the grace and flapping
//! begin anew, which can delay an incident but neither make one nor double one.
//!
//! No IO, no clock: whoever calls says what was answered and when.

mod excuse;
mod flap;
mod moves;
mod state;
#[cfg(test)]
mod tests;
mod verdict;

pub use excuse::{Context, Excuse, Pause};
pub use flap::Flap;
pub use moves::{Ladder, Outcome};
pub use state::{Recovery, State, Suspicion};
pub use verdict::{Verdict, Witnesses};

use crate::base::rung::{Answer, Finding, Rung};
use crate::scenario::Timing;
use std::fmt;
use std::time::Duration;

/// How many rounds make a state, and what else it takes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rules {
    /// Dead rounds, with no alive one among them, that make an app `failed`. Zero is one.
    pub failure_threshold: u32,
    /// Alive rounds, with no dead one among them, that make it `healthy` again. Zero is one.
    pub success_threshold: u32,
    /// From the app's start until dead rounds count.
    pub initial_delay: Duration,
    /// Transports that must have found it dead, unless one of them was conclusive. Zero is one.
    /// An app that fewer transports can ask never fails: whoever makes the rules sees to that.
    pub witnesses: u32,
    /// When changes are too many; `None` if they never are.
    pub flap: Option<Flap>,
}

/// The way on which a probe asks. What breaks together is one way: the console and its log are fed by
/// the same device, so they are one witness.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Transport {
    /// The hypervisor's process, its monitor and its vCPUs.
    Hypervisor,
    /// The console, asked or overheard.
    Console,
    /// The app's disks.
    Disk,
    /// The network.
    Network,
    /// The guest agent.
    Agent,
}

/// What one probe of a round answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Testimony {
    /// Which way it asked.
    pub transport: Transport,
    /// The rung that is proven by *alive*, refuted by *dead*.
    pub rung: Rung,
    /// What it found out.
    pub answer: Answer,
    /// A dead answer that needs no second witness: the hypervisor's process is gone or stopped, the
    /// kernel said that it panicked. Means nothing with another answer.
    pub conclusive: bool,
}

/// A change that somebody has to act on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Turn {
    /// The first dead round.
    BecameSuspect,
    /// An incident begins.
    Failed,
    /// The incident is over.
    Ended(End),
    /// It changes too often. Told after the change that was one too many.
    Flapping,
    /// It changes no longer too often.
    Calm,
    /// From here on what is heard does not count, or what was dead does not, because of this.
    Suppressed(Excuse),
}

/// Why an incident is over.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum End {
    /// The app answers again.
    Recovered,
    /// The app has another process.
    Restarted,
    /// The app is no longer on the device.
    Gone,
}

impl From<Timing> for Rules {
    fn from(timing: Timing) -> Self {
        Self {
            failure_threshold: timing.failure_threshold,
            success_threshold: timing.success_threshold,
            initial_delay: timing.initial_delay,
            witnesses: timing.witnesses,
            flap: Some(Flap { changes: timing.flap.changes, within: timing.flap.within }),
        }
    }
}

impl Testimony {
    /// Of a probe that asked this way.
    #[must_use]
    pub fn new(transport: Transport, finding: &Finding) -> Self {
        let Finding { rung, answer, .. } = *finding;
        Self { transport, rung, answer, conclusive: false }
    }

    /// The same, and there is no doubt.
    #[must_use]
    pub fn conclusive(self) -> Self {
        Self { conclusive: true, ..self }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hypervisor => "hypervisor",
            Self::Console => "console",
            Self::Disk => "disk",
            Self::Network => "network",
            Self::Agent => "agent",
        })
    }
}

impl fmt::Display for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BecameSuspect => f.write_str("it did not answer for the first time"),
            Self::Failed => f.write_str("an incident begins"),
            Self::Ended(end) => write!(f, "the incident is over: {end}"),
            Self::Flapping => {
                f.write_str("it fails and recovers too often; a change must last now")
            }
            Self::Calm => f.write_str("it no longer fails and recovers too often"),
            Self::Suppressed(excuse) => write!(f, "its silence does not count: {excuse}"),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Recovered => "it answers again",
            Self::Restarted => "it was restarted",
            Self::Gone => "it is no longer on the device",
        })
    }
}
