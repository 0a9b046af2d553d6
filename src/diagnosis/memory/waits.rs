//! Locks: who waits for whom, in a ring or for one who does not come back.

use super::super::deadlock::ring_subject;
use super::super::functions::waiting;
use super::super::say::{count, list, quoted};
use super::super::{Blame, Class, Confidence, Finding, signature};
use super::{FACTS, LONG_MS, asleep, name};
use crate::evidence::Evidence;
use crate::evidence::memory::{Memory, Task, Wait, trace};
use crate::evidence::trace::{Frame, Trace};
use std::collections::{BTreeMap, BTreeSet};

/// Tasks wait for each other.
pub(crate) fn deadlock(evidence: &Evidence) -> Option<Finding> {
    let memory = evidence.memory.as_ref()?;
    let ring = memory.rings().into_iter().next()?;
    let tasks: Vec<&Task> = ring.iter().filter_map(|wait| memory.task(wait.pid)).collect();
    tasks.first()?;
    let mut finding = Finding::new(Class::Deadlock, Blame::GuestKernel, Confidence::High);
    let names: Vec<String> = tasks.iter().map(|task| name(task)).collect();
    finding.title = match tasks.len() {
        1 => format!("{} waits for a lock that it holds itself", names.concat()),
        _ => format!("{} wait for each other", list(&names, FACTS)),
    };
    let bystanders = bystanders(memory, &ring);
    if !bystanders.is_empty() {
        let wait = if bystanders.len() == 1 { "waits" } else { "wait" };
        finding.title += &format!("; {} {wait} too", count(bystanders.len(), "bystander"));
    }
    let traces: Vec<Trace> = tasks.iter().map(|task| trace(memory.stack(task))).collect();
    let mut frames: Vec<&Frame> =
        traces.iter().filter_map(|trace| waiting(&trace.calls()).1.first().copied()).collect();
    // The same ring has the same name, whoever closed it and however it was seen.
    frames.sort_by_key(|frame| frame.name());
    finding.subject = ring_subject(&frames);
    finding.callers = signature::callers(&frames);
    finding.facts_for.extend(ring.iter().take(FACTS).map(|wait| held_by(memory, wait)));
    let said = bystanders.iter().map(|wait| format!("bystander: {}", held_by(memory, wait)));
    finding.facts_for.extend(said.take(FACTS));
    look_again(evidence, &ring, &mut finding);
    Some(finding)
}

/// Tasks wait for a file system to be thawed.
pub(crate) fn frozen(evidence: &Evidence) -> Option<Finding> {
    let memory = evidence.memory.as_ref()?;
    let waiting: Vec<&Wait> = memory.waits.iter().filter(|wait| wait.frozen.is_some()).collect();
    let file_system = waiting.first()?.frozen.as_ref()?;
    let mut finding = Finding::new(Class::HungTask, Blame::Unknown, Confidence::High);
    finding.subject = "frozen-fs".to_owned();
    let wait = if waiting.len() == 1 { "task waits" } else { "tasks wait" };
    finding.title = format!(
        "the file system {} is frozen; {} {wait} to write to it",
        quoted(file_system),
        waiting.len()
    );
    let tasks = waiting.iter().filter_map(|wait| memory.task(wait.pid));
    finding.facts_for.extend(tasks.take(FACTS).map(|task| asleep(memory, task)));
    look_again(evidence, &waiting, &mut finding);
    finding.facts_against.push("Not known: who froze the file system".to_owned());
    Some(finding)
}

/// Tasks wait for a lock whose holder does not wait for another.
pub(crate) fn held(evidence: &Evidence) -> Option<Finding> {
    let memory = evidence.memory.as_ref()?;
    let mut holders: BTreeMap<u32, Vec<&Wait>> = BTreeMap::new();
    for (wait, holder) in memory.waits.iter().zip(memory.roots()) {
        if let Some(holder) = holder {
            holders.entry(holder).or_default().push(wait);
        }
    }
    let (holder, waiting) = holders.into_iter().max_by_key(|(_, waiting)| waiting.len())?;
    let since = |wait: &&Wait| memory.task(wait.pid).and_then(|task| task.since_ms);
    let longest = waiting.iter().filter_map(since).max()?;
    let holder = memory.task(holder).filter(|_| longest >= LONG_MS)?;
    let mut finding = Finding::new(Class::HungTask, Blame::GuestKernel, Confidence::Medium);
    let wait = if waiting.len() == 1 { "waits" } else { "wait" };
    let who = count(waiting.len(), "task");
    finding.title = format!(
        "{who} {wait} for a lock that {} does not release, for {} s",
        name(holder),
        longest / 1000
    );
    blame(&mut finding, memory, holder);
    finding.facts_for.push(match holder.state {
        'R' => format!("{} runs", name(holder)),
        'D' => asleep(memory, holder),
        state => format!("{} sleeps in state {state}", name(holder)),
    });
    finding.facts_for.extend(waiting.iter().take(FACTS).map(|wait| held_by(memory, wait)));
    look_again(evidence, &waiting, &mut finding);
    Some(finding)
}

/// SysRq is asked after memory was read: who waits then as well has not got on.
fn look_again(evidence: &Evidence, waiting: &[&Wait], finding: &mut Finding) {
    if !evidence.sysrq.lists_tasks() {
        return;
    }
    let blocked: BTreeSet<u32> = evidence.sysrq.blocked().iter().map(|task| task.pid).collect();
    let gone = waiting.iter().filter(|wait| !blocked.contains(&wait.pid)).count();
    let all = waiting.len();
    match (gone, all) {
        (0, 1) => finding.facts_for.push("SysRq, asked later, shows it wait still".to_owned()),
        (0, _) => finding.facts_for.push(format!("SysRq, asked later, shows all {all} wait still")),
        _ => finding
            .facts_against
            .push(format!("SysRq, asked later, does not show {gone} of {all} wait any more")),
    }
}

fn blame(finding: &mut Finding, memory: &Memory, task: &Task) {
    let trace = trace(memory.stack(task));
    let (_, calls) = waiting(&trace.calls());
    if let Some((subject, callers)) = calls.split_first() {
        finding.subject = subject.name().to_owned();
        finding.callers = signature::callers(callers);
    }
}

fn held_by(memory: &Memory, wait: &Wait) -> String {
    let who = memory.task(wait.pid).map(|task| asleep(memory, task)).unwrap_or_default();
    let owner = wait.owner.and_then(|pid| memory.task(pid)).map(name);
    let lock = quoted(&wait.lock);
    match owner {
        Some(owner) => format!("{who}; by the guest's memory {owner} holds {lock}"),
        None => format!("{who}; nobody is known to hold {lock}"),
    }
}

/// Who waits for a lock and is in no ring.
fn bystanders<'m>(memory: &'m Memory, ring: &[&Wait]) -> Vec<&'m Wait> {
    let ring: BTreeSet<u32> = ring.iter().map(|wait| wait.pid).collect();
    memory.waits.iter().filter(|wait| !ring.contains(&wait.pid)).collect()
}
