//! Holds a ladder to the invariants of the room by counting raw events, without the model.

use crate::base::rung::{Answer, Rung};
use crate::base::time::Instant;
use crate::ladder::{
    Context, End, Ladder, Recovery, Rules, State, Suspicion, Testimony, Transport, Turn, Witnesses,
};

/// Counts raw events, to hold the ladder to the invariants of the room without the model.
pub(super) struct Audit {
    rules: Rules,
    latest: Instant,
    /// When the grace began; none once it was alive.
    grace: Option<Instant>,
    held: bool,
    /// Dead rounds since it was last alive, started or held: who said so.
    against: Vec<Witnesses>,
    alive_in_a_row: u32,
    open: bool,
    flapping: bool,
    /// The counters before a round that must not change them.
    still: Option<(Option<Suspicion>, Option<Recovery>)>,
    /// What the last event may lead to.
    may_fail: bool,
    may_recover: bool,
    may_leave: bool,
}

impl Audit {
    pub(super) fn new(rules: Rules, now: Instant) -> Self {
        Self {
            rules,
            latest: now,
            grace: Some(now),
            held: false,
            against: Vec::new(),
            alive_in_a_row: 0,
            open: false,
            flapping: false,
            still: None,
            may_fail: false,
            may_recover: false,
            may_leave: false,
        }
    }

    pub(super) fn begins(&mut self, now: Instant) {
        self.latest = self.latest.max(now);
        self.may_leave = true;
        self.grace = Some(self.latest);
        self.held = false;
        self.against.clear();
        self.alive_in_a_row = 0;
    }

    pub(super) fn rebooted(&mut self, now: Instant, before: &Ladder) {
        self.latest = self.latest.max(now);
        let gone = matches!(before.state(), State::Gone { .. });
        if self.grace.is_none() && !self.open && !gone {
            self.grace = Some(self.latest);
            self.held = false;
            self.against.clear();
        }
    }

    pub(super) fn crash(&mut self, now: Instant) {
        *self = Self { open: self.open, ..Self::new(self.rules, now) };
    }

    pub(super) fn round(
        &mut self,
        heard: &[Testimony],
        around: Context,
        now: Instant,
        before: &Ladder,
    ) {
        self.latest = self.latest.max(now);
        if matches!(before.state(), State::Gone { .. }) {
            return;
        }
        let alive = heard.iter().any(|t| t.answer == Answer::Alive && t.rung > Rung::Vcpu);
        let dead: Vec<&Testimony> = heard.iter().filter(|t| t.answer == Answer::Dead).collect();
        let certain = dead.iter().any(|t| t.conclusive);
        let network = dead.iter().all(|t| t.transport == Transport::Network);
        let excused = !certain && (around.host_starved || (around.uplink_down && network));
        if around.pause.is_some() {
            self.held = true;
            self.against.clear();
            return;
        }
        if std::mem::take(&mut self.held) && self.grace.is_some() {
            self.grace = Some(self.latest);
        }
        if alive {
            self.grace = None;
            self.against.clear();
            self.alive_in_a_row += 1;
            self.may_recover = self.alive_in_a_row >= self.rules.success_threshold;
        } else if dead.is_empty() || excused {
            self.still = Some(counters(before.state()));
        } else if self.open || !self.in_grace() {
            self.against.push(Witnesses::of(heard));
            self.alive_in_a_row = 0;
            self.may_fail = self.is_proven();
        }
    }

    fn in_grace(&self) -> bool {
        self.grace.is_some_and(|begun| self.latest.since(begun) < self.rules.initial_delay)
    }

    fn is_proven(&self) -> bool {
        let all = self.against.iter().fold(Witnesses::default(), |all, w| all.and(*w));
        self.against.len() >= self.rules.failure_threshold as usize
            && (all.is_conclusive() || all.count() >= self.rules.witnesses)
    }

    pub(super) fn check(&mut self, ladder: &Ladder, turns: &[Turn]) {
        for turn in turns {
            match turn {
                Turn::Failed => {
                    assert!(!self.open, "a second incident");
                    assert!(self.may_fail, "an incident without evidence");
                    assert!(!self.flapping, "an incident while it flaps");
                    (self.open, self.alive_in_a_row) = (true, 0);
                }
                Turn::Ended(end) => {
                    assert!(self.open, "the end of nothing");
                    let recovers = *end == End::Recovered;
                    assert!(if recovers { self.may_recover } else { self.may_leave }, "{end}");
                    assert!(!(recovers && self.flapping), "a recovery while it flaps");
                    self.open = false;
                }
                Turn::Flapping => {
                    assert!(!self.flapping && self.rules.flap.is_some(), "flapping told again");
                    self.flapping = true;
                }
                Turn::Calm => assert!(std::mem::take(&mut self.flapping), "calm told again"),
                Turn::BecameSuspect | Turn::Suppressed(_) => {}
            }
        }
        let state = ladder.state();
        assert_eq!(self.open, matches!(state, State::Failed { .. }), "failed without an incident");
        assert!(self.flapping || self.open || !self.may_fail, "a failure was not found out");
        assert!(state.since() <= self.latest, "something of the future");
        let most = self.rules.flap.map_or(0, |flap| flap.changes.max(1));
        assert!(ladder.changes_remembered() <= most as usize, "memory grows");
        if let Some(before) = self.still.take() {
            assert_eq!(before, counters(state), "nothing was said, and something moved");
            assert!(turns.iter().all(|turn| matches!(turn, Turn::Suppressed(_))), "{turns:?}");
        }
        (self.may_fail, self.may_recover, self.may_leave) = (false, false, false);
    }
}

/// What counts for and against an app.
fn counters(state: State) -> (Option<Suspicion>, Option<Recovery>) {
    match state {
        State::Suspect { suspicion } => (Some(suspicion), None),
        State::Unknown { suspicion, .. } => (suspicion, None),
        State::Failed { recovery, .. } => (None, recovery),
        State::Starting { .. }
        | State::Healthy { .. }
        | State::Paused { .. }
        | State::Gone { .. } => (None, None),
    }
}
