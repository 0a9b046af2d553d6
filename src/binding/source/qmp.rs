//! A directory of monitors: one per machine, found by looking, named by asking.
//!
//! ```text
//! web.qmp          a socket: the machine `web`, unless its monitor says another name
//! db/qmp           a directory with a socket: the machine `db`; beside it may be cons, shim-cons,
//!                  qga and console.log
//! ```
//!
//! A monitor is asked for name and key once in its life, within the second that every monitor is
//! held at most; what it said holds until its socket is another one. One that is busy is asked again
//! at the next look, and its machine is not known before.

use super::Seen;
use super::directory::birth;
use crate::base::chain::Chain;
use crate::base::id::AppId;
use crate::base::limits;
use crate::binding::watch::Wanted;
use crate::hypervisor::qmp::Monitor;
use crate::rules::{App, Birth, id_of_name};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use tokio::task::JoinSet;

/// Monitors that are asked at once: each takes a second at worst.
const ASKED_AT_ONCE: usize = 32;

/// Monitors that are asked in one look: all of the others must not wait for those that are stuck.
const ASKED_MAX: usize = 4 * ASKED_AT_ONCE;

/// The monitors of a directory.
pub(super) struct Monitors {
    path: PathBuf,
    /// Directories in it, of which each may get a monitor.
    homes: Vec<PathBuf>,
    known: BTreeMap<PathBuf, (Birth, Named)>,
    /// Where the next round of questions begins, so that stuck monitors do not starve the others.
    turn: usize,
}

/// Who a machine says to be.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Named {
    id: AppId,
    name: String,
    pid: Option<u32>,
}

/// A socket that looks like a monitor.
struct Found {
    socket: PathBuf,
    birth: Birth,
    name: String,
    /// The directory that is the machine's own.
    home: Option<PathBuf>,
}

impl Monitors {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), homes: Vec::new(), known: BTreeMap::new(), turn: 0 }
    }

    /// The directory and those of the machines in it.
    pub(super) fn wanted(&self) -> Vec<Wanted> {
        let homes = self.homes.iter().take(limits::APPS);
        [&self.path].into_iter().chain(homes).cloned().map(Wanted::Directory).collect()
    }

    pub(super) async fn look(&mut self) -> Seen {
        let mut problems = Vec::new();
        self.homes.clear();
        let found = match self.find() {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                problems.push(format!("{} cannot be read: {error}", self.path.display()));
                return Seen { apps: self.remembered(), problems };
            }
        };
        self.known.retain(|socket, (birth, _)| {
            found.iter().any(|found| found.socket == *socket && found.birth == *birth)
        });
        self.ask_new(&found, &mut problems).await;
        let apps = found.iter().filter_map(|found| {
            let (_, named) = self.known.get(&found.socket)?;
            Some(app(found, named))
        });
        Seen { apps: apps.collect(), problems }
    }

    fn find(&mut self) -> io::Result<Vec<Found>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.path)?.take(4 * limits::APPS) {
            let place = entry?.path();
            let Some(name) = place.file_name().and_then(|name| name.to_str()) else { continue };
            let own = place.join("qmp");
            if let Some(birth) = socket(&place) {
                let name = [".qmp", ".sock", ".monitor"]
                    .iter()
                    .find_map(|suffix| name.strip_suffix(suffix))
                    .unwrap_or(name)
                    .to_owned();
                found.push(Found { socket: place, birth, name, home: None });
            } else if place.is_dir() {
                if let Some(birth) = socket(&own) {
                    let (name, home) = (name.to_owned(), Some(place.clone()));
                    found.push(Found { socket: own, birth, name, home });
                }
                self.homes.push(place);
            }
        }
        self.homes.sort();
        found.sort_by(|a, b| a.socket.cmp(&b.socket));
        Ok(found)
    }

    /// The machines as they were when the directory could still be read.
    fn remembered(&self) -> Vec<App> {
        let known = self.known.iter().map(|(socket, (birth, named))| {
            let home = socket.parent().filter(|home| *home != self.path).map(Path::to_owned);
            let (socket, birth) = (socket.clone(), *birth);
            app(&Found { socket, birth, name: named.name.clone(), home }, named)
        });
        known.collect()
    }

    async fn ask_new(&mut self, found: &[Found], problems: &mut Vec<String>) {
        let mut new: Vec<&Found> =
            found.iter().filter(|found| !self.known.contains_key(&found.socket)).collect();
        let asked = new.len().min(ASKED_MAX);
        if !new.is_empty() {
            let turn = self.turn % new.len();
            new.rotate_left(turn);
            self.turn = turn + asked;
        }
        let mut answers = JoinSet::new();
        let mut waiting = new.into_iter().take(asked);
        loop {
            while answers.len() < ASKED_AT_ONCE
                && let Some(found) = waiting.next()
            {
                let (socket, birth, name) = (found.socket.clone(), found.birth, found.name.clone());
                answers.spawn(async move {
                    let named = ask(&socket, &name).await;
                    (socket, birth, named)
                });
            }
            match answers.join_next().await {
                Some(Ok((socket, birth, Ok(named)))) => {
                    self.known.insert(socket, (birth, named));
                }
                Some(Ok((_, _, Err(problem)))) => problems.push(problem),
                Some(Err(_)) => {}
                None => break,
            }
        }
        problems.sort();
    }
}

fn socket(path: &Path) -> Option<Birth> {
    let about = std::fs::metadata(path).ok()?;
    about.file_type().is_socket().then(|| birth(path)).flatten()
}

/// Asks a monitor who its machine is.
async fn ask(socket: &Path, usual: &str) -> Result<Named, String> {
    let mut monitor = Monitor::connect(socket).await.map_err(|error| Chain(&error).to_string())?;
    let name = monitor.ask("query-name", json!({})).await;
    let uuid = monitor.ask("query-uuid", json!({})).await;
    let told =
        |answer: Result<Value, _>, key: &str| answer.ok()?.get(key)?.as_str().map(str::to_owned);
    let name = told(name, "name").unwrap_or_else(|| usual.to_owned());
    // A machine that was given no key says zeros.
    let id = told(uuid, "UUID").and_then(|uuid| uuid.parse().ok());
    let id = id.filter(|id: &AppId| *id.as_bytes() != [0; 16]).unwrap_or_else(|| id_of_name(&name));
    Ok(Named { id, name, pid: monitor.pid() })
}

fn app(found: &Found, named: &Named) -> App {
    let mut app = App::new(named.id, named.name.clone());
    app.labels.insert("source".to_owned(), "monitors".to_owned());
    app.life.domain = Some(named.name.clone());
    app.life.pid = named.pid;
    app.qmp = Some(found.socket.clone());
    if let Some(home) = &found.home {
        let beside = |name: &str| Some(home.join(name)).filter(|path| path.exists());
        app.console = beside("cons");
        app.shim_console = beside("shim-cons");
        app.guest_agent = beside("qga");
        app.console_log = beside("console.log");
    }
    app
}
