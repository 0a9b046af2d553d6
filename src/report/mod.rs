//! What a person reads of the evidence of an incident, on the device and on the controller alike.
//!
//! Everything here gives text back, or plain data for programs; printing is for others. Whatever a
//! guest or a device wrote is made harmless on its way into text.

mod excerpt;
mod host;
mod hypervisor;
mod json;
mod memory;
mod missing;
mod table;

pub use json::{Contents, Whole};
pub use memory::memory;
pub use table::table;

use crate::base::text::harmless_line;
use crate::base::time::Spoken;
use crate::bundle::{Bundle, Origin, Redaction};
use crate::diagnosis::Diagnosis;
use crate::evidence::report::StepReport;
use crate::evidence::rounds::{Probe, Round};
use crate::evidence::{Artifact, Evidence};
use excerpt::excerpt;
use std::time::Duration;

/// How text is to look.
#[derive(Clone, Copy, Debug, Default)]
pub struct Style {
    /// With colours, for a terminal.
    pub colour: bool,
}

/// A bundle in full, as the device that sealed it sees it: the verdict first. `more` tells how the
/// bytes of an artifact are had.
#[must_use]
pub fn bundle(bundle: &Bundle, style: Style, more: &str) -> String {
    let Bundle { origin, diagnosis, .. } = bundle;
    let verdict = format!("{}: {}", diagnosis.class, safe(&diagnosis.title));
    let mut sections = vec![format!("{}\n", style.alarming(&verdict)), head(origin, diagnosis)];
    sections.extend(facts(&diagnosis.facts_for, &diagnosis.facts_against, style));
    sections.extend(contents(bundle, &diagnosis.subject, style, more));
    sections.join("\n")
}

/// What speaks for a diagnosis and what against it.
pub fn facts<'a>(
    speak_for: &'a [String],
    speak_against: &'a [String],
    style: Style,
) -> impl Iterator<Item = String> + 'a {
    let bullets = |bullet: char, facts: &[String]| -> String {
        facts.iter().map(|fact| format!("{bullet} {}\n", safe(fact))).collect()
    };
    let sections = [
        section("What speaks for it", bullets('+', speak_for), style),
        section("What speaks against it", bullets('-', speak_against), style),
    ];
    sections.into_iter().flatten()
}

/// What was heard, tried, collected and missed, and the lines to read first.
#[must_use]
pub fn contents(bundle: &Bundle, subject: &str, style: Style, more: &str) -> Vec<String> {
    let evidence = Evidence::read(&bundle.artifacts);
    let mut sections = Vec::new();
    let redacted = bundle.redaction.as_ref().map(redaction).unwrap_or_default();
    sections.extend(section("What was taken out of it", redacted, style));
    sections.extend(section("Rounds that led here", timeline(&evidence.rounds.rounds), style));
    sections.extend(section("What the host showed", host::text(&evidence), style));
    let told = evidence.qmp.as_ref().map(hypervisor::text).unwrap_or_default();
    sections.extend(section("What the hypervisor tells", told, style));
    sections.extend(section("Steps of the capture", steps(&bundle.steps), style));
    sections.extend(section("What is missing", missing::text(&bundle.steps), style));
    sections.extend(section("What was collected", collected(&bundle.artifacts, more), style));
    let record = evidence.records.latest(&evidence.rounds);
    if let Some(found) = excerpt(&bundle.artifacts, record, subject) {
        let mut lines: String = found.lines.iter().map(|line| format!("| {line}\n")).collect();
        if found.more > 0 {
            lines.push_str(&format!("  and {} lines more\n", found.more));
        }
        sections.extend(section(&format!("From {}", found.from), lines, style));
    }
    let read = evidence.memory.as_ref().map(memory).unwrap_or_default();
    sections.extend(section("From the guest's memory", read, style));
    sections
}

/// Nothing, if there is nothing to say.
#[must_use]
pub fn section(title: &str, body: String, style: Style) -> Option<String> {
    (!body.is_empty()).then(|| format!("{}\n{body}", style.bold(title)))
}

fn head(origin: &Origin, diagnosis: &Diagnosis) -> String {
    let rows = [
        ("incident", origin.incident.to_string()),
        ("app", format!("{} ({})", safe(&origin.app_name), origin.app)),
        ("device", origin.device.to_string()),
        ("scenario", origin.scenario.to_string()),
        ("failed at", origin.failed_at.to_string()),
        ("whose", format!("{} (confidence {})", diagnosis.blame, diagnosis.confidence)),
        ("signature", safe(&diagnosis.signature)),
        ("agent", safe(&origin.agent_version)),
    ];
    rows.iter().map(|(name, value)| format!("{name:<10} {value}\n")).collect()
}

/// What a redacted bundle lacks, and of which it was made.
#[must_use]
pub fn redaction(redaction: &Redaction) -> String {
    let mut lines = format!(
        "made of the bundle {}\nwhich was sealed by {}\nby the rules of {}\n",
        redaction.of,
        redaction.sealed_by,
        safe(&redaction.program)
    );
    let masked = redaction.masked.iter().map(|(rule, count)| format!("{} {count}", safe(rule)));
    let masked: Vec<String> = masked.collect();
    if !masked.is_empty() {
        lines += &format!("masked: {}\n", masked.join(", "));
    }
    if !redaction.left_out.is_empty() {
        lines += &format!("left out: {}\n", safe(&redaction.left_out.join(", ")));
    }
    lines
}

fn timeline(rounds: &[Round]) -> String {
    let rows: Vec<[String; 6]> = rounds
        .iter()
        .flat_map(|round| {
            let times =
                std::iter::once(round.at.to_string()).chain(std::iter::repeat(String::new()));
            round.probes.iter().zip(times).map(probe)
        })
        .collect();
    if rows.is_empty() {
        String::new()
    } else {
        table(["AT", "PROBE", "RUNG", "ANSWER", "TOOK", "REASON"], &rows)
    }
}

fn probe((probe, at): (&Probe, String)) -> [String; 6] {
    let took = Spoken(Duration::from_millis(probe.took_ms)).to_string();
    let (rung, answer) = (probe.rung.to_string(), probe.answer.to_string());
    [at, safe(&probe.name), rung, answer, took, safe(&probe.reason)]
}

fn steps(steps: &[StepReport]) -> String {
    let row = |step: &StepReport| {
        let took = Spoken(Duration::from_millis(step.took_ms.into())).to_string();
        [
            safe(&step.name),
            step.outcome.to_string(),
            took,
            step.bytes.to_string(),
            safe(&step.reason),
        ]
    };
    let rows: Vec<[String; 5]> = steps.iter().map(row).collect();
    if rows.is_empty() {
        String::new()
    } else {
        table(["STEP", "OUTCOME", "TOOK", "BYTES", "REASON"], &rows)
    }
}

fn collected(artifacts: &[Artifact], more: &str) -> String {
    let row = |artifact: &Artifact| [artifact.label(), artifact.data.len().to_string()];
    let rows: Vec<[String; 2]> = artifacts.iter().map(row).collect();
    if rows.is_empty() {
        return String::new();
    }
    table(["ARTIFACT", "BYTES"], &rows) + &format!("`{more}` gives its bytes.\n")
}

/// Text of a device or a guest in a line of ours.
fn safe(text: &str) -> String {
    harmless_line(text.as_bytes())
}

impl Style {
    /// A title.
    #[must_use]
    pub fn bold(self, text: &str) -> String {
        if self.colour { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// What is wrong.
    #[must_use]
    pub fn alarming(self, text: &str) -> String {
        if self.colour { format!("\x1b[1;31m{text}\x1b[0m") } else { text.to_owned() }
    }
}
