//! The agent's config file.
//!
//! One YAML file; paths in it start at its own directory. All mistakes are told at once, those in
//! the scenarios that it names too.

use super::dumps::Dumps;
use super::parcels::Place;
use super::repeats;
use crate::base::document::{Bytes, Document, FromNode, Node, Notes, parsed};
use crate::base::endpoint::BrokerUrl;
use crate::base::id::{DeviceId, ScenarioName};
use crate::base::problem::{Problem, Problems, Source};
use crate::base::topic::Prefix;
use crate::binding::{Controller, Setup};
use crate::scenario::{self, Scenario};
use crate::telemetry::logs;
use crate::upload;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Everything that a person decides.
#[derive(Debug)]
pub struct Config {
    /// The name of this device.
    pub device: DeviceId,
    /// Where the ledger is, and everything else that has no place of its own.
    pub state: PathBuf,
    /// The certificate by which the device is known, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// Where what is sealed waits to be sent.
    pub spool: Place,
    /// What the uplink may carry.
    pub budget: upload::Bounds,
    /// How often the same is sent in full.
    pub repeats: repeats::Settings,
    /// Where dumps of guests' memory are kept.
    pub dumps: Dumps,
    /// Where bundles go.
    pub broker: Broker,
    /// Whose bindings are taken.
    pub controller: Option<Controller>,
    /// Where health and metrics are shown.
    pub http: Option<SocketAddr>,
    /// What log lines look like.
    pub log: logs::Settings,
}

/// Where bundles go.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Broker {
    /// Where it is.
    pub url: BrokerUrl,
    /// The authorities that may vouch for it, PEM.
    pub ca: Option<PathBuf>,
    /// The first level of every topic.
    pub prefix: Prefix,
}

/// Why there is no config.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("failed to read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It was read, and is wrong.
    #[error("{}", Wrong(.0))]
    Wrong(Vec<Problems>),
}

struct Wrong<'a>(&'a [Problems]);

impl std::fmt::Display for Wrong<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&shown.join("\n\n"))
    }
}

/// Reads the config file and the scenarios that it names.
///
/// # Errors
///
/// When a file cannot be read, or anything is wrong with one.
pub fn read(path: &Path) -> Result<Config, Error> {
    let document =
        Document::parse(source(path)?).map_err(|problems| Error::Wrong(vec![problems]))?;
    let mut wrong = Vec::new();
    let mut scenarios = BTreeMap::new();
    // Whether the rest is right is told when all of the config is read, with the scenarios known.
    let directory = document.read(|root, notes| root.map(notes)?.optional::<PathBuf>("scenarios"));
    for file in scenario_files(directory.ok().as_deref())? {
        match scenario::read(source(&file)?) {
            Ok(scenario) => drop(scenarios.insert(scenario.name().clone(), scenario)),
            Err(problems) => wrong.push(problems),
        }
    }
    match document.read(|root, notes| read_config(root, notes, &scenarios)) {
        Ok(config) if wrong.is_empty() => Ok(config),
        Ok(_) => Err(Error::Wrong(wrong)),
        Err(problems) => {
            wrong.insert(0, problems);
            Err(Error::Wrong(wrong))
        }
    }
}

fn source(path: &Path) -> Result<Source, Error> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| Error::Read { path: path.to_owned(), source })?;
    Ok(Source { name: path.display().to_string(), text })
}

fn scenario_files(directory: Option<&Path>) -> Result<Vec<PathBuf>, Error> {
    let Some(directory) = directory else { return Ok(Vec::new()) };
    let read = |source| Error::Read { path: directory.to_owned(), source };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(read)? {
        let path = entry.map_err(read)?.path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read_config(
    root: &Node,
    notes: &Notes,
    scenarios: &BTreeMap<ScenarioName, Scenario>,
) -> Option<Config> {
    let mut map = root.map(notes)?;
    let device = map.required("device");
    let state: Option<PathBuf> = map.required("state");
    let certificate = map.required("certificate");
    let key = map.required("key");
    let broker = map.required_node("broker").and_then(|node| read_broker(node, notes));
    let without = PathBuf::new();
    let spool = Place::read(map.node("spool"), notes, state.as_ref().unwrap_or(&without));
    let budget = read_budget(map.node("budget"), notes);
    let repeats = repeats::Settings::read(map.node("repeats"), notes);
    let dumps = Dumps::read(map.node("dumps"), notes, state.as_ref().unwrap_or(&without));
    let http = map.optional("http");
    let log = logs::Settings::read(&mut map, notes);
    map.required_node("scenarios");
    // What it says of apps is read again whenever it changes; here its mistakes are told.
    let setup = Setup::read(&mut map, notes, scenarios);
    map.finish();
    Some(Config {
        device: device?,
        state: state?,
        certificate: certificate?,
        key: key?,
        spool: spool?,
        budget: budget?,
        repeats: repeats?,
        dumps: dumps?,
        broker: broker?,
        controller: setup?.controller,
        http,
        log: log?,
    })
}

/// The key `budget`, which may be missing: then nothing has bounds.
fn read_budget(node: Option<&Node>, notes: &Notes) -> Option<upload::Bounds> {
    let Some(node) = node else { return Some(upload::Bounds::default()) };
    let mut map = node.map(notes)?;
    let hour = map.optional::<Bytes>("hour").map(|bytes| bytes.0);
    let month = map.optional::<Bytes>("month").map(|bytes| bytes.0);
    map.finish();
    Some(upload::Bounds { hour, month })
}

fn read_broker(node: &Node, notes: &Notes) -> Option<Broker> {
    let mut map = node.map(notes)?;
    let span = map.node("url").map_or(node.span.clone(), |node| node.span.clone());
    let url: Option<BrokerUrl> = map.required("url");
    let ca = map.optional("ca");
    let prefix = map.or("prefix", Prefix::default());
    map.finish();
    let url = url?;
    if url.tls && ca.is_none() {
        let problem = Problem::new(node.span.clone(), "`ca` is missing", "a broker with TLS");
        notes.note(problem.help("name the file with the authority that vouches for the broker"));
    }
    if !url.tls && !url.is_loopback() {
        let problem = Problem::new(span, "evidence never travels in the clear", "not encrypted");
        notes.note(problem.help("say mqtts://; mqtt:// is for a broker on this machine"));
    }
    Some(Broker { url, ca, prefix: prefix? })
}

impl FromNode for DeviceId {
    const EXPECTED: &'static str = "a name: 1 to 64 of a-z, A-Z, 0-9, `-`, `_` and `.`";

    fn from_node(node: &Node, notes: &Notes) -> Option<Self> {
        parsed(node, notes, |text| text.parse().ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> String {
        let directory = tempfile::tempdir().unwrap();
        let scenarios = directory.path().join("scenarios");
        std::fs::create_dir(&scenarios).unwrap();
        std::fs::copy("scenarios/linux-console.yaml", scenarios.join("linux-console.yaml"))
            .unwrap();
        let path = directory.path().join("agent.yaml");
        std::fs::write(&path, text).unwrap();
        let shown =
            read(&path).map_or_else(|error| error.to_string(), |config| format!("{config:#?}"));
        shown.replace(&directory.path().display().to_string(), "DIR")
    }

    #[test]
    fn a_config_is_read_with_its_scenarios() {
        insta::assert_snapshot!(problems(
            "\
device: edge-1
state: state
certificate: device.pem
key: device.key
spool: { directory: vault/spool, quota: 20MiB, age: 30d }
repeats: { cooldown: 1h, hourly: 0 }
budget: { hour: 4MiB, month: 500MiB }
dumps: { quota: 20GiB }
broker: { url: \"mqtts://localhost\", ca: ca.pem }
http: 127.0.0.1:9464
scenarios: scenarios
apps:
  - name: web
    uuid: 0f8fad5b-d9cb-469f-a165-70867728950e
    console: lab/cons
    qmp: lab/qmp
    consent: input
    scenarios: [linux-console: { period: 2s, timeout: 1s, initialDelay: 0s }]
"
        ));
    }

    #[test]
    fn every_mistake_is_told_at_once() {
        insta::assert_snapshot!(problems(
            "\
device: edge 1
state: state
key: device.key
broker: { url: \"mqtt://example.org\", prefx: x }
http: 9464
spool: { quota: 20, size: 1MiB, age: old }
repeats: { cooldown: 6, often: 2 }
budget: { day: 4MiB, month: much }
dumps: { quota: 20, count: -1 }
scenarios: scenarios
log: { format: xml }
apps:
  - name: web
    uuid: 0f8fad5b
    scenarios: [linux-console]
  - name: db
    uuid: 0f8fad5b-d9cb-469f-a165-70867728950e
    consent: imput
    scenarios: [linux-consol, linux-console: { period: 2s }]
"
        ));
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = read(Path::new("/nonexistent/agent.yaml")).unwrap_err();
        assert_eq!(error.to_string(), "failed to read /nonexistent/agent.yaml");
    }
}
