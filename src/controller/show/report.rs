//! One incident in full, the verdict first.

use super::excerpt::excerpt;
use super::table::table;
use super::{Found, Style, broken, state};
use crate::base::text::harmless_line;
use crate::base::time::Spoken;
use crate::bundle::Bundle;
use crate::controller::store::{Incident, Open, Record};
use crate::evidence::report::StepReport;
use crate::evidence::rounds::{Probe, Round};
use crate::evidence::{Artifact, Evidence};
use std::time::Duration;

/// The report: sections, each with a blank line before it.
pub(super) fn text(found: &Found, style: Style) -> String {
    let incident = &found.incident;
    let mut sections = vec![verdict(incident, style), head(found, style)];
    sections.extend(facts(incident, style));
    match &found.open {
        Ok(Some(Open { bundle: Ok(bundle), .. })) => {
            sections.extend(contents(bundle, incident, style));
        }
        Ok(Some(Open { bundle: Err(error), .. })) => sections.push(format!("{}\n", broken(error))),
        Err(error) => sections.push(format!("{}\n", broken(error))),
        Ok(None) => {}
    }
    sections.join("\n")
}

fn verdict(incident: &Incident, style: Style) -> String {
    let line = match diagnosis(incident) {
        Some(record) => format!("{}: {}", safe(&record.class), safe(&record.title)),
        None => "not diagnosed yet".to_owned(),
    };
    format!("{}\n", style.alarming(&line))
}

fn head(found: &Found, style: Style) -> String {
    let incident = &found.incident;
    let mut rows = vec![
        ("incident", format!("{} ({})", incident.id, state(incident))),
        ("app", format!("{} ({})", safe(&incident.app_name), incident.app)),
        ("device", safe(&incident.device)),
        ("scenario", safe(&incident.scenario)),
        ("failed at", since(incident, style)),
    ];
    if let Some(record) = diagnosis(incident) {
        let fault = format!("{} (confidence {})", safe(&record.blame), safe(&record.confidence));
        rows.push(("whose", fault));
        rows.push(("signature", safe(&record.signature)));
    }
    rows.push(("bundle", bundle(found)));
    rows.push(("agent", safe(&incident.agent_version)));
    rows.iter().map(|(name, value)| format!("{name:<10} {value}\n")).collect()
}

fn since(incident: &Incident, style: Style) -> String {
    let until = incident.ended_at.unwrap_or(style.now).as_millis();
    let lasted = until.saturating_sub(incident.failed_at.as_millis());
    let lasted = Spoken(Duration::from_millis(u64::try_from(lasted).unwrap_or(0)));
    match incident.ended_at {
        Some(ended) => format!("{}, ended at {ended} after {lasted}", incident.failed_at),
        None => format!("{}, {lasted} ago, and no end was reported", incident.failed_at),
    }
}

fn bundle(found: &Found) -> String {
    match (&found.open, found.incident.bundle) {
        (Ok(Some(open)), Some(digest)) => format!("{} bytes, SHA-256 {digest}", open.bytes.len()),
        (Err(_), Some(digest)) => format!("lost from the disk; its SHA-256 is {digest}"),
        _ => "not here yet; the device sends it when its link and its budget allow".to_owned(),
    }
}

/// What we think goes before what the device thinks.
fn diagnosis(incident: &Incident) -> Option<&Record> {
    incident.diagnosis.as_ref().or(incident.claimed.as_ref())
}

fn facts(incident: &Incident, style: Style) -> Vec<String> {
    let mut sections = Vec::new();
    if let Some(record) = diagnosis(incident) {
        sections.extend(section("What speaks for it", bullets('+', &record.facts_for), style));
        sections.extend(section(
            "What speaks against it",
            bullets('-', &record.facts_against),
            style,
        ));
    }
    if let (Some(ours), Some(theirs)) = (&incident.diagnosis, &incident.claimed)
        && ours.signature != theirs.signature
    {
        let line = format!("{}: {}\n", safe(&theirs.class), safe(&theirs.title));
        sections.extend(section("What the device thought", line, style));
    }
    sections
}

fn bullets(bullet: char, facts: &[String]) -> String {
    facts.iter().map(|fact| format!("{bullet} {}\n", safe(fact))).collect()
}

fn contents(bundle: &Bundle, incident: &Incident, style: Style) -> Vec<String> {
    let Evidence { rounds, .. } = Evidence::read(&bundle.artifacts);
    let mut sections = Vec::new();
    sections.extend(section("Rounds that led here", timeline(&rounds.rounds), style));
    sections.extend(section("Steps of the capture", steps(&bundle.steps), style));
    sections.extend(section("What was collected", collected(&bundle.artifacts, incident), style));
    let subject = diagnosis(incident).map_or("", |record| record.subject.as_str());
    if let Some(found) = excerpt(&bundle.artifacts, subject) {
        let mut lines: String = found.lines.iter().map(|line| format!("| {line}\n")).collect();
        if found.more > 0 {
            lines.push_str(&format!("  and {} lines more\n", found.more));
        }
        sections.extend(section(&format!("From {}", found.from), lines, style));
    }
    sections
}

/// Nothing, if there is nothing to say.
pub(super) fn section(title: &str, body: String, style: Style) -> Option<String> {
    (!body.is_empty()).then(|| format!("{}\n{body}", style.bold(title)))
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

fn collected(artifacts: &[Artifact], incident: &Incident) -> String {
    let row = |artifact: &Artifact| [artifact.label(), artifact.data.len().to_string()];
    let rows: Vec<[String; 2]> = artifacts.iter().map(row).collect();
    if rows.is_empty() {
        return String::new();
    }
    let id = incident.id.to_string();
    let short = id.get(..8).unwrap_or(&id);
    table(["ARTIFACT", "BYTES"], &rows)
        + &format!("`lifesign-controller show {short} --artifact NAME` gives its bytes.\n")
}

/// Text of a device or a guest in a line of ours.
fn safe(text: &str) -> String {
    harmless_line(text.as_bytes())
}
