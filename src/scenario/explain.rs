//! A scenario in words, for whoever has to answer for it.

use super::{
    AgentProbe, Budget, ConsoleProbe, Credential, DiskProbe, Event, Exchange, HttpProbe, LogProbe,
    Login, NetworkProbe, Pattern, Port, Probe, Recorder, Said, Scenario, Timing, Transport, When,
};
use crate::base::consent::Consent;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::Duration;

/// What will be asked when, what it takes, what follows, and how late an incident can be.
#[must_use]
pub fn explain(scenario: &Scenario) -> String {
    let mut text = format!("{}: {}\n", scenario.name(), scenario.summary());
    let mut part = |title: &str, lines: Vec<String>| {
        let _ = write!(text, "\n{title}\n");
        for line in lines {
            let _ = writeln!(text, "  {line}");
        }
    };
    part("When", when(scenario));
    part("What is asked, in this order, until one is alive", asked(scenario));
    part("What follows", follows(scenario));
    if let Some(recorder) = scenario.recorder() {
        part("What the guest records while it is well", recorded(recorder));
    }
    part("What it takes", takes(scenario));
    part("What is collected when it has failed", collected(scenario));
    text
}

impl Scenario {
    /// How long it takes at most from an app's death to its incident, if everything that is asked
    /// can be asked: the patience of the most patient probe, then the rounds that count, of which
    /// the last one takes its time.
    #[must_use]
    pub fn latest_incident(&self) -> Duration {
        let patience = self.probes.iter().map(Probe::patience).max().unwrap_or_default();
        let distance = match &self.when {
            When::Every(period) => *period,
            When::Cron(cron) => cron.longest(),
        };
        let rounds = distance.saturating_mul(self.timing.failure_threshold);
        patience.saturating_add(rounds).saturating_add(self.longest_round())
    }

    /// How long a round takes in which nobody answers.
    fn longest_round(&self) -> Duration {
        let waiting = self.probes.iter().filter(|probe| probe.waits()).count();
        let waiting = u32::try_from(waiting).unwrap_or(u32::MAX);
        self.timing.timeout.saturating_mul(waiting).min(self.timing.round_timeout)
    }
}

fn when(scenario: &Scenario) -> Vec<String> {
    let Timing { timeout, round_timeout, .. } = scenario.timing;
    let starts = match &scenario.when {
        When::Every(period) => format!("A round starts every {}.", Said(*period)),
        When::Cron(cron) => {
            let words = cron.describe();
            format!("A round starts by cron `{}`: {words}.", cron.as_str())
        }
    };
    let mut lines = vec![
        starts,
        format!("One question may take {}, a round {}.", Said(timeout), Said(round_timeout)),
    ];
    for window in &scenario.windows {
        let (words, lasts) = (window.cron.describe(), Said(window.lasts));
        lines.push(format!("No round for {lasts} from then on: {words}; {}.", window.why));
    }
    lines
}

fn asked(scenario: &Scenario) -> Vec<String> {
    let mut lines = Vec::new();
    for (index, probe) in scenario.probes.iter().enumerate() {
        lines.push(format!("{}. {}", index + 1, question(probe)));
        lines.push(format!("   {}", meaning(probe)));
    }
    lines
}

fn meaning(probe: &Probe) -> String {
    let (rung, consent) = (probe.rung(), probe.consent());
    match probe {
        Probe::Log(LogProbe::Never(_)) => {
            format!("Dead if one comes, and that is conclusive; else unknown. Takes `{consent}`.")
        }
        Probe::Vcpu => format!("Alive proves {rung} and settles nothing. Takes `{consent}`."),
        Probe::Console(_)
        | Probe::Log(LogProbe::Label { .. })
        | Probe::Disk(_)
        | Probe::Network(_)
        | Probe::Agent(_) => format!("Alive proves {rung}. Takes `{consent}`."),
    }
}

/// What a probe does, in a sentence.
#[must_use]
pub fn question(probe: &Probe) -> String {
    match probe {
        Probe::Console(probe) => console(probe),
        Probe::Log(LogProbe::Label { label, within }) => {
            format!("Looks for `{label}` in what the guest wrote in the last {}.", Said(*within))
        }
        Probe::Log(LogProbe::Never(lines)) => {
            let lines: Vec<String> = lines.iter().map(Pattern::to_string).collect();
            format!("Looks for lines that must not come: {}.", lines.join(", "))
        }
        Probe::Disk(DiskProbe::Written { device, within }) => {
            let disk =
                device.as_ref().map_or("a disk".to_owned(), |name| format!("the disk {name}"));
            let within = Said(*within);
            format!("Reads from the hypervisor whether {disk} was written in the last {within}.")
        }
        Probe::Disk(DiskProbe::Heartbeat { device, within }) => format!(
            "Reads whether the guest renewed the record on its disk {device} in the last {}.",
            Said(*within)
        ),
        Probe::Network(probe) => network(probe),
        Probe::Agent(AgentProbe::Ping) => "Asks the guest agent for a sign of life.".to_owned(),
        Probe::Agent(AgentProbe::Info) => "Asks the guest agent what it offers.".to_owned(),
        Probe::Agent(AgentProbe::Exec { command }) => {
            format!("Has the guest agent run `{}`, which must end with 0.", command.join(" "))
        }
        Probe::Vcpu => "Reads from the hypervisor whether the virtual processors run.".to_owned(),
    }
}

fn console(probe: &ConsoleProbe) -> String {
    let place = |port: &Port| match port {
        Port::App => "the console",
        Port::Shim => "the console of EVE's shim",
    };
    match probe {
        ConsoleProbe::Silence { port, after } => {
            format!("Listens whether {} was silent for {}.", place(port), Said(*after))
        }
        ConsoleProbe::Ask { port, login, dialogue, .. } => {
            let said = |exchange: &Exchange| {
                format!("types `{}` and waits for {}", exchange.send, exchange.expect)
            };
            let said: Vec<String> = dialogue.iter().map(said).collect();
            let login = login.as_ref().map_or(String::new(), logs_in);
            format!("On {}: {login}{}.", place(port), said.join(", then "))
        }
    }
}

fn logs_in(login: &Login) -> String {
    let word = |word: &Credential| match word {
        Credential::Plain(text) => format!("`{text}`"),
        Credential::Secret(name) => format!("the secret {name}"),
    };
    let user = word(&login.user);
    match &login.password {
        Some(password) => {
            format!("logs in as {user} with {} where asked to, then ", word(password))
        }
        None => format!("logs in as {user} where asked to, then "),
    }
}

fn network(probe: &NetworkProbe) -> String {
    match probe {
        NetworkProbe::Ping => "Pings the app.".to_owned(),
        NetworkProbe::Arp => "Asks the network who has the app's address.".to_owned(),
        NetworkProbe::Tcp { port, expect: None, .. } => {
            format!("Connects to port {port}, which the kernel accepts even for a dead server.")
        }
        NetworkProbe::Tcp { port, send, expect: Some(expect) } => {
            let send = send.as_ref().map_or(String::new(), |send| format!(", sends {send:?}"));
            format!("Connects to port {port}{send} and waits for {expect}.")
        }
        NetworkProbe::Closed { port } => {
            format!("Knocks at port {port}, where the kernel must say that nobody listens.")
        }
        NetworkProbe::Http(probe) => http(probe),
    }
}

fn http(probe: &HttpProbe) -> String {
    let HttpProbe { tls, port, path, host, status, expect, certificate_valid_for } = probe;
    let scheme = if *tls { "https" } else { "http" };
    let status = status.map_or("200 to 399".to_owned(), |status| status.to_string());
    let mut said = format!("Gets {scheme}://APP:{port}{path}");
    if let Some(host) = host {
        let _ = write!(said, " of the server {host}");
    }
    let _ = write!(said, " and wants the status {status}");
    if let Some(expect) = expect {
        let _ = write!(said, ", {expect} in the body");
    }
    if let Some(valid) = certificate_valid_for {
        let _ = write!(said, ", a certificate that is valid for another {}", Said(*valid));
    }
    said + "."
}

fn follows(scenario: &Scenario) -> Vec<String> {
    let Timing { failure_threshold, success_threshold, initial_delay, flap, .. } = scenario.timing;
    let witnesses = scenario.timing.witnesses;
    let mut all: BTreeSet<Transport> =
        scenario.probes.iter().map(|probe| probe.transport().witness()).collect();
    all.insert(Transport::Vcpu);
    let all: Vec<&str> = all.into_iter().map(Transport::word).collect();
    let by = if witnesses > 1 {
        format!(" and {witnesses} witnesses of {} agree, unless one is conclusive", all.join(", "))
    } else {
        String::new()
    };
    vec![
        "One alive answer makes a round alive. It is dead if none is alive and one is dead;"
            .to_owned(),
        "what cannot be asked is unknown and counts for nothing.".to_owned(),
        format!("Failed when {} dead{by}.", rounds(failure_threshold)),
        format!(
            "An incident begins {} after the app's death at the latest, if all can be asked.",
            Said(scenario.latest_incident())
        ),
        format!("Healthy again when {} alive.", rounds(success_threshold)),
        format!("Dead rounds count from {} after the app's start.", Said(initial_delay)),
        format!("{} changes within {} are told as flapping.", flap.changes, Said(flap.within)),
    ]
}

fn recorded(recorder: &Recorder) -> Vec<String> {
    let mut what: Vec<&str> = recorder.events.iter().map(Event::as_str).collect();
    if recorder.calls {
        what.push("every call of a function");
    }
    let kib = recorder.buffer_kib;
    vec![
        format!("{}; the last {kib}KiB of each CPU.", what.join(", ")),
        "It is told so when it is healthy, again when it has booted, and not if somebody else traces."
            .to_owned(),
        "Takes `input`.".to_owned(),
    ]
}

fn takes(scenario: &Scenario) -> Vec<String> {
    let consent = scenario.consent();
    let what = match consent {
        Consent::Observe => "it only reads what the guest emits anyway",
        Consent::Query => "it asks the hypervisor, the network and the agent, and types nothing",
        Consent::Input | Consent::Pause | Consent::Nmi | Consent::Reset => {
            "it types on a console, or runs a command in the guest"
        }
    };
    let mut lines = vec![format!("The consent `{consent}`: {what}.")];
    let secrets: Vec<&str> = scenario.secrets().into_iter().map(|name| name.as_str()).collect();
    if !secrets.is_empty() {
        lines.push(format!("The secrets {}: the binding says where they are.", secrets.join(", ")));
    }
    lines
}

fn rounds(count: u32) -> String {
    if count == 1 { "a round is".to_owned() } else { format!("{count} rounds in a row are") }
}

fn collected(scenario: &Scenario) -> Vec<String> {
    let mut lines = Vec::new();
    for consent in Consent::ALL {
        let steps = scenario.diagnose.iter().filter(|step| step.consent() == consent);
        let steps: Vec<String> = steps.map(|step| step.name()).collect();
        if !steps.is_empty() {
            lines.push(format!("With `{consent}`: {}.", steps.join(", ")));
        }
    }
    let Budget { time, bytes } = scenario.budget;
    let (number, unit) = match bytes {
        0 => (0, "B"),
        _ if bytes % (1 << 20) == 0 => (bytes >> 20, "MiB"),
        _ if bytes % (1 << 10) == 0 => (bytes >> 10, "KiB"),
        _ => (bytes, "B"),
    };
    lines.push(format!("In {} and {number}{unit} together.", Said(time)));
    lines
}
