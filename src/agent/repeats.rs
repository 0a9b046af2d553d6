//! What an app has failed of before, so that the same is not sent in full again and again.
//!
//! ```text
//!   diagnosed:  signature not seen within the cooldown --> bundle; the cooldown begins
//!               seen -----------------------------------> counted: a headline with count, first, last
//!   failed:     too often within an hour ---------------> counted under the name of one incident, and
//!                                                         not looked into; told at each doubling
//! ```
//!
//! Only what is on its way begins a cooldown. The file is small and replaced as a whole; without it
//! more is sent, not less. A clock that goes back or leaps ends a cooldown, for the same reason.

use super::ledger::{Counted, OpenIncident};
use super::replace::replace;
use crate::base::document::{Node, Notes};
use crate::base::id::{AppId, IncidentId, ScenarioName};
use crate::base::limits;
use crate::base::time::{Instant, Timestamp};
use crate::binding::App;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);

/// What a person decides.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Settings {
    /// The same signature of an app is sent in full once in this time.
    pub cooldown: Duration,
    /// So many incidents of an app under a scenario are looked into within an hour.
    pub hourly: usize,
}

/// What the device remembers.
#[derive(Debug)]
pub struct Repeats {
    path: PathBuf,
    settings: Settings,
    seen: BTreeMap<String, Seen>,
    paces: BTreeMap<(AppId, ScenarioName), Pace>,
}

/// A signature of an app.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
struct Seen {
    /// The last time that it was sent in full.
    full_at: Timestamp,
    counted: Counted,
}

/// How often an app failed lately under a scenario.
#[derive(Debug, Default)]
struct Pace {
    begun: VecDeque<Instant>,
    flood: Option<Flood>,
}

#[derive(Debug)]
struct Flood {
    app: App,
    open: OpenIncident,
    last: Instant,
    told: u32,
    told_at: Instant,
}

/// What becomes of a failure.
#[derive(Debug)]
pub enum Failed {
    /// It is looked into.
    Alone(OpenIncident),
    /// There were too many: it is counted under this name.
    Counted {
        /// The incident that stands for all of them.
        open: OpenIncident,
        /// Whether a headline says so now.
        tell: bool,
    },
}

/// The last word on a flood, or one of some time.
#[derive(Debug)]
pub struct News {
    /// Whose.
    pub app: App,
    /// Under which scenario.
    pub scenario: ScenarioName,
    /// What is to be told.
    pub open: OpenIncident,
}

impl Settings {
    /// What a device does by default.
    pub const STANDARD: Self = Self { cooldown: limits::COOLDOWN, hourly: limits::HOURLY };

    /// Reads the key `repeats` of a config, which may be missing.
    pub(super) fn read(node: Option<&Node>, notes: &Notes) -> Option<Self> {
        let standard = Self::STANDARD;
        let Some(node) = node else { return Some(standard) };
        let mut map = node.map(notes)?;
        let cooldown = map.or("cooldown", standard.cooldown);
        let hourly = map.optional::<u32>("hourly");
        map.finish();
        let hourly = hourly.map_or(standard.hourly, |n| usize::try_from(n).unwrap_or(usize::MAX));
        Some(Self { cooldown: cooldown?, hourly: hourly.max(1) })
    }
}

impl Repeats {
    /// What was remembered in `directory`; nothing if that cannot be read.
    #[must_use]
    pub fn open(directory: &Path, settings: Settings) -> Self {
        let path = directory.join("repeats.json");
        let seen = std::fs::read(&path).ok();
        let seen = seen.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        Self { path, settings, seen, paces: BTreeMap::new() }
    }

    /// Counts an incident whose signature was sent in full not long ago.
    pub fn count(&mut self, app: AppId, signature: &str, at: Timestamp) -> Option<Counted> {
        let seen = self.seen.get_mut(&key(app, signature))?;
        let ago = at.as_millis().checked_sub(seen.full_at.as_millis())?;
        let ago = Duration::from_millis(u64::try_from(ago).ok()?);
        if ago >= self.settings.cooldown {
            return None;
        }
        seen.counted.count = seen.counted.count.saturating_add(1);
        seen.counted.last = at;
        let counted = seen.counted.clone();
        self.write();
        Some(counted)
    }

    /// The evidence of this incident is on its way.
    pub fn sent(&mut self, app: AppId, signature: &str, incident: IncidentId, at: Timestamp) {
        let counted = Counted { count: 1, first: at, last: at, full: incident.to_string() };
        self.seen.insert(key(app, signature), Seen { full_at: at, counted });
        if self.seen.len() > limits::REPEATS {
            let oldest = self.seen.iter().min_by_key(|(_, seen)| seen.counted.last);
            let oldest = oldest.map(|(key, _)| key.clone());
            oldest.and_then(|key| self.seen.remove(&key));
        }
        self.write();
    }

    /// An app has failed.
    pub fn failed(
        &mut self,
        app: &App,
        scenario: &ScenarioName,
        fresh: OpenIncident,
        now: Instant,
    ) -> Failed {
        let pace = self.paces.entry((app.id, scenario.clone())).or_default();
        let many = pace.begun.len() >= self.settings.hourly;
        let too_many = many && pace.begun.front().is_some_and(|first| now.since(*first) < HOUR);
        if !too_many {
            pace.begun.push_back(now);
            let surplus = pace.begun.len().saturating_sub(self.settings.hourly);
            pace.begun.drain(..surplus);
            return Failed::Alone(fresh);
        }
        let flood = pace.flood.get_or_insert_with(|| Flood::new(app, &fresh, now));
        let tell = flood.add(fresh, now);
        Failed::Counted { open: flood.open.clone(), tell }
    }

    /// Whether an incident stands for many, of which more may come.
    #[must_use]
    pub fn is_flood(&self, open: &OpenIncident) -> bool {
        let mut floods = self.paces.values().filter_map(|pace| pace.flood.as_ref());
        floods.any(|flood| flood.open.incident == open.incident)
    }

    /// What of floods is to be told though nothing has happened. One that is over is forgotten.
    pub fn news(&mut self, now: Instant) -> Vec<News> {
        let mut news = Vec::new();
        for ((_, scenario), pace) in &mut self.paces {
            let Some(flood) = &mut pace.flood else { continue };
            if flood.is_untold() && now.since(flood.told_at) >= HOUR {
                flood.tell(now);
                let (app, open) = (flood.app.clone(), flood.open.clone());
                news.push(News { app, scenario: scenario.clone(), open });
            }
            pace.flood.take_if(|flood| !flood.is_untold() && now.since(flood.last) >= HOUR);
        }
        news
    }

    /// Whoever cannot write it sends in full what was sent before the next start.
    fn write(&self) {
        let written = serde_json::to_vec(&self.seen)
            .map_err(Into::into)
            .and_then(|b| replace(&self.path, &b));
        if let Err(error) = written {
            tracing::warn!(%error, path = %self.path.display(), "repeats are counted in memory only");
        }
    }
}

impl Flood {
    fn new(app: &App, fresh: &OpenIncident, now: Instant) -> Self {
        let at = fresh.failed_at;
        let counted = Counted { count: 0, first: at, last: at, full: String::new() };
        let open =
            OpenIncident { revision: 0, sealed: true, counted: Some(counted), ..fresh.clone() };
        Self { app: app.clone(), open, last: now, told: 0, told_at: now }
    }

    /// Counts one more, and says whether that is told.
    fn add(&mut self, fresh: OpenIncident, now: Instant) -> bool {
        self.last = now;
        let (counted, name) = (self.open.counted.take(), self.open.incident.clone());
        let revision = self.open.revision;
        let counted = counted.map(|counted| Counted {
            count: counted.count.saturating_add(1),
            last: fresh.failed_at,
            ..counted
        });
        self.open = OpenIncident { incident: name, revision, sealed: true, counted, ..fresh };
        let tell = self.count().is_power_of_two() || now.since(self.told_at) >= HOUR;
        if tell {
            self.tell(now);
        }
        tell
    }

    fn tell(&mut self, now: Instant) {
        self.open.revision += 1;
        (self.told, self.told_at) = (self.count(), now);
    }

    fn count(&self) -> u32 {
        self.open.counted.as_ref().map_or(0, |counted| counted.count)
    }

    fn is_untold(&self) -> bool {
        self.count() > self.told
    }
}

fn key(app: AppId, signature: &str) -> String {
    format!("{app} {signature}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binding::Life;

    const SETTINGS: Settings = Settings { cooldown: Duration::from_secs(100), hourly: 3 };
    fn web() -> AppId {
        AppId::new([1; 16])
    }

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_millis(secs * 1000)
    }

    fn after(secs: u64) -> Instant {
        Instant::from_millis(secs * 1000)
    }

    fn fresh(name: u8, secs: u64) -> OpenIncident {
        OpenIncident {
            incident: IncidentId::new([name; 16]).to_string(),
            failed_at: at(secs as i64),
            failed_uptime: after(secs),
            boot_id: [3; 16],
            life: Life::default(),
            revision: 1,
            sealed: false,
            counted: None,
        }
    }

    #[test]
    fn the_same_is_sent_in_full_once_in_a_cooldown() {
        let place = tempfile::tempdir().unwrap();
        let first = IncidentId::new([7; 16]);
        let mut repeats = Repeats::open(place.path(), SETTINGS);
        assert_eq!(repeats.count(web(), "s", at(1000)), None);
        repeats.sent(web(), "s", first, at(1000));
        let counted = |count, last| {
            Some(Counted { count, first: at(1000), last: at(last), full: first.to_string() })
        };
        assert_eq!(repeats.count(web(), "s", at(1001)), counted(2, 1001));
        let mut repeats = Repeats::open(place.path(), SETTINGS);
        assert_eq!(repeats.count(web(), "s", at(1099)), counted(3, 1099), "over a restart");
        assert_eq!(repeats.count(web(), "other", at(1099)), None);
        assert_eq!(repeats.count(AppId::new([2; 16]), "s", at(1099)), None);
        assert_eq!(repeats.count(web(), "s", at(1100)), None, "the cooldown is over");
        assert_eq!(repeats.count(web(), "s", at(0)), None, "the clock went back to 1970");
        assert_eq!(repeats.count(web(), "s", at(4_291_747_200)), None, "or on to 2106");
        assert_eq!(repeats.count(web(), "s", Timestamp::from_millis(i64::MIN)), None);
    }

    #[test]
    fn a_damaged_file_sends_more_and_the_number_of_signatures_is_bounded() {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join("repeats.json"), "{").unwrap();
        let mut repeats = Repeats::open(place.path(), SETTINGS);
        repeats.path = place.path().join("missing/repeats.json");
        for n in 0..=limits::REPEATS {
            repeats.sent(web(), &n.to_string(), IncidentId::new([7; 16]), at(n as i64));
        }
        assert_eq!(repeats.seen.len(), limits::REPEATS);
        assert_eq!(repeats.count(web(), "0", at(1)), None, "the oldest was forgotten");
    }

    #[test]
    fn a_guest_that_fails_every_minute_is_counted_under_one_name() {
        let place = tempfile::tempdir().unwrap();
        let mut repeats = Repeats::open(place.path(), SETTINGS);
        let (app, scenario) = (App::new(web(), "web"), "quick".parse().unwrap());
        let (mut alone, mut told, mut names) = (0, Vec::new(), std::collections::BTreeSet::new());
        for minute in 0..=130 {
            let now = after(minute * 60);
            match repeats.failed(&app, &scenario, fresh(minute as u8, minute * 60), now) {
                Failed::Alone(_) => alone += 1,
                Failed::Counted { open, tell } => {
                    assert!(repeats.is_flood(&open));
                    names.insert(open.incident.clone());
                    let counted = open.counted.unwrap();
                    told.extend(tell.then_some((open.revision, counted.count)));
                }
            }
        }
        assert_eq!((alone, names.len()), (9, 1), "three an hour are looked into");
        assert_eq!(told[..7], [(1, 1), (2, 2), (3, 4), (4, 8), (5, 16), (6, 32), (7, 64)]);

        let last = 130 * 60;
        let news = repeats.news(after(last + 3600));
        let counted = news[0].open.counted.clone().unwrap();
        assert_eq!((news.len(), counted.count, counted.last), (1, 122, at(last as i64)));
        assert_eq!(repeats.news(after(last + 9000)).len(), 0);
        assert!(!repeats.is_flood(&news[0].open), "it is over");
        let again = repeats.failed(&app, &scenario, fresh(200, last + 9000), after(last + 9000));
        assert!(matches!(again, Failed::Alone(_)));
    }
}
