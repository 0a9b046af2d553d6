//! Which app gets what: the rules laid over the apps that are there.
//!
//! All rules that select an app count; its scenarios are those of all of them. Where two rules say
//! different things of the same, the more precise one is meant, and the first of equally precise
//! ones; that it was so is told. What cannot be asked is kept with the reason, so that it can be
//! shown, and hinders nothing else.

use super::secret::{Secret, Vault};
use crate::base::consent::Consent;
use crate::base::id::{AppId, ScenarioName};
use crate::rules::{Agent, App, Reference, Rule, Rules};
use crate::scenario::Scenario;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// An app and what it gets.
#[derive(Clone, Debug)]
pub struct Bound {
    /// The app, with the consent and the addresses that its rules give.
    pub app: App,
    /// Its scenarios, at the pace that its rules ask for.
    pub scenarios: Vec<Scenario>,
    /// Scenarios that it should have and that cannot be asked.
    pub hindered: Vec<Hindered>,
    /// What its probes may use, by the name that the scenarios know it by.
    pub secrets: BTreeMap<String, Secret>,
}

/// A scenario that cannot be asked of an app.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Hindered {
    /// Which.
    pub scenario: ScenarioName,
    /// Why, as a sentence.
    pub reason: String,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Resolved {
    /// Apps that some rule selects, by their key.
    pub bound: Vec<Bound>,
    /// Apps that no rule selects.
    pub unbound: Vec<AppId>,
    /// What a person should know.
    pub warnings: Vec<Warning>,
}

/// What a person should know, and where it comes from.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Warning {
    /// File and line.
    pub place: String,
    /// As a sentence.
    pub text: String,
}

/// Lays the rules over the apps.
#[must_use]
pub fn resolve<'a>(
    rules: &Rules,
    apps: impl IntoIterator<Item = &'a App>,
    vault: &Vault,
) -> Resolved {
    let mut ranked: Vec<&Rule> = rules.iter().collect();
    // Stable: among equally precise rules the first stays first.
    ranked.sort_by_key(|rule| std::cmp::Reverse(rule.selector.rank()));
    let mut resolved = Resolved::default();
    let mut useful = BTreeSet::new();
    let mut told = Told::default();
    for app in apps {
        let mut binder = Binder::new(app, vault, &mut told);
        for (index, rule) in ranked.iter().enumerate() {
            if rule.selector.selects(app) {
                useful.insert(index);
                binder.lay(rule);
            }
        }
        match binder.finish() {
            Some(bound) => resolved.bound.push(bound),
            None => resolved.unbound.push(app.id),
        }
    }
    resolved.bound.sort_by_key(|bound| bound.app.id);
    resolved.unbound.sort();
    resolved.warnings = told.into_warnings();
    let idle = ranked.iter().enumerate().filter(|(index, _)| !useful.contains(index));
    resolved.warnings.extend(idle.map(|(_, rule)| Warning {
        place: rule.place.clone(),
        text: format!("{} selects no app that is here now", rule.selector),
    }));
    resolved.warnings.sort();
    resolved
}

/// Puts one app together.
struct Binder<'a, 't> {
    app: App,
    vault: &'a Vault,
    told: &'t mut Told,
    selected: bool,
    consent: Option<(&'a Rule, Consent)>,
    agent: Option<(&'a Rule, Agent)>,
    scenarios: BTreeMap<&'a ScenarioName, (&'a Rule, &'a Scenario)>,
    secrets: BTreeMap<&'a str, (&'a Rule, &'a Reference)>,
}

impl<'a, 't> Binder<'a, 't> {
    fn new(app: &App, vault: &'a Vault, told: &'t mut Told) -> Self {
        Self {
            app: app.clone(),
            vault,
            told,
            selected: false,
            consent: None,
            agent: None,
            scenarios: BTreeMap::new(),
            secrets: BTreeMap::new(),
        }
    }

    /// Adds what a rule says, unless one before it said it already.
    fn lay(&mut self, rule: &'a Rule) {
        self.selected = true;
        if let Some(consent) = rule.consent {
            match self.consent {
                Some((winner, meant)) if meant != consent => {
                    let what = format!("the consent `{meant}` and not `{consent}`");
                    self.told.overruled(&self.app, rule, winner, &what);
                }
                Some(_) => {}
                None => self.consent = Some((rule, consent)),
            }
        }
        if let Some(agent) = rule.agent {
            let (winner, meant) = *self.agent.get_or_insert((rule, agent));
            if meant != agent {
                let what = format!("`agent: {}` and not `{}`", meant.word(), agent.word());
                self.told.overruled(&self.app, rule, winner, &what);
            }
        }
        for scenario in &rule.scenarios {
            let name = scenario.name();
            let (winner, meant) = *self.scenarios.entry(name).or_insert((rule, scenario));
            if meant.timing() != scenario.timing() {
                self.told.overruled(&self.app, rule, winner, &format!("the timing of `{name}`"));
            }
        }
        for (name, reference) in &rule.secrets {
            let (winner, meant) = *self.secrets.entry(name).or_insert((rule, reference));
            if meant != reference {
                self.told.overruled(&self.app, rule, winner, &format!("the secret `{name}`"));
            }
        }
        // What a person says comes before what was found.
        let mut addresses = rule.addresses.clone();
        addresses.retain(|address| !self.app.addresses.contains(address));
        self.app.addresses.splice(0..0, addresses);
    }

    fn finish(mut self) -> Option<Bound> {
        if !self.selected {
            return None;
        }
        self.app.consent = self.consent.map_or(Consent::default(), |(_, consent)| consent);
        self.app.add_agent = self.may_add_agent();
        let mut bound = Bound {
            app: self.app.clone(),
            scenarios: Vec::new(),
            hindered: Vec::new(),
            secrets: BTreeMap::new(),
        };
        for (name, (rule, reference)) in &self.secrets {
            match self.vault.get(reference) {
                Ok(secret) => drop(bound.secrets.insert((*name).to_owned(), secret.clone())),
                Err(why) => self.told.tell(&self.app, rule, missing(name, &why)),
            }
        }
        for (rule, scenario) in std::mem::take(&mut self.scenarios).into_values() {
            match self.hindrance(rule, scenario) {
                None => bound.scenarios.push(scenario.clone()),
                Some(reason) => {
                    let scenario = scenario.name().clone();
                    bound.hindered.push(Hindered { scenario, reason });
                }
            }
        }
        Some(bound)
    }

    fn may_add_agent(&mut self) -> bool {
        let Some((rule, Agent::Add)) = self.agent else { return false };
        let (needed, given) = (Agent::CONSENT, self.app.consent);
        if given < needed {
            let text = format!("`agent: add` needs the consent `{needed}`, and it is `{given}`");
            self.told.tell(&self.app, rule, text);
        }
        given >= needed
    }

    /// Why a scenario cannot be asked.
    fn hindrance(&mut self, rule: &Rule, scenario: &Scenario) -> Option<String> {
        let (needed, given) = (scenario.consent(), self.app.consent);
        if given < needed {
            let name = scenario.name();
            let by = match self.consent {
                Some((rule, _)) => format!("{} consents to `{given}`", rule.place),
                None => format!("no binding says a consent, which means `{given}`"),
            };
            let reason = format!("`{name}` needs the consent `{needed}`, and {by}");
            self.told.tell(&self.app, rule, reason.clone());
            return Some(reason);
        }
        for name in scenario.secrets() {
            if !self.secrets.contains_key(name.as_str()) {
                let scenario = scenario.name();
                let reason = format!(
                    "`{scenario}` needs the secret `{name}`, and no binding says where it is"
                );
                self.told.tell(&self.app, rule, reason.clone());
                return Some(reason);
            }
        }
        for (name, reference) in &rule.secrets {
            // A more precise rule may have the secret elsewhere.
            let meant = self.secrets.get(name.as_str()).map_or(reference, |(_, meant)| meant);
            if let Err(why) = self.vault.get(meant) {
                return Some(missing(name, &why));
            }
        }
        None
    }
}

fn missing(secret: &str, why: &str) -> String {
    format!("the secret `{secret}` is missing: {why}")
}

/// Warnings, each told once with the apps that it is about: 500 apps make no 500 warnings.
#[derive(Default)]
struct Told(BTreeMap<(String, String), BTreeMap<AppId, String>>);

impl Told {
    fn overruled(&mut self, app: &App, rule: &Rule, winner: &Rule, what: &str) {
        let (ours, theirs) = (rule.selector.rank(), winner.selector.rank());
        let why = if ours == theirs { "equally precise and comes first" } else { "more precise" };
        let place = &winner.place;
        self.tell(app, rule, format!("{place} decides {what}: it is {why}"));
    }

    fn tell(&mut self, app: &App, rule: &Rule, text: String) {
        let apps = self.0.entry((rule.place.clone(), text)).or_default();
        apps.entry(app.id).or_insert_with(|| app.name.clone());
    }

    fn into_warnings(self) -> Vec<Warning> {
        let said = self.0.into_iter().map(|((place, text), apps)| {
            let first = apps.values().next().map_or("", String::as_str);
            let others = match apps.len() {
                0 | 1 => String::new(),
                more => format!(" and {} more", more - 1),
            };
            Warning { place, text: format!("{text} (for `{first}`{others})") }
        });
        said.collect()
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.text)
    }
}
