//! Watches one app: rounds in their time, the ladder, and an incident when it fails.

use super::incident::{Desk, Failure, target};
use super::probe;
use crate::base::id::{AppId, ScenarioName};
use crate::base::limits;
use crate::base::rung::{Answer, Rung};
use crate::base::time::{Clock, Instant};
use crate::binding::{App, Binding};
use crate::capture;
use crate::evidence::qmp;
use crate::evidence::rounds::{Round, Rounds};
use crate::ladder::{Ladder, State, Turn, Verdict};
use crate::scenario::Scenario;
use crate::scenario::schedule::Schedule;
use crate::telemetry::metrics::{Counters, Histogram};
use crate::telemetry::signal;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// Of every app under every scenario.
type States = BTreeMap<(AppId, ScenarioName), (App, State)>;

/// What a watch tells the rest of the program.
#[derive(Clone)]
pub struct Board {
    states: Arc<Mutex<States>>,
    /// Rounds by their answer.
    pub rounds: Counters,
    /// How long rounds take.
    pub round_seconds: Histogram,
}

/// An app under one of its scenarios.
struct Watched {
    scenario: Scenario,
    schedule: Schedule,
    ladder: Ladder,
    rounds: VecDeque<Round>,
    before: Vec<qmp::Reply>,
}

/// Watches until `stop` turns true. What a round or a capture has begun is finished first.
pub async fn watch(binding: Binding, desk: Arc<Desk>, board: Board, stop: watch::Receiver<bool>) {
    let Binding { app, scenarios } = binding;
    let started = Clock::now();
    let mut watched: Vec<Watched> = scenarios
        .into_iter()
        .map(|scenario| Watched::new(&app, scenario, &desk, started))
        .collect();
    let mut stop = stop;
    while let Some((next, due)) = next_round(&mut watched) {
        board.show(&app, next);
        tokio::select! {
            biased;
            () = signal::told(&mut stop) => return,
            () = tokio::time::sleep(due.since(Clock::now())) => {}
        }
        next.round(&app, &desk, &board).await;
        board.show(&app, next);
    }
}

fn next_round(watched: &mut [Watched]) -> Option<(&mut Watched, Instant)> {
    let now = Clock::now();
    let next = watched.iter_mut().min_by_key(|watched| watched.schedule.next(now))?;
    let due = next.schedule.next(now);
    Some((next, due))
}

impl Watched {
    fn new(app: &App, scenario: Scenario, desk: &Desk, now: Instant) -> Self {
        let open = {
            let ledger = desk.ledger.lock().unwrap_or_else(PoisonError::into_inner);
            ledger.get(app.id, scenario.name()).cloned()
        };
        let timing = scenario.timing();
        let ladder = match open {
            Some(open) => {
                let since = if open.boot_id == desk.boot_id { open.failed_uptime } else { now };
                desk.resume(app, &scenario, open);
                Ladder::resumed(timing, since)
            }
            None => Ladder::new(timing, now),
        };
        let share = u16::from_be_bytes([app.id.as_bytes()[14], app.id.as_bytes()[15]]);
        let schedule = Schedule::new(now, timing.period, share);
        Self { scenario, schedule, ladder, rounds: VecDeque::new(), before: Vec::new() }
    }

    async fn round(&mut self, app: &App, desk: &Desk, board: &Board) {
        let begun = Clock::now();
        let mut round = Round { at: Clock::wall(), probes: Vec::new() };
        for probe in self.scenario.probes() {
            round.probes.extend(probe::ask(app, probe, self.scenario.timing().timeout).await);
            // The hypervisor's own life does not settle a round: a guest hangs while QEMU is fine.
            if verdict(&round).answer() == Answer::Alive {
                break;
            }
        }
        let answer = verdict(&round).answer();
        let took = Clock::now().since(begun);
        board.rounds.get_or_create(&[("answer", answer.to_string())]).inc();
        board.round_seconds.observe(took.as_secs_f64());
        for probe in &round.probes {
            tracing::debug!(app = %app.name, probe = %probe.name, answer = %probe.answer, reason = %probe.reason, "asked");
        }
        self.rounds.push_back(round);
        if self.rounds.len() > limits::ROUNDS_KEPT {
            self.rounds.pop_front();
        }
        let before = self.ladder.state();
        let turn = self.ladder.round(answer, Clock::now());
        self.tell(app, before);
        match turn {
            Some(Turn::BecameSuspect) => self.before = capture::look(&target(app)).await,
            Some(Turn::Failed) => {
                let rounds = Rounds { rounds: self.rounds.iter().cloned().collect() };
                let before = std::mem::take(&mut self.before);
                desk.begin(Failure { app, scenario: &self.scenario, rounds, before }).await;
            }
            Some(Turn::Recovered) => desk.end(app, &self.scenario),
            None => {}
        }
    }

    /// Logs a change of state, once.
    fn tell(&self, app: &App, before: State) {
        let now = self.ladder.state();
        if now.word() == before.word() {
            return;
        }
        let last = self.rounds.back().and_then(|round| round.probes.first());
        let why = last.map_or("", |probe| probe.reason.as_str());
        let scenario = self.scenario.name();
        tracing::info!(app = %app.name, %scenario, from = %before, to = %now, %why, "state");
    }
}

/// Of the probes of the scenario, without the look at the hypervisor that explains them.
fn verdict(round: &Round) -> Verdict {
    let above = round.probes.iter().filter(|probe| probe.rung > Rung::Vmm);
    let answers: Vec<(Rung, Answer)> = above.map(|probe| (probe.rung, probe.answer)).collect();
    Verdict::of(&answers)
}

impl Board {
    /// An empty board.
    #[must_use]
    pub fn new(rounds: Counters, round_seconds: Histogram) -> Self {
        Self { states: Arc::default(), rounds, round_seconds }
    }

    /// Every app under every scenario, and its state.
    #[must_use]
    pub fn states(&self) -> Vec<(App, ScenarioName, State)> {
        let states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        states
            .iter()
            .map(|((_, scenario), (app, state))| (app.clone(), scenario.clone(), *state))
            .collect()
    }

    fn show(&self, app: &App, watched: &Watched) {
        let key = (app.id, watched.scenario.name().clone());
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        states.insert(key, (app.clone(), watched.ladder.state()));
    }
}
