//! What one round says, and who said it.

use super::{Testimony, Transport};
use crate::base::rung::{Answer, Rung};
use std::fmt;

/// What one round says.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Verdict {
    /// The highest rung proven.
    pub proven: Option<Rung>,
    /// The lowest rung refuted.
    pub refuted: Option<Rung>,
    /// What could not be asked, from below.
    pub unknown: Vec<Rung>,
}

/// Who found an app dead.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Witnesses {
    /// A bit for each transport.
    transports: u8,
    conclusive: bool,
}

impl Verdict {
    /// Of the answers of a round.
    #[must_use]
    pub fn of(answers: &[Testimony]) -> Self {
        let rungs = |wanted: Answer| {
            answers.iter().filter(move |heard| heard.answer == wanted).map(|heard| heard.rung)
        };
        let mut unknown: Vec<Rung> = rungs(Answer::Unknown).collect();
        unknown.sort_unstable();
        unknown.dedup();
        Self { proven: rungs(Answer::Alive).max(), refuted: rungs(Answer::Dead).min(), unknown }
    }

    /// What the round counts as: one *alive* settles it, *unknown* alone says nothing.
    ///
    /// That the hypervisor is well and its vCPUs run does not settle it: a guest hangs while both do.
    #[must_use]
    pub fn answer(&self) -> Answer {
        match (self.proven, self.refuted) {
            (Some(proven), _) if proven > Rung::Vcpu => Answer::Alive,
            (_, Some(_)) => Answer::Dead,
            (_, None) => Answer::Unknown,
        }
    }

    /// A rung is refuted although it, or one above it, is proven: a way of asking is broken, or the
    /// guest lies.
    #[must_use]
    pub fn is_disputed(&self) -> bool {
        self.proven.zip(self.refuted).is_some_and(|(proven, refuted)| refuted <= proven)
    }
}

impl Witnesses {
    /// Those of a round.
    #[must_use]
    pub fn of(answers: &[Testimony]) -> Self {
        let dead = answers.iter().filter(|heard| heard.answer == Answer::Dead);
        dead.fold(Self::default(), |all, heard| Self {
            transports: all.transports | bit(heard.transport),
            conclusive: all.conclusive || heard.conclusive,
        })
    }

    /// Both.
    #[must_use]
    pub fn and(self, others: Self) -> Self {
        Self {
            transports: self.transports | others.transports,
            conclusive: self.conclusive || others.conclusive,
        }
    }

    /// On how many ways.
    #[must_use]
    pub fn count(self) -> u32 {
        self.transports.count_ones()
    }

    /// One of them needs no second.
    #[must_use]
    pub fn is_conclusive(self) -> bool {
        self.conclusive
    }

    /// This one and nobody else.
    #[must_use]
    pub fn is_only(self, transport: Transport) -> bool {
        self.transports == bit(transport)
    }
}

fn bit(transport: Transport) -> u8 {
    1 << transport as u8
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.proven, self.refuted) {
            (Some(proven), Some(refuted)) => write!(f, "{proven} proven, {refuted} refuted")?,
            (Some(proven), None) => write!(f, "{proven} proven")?,
            (None, Some(refuted)) => write!(f, "{refuted} refuted")?,
            (None, None) => f.write_str("nothing proven, nothing refuted")?,
        }
        let mut before = "; could not ask";
        for rung in &self.unknown {
            write!(f, "{before} {rung}")?;
            before = ",";
        }
        Ok(())
    }
}
