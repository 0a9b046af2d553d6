//! Collects the evidence of an incident, step by step.
//!
//! Steps run from the least disturbing to the most, whatever the order in which they were asked
//! for: what the guest said by itself and what its kernel left behind, the host's view, its memory, the
//! monitor's view, then keys that the guest has to answer, a debugger and a dump, for which it stands still,
//! and at last an interrupt over which it may die. A step that fails is reported with its reason and the
//! others go on; the budget ends the capture, never the agent. No step needs more consent than the app
//! gave, or it is not taken.
//!
//! Whenever a capture ends, even by a crash, the guest is as it was or is made so at the next start:
//! [`put_back`].

mod console_log;
mod debugger;
mod dump;
#[cfg(test)]
mod fake;
mod host;
pub mod memory;
mod monitor;
mod nmi;
mod no;
mod progress;
mod records;
mod sysrq;
mod undo;

pub use progress::{Progress, Tell};
pub use sysrq::Route;

use crate::base::consent::Consent;
use crate::base::step::{Action, Query, Step};
use crate::evidence::report::{Outcome, StepReport};
use crate::evidence::{Artifact, qmp};
use crate::spool::kept::Kept;
use crate::transport::log::History;
use progress::Meter;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;

/// What is captured.
#[derive(Clone, Debug, Default)]
pub struct Target {
    /// What people call it.
    pub app: String,
    /// The socket of the console.
    pub console: Option<PathBuf>,
    /// A file with what the guest wrote to its console.
    pub console_log: Option<PathBuf>,
    /// What was kept of what it wrote, where no file has it.
    pub heard: Option<History>,
    /// The file behind the machine's `acpi-erst`, if it is known from before.
    pub erst: Option<PathBuf>,
    /// The image of its firmware's flash memory, likewise.
    pub flash: Option<PathBuf>,
    /// The socket of the monitor.
    pub qmp: Option<PathBuf>,
    /// The hypervisor's process as it was known last. It may have ended since.
    pub pid: Option<u32>,
    /// The socket of the guest agent.
    pub guest_agent: Option<PathBuf>,
    /// Whether the console is known to have a shell for us.
    pub shell: bool,
    /// The one way on which keys go to its kernel. Without it the first that is answered is taken.
    pub by: Option<Route>,
    /// A file for what has to be put back in the guest. Without it nothing in a guest is changed.
    pub undo: Option<PathBuf>,
    /// A file for what is learnt of its kernel. Without it every look is the first one.
    pub learnt: Option<PathBuf>,
    /// Where dumps of its memory are kept. Without it none is taken.
    pub kept: Option<Kept>,
    /// What may be done.
    pub consent: Consent,
}

/// What a capture may cost.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// How long it may take.
    pub time: Duration,
    /// How much it may bring.
    pub bytes: u64,
}

/// What a capture brought.
#[derive(Debug, Default)]
pub struct Capture {
    /// The evidence.
    pub artifacts: Vec<Artifact>,
    /// What was tried, and what came of it.
    pub steps: Vec<StepReport>,
}

/// Looks at every vCPU once, which the guest cannot notice. A later capture takes such looks along,
/// so that it can tell stuck from slow.
pub async fn look(target: &Target) -> Vec<qmp::Reply> {
    match &target.qmp {
        Some(path) if target.consent >= Consent::Query => monitor::look(path).await,
        _ => Vec::new(),
    }
}

/// Puts back in the guest what an earlier capture could not, because the agent was stopped.
pub async fn put_back(target: &Target) {
    // What we have stopped is let go, whatever has become of the consent meanwhile.
    debugger::put_back(target).await;
    if target.consent >= Consent::Input {
        memory::put_back(target).await;
        sysrq::put_back(target).await;
    }
}

/// Collects `steps`, and tells how far it has come. `before` are looks that were taken earlier.
pub async fn capture(
    target: &Target,
    steps: &[Step],
    before: Vec<qmp::Reply>,
    budget: Budget,
    tell: Tell<'_>,
) -> Capture {
    let deadline = Instant::now() + budget.time;
    let meter = Meter::new(steps.len(), tell);
    let mut capture = Capture::default();
    let (permitted, refused): (Vec<Step>, Vec<Step>) =
        steps.iter().partition(|step| step.consent() <= target.consent);
    for step in refused {
        let reason = format!("needs the consent `{}`", step.consent());
        capture.steps.push(report(step, Outcome::Skipped, reason));
    }
    if permitted.contains(&Step::Console) {
        meter.begin("console");
        capture.take(console_log::recall(target).await);
    }
    if permitted.contains(&Step::Records) {
        meter.begin("records");
        capture.take(records::read(target).await);
    }
    meter.take(&capture);
    meter.begin("host and monitor");
    let queries: Vec<Query> = permitted.iter().filter_map(|step| query(*step)).collect();
    let wants_host = permitted.contains(&Step::Host);
    let wants_memory = permitted.contains(&Step::Memory);
    // Asked before the others, for a stopped process takes only so many connections.
    let pid = if wants_host || wants_memory { host::process(target).await } else { None };
    let looking = if wants_memory { Some(memory::begin(target, pid).await) } else { None };
    // The two looks at memory, registers and threads are a second apart, and the same second.
    let (monitor, host) = tokio::join!(
        monitor::ask(target.qmp.as_deref(), &queries, before),
        host::watch(pid, wants_host),
    );
    meter.take(&monitor);
    meter.take(&host);
    capture.take(monitor);
    capture.take(host);
    let mut is_readable = false;
    if let Some(looking) = looking {
        meter.begin("memory");
        let memory;
        (memory, is_readable) = memory::end(looking, deadline).await;
        meter.take(&memory);
        capture.take(memory);
    }
    let actions: Vec<Action> = permitted.iter().filter_map(|step| action(*step)).collect();
    if !actions.is_empty() {
        let known = sysrq::Known::of(&capture.artifacts);
        let lent = match permitted.contains(&Step::LendSysrq) {
            true => memory::lend(target, known.wants_a_loan()).await,
            false => memory::Lent::NOTHING,
        };
        let known = if lent.is_out() { sysrq::Known::LENT } else { known };
        capture.take(sysrq::press(target, &actions, known, deadline, &meter).await);
        capture.steps.extend(lent.end(target).await);
    }
    if permitted.contains(&Step::Debugger) {
        meter.begin("debugger");
        let read = debugger::read(target, is_readable, deadline).await;
        meter.take(&read);
        capture.take(read);
    }
    if permitted.contains(&Step::Dump) {
        capture.take(dump::take(target, deadline, &meter).await);
    }
    if permitted.contains(&Step::Nmi) {
        capture.take(nmi::send(target, &capture.artifacts, deadline, &meter).await);
    }
    meter.begin("done");
    capture.hold_to(budget.bytes);
    capture
}

impl Capture {
    fn take(&mut self, other: Self) {
        self.artifacts.extend(other.artifacts);
        self.steps.extend(other.steps);
    }

    fn one(step: Step, artifact: Artifact, outcome: Outcome, took: Duration) -> Self {
        let mut report = report(step, outcome, String::new());
        report.took_ms = millis(took);
        report.bytes = artifact.data.len() as u64;
        Self { artifacts: vec![artifact], steps: vec![report] }
    }

    fn nothing(step: Step, outcome: Outcome, reason: impl Into<String>) -> Self {
        Self { artifacts: Vec::new(), steps: vec![report(step, outcome, reason.into())] }
    }

    /// Cuts from the last artifact back until all fit.
    fn hold_to(&mut self, bytes: u64) {
        let mut total: u64 = self.artifacts.iter().map(|a| a.data.len() as u64).sum();
        for artifact in self.artifacts.iter_mut().rev() {
            let excess = usize::try_from(total.saturating_sub(bytes)).unwrap_or(usize::MAX);
            let cut = excess.min(artifact.data.len());
            if cut > 0 {
                total -= artifact.data.len() as u64;
                artifact.cut_to(artifact.data.len() - cut);
                total += artifact.data.len() as u64;
                let name = format!("{} (cut)", artifact.label());
                self.steps.push(StepReport {
                    name,
                    outcome: Outcome::Partial,
                    reason: "the capture's budget of bytes was used up".to_owned(),
                    took_ms: 0,
                    bytes: artifact.data.len() as u64,
                });
            }
        }
    }
}

fn query(step: Step) -> Option<Query> {
    match step {
        Step::Qmp(query) => Some(query),
        Step::Host
        | Step::Console
        | Step::Records
        | Step::Memory
        | Step::LendSysrq
        | Step::Sysrq(_)
        | Step::Debugger
        | Step::Dump
        | Step::Nmi => None,
    }
}

fn action(step: Step) -> Option<Action> {
    match step {
        Step::Sysrq(action) => Some(action),
        Step::Host
        | Step::Console
        | Step::Records
        | Step::Memory
        | Step::Qmp(_)
        | Step::LendSysrq
        | Step::Debugger
        | Step::Dump
        | Step::Nmi => None,
    }
}

fn report(step: Step, outcome: Outcome, reason: String) -> StepReport {
    StepReport { name: step.name(), outcome, reason, took_ms: 0, bytes: 0 }
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

/// The path as a person would know it.
fn shown(path: &Path) -> String {
    path.display().to_string()
}
