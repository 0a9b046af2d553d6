//! Times of the wall clock, as crontab writes them.
//!
//! Five fields, or six with seconds in front, or seven with a year at the end. Across daylight
//! saving a job of the skipped hour runs once, when the hour is over, and a job of the doubled hour
//! runs once, too. The zones are those of the program's own database: a device may have none.

use crate::base::time::Timestamp;
use jiff::Zoned;
use jiff::tz::TimeZone;
use std::str::FromStr;
use std::time::Duration;

/// Where the search for a first time starts: a pattern that has none after it will never have one.
const EPOCH_SECONDS: i64 = 1_767_225_600; // 2026-01-01T00:00:00Z

/// So many times tell how far apart they are: more than a year of a weekly job.
const SAMPLE: usize = 64;

/// The fields and their names, with seconds and year.
const FIELDS: [&str; 7] = ["second", "minute", "hour", "day", "month", "day of the week", "year"];

/// A pattern of times in a zone.
#[derive(Clone, Debug)]
pub struct Cron {
    text: String,
    pattern: croner::Cron,
    zone: Zone,
    shortest: Duration,
    longest: Duration,
}

/// A time zone by its name.
#[derive(Clone, Debug)]
pub struct Zone {
    name: String,
    zone: TimeZone,
}

/// Why a pattern is refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refused {
    /// Not 5 to 7 fields.
    #[error("{0} field{s} where 5 to 7 make a pattern", s = if *.0 == 1 { "" } else { "s" })]
    Fields(usize),
    /// One of the fields is wrong.
    #[error("the {field} cannot be `{text}`")]
    Field {
        /// Which.
        field: &'static str,
        /// What was written.
        text: String,
    },
    /// Wrong as a whole.
    #[error("{0}")]
    Pattern(String),
    /// No day of any year to come fits.
    #[error("it never fires")]
    Never,
}

// === impl Cron ===

impl Cron {
    /// Reads a pattern, and makes sure that it fires.
    ///
    /// # Errors
    ///
    /// When it is none, or never fires.
    pub fn new(text: &str, zone: Zone) -> Result<Self, Refused> {
        let fields: Vec<&str> = text.split_whitespace().collect();
        if !(5..=7).contains(&fields.len()) {
            return Err(Refused::Fields(fields.len()));
        }
        if let Some((field, text)) = wrong_field(&fields) {
            return Err(Refused::Field { field, text: text.to_owned() });
        }
        let pattern = croner::Cron::from_str(&fields.join(" "))
            .map_err(|error| Refused::Pattern(error.to_string()))?;
        let text = fields.join(" ");
        let (shortest, longest) = (Duration::MAX, Duration::ZERO);
        let mut cron = Self { text, pattern, zone, shortest, longest };
        let mut at = Timestamp::from_millis(EPOCH_SECONDS * 1000);
        for index in 0..SAMPLE {
            let Some(next) = cron.after(at) else {
                if index == 0 {
                    return Err(Refused::Never);
                }
                break;
            };
            let gap = Duration::from_millis(next.as_millis().abs_diff(at.as_millis()));
            if index > 0 {
                cron.shortest = cron.shortest.min(gap);
                cron.longest = cron.longest.max(gap);
            }
            at = next;
        }
        Ok(cron)
    }

    /// The first time after `time`, if there is another.
    #[must_use]
    pub fn after(&self, time: Timestamp) -> Option<Timestamp> {
        // Whole seconds: a pattern knows no smaller part, and half a second before is not after.
        let seconds = time.as_millis().div_euclid(1000);
        let start = self.zone.at(seconds)?;
        let next = self.pattern.find_next_occurrence(&start, false).ok()?;
        Some(Timestamp::from_millis(next.timestamp().as_second().saturating_mul(1000)))
    }

    /// The least time between two of its times.
    #[must_use]
    pub fn shortest(&self) -> Duration {
        self.shortest
    }

    /// The most time between two of its times.
    #[must_use]
    pub fn longest(&self) -> Duration {
        self.longest
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// In words.
    #[must_use]
    pub fn describe(&self) -> String {
        let words = self.pattern.describe();
        format!("{} ({})", words.trim_end_matches('.'), self.zone.name)
    }
}

impl PartialEq for Cron {
    fn eq(&self, other: &Self) -> bool {
        (&self.text, &self.zone.name) == (&other.text, &other.zone.name)
    }
}

impl Eq for Cron {}

/// The field that is wrong by itself, by its name.
fn wrong_field<'a>(fields: &[&'a str]) -> Option<(&'static str, &'a str)> {
    // Without seconds the names start at the minute.
    let names = &FIELDS[usize::from(fields.len() == 5)..];
    let wrong = |index: usize, field: &str| {
        let mut others = vec!["*"; fields.len()];
        others[index] = field;
        croner::Cron::from_str(&others.join(" ")).is_err()
    };
    let mut all = names.iter().zip(fields).enumerate();
    all.find(|(index, (_, field))| wrong(*index, field)).map(|(_, (name, field))| (*name, *field))
}

// === impl Zone ===

impl Zone {
    /// The zone that is the same everywhere.
    #[must_use]
    pub fn utc() -> Self {
        Self { name: "UTC".to_owned(), zone: TimeZone::UTC }
    }

    /// A zone by its name in the IANA database, such as `Europe/Berlin`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let zone = jiff::tz::db().get(name).ok()?;
        Some(Self { name: zone.iana_name().unwrap_or(name).to_owned(), zone })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    fn at(&self, seconds: i64) -> Option<Zoned> {
        let timestamp = jiff::Timestamp::from_second(seconds).ok()?;
        Some(timestamp.to_zoned(self.zone.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first times after `start`, with their offset.
    fn times(pattern: &str, zone: &str, start: &str, count: usize) -> Vec<String> {
        let zone = Zone::named(zone).unwrap();
        let cron = Cron::new(pattern, zone.clone()).unwrap();
        let start: jiff::Timestamp = start.parse().unwrap();
        let mut at = Timestamp::from_millis(start.as_millisecond());
        let mut times = Vec::new();
        for _ in 0..count {
            at = cron.after(at).unwrap();
            let shown = zone.at(at.as_millis() / 1000).unwrap();
            times.push(shown.strftime("%m-%d %H:%M:%S%:z").to_string());
        }
        times
    }

    #[test]
    fn a_job_of_the_skipped_hour_runs_once_after_it() {
        assert_eq!(
            times("30 2 * * *", "Europe/Berlin", "2026-03-28T00:00:00Z", 3),
            ["03-28 02:30:00+01:00", "03-29 03:00:00+02:00", "03-30 02:30:00+02:00"]
        );
    }

    #[test]
    fn a_job_of_the_doubled_hour_runs_once() {
        assert_eq!(
            times("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 2),
            ["10-25 02:30:00+02:00", "10-26 02:30:00+01:00"]
        );
    }

    #[test]
    fn a_job_of_every_quarter_runs_through_both() {
        assert_eq!(
            times("*/15 * * * *", "Europe/Berlin", "2026-10-25T00:40:00Z", 5),
            [
                "10-25 02:45:00+02:00",
                "10-25 02:00:00+01:00",
                "10-25 02:15:00+01:00",
                "10-25 02:30:00+01:00",
                "10-25 02:45:00+01:00"
            ]
        );
        assert_eq!(
            times("*/30 * * * *", "Europe/Berlin", "2026-03-29T00:29:00Z", 3),
            ["03-29 01:30:00+01:00", "03-29 03:00:00+02:00", "03-29 03:30:00+02:00"]
        );
    }

    #[test]
    fn seconds_years_and_days_are_crontabs() {
        assert_eq!(
            times("*/20 * * * * *", "UTC", "2026-01-01T00:00:05Z", 2),
            ["01-01 00:00:20+00:00", "01-01 00:00:40+00:00"]
        );
        // Both days are given: either will do, and 1 is Monday.
        assert_eq!(
            times("0 0 13 * 1", "UTC", "2026-01-06T00:00:00Z", 3),
            ["01-12 00:00:00+00:00", "01-13 00:00:00+00:00", "01-19 00:00:00+00:00"]
        );
        assert_eq!(times("0 0 0 29 2 * 2028", "UTC", "2026-01-06T00:00:00Z", 1).len(), 1);
    }

    #[test]
    fn what_is_no_pattern_or_never_fires_is_refused() {
        let refused = |text: &str| Cron::new(text, Zone::utc()).unwrap_err().to_string();
        assert_eq!(refused("* * *"), "3 fields where 5 to 7 make a pattern");
        assert_eq!(refused("61 * * * *"), "the minute cannot be `61`");
        assert_eq!(refused("0 0 0 * * 8"), "the day of the week cannot be `8`");
        for never in ["0 0 30 2 *", "0 0 31 4,6,9,11 *", "0 0 0 1 1 * 2020", "0 0 0 29 2 * 2027"] {
            assert_eq!(refused(never), "it never fires", "{never}");
        }
    }

    #[test]
    fn a_zone_is_known_by_its_name_alone() {
        assert_eq!(Zone::named("europe/berlin").unwrap().name(), "Europe/Berlin");
        assert!(Zone::named("Berlin").is_none());
        assert!(Zone::named("../etc/passwd").is_none());
    }
}
