//! `lifesign capture`: collects an app's evidence now, as an incident would.

use super::incident::target;
use super::probe::Asker;
use super::turn::{self, Turn};
use crate::base::rung::Finding;
use crate::base::step::{Action, Query, Step};
use crate::base::time::Clock;
use crate::binding::Bound;
use crate::capture::{self, Budget, Capture, Tell};
use crate::diagnosis::{Diagnosis, diagnose};
use crate::evidence::Evidence;
use crate::evidence::rounds::{self, Round, Rounds};
use crate::scenario::Scenario;
use std::path::Path;

/// How much is collected.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Level {
    /// What the host and the monitor tell within a second; the guest is not asked.
    Headline,
    /// What fits into 64 KiB: all but the states of all tasks.
    First,
    /// What the scenario says.
    #[default]
    Full,
}

/// First evidence is small enough for any link.
const FIRST_BYTES: u64 = 64 * 1024;

/// What was collected, and what it shows.
#[derive(Debug)]
pub struct Collected {
    /// The evidence and the steps.
    pub capture: Capture,
    /// What it shows.
    pub diagnosis: Diagnosis,
}

/// Why nothing was collected.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is nothing to go by.
    #[error("the app has no scenario, so there is nothing to collect; bind one")]
    NoScenario,
    /// It is not our turn.
    #[error(transparent)]
    Turn(#[from] turn::Error),
}

/// Collects by the first scenario of an app, for an agent that keeps its state there.
///
/// # Errors
///
/// When there is no scenario, or somebody collects already.
pub async fn collect(
    bound: &Bound,
    state: &Path,
    level: Level,
    tell: Tell<'_>,
) -> Result<Collected, Error> {
    let scenario = bound.scenarios.first().ok_or(Error::NoScenario)?;
    let target = target(&bound.app, scenario, state);
    let _turn = Turn::take(state, bound.app.id)?;
    let before = capture::look(&target).await;
    let round = ask(bound, scenario).await;
    let (steps, budget) = level.of(scenario);
    let mut capture = capture::capture(&target, &steps, before, budget, tell).await;
    capture.artifacts.push(Rounds { rounds: vec![round] }.to_artifact());
    let diagnosis = diagnose(&Evidence::read(&capture.artifacts));
    Ok(Collected { capture, diagnosis })
}

/// One round, with every question asked.
async fn ask(bound: &Bound, scenario: &Scenario) -> Round {
    let mut round = Round { at: Clock::wall(), probes: Vec::new() };
    let mut asker = Asker::new(bound.app.clone(), bound.secrets.clone());
    for question in scenario.probes() {
        let asked = asker.ask(question, scenario.timing().timeout).await;
        let took_ms = u64::try_from(asked.took.as_millis()).unwrap_or(u64::MAX);
        let Finding { rung, answer, reason } = asked.finding;
        let name = question.name().to_owned();
        round.probes.push(rounds::Probe { name, rung, answer, reason, took_ms });
    }
    round
}

impl Level {
    /// The steps of a scenario that it takes, and what they may cost.
    fn of(self, scenario: &Scenario) -> (Vec<Step>, Budget) {
        let budget = scenario.budget();
        let (time, bytes) = (budget.time, budget.bytes);
        let all = scenario.diagnose().to_vec();
        match self {
            Self::Full => (all, Budget { time, bytes }),
            Self::First => {
                let small = |step: &Step| *step != Step::Sysrq(Action::TaskStates);
                let steps = all.into_iter().filter(small).collect();
                (steps, Budget { time, bytes: bytes.min(FIRST_BYTES) })
            }
            Self::Headline => {
                let queries = Query::ALL.map(Step::Qmp);
                let steps = std::iter::once(Step::Host).chain(queries).collect();
                (steps, Budget { time, bytes })
            }
        }
    }
}
