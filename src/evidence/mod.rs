//! What was seen of an app that failed, as typed facts.
//!
//! A capture brings [`Artifact`]s: bytes, as they came. They are what is signed, sent and kept.
//! [`Evidence::read`] makes typed evidence of them, on the device and again on the controller, so
//! that a better parser reads an old bundle better. Parsers are total: rubbish gives no evidence,
//! never an error, and never more work than its length is worth.

pub mod ftrace;
pub mod host;
pub mod kernel_log;
pub mod line;
pub mod locks;
pub mod memory;
pub mod nmi;
pub mod pstore;
pub mod qmp;
#[cfg(test)]
pub(crate) mod recorded;
pub mod registers;
pub mod report;
pub mod rounds;
pub mod sysrq;
pub mod trace;
pub mod who;

use crate::base::text::harmless_line;

/// Bytes that a capture step brought.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Artifact {
    /// What they are.
    pub kind: Kind,
    /// Tells artifacts of a kind apart; empty where there is only one.
    pub name: String,
    /// As they came.
    pub data: Vec<u8>,
}

/// What an artifact is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    /// Bytes that the guest wrote to its console: the most recent, or by the name [`CONSOLE_FIRST`] its first.
    Console,
    /// Bytes that the guest wrote as the answer to one SysRq action, named by the artifact.
    Sysrq,
    /// JSON: [`qmp::Replies`].
    Qmp,
    /// JSON: [`host::Host`].
    Host,
    /// JSON: [`rounds::Rounds`].
    Rounds,
    /// JSON: [`memory::Memory`].
    Memory,
    /// JSON: [`pstore::Records`].
    Records,
    /// PNG: what the guest showed on its screen. Nothing is read out of it; it is for people.
    Screenshot,
    /// Bytes that the guest wrote after an NMI, or that its log had of it.
    Nmi,
    /// Written by a later version of this program.
    Other,
}

/// The name of the artifact that holds how a console began. It is for people: what went wrong then is over.
pub const CONSOLE_FIRST: &str = "first";

/// The name of the artifact that holds what the monitor showed once an NMI had been sent.
pub const AFTER_NMI: &str = "after-nmi";

/// All that is known of one incident.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// What the kernel said on the console, SysRq answers included.
    pub console: kernel_log::KernelLog,
    /// Answers to SysRq.
    pub sysrq: sysrq::Answers,
    /// The hypervisor's view.
    pub qmp: Option<qmp::Qmp>,
    /// The host's view.
    pub host: Option<host::Host>,
    /// The probes that led here.
    pub rounds: rounds::Rounds,
    /// The guest's own memory.
    pub memory: Option<memory::Memory>,
    /// What the kernel wrote outside of the guest when it died, now or earlier.
    pub records: pstore::Records,
    /// What it said to an NMI. A panic over that is no cause of anything.
    pub nmi: Option<nmi::Nmi>,
    /// The hypervisor's view after that.
    pub after_nmi: Option<qmp::Qmp>,
}

impl Artifact {
    /// What people call it: `console`, `sysrq-blocked-tasks`.
    #[must_use]
    pub fn label(&self) -> String {
        let kind = match self.kind {
            Kind::Console => "console",
            Kind::Sysrq => "sysrq",
            Kind::Qmp => "qmp",
            Kind::Host => "host",
            Kind::Rounds => "rounds",
            Kind::Memory => "memory",
            Kind::Records => "records",
            Kind::Screenshot => "screenshot",
            Kind::Nmi => "nmi",
            Kind::Other => "other",
        };
        let name = harmless_line(self.name.as_bytes());
        if name.is_empty() { kind.to_owned() } else { format!("{kind}-{name}") }
    }

    /// Cuts it to so many bytes, or fewer: half a JSON says nothing, and half a picture is none.
    pub fn cut_to(&mut self, bytes: usize) {
        match self.kind {
            Kind::Console | Kind::Sysrq | Kind::Nmi => self.data.truncate(bytes),
            Kind::Memory => {
                let memory = memory::Memory::read(&self.data).and_then(|memory| memory.fit(bytes));
                self.data = memory.map(|memory| memory.to_bytes()).unwrap_or_default();
            }
            Kind::Qmp
            | Kind::Host
            | Kind::Rounds
            | Kind::Records
            | Kind::Screenshot
            | Kind::Other => self.data.clear(),
        }
    }
}

impl Evidence {
    /// Reads what can be read of these artifacts.
    #[must_use]
    pub fn read(artifacts: &[Artifact]) -> Self {
        let mut evidence = Self::default();
        for artifact in artifacts {
            match artifact.kind {
                Kind::Console if artifact.name == CONSOLE_FIRST => {}
                Kind::Console => evidence.console = kernel_log::KernelLog::read(&artifact.data),
                Kind::Sysrq => evidence.sysrq.read(&artifact.name, &artifact.data),
                Kind::Qmp if artifact.name == AFTER_NMI => {
                    evidence.after_nmi = qmp::Qmp::read(&artifact.data);
                }
                Kind::Qmp => evidence.qmp = qmp::Qmp::read(&artifact.data),
                Kind::Host => evidence.host = host::Host::read(&artifact.data),
                Kind::Rounds => evidence.rounds = rounds::Rounds::read(&artifact.data),
                Kind::Memory => evidence.memory = memory::Memory::read(&artifact.data),
                Kind::Records => evidence.records = pstore::Records::read(&artifact.data),
                Kind::Nmi => evidence.nmi = nmi::Nmi::read(&artifact.data),
                Kind::Screenshot | Kind::Other => {}
            }
        }
        // What the kernel said is whole in its memory, whatever reached the console.
        if let Some(memory) = evidence.memory.as_ref().filter(|memory| !memory.log.is_empty()) {
            evidence.console = kernel_log::KernelLog::read(memory.log.as_bytes());
        }
        evidence
    }
}
