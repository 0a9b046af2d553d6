//! Between our types and the generated ones, where belief begins: a message that lacks what we rely
//! on is refused here, by name, and nothing downstream checks again.

use super::{Bundle, Headline, Origin, Redaction, Repeats, Stage};
use crate::base::id::{AppId, DeviceId, Digest, IncidentId, Invalid, ScenarioName};
use crate::base::text::harmless_line;
use crate::base::time::{Instant, Timestamp};
use crate::diagnosis::{Blame, Class, Confidence, Diagnosis};
use crate::evidence::report::{Outcome, StepReport};
use crate::evidence::{Artifact, Kind};
use crate::pb::v1;

/// Why a message is not believed.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    /// A part is not there.
    #[error("`{0}` is missing")]
    Missing(&'static str),
    /// An id is no id.
    #[error("`{field}` is wrong")]
    Id {
        /// The field.
        field: &'static str,
        #[source]
        source: Invalid,
    },
    /// A word out of a closed list is not in it.
    #[error("`{field}` is `{word}`, which this version does not know")]
    Word {
        /// The field.
        field: &'static str,
        /// What stands there.
        word: String,
    },
}

// === Bundle ===

/// A bundle in parts: the manifest, then each artifact. Encoded one after the other they are the whole, by the
/// rules of protobuf.
pub(super) fn encode_bundle(bundle: &Bundle) -> impl Iterator<Item = v1::Bundle> + Clone {
    let manifest = || v1::Bundle { manifest: Some(encode_manifest(bundle)), artifacts: Vec::new() };
    let artifact =
        |artifact| v1::Bundle { manifest: None, artifacts: vec![encode_artifact(artifact)] };
    std::iter::once_with(manifest).chain(bundle.artifacts.iter().map(artifact))
}

pub(super) fn encode_manifest(bundle: &Bundle) -> v1::Manifest {
    v1::Manifest {
        origin: Some(encode_origin(&bundle.origin)),
        steps: bundle.steps.iter().map(encode_step).collect(),
        diagnosis: Some(encode_diagnosis(&bundle.diagnosis)),
        redaction: bundle.redaction.as_ref().map(encode_redaction),
    }
}

pub(super) fn decode_bundle(bundle: v1::Bundle) -> Result<Bundle, Malformed> {
    let manifest = bundle.manifest.ok_or(Malformed::Missing("manifest"))?;
    Ok(Bundle {
        origin: decode_origin(manifest.origin.ok_or(Malformed::Missing("origin"))?)?,
        steps: manifest.steps.into_iter().map(decode_step).collect(),
        diagnosis: decode_diagnosis(manifest.diagnosis.ok_or(Malformed::Missing("diagnosis"))?)?,
        artifacts: bundle.artifacts.into_iter().map(decode_artifact).collect(),
        redaction: manifest.redaction.map(decode_redaction).transpose()?,
    })
}

// === Redaction ===

fn encode_redaction(redaction: &Redaction) -> v1::Redaction {
    let masked = |(rule, count): &(String, u64)| v1::Masked { rule: rule.clone(), count: *count };
    v1::Redaction {
        of: redaction.of.as_bytes().to_vec(),
        sealed_by: redaction.sealed_by.as_bytes().to_vec(),
        program: redaction.program.clone(),
        masked: redaction.masked.iter().map(masked).collect(),
        left_out: redaction.left_out.clone(),
    }
}

fn decode_redaction(redaction: v1::Redaction) -> Result<Redaction, Malformed> {
    let id = |field| move |source| Malformed::Id { field, source };
    let line = |text: String| harmless_line(text.as_bytes());
    Ok(Redaction {
        of: Digest::try_from(&*redaction.of).map_err(id("redaction of"))?,
        sealed_by: Digest::try_from(&*redaction.sealed_by).map_err(id("redaction sealed_by"))?,
        program: line(redaction.program),
        masked: redaction.masked.into_iter().map(|m| (line(m.rule), m.count)).collect(),
        left_out: redaction.left_out.into_iter().map(line).collect(),
    })
}

// === Headline ===

pub(super) fn encode_headline(headline: &Headline) -> v1::Headline {
    let stage = match headline.stage {
        Stage::Capturing => v1::Stage::Capturing,
        Stage::Sealed => v1::Stage::Sealed,
        Stage::Counted => v1::Stage::Counted,
    };
    v1::Headline {
        origin: Some(encode_origin(&headline.origin)),
        diagnosis: headline.diagnosis.as_ref().map(encode_diagnosis),
        stage: stage.into(),
        ended_unix_ms: headline.ended.map_or(0, Timestamp::as_millis),
        revision: headline.revision,
        repeats: headline.repeats.as_ref().map(encode_repeats),
    }
}

pub(super) fn decode_headline(headline: v1::Headline) -> Result<Headline, Malformed> {
    let stage = match headline.stage() {
        v1::Stage::Sealed => Stage::Sealed,
        v1::Stage::Counted => Stage::Counted,
        v1::Stage::Capturing | v1::Stage::Unknown => Stage::Capturing,
    };
    Ok(Headline {
        stage,
        origin: decode_origin(headline.origin.ok_or(Malformed::Missing("origin"))?)?,
        diagnosis: headline.diagnosis.map(decode_diagnosis).transpose()?,
        ended: (headline.ended_unix_ms != 0)
            .then(|| Timestamp::from_millis(headline.ended_unix_ms)),
        revision: headline.revision,
        repeats: headline.repeats.as_ref().map(decode_repeats),
    })
}

fn encode_repeats(repeats: &Repeats) -> v1::Repeats {
    v1::Repeats {
        count: repeats.count,
        first_unix_ms: repeats.first.as_millis(),
        last_unix_ms: repeats.last.as_millis(),
        full: repeats.full.map(|full| full.as_bytes().to_vec()).unwrap_or_default(),
    }
}

fn decode_repeats(repeats: &v1::Repeats) -> Repeats {
    Repeats {
        count: repeats.count,
        first: Timestamp::from_millis(repeats.first_unix_ms),
        last: Timestamp::from_millis(repeats.last_unix_ms),
        full: repeats.full.as_slice().try_into().ok().map(IncidentId::new),
    }
}

// === Origin ===

fn encode_origin(origin: &Origin) -> v1::Origin {
    v1::Origin {
        incident: origin.incident.as_bytes().to_vec(),
        device: origin.device.as_str().to_owned(),
        app: origin.app.as_bytes().to_vec(),
        app_name: origin.app_name.clone(),
        scenario: origin.scenario.as_str().to_owned(),
        agent_version: origin.agent_version.clone(),
        failed_unix_ms: origin.failed_at.as_millis(),
        failed_uptime_ms: origin.failed_uptime.as_millis(),
        boot_id: origin.boot_id.to_vec(),
    }
}

fn decode_origin(origin: v1::Origin) -> Result<Origin, Malformed> {
    let id = |field| move |source| Malformed::Id { field, source };
    let device: DeviceId = origin.device.parse().map_err(id("device"))?;
    let scenario: ScenarioName = origin.scenario.parse().map_err(id("scenario"))?;
    Ok(Origin {
        incident: IncidentId::try_from(&*origin.incident).map_err(id("incident"))?,
        device,
        app: AppId::try_from(&*origin.app).map_err(id("app"))?,
        app_name: harmless_line(origin.app_name.as_bytes()),
        scenario,
        agent_version: harmless_line(origin.agent_version.as_bytes()),
        failed_at: Timestamp::from_millis(origin.failed_unix_ms),
        failed_uptime: Instant::from_millis(origin.failed_uptime_ms),
        boot_id: *IncidentId::try_from(&*origin.boot_id).map_err(id("boot_id"))?.as_bytes(),
    })
}

// === StepReport ===

fn encode_step(step: &StepReport) -> v1::Step {
    let outcome = match step.outcome {
        Outcome::Done => v1::Outcome::Done,
        Outcome::Partial => v1::Outcome::Partial,
        Outcome::Refused => v1::Outcome::Refused,
        Outcome::Silent => v1::Outcome::Silent,
        Outcome::Failed => v1::Outcome::Failed,
        Outcome::Skipped => v1::Outcome::Skipped,
    };
    v1::Step {
        name: step.name.clone(),
        outcome: outcome.into(),
        reason: step.reason.clone(),
        took_ms: step.took_ms,
        bytes: step.bytes,
    }
}

fn decode_step(step: v1::Step) -> StepReport {
    let outcome = match step.outcome() {
        v1::Outcome::Done => Outcome::Done,
        v1::Outcome::Partial => Outcome::Partial,
        v1::Outcome::Refused => Outcome::Refused,
        v1::Outcome::Silent => Outcome::Silent,
        v1::Outcome::Failed | v1::Outcome::Unknown => Outcome::Failed,
        v1::Outcome::Skipped => Outcome::Skipped,
    };
    StepReport {
        outcome,
        name: harmless_line(step.name.as_bytes()),
        reason: harmless_line(step.reason.as_bytes()),
        took_ms: step.took_ms,
        bytes: step.bytes,
    }
}

// === Artifact ===

fn encode_artifact(artifact: &Artifact) -> v1::Artifact {
    let kind = match artifact.kind {
        Kind::Console => v1::Kind::Console,
        Kind::Sysrq => v1::Kind::Sysrq,
        Kind::Qmp => v1::Kind::Qmp,
        Kind::Host => v1::Kind::Host,
        Kind::Rounds => v1::Kind::Rounds,
        Kind::Memory => v1::Kind::Memory,
        Kind::Records => v1::Kind::Records,
        Kind::Screenshot => v1::Kind::Screenshot,
        Kind::Nmi => v1::Kind::Nmi,
        Kind::Other => v1::Kind::Unknown,
    };
    v1::Artifact { kind: kind.into(), name: artifact.name.clone(), data: artifact.data.clone() }
}

fn decode_artifact(artifact: v1::Artifact) -> Artifact {
    let kind = match artifact.kind() {
        v1::Kind::Console => Kind::Console,
        v1::Kind::Sysrq => Kind::Sysrq,
        v1::Kind::Qmp => Kind::Qmp,
        v1::Kind::Host => Kind::Host,
        v1::Kind::Rounds => Kind::Rounds,
        v1::Kind::Memory => Kind::Memory,
        v1::Kind::Records => Kind::Records,
        v1::Kind::Screenshot => Kind::Screenshot,
        v1::Kind::Nmi => Kind::Nmi,
        v1::Kind::Unknown => Kind::Other,
    };
    Artifact { kind, name: harmless_line(artifact.name.as_bytes()), data: artifact.data }
}

// === Diagnosis ===

fn encode_diagnosis(diagnosis: &Diagnosis) -> v1::Diagnosis {
    let confidence = match diagnosis.confidence {
        Confidence::Low => v1::Confidence::Low,
        Confidence::Medium => v1::Confidence::Medium,
        Confidence::High => v1::Confidence::High,
    };
    v1::Diagnosis {
        class: diagnosis.class.word().to_owned(),
        subject: diagnosis.subject.clone(),
        title: diagnosis.title.clone(),
        signature: diagnosis.signature.clone(),
        blame: diagnosis.blame.word().to_owned(),
        confidence: confidence.into(),
        r#for: diagnosis.facts_for.clone(),
        against: diagnosis.facts_against.clone(),
    }
}

fn decode_diagnosis(diagnosis: v1::Diagnosis) -> Result<Diagnosis, Malformed> {
    let confidence = match diagnosis.confidence() {
        v1::Confidence::High => Confidence::High,
        v1::Confidence::Medium => Confidence::Medium,
        v1::Confidence::Low | v1::Confidence::Unknown => Confidence::Low,
    };
    let line = |text: String| harmless_line(text.as_bytes());
    Ok(Diagnosis {
        confidence,
        class: word("class", &diagnosis.class, &Class::ALL, Class::word)?,
        subject: line(diagnosis.subject),
        title: line(diagnosis.title),
        signature: line(diagnosis.signature),
        // A later version may know more of those to blame, and who reads this judges anew anyway.
        blame: word("blame", &diagnosis.blame, &Blame::ALL, Blame::word).unwrap_or(Blame::Unknown),
        facts_for: diagnosis.r#for.into_iter().map(line).collect(),
        facts_against: diagnosis.against.into_iter().map(line).collect(),
    })
}

fn word<T: Copy>(
    field: &'static str,
    text: &str,
    all: &[T],
    of: fn(T) -> &'static str,
) -> Result<T, Malformed> {
    let found = all.iter().find(|value| of(**value) == text);
    found.copied().ok_or_else(|| Malformed::Word { field, word: harmless_line(text.as_bytes()) })
}
