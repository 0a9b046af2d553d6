//! When the next round starts.
//!
//! Rounds of one app stand a period apart, shifted by a part of the period that is the app's own,
//! so that 500 apps do not ask at once. A round that took too long is not made up for: the next one
//! starts at the next beat.

use crate::base::time::Instant;
use std::time::Duration;

/// The beat of one app under one scenario.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    first: Instant,
    period: Duration,
}

impl Schedule {
    /// Beats every `period` from `start` on, shifted by `share` (of 65536) of the period.
    #[must_use]
    pub fn new(start: Instant, period: Duration, share: u16) -> Self {
        let period = period.max(Duration::from_millis(1));
        let shift = period.mul_f64(f64::from(share) / 65536.0);
        Self { first: start + shift, period }
    }

    /// The first beat after `now`.
    #[must_use]
    pub fn next(&self, now: Instant) -> Instant {
        if now < self.first {
            return self.first;
        }
        let period = u64::try_from(self.period.as_millis()).unwrap_or(u64::MAX);
        let beats = (now.as_millis() - self.first.as_millis()) / period + 1;
        Instant::from_millis(self.first.as_millis().saturating_add(beats.saturating_mul(period)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn beats_are_ahead_and_no_further_than_a_period(
            start in 0_u64..1 << 40, period in 1_u64..1 << 30, share: u16, later in 0_u64..1 << 40,
        ) {
            let period = Duration::from_millis(period);
            let start = Instant::from_millis(start);
            let schedule = Schedule::new(start, period, share);
            let now = start + Duration::from_millis(later);
            let next = schedule.next(now);
            prop_assert!(next > now || next == schedule.first);
            prop_assert!(next.since(now) <= period);
        }
    }

    #[test]
    fn a_long_sleep_skips_beats() {
        let schedule = Schedule::new(Instant::from_millis(1000), Duration::from_secs(30), 32768);
        assert_eq!(schedule.next(Instant::from_millis(0)), Instant::from_millis(16_000));
        assert_eq!(schedule.next(Instant::from_millis(16_000)), Instant::from_millis(46_000));
        assert_eq!(schedule.next(Instant::from_millis(100_000)), Instant::from_millis(106_000));
    }
}
