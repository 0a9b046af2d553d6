//! What the uplink may still carry, remembered over restarts.

use super::replace::replace;
use crate::base::time::Clock;
use crate::upload::{Bounds, Budget, Month, Worth};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// The budget of a device.
#[derive(Debug)]
pub struct Purse {
    path: PathBuf,
    budget: Arc<Mutex<Budget>>,
    /// What is on disk.
    kept: Mutex<Month>,
}

impl Purse {
    /// What was left in `directory`; a month begins if that cannot be read.
    #[must_use]
    pub fn open(directory: &Path, bounds: Bounds) -> Self {
        let path = directory.join("budget.json");
        let month = std::fs::read(&path).ok();
        let month: Month =
            month.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        let budget = Arc::new(Mutex::new(Budget::new(bounds, month, Clock::now())));
        Self { path, budget, kept: Mutex::new(month) }
    }

    /// For whoever spends it.
    #[must_use]
    pub fn budget(&self) -> Arc<Mutex<Budget>> {
        Arc::clone(&self.budget)
    }

    /// How much of an incident's evidence is sealed while so many bytes wait.
    #[must_use]
    pub fn worth(&self, waiting: u64) -> Worth {
        self.lock().worth(waiting, Clock::wall())
    }

    /// Remembers what was spent, where that has changed. Who cannot forgets at most what was spent since
    /// the program started.
    pub fn keep(&self) {
        let month = self.lock().month();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if *kept == month {
            return;
        }
        let written = serde_json::to_vec(&month).map_err(Into::into);
        match written.and_then(|bytes| replace(&self.path, &bytes)) {
            Ok(()) => *kept = month,
            Err(error) => {
                tracing::debug!(%error, "what was sent this month is counted in memory only");
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Budget> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a person should know of it, if there is anything.
#[must_use]
pub fn trouble(worth: Worth) -> Option<String> {
    let sealed = match worth {
        Worth::Full => return None,
        Worth::First => "of new incidents only the first 64 KiB of evidence are sealed",
        Worth::Headline => "of new incidents only headlines are sent",
    };
    Some(format!("the month's `budget` of the uplink is nearly spent: {sealed}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_spent_is_remembered() {
        let place = tempfile::tempdir().unwrap();
        let bounds = Bounds { hour: None, month: Some(10_000_000) };
        let purse = Purse::open(place.path(), bounds);
        assert_eq!(purse.worth(0), Worth::Full);
        purse.budget().lock().unwrap().spend(8_000_000, Clock::now(), Clock::wall());
        purse.keep();
        let again = Purse::open(place.path(), bounds);
        assert_eq!((again.worth(0), again.worth(950_000)), (Worth::First, Worth::Headline));
        assert!(trouble(again.worth(0)).unwrap().contains("first 64 KiB"));
        std::fs::write(place.path().join("budget.json"), "{").unwrap();
        assert_eq!(Purse::open(place.path(), bounds).worth(0), Worth::Full);
    }
}
