//! Watches one app: rounds in their time, the ladder, and an incident when it fails.

use super::arm::Arming;
use super::board::{Board, Shown};
use super::incident::{Desk, Failure, target};
use super::probe::boot::Boots;
use super::probe::vmm::Vmm;
use super::probe::{Asker, channel, testimony};
use crate::base::limits;
use crate::base::rung::{Answer, Finding, Rung};
use crate::base::time::{Clock, Instant};
use crate::binding::Bound;
use crate::capture;
use crate::evidence::host::Pressure;
use crate::evidence::qmp;
use crate::evidence::rounds::{self, Round, Rounds};
use crate::hypervisor::events::{Events, Mark, Told};
use crate::ladder::{self, Context, Ladder, Pause, Rules, State, Testimony, Turn, Verdict};
use crate::scenario::Scenario;
use crate::scenario::schedule::{By, Due, Schedule, Suppressed, share};
use crate::telemetry::signal;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Of ten seconds, the part in which nobody on the host could go on.
const STARVING_PERMILLE: u32 = 500;

/// An app under one of its scenarios.
struct Watched {
    scenario: Scenario,
    asker: Asker,
    schedule: Schedule,
    ladder: Ladder,
    /// When the last boot of the guest that the ladder knows of was noticed.
    booted: Option<Instant>,
    rounds: VecDeque<Round>,
    before: Vec<qmp::Reply>,
    /// What the hypervisor tells by itself, and how much of it had come when the guest was alive.
    events: Told,
    seen: Mark,
    arming: Arming,
}

/// What a round brought.
struct Heard {
    round: Round,
    testimonies: Vec<Testimony>,
    context: Context,
}

/// Watches until `stop` turns true. What a round or a capture has begun is finished first.
pub async fn watch(bound: Bound, desk: Arc<Desk>, board: Board, stop: watch::Receiver<bool>) {
    let started = Clock::now();
    let Bound { app, scenarios, secrets, .. } = bound;
    channel::withdraw(&app).await;
    let events = Events::of(app.events.clone());
    let mut watched: Vec<Watched> = scenarios
        .into_iter()
        .map(|scenario| {
            let asker = Asker::new(app.clone(), secrets.clone()).with_log(desk.log.clone());
            Watched::new(scenario, asker, events.told(), &desk, started)
        })
        .collect();
    // It is of the app, whichever of its scenarios changed it.
    let changed = watched.first().map(|w| target(w.asker.app(), &w.scenario, &desk.state));
    if let Some(target) = changed {
        capture::put_back(&target).await;
    }
    let mut boots = Boots::default();
    let mut stop = stop;
    while let Some((next, due)) = next_round(&mut watched) {
        board.show(next.shown());
        tokio::select! {
            biased;
            () = signal::told(&mut stop) => return,
            () = tokio::time::sleep(due.at.since(Clock::now())) => {}
        }
        if due.round {
            next.schedule.begun(&due);
            // On the heap while it lasts: asking and capturing need ten times what waiting does, and
            // hundreds of apps wait at once.
            Box::pin(next.round(&desk, &board, &mut boots)).await;
            board.show(next.shown());
        }
    }
}

/// The round that is due first. Who waited longest is first when there are more than can be run.
fn next_round(watched: &mut [Watched]) -> Option<(&mut Watched, Due)> {
    let (now, wall) = (Clock::now(), Clock::wall());
    let due = watched.iter_mut().map(|watched| {
        let due = watched.schedule.due(now, wall);
        (watched, due)
    });
    due.min_by_key(|(_, due)| due.at)
}

impl Watched {
    fn new(scenario: Scenario, asker: Asker, events: Told, desk: &Desk, now: Instant) -> Self {
        let app = asker.app();
        let rules = Rules::from(scenario.timing());
        let ladder = match desk.resume(app, &scenario) {
            Some(since) => Ladder::resumed(rules, since, now),
            None => Ladder::new(rules, now),
        };
        let schedule = Schedule::new(&scenario, now, share(&app.id, scenario.name()));
        let (rounds, before) = (VecDeque::new(), Vec::new());
        let (seen, arming) = (Mark::default(), Arming::default());
        let booted = None;
        Self { scenario, asker, schedule, ladder, booted, rounds, before, events, seen, arming }
    }

    async fn round(&mut self, desk: &Desk, board: &Board, boots: &mut Boots) {
        let begun = Clock::now();
        let wall = Clock::wall();
        let so_far = self.events.so_far();
        match desk.pauses.of(self.asker.app(), wall) {
            Some(pause) => self.schedule.pause(pause),
            None => self.schedule.resume(),
        }
        let heard = match self.schedule.suppressed(wall) {
            Some(suppressed) => Heard::suppressed(&suppressed),
            None => {
                self.follow(boots);
                self.ask(boots).await
            }
        };
        let answer = Verdict::of(&heard.testimonies).answer();
        board.rounds.get_or_create(&[("answer", answer.to_string())]).inc();
        board.round_seconds.observe(Clock::now().since(begun).as_secs_f64());
        for probe in &heard.round.probes {
            tracing::debug!(app = %self.asker.app().name, probe = %probe.name, answer = %probe.answer, reason = %probe.reason, "asked");
        }
        // Many are kept, and most have one probe.
        let mut round = heard.round;
        round.probes.shrink_to_fit();
        self.rounds.push_back(round);
        if self.rounds.len() > limits::ROUNDS_KEPT {
            self.rounds.pop_front();
        }
        let before = self.ladder.state();
        self.follow(boots);
        let outcome = self.ladder.round(&heard.testimonies, heard.context, Clock::now());
        let (app, scenario) = (&self.asker.app().name, self.scenario.name());
        tracing::debug!(%app, %scenario, %answer, state = %outcome.state, "round");
        self.tell(before);
        for turn in outcome.turns {
            self.act(turn, desk, board, boots.process()).await;
        }
        if answer == Answer::Alive {
            self.seen = so_far;
            boots.learn(self.asker.app()).await;
            self.arming.keep(&self.scenario, &mut self.asker).await;
        } else {
            self.arming.forget();
        }
    }

    /// A guest that booted by itself has its grace again, and what is known of it is of the past.
    fn follow(&mut self, boots: &Boots) {
        if boots.noticed() == self.booted {
            return;
        }
        self.booted = boots.noticed();
        self.asker.boots();
        self.arming.forget();
        if self.ladder.rebooted(Clock::now()) {
            let (app, scenario) = (&self.asker.app().name, self.scenario.name());
            tracing::info!(app = %app, %scenario, "the guest has booted");
        }
    }

    /// Asks the probes in their order until one is alive, and looks at what may explain the others.
    async fn ask(&mut self, boots: &mut Boots) -> Heard {
        let timing = self.scenario.timing();
        let begun = Clock::now();
        let mut heard = Heard::nothing();
        for probe in self.scenario.probes() {
            let Some(timeout) = timing.left(begun, Clock::now()) else { break };
            let asked = self.asker.ask(probe, timeout).await;
            heard.testimonies.push(testimony(probe, &asked.finding));
            heard.note(probe.name(), &asked.finding, asked.took);
            for finding in &asked.beside {
                heard.note("", finding, Duration::ZERO);
            }
            if Verdict::of(&heard.testimonies).answer() == Answer::Alive {
                return heard;
            }
        }
        let vmm = self.asker.look().await;
        if matches!(vmm, Vmm::Runs { .. }) {
            boots.follow(self.asker.app()).await;
        }
        let finding = vmm.finding();
        heard.note("vmm", &finding, Duration::ZERO);
        heard
            .testimonies
            .push(Testimony::new(ladder::Transport::Hypervisor, &finding).conclusive());
        let silent = |heard: &Testimony| {
            heard.transport == ladder::Transport::Network && heard.answer == Answer::Dead
        };
        let uplink_down = heard.testimonies.iter().any(silent) && self.asker.is_cut_off();
        heard.context = Context { uplink_down, ..context(&vmm) };
        heard
    }

    async fn act(&mut self, turn: Turn, desk: &Desk, board: &Board, process: Option<u32>) {
        let (app, scenario) = (self.asker.app(), &self.scenario);
        match turn {
            Turn::BecameSuspect => {
                self.before = capture::look(&target(app, scenario, &desk.state)).await
            }
            Turn::Failed => {
                let rounds = Rounds { rounds: self.rounds.iter().cloned().collect() };
                let mut before = self.events.since(self.seen);
                before.append(&mut self.before);
                board.show(self.shown());
                let key = (app.id, scenario.name().clone());
                let tell = |progress| board.capturing(&key, progress);
                desk.begin(Failure { app, scenario, rounds, before, process, tell: &tell }).await;
            }
            Turn::Ended(end) => desk.end(app, scenario, end),
            Turn::Flapping | Turn::Calm | Turn::Suppressed(_) => {
                tracing::info!(app = %app.name, scenario = %scenario.name(), "{turn}");
            }
        }
    }

    /// What was heard last: who settled the round, or else who was asked first.
    fn last(&self) -> Option<&rounds::Probe> {
        let probes = &self.rounds.back()?.probes;
        let settles = |probe: &&rounds::Probe| {
            probe.answer == Answer::Alive && probe.rung > Rung::Vcpu && !probe.name.is_empty()
        };
        probes.iter().find(settles).or(probes.first())
    }

    /// What is shown of it.
    fn shown(&self) -> Shown {
        Shown {
            app: self.asker.app().clone(),
            scenario: self.scenario.name().clone(),
            state: self.ladder.state(),
            rung: self.proven(),
            why: self.why().to_owned(),
            took_ms: self.last().map(|probe| probe.took_ms),
            capturing: None,
        }
    }

    fn why(&self) -> &str {
        self.last().map_or("", |probe| probe.reason.as_str())
    }

    /// The highest rung that the last round proved.
    fn proven(&self) -> Option<Rung> {
        let probes = self.rounds.back()?.probes.iter();
        probes.filter(|probe| probe.answer == Answer::Alive).map(|probe| probe.rung).max()
    }

    /// Logs a change of state, once.
    fn tell(&self, before: State) {
        let now = self.ladder.state();
        if now.word() == before.word() {
            return;
        }
        let why = self.why();
        let (app, scenario) = (&self.asker.app().name, self.scenario.name());
        tracing::info!(app = %app, %scenario, from = %before, to = %now, %why, "state");
    }
}

impl Heard {
    fn nothing() -> Self {
        let round = Round { at: Clock::wall(), probes: Vec::new() };
        Self { round, testimonies: Vec::new(), context: Context::PLAIN }
    }

    /// A round in which nobody was asked.
    fn suppressed(suppressed: &Suppressed) -> Self {
        let pause = match suppressed.by {
            By::Window => Pause::Maintenance,
            By::Operator => Pause::Operator,
        };
        let mut heard = Self::nothing();
        heard.context.pause = Some(pause);
        let said = Finding::unknown(Rung::Vmm, suppressed.to_string());
        heard.note("schedule", &said, Duration::ZERO);
        heard
    }

    fn note(&mut self, name: &str, finding: &Finding, took: Duration) {
        self.round.probes.push(rounds::Probe {
            name: name.to_owned(),
            rung: finding.rung,
            answer: finding.answer,
            reason: finding.reason.clone(),
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        });
    }
}

/// What may explain a round in which nobody answered.
fn context(vmm: &Vmm) -> Context {
    let pause = match vmm {
        Vmm::Halted { status } => Pause::of_run_state(status),
        Vmm::Runs { .. } | Vmm::Stopped | Vmm::Unknown { .. } => None,
    };
    Context { pause, host_starved: is_starving(), uplink_down: false }
}

/// Whether everybody on this host waits for memory or IO half of the time. That many wait for a CPU
/// says nothing: a guest that spins makes them wait itself.
fn is_starving() -> bool {
    let starves = |of: &str| {
        let text = std::fs::read_to_string(format!("/proc/pressure/{of}")).unwrap_or_default();
        Pressure::permille(&text, "full").is_some_and(|permille| permille >= STARVING_PERMILLE)
    };
    starves("memory") || starves("io")
}
