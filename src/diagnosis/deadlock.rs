//! Tasks that wait for each other's locks: nothing can set them free.

use super::say::{count, cpus, list, place, places};
use super::waiter::{self, Waiter, name_all};
use super::{Blame, Class, Confidence, Finding, signature};
use crate::evidence::Evidence;
use crate::evidence::sysrq::Backtrace;
use crate::evidence::trace::Frame;
use std::collections::{BTreeMap, BTreeSet};

/// Functions in a subject.
const SUBJECTS: usize = 4;

/// Facts about single tasks; the others are counted.
const FACTS: usize = 8;

/// Every task of a ring waits for a lock that the next one holds.
pub(super) fn deadlock(evidence: &Evidence) -> Option<Finding> {
    let waiters = waiter::all(evidence);
    let mut ring = ring(&waiters)?;
    // The same ring has the same name, whoever closed it.
    ring.sort_by_key(|waiter| (waiter.calls.first().map(|frame| frame.name()), waiter.pid));
    let mut finding =
        Finding::new(Class::Deadlock, Blame::GuestKernel, confidence(evidence, &ring));
    let frames: Vec<&Frame> = ring.iter().filter_map(|it| it.calls.first().copied()).collect();
    finding.subject = ring_subject(&frames);
    finding.callers = signature::callers(&frames);
    let outside = |waiter: &&Waiter<'_>| !ring.iter().any(|it| it.pid == waiter.pid);
    let bystanders: Vec<&Waiter<'_>> = waiters.iter().filter(outside).collect();
    finding.title = title(&ring, &frames, bystanders.len());
    finding.facts_for.extend(ring.iter().map(|waiter| waiter.said()).take(FACTS));
    finding.facts_for.extend(nobody_releases(evidence, &ring));
    let said = bystanders.iter().map(|waiter| format!("bystander: {}", waiter.said()));
    finding.facts_for.extend(said.take(FACTS));
    finding.facts_against = unknown(evidence, &ring, &bystanders);
    Some(finding)
}

/// What a ring is called by: the functions in which its tasks wait, sorted.
pub(super) fn ring_subject(frames: &[&Frame]) -> String {
    let mut names: Vec<&str> = frames.iter().map(|frame| frame.name()).collect();
    names.dedup();
    names.into_iter().take(SUBJECTS).collect::<Vec<_>>().join("+")
}

/// The first ring of waiters in which each waits for the next.
fn ring<'a, 'b>(waiters: &'b [Waiter<'a>]) -> Option<Vec<&'b Waiter<'a>>> {
    let index: BTreeMap<u32, usize> =
        waiters.iter().enumerate().map(|(at, waiter)| (waiter.pid, at)).collect();
    let next = |at: usize| index.get(&waiters[at].holders.only()?).copied();
    // In which walk a waiter was met: one that this walk meets again closes a ring.
    let mut met = vec![usize::MAX; waiters.len()];
    for start in 0..waiters.len() {
        let mut at = Some(start);
        while let Some(here) = at.filter(|here| met[*here] == usize::MAX) {
            met[here] = start;
            at = next(here);
        }
        if let Some(first) = at.filter(|here| met[*here] == start) {
            let walk = std::iter::successors(next(first), |here| next(*here));
            let rest = walk.take_while(|here| *here != first);
            return Some(std::iter::once(first).chain(rest).map(|it| &waiters[it]).collect());
        }
    }
    None
}

fn title(ring: &[&Waiter<'_>], frames: &[&Frame], bystanders: usize) -> String {
    let first = ring[0];
    let same = ring.iter().all(|waiter| waiter.wait == first.wait);
    let within = match frames {
        [] => String::new(),
        [only] => format!(" in {}", place(only)),
        more => format!(" in {}", places(more)),
    };
    let who = name_all(ring);
    let what = match (ring.len(), same) {
        (1, _) => format!("{who} waits for {} that it holds itself", first.wait.words()),
        (_, true) => format!("{who} wait for each other's {}", first.wait.plural()),
        (_, false) => format!("{who} wait for each other's locks"),
    };
    let behind = match bystanders {
        0 => String::new(),
        some => {
            format!("; {} wait{} too", count(some, "bystander"), if some == 1 { "s" } else { "" })
        }
    };
    format!("{what}{within}{behind}")
}

/// Locks are held for moments, so that what was seen once and concluded may be over; each sign that
/// nothing moves speaks against that.
fn confidence(evidence: &Evidence, ring: &[&Waiter<'_>]) -> Confidence {
    let told = ring.iter().all(|waiter| waiter.holders.is_told());
    let long = ring.iter().any(|waiter| waiter.seconds.is_some() || waiter.twice);
    let rests = nobody_releases(evidence, ring).is_some();
    let signs = [told, long, rests, evidence.sysrq.lists_sleepers()];
    match signs.into_iter().filter(|sign| *sign).count() {
        0 if !evidence.sysrq.cpus().is_empty() => Confidence::Low,
        _ if told => Confidence::High,
        0..=2 => Confidence::Medium,
        3.. => Confidence::High,
    }
}

/// A CPU in the kernel could be about to release a lock; of a module's, only one that is inside of it.
fn nobody_releases(evidence: &Evidence, ring: &[&Waiter<'_>]) -> Option<String> {
    let all = evidence.sysrq.cpus();
    let modules: Option<BTreeSet<&str>> =
        ring.iter().map(|waiter| waiter.calls.first()?.module.as_deref()).collect();
    let inside = |frame: &&Frame| {
        let module = frame.module.as_deref();
        modules.as_ref().is_none_or(|modules| module.is_some_and(|it| modules.contains(it)))
    };
    let may_release =
        |cpu: &&Backtrace| !cpu.idle && !cpu.in_process() && cpu.trace.calls().iter().any(inside);
    if all.is_empty() || all.iter().any(may_release) {
        return None;
    }
    let indices: Vec<u32> = all.iter().map(|cpu| cpu.cpu).collect();
    let cpus = cpus(&indices, all.len());
    let verb = if indices.len() == 1 { "is" } else { "are" };
    Some(if all.iter().all(|cpu| cpu.idle) {
        format!("nobody runs who could release them: {cpus} {verb} idle")
    } else {
        format!("nobody runs where they could be released: {cpus} {verb} elsewhere")
    })
}

fn unknown(evidence: &Evidence, ring: &[&Waiter<'_>], bystanders: &[&Waiter<'_>]) -> Vec<String> {
    let mut facts = Vec::new();
    if !ring.iter().all(|waiter| waiter.holders.is_told()) {
        facts.push(
            "Not known: the locks themselves; who holds them is concluded from where the tasks are"
                .to_owned(),
        );
    }
    if ring.iter().any(|waiter| waiter.holders.is_exclusion()) && !evidence.sysrq.lists_sleepers() {
        facts.push(
            "Not known: whether a task that merely sleeps holds one of them; `task-states` tells"
                .to_owned(),
        );
    }
    let open = bystanders.iter().filter(|it| it.wait.is_lock() && it.holders.is_empty());
    let mut sites: Vec<String> = open
        .filter_map(|it| Some(format!("{} in {}", it.wait.words(), place(it.calls.first()?))))
        .collect();
    sites.sort();
    sites.dedup();
    if !sites.is_empty() {
        facts.push(format!("Not known: who holds {}", list(&sites, 3)));
    }
    facts
}
