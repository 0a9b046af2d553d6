//! Which apps an operator wishes to be left alone, and until when.
//!
//! `lifesign pause` and `lifesign resume` write one small file in the state directory; the agent
//! looks at it before every round. So a pause needs no running agent, survives its restarts, and is
//! in force from the next round on. An app that is paused is not asked, whatever its scenarios say.

use super::replace::replace;
use crate::base::limits;
use crate::base::time::Timestamp;
use crate::binding::{App, Selector};
use crate::scenario::schedule::Pause;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

const FILE: &str = "pauses.json";

/// The pauses of a device, as its agent sees them.
#[derive(Debug)]
pub struct Pauses {
    path: PathBuf,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// Tells one version of the file from the next.
    version: Option<Version>,
    pauses: BTreeMap<Whom, Told>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Version {
    inode: u64,
    modified: (i64, i64),
    length: u64,
}

/// Apps, as an operator named them: a UUID, a name, or a pattern of names.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Whom(pub String);

/// What an operator said of them.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct Told {
    /// What for.
    pub why: String,
    /// Until when; for good if nothing is said.
    pub until: Option<Timestamp>,
}

/// Why the pauses cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("failed to read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It holds something else.
    #[error("{path} is damaged; remove it, and pause anew what shall be left alone")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// It cannot be written.
    #[error("failed to write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is no such pause.
    #[error("`{whom}` is not paused{}", known(.paused))]
    Unknown {
        /// Who is not.
        whom: String,
        /// Who is.
        paused: Vec<String>,
    },
    /// Too many.
    #[error(
        "there are {} pauses already; resume some, or pause a pattern of names",
        limits::PAUSES
    )]
    Full,
}

fn known(paused: &[String]) -> String {
    if paused.is_empty() {
        "; nobody is".to_owned()
    } else {
        format!("; there are pauses of `{}`", paused.join("`, `"))
    }
}

// === impl Pauses ===

impl Pauses {
    /// Those that are kept in this state directory.
    #[must_use]
    pub fn new(state: &Path) -> Self {
        Self { path: state.join(FILE), seen: Mutex::default() }
    }

    /// The pause of this app that lasts longest, if it is paused now.
    pub fn of(&self, app: &App, now: Timestamp) -> Option<Pause> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.look(&self.path);
        let open = seen.pauses.iter().filter(|(whom, told)| told.is_open(now) && whom.means(app));
        let (_, told) = open.max_by_key(|(_, told)| (told.until.is_none(), told.until))?;
        Some(Pause { why: told.why.clone(), until: told.until })
    }
}

impl Seen {
    /// Reads the file if it is another than before. One that cannot be read changes nothing.
    fn look(&mut self, path: &Path) {
        let version = fs::metadata(path).ok().as_ref().map(Version::of);
        if version == self.version {
            return;
        }
        self.version = version;
        match read(path) {
            Ok(pauses) => self.pauses = pauses,
            Err(error) => {
                let error = crate::base::chain::Chain(&error).to_string();
                tracing::error!(%error, "the operator's pauses stay as they were");
            }
        }
    }
}

impl Version {
    fn of(file: &Metadata) -> Self {
        let modified = (file.mtime(), file.mtime_nsec());
        Self { inode: file.ino(), modified, length: file.len() }
    }
}

impl Whom {
    fn means(&self, app: &App) -> bool {
        Selector::named(&self.0).selects(app)
    }
}

impl Told {
    fn is_open(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

// === what the command line does ===

/// Leaves them alone. What was said of the same before is replaced, and what is over is forgotten.
///
/// # Errors
///
/// When the file cannot be read or written.
pub fn pause(state: &Path, whom: Whom, told: Told, now: Timestamp) -> Result<(), Error> {
    change(state, |pauses| {
        pauses.retain(|_, told| told.is_open(now));
        pauses.insert(whom, told);
        if pauses.len() > limits::PAUSES { Err(Error::Full) } else { Ok(()) }
    })
}

/// Ends a pause, by the words by which it was begun.
///
/// # Errors
///
/// When there is none, or the file cannot be read or written.
pub fn resume(state: &Path, whom: &Whom, now: Timestamp) -> Result<(), Error> {
    change(state, |pauses| {
        pauses.retain(|_, told| told.is_open(now));
        if pauses.remove(whom).is_some() {
            return Ok(());
        }
        let paused = pauses.keys().map(|Whom(whom)| whom.clone()).collect();
        Err(Error::Unknown { whom: whom.0.clone(), paused })
    })
}

/// Those that are in force.
///
/// # Errors
///
/// When the file cannot be read.
pub fn list(state: &Path, now: Timestamp) -> Result<Vec<(Whom, Told)>, Error> {
    let pauses = read(&state.join(FILE))?;
    Ok(pauses.into_iter().filter(|(_, told)| told.is_open(now)).collect())
}

/// The same for people: a line each.
///
/// # Errors
///
/// When the file cannot be read.
pub fn lines(state: &Path, now: Timestamp) -> Result<Vec<String>, Error> {
    let pauses = list(state, now)?;
    if pauses.is_empty() {
        return Ok(vec!["nobody is paused".to_owned()]);
    }
    let line = |(Whom(whom), told): (Whom, Told)| match told.until {
        Some(until) => format!("{whom} until {until}: {}", told.why),
        None => format!("{whom} for good: {}", told.why),
    };
    Ok(pauses.into_iter().map(line).collect())
}

/// Two operators at once do not undo each other.
fn change(
    state: &Path,
    change: impl FnOnce(&mut BTreeMap<Whom, Told>) -> Result<(), Error>,
) -> Result<(), Error> {
    let path = state.join(FILE);
    let unwritten = |source| Error::Write { path: path.clone(), source };
    fs::create_dir_all(state).map_err(unwritten)?;
    let lock = File::create(path.with_extension("lock")).map_err(unwritten)?;
    lock.lock().map_err(unwritten)?;
    let mut pauses = read(&path)?;
    change(&mut pauses)?;
    let text = serde_json::to_vec_pretty(&pauses).map_err(|error| unwritten(error.into()))?;
    replace(&path, &text).map_err(unwritten)
}

fn read(path: &Path) -> Result<BTreeMap<Whom, Told>, Error> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(source) => return Err(Error::Read { path: path.to_owned(), source }),
    };
    serde_json::from_slice(&bytes)
        .map_err(|source| Error::Damaged { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::AppId;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    fn told(why: &str, until: Option<i64>) -> Told {
        Told { why: why.to_owned(), until: until.map(at) }
    }

    fn whom(text: &str) -> Whom {
        Whom(text.to_owned())
    }

    fn app(name: &str) -> App {
        App::new(AppId::new([7; 16]), name)
    }

    fn why(pauses: &Pauses, name: &str, now: i64) -> Option<String> {
        pauses.of(&app(name), at(now)).map(|pause| pause.why)
    }

    #[test]
    fn a_pause_is_seen_at_once_and_expires() {
        let state = tempfile::tempdir().unwrap();
        let pauses = Pauses::new(state.path());
        assert_eq!(why(&pauses, "web", 0), None);
        pause(state.path(), whom("web"), told("a new disk", Some(100)), at(0)).unwrap();
        assert_eq!(why(&pauses, "web", 99).as_deref(), Some("a new disk"));
        assert_eq!(why(&pauses, "db", 99), None);
        assert_eq!(why(&pauses, "web", 100), None);
        assert_eq!(Pauses::new(state.path()).of(&app("web"), at(50)).unwrap().until, Some(at(100)));
    }

    #[test]
    fn of_several_the_longest_counts() {
        let state = tempfile::tempdir().unwrap();
        let pauses = Pauses::new(state.path());
        let id = app("web").id.to_string();
        for (words, said) in [
            (id.as_str(), told("by key", Some(100))),
            ("w*", told("by pattern", Some(200))),
            ("other", told("another", None)),
        ] {
            pause(state.path(), whom(words), said, at(0)).unwrap();
        }
        assert_eq!(why(&pauses, "web", 50).as_deref(), Some("by pattern"));
        pause(state.path(), whom("web"), told("for good", None), at(0)).unwrap();
        assert_eq!(why(&pauses, "web", 50).as_deref(), Some("for good"));
        resume(state.path(), &whom("web"), at(60)).unwrap();
        resume(state.path(), &whom("w*"), at(60)).unwrap();
        assert_eq!(why(&pauses, "web", 70).as_deref(), Some("by key"));
        assert_eq!(list(state.path(), at(150)).unwrap(), [(whom("other"), told("another", None))]);
    }

    #[test]
    fn who_is_not_paused_cannot_be_resumed() {
        let state = tempfile::tempdir().unwrap();
        let said = |name| resume(state.path(), &whom(name), at(0)).unwrap_err().to_string();
        assert_eq!(said("web"), "`web` is not paused; nobody is");
        pause(state.path(), whom("w*"), told("x", None), at(0)).unwrap();
        assert_eq!(said("web"), "`web` is not paused; there are pauses of `w*`");
    }

    #[test]
    fn a_damaged_file_changes_nothing_and_is_told() {
        let state = tempfile::tempdir().unwrap();
        let pauses = Pauses::new(state.path());
        pause(state.path(), whom("web"), told("x", None), at(0)).unwrap();
        assert!(why(&pauses, "web", 1).is_some());
        fs::write(state.path().join(FILE), "{").unwrap();
        assert!(why(&pauses, "web", 1).is_some());
        let error = pause(state.path(), whom("db"), told("x", None), at(0)).unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "{error}");
        fs::remove_file(state.path().join(FILE)).unwrap();
        assert_eq!(why(&pauses, "web", 1), None);
    }

    #[test]
    fn operators_at_once_do_not_undo_each_other() {
        let state = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for number in 0..20 {
                let place = state.path();
                scope.spawn(move || {
                    let whom = whom(&format!("app-{number}"));
                    pause(place, whom, told("x", None), at(0)).unwrap();
                });
            }
        });
        assert_eq!(list(state.path(), at(0)).unwrap().len(), 20);
    }
}
