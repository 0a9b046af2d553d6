//! What a config file says of apps: its own list, where else to look, and where bindings are.

use super::source::Kind;
use crate::base::consent::Consent;
use crate::base::document::{Map, Node, Notes};
use crate::base::problem::Problem;
use crate::rules::{App, Rule, Rules, Scenarios, read_apps};
use std::path::PathBuf;

/// The keys `apps`, `bindings`, `discover`, `secrets` and `controller`.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Apps that the file lists itself.
    pub apps: Vec<App>,
    /// Their bindings.
    pub rules: Rules,
    /// Where else to look for apps.
    pub discover: Vec<Kind>,
    /// The file with more bindings.
    pub bindings: Option<PathBuf>,
    /// The directory of secrets.
    pub secrets: Option<PathBuf>,
    /// The controller whose bindings are taken.
    pub controller: Option<Controller>,
}

/// A controller that a device is enrolled with.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Controller {
    /// Its certificate, PEM.
    pub certificate: PathBuf,
    /// What it may consent to at most.
    pub consent: Consent,
    /// Whether it may have the dumps that the device keeps.
    pub dumps: bool,
}

impl Controller {
    /// Who stands at the device has the last word on what stops or restarts a guest.
    const CONSENT: Consent = Consent::Input;

    fn read(node: &Node, notes: &Notes) -> Option<Self> {
        let mut map = node.map(notes)?;
        let certificate = map.required("certificate");
        let consent = match map.node("consent") {
            Some(node) => {
                let words = Consent::ALL.map(|consent| (consent.word(), consent));
                node.word(notes, "consent", &words)
            }
            None => Some(Self::CONSENT),
        };
        // A dump holds all that the guest held: it leaves the device only where somebody says so.
        let dumps = match map.node("dumps") {
            Some(node) => node.word(notes, "word", &[("allow", true), ("deny", false)]),
            None => Some(false),
        };
        map.finish();
        Some(Self { certificate: certificate?, consent: consent?, dumps: dumps? })
    }
}

impl Setup {
    /// Reads these keys of a config file.
    #[must_use]
    pub fn read(map: &mut Map<'_>, notes: &Notes, known: &Scenarios) -> Option<Self> {
        let apps = match map.node("apps") {
            Some(node) => read_apps(node, notes, known),
            None => Some(Vec::new()),
        };
        let discover = match map.node("discover") {
            Some(node) => node.list(notes).and_then(|items| {
                let read: Vec<Option<Kind>> =
                    items.iter().map(|item| Kind::read(item, notes)).collect();
                read.into_iter().collect()
            }),
            None => Some(Vec::new()),
        };
        if map.node("apps").is_none() && map.node("discover").is_none() {
            let problem = Problem::new(map.span(), "no app would ever be watched", "in this map");
            notes.note(problem.help("list them under `apps`, or say `discover: [eve]`"));
        }
        let bindings = map.optional("bindings");
        let secrets = map.optional("secrets");
        let controller = match map.node("controller") {
            Some(node) => Controller::read(node, notes).map(Some),
            None => Some(None),
        };
        let (apps, rules): (Vec<App>, Vec<Rule>) = apps?.into_iter().unzip();
        let rules = rules.into_iter().collect();
        Some(Self { apps, rules, discover: discover?, bindings, secrets, controller: controller? })
    }
}
