//! How to tell that an app lives, and what to collect when it does not.
//!
//! ```text
//! text --Document::parse--> tree with spans --read--> Scenario --Schedule--> the next round
//! ```
//!
//! A [`Scenario`] exists only if nothing was wrong with its text, so nothing downstream checks
//! again. This room does not know apps, sockets or clocks: time is an argument.

mod read;
pub mod schedule;

pub use read::{read, read_timing};

use crate::base::consent::Consent;
use crate::base::id::ScenarioName;
use crate::base::rung::Rung;
use crate::base::step::Step;
use std::time::Duration;

/// A scenario that can be run.
#[derive(Clone, Debug)]
pub struct Scenario {
    name: ScenarioName,
    summary: String,
    timing: Timing,
    probes: Vec<Probe>,
    diagnose: Vec<Step>,
    budget: Budget,
}

/// When a round starts, and how many make a state.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Timing {
    /// From the start of one round to the start of the next.
    pub period: Duration,
    /// For one probe.
    pub timeout: Duration,
    /// Failed rounds in a row that make an app `failed`.
    pub failure_threshold: u32,
    /// Rounds in a row that make it `healthy` again.
    pub success_threshold: u32,
    /// From the app's start until failures count.
    pub initial_delay: Duration,
}

/// One question.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Probe {
    /// Type a line on the console and wait for a text.
    Console {
        /// The line.
        send: String,
        /// A text that must appear in what comes back.
        expect: String,
    },
}

/// What a capture may cost.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Budget {
    /// How long it may take.
    pub time: Duration,
    /// How much it may bring, before compression.
    pub bytes: u64,
}

impl Scenario {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &ScenarioName {
        &self.name
    }

    /// What it is for, in a sentence.
    #[must_use]
    pub fn summary(&self) -> &str {
        &self.summary
    }

    /// When a round starts.
    #[must_use]
    pub fn timing(&self) -> Timing {
        self.timing
    }

    /// The same scenario at another pace, as a binding may ask.
    #[must_use]
    pub fn with_timing(mut self, timing: Timing) -> Self {
        self.timing = timing;
        self
    }

    /// What to ask, in order.
    #[must_use]
    pub fn probes(&self) -> &[Probe] {
        &self.probes
    }

    /// What to collect, in order.
    #[must_use]
    pub fn diagnose(&self) -> &[Step] {
        &self.diagnose
    }

    /// What a capture may cost.
    #[must_use]
    pub fn budget(&self) -> Budget {
        self.budget
    }

    /// What must be allowed for its probes to be asked. Collecting asks for more, step by step, and
    /// leaves out what is not allowed.
    #[must_use]
    pub fn consent(&self) -> Consent {
        self.probes.iter().map(Probe::consent).max().unwrap_or(Consent::Observe)
    }
}

impl Timing {
    /// The defaults of the language: Kubernetes' words, a guest's time to boot.
    pub const DEFAULT: Self = Self {
        period: Duration::from_secs(30),
        timeout: Duration::from_secs(5),
        failure_threshold: 3,
        success_threshold: 1,
        initial_delay: Duration::from_secs(180),
    };
}

impl Budget {
    /// The defaults of the language.
    pub const DEFAULT: Self = Self { time: Duration::from_secs(60), bytes: 4 << 20 };
}

impl Probe {
    /// The word for its transport.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Console { .. } => "console",
        }
    }

    /// The rung that an answer proves.
    #[must_use]
    pub fn rung(&self) -> Rung {
        match self {
            Self::Console { .. } => Rung::Userspace,
        }
    }

    fn consent(&self) -> Consent {
        match self {
            Self::Console { .. } => Consent::Input,
        }
    }
}
