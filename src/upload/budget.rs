//! How many bytes the uplink may carry: an hour, and a month. No IO, no clock.
//!
//! ```text
//!   bundles and dumps   wait when nine tenths of the hour's or the month's bytes are gone,
//!                       until the next hour or month begins
//!   headlines, status   never wait: the last tenth is theirs, and they are few and small
//! ```
//!
//! What the month has left, without what waits already, says how much of an incident's evidence is still
//! worth sealing: all of it, the first 64 KiB, or nothing but its headline.
//!
//! The month is 30 days by the device's clock. One that goes back begins no month, and one that leaps
//! begins one too early: that costs one month's bytes at most for every leap.

use crate::base::limits;
use crate::base::time::{Instant, Timestamp};
use serde::{Deserialize, Serialize};
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);
const MONTH: Duration = Duration::from_secs(30 * 24 * 3600);

/// What a person allows. Nothing is without bounds.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Bounds {
    /// Bytes an hour.
    pub hour: Option<u64>,
    /// Bytes a month.
    pub month: Option<u64>,
}

/// What was sent since a month began: what is to be remembered over restarts.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Month {
    /// When it began.
    pub began: Timestamp,
    /// So many bytes.
    pub sent: u64,
}

/// How much of an incident's evidence is sealed.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub enum Worth {
    /// None: the headline has to do.
    Headline,
    /// What fits into 64 KiB.
    First,
    /// All.
    #[default]
    Full,
}

/// What is left.
#[derive(Clone, Debug)]
pub struct Budget {
    bounds: Bounds,
    month: Month,
    hour_began: Instant,
    hour_sent: u64,
}

impl Budget {
    /// A budget of which so much was spent this month.
    #[must_use]
    pub fn new(bounds: Bounds, month: Month, now: Instant) -> Self {
        Self { bounds, month, hour_began: now, hour_sent: 0 }
    }

    /// Something was sent.
    pub fn spend(&mut self, bytes: u64, now: Instant, wall: Timestamp) {
        self.turn(now, wall);
        self.hour_sent = self.hour_sent.saturating_add(bytes);
        self.month.sent = self.month.sent.saturating_add(bytes);
    }

    /// Until when bundles wait, if they do.
    pub fn waits_until(&mut self, now: Instant, wall: Timestamp) -> Option<Instant> {
        self.turn(now, wall);
        let hour = is_spent(self.hour_sent, self.bounds.hour).then(|| self.hour_began + HOUR);
        let month = is_spent(self.month.sent, self.bounds.month).then(|| {
            let ago = u64::try_from(wall.as_millis().saturating_sub(self.month.began.as_millis()));
            now + MONTH.saturating_sub(Duration::from_millis(ago.unwrap_or(0)))
        });
        hour.max(month)
    }

    /// How much of an incident's evidence is worth sealing while so many bytes wait.
    #[must_use]
    pub fn worth(&mut self, waiting: u64, wall: Timestamp) -> Worth {
        self.turn_month(wall);
        let Some(month) = self.bounds.month else { return Worth::Full };
        let left = for_bundles(month).saturating_sub(self.month.sent).saturating_sub(waiting);
        match left {
            limits::FULL_BYTES.. => Worth::Full,
            limits::FIRST_BYTES.. => Worth::First,
            _ => Worth::Headline,
        }
    }

    /// What is to be remembered.
    #[must_use]
    pub fn month(&self) -> Month {
        self.month
    }

    fn turn(&mut self, now: Instant, wall: Timestamp) {
        if now.since(self.hour_began) >= HOUR {
            (self.hour_began, self.hour_sent) = (now, 0);
        }
        self.turn_month(wall);
    }

    fn turn_month(&mut self, wall: Timestamp) {
        let ago = wall.as_millis().saturating_sub(self.month.began.as_millis());
        if u64::try_from(ago).is_ok_and(|ago| Duration::from_millis(ago) >= MONTH) {
            self.month = Month { began: wall, sent: 0 };
        } else if ago < 0 {
            // By this clock it has only just begun. What was sent stays sent.
            self.month.began = wall;
        }
    }
}

impl Worth {
    /// The word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Headline => "headline",
            Self::First => "first",
            Self::Full => "full",
        }
    }
}

fn is_spent(sent: u64, bound: Option<u64>) -> bool {
    bound.is_some_and(|bound| sent >= for_bundles(bound))
}

/// The last tenth is for headlines.
fn for_bundles(bound: u64) -> u64 {
    bound - bound / 10
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { hour: Some(1000), month: Some(100_000_000) };

    fn at(secs: u64) -> Instant {
        Instant::from_millis(secs * 1000)
    }

    fn wall(secs: i64) -> Timestamp {
        Timestamp::from_millis(secs * 1000)
    }

    #[test]
    fn bundles_wait_for_the_next_hour_and_the_last_tenth_is_for_headlines() {
        let mut budget = Budget::new(BOUNDS, Month { began: wall(0), sent: 0 }, at(10));
        budget.spend(899, at(11), wall(11));
        assert_eq!(budget.waits_until(at(11), wall(11)), None);
        budget.spend(1, at(12), wall(12));
        assert_eq!(budget.waits_until(at(12), wall(12)), Some(at(3610)));
        assert_eq!(budget.waits_until(at(3610), wall(3610)), None);
        let mut free = Budget::new(Bounds::default(), Month::default(), at(0));
        free.spend(u64::MAX, at(1), wall(1));
        assert_eq!(
            (free.waits_until(at(1), wall(1)), free.worth(1 << 40, wall(1))),
            (None, Worth::Full)
        );
    }

    #[test]
    fn a_month_outlives_restarts_and_a_clock_that_goes_back() {
        let spent = Month { began: wall(1_000_000), sent: 95_000_000 };
        let mut budget = Budget::new(BOUNDS, spent, at(0));
        let month = 30 * 24 * 3600;
        let left = budget.waits_until(at(0), wall(1_000_000 + month - 60));
        assert_eq!(left, Some(at(60)));
        assert_eq!(budget.waits_until(at(60), wall(1970)), Some(at(60 + month as u64)));
        assert_eq!(budget.month(), Month { began: wall(1970), sent: 95_000_000 });
        assert_eq!(budget.waits_until(at(60), wall(1970 + month)), None, "the next month");
        assert_eq!(budget.month(), Month { began: wall(1970 + month), sent: 0 });
    }

    #[test]
    fn less_is_sealed_the_less_is_left() {
        let worth = |sent, waiting| {
            let month = Month { began: wall(0), sent };
            Budget::new(BOUNDS, month, at(0)).worth(waiting, wall(1))
        };
        assert_eq!(worth(0, 0), Worth::Full);
        assert_eq!(worth(0, 89_000_000), Worth::First);
        assert_eq!(worth(89_000_000, 0), Worth::First);
        assert_eq!(worth(89_999_999, 0), Worth::Headline);
        assert_eq!(worth(u64::MAX, 0), Worth::Headline);
    }
}
