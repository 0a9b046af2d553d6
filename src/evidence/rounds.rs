//! The rounds of probes that led to an incident.

use super::{Artifact, Kind};
use crate::base::rung::{Answer, Rung};
use crate::base::time::Timestamp;
use serde::{Deserialize, Serialize};

/// The last rounds before an incident, oldest first.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Rounds {
    /// Oldest first.
    pub rounds: Vec<Round>,
}

/// One round.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Round {
    /// When it began.
    pub at: Timestamp,
    /// What was asked, in order.
    pub probes: Vec<Probe>,
}

/// One question and its answer.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Probe {
    /// Which probe, as the scenario names it.
    pub name: String,
    /// The rung that an answer proves.
    pub rung: Rung,
    /// What it found out.
    pub answer: Answer,
    /// In words.
    pub reason: String,
    /// How long it took.
    pub took_ms: u64,
}

/// Probes that tell of the time before they were asked, and nothing of that moment.
const LOOK_BACK: [&str; 5] = ["silence", "label", "never", "written", "heartbeat"];

impl Rounds {
    /// When the guest last answered a question that its kernel at least has to answer.
    #[must_use]
    pub fn last_answer(&self) -> Option<Timestamp> {
        let answers = |probe: &Probe| {
            probe.answer == Answer::Alive
                && probe.rung >= Rung::Kernel
                && !LOOK_BACK.contains(&probe.name.as_str())
        };
        self.rounds.iter().rfind(|round| round.probes.iter().any(answers)).map(|round| round.at)
    }

    /// Reads what [`Rounds::to_artifact`] wrote.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Self {
        serde_json::from_slice(bytes).unwrap_or_default()
    }

    /// As an artifact.
    #[must_use]
    pub fn to_artifact(&self) -> Artifact {
        let data = serde_json::to_vec(self).expect("plain data becomes JSON");
        Artifact { kind: Kind::Rounds, name: String::new(), data }
    }
}
