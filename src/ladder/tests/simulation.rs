//! Lives of an app as a seed has it: everything that can happen to it, to whoever asks it and to who
//! watches. After every step the ladder is compared with the [`Model`], and the [`Audit`] checks the
//! invariants of the room from the raw events alone.
//!
//! `LIFESIGN_SIMULATE_ROUNDS` rounds are played, from `LIFESIGN_SIMULATE_SEED` on, a seed a life.
//! A failure prints its seed and the last steps. `hack/simulate` plays a million.

use super::audit::Audit;
use super::model::Model;
use super::world::{Dice, Letter, World, rules};
use crate::base::time::Instant;
use crate::ladder::{End, Ladder, Rules, State, Testimony, Turn, Verdict, Witnesses};
use std::collections::{BTreeMap, VecDeque};

/// What a test plays that nobody asked for more.
const ROUNDS: u64 = 50_000;

/// Of one life: the model searches all of it for every answer.
const STEPS: usize = 300;

#[test]
fn no_seed_breaks_an_invariant() {
    let number = |name: &str, otherwise| match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|e| panic!("{name} is `{text}`: {e}")),
        Err(_) => otherwise,
    };
    let rounds = number("LIFESIGN_SIMULATE_ROUNDS", ROUNDS);
    let first = number("LIFESIGN_SIMULATE_SEED", 0);
    let mut seen = Seen::default();
    let mut seed = first;
    while seen.rounds < rounds {
        Life::new(seed).live(&mut seen);
        seed = seed.wrapping_add(1);
    }
    println!("{} rounds in {} lives, seeds {first}..{seed}", seen.rounds, seed.wrapping_sub(first));
    seen.words.iter().for_each(|(word, count)| println!("{count:>10} {word}"));
    if rounds >= ROUNDS {
        seen.is_everything();
    }
}

/// What was met, so that nobody takes an empty simulation for a good one.
#[derive(Default)]
struct Seen {
    rounds: u64,
    words: BTreeMap<&'static str, u64>,
}

impl Seen {
    fn note(&mut self, word: &'static str) {
        *self.words.entry(word).or_default() += 1;
    }

    fn is_everything(&self) {
        let states = ["starting", "healthy", "suspect", "failed", "paused", "gone", "unknown"];
        let turns = ["+suspect", "+failed", "+recovered", "+restarted", "+left", "+flapping"];
        let rest = [
            "+calm",
            "+suppressed",
            "crash in an incident",
            "crash",
            "lie",
            "doubtless",
            "grace anew",
        ];
        for word in states.into_iter().chain(turns).chain(rest) {
            let count = self.words.get(word).copied().unwrap_or_default();
            assert!(count >= 20, "`{word}` was met {count} times: the simulation tries too little");
        }
    }
}

// === a life ===

struct Life {
    seed: u64,
    rules: Rules,
    world: World,
    now: Instant,
    ladder: Ladder,
    model: Model,
    audit: Audit,
    /// What the agent has on its disk: since when an incident is open.
    saved: Option<Instant>,
    trail: VecDeque<(Instant, Letter, Vec<Turn>, State)>,
}

impl Life {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let rules = rules(&mut dice);
        let now = Instant::from_millis(10_000);
        Self {
            seed,
            rules,
            world: World::new(dice),
            now,
            ladder: Ladder::new(rules, now),
            model: Model::new(rules, now),
            audit: Audit::new(rules, now),
            saved: None,
            trail: VecDeque::new(),
        }
    }

    fn live(&mut self, seen: &mut Seen) {
        for _ in 0..STEPS {
            let letter = self.world.next();
            self.world.happens(&letter);
            self.trail.push_back((self.now, letter.clone(), Vec::new(), self.ladder.state()));
            let turns = self.step(&letter, seen);
            for turn in &turns {
                self.save(*turn);
                seen.note(word(*turn));
            }
            seen.note(self.ladder.state().word());
            if let Some(last) = self.trail.back_mut() {
                (last.2, last.3) = (turns.clone(), self.ladder.state());
            }
            if self.trail.len() > 30 {
                self.trail.pop_front();
            }
            self.audit.check(&self.ladder, &turns);
            assert_eq!(self.ladder.state().word(), self.model.word(), "the model says otherwise");
            if let Some(since) = self.model.since() {
                assert_eq!(self.ladder.state().since(), since, "the model says another time");
            }
            assert_eq!(self.ladder.flapping().is_some(), self.model.is_flapping());
            assert_eq!(self.saved.is_some(), self.model.is_open(), "what is saved");
        }
    }

    fn step(&mut self, letter: &Letter, seen: &mut Seen) -> Vec<Turn> {
        match letter {
            Letter::Round(answers, context) => {
                seen.rounds += 1;
                note_answers(answers, seen);
                self.now = self.now + self.world.pace();
                self.audit.round(answers, *context, self.now, &self.ladder);
                let outcome = self.ladder.round(answers, *context, self.now);
                assert_eq!(outcome.verdict, Verdict::of(answers));
                assert_eq!(outcome.state, self.ladder.state());
                assert_eq!(outcome.turns, self.model.round(answers, *context, self.now));
                outcome.turns
            }
            Letter::Restart => {
                self.audit.begins(self.now);
                let turns = self.ladder.started(self.now);
                assert_eq!(turns, self.model.started(self.now));
                turns
            }
            Letter::GuestBoots => {
                self.audit.rebooted(self.now, &self.ladder);
                let has_grace = self.ladder.rebooted(self.now);
                assert_eq!(has_grace, self.model.rebooted(self.now));
                if has_grace {
                    seen.note("grace anew");
                }
                Vec::new()
            }
            Letter::Gone => {
                self.audit.begins(self.now);
                let turns = self.ladder.gone(self.now);
                assert_eq!(turns, self.model.gone(self.now));
                turns
            }
            Letter::AgentCrash => self.crash(seen),
            Letter::Reboot => {
                self.now = self.world.boot();
                self.crash(seen)
            }
            Letter::Sleep(time) => {
                self.now = self.now + *time;
                Vec::new()
            }
            Letter::ClockBack(time) => {
                self.now = self.now - *time;
                Vec::new()
            }
            Letter::Guest(_)
            | Letter::Console { .. }
            | Letter::Hold(_)
            | Letter::Host { .. }
            | Letter::Uplink { .. } => Vec::new(),
        }
    }

    /// Nothing but what was saved is there afterwards. An app that had left is found again.
    fn crash(&mut self, seen: &mut Seen) -> Vec<Turn> {
        self.audit.crash(self.now);
        (self.ladder, self.model) = if let Some(since) = self.saved {
            seen.note("crash in an incident");
            let ladder = Ladder::resumed(self.rules, since, self.now);
            (ladder, Model::resumed(self.rules, self.now))
        } else {
            seen.note("crash");
            (Ladder::new(self.rules, self.now), Model::new(self.rules, self.now))
        };
        Vec::new()
    }

    fn save(&mut self, turn: Turn) {
        match turn {
            Turn::Failed => self.saved = Some(self.ladder.state().since()),
            Turn::Ended(_) => self.saved = None,
            Turn::BecameSuspect | Turn::Flapping | Turn::Calm | Turn::Suppressed(_) => {}
        }
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        println!("{:?}", self.rules);
        for (at, letter, turns, state) in &self.trail {
            println!("{:>8} s  {letter}\n{:12}{turns:?} {state:?}", at.as_millis() / 1000, "");
        }
        println!("play it again: hack/simulate 1 {}", self.seed);
    }
}

fn word(turn: Turn) -> &'static str {
    match turn {
        Turn::BecameSuspect => "+suspect",
        Turn::Failed => "+failed",
        Turn::Ended(End::Recovered) => "+recovered",
        Turn::Ended(End::Restarted) => "+restarted",
        Turn::Ended(End::Gone) => "+left",
        Turn::Flapping => "+flapping",
        Turn::Calm => "+calm",
        Turn::Suppressed(_) => "+suppressed",
    }
}

fn note_answers(answers: &[Testimony], seen: &mut Seen) {
    if Verdict::of(answers).is_disputed() {
        seen.note("lie");
    }
    if Witnesses::of(answers).is_conclusive() {
        seen.note("doubtless");
    }
}
