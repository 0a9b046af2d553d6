//! What the threads of a process do, from `/proc/PID/task`.

use super::root::{Root, field};
use crate::base::limits;
use crate::evidence::host::Thread;
use crate::hypervisor::process::named;
use std::collections::BTreeMap;

/// `/proc` counts CPU time in ticks of USER_HZ, which is 100 on every Linux.
const TICK_MS: u64 = 10;

/// Calls of a stack that are kept, the innermost first: the rest is how every system call begins.
const FRAMES: usize = 16;

/// What is said of a thread at one moment.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Sample {
    pub(super) name: String,
    pub(super) state: String,
    cpu: Option<u32>,
    ticks: u64,
    /// Time in which it was ready to run and another thread had the CPU.
    waited_ns: u64,
    affinity: String,
    voluntary: u64,
    involuntary: u64,
}

/// All threads of a process by their id.
pub(super) fn look(root: &Root, pid: u32) -> BTreeMap<u32, Sample> {
    let tasks = format!("/proc/{pid}/task");
    let ids = root.names(&tasks, limits::HOST_THREADS).unwrap_or_default();
    let sampled = ids.iter().filter_map(|tid| {
        let (id, of) = (tid.parse().ok()?, format!("{tasks}/{tid}"));
        Some((id, sample(root, &of)?))
    });
    sampled.collect()
}

/// A process or one of its threads.
pub(super) fn sample(root: &Root, of: &str) -> Option<Sample> {
    let mut sample = parse_stat(&root.text(&format!("{of}/stat")).ok()?)?;
    let schedstat = root.text(&format!("{of}/schedstat")).unwrap_or_default();
    let waited = schedstat.split_whitespace().nth(1).and_then(|waited| waited.parse().ok());
    sample.waited_ns = waited.unwrap_or_default();
    let status = root.text(&format!("{of}/status")).unwrap_or_default();
    let affinity = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    affinity.unwrap_or_default().trim().clone_into(&mut sample.affinity);
    sample.voluntary = field(&status, "voluntary_ctxt_switches:").unwrap_or_default();
    sample.involuntary = field(&status, "nonvoluntary_ctxt_switches:").unwrap_or_default();
    Some(sample)
}

/// What they did between two looks, and where they wait. Gives whether stacks are kept from us, too.
pub(super) fn compare(
    root: &Root,
    pid: u32,
    first: &BTreeMap<u32, Sample>,
    second: BTreeMap<u32, Sample>,
) -> (Vec<Thread>, bool) {
    let mut stacks = limits::HOST_STACKS;
    let mut kept_from_us = false;
    let threads = second.into_iter().map(|(tid, now)| {
        let of = format!("/proc/{pid}/task/{tid}");
        let mut thread = between(tid, first.get(&tid), now);
        thread.waits_in = waits_in(root, &of);
        if stacks > 0 && thread.state != "R" {
            stacks -= 1;
            match root.text(&format!("{of}/stack")) {
                Ok(text) => thread.stack = stack(&text),
                Err(_) => kept_from_us = true,
            }
        }
        thread
    });
    (threads.collect(), kept_from_us)
}

fn between(tid: u32, before: Option<&Sample>, now: Sample) -> Thread {
    let then = before.unwrap_or(&now);
    Thread {
        tid,
        cpu_ms: now.ticks.saturating_sub(then.ticks).saturating_mul(TICK_MS),
        wait_ms: now.waited_ns.saturating_sub(then.waited_ns) / 1_000_000,
        slept: now.voluntary.saturating_sub(then.voluntary),
        preempted: now.involuntary.saturating_sub(then.involuntary),
        total_cpu_ms: now.ticks.saturating_mul(TICK_MS),
        before: before.map_or(String::new(), |before| before.state.clone()),
        cpu: now.cpu,
        affinity: now.affinity,
        name: now.name,
        state: now.state,
        waits_in: String::new(),
        stack: Vec::new(),
    }
}

fn parse_stat(stat: &str) -> Option<Sample> {
    let (name, rest) = named(stat)?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(Sample {
        name: name.to_owned(),
        state: fields.first()?.chars().next()?.to_string(),
        ticks: number(11)?.saturating_add(number(12)?),
        cpu: number(36).and_then(|cpu| cpu.try_into().ok()),
        ..Sample::default()
    })
}

fn waits_in(root: &Root, task: &str) -> String {
    let function = root.line(&format!("{task}/wchan")).unwrap_or_default();
    if function == "0" { String::new() } else { function }
}

/// `[<0>] futex_do_wait+0x46/0x90`
fn stack(text: &str) -> Vec<String> {
    let calls = text.lines().filter_map(|line| Some(line.split_once("] ")?.1.to_owned()));
    calls.take(FRAMES).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read_past_a_hostile_name() {
        let stat = "42 (CPU 0/KVM) S) R 1 42 42 0 -1 4194624 9 0 0 0 700 300 0 0 20 0 6 0";
        let sample = parse_stat(stat).unwrap();
        assert_eq!((&*sample.name, &*sample.state, sample.ticks), ("CPU 0/KVM) S", "R", 1000));
        assert!(parse_stat("42 (x) R 1").is_none());
    }

    #[test]
    fn what_a_thread_did_is_the_difference() {
        let first = Sample {
            state: "R".to_owned(),
            ticks: 100,
            waited_ns: 5_000_000,
            voluntary: 7,
            ..Sample::default()
        };
        let now = Sample {
            state: "D".to_owned(),
            ticks: 125,
            waited_ns: 705_999_999,
            voluntary: 8,
            involuntary: 90,
            ..Sample::default()
        };
        let thread = between(1, Some(&first), now.clone());
        assert_eq!((thread.cpu_ms, thread.wait_ms, thread.total_cpu_ms), (250, 700, 1250));
        assert_eq!((thread.slept, thread.preempted), (1, 90));
        assert_eq!((&*thread.before, &*thread.state), ("R", "D"));
        let new = between(1, None, now);
        assert_eq!((new.cpu_ms, new.wait_ms, &*new.before), (0, 0, ""));
    }
}
