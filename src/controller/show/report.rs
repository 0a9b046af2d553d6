//! One incident in full, the verdict first.

use super::{Found, Style, broken, state};
use crate::base::text::harmless_line;
use crate::base::time::Spoken;
use crate::bundle::Bundle;
use crate::controller::store::{Incident, Open, Record};
use crate::report;
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
    format!("{}\n", style.text().alarming(&line))
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
    let style = style.text();
    let mut sections = Vec::new();
    if let Some(record) = diagnosis(incident) {
        sections.extend(report::facts(&record.facts_for, &record.facts_against, style));
    }
    if let (Some(ours), Some(theirs)) = (&incident.diagnosis, &incident.claimed)
        && ours.signature != theirs.signature
    {
        let line = format!("{}: {}\n", safe(&theirs.class), safe(&theirs.title));
        sections.extend(report::section("What the device thought", line, style));
    }
    sections
}

fn contents(bundle: &Bundle, incident: &Incident, style: Style) -> Vec<String> {
    let subject = diagnosis(incident).map_or("", |record| record.subject.as_str());
    let id = incident.id.to_string();
    let short = id.get(..8).unwrap_or(&id);
    let more = format!("lifesign-controller show {short} --artifact NAME");
    report::contents(bundle, subject, style.text(), &more)
}

/// Text of a device or a guest in a line of ours.
fn safe(text: &str) -> String {
    harmless_line(text.as_bytes())
}
