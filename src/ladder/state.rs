//! What is known of one app under one scenario.

use super::excuse::Pause;
use super::verdict::Witnesses;
use crate::base::time::Instant;
use std::fmt;

/// What is known of an app under a scenario.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// It may still be booting: dead rounds do not count.
    Starting {
        /// Since when.
        since: Instant,
    },
    /// It answers.
    Healthy {
        /// Since when.
        since: Instant,
    },
    /// It did not answer lately.
    Suspect {
        /// What speaks against it.
        suspicion: Suspicion,
    },
    /// It does not answer: an incident is open.
    Failed {
        /// Since when.
        since: Instant,
        /// It answers again, but not for long enough.
        recovery: Option<Recovery>,
    },
    /// It is not judged, by nobody's fault.
    Paused {
        /// Since when.
        since: Instant,
        /// Why.
        why: Pause,
    },
    /// It is not on the device.
    Gone {
        /// Since when.
        since: Instant,
    },
    /// It cannot be asked.
    Unknown {
        /// Since when.
        since: Instant,
        /// What speaks against it from before.
        suspicion: Option<Suspicion>,
    },
}

/// What speaks against an app.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Suspicion {
    /// The first dead round.
    pub since: Instant,
    /// How many there were, with no alive one among them.
    pub failures: u32,
    /// Who found it dead.
    pub witnesses: Witnesses,
}

/// Alive rounds of an app that had failed, with no dead one among them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Recovery {
    /// The first of them.
    pub since: Instant,
    /// How many.
    pub successes: u32,
}

impl Suspicion {
    /// By one more dead round.
    pub(super) fn confirmed(before: Option<Self>, witnesses: Witnesses, now: Instant) -> Self {
        let before = before.unwrap_or(Self { since: now, failures: 0, witnesses });
        Self {
            since: before.since,
            failures: before.failures.saturating_add(1),
            witnesses: before.witnesses.and(witnesses),
        }
    }
}

impl Recovery {
    /// And one more alive round.
    pub(super) fn and_one(self) -> Self {
        Self { since: self.since, successes: self.successes.saturating_add(1) }
    }
}

impl State {
    /// The word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Starting { .. } => "starting",
            Self::Healthy { .. } => "healthy",
            Self::Suspect { .. } => "suspect",
            Self::Failed { .. } => "failed",
            Self::Paused { .. } => "paused",
            Self::Gone { .. } => "gone",
            Self::Unknown { .. } => "unknown",
        }
    }

    /// Since when.
    #[must_use]
    pub fn since(self) -> Instant {
        match self {
            Self::Starting { since }
            | Self::Healthy { since }
            | Self::Failed { since, .. }
            | Self::Paused { since, .. }
            | Self::Gone { since }
            | Self::Unknown { since, .. } => since,
            Self::Suspect { suspicion } => suspicion.since,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}
