//! A bundle for somebody who may not see everything: what may be personal or secret is masked, what a kernel
//! engineer works with stays.
//!
//! ```text
//!   console, SysRq, NMI    lines of the kernel stay, those of programs are masked whole; then patterns
//!   JSON                   strings, by patterns; a value whose key says that it is a secret, whole
//!   screenshot, unknown    left out
//!   words of ours          by patterns
//! ```
//!
//! Addresses, symbols, offsets, registers, code bytes, times, process ids and names of tasks are never touched.
//! The same word gets the same mask throughout a bundle (`<ip-2>`), so that it is still seen who spoke to whom.
//! Masks are no more than patterns: who has a name for what must not be seen reads the result before it leaves.
//!
//! The result says of itself that it was redacted, by which rules and from what, and is sealed anew by whoever
//! did it. Its origin stays: whose incident it is, is what it is about.

mod rules;

use super::{Bundle, Redaction};
use crate::base::id::Digest;
use crate::evidence::{Artifact, Kind};
use rules::Masks;
use serde_json::Value;

/// What is redacted, and how.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    /// SHA-256 of the sealed bundle.
    pub sealed: Digest,
    /// SHA-256 of the certificate of who sealed it.
    pub sealed_by: Digest,
    /// Whether lines that programs wrote to a console stay, but for what patterns find in them.
    pub keep_lines: bool,
}

/// The same bundle with less in it.
#[must_use]
pub fn redact(bundle: &Bundle, source: Source) -> Bundle {
    let mut masks = Masks::default();
    let texts = bundle.artifacts.iter().map(|artifact| artifact.data.as_slice());
    texts.for_each(|text| masks.learn_hosts(text));
    let (mut artifacts, mut left_out) = (Vec::new(), Vec::new());
    for artifact in &bundle.artifacts {
        match masked(artifact, source.keep_lines, &mut masks) {
            Some(data) => artifacts.push(Artifact { data, ..artifact.clone() }),
            None => left_out.push(artifact.label()),
        }
    }
    let mut redacted = Bundle { artifacts, ..bundle.clone() };
    for step in &mut redacted.steps {
        masks.words(&mut step.reason);
    }
    let diagnosis = &mut redacted.diagnosis;
    masks.words(&mut diagnosis.title);
    masks.words(&mut diagnosis.subject);
    let facts = diagnosis.facts_for.iter_mut().chain(&mut diagnosis.facts_against);
    facts.for_each(|fact| masks.words(fact));
    redacted.redaction = Some(Redaction {
        of: source.sealed,
        sealed_by: source.sealed_by,
        program: env!("CARGO_PKG_VERSION").to_owned(),
        masked: masks.counts(),
        left_out,
    });
    redacted
}

/// None: nothing of it may stay.
fn masked(artifact: &Artifact, keep_lines: bool, masks: &mut Masks) -> Option<Vec<u8>> {
    match artifact.kind {
        Kind::Console | Kind::Sysrq | Kind::Nmi if keep_lines => Some(masks.text(&artifact.data)),
        Kind::Console | Kind::Sysrq | Kind::Nmi => {
            let kernel = masks.kernel_lines(&artifact.data);
            Some(masks.text(&kernel))
        }
        Kind::Qmp | Kind::Host | Kind::Rounds | Kind::Memory | Kind::Records => {
            let mut value: Value = serde_json::from_slice(&artifact.data).ok()?;
            mask_strings(&mut value, masks);
            serde_json::to_vec(&value).ok()
        }
        Kind::Screenshot | Kind::Other => None,
    }
}

/// JSON that was parsed is nowhere so deep that this is a danger: the parser stops at 128.
fn mask_strings(value: &mut Value, masks: &mut Masks) {
    match value {
        Value::String(text) => masks.words(text),
        Value::Array(values) => values.iter_mut().for_each(|value| mask_strings(value, masks)),
        Value::Object(fields) => {
            for (key, value) in fields {
                if let Value::String(text) = value {
                    masks.field(key, text);
                } else {
                    mask_strings(value, masks);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests;
