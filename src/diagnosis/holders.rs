//! Who holds the lock that a task waits for.
//!
//! A stack shows who waits, but not which lock it is and who holds it. The kernel tells outright in two
//! cases; else it is concluded from where the tasks are, and said to be likely:
//!
//! ```text
//! told        "is blocked on a mutex likely owned by task b:2"                     since 6.16
//! listed      the lock stands in another task's list of locks                      with lockdep
//! further on  many wait at f+0x20, one is at f+0x80: it has passed where they wait
//! only one    the lock belongs to a module, and one other task is inside that module, in a place
//!             where it can have taken a lock before
//! ```

use super::functions::is_entry;
use super::say::{list, quoted};
use super::waiter::Waiter;
use crate::evidence::Evidence;
use crate::evidence::locks;
use crate::evidence::sysrq::Task;
use crate::evidence::trace::Frame;
use std::collections::{BTreeMap, BTreeSet};

/// Of more than so many that may hold a lock, none is suspected.
const SUSPECTS: usize = 3;

/// A call that returns so near to the beginning of its function is the first: no two fit before it,
/// with what a function does on entry.
const FIRST_CALL: u64 = 0x20;

/// Who holds what a task waits for: nobody known, one, or one of a few.
#[derive(Clone, Debug, Default)]
pub(super) struct Holders<'a> {
    tasks: Vec<(&'a str, u32)>,
    why: Option<Why>,
}

/// Why they are thought to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Why {
    Told,
    Listed,
    FurtherOn,
    OnlyOne,
}

impl Holders<'_> {
    /// The one, if there is no other.
    pub(super) fn only(&self) -> Option<u32> {
        let [(_, pid)] = self.tasks.as_slice() else { return None };
        Some(*pid)
    }

    /// Whether the kernel itself names them.
    pub(super) fn is_told(&self) -> bool {
        matches!(self.why, Some(Why::Told | Why::Listed))
    }

    /// Whether others could only be excluded as far as they were seen.
    pub(super) fn is_exclusion(&self) -> bool {
        self.why == Some(Why::OnlyOne)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// In words, about the lock that the task `asking` waits for.
    pub(super) fn said(&self, asking: u32) -> Option<String> {
        let name = |&(comm, pid): &(&str, u32)| format!("{} ({pid})", quoted(comm));
        let who = match self.tasks.as_slice() {
            [] => return None,
            [(_, pid)] if *pid == asking => "it".to_owned(),
            [one] => name(one),
            more => {
                format!("one of {}", list(&more.iter().map(name).collect::<Vec<_>>(), SUSPECTS))
            }
        };
        Some(match self.why? {
            Why::Told => format!("the kernel says that {who} likely holds it"),
            Why::Listed => format!("the kernel lists it as held by {who}"),
            Why::FurtherOn => {
                format!("{who} likely holds it, being further on in the same function")
            }
            Why::OnlyOne => {
                format!("{who} likely holds it, for no other task seen in the module can")
            }
        })
    }
}

/// Who holds what each of the waiters waits for.
pub(super) fn find<'a>(evidence: &'a Evidence, waiters: &[Waiter<'a>]) -> Vec<Holders<'a>> {
    let listed = Listed::new(evidence, waiters);
    let places = Places::new(evidence, waiters);
    let of = |waiter: &Waiter<'a>| {
        if let Some((comm, pid)) = waiter.told {
            return Holders { tasks: vec![(comm, *pid)], why: Some(Why::Told) };
        }
        if !waiter.wait.is_lock() {
            return Holders::default();
        }
        let ways = [
            (listed.holders(waiter), Why::Listed),
            (places.further_on(waiter), Why::FurtherOn),
            (places.inside_module(waiter), Why::OnlyOne),
        ];
        let found = ways.into_iter().find(|(tasks, _)| !tasks.is_empty());
        found.map_or_else(Holders::default, |(tasks, why)| Holders { tasks, why: Some(why) })
    };
    waiters.iter().map(of).collect()
}

/// What the kernel lists of locks and who has asked for them.
struct Listed<'a> {
    /// The last one that each task asked for.
    last: BTreeMap<u32, u64>,
    /// Who holds a lock, by its address.
    holders: BTreeMap<u64, Vec<(&'a str, u32)>>,
}

impl<'a> Listed<'a> {
    fn new(evidence: &'a Evidence, waiters: &[Waiter<'a>]) -> Self {
        let waits = |waiter: &&Waiter<'_>| waiter.wait.is_lock();
        let waiting: BTreeSet<u32> =
            waiters.iter().filter(waits).map(|waiter| waiter.pid).collect();
        let mut listed = Self { last: BTreeMap::new(), holders: BTreeMap::new() };
        for holder in locks(evidence) {
            let Some((last, others)) = holder.locks.split_last() else { continue };
            listed.last.insert(holder.pid, last.address);
            // What a waiter asked for last it does not hold yet.
            let held = if waiting.contains(&holder.pid) { others } else { &holder.locks };
            for lock in held {
                let holders = listed.holders.entry(lock.address).or_default();
                if holders.len() <= SUSPECTS {
                    holders.push((holder.comm.as_str(), holder.pid));
                }
            }
        }
        listed
    }

    fn holders(&self, waiter: &Waiter<'_>) -> Vec<(&'a str, u32)> {
        let lock = self.last.get(&waiter.pid);
        few(lock.and_then(|lock| self.holders.get(lock)).cloned().unwrap_or_default())
    }
}

/// As SysRq brought it, or else as it stands on the console.
fn locks(evidence: &Evidence) -> &[locks::Holder] {
    let asked = evidence.sysrq.locks();
    if asked.is_empty() { &evidence.console.locks } else { asked }
}

/// A function, with the module that it belongs to.
type Function<'a> = (&'a str, Option<&'a str>);

/// Where all tasks are that were seen.
struct Places<'a> {
    /// Who is in a function that others wait in, by how far on.
    inside: BTreeMap<Function<'a>, Vec<(u64, &'a str, u32)>>,
    /// Who is in a module that others wait in and can have taken a lock there; a few of them.
    modules: BTreeMap<&'a str, Vec<(&'a str, u32)>>,
}

impl<'a> Places<'a> {
    fn new(evidence: &'a Evidence, waiters: &[Waiter<'a>]) -> Self {
        let sites = waiters.iter().filter_map(|waiter| site(waiter));
        let mut inside: BTreeMap<_, _> = sites.map(|(place, _)| (place, Vec::new())).collect();
        let mut crowds: BTreeMap<_, usize> = BTreeMap::new();
        for site in waiters.iter().filter_map(|waiter| site(waiter)) {
            *crowds.entry(site).or_default() += 1;
        }
        let crowded = |waiter: &Waiter<'a>| {
            site(waiter).is_some_and(|site| crowds.get(&site).is_some_and(|crowd| *crowd > 1))
        };
        let mut modules: BTreeMap<&str, Vec<_>> = BTreeMap::new();
        let mut seen: BTreeSet<u32> = BTreeSet::new();
        for waiter in waiters {
            seen.insert(waiter.pid);
            note(&mut inside, &waiter.calls, (waiter.comm, waiter.pid));
            if !crowded(waiter) && !asks_first(waiter) {
                note_modules(&mut modules, &waiter.calls, (waiter.comm, waiter.pid));
            }
        }
        let others = evidence.sysrq.tasks().into_iter().filter(|task| !seen.contains(&task.pid));
        for Task { comm, pid, trace, .. } in others {
            let calls = trace.calls();
            note(&mut inside, &calls, (comm, *pid));
            note_modules(&mut modules, &calls, (comm, *pid));
        }
        inside.values_mut().for_each(|places| places.sort_unstable());
        Self { inside, modules }
    }

    /// Who has passed the place where the waiter waits.
    fn further_on(&self, waiter: &Waiter<'_>) -> Vec<(&'a str, u32)> {
        let Some((function, offset)) = site(waiter) else { return Vec::new() };
        let Some(places) = self.inside.get(&function) else { return Vec::new() };
        let passed = &places[places.partition_point(|(at, ..)| *at <= offset)..];
        let others = passed.iter().filter(|(.., pid)| *pid != waiter.pid);
        let mut tasks: Vec<_> =
            others.take(SUSPECTS + 1).map(|(_, comm, pid)| (*comm, *pid)).collect();
        // Who calls himself is in a function twice.
        tasks.dedup();
        few(tasks)
    }

    /// Who else is inside the module whose function asks for the lock.
    fn inside_module(&self, waiter: &Waiter<'_>) -> Vec<(&'a str, u32)> {
        let module = waiter.calls.first().and_then(|frame| frame.module.as_deref());
        let tasks = module.and_then(|module| self.modules.get(module));
        let others = tasks.into_iter().flatten().filter(|(_, pid)| *pid != waiter.pid);
        few(others.copied().collect())
    }
}

/// Where a waiter asks for a lock.
fn site<'a>(waiter: &Waiter<'a>) -> Option<(Function<'a>, u64)> {
    let frame = waiter.calls.first().filter(|_| waiter.wait.is_lock())?;
    Some((function(frame), frame.offset))
}

fn function(frame: &Frame) -> Function<'_> {
    (frame.function.as_str(), frame.module.as_deref())
}

/// Whether the lock is the first thing that the task asks for in its whole life.
fn asks_first(waiter: &Waiter<'_>) -> bool {
    let [first, rest @ ..] = waiter.calls.as_slice() else { return false };
    waiter.wait.is_lock()
        && first.offset <= FIRST_CALL
        && rest.iter().all(|frame| is_entry(frame.name()))
}

fn note<'a>(
    inside: &mut BTreeMap<Function<'a>, Vec<(u64, &'a str, u32)>>,
    calls: &[&'a Frame],
    (comm, pid): (&'a str, u32),
) {
    for frame in calls {
        if let Some(places) = inside.get_mut(&function(frame)) {
            places.push((frame.offset, comm, pid));
        }
    }
}

fn note_modules<'a>(
    modules: &mut BTreeMap<&'a str, Vec<(&'a str, u32)>>,
    calls: &[&'a Frame],
    task: (&'a str, u32),
) {
    let names: BTreeSet<&str> = calls.iter().filter_map(|frame| frame.module.as_deref()).collect();
    for name in names {
        let tasks = modules.entry(name).or_default();
        // One more than is needed: the waiter itself may be among them.
        if tasks.len() <= SUSPECTS + 1 {
            tasks.push(task);
        }
    }
}

/// Of too many, none.
fn few<T>(tasks: Vec<T>) -> Vec<T> {
    if tasks.len() > SUSPECTS { Vec::new() } else { tasks }
}
