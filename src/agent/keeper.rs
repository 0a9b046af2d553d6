//! Keeps a watch on every app that is bound, while apps come and go and files change.
//!
//! ```text
//!   Files -------+                          +--> a watch, one task an app
//!   Assignment --+--> rules, apps --resolve-+--> warnings in the log
//!   Sources -----+                          +--> end of incidents of apps that went or restarted
//! ```
//!
//! Whatever changes, only the watches that it touches begin anew. What is wrong with a file is told in
//! full and changes nothing.

use super::assignment::{self, Assignment};
use super::board::Board;
use super::config;
use super::incident::Desk;
use super::probe;
use super::watch::watch;
use crate::base::chain::Chain;
use crate::base::id::{AppId, Digest};
use crate::base::limits;
use crate::binding::source::{Kind, Seen, Source};
use crate::binding::{
    App, Assigned, Bound, Change, Files, Loaded, Registry, Resolved, Rules, Vault, Warning, Wrong,
    load, resolve,
};
use crate::ladder::End;
use crate::telemetry::health::Health;
use crate::telemetry::signal;
use crate::transport::log;
use crate::upload;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch as channel};
use tokio::task::JoinSet;

/// News that wait to be looked at: one from each source, the files and the controller.
const NEWS: usize = 8;

/// How often the disk is tried again that did not take the controller's bindings.
const SETTLE: Duration = Duration::from_secs(10);

/// What may have changed.
enum News {
    Files(Box<Result<Loaded, Wrong>>),
    Seen(usize, Seen),
    Assigned(upload::Bindings),
}

/// What the controller binds, and where more of it comes from.
pub struct Orders {
    /// What is in force.
    pub assignment: Assignment,
    /// What comes.
    pub words: channel::Receiver<upload::Bindings>,
}

/// Keeps the watches.
pub struct Keeper {
    loaded: Loaded,
    assignment: Option<Assignment>,
    registry: Registry,
    watches: BTreeMap<AppId, Watch>,
    tasks: JoinSet<()>,
    warned: BTreeSet<String>,
    /// What each source complains of now.
    problems: BTreeMap<usize, Vec<String>>,
    desk: Arc<Desk>,
    board: Board,
    health: Health,
}

struct Watch {
    /// Of all that it was made of.
    made_of: Digest,
    bound: Bound,
    stop: channel::Sender<bool>,
    /// Closed when it has ended.
    ended: channel::Receiver<()>,
}

/// Every app that is bound now. Looks once at each source.
///
/// # Errors
///
/// When the files are wrong, or the controller's certificate cannot be used.
pub async fn bound_now(config: &Path) -> Result<Resolved, Wrong> {
    let loaded = load(config)?;
    let (assigned, problem) = assigned_now(config)?;
    let mut sources = sources(&loaded);
    let mut registry = Registry::new(sources.len());
    for (index, source) in sources.iter_mut().enumerate() {
        registry.update(index, source.next().await.apps);
    }
    let mut resolved = resolved(&loaded, assigned, &registry);
    resolved.warnings.extend(problem);
    Ok(resolved)
}

/// What the controller binds, as far as it is on disk.
fn assigned_now(config: &Path) -> Result<(Rules, Option<Warning>), Wrong> {
    let wrong = |error: &dyn std::error::Error| Wrong(vec![Chain(error).to_string()]);
    let config = config::read(config).map_err(|error| wrong(&error))?;
    let authority = assignment::authority(&config).map_err(|error| wrong(&error))?;
    let Some(authority) = authority else { return Ok((Rules::default(), None)) };
    let (assigned, problem) = Assigned::look(&config.state, config.device, authority);
    let warning = |text| Warning { place: "the controller's bindings".to_owned(), text };
    Ok((assigned.rules(), problem.map(warning)))
}

/// Keeps watches until `stop` turns true, and then waits for those that are busy.
pub async fn keep(
    config: &Path,
    desk: Arc<Desk>,
    board: Board,
    orders: Option<Orders>,
    mut stop: channel::Receiver<bool>,
) -> Result<(), Wrong> {
    let mut files = Files::new(config);
    let loaded = files.next().await?;
    let health = desk.health.clone();
    let (news, mut coming) = mpsc::channel(NEWS);
    let mut tellers = JoinSet::new();
    let sources = sources(&loaded);
    let registry = Registry::new(sources.len());
    if let Some(socket) = device_log(&loaded) {
        let log = desk.log.clone();
        tellers.spawn(async move { match log.follow(&socket).await {} });
    }
    for (index, source) in sources.into_iter().enumerate() {
        tellers.spawn(tell_seen(index, source, news.clone()));
    }
    tellers.spawn(tell_files(files, news.clone()));
    let assignment = orders.map(|Orders { assignment, words }| {
        tellers.spawn(tell_assigned(words, news));
        assignment
    });
    let mut keeper = Keeper {
        loaded,
        assignment,
        registry,
        watches: BTreeMap::new(),
        tasks: JoinSet::new(),
        warned: BTreeSet::new(),
        problems: BTreeMap::new(),
        desk,
        board,
        health,
    };
    loop {
        let news = tokio::select! {
            biased;
            () = signal::told(&mut stop) => break,
            Some(news) = coming.recv() => news,
            Some(_) = keeper.tasks.join_next() => continue,
            () = tokio::time::sleep(SETTLE), if keeper.is_behind() => {
                keeper.assignment.iter_mut().for_each(Assignment::settle);
                continue;
            }
        };
        keeper.take(news);
    }
    tellers.abort_all();
    keeper.leave().await;
    Ok(())
}

/// The config file's own apps first: what a person wrote counts before what is found.
fn sources(loaded: &Loaded) -> Vec<Source> {
    let listed = Source::list(loaded.setup.apps.clone());
    std::iter::once(listed).chain(loaded.setup.discover.iter().map(Source::new)).collect()
}

/// Where the device's log is, if it has one that hears guests.
fn device_log(loaded: &Loaded) -> Option<PathBuf> {
    loaded.setup.discover.iter().find_map(|kind| match kind {
        Kind::Eve(base) => Some(base.join(log::SOCKET)),
        Kind::Monitors(_) | Kind::Libvirt(_) => None,
    })
}

/// Of equally precise bindings the device's own decide.
fn resolved(loaded: &Loaded, assigned: Rules, registry: &Registry) -> Resolved {
    let rules = loaded.rules.clone().and(assigned);
    let vault = Vault::open(rules.references(), loaded.setup.secrets.as_deref());
    let mut resolved = resolve(&rules, registry.apps(), &vault);
    if let Some(state) = &loaded.state {
        for bound in &mut resolved.bound {
            bound.app.added_agent = probe::channel::place(state, bound.app.id);
        }
    }
    let device_log = device_log(loaded);
    for bound in &mut resolved.bound {
        bound.app.device_log = device_log.clone();
    }
    resolved
}

async fn tell_seen(index: usize, mut source: Source, news: mpsc::Sender<News>) {
    loop {
        let seen = source.next().await;
        if news.send(News::Seen(index, seen)).await.is_err() {
            return;
        }
    }
}

async fn tell_files(mut files: Files, news: mpsc::Sender<News>) {
    loop {
        let loaded = Box::new(files.next().await);
        if news.send(News::Files(loaded)).await.is_err() {
            return;
        }
    }
}

async fn tell_assigned(mut words: channel::Receiver<upload::Bindings>, news: mpsc::Sender<News>) {
    while words.changed().await.is_ok() {
        let word = words.borrow_and_update().clone();
        if news.send(News::Assigned(word)).await.is_err() {
            return;
        }
    }
}

impl Keeper {
    fn take(&mut self, news: News) {
        let changes = match news {
            News::Seen(index, Seen { apps, problems }) => {
                for problem in &problems {
                    self.warn(problem.clone());
                }
                self.problems.insert(index, problems);
                self.registry.update(index, apps)
            }
            News::Assigned(word) => {
                if !self.assignment.as_mut().is_some_and(|assignment| assignment.take(word)) {
                    return;
                }
                Vec::new()
            }
            News::Files(loaded) => match *loaded {
                Ok(loaded) => {
                    self.health.ok("files");
                    let apps = loaded.setup.apps.clone();
                    self.loaded = loaded;
                    self.registry.update(0, apps)
                }
                Err(wrong) => {
                    tracing::error!(
                        "the files are wrong, and what they said before stays in force:\n{wrong}"
                    );
                    self.health.degraded("files", "a changed file is wrong; the log shows where");
                    return;
                }
            },
        };
        for change in changes {
            self.note(&change);
        }
        self.settle();
    }

    /// An app that went, or is another run of itself, ends what was open of it.
    fn note(&mut self, change: &Change) {
        let (ended, why) = match change {
            Change::Restarted(app) => (app.id, End::Restarted),
            Change::Gone(id) => (*id, End::Gone),
            Change::Appeared(_) | Change::Changed(_) => return,
        };
        if let Some(watch) = self.watches.get(&ended) {
            for scenario in &watch.bound.scenarios {
                self.desk.end(&watch.bound.app, scenario, why);
            }
        }
    }

    /// Begins, renews and ends watches until they are those that are bound.
    fn settle(&mut self) {
        let assigned = self.assignment.as_ref().map(Assignment::rules).unwrap_or_default();
        let Resolved { bound, warnings, .. } = resolved(&self.loaded, assigned, &self.registry);
        if self.registry.is_settled() {
            let mut all: Vec<String> = warnings.iter().map(ToString::to_string).collect();
            for warning in &all {
                self.warn(warning.clone());
            }
            all.extend(self.problems.values().flatten().cloned());
            all.truncate(limits::PROBLEMS_SHOWN);
            self.board.notices.replace(&bound, all);
        }
        let wanted: BTreeSet<AppId> = bound.iter().map(|bound| bound.app.id).collect();
        let ended: Vec<AppId> =
            self.watches.keys().copied().filter(|id| !wanted.contains(id)).collect();
        for id in ended {
            if let Some(watch) = self.watches.remove(&id) {
                tracing::info!(app = %watch.bound.app.name, "no longer watched");
                watch.stop.send_replace(true);
                self.board.forget(id);
                // Nobody consents to anything any more.
                let app = App { add_agent: false, ..watch.bound.app };
                self.tasks.spawn(async move { probe::channel::withdraw(&app).await });
            }
        }
        for bound in bound {
            self.watch(bound);
        }
    }

    fn watch(&mut self, bound: Bound) {
        for hindered in &bound.hindered {
            let (app, scenario) = (&bound.app.name, &hindered.scenario);
            self.warn(format!("{app}: {scenario} cannot be asked: {}", hindered.reason));
        }
        let id = bound.app.id;
        let made_of = made_of(&bound);
        let before = match self.watches.remove(&id) {
            Some(watch) if watch.made_of == made_of => {
                self.watches.insert(id, watch);
                return;
            }
            before => before,
        };
        tracing::info!(app = %bound.app.name, scenarios = bound.scenarios.len(), "watched");
        self.board.forget(id);
        let (stop, stopped) = channel::channel(false);
        let (running, ended) = channel::channel(());
        let (desk, board, made) = (Arc::clone(&self.desk), self.board.clone(), bound.clone());
        self.tasks.spawn(async move {
            let _running = running;
            // Two watches of an app would ask for its console at once.
            if let Some(Watch { stop, mut ended, .. }) = before {
                stop.send_replace(true);
                while ended.changed().await.is_ok() {}
            }
            watch(made, desk, board, stopped).await;
        });
        self.watches.insert(id, Watch { made_of, bound, stop, ended });
    }

    fn is_behind(&self) -> bool {
        self.assignment.as_ref().is_some_and(Assignment::is_behind)
    }

    fn warn(&mut self, warning: String) {
        if !self.warned.contains(&warning) {
            tracing::warn!("{warning}");
            self.warned.insert(warning);
        }
    }

    async fn leave(mut self) {
        for watch in self.watches.values() {
            watch.stop.send_replace(true);
        }
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Tells whether two bindings would be watched alike. Secrets show nothing of themselves, so they are
/// taken in by what they are.
fn made_of(bound: &Bound) -> Digest {
    let secrets = bound.secrets.iter().map(|(name, secret)| (name, secret.reveal()));
    let all = format!("{:?} {:?} {:?}", bound.app, bound.scenarios, secrets.collect::<Vec<_>>());
    Digest::of(all.as_bytes())
}
