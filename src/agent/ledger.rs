//! Which incidents are open, remembered over restarts.
//!
//! An agent that is killed and comes back must neither report an app that still hangs a second time
//! nor forget that it announced an incident whose evidence it had not sealed yet. Nor must it take an
//! app that was restarted meanwhile for the one that hung. The ledger is one small JSON file, replaced
//! as a whole.

use super::replace::replace;
use crate::base::id::{AppId, IncidentId, ScenarioName};
use crate::base::time::{Instant, Timestamp};
use crate::binding::Life;
use crate::bundle::Repeats;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The open incidents of a device.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    open: BTreeMap<String, OpenIncident>,
    /// The file does not say what we know.
    behind: bool,
}

/// One of them.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct OpenIncident {
    /// Its name.
    pub incident: String,
    /// When the app was declared failed.
    pub failed_at: Timestamp,
    /// The same by the clock that nobody sets,
    pub failed_uptime: Instant,
    /// of this boot.
    pub boot_id: [u8; 16],
    /// Which run of the app it was. An earlier version did not say.
    #[serde(default)]
    pub life: Life,
    /// The last revision of the headline.
    pub revision: u32,
    /// Whether the bundle is in the spool, or was.
    pub sealed: bool,
    /// If it is counted, and no evidence of it comes.
    #[serde(default)]
    pub counted: Option<Counted>,
}

/// How often the same was seen.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Counted {
    /// So many times,
    pub count: u32,
    /// first
    pub first: Timestamp,
    /// and last.
    pub last: Timestamp,
    /// The incident whose evidence was sent in full; empty if none was.
    pub full: String,
}

/// Why the ledger was not kept.
#[derive(Debug, thiserror::Error)]
#[error("failed to write {path}; free some space or mend its permissions")]
pub struct WriteError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl Ledger {
    /// Opens the ledger in `directory`. One that cannot be read is set aside and said to be lost.
    #[must_use]
    pub fn open(directory: &Path) -> Self {
        let path = directory.join("incidents.json");
        let open = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                let aside = path.with_extension("corrupt");
                tracing::error!(%error, aside = %aside.display(), "the ledger of open incidents is corrupt and was set aside; an app that still hangs is reported anew");
                fs::rename(&path, aside).ok();
                BTreeMap::new()
            }),
            Err(_) => BTreeMap::new(),
        };
        Self { path, open, behind: false }
    }

    /// The open incident of an app under a scenario.
    #[must_use]
    pub fn get(&self, app: AppId, scenario: &ScenarioName) -> Option<&OpenIncident> {
        self.open.get(&key(app, scenario))
    }

    /// Remembers an open incident, or what changed of it.
    ///
    /// # Errors
    ///
    /// When the disk does not take it; it is remembered while the program runs.
    pub fn put(
        &mut self,
        app: AppId,
        scenario: &ScenarioName,
        incident: OpenIncident,
    ) -> Result<(), WriteError> {
        self.open.insert(key(app, scenario), incident);
        self.write()
    }

    /// Forgets an incident that is over.
    ///
    /// # Errors
    ///
    /// When the disk does not take it.
    pub fn remove(&mut self, app: AppId, scenario: &ScenarioName) -> Result<(), WriteError> {
        self.open.remove(&key(app, scenario));
        self.write()
    }

    /// Tries again to write what the disk did not take.
    ///
    /// # Errors
    ///
    /// When the disk still does not take it.
    pub fn settle(&mut self) -> Result<(), WriteError> {
        if self.behind { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<(), WriteError> {
        let written = self.try_write();
        self.behind = written.is_err();
        written.map_err(|source| WriteError { path: self.path.clone(), source })
    }

    fn try_write(&self) -> io::Result<()> {
        replace(&self.path, &serde_json::to_vec_pretty(&self.open)?)
    }
}

impl OpenIncident {
    /// Its name; `None` if somebody else wrote the ledger.
    #[must_use]
    pub fn id(&self) -> Option<IncidentId> {
        self.incident.parse().ok()
    }

    /// Whether the app may still be in that run. None outlives the boot of its machine.
    #[must_use]
    pub fn may_be_of(&self, life: &Life, boot_id: [u8; 16]) -> bool {
        self.boot_id == boot_id && self.life.continues_as(life)
    }
}

impl Counted {
    /// The same as it travels.
    #[must_use]
    pub fn repeats(&self) -> Repeats {
        let Self { count, first, last, full } = self;
        Repeats { count: *count, first: *first, last: *last, full: full.parse().ok() }
    }
}

fn key(app: AppId, scenario: &ScenarioName) -> String {
    format!("{app} {scenario}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binding::Birth;

    fn life(inode: u64) -> Life {
        let socket = Some(Birth { inode, modified_ns: 1_795_161_463_411_000_000 });
        Life { pid: Some(4242), socket, ..Life::default() }
    }

    fn incident() -> OpenIncident {
        OpenIncident {
            incident: IncidentId::new([7; 16]).to_string(),
            failed_at: Timestamp::from_millis(1),
            failed_uptime: Instant::from_millis(2),
            boot_id: [3; 16],
            life: life(7),
            revision: 1,
            sealed: false,
            counted: None,
        }
    }

    #[test]
    fn open_incidents_are_remembered_over_restarts() {
        let directory = tempfile::tempdir().unwrap();
        let (app, scenario) = (AppId::new([1; 16]), "linux-console".parse().unwrap());
        let mut ledger = Ledger::open(directory.path());
        ledger.put(app, &scenario, incident()).unwrap();
        let mut ledger = Ledger::open(directory.path());
        assert_eq!(ledger.get(app, &scenario), Some(&incident()));
        ledger.remove(app, &scenario).unwrap();
        assert_eq!(Ledger::open(directory.path()).get(app, &scenario), None);
    }

    #[test]
    fn another_run_of_the_app_is_told_from_the_one_that_failed() {
        let open = incident();
        assert!(open.may_be_of(&life(7), [3; 16]));
        assert!(open.may_be_of(&Life::default(), [3; 16]), "not known is not another");
        assert!(!open.may_be_of(&life(8), [3; 16]));
        assert!(!open.may_be_of(&Life { pid: Some(4243), ..Life::default() }, [3; 16]));
        assert!(!open.may_be_of(&life(7), [4; 16]), "the machine booted");
    }

    #[test]
    fn a_ledger_that_knows_no_runs_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let (app, scenario) = (AppId::new([1; 16]), "linux-console".parse().unwrap());
        Ledger::open(directory.path()).put(app, &scenario, incident()).unwrap();
        let path = directory.path().join("incidents.json");
        let mut file: serde_json::Value =
            serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        file[key(app, &scenario)].as_object_mut().unwrap().remove("life").unwrap();
        fs::write(&path, file.to_string()).unwrap();
        let ledger = Ledger::open(directory.path());
        let read = ledger.get(app, &scenario).unwrap();
        assert_eq!(*read, OpenIncident { life: Life::default(), ..incident() });
        assert!(read.may_be_of(&life(8), [3; 16]));
    }

    #[test]
    fn a_corrupt_ledger_is_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("incidents.json"), b"\0\0\0").unwrap();
        let ledger = Ledger::open(directory.path());
        assert!(ledger.open.is_empty());
        assert!(directory.path().join("incidents.corrupt").exists());
    }
}
