//! The same for programs. Fields are added, never renamed.

use crate::bundle::Bundle;
use crate::diagnosis::Diagnosis;
use crate::evidence::Evidence;
use crate::evidence::report::StepReport;
use crate::evidence::rounds::Round;
use serde::Serialize;

/// What is in a bundle.
#[derive(Debug, Serialize)]
pub struct Contents {
    bytes: usize,
    steps: Vec<Step>,
    artifacts: Vec<ArtifactSize>,
    rounds: Vec<Round>,
}

/// A bundle, and whose it is.
#[derive(Debug, Serialize)]
pub struct Whole {
    incident: String,
    device: String,
    app: String,
    app_name: String,
    scenario: String,
    agent_version: String,
    failed_unix_ms: i64,
    diagnosis: Verdict,
    bundle: Contents,
}

#[derive(Debug, Serialize)]
struct Verdict {
    class: String,
    subject: String,
    title: String,
    signature: String,
    blame: String,
    confidence: String,
    facts_for: Vec<String>,
    facts_against: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Step {
    name: String,
    outcome: &'static str,
    reason: String,
    took_ms: u32,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct ArtifactSize {
    name: String,
    bytes: usize,
}

impl Contents {
    /// Of a bundle that was so long.
    #[must_use]
    pub fn new(bytes: usize, bundle: &Bundle) -> Self {
        let sizes = bundle
            .artifacts
            .iter()
            .map(|artifact| ArtifactSize { name: artifact.label(), bytes: artifact.data.len() });
        Self {
            bytes,
            steps: bundle.steps.iter().map(step).collect(),
            artifacts: sizes.collect(),
            rounds: Evidence::read(&bundle.artifacts).rounds.rounds,
        }
    }
}

impl Whole {
    /// Of a bundle that was so long.
    #[must_use]
    pub fn new(bytes: usize, bundle: &Bundle) -> Self {
        let origin = &bundle.origin;
        Self {
            incident: origin.incident.to_string(),
            device: origin.device.to_string(),
            app: origin.app.to_string(),
            app_name: origin.app_name.clone(),
            scenario: origin.scenario.to_string(),
            agent_version: origin.agent_version.clone(),
            failed_unix_ms: origin.failed_at.as_millis(),
            diagnosis: verdict(&bundle.diagnosis),
            bundle: Contents::new(bytes, bundle),
        }
    }
}

fn verdict(diagnosis: &Diagnosis) -> Verdict {
    Verdict {
        class: diagnosis.class.to_string(),
        subject: diagnosis.subject.clone(),
        title: diagnosis.title.clone(),
        signature: diagnosis.signature.clone(),
        blame: diagnosis.blame.to_string(),
        confidence: diagnosis.confidence.to_string(),
        facts_for: diagnosis.facts_for.clone(),
        facts_against: diagnosis.facts_against.clone(),
    }
}

fn step(step: &StepReport) -> Step {
    Step {
        name: step.name.clone(),
        outcome: step.outcome.word(),
        reason: step.reason.clone(),
        took_ms: step.took_ms,
        bytes: step.bytes,
    }
}
