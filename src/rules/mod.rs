//! The language of bindings: from a document to [`Rules`], or to all of its mistakes.
//!
//! It is a room of its own, for both programs read it: the device to obey, the controller to refuse
//! what a device would refuse before it is signed.
//!
//! ```yaml
//! bindings:
//!   - select: { name: "web-*" }
//!     consent: input
//!     scenarios: [linux-console: { period: 10s }, http-service]
//!     addresses: [10.1.0.7]
//!     secrets: { password: { file: web-password } }
//! ```

mod app;
mod reference;
mod select;

pub use app::{App, Birth, Disk, Interface, Life, Mac, id_of_name};
pub use reference::Reference;
pub use select::{Rank, Selector};

use crate::base::consent::Consent;
use crate::base::document::{Document, FromNode, Map, Node, Notes, Value, parsed};
use crate::base::id::{AppId, ScenarioName};
use crate::base::limits;
use crate::base::problem::{Problem, Problems, Source};
use crate::scenario::{self, Scenario, read_timing};
use reference::read_references;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

/// Scenarios by their names.
pub type Scenarios = BTreeMap<ScenarioName, Scenario>;

/// Who gets which scenarios, in the order in which it was said.
#[derive(Clone, Debug, Default)]
pub struct Rules(Vec<Rule>);

/// One binding.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Where it is said, for people: a file and a line.
    pub place: String,
    /// Which apps.
    pub selector: Selector,
    /// Their scenarios, at the pace that is asked for.
    pub scenarios: Vec<Scenario>,
    /// What may be done to them. `None`: left to others to say.
    pub consent: Option<Consent>,
    /// Whether they may be given a channel for their guest agent. `None`: left to others to say.
    pub agent: Option<Agent>,
    /// Where they can be reached.
    pub addresses: Vec<IpAddr>,
    /// What secrets their probes may use, by the name that the scenarios know them by.
    pub secrets: BTreeMap<String, Reference>,
}

/// What becomes of an app that has no channel for its guest agent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Agent {
    /// It is left as it was found.
    AsFound,
    /// It is given one.
    Add,
}

impl Agent {
    /// Both.
    pub const ALL: [Self; 2] = [Self::AsFound, Self::Add];

    /// A new device is nothing that a guest could not notice.
    pub const CONSENT: Consent = Consent::Input;

    /// The word for it in a binding.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::AsFound => "as-found",
            Self::Add => "add",
        }
    }
}

// === impl Rules ===

impl Rules {
    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.0.iter()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is bound.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Both; where two are equally precise, ours are meant.
    #[must_use]
    pub fn and(mut self, others: Self) -> Self {
        self.0.extend(others.0);
        self
    }

    /// Every secret that is named.
    pub fn references(&self) -> impl Iterator<Item = &Reference> {
        self.iter().flat_map(|rule| rule.secrets.values())
    }
}

impl FromIterator<Rule> for Rules {
    fn from_iter<I: IntoIterator<Item = Rule>>(rules: I) -> Self {
        Self(rules.into_iter().collect())
    }
}

/// Reads a bindings file.
///
/// # Errors
///
/// When anything is wrong with it; all mistakes are told.
pub fn read_rules(source: Source, known: &Scenarios) -> Result<Rules, Problems> {
    Document::parse(source)?.read(|root, notes| {
        let mut map = root.map(notes)?;
        let rules = map.required_node("bindings").and_then(|node| {
            let read: Vec<Option<Rule>> =
                node.list(notes)?.iter().map(|item| read_rule(item, notes, known)).collect();
            read.into_iter().collect()
        });
        map.finish();
        rules
    })
}

/// Reads scenarios, and a bindings file that names no others: what a controller publishes means the
/// same on every device, whatever files are there.
///
/// # Errors
///
/// When anything is wrong; every mistake, as a compiler would show it.
pub fn read_whole(scenarios: Vec<Source>, bindings: Source) -> Result<Rules, Vec<String>> {
    let mut wrong = Vec::new();
    let mut known = Scenarios::new();
    if scenarios.len() > limits::SCENARIOS {
        wrong.push(format!("more than {} scenarios", limits::SCENARIOS));
    }
    for source in scenarios.into_iter().take(limits::SCENARIOS) {
        let file = source.name.clone();
        match scenario::read(source) {
            Ok(scenario) => {
                let name = scenario.name().clone();
                if known.insert(name.clone(), scenario).is_some() {
                    wrong.push(format!("{file}: another file has a scenario `{name}`, too"));
                }
            }
            Err(problems) => wrong.push(problems.to_string()),
        }
    }
    // Bindings cannot be judged without the scenarios that they name.
    if !wrong.is_empty() {
        return Err(wrong);
    }
    read_rules(bindings, &known).map_err(|problems| vec![problems.to_string()])
}

fn read_rule(node: &Node, notes: &Notes, known: &Scenarios) -> Option<Rule> {
    let mut map = node.map(notes)?;
    let selector = map.required_node("select").and_then(|node| Selector::read(node, notes));
    let bound = Said::read(&mut map, notes, known, None);
    map.finish();
    Some(bound?.of(notes.place(node), selector?))
}

/// Reads the list of apps that a config file knows itself, each with a binding of its own.
#[must_use]
pub fn read_apps(node: &Node, notes: &Notes, known: &Scenarios) -> Option<Vec<(App, Rule)>> {
    let items = node.list(notes)?;
    let read: Vec<Option<(App, Rule)>> =
        items.iter().map(|item| read_app(item, notes, known)).collect();
    let apps: Vec<(App, Rule)> = read.into_iter().collect::<Option<_>>()?;
    let mut seen = BTreeSet::new();
    for ((app, _), item) in apps.iter().zip(items) {
        if !seen.insert(app.id) {
            let message = format!("the app {} is bound twice", app.id);
            let problem = Problem::new(item.span.clone(), message, "the second time");
            notes.note(problem.help("one entry an app; it may list several scenarios"));
        }
    }
    Some(apps)
}

fn read_app(node: &Node, notes: &Notes, known: &Scenarios) -> Option<(App, Rule)> {
    let mut map = node.map(notes)?;
    let id = map.required("uuid");
    let name: Option<String> = map.required("name");
    let console = map.optional("console");
    let shim_console = map.optional("shim-console");
    let console_log = map.optional("console-log");
    let erst = map.optional("erst");
    let flash = map.optional("flash");
    let qmp = map.optional("qmp");
    let events = map.optional("events");
    let guest_agent = map.optional("guest-agent");
    let disks: Option<Vec<PathBuf>> = map.or("disks", Vec::new());
    let labels = match map.node("labels") {
        Some(node) => read_labels(node, notes),
        None => Some(BTreeMap::new()),
    };
    let said = Said::read(&mut map, notes, known, Some(Consent::default()));
    map.finish();
    let id = id?;
    let app = App {
        labels: labels?,
        console,
        shim_console,
        console_log,
        erst,
        flash,
        qmp,
        events,
        guest_agent,
        disks: disks?.into_iter().map(|path| Disk { path, ..Disk::default() }).collect(),
        ..App::new(id, name?)
    };
    Some((app, said?.of(notes.place(node), Selector::app(id))))
}

fn read_labels(node: &Node, notes: &Notes) -> Option<BTreeMap<String, String>> {
    let Value::Map(entries) = &node.value else {
        notes.expected(node, "a map of labels, such as { tier: gold },");
        return None;
    };
    let read = entries.iter().map(|(key, value)| {
        let (key, value) = (String::from_node(key, notes), String::from_node(value, notes));
        Some((key?, value?))
    });
    // Every label is read, so that every mistake is noted.
    let read: Vec<Option<(String, String)>> = read.collect();
    read.into_iter().collect()
}

/// What a binding and an app's own entry have in common.
struct Said {
    scenarios: Vec<Scenario>,
    consent: Option<Consent>,
    agent: Option<Agent>,
    addresses: Vec<IpAddr>,
    secrets: BTreeMap<String, Reference>,
}

impl Said {
    /// `usual` is the consent of who says none; without it, another binding may say it.
    fn read(
        map: &mut Map<'_>,
        notes: &Notes,
        known: &Scenarios,
        usual: Option<Consent>,
    ) -> Option<Self> {
        let consent = match map.node("consent") {
            Some(node) => {
                let words = Consent::ALL.map(|consent| (consent.word(), consent));
                node.word(notes, "consent", &words).map(Some)
            }
            None => Some(usual),
        };
        // A consent that is no word was noted; it shall not hide what is wrong with the scenarios.
        let permitted = consent.flatten().unwrap_or(Consent::Reset);
        let scenarios = map.required_node("scenarios").and_then(|list| {
            let items = list.list(notes)?;
            let read: Vec<Option<Scenario>> =
                items.iter().map(|item| read_scenario(item, notes, known, permitted)).collect();
            read.into_iter().collect::<Option<Vec<_>>>()
        });
        let agent = match map.node("agent") {
            Some(node) => {
                let words = Agent::ALL.map(|agent| (agent.word(), agent));
                node.word(notes, "word for `agent`", &words).map(Some)
            }
            None => Some(None),
        };
        let addresses = map.or("addresses", Vec::new());
        let secrets = match map.node("secrets") {
            Some(node) => read_references(node, notes),
            None => Some(BTreeMap::new()),
        };
        Some(Self {
            scenarios: scenarios?,
            consent: consent?,
            agent: agent?,
            addresses: addresses?,
            secrets: secrets?,
        })
    }

    fn of(self, place: String, selector: Selector) -> Rule {
        let Self { scenarios, consent, agent, addresses, secrets } = self;
        Rule { place, selector, scenarios, consent, agent, addresses, secrets }
    }
}

/// `linux-console`, or `linux-console: { period: 10s }`.
fn read_scenario(
    node: &Node,
    notes: &Notes,
    known: &Scenarios,
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

impl FromNode for IpAddr {
    const EXPECTED: &'static str = "an address such as 10.1.0.7 or fd00::7";

    fn from_node(node: &Node, notes: &Notes) -> Option<Self> {
        parsed(node, notes, |text| text.parse().ok())
    }
}
