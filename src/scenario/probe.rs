//! What can be asked, over which transport, what an answer proves and what it takes to ask.

use crate::base::consent::Consent;
use crate::base::pattern::Pattern;
use crate::base::rung::Rung;
use std::fmt;
use std::time::Duration;

/// One question.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Probe {
    /// Over a console.
    Console(ConsoleProbe),
    /// Of what was written anyway.
    Log(LogProbe),
    /// Of a disk.
    Disk(DiskProbe),
    /// Over the network.
    Network(NetworkProbe),
    /// Of the guest agent.
    Agent(AgentProbe),
    /// Of the virtual processors.
    Vcpu,
}

/// Over a console.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ConsoleProbe {
    /// Lines are typed, each is to be answered.
    Ask {
        /// Which console.
        port: Port,
        /// Who logs in, where it asks for that.
        login: Option<Login>,
        /// Whether a shell listens, so that every question can be marked and an answer to an earlier
        /// one is told from the answer to this one.
        shell: bool,
        /// What is said, at least one.
        dialogue: Vec<Exchange>,
    },
    /// Nothing is typed; something must be written from time to time.
    Silence {
        /// Which console.
        port: Port,
        /// Silent for so long is dead.
        after: Duration,
    },
}

/// A line and its answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Exchange {
    /// The line that is typed, without its end.
    pub send: String,
    /// What must appear in what comes back.
    pub expect: Pattern,
}

/// Which of a guest's consoles.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Port {
    /// The app's own.
    #[default]
    App,
    /// The shell of EVE's shim that runs a container, hvc1.
    Shim,
}

/// Who logs in.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Login {
    /// The name.
    pub user: Credential,
    /// The password, if one is asked for. Never a plain one.
    pub password: Option<Credential>,
}

/// A word that may have to be looked up.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Credential {
    /// As it stands in the scenario.
    Plain(String),
    /// The name of a secret; the binding says where it is kept.
    Secret(SecretName),
}

/// The name of a secret: 1 to 64 of `a-z`, `A-Z`, `0-9`, `-`, `_` and `.`.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct SecretName(String);

/// Of what was written anyway, to the console or to the app's log.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum LogProbe {
    /// A label must come by from time to time.
    Label {
        /// The text.
        label: String,
        /// How long it may be missing.
        within: Duration,
    },
    /// Lines that must not come. Their absence proves nothing and is *unknown*.
    Never(Vec<Pattern>),
}

/// Of a disk.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum DiskProbe {
    /// The counters of writes move.
    Written {
        /// Of this disk alone, as the hypervisor calls it; else of any.
        device: Option<String>,
        /// How long they may stand.
        within: Duration,
    },
    /// The guest renews a record on a disk of its own.
    Heartbeat {
        /// The disk, as the guest calls it.
        device: String,
        /// How old the record may be.
        within: Duration,
    },
}

/// Over the network, at the address at which the app was found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum NetworkProbe {
    /// An ICMP echo.
    Ping,
    /// Who has this address?
    Arp,
    /// A connection. Without a banner it proves the kernel alone, which accepts for a dead server.
    Tcp {
        /// The port.
        port: u16,
        /// What a server that does not speak first is told.
        send: Option<String>,
        /// What the server says.
        expect: Option<Pattern>,
    },
    /// A port on which nobody listens: the kernel's refusal proves that it lives.
    Closed {
        /// The port.
        port: u16,
    },
    /// A GET.
    Http(HttpProbe),
}

/// A GET.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HttpProbe {
    /// Over TLS. Who the server claims to be is not checked: it is asked by its address.
    pub tls: bool,
    /// The port.
    pub port: u16,
    /// The path, with its `/`.
    pub path: String,
    /// The name of the server, if it goes by one.
    pub host: Option<String>,
    /// The status; any from 200 to 399 if it is not said.
    pub status: Option<u16>,
    /// What must be in the body.
    pub expect: Option<Pattern>,
    /// How long the certificate must still be valid.
    pub certificate_valid_for: Option<Duration>,
}

/// Of the guest agent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum AgentProbe {
    /// Does it answer?
    Ping,
    /// What does it offer?
    Info,
    /// A command that must end with 0.
    Exec {
        /// The program and its arguments.
        command: Vec<String>,
    },
}

/// The way that a question takes.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Transport {
    /// Typing on a console, and what it writes.
    Console,
    /// What was written anyway.
    Log,
    /// The hypervisor's block devices.
    Disk,
    /// The app's network.
    Network,
    /// The guest agent's channel.
    Agent,
    /// The hypervisor's virtual processors.
    Vcpu,
}

// === impl Probe ===

impl Probe {
    /// Its name where answers are shown and recorded.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Console(ConsoleProbe::Ask { .. }) => "console",
            Self::Console(ConsoleProbe::Silence { .. }) => "silence",
            Self::Log(LogProbe::Label { .. }) => "label",
            Self::Log(LogProbe::Never(_)) => "never",
            Self::Disk(DiskProbe::Written { .. }) => "written",
            Self::Disk(DiskProbe::Heartbeat { .. }) => "heartbeat",
            Self::Network(NetworkProbe::Ping) => "ping",
            Self::Network(NetworkProbe::Arp) => "arp",
            Self::Network(NetworkProbe::Tcp { .. }) => "tcp",
            Self::Network(NetworkProbe::Closed { .. }) => "closed",
            Self::Network(NetworkProbe::Http(HttpProbe { tls: false, .. })) => "http",
            Self::Network(NetworkProbe::Http(HttpProbe { tls: true, .. })) => "https",
            Self::Agent(AgentProbe::Ping) => "agent-ping",
            Self::Agent(AgentProbe::Info) => "agent-info",
            Self::Agent(AgentProbe::Exec { .. }) => "agent-exec",
            Self::Vcpu => "vcpu",
        }
    }

    /// Whether it says that the app's console has a shell which nobody has to log in to.
    #[must_use]
    pub fn has_shell(&self) -> bool {
        matches!(
            self,
            Self::Console(ConsoleProbe::Ask { port: Port::App, login: None, shell: true, .. })
        )
    }

    /// The way that it takes.
    #[must_use]
    pub fn transport(&self) -> Transport {
        match self {
            Self::Console(_) => Transport::Console,
            Self::Log(_) => Transport::Log,
            Self::Disk(_) => Transport::Disk,
            Self::Network(_) => Transport::Network,
            Self::Agent(_) => Transport::Agent,
            Self::Vcpu => Transport::Vcpu,
        }
    }

    /// The rung that an answer proves. Where it could be one of two, it is the one that claims
    /// less: a kernel writes to a console when no process runs any more.
    #[must_use]
    pub fn rung(&self) -> Rung {
        match self {
            Self::Vcpu => Rung::Vcpu,
            Self::Console(ConsoleProbe::Silence { .. })
            | Self::Network(
                NetworkProbe::Ping
                | NetworkProbe::Arp
                | NetworkProbe::Closed { .. }
                | NetworkProbe::Tcp { expect: None, .. },
            ) => Rung::Kernel,
            Self::Console(ConsoleProbe::Ask { .. })
            | Self::Log(LogProbe::Label { .. })
            | Self::Agent(_) => Rung::Userspace,
            Self::Disk(_) => Rung::Storage,
            Self::Log(LogProbe::Never(_))
            | Self::Network(NetworkProbe::Tcp { expect: Some(_), .. } | NetworkProbe::Http(_)) => {
                Rung::Service
            }
        }
    }

    /// Whether its *dead* needs no second witness, for it is something said and not a silence, or
    /// is read where nothing stands between us and the guest.
    #[must_use]
    pub fn is_conclusive(&self) -> bool {
        matches!(self, Self::Vcpu | Self::Log(LogProbe::Never(_)))
    }

    /// Whether its silence is a witness. Lines that must not come say something or are unknown, and
    /// the virtual processors are looked at in any case.
    #[must_use]
    pub fn is_witness(&self) -> bool {
        !self.is_conclusive()
    }

    /// What must be allowed for it to be asked.
    #[must_use]
    pub fn consent(&self) -> Consent {
        match self {
            Self::Console(ConsoleProbe::Silence { .. }) | Self::Log(_) => Consent::Observe,
            Self::Disk(_)
            | Self::Network(_)
            | Self::Agent(AgentProbe::Ping | AgentProbe::Info)
            | Self::Vcpu => Consent::Query,
            Self::Console(ConsoleProbe::Ask { .. }) | Self::Agent(AgentProbe::Exec { .. }) => {
                Consent::Input
            }
        }
    }

    /// Whether it waits for an answer, as opposed to reading what is there already.
    #[must_use]
    pub fn waits(&self) -> bool {
        matches!(self, Self::Console(ConsoleProbe::Ask { .. }) | Self::Network(_) | Self::Agent(_))
    }

    /// How long what it looks at may have been dead before it says so, beyond the round itself.
    #[must_use]
    pub fn patience(&self) -> Duration {
        match self {
            Self::Console(ConsoleProbe::Silence { after: within, .. })
            | Self::Log(LogProbe::Label { within, .. })
            | Self::Disk(DiskProbe::Written { within, .. } | DiskProbe::Heartbeat { within, .. }) => {
                *within
            }
            Self::Console(ConsoleProbe::Ask { .. })
            | Self::Log(LogProbe::Never(_))
            | Self::Network(_)
            | Self::Agent(_)
            | Self::Vcpu => Duration::ZERO,
        }
    }

    /// The secrets that it needs.
    pub fn secrets(&self) -> impl Iterator<Item = &SecretName> {
        let login = match self {
            Self::Console(ConsoleProbe::Ask { login, .. }) => login.as_ref(),
            Self::Console(ConsoleProbe::Silence { .. })
            | Self::Log(_)
            | Self::Disk(_)
            | Self::Network(_)
            | Self::Agent(_)
            | Self::Vcpu => None,
        };
        let words =
            login.into_iter().flat_map(|login| [Some(&login.user), login.password.as_ref()]);
        words.flatten().filter_map(|word| match word {
            Credential::Secret(name) => Some(name),
            Credential::Plain(_) => None,
        })
    }
}

// === impl SecretName ===

impl SecretName {
    /// A name, if it is one.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let fine =
            (1..=64).contains(&text.len()) && text.chars().all(plain) && !text.starts_with('.');
        fine.then(|| Self(text.to_owned()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl Transport, Port ===

impl Transport {
    /// All of them, in the order in which they are best asked.
    pub const ALL: [Self; 6] =
        [Self::Console, Self::Log, Self::Disk, Self::Network, Self::Agent, Self::Vcpu];

    /// The witness that speaks over it. What breaks together is one: the console and what was
    /// written to it come from the same device.
    #[must_use]
    pub fn witness(self) -> Self {
        if self == Self::Log { Self::Console } else { self }
    }

    /// The word for it in a scenario.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Console => "console",
            Self::Log => "log",
            Self::Disk => "disk",
            Self::Network => "network",
            Self::Agent => "agent",
            Self::Vcpu => "vcpu",
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl Port {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::App, Self::Shim];

    /// The word for it in a scenario.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::App => "app",
            Self::Shim => "shim",
        }
    }
}
