//! When the next round starts, and when none does.
//!
//! Periods follow the clock that nobody can set, cron and windows the one on the wall. Rounds are
//! shifted by a part of the period that is the app's own, so that 500 apps do not ask at once. A
//! round that took too long is not made up for: the next one starts at the next beat. A round whose
//! beat came while another schedule's round was run starts late, but it starts: else one that always
//! falls into the other's time would never be asked, and nobody would know.
//!
//! ```text
//!   loop { due = due(now, wall); sleep until due.at; if due.round { begun(&due); ask } }
//! ```
//!
//! The clock on the wall jumps. Backward, no time of it fires twice, unless it had been wrong by
//! more than [`WRONG`], when what it fired then says nothing of today. Forward, what was jumped over
//! is not made up for, and two rounds are never closer than half of what the pattern's times are. A
//! jump is noticed within [`LOOK`]: nobody sleeps longer without asking again.

#[cfg(test)]
mod tests;

use super::{Scenario, When, Window};
use crate::base::id::{AppId, ScenarioName};
use crate::base::time::{Instant, Timestamp};
use std::fmt;
use std::time::Duration;

/// No sleep is longer, so that a clock that jumped, or a machine that slept, is noticed.
pub const LOOK: Duration = Duration::from_secs(60);

/// A round that is later than this is not made up for: more rounds than wait for one app in practice
/// take less, and a machine that slept had other reasons.
pub const LATEST: Duration = Duration::from_secs(300);

/// A clock that is set back by more than this was wrong when it fired.
pub const WRONG: Duration = Duration::from_secs(86_400);

/// Rounds at times of the wall clock are spread over a tenth of their distance, but no more than
/// this: who names a time does not mean a minute later.
const SPREAD: Duration = Duration::from_secs(30);

/// Windows that begin before the one before has ended, and are followed to find the end of all.
const OVERLAPS: usize = 64;

/// The rounds of one app under one scenario.
#[derive(Clone, Debug)]
pub struct Schedule {
    when: When,
    windows: Vec<Window>,
    /// The first beat of a period.
    first: Instant,
    /// How much later than the times of the wall clock.
    shift: Duration,
    /// When the last round was to start.
    last: Option<Instant>,
    /// The time of the wall clock that fired last.
    fired: Option<Timestamp>,
    pause: Option<Pause>,
    /// The round that was announced last and has not begun.
    coming: Option<Due>,
}

/// What to wait for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Due {
    /// Until when.
    pub at: Instant,
    /// Whether a round starts then. If not, [`Schedule::next`] is asked again.
    pub round: bool,
    time: Option<Timestamp>,
}

/// An operator's wish that an app be left alone.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pause {
    /// What for.
    pub why: String,
    /// Until when; for good if nothing is said.
    pub until: Option<Timestamp>,
}

/// Why no round starts.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Suppressed {
    /// Who wishes it.
    pub by: By,
    /// What for.
    pub why: String,
    /// Until when, if that is known.
    pub until: Option<Timestamp>,
}

/// Who wishes that no round starts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum By {
    /// An operator.
    Operator,
    /// The scenario's maintenance window.
    Window,
}

/// An app's own part (of 65536) of a period under a scenario. It is the same after a restart, and
/// another for each scenario of the app.
#[must_use]
pub fn share(app: &AppId, scenario: &ScenarioName) -> u16 {
    // FNV-1a: short, and its high bits are well mixed.
    let bytes = app.as_bytes().iter().chain(scenario.as_str().as_bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    u16::try_from((hash ^ (hash >> 29)) >> 20 & 0xffff).unwrap_or(0)
}

// === impl Schedule ===

impl Schedule {
    /// The rounds of an app that is watched from `start` on, shifted by its `share` (of 65536).
    #[must_use]
    pub fn new(scenario: &Scenario, start: Instant, share: u16) -> Self {
        let when = scenario.when().clone();
        let part = f64::from(share) / 65536.0;
        let (first, shift) = match &when {
            When::Every(period) => (start + period.mul_f64(part), Duration::ZERO),
            When::Cron(cron) => (start, (cron.shortest() / 10).min(SPREAD).mul_f64(part)),
        };
        let windows = scenario.windows().to_vec();
        Self { when, windows, first, shift, last: None, fired: None, pause: None, coming: None }
    }

    /// What comes next, or should have begun by now and did not.
    pub fn due(&mut self, now: Instant, wall: Timestamp) -> Due {
        let overdue = |due: &Due| due.at <= now && now.since(due.at) < LATEST;
        if let Some(overdue) = self.coming.filter(overdue) {
            return overdue;
        }
        let due = self.next(now, wall);
        self.coming = due.round.then_some(due);
        due
    }

    /// What comes next.
    #[must_use]
    pub fn next(&self, now: Instant, wall: Timestamp) -> Due {
        let (at, time) = match &self.when {
            When::Every(period) => (Some(self.beat(*period, now)), None),
            When::Cron(cron) => {
                let time = cron.after(self.settled(before(wall, self.shift)));
                let at = time.map(|time| now + after(wall, time) + self.shift);
                (at.map(|at| at.max(self.earliest(cron.shortest()))), time)
            }
        };
        match at {
            Some(at) if at <= now + LOOK => Due { at, round: true, time },
            Some(_) | None => Due { at: now + LOOK, round: false, time: None },
        }
    }

    /// Says that the round of `due` starts.
    pub fn begun(&mut self, due: &Due) {
        self.last = Some(due.at);
        self.coming = None;
        self.fired = due.time.or(self.fired);
    }

    /// The first beat after `now` that was not taken.
    fn beat(&self, period: Duration, now: Instant) -> Instant {
        let now = self.last.map_or(now, |last| last.max(now));
        if now < self.first || (now == self.first && self.last.is_none()) {
            return self.first;
        }
        let period = u64::try_from(period.as_millis()).unwrap_or(u64::MAX).max(1);
        let beats = (now.as_millis() - self.first.as_millis()) / period + 1;
        Instant::from_millis(self.first.as_millis().saturating_add(beats.saturating_mul(period)))
    }

    /// From when on a time of the wall clock may fire: what fired once does not again.
    fn settled(&self, wall: Timestamp) -> Timestamp {
        match self.fired {
            Some(fired) if fired > wall && after(wall, fired) <= WRONG => fired,
            Some(_) | None => wall,
        }
    }

    /// However the wall clock jumps, rounds are not closer than this.
    fn earliest(&self, distance: Duration) -> Instant {
        self.last.map_or(Instant::default(), |last| last + distance.min(WRONG) / 2)
    }

    /// Leaves the app alone from now on.
    pub fn pause(&mut self, pause: Pause) {
        self.pause = Some(pause);
    }

    /// Ends a pause.
    pub fn resume(&mut self) {
        self.pause = None;
    }

    /// Why no round starts at this time, if so. The operator's word comes first.
    #[must_use]
    pub fn suppressed(&self, wall: Timestamp) -> Option<Suppressed> {
        let open = |pause: &&Pause| pause.until.is_none_or(|until| wall < until);
        if let Some(Pause { why, until }) = self.pause.as_ref().filter(open) {
            return Some(Suppressed { by: By::Operator, why: why.clone(), until: *until });
        }
        let open = self.windows.iter().filter_map(|window| Some((window.open(wall)?, window)));
        open.max_by_key(|(until, _)| *until).map(|(until, window)| Suppressed {
            by: By::Window,
            why: window.why.clone(),
            until: Some(until),
        })
    }
}

// === impl Window ===

impl Window {
    /// Until when it is open, if it is.
    #[must_use]
    pub fn open(&self, wall: Timestamp) -> Option<Timestamp> {
        let mut end = None;
        let mut time = before(wall, self.lasts);
        for _ in 0..OVERLAPS {
            match self.cron.after(time) {
                Some(next) if next <= end.unwrap_or(wall) => time = next,
                Some(_) | None => break,
            }
            end = Some(time + self.lasts);
        }
        end
    }
}

impl fmt::Display for Suppressed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.by {
            By::Operator => write!(f, "paused by the operator")?,
            By::Window => write!(f, "in a maintenance window")?,
        }
        if let Some(until) = self.until {
            write!(f, " until {until}")?;
        }
        write!(f, ": {}", self.why)
    }
}

// === times of the wall ===

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn before(time: Timestamp, duration: Duration) -> Timestamp {
    Timestamp::from_millis(time.as_millis().saturating_sub(millis(duration)))
}

/// How long it is from `time` to `next`; nothing if that is over.
fn after(time: Timestamp, next: Timestamp) -> Duration {
    let millis = next.as_millis().saturating_sub(time.as_millis());
    Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}
