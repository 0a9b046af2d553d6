//! Which app gets which scenarios, and what may be done to it.
//!
//! Reads the `apps` of a config file. A binding exists only if its scenarios are known and its
//! consent suffices for their probes; whether its sockets are there is asked at every round, for
//! apps come and go.

use crate::base::consent::Consent;
use crate::base::document::{FromNode, Node, Notes, Value, parsed};
use crate::base::id::{AppId, ScenarioName};
use crate::base::problem::Problem;
use crate::scenario::{Scenario, read_timing};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// An app and where to find it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct App {
    /// Its stable key.
    pub id: AppId,
    /// What people call it.
    pub name: String,
    /// The socket of its console.
    pub console: Option<PathBuf>,
    /// A file to which the hypervisor copies what the guest writes to its console.
    pub console_log: Option<PathBuf>,
    /// The socket of its hypervisor's monitor.
    pub qmp: Option<PathBuf>,
    /// What may be done to it.
    pub consent: Consent,
}

/// An app and its scenarios.
#[derive(Clone, Debug)]
pub struct Binding {
    /// The app.
    pub app: App,
    /// Its scenarios, at the pace that the binding asks for.
    pub scenarios: Vec<Scenario>,
}

/// Reads the list of apps.
#[must_use]
pub fn read(
    node: &Node,
    notes: &Notes,
    scenarios: &BTreeMap<ScenarioName, Scenario>,
) -> Option<Vec<Binding>> {
    let items = node.list(notes)?;
    let bindings: Vec<Option<Binding>> =
        items.iter().map(|item| read_binding(item, notes, scenarios)).collect();
    let bindings: Vec<Binding> = bindings.into_iter().collect::<Option<_>>()?;
    let mut seen = BTreeSet::new();
    for (binding, item) in bindings.iter().zip(items) {
        if !seen.insert(binding.app.id) {
            let message = format!("the app {} is bound twice", binding.app.id);
            let problem = Problem::new(item.span.clone(), message, "the second time");
            notes.note(problem.help("one entry an app; it may list several scenarios"));
        }
    }
    Some(bindings)
}

fn read_binding(
    node: &Node,
    notes: &Notes,
    known: &BTreeMap<ScenarioName, Scenario>,
) -> Option<Binding> {
    let mut map = node.map(notes)?;
    let id = map.required("uuid");
    let name = map.required("name");
    let console = map.optional("console");
    let console_log = map.optional("console-log");
    let qmp = map.optional("qmp");
    let consent = match map.node("consent") {
        Some(node) => {
            node.word(notes, "consent", &Consent::ALL.map(|consent| (consent.word(), consent)))
        }
        None => Some(Consent::default()),
    };
    // A consent that is no word was noted; it shall not hide what is wrong with the scenarios.
    let permitted = consent.unwrap_or(Consent::Reset);
    let scenarios = map.required_node("scenarios").and_then(|list| {
        let items = list.list(notes)?;
        let read: Vec<Option<Scenario>> =
            items.iter().map(|item| read_scenario(item, notes, known, permitted)).collect();
        read.into_iter().collect::<Option<Vec<_>>>()
    });
    map.finish();
    let app = App { id: id?, name: name?, console, console_log, qmp, consent: consent? };
    Some(Binding { app, scenarios: scenarios? })
}

/// `linux-console`, or `linux-console: { period: 10s }`.
fn read_scenario(
    node: &Node,
    notes: &Notes,
    known: &BTreeMap<ScenarioName, Scenario>,
    consent: Consent,
) -> Option<Scenario> {
    let words: Vec<(&str, &Scenario)> =
        known.iter().map(|(name, scenario)| (name.as_str(), scenario)).collect();
    let Value::Map(entries) = &node.value else {
        let scenario = node.word(notes, "scenario", &words)?;
        return permitted(node, notes, scenario, consent).then(|| scenario.clone());
    };
    let [(name, timing)] = entries.as_slice() else {
        notes.expected(node, "a scenario's name, or one name with its timing,");
        return None;
    };
    let scenario = name.word(notes, "scenario", &words)?;
    let mut map = timing.map(notes)?;
    let timing = read_timing(&mut map, notes, scenario.timing());
    map.finish();
    let permitted = permitted(name, notes, scenario, consent);
    timing.filter(|_| permitted).map(|timing| scenario.clone().with_timing(timing))
}

fn permitted(node: &Node, notes: &Notes, scenario: &Scenario, consent: Consent) -> bool {
    let needed = scenario.consent();
    if consent < needed {
        let message = format!("`{}` needs the consent `{needed}`", scenario.name());
        let label = format!("this app consents to `{consent}`");
        let problem = Problem::new(node.span.clone(), message, label);
        notes.note(problem.help(format!("say `consent: {needed}` if its probes may be asked")));
    }
    consent >= needed
}

impl FromNode for AppId {
    const EXPECTED: &'static str = "a UUID such as 0f8fad5b-d9cb-469f-a165-70867728950e";

    fn from_node(node: &Node, notes: &Notes) -> Option<Self> {
        parsed(node, notes, |text| text.parse().ok())
    }
}
