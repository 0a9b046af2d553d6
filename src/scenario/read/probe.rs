//! The probes: what is asked.

use super::{allow, only, tag};
use crate::base::document::{FromNode, Map, Node, Notes, Value, parsed};
use crate::base::problem::Problem;
use crate::scenario::{
    AgentProbe, ConsoleProbe, Credential, DiskProbe, Exchange, HttpProbe, LogProbe, Login,
    NetworkProbe, Pattern, Port, Probe, SecretName, Transport,
};
use std::time::Duration;

/// More questions than this are more than one scenario.
const PROBES: usize = 32;

/// A text to send or to expect; longer ones were not written by hand.
const TEXT: usize = 1024;

pub(super) fn read_all(node: &Node, notes: &Notes) -> Option<Vec<Probe>> {
    let items = node.list(notes)?;
    if items.is_empty() {
        let problem = Problem::new(node.span.clone(), "no probe", "nothing would ever be asked");
        notes.note(
            problem.help("for example  - console: { send: \"uptime\", expect: \"load average\" }"),
        );
    }
    if items.len() > PROBES {
        let label = format!("{} of them, {PROBES} at most", items.len());
        notes.note(Problem::new(node.span.clone(), "too many probes", label));
        return None;
    }
    // Every item is read, so that every mistake is noted.
    let probes: Vec<Option<Probe>> = items.iter().map(|item| read_probe(item, notes)).collect();
    probes.into_iter().collect()
}

fn read_probe(node: &Node, notes: &Notes) -> Option<Probe> {
    let (kind, node) = only(node, notes, "probe", &Transport::ALL.map(Transport::word))?;
    match kind {
        "console" => read_console(node, notes).map(Probe::Console),
        "log" => read_log(node, notes).map(Probe::Log),
        "disk" => read_disk(node, notes).map(Probe::Disk),
        "network" => read_network(node, notes).map(Probe::Network),
        "agent" => read_agent(node, notes).map(Probe::Agent),
        _ => nothing(node, notes).map(|()| Probe::Vcpu),
    }
}

// === console ===

fn read_console(node: &Node, notes: &Notes) -> Option<ConsoleProbe> {
    let kind = tag(node, notes, "question on the console", &["send", "dialogue", "silence"])?;
    let mut map = node.map(notes)?;
    let keys: &[&'static str] = match kind {
        "silence" => &["silence"],
        "send" => &["login", "send", "expect", "shell"],
        _ => &["login", "dialogue", "shell"],
    };
    allow(&mut map, keys);
    let port = match map.node("port") {
        Some(node) => node.word(notes, "console", &Port::ALL.map(|port| (port.word(), port))),
        None => Some(Port::default()),
    };
    if kind == "silence" {
        let after = time(&mut map, notes, "silence");
        map.finish();
        return Some(ConsoleProbe::Silence { port: port?, after: after? });
    }
    let login = match map.node("login") {
        Some(node) => read_login(node, notes).map(Some),
        None => Some(None),
    };
    let dialogue = if kind == "send" {
        read_exchange(&mut map, notes).map(|exchange| vec![exchange])
    } else {
        map.node("dialogue").and_then(|node| read_dialogue(node, notes))
    };
    let shell = match map.node("shell") {
        Some(node) => yes_or_no(node, notes),
        None => Some(true),
    };
    map.finish();
    Some(ConsoleProbe::Ask { port: port?, login: login?, shell: shell?, dialogue: dialogue? })
}

fn read_dialogue(node: &Node, notes: &Notes) -> Option<Vec<Exchange>> {
    let items = node.list(notes)?;
    if items.is_empty() {
        notes.note(Problem::new(node.span.clone(), "nobody speaks", "an empty list"));
        return None;
    }
    let exchanges: Vec<Option<Exchange>> = items
        .iter()
        .map(|item| {
            let mut map = item.map(notes)?;
            let exchange = read_exchange(&mut map, notes);
            map.finish();
            exchange
        })
        .collect();
    exchanges.into_iter().collect()
}

fn read_exchange(map: &mut Map<'_>, notes: &Notes) -> Option<Exchange> {
    let send = map.required_node("send").and_then(|node| line(node, notes));
    let expect_node = map.required_node("expect");
    let expect = expect_node.and_then(|node| Pattern::from_node(node, notes));
    let (send, expect, node) = (send?, expect?, expect_node?);
    if expect.find(send.as_bytes()).is_some() {
        let label = match expect {
            Pattern::Text(_) => "this stands in `send`, too",
            Pattern::Regex(_) => "this matches what is sent, too",
        };
        let problem =
            Problem::new(node.span.clone(), "a dead console would pass this probe", label);
        notes.note(problem.help(
            "a console echoes what is typed: expect a text that only a running command can print",
        ));
    }
    Some(Exchange { send, expect })
}

fn read_login(node: &Node, notes: &Notes) -> Option<Login> {
    let mut map = node.map(notes)?;
    let user = map.required("user");
    let password = match map.node("password") {
        Some(node) => read_password(node, notes).map(Some),
        None => Some(None),
    };
    map.finish();
    Some(Login { user: user?, password: password? })
}

fn read_password(node: &Node, notes: &Notes) -> Option<Credential> {
    if let Value::Map(_) = node.value {
        return Credential::from_node(node, notes);
    }
    let message = "a password does not belong into a scenario";
    let problem = Problem::new(node.span.clone(), message, "anybody who reads the file has it");
    notes.note(problem.help("say  password: { secret: NAME }  and let the binding name its file"));
    None
}

impl FromNode for Credential {
    const EXPECTED: &'static str = "text or `{ secret: NAME }`";

    fn from_node(node: &Node, notes: &Notes) -> Option<Self> {
        if let Value::Map(_) = node.value {
            let mut map = node.map(notes)?;
            let secret = map.required("secret");
            map.finish();
            return secret.map(Self::Secret);
        }
        line(node, notes).map(Self::Plain)
    }
}

impl FromNode for SecretName {
    const EXPECTED: &'static str =
        "the name of a secret: 1 to 64 of a-z, A-Z, 0-9, `-`, `_` and `.`";

    fn from_node(node: &Node, notes: &Notes) -> Option<Self> {
        parsed(node, notes, Self::new)
    }
}

// === log, disk, agent ===

fn read_log(node: &Node, notes: &Notes) -> Option<LogProbe> {
    let kind = tag(node, notes, "question to the log", &["label", "never"])?;
    let mut map = node.map(notes)?;
    let probe = if kind == "label" {
        let label = map.node("label").and_then(|node| words(node, notes));
        let within = time(&mut map, notes, "within");
        label.zip(within).map(|(label, within)| LogProbe::Label { label, within })
    } else {
        map.node("never").and_then(|node| read_never(node, notes)).map(LogProbe::Never)
    };
    map.finish();
    probe
}

fn read_never(node: &Node, notes: &Notes) -> Option<Vec<Pattern>> {
    let items = node.list(notes)?;
    if items.is_empty() || items.len() > PROBES {
        let message = format!("1 to {PROBES} lines are expected here");
        notes.note(Problem::new(node.span.clone(), message, format!("{} of them", items.len())));
        return None;
    }
    let patterns: Vec<Option<Pattern>> =
        items.iter().map(|item| Pattern::from_node(item, notes)).collect();
    patterns.into_iter().collect()
}

fn read_disk(node: &Node, notes: &Notes) -> Option<DiskProbe> {
    let kind = tag(node, notes, "question to the disk", &["written-within", "heartbeat"])?;
    let mut map = node.map(notes)?;
    let probe = if kind == "written-within" {
        let within = time(&mut map, notes, "written-within");
        let device = match map.node("device") {
            Some(node) => words(node, notes).map(Some),
            None => Some(None),
        };
        within.zip(device).map(|(within, device)| DiskProbe::Written { device, within })
    } else {
        map.node("heartbeat").and_then(|node| read_heartbeat(node, notes))
    };
    map.finish();
    probe
}

fn read_heartbeat(node: &Node, notes: &Notes) -> Option<DiskProbe> {
    let mut map = node.map(notes)?;
    let device = map.required_node("device").and_then(|node| words(node, notes));
    let within = time(&mut map, notes, "within");
    map.finish();
    Some(DiskProbe::Heartbeat { device: device?, within: within? })
}

fn read_agent(node: &Node, notes: &Notes) -> Option<AgentProbe> {
    let tags = ["ping", "info", "exec"];
    let (kind, node) = only(node, notes, "question to the guest agent", &tags)?;
    match kind {
        "ping" => nothing(node, notes).map(|()| AgentProbe::Ping),
        "info" => nothing(node, notes).map(|()| AgentProbe::Info),
        _ => {
            let command: Vec<String> = Vec::from_node(node, notes)?;
            if command.first().is_none_or(String::is_empty) {
                let problem = Problem::new(node.span.clone(), "no command", "an empty list");
                notes.note(problem.help("for example  exec: [\"/usr/bin/true\"]"));
                return None;
            }
            Some(AgentProbe::Exec { command })
        }
    }
}

// === network ===

fn read_network(node: &Node, notes: &Notes) -> Option<NetworkProbe> {
    let tags = ["ping", "arp", "tcp", "closed", "http", "https"];
    let kind = tag(node, notes, "question over the network", &tags)?;
    let mut map = node.map(notes)?;
    let value = map.node(kind)?;
    let probe = match kind {
        "ping" => nothing(value, notes).map(|()| NetworkProbe::Ping),
        "arp" => nothing(value, notes).map(|()| NetworkProbe::Arp),
        "tcp" => read_tcp(&mut map, notes, value),
        "closed" => port(value, notes).map(|port| NetworkProbe::Closed { port }),
        _ => read_http(&mut map, notes, value, kind == "https").map(NetworkProbe::Http),
    };
    map.finish();
    probe
}

fn read_tcp(map: &mut Map<'_>, notes: &Notes, value: &Node) -> Option<NetworkProbe> {
    let port = port(value, notes);
    let expect = optional(map, notes, "expect");
    let node = map.node("send");
    let send: Option<Option<String>> = optional(map, notes, "send");
    if let Some(node) = node.filter(|_| map.node("expect").is_none()) {
        let problem = Problem::new(node.span.clone(), "`expect` is missing", "nobody would listen");
        notes.note(problem.help("say what the server must answer to that"));
    }
    Some(NetworkProbe::Tcp { port: port?, send: send?, expect: expect? })
}

fn read_http(map: &mut Map<'_>, notes: &Notes, value: &Node, tls: bool) -> Option<HttpProbe> {
    let target = read_target(value, notes);
    let host = match map.node("host") {
        Some(node) => read_host(node, notes).map(Some),
        None => Some(None),
    };
    let status = match map.node("status") {
        Some(node) => read_status(node, notes).map(Some),
        None => Some(None),
    };
    let expect = optional(map, notes, "expect");
    let certificate_valid_for = if tls && map.node("certificate-valid-for").is_some() {
        time(map, notes, "certificate-valid-for").map(Some)
    } else {
        Some(None)
    };
    let (port, path) = target?;
    Some(HttpProbe {
        tls,
        port,
        path,
        host: host?,
        status: status?,
        expect: expect?,
        certificate_valid_for: certificate_valid_for?,
    })
}

fn read_target(node: &Node, notes: &Notes) -> Option<(u16, String)> {
    let target = |text: &str| {
        let (port, path) = text.strip_prefix(':')?.split_once('/')?;
        let port: u16 = port.parse().ok().filter(|port| *port > 0)?;
        let plain = path.bytes().all(|byte| byte.is_ascii_graphic());
        (plain && path.len() < TEXT).then(|| (port, format!("/{path}")))
    };
    let found = if let Value::Text(text) = &node.value { target(text) } else { None };
    if found.is_none() {
        let message = "a port and a path such as `:8080/health` are expected here";
        let label = "the address is that of the app";
        notes.note(Problem::new(node.span.clone(), message, label));
    }
    found
}

fn read_host(node: &Node, notes: &Notes) -> Option<String> {
    let host = words(node, notes)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | ':' | '_');
    if !host.chars().all(plain) {
        let label = "letters, digits, `-` and `.`";
        notes.note(Problem::new(node.span.clone(), "this is no name of a server", label));
        return None;
    }
    Some(host)
}

fn read_status(node: &Node, notes: &Notes) -> Option<u16> {
    let status = u32::from_node(node, notes)?;
    let found = u16::try_from(status).ok().filter(|status| (100..600).contains(status));
    if found.is_none() {
        let label = "from 100 to 599";
        notes.note(Problem::new(node.span.clone(), "this is no status of HTTP", label));
    }
    found
}

// === what is common ===

fn optional<T: FromNode>(map: &mut Map<'_>, notes: &Notes, key: &'static str) -> Option<Option<T>> {
    match map.node(key) {
        Some(node) => T::from_node(node, notes).map(Some),
        None => Some(None),
    }
}

/// `{}`, where a question needs no more words.
fn nothing(node: &Node, notes: &Notes) -> Option<()> {
    let fine = matches!(&node.value, Value::Map(entries) if entries.is_empty());
    if !fine {
        notes.expected(node, "`{}`");
    }
    fine.then_some(())
}

/// A time that is not nothing, which must be there.
fn time(map: &mut Map<'_>, notes: &Notes, key: &'static str) -> Option<Duration> {
    let node = map.required_node(key)?;
    let value = Duration::from_node(node, notes)?;
    if value.is_zero() {
        let message = format!("`{key}` is too short");
        notes.note(Problem::new(node.span.clone(), message, "nothing happens in no time"));
        return None;
    }
    Some(value)
}

fn port(node: &Node, notes: &Notes) -> Option<u16> {
    let port = if let Value::Int(port) = &node.value { u16::try_from(*port).ok() } else { None };
    let port = port.filter(|port| *port > 0);
    if port.is_none() {
        notes.expected(node, "a port from 1 to 65535");
    }
    port
}

fn yes_or_no(node: &Node, notes: &Notes) -> Option<bool> {
    let value = if let Value::Bool(value) = &node.value { Some(*value) } else { None };
    if value.is_none() {
        notes.expected(node, "`true` or `false`");
    }
    value
}

/// Text that is not empty and was written by hand.
fn words(node: &Node, notes: &Notes) -> Option<String> {
    let text = line(node, notes)?;
    if text.is_empty() {
        let label = "an empty text is everywhere";
        notes.note(Problem::new(node.span.clone(), "some text is expected here", label));
        return None;
    }
    Some(text)
}

/// One line, perhaps an empty one.
fn line(node: &Node, notes: &Notes) -> Option<String> {
    let text = String::from_node(node, notes)?;
    if text.len() > TEXT {
        let label = format!("{} bytes, {TEXT} at most", text.len());
        notes.note(Problem::new(node.span.clone(), "this text is too long", label));
        return None;
    }
    if text.contains(['\n', '\r']) {
        let problem =
            Problem::new(node.span.clone(), "one line is expected here", "it has several");
        notes.note(problem.help("the end of the line is typed without being written"));
        return None;
    }
    Some(text)
}

impl FromNode for Pattern {
    const EXPECTED: &'static str = "text or `{ regex: \"..\" }`";

    fn from_node(node: &Node, notes: &Notes) -> Option<Self> {
        match &node.value {
            Value::Text(_) => words(node, notes).map(Self::Text),
            Value::Map(_) => {
                let mut map = node.map(notes)?;
                let node = map.required_node("regex");
                map.finish();
                let node = node?;
                let text = words(node, notes)?;
                let compiled = Self::regex(&text);
                if let Err(refused) = &compiled {
                    let message = "this regular expression is refused";
                    let label = refused.to_string();
                    notes.note(Problem::new(node.span.clone(), message, label));
                }
                compiled.ok()
            }
            Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::List(_) => {
                notes.expected(node, Self::EXPECTED);
                None
            }
        }
    }
}
