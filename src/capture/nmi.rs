//! One non-maskable interrupt, and what the guest makes of it.
//!
//! It is the last step of all, for it is not known beforehand what a guest does: a Linux kernel has a line
//! for it and goes on, unless it was told to panic; others may crash. It reaches a CPU that takes no other
//! interrupt, so a word of it shows that this CPU carries out instructions. The console is opened before
//! it is sent and nothing is typed there. Where the console is dead the kernel may still have written
//! into its log, which is read out of its memory once more. The registers of all CPUs are taken once more
//! in any case: those of before are from the monitor's own step.

use super::no::No;
use super::progress::Meter;
use super::{Capture, Target, memory, millis, monitor, report};
use crate::base::chain::Chain;
use crate::base::limits;
use crate::base::step::Step;
use crate::evidence::memory::Memory;
use crate::evidence::nmi::{self, Nmi};
use crate::evidence::qmp::{Qmp, Replies};
use crate::evidence::report::Outcome;
use crate::evidence::{AFTER_NMI, Artifact, Kind};
use crate::hypervisor::chardev::ConsoleDevice;
use crate::hypervisor::qmp::Monitor;
use crate::transport::console::Console;
use crate::transport::mux::Wiring;
use serde_json::json;
use std::path::Path;
use std::time::Duration;
use tokio::time::Instant;

/// A kernel that goes on says so within 20 ms. One that panics first waits for its other CPUs to stop, by its
/// own count a second; where these take no interrupts 5 to 8 s were seen, in software emulation.
const PATIENCE: Duration = Duration::from_secs(15);

/// A panic's report has some hundred lines; a console that drips is not waited for.
const LISTEN: Duration = Duration::from_secs(40);

/// Short enough not to wait long after the last line, long enough not to look at every line.
const GLANCE: Duration = Duration::from_millis(60);

/// Sends it. `before` is what was collected so far: if memory was, it is looked at once more.
pub(super) async fn send(
    target: &Target,
    before: &[Artifact],
    deadline: Instant,
    meter: &Meter<'_>,
) -> Capture {
    meter.begin("nmi");
    let started = Instant::now();
    let heard = match sent(target, deadline).await {
        Ok(heard) => heard,
        Err(No(outcome, reason)) => return Capture::nothing(Step::Nmi, outcome, reason),
    };
    let after = registers(target).await;
    let (outcome, reason, data) = match Nmi::read(&heard) {
        Some(nmi) => {
            (Outcome::Done, format!("the kernel's console answered: {}", nmi.said()), heard)
        }
        None => match in_memory(target, before, deadline).await {
            Looked::Found(data) => {
                let said = Nmi::read(&data).map_or(String::new(), Nmi::said);
                (Outcome::Done, format!("only the kernel's memory has it: {said}"), data)
            }
            Looked::Nothing => {
                let reason = "nothing: neither its console nor its memory has a word of it";
                (Outcome::Silent, reason.to_owned(), heard)
            }
            Looked::Not => {
                let reason = "nothing: its console has no word of it, and its memory was not read";
                (Outcome::Silent, reason.to_owned(), heard)
            }
        },
    };
    let mut step = report(Step::Nmi, outcome, reason);
    step.took_ms = millis(started.elapsed());
    step.bytes = data.len() as u64;
    let artifact = Artifact { kind: Kind::Nmi, name: String::new(), data };
    let said = (step.bytes > 0).then_some(artifact);
    step.bytes += after.as_ref().map_or(0, |after| after.data.len() as u64);
    Capture { artifacts: said.into_iter().chain(after).collect(), steps: vec![step] }
}

/// Where all CPUs are now.
async fn registers(target: &Target) -> Option<Artifact> {
    let replies = monitor::look(target.qmp.as_deref()?).await;
    let data = Replies(replies).to_bytes();
    let is_told = Qmp::read(&data).is_some_and(|qmp| !qmp.cpus.is_empty());
    is_told.then(|| Artifact { kind: Kind::Qmp, name: AFTER_NMI.to_owned(), data })
}

/// Listens, sends it, and gives what came.
async fn sent(target: &Target, deadline: Instant) -> Result<Vec<u8>, No> {
    let Some(path) = &target.qmp else {
        return Err(No::skipped("the binding names no `qmp` socket"));
    };
    if Instant::now() >= deadline {
        return Err(No(Outcome::Failed, "the capture's budget of time was used up".to_owned()));
    }
    let console = match &target.console {
        Some(console) if is_free(path, console).await? => {
            Console::open(console, Wiring::Mux).await.ok()
        }
        Some(_) => {
            return Err(No::skipped("somebody else holds the console, and may lose the guest"));
        }
        None => None,
    };
    let injected = inject(path).await;
    let mut heard = Vec::new();
    if let Some(mut console) = console {
        if injected.is_ok() {
            listen(&mut console, &mut heard, deadline).await;
        }
        console.close().await;
    }
    injected.map(|()| heard)
}

/// Whether nobody has the console.
async fn is_free(monitor: &Path, console: &Path) -> Result<bool, No> {
    let mut monitor = Monitor::connect(monitor).await?;
    let devices = monitor.ask("query-chardev", json!({})).await?;
    Ok(ConsoleDevice::find(&devices, console).is_none_or(|device| !device.held))
}

/// Sends it to a guest that runs, and to no other: it would act later, out of place.
async fn inject(path: &Path) -> Result<(), No> {
    let mut monitor = Monitor::connect(path).await?;
    let told = monitor.ask("query-status", json!({})).await?;
    if told["status"] != "running" {
        let reason =
            "the guest does not run: an NMI that is sent now would act later, out of place";
        return Err(No::skipped(reason));
    }
    monitor.ask("inject-nmi", json!({})).await?;
    Ok(())
}

/// Listens until it is whole, or nothing more comes.
async fn listen(console: &mut Console, heard: &mut Vec<u8>, deadline: Instant) {
    let begun = Instant::now();
    let deadline = deadline.min(begun + LISTEN);
    let mut last = begun;
    while Instant::now() < deadline && heard.len() < limits::STEP_BYTES && !nmi::is_whole(heard) {
        let glance = deadline.min(Instant::now() + GLANCE * 2);
        match console.listen_until_quiet(heard, GLANCE, glance).await {
            Ok(true) => last = Instant::now(),
            Ok(false) => {}
            Err(error) => {
                tracing::debug!(error = %Chain(&error), "the console broke after an NMI");
                return;
            }
        }
        let is_over = match Nmi::read(heard) {
            Some(_) => last.elapsed() >= PATIENCE,
            // What else a guest writes is no answer.
            None => begun.elapsed() >= PATIENCE,
        };
        if is_over {
            return;
        }
    }
}

/// What the kernel's own log has of it.
enum Looked {
    Found(Vec<u8>),
    Nothing,
    Not,
}

async fn in_memory(target: &Target, before: &[Artifact], deadline: Instant) -> Looked {
    let log = |artifacts: &[Artifact]| {
        let memory = artifacts.iter().find(|artifact| artifact.kind == Kind::Memory)?;
        Some(Memory::read(&memory.data)?.log)
    };
    let Some(before) = log(before) else { return Looked::Not };
    let looking = memory::begin(target, target.pid).await;
    let (looked, _) = memory::end(looking, deadline).await;
    let Some(after) = log(&looked.artifacts) else {
        return Looked::Not;
    };
    match nmi::since(&before, &after) {
        Some(said) => Looked::Found(said.as_bytes().to_vec()),
        None => Looked::Nothing,
    }
}

#[cfg(test)]
mod tests;
