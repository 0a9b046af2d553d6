//! `lifesign capture`: collects an app's evidence now, as an incident would.

use super::config::Config;
use super::identity;
use super::incident::{new_incident, target};
use super::probe::Asker;
use super::turn::{self, Turn};
use crate::base::chain::Chain;
use crate::base::limits;
use crate::base::rung::Finding;
use crate::base::step::{Action, Query, Step};
use crate::base::time::Clock;
use crate::binding::{App, Bound};
use crate::bundle::{Bundle, Origin};
use crate::capture::{self, Budget, Target, Tell};
use crate::diagnosis::diagnose;
use crate::evidence::Evidence;
use crate::evidence::rounds::{self, Round, Rounds};
use crate::scenario::Scenario;
use crate::transport::log::{self, History};

/// How much is collected.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Level {
    /// What the host and the monitor tell within a second; the guest is not asked.
    Headline,
    /// What fits into 64 KiB: all but the states of all tasks, virtio devices and pictures. Nothing that
    /// stops the guest or may end it.
    First,
    /// What the scenario says.
    #[default]
    Full,
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

/// Collects by the first scenario of an app.
///
/// # Errors
///
/// When there is no scenario, or somebody collects already.
pub async fn collect(
    bound: &Bound,
    config: &Config,
    level: Level,
    tell: Tell<'_>,
) -> Result<Bundle, Error> {
    let scenario = bound.scenarios.first().ok_or(Error::NoScenario)?;
    let _turn = Turn::take(&config.state, bound.app.id)?;
    let origin = Origin {
        incident: new_incident(),
        device: config.device.clone(),
        app: bound.app.id,
        app_name: bound.app.name.clone(),
        scenario: scenario.name().clone(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        failed_at: Clock::wall(),
        failed_uptime: Clock::now(),
        boot_id: identity::boot_id(),
    };
    let heard = heard(&bound.app).await;
    let kept = config.dumps.kept();
    let target = Target { heard, kept, ..target(&bound.app, scenario, &config.state) };
    let before = capture::look(&target).await;
    let round = ask(bound, scenario).await;
    let (steps, budget) = level.of(scenario);
    let captured = capture::capture(&target, &steps, before, budget, tell).await;
    let mut artifacts = captured.artifacts;
    artifacts.push(Rounds { rounds: vec![round] }.to_artifact());
    let diagnosis = diagnose(&Evidence::read(&artifacts));
    Ok(Bundle { origin, steps: captured.steps, diagnosis, artifacts, redaction: None })
}

/// What the device's log still knows of an app whose console no file has.
async fn heard(app: &App) -> Option<History> {
    let domain = app.life.domain.as_deref().filter(|_| app.console_log.is_none())?;
    match log::recall(app.device_log.as_deref()?, domain).await {
        Ok(history) => history,
        Err(error) => {
            tracing::warn!(error = %Chain(&error), "the device's log is not heard");
            None
        }
    }
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
    pub(super) fn of(self, scenario: &Scenario) -> (Vec<Step>, Budget) {
        let budget = scenario.budget();
        let (time, bytes) = (budget.time, budget.bytes);
        let all = scenario.diagnose().to_vec();
        match self {
            Self::Full => (all, Budget { time, bytes }),
            Self::First => {
                let first = |step: &Step| {
                    const LATER: [Step; 5] = [
                        Step::Sysrq(Action::TaskStates),
                        Step::Qmp(Query::Virtio),
                        Step::Qmp(Query::Screenshot),
                        Step::Dump,
                        Step::Nmi,
                    ];
                    !LATER.contains(step)
                };
                let steps = all.into_iter().filter(first).collect();
                (steps, Budget { time, bytes: bytes.min(limits::FIRST_BYTES) })
            }
            Self::Headline => {
                // A picture may show what is nobody's business: only a scenario may ask for it.
                let queries = Query::ALL.into_iter().filter(|query| *query != Query::Screenshot);
                let own = [Step::Host, Step::Records].into_iter();
                let steps = own.chain(queries.map(Step::Qmp)).collect();
                (steps, Budget { time, bytes })
            }
        }
    }
}
