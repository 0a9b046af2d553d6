//! The words for what may be collected from an app that failed.

use super::consent::Consent;

/// One thing to collect.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// The hypervisor's process as the host sees it.
    Host,
    /// The tail of what the guest wrote to its console.
    Console,
    /// What its kernel wrote into files of the host's when it died.
    Records,
    /// The guest's kernel, read out of its memory.
    Memory,
    /// One question to the hypervisor's monitor.
    Qmp(Query),
    /// What the guest's SysRq lacks for its keys to be answered, set in its memory for so long.
    LendSysrq,
    /// One press of the guest's magic key.
    Sysrq(Action),
    /// The guest's kernel, read by a debugger while the guest stands still.
    Debugger,
    /// All of its memory, into a file on the device.
    Dump,
    /// One non-maskable interrupt, and what it makes of that.
    Nmi,
}

/// What the monitor is asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Query {
    /// Run state.
    Status,
    /// vCPUs and their host threads.
    Cpus,
    /// Registers and interrupt controllers of all vCPUs, twice.
    Registers,
    /// Block devices, their counters and their queues, twice.
    Blocks,
    /// Version, kind and size of the machine.
    Machine,
    /// The lines to the guest, and whether it has opened them.
    Chardevs,
    /// Whether it is on its way to another host.
    Migration,
    /// Memory that the guest gave back, and what it tells of the rest.
    Balloon,
    /// The devices that it was given.
    Devices,
    /// Interrupts by their number, and the controllers that all CPUs share.
    Interrupts,
    /// Virtio devices and what they have not completed.
    Virtio,
    /// A picture of what it shows.
    Screenshot,
}

/// A SysRq action by the kernel's own name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Action {
    /// `w`
    BlockedTasks,
    /// `l`
    BacktraceAllActiveCpus,
    /// `t`
    TaskStates,
    /// `m`
    MemoryUsage,
    /// `z`
    DumpFtraceBuffer,
    /// `q`
    Timers,
    /// `d`, of kernels that are built to prove their locking
    Locks,
    /// `p`, of the CPU that takes the key
    Registers,
}

impl Step {
    /// What it takes.
    #[must_use]
    pub fn consent(self) -> Consent {
        match self {
            Self::Console | Self::Records => Consent::Observe,
            Self::Host | Self::Memory | Self::Qmp(_) => Consent::Query,
            Self::LendSysrq | Self::Sysrq(_) => Consent::Input,
            Self::Debugger | Self::Dump => Consent::Pause,
            Self::Nmi => Consent::Nmi,
        }
    }

    /// Its name in a manifest.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Host => "host".to_owned(),
            Self::Console => "console".to_owned(),
            Self::Records => "records".to_owned(),
            Self::Memory => "memory".to_owned(),
            Self::Qmp(query) => format!("qmp {}", query.word()),
            Self::LendSysrq => "lend-sysrq".to_owned(),
            Self::Sysrq(action) => format!("sysrq {}", action.word()),
            Self::Debugger => "debugger".to_owned(),
            Self::Dump => "dump".to_owned(),
            Self::Nmi => "nmi".to_owned(),
        }
    }
}

impl Query {
    /// All of them, in the order in which they are best asked.
    pub const ALL: [Self; 12] = [
        Self::Status,
        Self::Cpus,
        Self::Registers,
        Self::Blocks,
        Self::Machine,
        Self::Chardevs,
        Self::Migration,
        Self::Balloon,
        Self::Devices,
        Self::Interrupts,
        Self::Virtio,
        Self::Screenshot,
    ];

    /// The word in a scenario.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Cpus => "cpus",
            Self::Registers => "registers",
            Self::Blocks => "blocks",
            Self::Machine => "machine",
            Self::Chardevs => "chardevs",
            Self::Migration => "migration",
            Self::Balloon => "balloon",
            Self::Devices => "devices",
            Self::Interrupts => "interrupts",
            Self::Virtio => "virtio",
            Self::Screenshot => "screenshot",
        }
    }
}

impl Action {
    /// All of them, by worth per byte.
    pub const ALL: [Self; 8] = [
        Self::BacktraceAllActiveCpus,
        Self::BlockedTasks,
        Self::Locks,
        Self::MemoryUsage,
        Self::DumpFtraceBuffer,
        Self::TaskStates,
        Self::Timers,
        Self::Registers,
    ];

    /// The word in a scenario: the kernel's own name for the key.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::BlockedTasks => "blocked-tasks",
            Self::BacktraceAllActiveCpus => "backtrace-all-active-cpus",
            Self::TaskStates => "task-states",
            Self::MemoryUsage => "memory-usage",
            Self::DumpFtraceBuffer => "dump-ftrace-buffer",
            Self::Timers => "timers",
            Self::Locks => "locks",
            Self::Registers => "registers",
        }
    }

    /// The key.
    #[must_use]
    pub fn key(self) -> u8 {
        match self {
            Self::BlockedTasks => b'w',
            Self::BacktraceAllActiveCpus => b'l',
            Self::TaskStates => b't',
            Self::MemoryUsage => b'm',
            Self::DumpFtraceBuffer => b'z',
            Self::Timers => b'q',
            Self::Locks => b'd',
            Self::Registers => b'p',
        }
    }
}
