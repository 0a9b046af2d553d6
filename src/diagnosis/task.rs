//! Tasks that wait for what never comes.
//!
//! Where it can be concluded who holds what others wait for, and he waits himself, he is the blocker.
//! Else the blocker is guessed by who he is: a module or a kernel thread blocks more often than a
//! process that only wants to write, and who waits in a function of his own more often than one of a
//! queue. What is a guess is said to be one. Where a disk or a frozen file system keeps tasks waiting, it
//! is the subject, and not the function in which a task happened to touch it.

use super::functions::Wait;
use super::say::{places, quoted};
use super::waiter::{self, Waiter};
use super::{Blame, Class, Confidence, Finding, disk, host, signature};
use crate::evidence::Evidence;
use crate::evidence::trace::Frame;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// Facts about single tasks; the others are counted.
const FACTS: usize = 8;

/// Tasks wait without taking signals, and do not come back.
pub(super) fn hung(evidence: &Evidence) -> Option<Finding> {
    let waiters = waiter::all(evidence);
    let suspects = suspects(&waiters);
    let first = suspects.first()?;
    let mut finding = Finding::new(Class::HungTask, blame(first), confidence(evidence, first));
    finding.title = title(&suspects, waiters.len() - suspects.len());
    if let Some(resource) = resource(first.wait) {
        finding.subject = resource.to_owned();
    } else if let Some((subject, callers)) = first.calls.split_first() {
        finding.subject = subject.name().to_owned();
        finding.callers = signature::callers(callers);
    }
    let suspected: BTreeSet<u32> = suspects.iter().map(|suspect| suspect.pid).collect();
    let victims = waiters.iter().filter(|waiter| !suspected.contains(&waiter.pid));
    finding.facts_for.extend(suspects.iter().map(|suspect| suspect.said()).take(FACTS));
    finding.facts_for.extend(victims.map(|victim| victim.said()).take(FACTS));
    finding.facts_against = unknown(&suspects);
    if first.wait == Wait::Io {
        finding.facts_for.extend(disk::unanswered(evidence));
        host::whose_disk(evidence, &mut finding);
    }
    Some(finding)
}

/// The waiters that most likely block the others, the likeliest first.
fn suspects<'a, 'b>(waiters: &'a [Waiter<'b>]) -> Vec<&'a Waiter<'b>> {
    let owners: BTreeSet<u32> = waiters.iter().filter_map(|waiter| waiter.holders.only()).collect();
    let mut crowds: BTreeMap<&str, usize> = BTreeMap::new();
    for frame in waiters.iter().filter_map(|waiter| waiter.calls.first()) {
        *crowds.entry(frame.name()).or_default() += 1;
    }
    let likelihood = |waiter: &Waiter| {
        let first = waiter.calls.first();
        let in_module = first.is_some_and(|frame| frame.module.is_some());
        let is_alone = first.is_some_and(|frame| crowds.get(frame.name()) == Some(&1));
        let is_owner = owners.contains(&waiter.pid);
        // Who waits for a disk for long holds up those that wait for his locks, whoever he is.
        if resource(waiter.wait).is_some() && waiter.seconds.is_some() {
            return (is_owner, true, false, false, false, false);
        }
        (is_owner, false, waiter.wait.is_lock(), in_module, waiter.is_kernel, is_alone)
    };
    let most = waiters.iter().map(likelihood).max();
    let likeliest = waiters.iter().filter(|waiter| Some(likelihood(waiter)) == most);
    let mut suspects: Vec<&Waiter<'_>> = likeliest.collect();
    // Who waits longest began it; where nobody says how long, who was started first.
    suspects.sort_by_key(|waiter| (Reverse(waiter.seconds), waiter.pid));
    suspects
}

/// What keeps tasks waiting, where it is no lock.
fn resource(wait: Wait) -> Option<&'static str> {
    match wait {
        Wait::Io => Some("disk-io"),
        Wait::Thaw => Some("frozen-fs"),
        Wait::Mutex | Wait::Rwsem | Wait::Completion | Wait::Time | Wait::Other => None,
    }
}

fn title(suspects: &[&Waiter<'_>], others: usize) -> String {
    let Some(first) = suspects.first() else { return String::new() };
    let wait = first.wait;
    let (one, many) = match (wait, first.seconds) {
        (Wait::Io, Some(_)) => ("I/O that does not complete", "I/O that does not complete"),
        _ => (wait.words(), wait.plural()),
    };
    let kernel = suspects.iter().filter(|suspect| suspect.is_kernel).count();
    let who = match (suspects.len(), kernel) {
        (1, 0) => format!("process {} waits for {one}", quoted(first.comm)),
        (1, _) => format!("kernel task {} waits for {one}", quoted(first.comm)),
        (all, 0) => format!("{all} processes wait for {many}"),
        (all, kernel) if all == kernel => format!("{all} kernel tasks wait for {many}"),
        (all, _) => format!("{all} tasks wait for {many}"),
    };
    let frames: Vec<&Frame> = suspects.iter().filter_map(|it| it.calls.first().copied()).collect();
    let within = match places(&frames) {
        none if none.is_empty() => none,
        _ if resource(wait).is_some() => String::new(),
        places => format!(" in {places}"),
    };
    let behind = match others {
        0 => String::new(),
        1 => "; 1 more task waits too".to_owned(),
        more => format!("; {more} more tasks wait too"),
    };
    format!("{who}{within}{behind}")
}

fn blame(first: &Waiter<'_>) -> Blame {
    // A disk that does not answer may be the host's fault, and who freezes may be a backup.
    if resource(first.wait).is_some() { Blame::Unknown } else { Blame::GuestKernel }
}

fn confidence(evidence: &Evidence, first: &Waiter<'_>) -> Confidence {
    let seen_now = !evidence.sysrq.blocked().is_empty();
    match (seen_now, first.seconds.is_some()) {
        (true, true) => Confidence::High,
        // Locks are held for moments and disks are slow: one look proves only the former.
        (true, false) if !first.wait.is_lock() && !first.twice => Confidence::Low,
        _ => Confidence::Medium,
    }
}

fn unknown(suspects: &[&Waiter<'_>]) -> Vec<String> {
    let mut facts = Vec::new();
    let locks = suspects.iter().any(|suspect| suspect.wait.is_lock());
    if locks && suspects.iter().all(|suspect| suspect.holders.is_empty()) {
        facts.push("Not known: who holds the locks; stacks show only who waits".to_owned());
    }
    if suspects.first().is_some_and(|first| first.wait == Wait::Thaw) {
        facts.push("Not known: who froze the file system".to_owned());
    }
    if locks && suspects.len() > 1 {
        facts.push("Not known: which of them blocks the others".to_owned());
    }
    facts
}
