//! What the controller is told to do: text to [`Config`], whose fields need no second check.
//!
//! ```yaml
//! listen: 0.0.0.0:8883            # the controller's own broker; not needed with `broker`
//! http: 127.0.0.1:9465            # health and metrics
//! data: /var/lib/lifesign         # everything that is received
//! devices: /etc/lifesign/devices  # <device>.pem: the certificates that are enrolled
//! tls: { certificate: server.pem, key: server.key, ca: ca.pem }
//! broker: { url: mqtts://mqtt.example.com:8883, client: lifesign-controller }
//! dumps: { quota: 16GiB }         # what is kept of dumps that were asked for
//! prefix: lifesign
//! log: { format: text, level: info }
//! ```

use crate::base::document::{Bytes, Document, FromNode, Map, Node, Notes};
use crate::base::endpoint::BrokerUrl;
use crate::base::limits;
use crate::base::problem::{Problem, Problems, Source};
use crate::base::topic::Prefix;
use crate::telemetry::logs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// Where health and metrics are served unless said otherwise.
const HTTP: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9465);

/// The name under which a broker keeps our session unless said otherwise.
const CLIENT: &str = "lifesign-controller";

/// Where the controller hears from, what it trusts and where it keeps things.
#[derive(Clone, Debug)]
pub struct Config {
    /// Whose broker.
    pub broker: BrokerChoice,
    /// Health and metrics.
    pub http: SocketAddr,
    /// Everything that is received.
    pub data: PathBuf,
    /// Enrolled certificates, `<device>.pem`.
    pub devices: PathBuf,
    /// How the controller proves itself, and whom it believes.
    pub tls: Option<TlsFiles>,
    /// What dumps may take in all.
    pub dumps_bytes: u64,
    /// The first level of every topic.
    pub prefix: Prefix,
    /// What is logged.
    pub log: logs::Settings,
}

/// Whose broker.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum BrokerChoice {
    /// Our own, in this process.
    Own {
        /// Where it listens.
        listen: SocketAddr,
    },
    /// One that somebody else runs.
    Theirs {
        /// Where it is.
        url: BrokerUrl,
        /// The name under which it keeps our session.
        client: String,
    },
}

/// Files in PEM.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TlsFiles {
    /// The controller's certificate and those between it and the root.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Who vouches for the other side.
    pub ca: PathBuf,
}

impl Config {
    /// Reads a config. `broker`, from the command line, goes before what the text says.
    ///
    /// # Errors
    ///
    /// All that is wrong with the text.
    pub fn read(source: Source, broker: Option<BrokerUrl>) -> Result<Self, Problems> {
        Document::parse(source)?.read(|node, notes| read(node, notes, broker))
    }
}

fn read(node: &Node, notes: &Notes, broker: Option<BrokerUrl>) -> Option<Config> {
    let mut map = node.map(notes)?;
    let tls = read_part(&mut map, "tls", notes, read_tls);
    let chosen = read_part(&mut map, "broker", notes, read_broker);
    let listen = map.node("listen");
    let broker = match (broker, chosen) {
        (Some(url), Some(Some(BrokerChoice::Theirs { client, .. }))) => {
            Some(BrokerChoice::Theirs { url, client })
        }
        (Some(url), _) => Some(BrokerChoice::Theirs { url, client: CLIENT.to_owned() }),
        (None, Some(Some(theirs))) => Some(theirs),
        (None, Some(None)) => read_listen(&map, listen, notes, matches!(tls, Some(None))),
        (None, None) => None,
    };
    let http = map.or("http", HTTP);
    let data = map.required("data");
    let devices = map.required("devices");
    let dumps = read_part(&mut map, "dumps", notes, read_dumps);
    let prefix = map.or("prefix", Prefix::default());
    let log = logs::Settings::read(&mut map, notes);
    map.finish();
    Some(Config {
        dumps_bytes: dumps?.unwrap_or(limits::DUMPS_BYTES),
        broker: broker?,
        http: http?,
        data: data?,
        devices: devices?,
        tls: tls?,
        prefix: prefix?,
        log: log?,
    })
}

/// A map that may be missing: `None` if it is wrong, `Some(None)` if it is not there.
fn read_part<T>(
    map: &mut Map<'_>,
    key: &'static str,
    notes: &Notes,
    read: fn(&Node, &Notes) -> Option<T>,
) -> Option<Option<T>> {
    match map.node(key) {
        Some(node) => read(node, notes).map(Some),
        None => Some(None),
    }
}

fn read_listen(
    map: &Map<'_>,
    node: Option<&Node>,
    notes: &Notes,
    plain: bool,
) -> Option<BrokerChoice> {
    let Some(node) = node else {
        let problem = Problem::new(map.span(), "`listen` or `broker` is missing", "in this map");
        notes.note(problem.help(
            "`listen: 0.0.0.0:8883` starts a broker; `broker: { url: mqtts://host:8883 }` uses one",
        ));
        return None;
    };
    let listen = SocketAddr::from_node(node, notes)?;
    if plain && !listen.ip().is_loopback() {
        let message = "whoever reaches this address could speak for any device";
        let problem = Problem::new(node.span.clone(), message, "not loopback, and no `tls`");
        notes.note(problem.help("add `tls: { certificate, key, ca }`, or listen on 127.0.0.1"));
        return None;
    }
    Some(BrokerChoice::Own { listen })
}

fn read_tls(node: &Node, notes: &Notes) -> Option<TlsFiles> {
    let mut map = node.map(notes)?;
    let (certificate, key, ca) =
        (map.required("certificate"), map.required("key"), map.required("ca"));
    map.finish();
    Some(TlsFiles { certificate: certificate?, key: key?, ca: ca? })
}

fn read_dumps(node: &Node, notes: &Notes) -> Option<u64> {
    let mut map = node.map(notes)?;
    let quota = map.or("quota", Bytes(limits::DUMPS_BYTES));
    map.finish();
    quota.map(|Bytes(bytes)| bytes)
}

fn read_broker(node: &Node, notes: &Notes) -> Option<BrokerChoice> {
    let mut map = node.map(notes)?;
    let url = map.required("url");
    let client = map.or("client", CLIENT.to_owned());
    map.finish();
    Some(BrokerChoice::Theirs { url: url?, client: client? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Result<Config, Problems> {
        Config::read(Source { name: "controller.yaml".to_owned(), text: text.to_owned() }, None)
    }

    #[test]
    fn what_is_not_said_has_a_default() {
        let config = config("listen: 127.0.0.1:1883\ndata: /d\ndevices: /e\n").unwrap();
        assert_eq!(config.http, HTTP);
        assert_eq!(config.prefix.as_str(), "lifesign");
        assert_eq!(config.dumps_bytes, limits::DUMPS_BYTES);
        assert_eq!(config.log, logs::Settings::default());
        let listen = "127.0.0.1:1883".parse().unwrap();
        assert_eq!(config.broker, BrokerChoice::Own { listen });
    }

    #[test]
    fn every_mistake_is_shown_at_once() {
        let problems = config(
            "listen: 0.0.0.0:1883\nhttp: 9465\ndate: /d\ntls: { certificate: a, key: b, cert: c }\n\
             prefix: a//b\nlog: { format: xml }\n",
        )
        .unwrap_err();
        insta::assert_snapshot!(problems);
    }

    #[test]
    fn a_broker_of_ours_for_all_the_world_needs_tls() {
        let text = "listen: 0.0.0.0:1883\ndata: /d\ndevices: /e\n";
        insta::assert_snapshot!(config(text).unwrap_err());
        let text = "data: /d\ndevices: /e\n";
        insta::assert_snapshot!(config(text).unwrap_err());
    }

    #[test]
    fn the_command_line_goes_before_the_file() {
        let text = "broker: { url: mqtts://a, client: us }\ndata: /d\ndevices: /e\n".to_owned();
        let source = Source { name: "c".to_owned(), text };
        let url: BrokerUrl = "mqtt://[::1]:7".parse().unwrap();
        let config = Config::read(source, Some(url.clone())).unwrap();
        assert_eq!(config.broker, BrokerChoice::Theirs { url, client: "us".to_owned() });
    }
}
