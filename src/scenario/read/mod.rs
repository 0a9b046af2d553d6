//! The language: from a document to a [`Scenario`], or to all of its mistakes.

mod arm;
mod probe;
mod step;
#[cfg(test)]
mod tests;
mod timing;

pub use timing::read_timing;

use super::cron::Zone;
use super::{Scenario, Timing, Transport, When};
use crate::base::document::{Document, FromNode, Map, Node, Notes, Value, parsed};
use crate::base::id::ScenarioName;
use crate::base::problem::{Problem, Problems, Source};
use crate::scenario::Budget;
use std::collections::BTreeSet;

/// The keys of a scenario, in the order in which they are told and best written.
pub(super) const KEYS: [&str; 17] = [
    "scenario",
    "summary",
    "period",
    "cron",
    "zone",
    "timeout",
    "roundTimeout",
    "failureThreshold",
    "successThreshold",
    "initialDelay",
    "witnesses",
    "flap",
    "except",
    "probe",
    "arm",
    "diagnose",
    "budget",
];

/// Reads a scenario.
///
/// # Errors
///
/// When anything is wrong with it; all mistakes are told.
pub fn read(source: Source) -> Result<Scenario, Problems> {
    Document::parse(source)?.read(|root, notes| {
        let mut map = root.map(notes)?;
        allow(&mut map, &KEYS);
        let name = map.required("scenario");
        let summary = map.or("summary", String::new());
        let zone = timing::read_zone(&mut map, notes);
        let when = timing::read_when(&mut map, notes, zone.as_ref());
        let probes = map.required_node("probe").and_then(|node| probe::read_all(node, notes));
        let witness = |probe: &super::Probe| probe.transport().witness();
        let silent = probes.iter().flatten().filter(|probe| probe.is_witness()).map(witness);
        let silent: BTreeSet<Transport> = silent.collect();
        // A mistake in `when` was noted; it shall not hide what is wrong with the rest.
        let default = default_timing(when.as_ref(), silent.len());
        let timing = read_timing(&mut map, notes, default);
        if let Some(probes) = &probes {
            let all = probes.iter().map(witness).collect();
            timing::check_witnesses(&mut map, notes, timing, all);
        }
        let windows = match map.node("except") {
            Some(node) => timing::read_windows(node, notes, zone.as_ref()),
            None => Some(Vec::new()),
        };
        let recorder = match map.node("arm") {
            Some(node) => arm::read(node, notes, probes.as_deref()).map(Some),
            None => Some(None),
        };
        let diagnose = map.required_node("diagnose").and_then(|node| step::read_all(node, notes));
        let budget = match map.node("budget") {
            Some(node) => step::read_budget(node, notes),
            None => Some(Budget::DEFAULT),
        };
        map.finish();
        let (when, timing) = (when?, timing?);
        Some(Scenario {
            name: name?,
            summary: summary?,
            when: if let When::Every(_) = when { When::Every(timing.period) } else { when },
            timing,
            windows: windows?,
            probes: probes?,
            diagnose: diagnose?,
            budget: budget?,
            recorder: recorder?,
        })
    })
}

/// Says which keys may stand in a map, in the order in which they are to be told.
fn allow(map: &mut Map<'_>, keys: &[&'static str]) {
    for key in keys {
        map.node(key);
    }
}

fn default_timing(when: Option<&When>, witnesses: usize) -> Timing {
    let witnesses = if witnesses > 1 { 2 } else { 1 };
    let period = match when {
        Some(When::Cron(cron)) => cron.shortest(),
        Some(When::Every(_)) | None => Timing::DEFAULT.period,
    };
    Timing { period, witnesses, ..Timing::DEFAULT }
}

impl FromNode for ScenarioName {
    const EXPECTED: &'static str = "a name: 1 to 64 of a-z, A-Z, 0-9, `-`, `_` and `.`";

    fn from_node(node: &Node, notes: &Notes) -> Option<Self> {
        parsed(node, notes, |text| text.parse().ok())
    }
}

impl FromNode for Zone {
    const EXPECTED: &'static str = "a time zone such as UTC or Europe/Berlin";

    fn from_node(node: &Node, notes: &Notes) -> Option<Self> {
        parsed(node, notes, Zone::named)
    }
}

/// Which one of several things a map says, such as `ping` in `{ ping: {} }`. Others of its keys may
/// say more about it.
fn tag(node: &Node, notes: &Notes, what: &str, tags: &[&'static str]) -> Option<&'static str> {
    let help = || format!("allowed: {}", tags.join(", "));
    let Value::Map(entries) = &node.value else {
        let message = format!("a {what} is expected here, as `{}: ..`", tags[0]);
        notes.note(Problem::new(node.span.clone(), message, "this is no map").help(help()));
        return None;
    };
    let word = |key: &Node| {
        if let Value::Text(text) = &key.value { Some(text.clone()) } else { None }
    };
    let tag_of = |key: &Node| {
        let word = word(key)?;
        tags.iter().find(|tag| **tag == word).copied()
    };
    let mut found = entries.iter().filter_map(|(key, _)| Some((key, tag_of(key)?)));
    match (found.next(), found.next()) {
        (Some((_, tag)), None) => Some(tag),
        (Some((_, first)), Some((second, _))) => {
            let label = format!("`{first}` stands here already");
            let problem = Problem::new(second.span.clone(), format!("one {what} at a time"), label);
            notes.note(problem.help("write them as two items of the list"));
            None
        }
        (None, _) => {
            match entries.first().map(|(key, _)| (key, word(key))) {
                Some((key, Some(word))) => notes.unknown(key.span.clone(), what, &word, tags),
                _ => {
                    let message = format!("one {what} is expected here");
                    let span = node.span.clone();
                    notes.note(Problem::new(span, message, "nothing is asked").help(help()));
                }
            }
            None
        }
    }
}

/// The same where nothing else may stand in the map, with what is said.
fn only<'a>(
    node: &'a Node,
    notes: &'a Notes,
    what: &str,
    tags: &[&'static str],
) -> Option<(&'static str, &'a Node)> {
    let tag = tag(node, notes, what, tags)?;
    let mut map = node.map(notes)?;
    let said = map.node(tag)?;
    map.finish();
    Some((tag, said))
}
