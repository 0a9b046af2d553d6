//! The ladder as somebody would write it who has all the memory of the world.
//!
//! It keeps everything that ever happened, counts nothing, and answers each question by searching the
//! history from the question's own words. It shares with the ladder nothing but the words.

use crate::base::rung::{Answer, Rung};
use crate::base::time::Instant;
use crate::ladder::{Context, End, Excuse, Flap, Pause, Rules, Testimony, Transport, Turn};
use std::collections::BTreeSet;
use std::time::Duration;

/// What happened, and what was made of it.
#[derive(Clone, Debug, PartialEq)]
enum What {
    /// A process began.
    Started,
    /// The app is not there.
    Gone,
    /// A round was alive.
    Alive,
    /// A round was dead, and that counts.
    Dead { by: BTreeSet<Transport>, conclusive: bool },
    /// A round was dead in its grace.
    Graced,
    /// A round was dead, and that does not count.
    Excused(Excuse),
    /// A round said nothing.
    Nothing,
    /// A round of an app that was held.
    Held(Pause),
    /// An incident began.
    Failed,
    /// An incident from before the agent's restart.
    Resumed,
    /// An incident ended.
    Ended,
    /// It began to flap.
    Flapping,
    /// It ceased to flap.
    Calm,
}

/// Everything that happened.
#[derive(Debug)]
pub(super) struct Model {
    rules: Rules,
    history: Vec<(Instant, What)>,
}

impl Model {
    pub(super) fn new(rules: Rules, now: Instant) -> Self {
        Self { rules, history: vec![(now, What::Started)] }
    }

    pub(super) fn resumed(rules: Rules, now: Instant) -> Self {
        Self { rules, history: vec![(now, What::Started), (now, What::Resumed)] }
    }

    // === what happens ===

    pub(super) fn started(&mut self, now: Instant) -> Vec<Turn> {
        self.another_life(What::Started, End::Restarted, now)
    }

    pub(super) fn gone(&mut self, now: Instant) -> Vec<Turn> {
        self.another_life(What::Gone, End::Gone, now)
    }

    fn another_life(&mut self, what: What, end: End, now: Instant) -> Vec<Turn> {
        let now = self.not_before(now);
        let mut turns = Vec::new();
        if self.is_open() {
            turns.push(Turn::Ended(end));
            turns.extend(self.change(What::Ended, now));
        }
        self.history.push((now, what));
        turns
    }

    /// A boot is a start, to an app that had answered and is not failed.
    pub(super) fn rebooted(&mut self, now: Instant) -> bool {
        let now = self.not_before(now);
        let answered = self.life().any(|(_, what)| *what == What::Alive);
        let has_grace = answered && !self.is_open() && !self.is_gone();
        if has_grace {
            self.history.push((now, What::Started));
        }
        has_grace
    }

    pub(super) fn round(
        &mut self,
        heard: &[Testimony],
        around: Context,
        now: Instant,
    ) -> Vec<Turn> {
        let now = self.not_before(now);
        if self.is_gone() {
            self.history.push((now, What::Gone));
            return Vec::new();
        }
        let told = self.told();
        let what = self.judge(heard, around, now);
        let mut turns = Vec::new();
        let excuse = excuse(&what);
        if excuse != told {
            turns.extend(excuse.map(Turn::Suppressed));
        }
        let counts = matches!(what, What::Alive | What::Dead { .. });
        self.history.push((now, what));
        if counts {
            turns.extend(self.follow(now));
        }
        turns
    }

    fn judge(&self, heard: &[Testimony], around: Context, now: Instant) -> What {
        let alive =
            |t: &Testimony| t.answer == Answer::Alive && !matches!(t.rung, Rung::Vmm | Rung::Vcpu);
        let dead: Vec<&Testimony> = heard.iter().filter(|t| t.answer == Answer::Dead).collect();
        let by: BTreeSet<Transport> = dead.iter().map(|t| t.transport).collect();
        let conclusive = dead.iter().any(|t| t.conclusive);
        if let Some(pause) = around.pause {
            What::Held(pause)
        } else if heard.iter().any(alive) {
            What::Alive
        } else if dead.is_empty() {
            What::Nothing
        } else if around.host_starved && !conclusive {
            What::Excused(Excuse::HostStarved)
        } else if around.uplink_down && !conclusive && by == BTreeSet::from([Transport::Network]) {
            What::Excused(Excuse::UplinkDown)
        } else if self.is_in_grace(now) {
            What::Graced
        } else {
            What::Dead { by, conclusive }
        }
    }

    /// What follows from a round that counts, which is the last in the history.
    fn follow(&mut self, now: Instant) -> Vec<Turn> {
        let mut turns = Vec::new();
        if self.is_flapping() && self.steady(now) >= self.flap().within {
            self.history.push((now, What::Calm));
            turns.push(Turn::Calm);
        }
        if self.is_open() {
            if self.successes() >= self.rules.success_threshold.max(1) && !self.is_flapping() {
                turns.push(Turn::Ended(End::Recovered));
                turns.extend(self.change(What::Ended, now));
            }
        } else if self.is_proven() && !self.is_flapping() {
            turns.push(Turn::Failed);
            turns.extend(self.change(What::Failed, now));
        } else if self.evidence().count() == 1 {
            turns.push(Turn::BecameSuspect);
        }
        turns
    }

    fn change(&mut self, what: What, now: Instant) -> Option<Turn> {
        self.history.push((now, what));
        let flap = self.rules.flap?;
        let recent = self.history.iter().filter(|(at, what)| {
            matches!(what, What::Failed | What::Ended) && now.since(*at) < flap.within
        });
        if self.is_flapping() || recent.count() < flap.changes.max(1) as usize {
            return None;
        }
        self.history.push((now, What::Flapping));
        Some(Turn::Flapping)
    }

    // === what can be asked ===

    /// The state's word.
    pub(super) fn word(&self) -> &'static str {
        if self.is_gone() {
            return "gone";
        }
        if self.is_open() {
            return "failed";
        }
        if self.was_held() {
            return "paused";
        }
        let silent = self.silence() >= self.rules.failure_threshold.max(1) as usize;
        let now = self.history.last().unwrap().0;
        let answered = self.life().any(|(_, what)| *what == What::Alive);
        if self.evidence().count() > 0 {
            if silent { "unknown" } else { "suspect" }
        } else if !answered {
            if silent && !self.is_in_grace(now) { "unknown" } else { "starting" }
        } else if silent || self.nothing_since_held() {
            "unknown"
        } else {
            "healthy"
        }
    }

    /// Since when it is suspected, or failed in this agent's life.
    pub(super) fn since(&self) -> Option<Instant> {
        match self.word() {
            "suspect" => self.evidence().last().map(|(at, ..)| at),
            "failed" => {
                let mut marks = self.history.iter().rev();
                marks.find(|(_, what)| *what == What::Failed).map(|(at, _)| *at)
            }
            _ => None,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        let last = self.back().find(|w| matches!(w, What::Failed | What::Resumed | What::Ended));
        matches!(last, Some(What::Failed | What::Resumed))
    }

    pub(super) fn is_flapping(&self) -> bool {
        let last = self.back().find(|w| matches!(w, What::Flapping | What::Calm));
        last == Some(&What::Flapping)
    }

    fn is_gone(&self) -> bool {
        let last = self.back().find(|w| matches!(w, What::Started | What::Gone));
        last == Some(&What::Gone)
    }

    /// The last round was one of an app that was held.
    fn was_held(&self) -> bool {
        let last = self.back().find(|w| is_round(w) || **w == What::Started);
        matches!(last, Some(What::Held(_)))
    }

    fn nothing_since_held(&self) -> bool {
        let settled = |w: &&What| !matches!(w, What::Nothing | What::Excused(_));
        let last = self.back().filter(|w| is_round(w)).find(settled);
        matches!(last, Some(What::Held(_)))
    }

    /// Rounds at the end that said nothing, or nothing that counts.
    fn silence(&self) -> usize {
        let rounds = self.back().filter(|w| is_round(w) || **w == What::Started);
        rounds.take_while(|w| matches!(w, What::Nothing | What::Excused(_))).count()
    }

    /// The excuse that was last told and still stands.
    fn told(&self) -> Option<Excuse> {
        let mut rounds = self.back().filter(|w| is_round(w) || **w == What::Started).peekable();
        if let held @ What::Held(_) = rounds.peek()? {
            return excuse(held);
        }
        let settled = rounds.find(|w| **w != What::Nothing)?;
        excuse(settled).filter(|excuse| !matches!(excuse, Excuse::Paused(_)))
    }

    /// An app that was never alive has its grace, from its start or from when it was last let go.
    fn is_in_grace(&self, now: Instant) -> bool {
        if self.is_open() || self.life().any(|(_, what)| *what == What::Alive) {
            return false;
        }
        let life: Vec<&(Instant, What)> = self.life().collect();
        let held = life.iter().rposition(|(_, what)| matches!(what, What::Held(_)));
        let begun = match held {
            None => life.first().map_or(now, |(at, _)| *at),
            Some(index) => life.get(index + 1).map_or(now, |(at, _)| *at),
        };
        now.since(begun) < self.rules.initial_delay
    }

    /// Dead rounds that count and that nothing has refuted or made obsolete since.
    fn evidence(&self) -> impl Iterator<Item = (Instant, &BTreeSet<Transport>, bool)> {
        let obsolete =
            |w: &What| matches!(w, What::Alive | What::Held(_) | What::Started | What::Gone);
        let standing = self.history.iter().rev().take_while(move |(_, what)| !obsolete(what));
        standing.filter_map(|(at, what)| {
            let What::Dead { by, conclusive } = what else { return None };
            Some((*at, by, *conclusive))
        })
    }

    fn is_proven(&self) -> bool {
        let witnesses: BTreeSet<_> = self.evidence().flat_map(|(_, by, _)| by.iter()).collect();
        let enough = witnesses.len() >= self.rules.witnesses as usize
            || self.evidence().any(|(_, _, conclusive)| conclusive);
        let count = self.evidence().count();
        count > 0 && count >= self.rules.failure_threshold as usize && enough
    }

    /// Alive rounds of an open incident with no dead one among them.
    fn successes(&self) -> u32 {
        let against = |w: &&What| matches!(w, What::Dead { .. } | What::Failed | What::Resumed);
        let since = self.back().take_while(|w| !against(w));
        u32::try_from(since.filter(|w| **w == What::Alive).count()).unwrap()
    }

    /// For how long every answer that counts has been the same as the last.
    fn steady(&self, now: Instant) -> Duration {
        let disturbs =
            |w: &What| matches!(w, What::Flapping | What::Started | What::Gone | What::Held(_));
        let undisturbed = self.history.iter().rev().take_while(|(_, what)| !disturbs(what));
        let counted: Vec<(Instant, bool)> = undisturbed
            .filter(|(_, what)| matches!(what, What::Alive | What::Dead { .. }))
            .map(|(at, what)| (*at, *what == What::Alive))
            .collect();
        let same = counted.iter().take_while(|(_, alive)| *alive == counted[0].1);
        same.last().map_or(Duration::ZERO, |(at, _)| now.since(*at))
    }

    /// Since the last start.
    fn life(&self) -> impl Iterator<Item = &(Instant, What)> {
        let start = self.history.iter().rposition(|(_, what)| *what == What::Started);
        self.history[start.unwrap()..].iter()
    }

    fn back(&self) -> impl Iterator<Item = &What> {
        self.history.iter().rev().map(|(_, what)| what)
    }

    fn not_before(&self, now: Instant) -> Instant {
        self.history.last().map_or(now, |(at, _)| now.max(*at))
    }

    fn flap(&self) -> Flap {
        self.rules.flap.unwrap()
    }
}

fn is_round(what: &What) -> bool {
    matches!(
        what,
        What::Alive
            | What::Dead { .. }
            | What::Graced
            | What::Excused(_)
            | What::Nothing
            | What::Held(_)
    )
}

fn excuse(what: &What) -> Option<Excuse> {
    if let What::Held(pause) = what {
        return Some(Excuse::Paused(*pause));
    }
    let What::Excused(excuse) = what else { return None };
    Some(*excuse)
}
