//! What the guest's own memory shows: who spins, who waits for whom, who is stopped.
//!
//! Stacks alone tell who waits; here the locks themselves tell who holds them. So what other judges
//! have to guess is known, and where it is not (a lock without an owner) it is said.

mod cpus;
mod waits;

pub(super) use cpus::{busy, hard_lockup, soft_lockup};
pub(super) use waits::{deadlock, frozen, held};

use super::functions::{Wait, waiting};
use super::say::{count, list, quoted};
use super::{Blame, Class, Confidence, Finding, disk as host_disk, host};
use crate::evidence::Evidence;
use crate::evidence::kernel_log::ReportKind;
use crate::evidence::memory::{Memory, Request, Task, trace};

/// Facts about single tasks; the others are counted.
const FACTS: usize = 8;

/// Disks are slow and locks are held for moments, but not for this long.
const LONG_MS: u64 = 10_000;

/// Processes that are left when the OOM killer has done its work: the first one, and who asks.
const LEFT: usize = 3;

/// Tasks wait for a disk that does not answer.
pub(super) fn disk(evidence: &Evidence) -> Option<Finding> {
    let memory = evidence.memory.as_ref()?;
    let waits = |task: &&Task| task.state == 'D' && waits_for(memory, task) == Wait::Io;
    let mut waiting: Vec<&Task> = memory.tasks.iter().filter(waits).collect();
    waiting.sort_by_key(|task| std::cmp::Reverse(task.since_ms));
    let longest = waiting.first()?.since_ms.filter(|ms| *ms >= LONG_MS)?;
    let mut finding = Finding::new(Class::HungTask, Blame::Unknown, Confidence::High);
    finding.subject = "disk-io".to_owned();
    let (who, seconds) = (count(waiting.len(), "task"), longest / 1000);
    let wait = if waiting.len() == 1 { "waits" } else { "wait" };
    finding.title = format!("{who} {wait} for I/O that does not complete, for {seconds} s");
    finding.facts_for.extend(oldest(memory));
    finding.facts_for.extend(host_disk::unanswered(evidence));
    finding.facts_for.extend(waiting.iter().take(FACTS).map(|task| asleep(memory, task)));
    host::whose_disk(evidence, &mut finding);
    Some(finding)
}

/// What a disk has had for longest.
fn oldest(memory: &Memory) -> Option<String> {
    let Request { disk, operation, sector, bytes, age_ms } = memory.requests.first()?;
    let (disk, operation) = (quoted(disk), quoted(operation));
    let age = age_ms.map(|ms| format!(" for {} s", ms / 1000)).unwrap_or_default();
    let all = count(memory.requests.len(), "request");
    Some(format!(
        "disk {disk} has {all} unanswered, the oldest{age}: a {operation} of {bytes} bytes at sector {sector}"
    ))
}

/// Somebody sent SIGSTOP.
pub(super) fn stopped(evidence: &Evidence) -> Option<Finding> {
    let memory = evidence.memory.as_ref()?;
    let processes = processes(memory);
    let stopped: Vec<&Task> = processes.iter().copied().filter(|task| task.state == 'T').collect();
    if stopped.is_empty() || stopped.len() * 2 < processes.len() {
        return None;
    }
    let mut finding = Finding::new(Class::UserspaceDead, Blame::GuestUserspace, Confidence::High);
    finding.subject = "stopped".to_owned();
    let all = processes.len();
    finding.title = format!("{} of {all} processes are stopped by a signal", stopped.len());
    let names: Vec<String> = stopped.iter().map(|task| name(task)).collect();
    finding.facts_for.push(format!("stopped: {}", list(&names, FACTS)));
    Some(finding)
}

/// Memory ran out, and hardly anybody is left.
pub(super) fn killed(evidence: &Evidence) -> Option<Finding> {
    let memory = evidence.memory.as_ref()?;
    let kills = evidence.console.all(ReportKind::OomKill).count();
    let left = processes(memory);
    if kills == 0 || left.len() > LEFT {
        return None;
    }
    let mut finding = Finding::new(Class::UserspaceDead, Blame::GuestUserspace, Confidence::Medium);
    finding.subject = "oom".to_owned();
    let killed = if kills == 1 { "1 process".to_owned() } else { format!("{kills} processes") };
    finding.title = format!("memory ran out: the kernel killed {killed}");
    let names: Vec<String> = left.iter().map(|task| name(task)).collect();
    finding.facts_for.push(format!("processes that are left: {}", list(&names, FACTS)));
    Some(finding)
}

/// That nothing is wrong, as far as memory shows.
pub(super) fn well(evidence: &Evidence) -> Option<String> {
    let memory = evidence.memory.as_ref()?;
    let long = |task: &&Task| task.state == 'D' && task.since_ms.is_some_and(|ms| ms >= LONG_MS);
    let waiting = memory.tasks.iter().filter(long).count();
    let tasks = count(memory.tasks.len(), "task");
    Some(match waiting {
        0 => {
            format!("the guest's memory shows {tasks}, of which none waits in the kernel for long")
        }
        _ => format!(
            "the guest's memory shows {tasks}, of which {waiting} wait in the kernel for long"
        ),
    })
}

/// Processes, not their threads.
fn processes(memory: &Memory) -> Vec<&Task> {
    let is_process = |task: &&Task| !task.kernel && task.pid == task.tgid && task.state != 'Z';
    memory.tasks.iter().filter(is_process).collect()
}

fn waits_for(memory: &Memory, task: &Task) -> Wait {
    let trace = trace(memory.stack(task));
    waiting(&trace.calls()).0
}

/// `lab_order_ab (257)`
fn name(task: &Task) -> String {
    format!("{} ({})", quoted(&task.comm), task.pid)
}

/// Who waits for what, in which function, for how long.
fn asleep(memory: &Memory, task: &Task) -> String {
    let trace = trace(memory.stack(task));
    let (wait, calls) = waiting(&trace.calls());
    let within = calls.first().map(|frame| format!(" in {}", super::say::place(frame)));
    let long = task.since_ms.map(|ms| format!(", for {} s", ms / 1000));
    let who = if task.kernel { "kernel task" } else { "process" };
    let (within, long) = (within.unwrap_or_default(), long.unwrap_or_default());
    format!("{who} {} waits for {}{within}{long}", name(task), wait.words())
}

#[cfg(test)]
mod tests;
