//! Where apps are found. Each source tells the whole set that it sees, whenever it is different.
//!
//! A source tolerates whatever it finds: a file that is torn keeps its last meaning, one that was
//! never understood is told as a problem, and the others count. It looks at files and asks monitors
//! for their names, once in the life of each; it never touches a guest.

mod directory;
mod domain_xml;
mod eve;
mod libvirt;
mod pubsub;
mod qmp;

pub use eve::read_usage;
pub use pubsub::Usage;

use super::watch::{Wanted, Watcher};
use crate::base::document::{FromNode, Node, Notes, Value};
use crate::base::problem::Problem;
use crate::base::text::harmless_line;
use crate::rules::App;
use eve::Eve;
use libvirt::Libvirt;
use qmp::Monitors;
use std::path::PathBuf;

/// A longer name is cut: EVE's own limit is less.
const NAME_LETTERS: usize = 256;

/// A source that a config file asks for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Kind {
    /// EVE-OS: what its services publish in files below this directory.
    Eve(PathBuf),
    /// A directory of monitors, one per machine.
    Monitors(PathBuf),
    /// libvirt: the state files of its machines.
    Libvirt(PathBuf),
}

/// What a source sees.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Seen {
    /// All apps that run.
    pub apps: Vec<App>,
    /// What could not be understood, as sentences.
    pub problems: Vec<String>,
}

/// A source.
pub struct Source {
    finder: Finder,
    watcher: Option<Watcher>,
    /// A look is due, or was begun and dropped.
    due: bool,
    told: Option<Seen>,
}

enum Finder {
    List(Vec<App>),
    Eve(Eve),
    Monitors(Monitors),
    Libvirt(Libvirt),
}

// === impl Source ===

impl Source {
    /// Apps that are known without looking.
    #[must_use]
    pub fn list(apps: Vec<App>) -> Self {
        Self { finder: Finder::List(apps), watcher: None, due: true, told: None }
    }

    /// A source that looks. Belongs into a runtime.
    #[must_use]
    pub fn new(kind: &Kind) -> Self {
        let finder = match kind {
            Kind::Eve(base) => Finder::Eve(Eve::new(base)),
            Kind::Monitors(path) => Finder::Monitors(Monitors::new(path)),
            Kind::Libvirt(path) => Finder::Libvirt(Libvirt::new(path)),
        };
        let watcher = Some(Watcher::new(finder.wanted()));
        Self { finder, watcher, due: true, told: None }
    }

    /// What it sees, at once the first time, later when it is different. May be dropped midway: what
    /// was not told yet is told by the next call.
    pub async fn next(&mut self) -> Seen {
        loop {
            if !self.due {
                match &mut self.watcher {
                    Some(watcher) => watcher.changed().await,
                    None => return std::future::pending().await,
                }
            }
            self.due = true;
            if let Some(watcher) = &mut self.watcher {
                watcher.arm();
            }
            let mut seen = self.finder.look().await;
            if let Some(watcher) = &mut self.watcher
                && watcher.want(self.finder.wanted())
            {
                // What happened in a new place before it was watched is not missed.
                watcher.arm();
                seen = self.finder.look().await;
            }
            self.due = false;
            if self.told.as_ref() != Some(&seen) {
                self.told = Some(seen.clone());
                return seen;
            }
        }
    }
}

impl Finder {
    /// Where something may become different.
    fn wanted(&self) -> Vec<Wanted> {
        match self {
            Self::List(_) => Vec::new(),
            Self::Eve(eve) => eve.wanted(),
            Self::Monitors(monitors) => monitors.wanted(),
            Self::Libvirt(libvirt) => libvirt.wanted(),
        }
    }

    async fn look(&mut self) -> Seen {
        let mut seen = match self {
            Self::List(apps) => Seen { apps: apps.clone(), problems: Vec::new() },
            Self::Eve(eve) => eve.look(),
            Self::Monitors(monitors) => monitors.look().await,
            Self::Libvirt(libvirt) => libvirt.look(),
        };
        for app in &mut seen.apps {
            // What people call an app is shown on terminals and pages, and came from anywhere.
            app.name = harmless_line(app.name.as_bytes()).chars().take(NAME_LETTERS).collect();
            app.life.socket = app.qmp.as_deref().and_then(directory::birth);
        }
        seen.apps.sort_by_key(|app| app.id);
        seen
    }
}

// === reading the config ===

impl Kind {
    const EVE: &'static str = "/run";
    const LIBVIRT: &'static str = "/run/libvirt/qemu";

    /// Reads `discover: [eve, libvirt, monitors: DIRECTORY]`.
    pub(super) fn read(node: &Node, notes: &Notes) -> Option<Self> {
        if let Value::Text(_) = &node.value {
            let eve = Self::Eve(Self::EVE.into());
            let libvirt = Self::Libvirt(Self::LIBVIRT.into());
            let words = [("eve", Some(&eve)), ("libvirt", Some(&libvirt)), ("monitors", None)];
            let usual = node.word(notes, "source of apps", &words)?;
            if usual.is_none() {
                let label = "there is no usual place";
                let problem = Problem::new(node.span.clone(), "`monitors` needs a place", label);
                notes.note(problem.help("say `monitors: DIRECTORY`"));
            }
            return usual.cloned();
        }
        let words = ["eve", "libvirt", "monitors"];
        let (word, node) = node.map(notes)?.only("source of apps", &words)?;
        let path = PathBuf::from_node(node, notes)?;
        Some(match word {
            "eve" => Self::Eve(path),
            "libvirt" => Self::Libvirt(path),
            _ => Self::Monitors(path),
        })
    }
}

#[cfg(test)]
mod tests;
