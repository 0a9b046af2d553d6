//! How to tell that an app lives, and what to collect when it does not.
//!
//! ```text
//! text --Document::parse--> tree with spans --read--> Scenario --Schedule--> the next round
//! ```
//!
//! A [`Scenario`] exists only if nothing was wrong with its text, so nothing downstream checks
//! again. This room does not know apps, sockets or clocks: time is an argument.

mod cron;
mod explain;
mod probe;
mod read;
mod recorder;
pub mod schedule;
mod schema;
mod trace;

pub use crate::base::pattern::Pattern;
pub use cron::{Cron, Zone};
pub use explain::{explain, question};
pub use probe::{
    AgentProbe, ConsoleProbe, Credential, DiskProbe, Exchange, HttpProbe, LogProbe, Login,
    NetworkProbe, Port, Probe, SecretName, Transport,
};
pub use read::{read, read_timing};
pub use recorder::{Event, Recorder};
pub use schema::schema;
pub use trace::{Trace, read_trace};

use crate::base::consent::Consent;
use crate::base::id::ScenarioName;
use crate::base::step::Step;
use crate::base::time::Instant;
use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

/// A scenario that can be run.
#[derive(Clone, Debug)]
pub struct Scenario {
    name: ScenarioName,
    summary: String,
    when: When,
    timing: Timing,
    windows: Vec<Window>,
    probes: Vec<Probe>,
    diagnose: Vec<Step>,
    budget: Budget,
    recorder: Option<Recorder>,
}

/// When a round starts.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum When {
    /// So long after the one before.
    Every(Duration),
    /// At these times.
    Cron(Box<Cron>),
}

/// How long a round may take, and how many make a state.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Timing {
    /// From the start of one round to the start of the next; under cron the shortest such time.
    pub period: Duration,
    /// For one probe.
    pub timeout: Duration,
    /// For all probes of a round together.
    pub round_timeout: Duration,
    /// Failed rounds in a row that make an app `failed`.
    pub failure_threshold: u32,
    /// Rounds in a row that make it `healthy` again.
    pub success_threshold: u32,
    /// From the app's start until failures count.
    pub initial_delay: Duration,
    /// Transports that must say *dead* before an app is `failed`, unless one of them is conclusive.
    pub witnesses: u32,
    /// When an app that comes and goes is no longer news.
    pub flap: Flap,
}

/// So many changes of state within so long are flapping.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Flap {
    /// Changes between answering and not.
    pub changes: u32,
    /// The time in which they are counted.
    pub within: Duration,
}

/// A maintenance window: what happens in it is no incident.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Window {
    /// When it begins.
    pub cron: Cron,
    /// How long it lasts.
    pub lasts: Duration,
    /// What for.
    pub why: String,
}

/// What a capture may cost.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Budget {
    /// How long it may take.
    pub time: Duration,
    /// How much it may bring, before compression.
    pub bytes: u64,
}

// === impl Scenario ===

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
    pub fn when(&self) -> &When {
        &self.when
    }

    /// How long a round may take, and how many make a state.
    #[must_use]
    pub fn timing(&self) -> Timing {
        self.timing
    }

    /// The same scenario at another pace, as a binding may ask. Another period than before sets
    /// cron aside.
    #[must_use]
    pub fn with_timing(mut self, timing: Timing) -> Self {
        if timing.period != self.timing.period {
            self.when = When::Every(timing.period);
        }
        self.timing = timing;
        self
    }

    /// When nothing of it is an incident.
    #[must_use]
    pub fn windows(&self) -> &[Window] {
        &self.windows
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

    /// What a guest shall record while it is well.
    #[must_use]
    pub fn recorder(&self) -> Option<&Recorder> {
        self.recorder.as_ref()
    }

    /// What must be allowed for its probes to be asked. Collecting asks for more, step by step, and
    /// leaves out what is not allowed.
    #[must_use]
    pub fn consent(&self) -> Consent {
        self.probes.iter().map(Probe::consent).max().unwrap_or(Consent::Observe)
    }

    /// The ways that its questions take.
    #[must_use]
    pub fn transports(&self) -> BTreeSet<Transport> {
        self.probes.iter().map(Probe::transport).collect()
    }

    /// The secrets that its probes need.
    #[must_use]
    pub fn secrets(&self) -> BTreeSet<&SecretName> {
        self.probes.iter().flat_map(Probe::secrets).collect()
    }
}

/// A duration as the language writes it: `30s`, `1h30m`, `500ms`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Said(pub Duration);

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u128, &str); 5] =
            [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s"), (1, "ms")];
        let mut rest = self.0.as_millis();
        if rest == 0 {
            return f.write_str("0s");
        }
        for (millis, unit) in UNITS {
            if rest >= millis {
                write!(f, "{}{unit}", rest / millis)?;
                rest %= millis;
            }
        }
        Ok(())
    }
}

impl Timing {
    /// The defaults of the language: Kubernetes' words, a guest's time to boot.
    pub const DEFAULT: Self = Self {
        period: Duration::from_secs(30),
        timeout: Duration::from_secs(5),
        round_timeout: Duration::from_secs(30),
        failure_threshold: 3,
        success_threshold: 1,
        initial_delay: Duration::from_secs(180),
        witnesses: 1,
        flap: Flap::DEFAULT,
    };

    /// How long the next probe of a round that began at `begun` may take; nothing if the round's
    /// time is up, when what was not asked is *unknown*.
    #[must_use]
    pub fn left(&self, begun: Instant, now: Instant) -> Option<Duration> {
        let left = self.round_timeout.checked_sub(now.since(begun))?;
        (!left.is_zero()).then(|| left.min(self.timeout))
    }
}

impl Flap {
    /// The defaults of the language.
    pub const DEFAULT: Self = Self { changes: 6, within: Duration::from_secs(1800) };
}

impl Budget {
    /// The defaults of the language.
    pub const DEFAULT: Self = Self { time: Duration::from_secs(60), bytes: 4 << 20 };
}
