//! Time as a value.
//!
//! Rooms take `now` as an argument; only a shell asks [`Clock`]. An [`Instant`] counts the sleep of
//! the machine and never runs backward; a [`Timestamp`] is what the device believes the date to be.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::{Add, Sub};
use std::str::FromStr;
use std::time::Duration;

/// Milliseconds since the machine booted, sleep included.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct Instant(u64);

/// Milliseconds since 1970, by a clock that anybody may set.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

/// The one place where the clock is read.
pub struct Clock;

impl Instant {
    /// So many milliseconds after boot.
    #[must_use]
    pub fn from_millis(ms: u64) -> Self {
        Self(ms)
    }

    /// Milliseconds after boot.
    #[must_use]
    pub fn as_millis(self) -> u64 {
        self.0
    }

    /// How long ago `earlier` was; nothing if it is still to come.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl Timestamp {
    /// So many milliseconds after the start of 1970.
    #[must_use]
    pub fn from_millis(ms: i64) -> Self {
        Self(ms)
    }

    /// Milliseconds after the start of 1970.
    #[must_use]
    pub fn as_millis(self) -> i64 {
        self.0
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }
}

/// Text that is no date.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("is not a date with its zone, such as 2030-01-31T18:00Z")]
pub struct NoDate;

impl FromStr for Timestamp {
    type Err = NoDate;

    fn from_str(text: &str) -> Result<Self, NoDate> {
        let date: jiff::Timestamp = text.parse().map_err(|_| NoDate)?;
        Ok(Self(date.as_millisecond()))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(timestamp) => write!(f, "{timestamp:.0}"),
            Err(_) => write!(f, "{} ms", self.0),
        }
    }
}

impl Clock {
    /// Now, by the clock that nobody can set.
    #[must_use]
    pub fn now() -> Instant {
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
            .expect("Linux has CLOCK_BOOTTIME since 2.6.39");
        Instant(u64::try_from(Duration::from(now).as_millis()).unwrap_or(u64::MAX))
    }

    /// Now, by the clock on the wall.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the clock is let in here")]
    pub fn wall() -> Timestamp {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Timestamp(since.map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX)))
    }
}

/// A duration as a person says it: `250 ms`, `4.0 s`, `3 min 20 s`, `2 h 5 min`.
pub struct Spoken(pub Duration);

impl fmt::Display for Spoken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        match seconds {
            0 => write!(f, "{} ms", self.0.as_millis()),
            1..60 => write!(f, "{:.1} s", self.0.as_secs_f64()),
            60..3600 => write!(f, "{} min {} s", seconds / 60, seconds % 60),
            _ => write!(f, "{} h {} min", seconds / 3600, seconds % 3600 / 60),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_said_plainly() {
        assert_eq!(Timestamp(1_700_000_000_123).to_string(), "2023-11-14T22:13:20Z");
        assert_eq!(Spoken(Duration::from_millis(250)).to_string(), "250 ms");
        assert_eq!(Spoken(Duration::from_millis(4_040)).to_string(), "4.0 s");
        assert_eq!(Spoken(Duration::from_secs(200)).to_string(), "3 min 20 s");
        assert_eq!(Spoken(Duration::from_secs(7_500)).to_string(), "2 h 5 min");
    }
}
