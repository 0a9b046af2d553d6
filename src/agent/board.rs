//! What the watches tell the rest of the program.

use super::pages::Notices;
use crate::base::id::{AppId, ScenarioName};
use crate::base::rung::Rung;
use crate::binding::App;
use crate::capture::Progress;
use crate::ladder::State;
use crate::telemetry::metrics::{Counters, Histogram};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// An app under a scenario.
type Key = (AppId, ScenarioName);

/// What is shown of an app under a scenario.
#[derive(Clone, Debug)]
pub struct Shown {
    /// The app.
    pub app: App,
    /// The scenario.
    pub scenario: ScenarioName,
    /// Its state.
    pub state: State,
    /// The highest rung that the last round proved.
    pub rung: Option<Rung>,
    /// What was heard last,
    pub why: String,
    /// and how long that took.
    pub took_ms: Option<u64>,
    /// How far the capture has come that goes on now.
    pub capturing: Option<Progress>,
}

/// Where it is told. Clones are the same board.
#[derive(Clone)]
pub struct Board {
    states: Arc<Mutex<BTreeMap<Key, Shown>>>,
    /// Rounds by their answer.
    pub rounds: Counters,
    /// How long rounds take.
    pub round_seconds: Histogram,
    /// What a person should know of the bindings.
    pub notices: Notices,
}

impl Board {
    /// An empty board.
    #[must_use]
    pub fn new(rounds: Counters, round_seconds: Histogram) -> Self {
        Self { states: Arc::default(), rounds, round_seconds, notices: Notices::default() }
    }

    /// Every app under every scenario.
    #[must_use]
    pub fn states(&self) -> Vec<Shown> {
        self.lock().values().cloned().collect()
    }

    /// An app that is watched no longer.
    pub fn forget(&self, app: AppId) {
        self.lock().retain(|(id, _), _| *id != app);
    }

    /// An app as it is now.
    pub fn show(&self, shown: Shown) {
        self.lock().insert((shown.app.id, shown.scenario.clone()), shown);
    }

    /// Its evidence is being collected.
    pub fn capturing(&self, key: &Key, progress: Progress) {
        if let Some(shown) = self.lock().get_mut(key) {
            shown.capturing = Some(progress);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Shown>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
