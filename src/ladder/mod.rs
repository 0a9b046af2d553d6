//! Probe answers in, state and verdict out.
//!
//! ```text
//!                 alive                       dead, once
//!   starting -----------------> healthy -----------------> suspect
//!      |                        ^  ^                        |   |
//!      | dead, grace over       |  +------------------------+   | dead, failureThreshold
//!      v                        |            alive              v times in a row
//!   suspect                     +---------------------------- failed
//!                                 alive, successThreshold
//!                                 times in a row
//! ```
//!
//! A round in which nothing was alive and nothing was dead moves nothing: what could not be asked
//! says nothing of the app. It neither counts as a failure nor forgets one; only when nothing but
//! such rounds came for as long as a failure takes is the state shown as `unknown`.
//!
//! No IO, no clock: whoever calls says what was answered and when.

use crate::base::rung::{Answer, Rung};
use crate::base::time::Instant;
use crate::scenario::Timing;
use std::fmt;

/// What is known of an app under a scenario.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// It may still be booting: failures do not count.
    Starting {
        /// Since when.
        since: Instant,
    },
    /// It answers.
    Healthy {
        /// Since when.
        since: Instant,
    },
    /// It did not answer lately.
    Suspect {
        /// The first round that failed.
        since: Instant,
        /// Rounds that failed since.
        failures: u32,
    },
    /// It does not answer.
    Failed {
        /// Since when.
        since: Instant,
        /// Rounds in a row in which it answered again.
        successes: u32,
    },
    /// It cannot be asked.
    Unknown {
        /// Since when.
        since: Instant,
    },
}

/// What one round says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Verdict {
    /// The highest rung proven.
    pub proven: Option<Rung>,
    /// The lowest rung refuted.
    pub refuted: Option<Rung>,
    /// What could not be asked.
    pub unknown: Vec<Rung>,
}

/// A change that somebody has to act on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Turn {
    /// The first failed round.
    BecameSuspect,
    /// An incident begins.
    Failed,
    /// The incident is over.
    Recovered,
}

/// One app under one scenario.
#[derive(Clone, Debug)]
pub struct Ladder {
    timing: Timing,
    state: State,
    unknowns: u32,
}

impl Verdict {
    /// Of the answers of a round.
    #[must_use]
    pub fn of(answers: &[(Rung, Answer)]) -> Self {
        let rungs = |wanted: Answer| {
            answers.iter().filter(move |(_, answer)| *answer == wanted).map(|(rung, _)| *rung)
        };
        Self {
            proven: rungs(Answer::Alive).max(),
            refuted: rungs(Answer::Dead).min(),
            unknown: rungs(Answer::Unknown).collect(),
        }
    }

    /// What the round counts as: the first *alive* settles it, *unknown* alone says nothing.
    #[must_use]
    pub fn answer(&self) -> Answer {
        match (self.proven, self.refuted) {
            (Some(_), _) => Answer::Alive,
            (None, Some(_)) => Answer::Dead,
            (None, None) => Answer::Unknown,
        }
    }
}

impl Ladder {
    /// An app that starts to be watched at `now`.
    #[must_use]
    pub fn new(timing: Timing, now: Instant) -> Self {
        Self { timing, state: State::Starting { since: now }, unknowns: 0 }
    }

    /// An app that was in an incident when its watcher stopped.
    #[must_use]
    pub fn resumed(timing: Timing, failed_since: Instant) -> Self {
        let state = State::Failed { since: failed_since, successes: 0 };
        Self { timing, state, unknowns: 0 }
    }

    /// What is known.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Takes the result of a round.
    pub fn round(&mut self, answer: Answer, now: Instant) -> Option<Turn> {
        match answer {
            Answer::Alive => self.alive(now),
            Answer::Dead => self.dead(now),
            Answer::Unknown => {
                self.unknown(now);
                None
            }
        }
    }

    fn alive(&mut self, now: Instant) -> Option<Turn> {
        self.unknowns = 0;
        match self.state {
            State::Healthy { .. } => None,
            State::Failed { since, successes } => {
                let successes = successes + 1;
                if successes < self.timing.success_threshold {
                    self.state = State::Failed { since, successes };
                    return None;
                }
                self.state = State::Healthy { since: now };
                Some(Turn::Recovered)
            }
            State::Starting { .. } | State::Suspect { .. } | State::Unknown { .. } => {
                self.state = State::Healthy { since: now };
                None
            }
        }
    }

    fn dead(&mut self, now: Instant) -> Option<Turn> {
        self.unknowns = 0;
        let (since, failures) = match self.state {
            State::Starting { since } if now.since(since) < self.timing.initial_delay => {
                return None;
            }
            State::Failed { since, .. } => {
                self.state = State::Failed { since, successes: 0 };
                return None;
            }
            State::Suspect { since, failures } => (since, failures + 1),
            State::Starting { .. } | State::Healthy { .. } | State::Unknown { .. } => (now, 1),
        };
        if failures >= self.timing.failure_threshold {
            self.state = State::Failed { since: now, successes: 0 };
            return Some(Turn::Failed);
        }
        self.state = State::Suspect { since, failures };
        (failures == 1).then_some(Turn::BecameSuspect)
    }

    fn unknown(&mut self, now: Instant) {
        self.unknowns = self.unknowns.saturating_add(1);
        let settled = matches!(self.state, State::Failed { .. } | State::Unknown { .. });
        if !settled && self.unknowns >= self.timing.failure_threshold {
            self.state = State::Unknown { since: now };
        }
    }
}

impl State {
    /// The word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Starting { .. } => "starting",
            Self::Healthy { .. } => "healthy",
            Self::Suspect { .. } => "suspect",
            Self::Failed { .. } => "failed",
            Self::Unknown { .. } => "unknown",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    const TIMING: Timing = Timing {
        period: Duration::from_secs(30),
        timeout: Duration::from_secs(5),
        failure_threshold: 3,
        success_threshold: 2,
        initial_delay: Duration::from_secs(60),
    };

    /// One letter a round, 30 s apart: a(live), d(ead), u(nknown). Gives the state after each, and
    /// `!` and `.` where an incident begins and ends.
    fn play(rounds: &str) -> String {
        let mut ladder = Ladder::new(TIMING, Instant::default());
        let step = |(index, letter): (usize, char)| {
            let answer = match letter {
                'a' => Answer::Alive,
                'd' => Answer::Dead,
                _ => Answer::Unknown,
            };
            let now = Instant::from_millis(30_000 * index as u64);
            let turn = match ladder.round(answer, now) {
                Some(Turn::Failed) => "!",
                Some(Turn::Recovered) => ".",
                Some(Turn::BecameSuspect) | None => "",
            };
            format!("{}{turn}", ladder.state().word())
        };
        rounds.chars().enumerate().map(step).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn three_dead_rounds_make_an_incident_and_two_alive_ones_end_it() {
        assert_eq!(
            play("addd daa"),
            "healthy suspect suspect failed! failed failed failed healthy."
        );
    }

    #[test]
    fn a_booting_guest_has_its_time() {
        assert_eq!(play("dddd"), "starting starting suspect suspect");
        assert_eq!(play("dddda"), "starting starting suspect suspect healthy");
    }

    #[test]
    fn unknown_neither_counts_nor_forgets() {
        assert_eq!(play("auduudd"), "healthy healthy suspect suspect suspect suspect failed!");
        assert_eq!(play("auuuud"), "healthy healthy healthy unknown unknown suspect");
    }

    #[test]
    fn one_alive_answer_settles_a_round() {
        let verdict = Verdict::of(&[
            (Rung::Userspace, Answer::Dead),
            (Rung::Storage, Answer::Unknown),
            (Rung::Service, Answer::Alive),
        ]);
        assert_eq!(verdict.answer(), Answer::Alive);
        assert_eq!(verdict.refuted, Some(Rung::Userspace));
        assert_eq!(verdict.unknown, [Rung::Storage]);
        assert_eq!(Verdict::of(&[(Rung::Vmm, Answer::Unknown)]).answer(), Answer::Unknown);
    }

    proptest! {
        #[test]
        fn without_a_dead_answer_there_is_no_incident(rounds in "[au]{0,200}") {
            prop_assert!(!play(&rounds).contains('!'));
        }

        #[test]
        fn incidents_begin_and_end_in_turn(rounds in "[adu]{0,200}") {
            let marks: String = play(&rounds).chars().filter(|c| "!.".contains(*c)).collect();
            prop_assert!(!marks.contains("!!") && !marks.contains("..") && !marks.starts_with('.'));
        }
    }
}
