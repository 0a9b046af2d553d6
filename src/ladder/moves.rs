//! What moves the state of an app.

use super::excuse::{Context, Excuse, Pause};
use super::flap::Damper;
use super::state::{Recovery, State, Suspicion};
use super::verdict::Witnesses;
use super::{End, Rules, Testimony, Turn, Verdict};
use crate::base::rung::Answer;
use crate::base::time::Instant;

/// What became of a round.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Outcome {
    /// What is known now.
    pub state: State,
    /// What the round said.
    pub verdict: Verdict,
    /// What has to be acted on, in order.
    pub turns: Vec<Turn>,
}

/// One app under one scenario.
#[derive(Clone, Debug)]
pub struct Ladder {
    rules: Rules,
    state: State,
    /// The latest that it was ever told: time does not run backward in here.
    latest: Instant,
    /// It was alive since it was started, or was given its grace anew.
    answered: bool,
    /// Rounds in a row that said nothing.
    unknowns: u32,
    excuse: Option<Excuse>,
    damper: Damper,
}

impl Ladder {
    /// An app that starts to be watched at `now`.
    #[must_use]
    pub fn new(rules: Rules, now: Instant) -> Self {
        Self::with_state(rules, State::Starting { since: now }, now)
    }

    /// An app that was in an incident when its watcher stopped. If that was before this boot, any
    /// `failed_since` will do: it cannot be later than `now`.
    #[must_use]
    pub fn resumed(rules: Rules, failed_since: Instant, now: Instant) -> Self {
        let state = State::Failed { since: failed_since.min(now), recovery: None };
        Self::with_state(rules, state, now)
    }

    fn with_state(rules: Rules, state: State, now: Instant) -> Self {
        let damper = Damper::new(rules.flap);
        Self { rules, state, latest: now, answered: false, unknowns: 0, excuse: None, damper }
    }

    /// What is known.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Why what was last heard did not count.
    #[must_use]
    pub fn excuse(&self) -> Option<Excuse> {
        self.excuse
    }

    /// It changes too often, since.
    #[must_use]
    pub fn flapping(&self) -> Option<Instant> {
        self.damper.flapping()
    }

    /// Takes the answers of a round, and what was known around the app while it was asked.
    pub fn round(&mut self, answers: &[Testimony], context: Context, now: Instant) -> Outcome {
        let now = self.advance(now);
        let verdict = Verdict::of(answers);
        let mut turns = Vec::new();
        // Whoever answers for an app that is not there is somebody else.
        if !matches!(self.state, State::Gone { .. }) {
            let dead = Witnesses::of(answers);
            let excuse = context.excuse(&verdict, dead);
            self.note(excuse, verdict.answer(), &mut turns);
            match (excuse, verdict.answer()) {
                (Some(Excuse::Paused(why)), _) => self.hold(why, now),
                (Some(Excuse::HostStarved | Excuse::UplinkDown), _) | (None, Answer::Unknown) => {
                    self.unknown(now);
                }
                (None, Answer::Alive) => self.alive(now, &mut turns),
                (None, Answer::Dead) => self.dead(dead, now, &mut turns),
            }
        }
        Outcome { state: self.state, verdict, turns }
    }

    /// The app has a new process: it was restarted, or is back.
    pub fn started(&mut self, now: Instant) -> Vec<Turn> {
        let now = self.advance(now);
        let turns = self.leave(End::Restarted, now);
        self.state = State::Starting { since: now };
        turns
    }

    /// The guest booted anew in the same process, which takes its time: it has its grace again, if it
    /// answered since the last time that it had one. Tells whether it has. An incident goes on.
    pub fn rebooted(&mut self, now: Instant) -> bool {
        let now = self.advance(now);
        let has_grace = self.answered && !matches!(self.state, State::Failed { .. });
        if has_grace {
            self.leave(End::Restarted, now);
            self.state = State::Starting { since: now };
        }
        has_grace
    }

    /// The app is no longer on the device. That its process vanished while it should run is not this,
    /// but a dead and conclusive answer.
    pub fn gone(&mut self, now: Instant) -> Vec<Turn> {
        let now = self.advance(now);
        let turns = self.leave(End::Gone, now);
        if !matches!(self.state, State::Gone { .. }) {
            self.state = State::Gone { since: now };
        }
        turns
    }

    fn advance(&mut self, now: Instant) -> Instant {
        self.latest = self.latest.max(now);
        self.latest
    }

    /// Forgets what the process that is no more had answered.
    fn leave(&mut self, end: End, now: Instant) -> Vec<Turn> {
        let mut turns = Vec::new();
        if matches!(self.state, State::Failed { .. }) {
            self.change(Turn::Ended(end), now, &mut turns);
        }
        self.answered = false;
        self.unknowns = 0;
        self.excuse = None;
        self.damper.disturbed();
        turns
    }

    /// Tells an excuse once. A round that said nothing needed none, and does not end it.
    fn note(&mut self, excuse: Option<Excuse>, answer: Answer, turns: &mut Vec<Turn>) {
        let was_paused = matches!(self.excuse, Some(Excuse::Paused(_)));
        if excuse.is_none() && answer == Answer::Unknown && !was_paused {
            return;
        }
        if excuse != self.excuse {
            turns.extend(excuse.map(Turn::Suppressed));
        }
        self.excuse = excuse;
    }

    fn hold(&mut self, why: Pause, now: Instant) {
        self.unknowns = 0;
        self.damper.disturbed();
        self.state = match self.state {
            State::Paused { since, .. } => State::Paused { since, why },
            failed @ (State::Failed { .. } | State::Gone { .. }) => failed,
            State::Starting { .. }
            | State::Healthy { .. }
            | State::Suspect { .. }
            | State::Unknown { .. } => State::Paused { since: now, why },
        };
    }

    /// A guest that was held goes on where it was, but what it did before says nothing of now.
    fn release(&mut self, now: Instant) {
        if matches!(self.state, State::Paused { .. }) {
            self.state = if self.answered {
                State::Unknown { since: now, suspicion: None }
            } else {
                State::Starting { since: now }
            };
        }
    }

    fn alive(&mut self, now: Instant, turns: &mut Vec<Turn>) {
        self.unknowns = 0;
        self.answered = true;
        if self.damper.settled(true, now) {
            turns.push(Turn::Calm);
        }
        match self.state {
            State::Healthy { .. } => {}
            State::Failed { since, recovery } => {
                let recovery = recovery.unwrap_or(Recovery { since: now, successes: 0 });
                let recovery = recovery.and_one();
                self.state = State::Failed { since, recovery: Some(recovery) };
                let enough = recovery.successes >= self.rules.success_threshold;
                if enough && self.flapping().is_none() {
                    self.state = State::Healthy { since: now };
                    self.change(Turn::Ended(End::Recovered), now, turns);
                }
            }
            State::Starting { .. }
            | State::Suspect { .. }
            | State::Paused { .. }
            | State::Gone { .. }
            | State::Unknown { .. } => self.state = State::Healthy { since: now },
        }
    }

    fn dead(&mut self, witnesses: Witnesses, now: Instant, turns: &mut Vec<Turn>) {
        self.release(now);
        self.unknowns = 0;
        let before = match self.state {
            State::Starting { since } if self.has_grace(since, now) => return,
            State::Suspect { suspicion } => Some(suspicion),
            State::Unknown { suspicion, .. } => suspicion,
            State::Starting { .. }
            | State::Healthy { .. }
            | State::Failed { .. }
            | State::Paused { .. }
            | State::Gone { .. } => None,
        };
        if self.damper.settled(false, now) {
            turns.push(Turn::Calm);
        }
        if let State::Failed { since, .. } = self.state {
            self.state = State::Failed { since, recovery: None };
            return;
        }
        let suspicion = Suspicion::confirmed(before, witnesses, now);
        self.state = State::Suspect { suspicion };
        if self.is_proven(suspicion) && self.flapping().is_none() {
            self.state = State::Failed { since: now, recovery: None };
            self.change(Turn::Failed, now, turns);
        } else if suspicion.failures == 1 {
            turns.push(Turn::BecameSuspect);
        }
    }

    fn unknown(&mut self, now: Instant) {
        self.release(now);
        self.unknowns = self.unknowns.saturating_add(1);
        if self.unknowns < self.rules.failure_threshold {
            return;
        }
        self.state = match self.state {
            State::Starting { since } if !self.has_grace(since, now) => {
                State::Unknown { since: now, suspicion: None }
            }
            State::Healthy { .. } => State::Unknown { since: now, suspicion: None },
            State::Suspect { suspicion } => {
                State::Unknown { since: now, suspicion: Some(suspicion) }
            }
            settled @ (State::Starting { .. }
            | State::Failed { .. }
            | State::Paused { .. }
            | State::Gone { .. }
            | State::Unknown { .. }) => settled,
        };
    }

    fn change(&mut self, turn: Turn, now: Instant, turns: &mut Vec<Turn>) {
        turns.push(turn);
        if self.damper.changed(now) {
            turns.push(Turn::Flapping);
        }
    }

    fn has_grace(&self, since: Instant, now: Instant) -> bool {
        now.since(since) < self.rules.initial_delay
    }

    fn is_proven(&self, suspicion: Suspicion) -> bool {
        let Suspicion { failures, witnesses, .. } = suspicion;
        failures >= self.rules.failure_threshold
            && (witnesses.is_conclusive() || witnesses.count() >= self.rules.witnesses)
    }

    #[cfg(test)]
    pub(super) fn changes_remembered(&self) -> usize {
        self.damper.remembers()
    }
}
