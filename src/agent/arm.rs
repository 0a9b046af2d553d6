//! Sees to it that a guest records while it is well, if its scenario says so.
//!
//! It is told when it is first heard of, when it has booted or may have, for it was silent, and from time to
//! time, for a dump of what it recorded stops it. What it says is told once.

use super::probe::Asker;
use crate::base::consent::Consent;
use crate::base::rung::Answer;
use crate::base::time::{Clock, Instant};
use crate::scenario::Scenario;
use std::time::Duration;

/// A capture may have stopped it, or a person.
const AGAIN: Duration = Duration::from_secs(600);

/// What is known of it.
#[derive(Debug, Default)]
pub(super) struct Arming {
    /// When it was last told.
    told: Option<Instant>,
    /// What it said.
    said: Option<String>,
}

impl Arming {
    /// What it was told is forgotten, or was undone.
    pub(super) fn forget(&mut self) {
        self.told = None;
    }

    /// Tells a guest that answers.
    pub(super) async fn keep(&mut self, scenario: &Scenario, asker: &mut Asker) {
        let Some(recorder) = scenario.recorder() else { return };
        let now = Clock::now();
        let is_known = self.told.is_some_and(|told| now.since(told) < AGAIN);
        if is_known || asker.app().consent < Consent::Input {
            return;
        }
        let Some(probe) = recorder.probe(scenario.probes()) else { return };
        self.told = Some(now);
        let finding = asker.ask(&probe, scenario.timing().timeout).await.finding;
        let said = match finding.answer {
            Answer::Alive => "the guest records".to_owned(),
            Answer::Dead | Answer::Unknown => recorder.shortened(&finding.reason),
        };
        if self.said.as_ref() != Some(&said) {
            let (app, name) = (&asker.app().name, scenario.name());
            tracing::info!(%app, scenario = %name, %said, "told to record");
            self.said = Some(said);
        }
    }
}
