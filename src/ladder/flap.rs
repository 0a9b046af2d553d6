//! Holds back an app that changes too often.
//!
//! Incidents begin and end; when that happened [`Flap::changes`] times within [`Flap::within`], the app
//! flaps. From then on a change must last for `within` before it is one: a failure dead all that time,
//! a recovery alive all that time. Whoever stays the same for `within` is calm, and held back no longer.
//! So an app that flaps is told of once, and one that stays down after it flapped is still found out.

use crate::base::time::Instant;
use std::collections::VecDeque;
use std::time::Duration;

/// When changes are too many.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Flap {
    /// So many beginnings and ends of incidents. Zero is one.
    pub changes: u32,
    /// In so long.
    pub within: Duration,
}

/// Holds changes back.
#[derive(Clone, Debug)]
pub(super) struct Damper {
    flap: Option<Flap>,
    /// The last of them, `changes` at most.
    changes: VecDeque<Instant>,
    flapping: Option<Flapping>,
}

#[derive(Clone, Copy, Debug)]
struct Flapping {
    since: Instant,
    /// The last answer, and since when it is the same.
    steady: Option<(bool, Instant)>,
}

impl Flap {
    /// Three incidents within an hour: the fourth tells nothing that the three did not.
    pub const DEFAULT: Self = Self { changes: 6, within: Duration::from_secs(3600) };
}

impl Damper {
    pub(super) fn new(flap: Option<Flap>) -> Self {
        Self { flap, changes: VecDeque::new(), flapping: None }
    }

    /// Changes are held back since.
    pub(super) fn flapping(&self) -> Option<Instant> {
        self.flapping.map(|flapping| flapping.since)
    }

    /// Takes an answer that counts. Whether it is calm again, by now.
    pub(super) fn settled(&mut self, alive: bool, now: Instant) -> bool {
        let (Some(flap), Some(flapping)) = (self.flap, &mut self.flapping) else { return false };
        let since = match flapping.steady {
            Some((before, since)) if before == alive => since,
            Some(_) | None => now,
        };
        flapping.steady = Some((alive, since));
        let calm = now.since(since) >= flap.within;
        if calm {
            self.flapping = None;
        }
        calm
    }

    /// Something came between: what was the same before says nothing of after.
    pub(super) fn disturbed(&mut self) {
        if let Some(flapping) = &mut self.flapping {
            flapping.steady = None;
        }
    }

    /// An incident began or ended. Whether that was one too many.
    pub(super) fn changed(&mut self, now: Instant) -> bool {
        let Some(flap) = self.flap else { return false };
        let most = usize::try_from(flap.changes.max(1)).unwrap_or(usize::MAX);
        self.changes.push_back(now);
        self.changes.retain(|at| now.since(*at) < flap.within);
        while self.changes.len() > most {
            self.changes.pop_front();
        }
        let begins = self.flapping.is_none() && self.changes.len() >= most;
        if begins {
            self.flapping = Some(Flapping { since: now, steady: None });
        }
        begins
    }

    #[cfg(test)]
    pub(super) fn remembers(&self) -> usize {
        self.changes.len()
    }
}
