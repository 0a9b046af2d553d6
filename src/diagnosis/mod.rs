//! Evidence in; class, subject, title, signature, blame, and the facts for and against out.
//!
//! The same engine runs on the device and on the controller. It never looks at anything but the
//! evidence that it is given, and says how sure it is.
//!
//! ```text
//! Evidence --> judges, the surest first --> the first Finding that is no guess --> Diagnosis, signed
//!                                           (none: the first guess, or silence)
//! ```
//!
//! A judge knows one way to fail. It takes all the evidence, weighs what speaks for it and against
//! it, and keeps silent when this is not what happened.

mod cpu;
mod deadlock;
mod disk;
mod functions;
mod holders;
mod host;
mod life;
mod log;
mod memory;
mod record;
mod say;
mod signature;
mod task;
mod userspace;
mod vmm;
mod waiter;

use crate::base::rung::Answer;
use crate::evidence::Evidence;
use std::fmt;

/// What happened, to whom, and why we think so.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Diagnosis {
    /// What happened, out of a closed list.
    pub class: Class,
    /// The guilty function or resource; empty when the evidence names none.
    pub subject: String,
    /// One line for an operator.
    pub title: String,
    /// `v1:<class>:<subject>:<hash8>`: what groups incidents of one cause.
    pub signature: String,
    /// Whose fault.
    pub blame: Blame,
    /// How sure.
    pub confidence: Confidence,
    /// Facts that speak for it, as sentences.
    pub facts_for: Vec<String>,
    /// Facts that speak against it.
    pub facts_against: Vec<String>,
}

/// What may have happened.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Class {
    /// The hypervisor's process is gone.
    VmmGone,
    /// The hypervisor's process is stopped, or the host does not let it go on.
    VmmStopped,
    /// Somebody paused the guest.
    Paused,
    /// The kernel panicked.
    Panic,
    /// The kernel oopsed and went on.
    Oops,
    /// A CPU spins with interrupts off.
    HardLockup,
    /// A CPU spins in the kernel with interrupts on.
    SoftLockup,
    /// Tasks wait for each other's locks.
    Deadlock,
    /// Tasks wait for what never comes, or for a disk that fails.
    HungTask,
    /// The kernel lives, but no process answers.
    UserspaceDead,
    /// Nothing answers and nothing tells why.
    Silent,
}

/// Whose fault.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Blame {
    /// The guest's kernel.
    GuestKernel,
    /// A process of the guest.
    GuestUserspace,
    /// The hypervisor or whoever controls it.
    Vmm,
    /// The host: its CPUs, memory, disks.
    Host,
    /// Not known.
    Unknown,
}

/// How sure.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Confidence {
    /// A guess.
    Low,
    /// One good fact.
    Medium,
    /// Several facts from independent sources, none against.
    High,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::VmmGone,
        Self::VmmStopped,
        Self::Paused,
        Self::Panic,
        Self::Oops,
        Self::HardLockup,
        Self::SoftLockup,
        Self::Deadlock,
        Self::HungTask,
        Self::UserspaceDead,
        Self::Silent,
    ];

    /// The word for it in signatures, filters and metrics.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::VmmGone => "vmm-gone",
            Self::VmmStopped => "vmm-stopped",
            Self::Paused => "paused",
            Self::Panic => "panic",
            Self::Oops => "oops",
            Self::HardLockup => "hard-lockup",
            Self::SoftLockup => "soft-lockup",
            Self::Deadlock => "deadlock",
            Self::HungTask => "hung-task",
            Self::UserspaceDead => "userspace-dead",
            Self::Silent => "silent",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl Blame {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::GuestKernel, Self::GuestUserspace, Self::Vmm, Self::Host, Self::Unknown];

    /// The words for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::GuestKernel => "guest kernel",
            Self::GuestUserspace => "guest userspace",
            Self::Vmm => "vmm",
            Self::Host => "host",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Blame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl fmt::Display for Confidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        })
    }
}

/// Who judges, in order; the first that finds something is believed, unless it is a mere guess and
/// a later one knows better.
const JUDGES: &[fn(&Evidence) -> Option<Finding>] = &[
    // A guest cannot live without its hypervisor, so whatever else was seen follows from it.
    vmm::gone,
    vmm::stopped,
    host::frozen,
    vmm::paused,
    // A kernel that says that it gave up has done so, and everything else is its consequence.
    log::panic,
    record::panic,
    cpu::panic,
    // Of a CPU that does not get to run, registers and clocks tell what no guest did.
    host::stuck,
    host::starved,
    // A CPU that takes no interrupts holds up the others, their tasks and their locks.
    memory::hard_lockup,
    cpu::hard_lockup,
    memory::soft_lockup,
    cpu::soft_lockup,
    // A task that died in the kernel took its locks with it: who waits for them is a victim.
    log::oops,
    record::oops,
    // Who holds a lock is known from memory, and guessed from stacks.
    memory::deadlock,
    memory::frozen,
    // What the host does not complete keeps tasks waiting, and those that wait for their locks.
    disk::stalled,
    memory::disk,
    // Those of a ring block each other and everybody else.
    deadlock::deadlock,
    memory::held,
    task::hung,
    host::disk,
    // Nothing is wrong with the kernel.
    memory::stopped,
    memory::busy,
    memory::killed,
    disk::fails,
    userspace::dead,
    log::survived,
    log::stall,
];

/// What a judge found.
struct Finding {
    class: Class,
    subject: String,
    /// The next callers, normalised.
    callers: Vec<String>,
    title: String,
    blame: Blame,
    confidence: Confidence,
    facts_for: Vec<String>,
    facts_against: Vec<String>,
}

/// Says what happened.
#[must_use]
pub fn diagnose(evidence: &Evidence) -> Diagnosis {
    let answers = life::guest(evidence).is_some();
    let judged = JUDGES.iter().filter_map(|judge| judge(evidence));
    let mut findings: Vec<Finding> =
        judged.filter(|finding| !(answers && finding.guesses_a_hang())).collect();
    findings.push(silent(evidence));
    let sure = findings.iter().position(|finding| finding.confidence > Confidence::Low);
    let mut finding = findings.swap_remove(sure.unwrap_or_default());
    if finding.confidence == Confidence::Low && finding.blame != Blame::Host {
        finding.facts_for.extend(host::remarks(evidence));
    }
    finding.facts_for.extend(vmm::watchdog(evidence));
    finding.facts_for.extend(probes(evidence));
    finding.facts_for.extend(record::history(evidence));
    finding.facts_for.extend(cpu::took_nmi(evidence));
    Diagnosis {
        signature: signature::of(finding.class, &finding.subject, &finding.callers),
        class: finding.class,
        subject: finding.subject,
        title: finding.title,
        blame: finding.blame,
        confidence: finding.confidence,
        facts_for: finding.facts_for,
        facts_against: finding.facts_against,
    }
}

impl Finding {
    fn new(class: Class, blame: Blame, confidence: Confidence) -> Self {
        Self {
            class,
            subject: String::new(),
            callers: Vec::new(),
            title: String::new(),
            blame,
            confidence,
            facts_for: Vec::new(),
            facts_against: Vec::new(),
        }
    }

    /// Whether it says of one look that something hangs: a task that syncs looks so for a moment. A guest
    /// that answers whatever it is asked refutes it.
    fn guesses_a_hang(&self) -> bool {
        let hangs = matches!(
            self.class,
            Class::HardLockup
                | Class::SoftLockup
                | Class::Deadlock
                | Class::HungTask
                | Class::UserspaceDead
        );
        hangs && self.confidence == Confidence::Low
    }
}

/// No judge found anything.
fn silent(evidence: &Evidence) -> Finding {
    let mut finding = Finding::new(Class::Silent, Blame::Unknown, Confidence::Low);
    finding.title = "nothing answers, and nothing tells why".to_owned();
    if let Some(life) = life::guest(evidence) {
        finding.title = "nothing is known to be wrong: the guest answers".to_owned();
        finding.facts_against.push(life);
    } else if let Some(life) = life::kernel(evidence) {
        finding.title = "nothing is known to be wrong: no evidence tells what failed".to_owned();
        finding.facts_against.push(life);
    }
    if let Some(well) = memory::well(evidence) {
        finding.title = "nothing is known to be wrong".to_owned();
        finding.facts_for.push(well);
    }
    if evidence.sysrq.silent() {
        finding.facts_for.push("the kernel did not answer SysRq".to_owned());
    }
    finding.facts_for.extend(cpu::summary(evidence));
    finding
}

/// What the probes of the last round said that was not alive.
fn probes(evidence: &Evidence) -> impl Iterator<Item = String> {
    let failed = life::last_round(evidence).iter().filter(|probe| probe.answer != Answer::Alive);
    failed.map(|probe| {
        let (name, reason) = (say::quoted(&probe.name), say::quoted(&probe.reason));
        format!("probe {name}: {}, {reason}", probe.answer)
    })
}

#[cfg(test)]
mod tests;
