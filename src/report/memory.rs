//! A guest's memory as a person reads it: CPUs, who waits for whom, stacks, the log's end.

use crate::base::text::harmless_line;
use crate::base::time::Spoken;
use crate::evidence::memory::{Cpu, Doing, Memory, Task, Wait};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::Duration;

/// Lines of the log's end.
const LOG_LINES: usize = 15;

/// Stacks of tasks that wait; more than these are counted.
const STACKS: usize = 12;

/// What disks did not answer yet.
const REQUESTS: usize = 4;

/// Names of tasks that share a stack.
const NAMES: usize = 6;

/// Lines of trees of waiting tasks.
const WAITING: usize = 64;

/// How deep a tree of waiting tasks is drawn.
const DEPTH: usize = 16;

/// Calls of a stack that are shown.
const CALLS: usize = 16;

/// All that it shows.
#[must_use]
pub fn memory(memory: &Memory) -> String {
    let mut page = String::new();
    let up = Spoken(Duration::from_millis(memory.uptime_ms));
    line(
        &mut page,
        &format!("Linux {}, up {up}, {} tasks", harmless(&memory.release), memory.tasks.len()),
    );
    keys(memory, &mut page);
    memory.cpus.iter().for_each(|cpu| line(&mut page, &told_cpu(cpu)));
    file_systems(memory, &mut page);
    requests(memory, &mut page);
    trees(memory, &mut page);
    stacks(memory, &mut page);
    log(memory, &mut page);
    for doubt in &memory.doubts {
        line(&mut page, &format!("\nnot sure: {doubt}"));
    }
    let cost = memory.cost;
    line(
        &mut page,
        &format!("\nread {} KiB of the guest's memory in {} pieces", cost.bytes / 1024, cost.reads),
    );
    page
}

fn keys(memory: &Memory, page: &mut String) {
    let mask = memory.sysrq_mask.map(|mask| match mask {
        0 => "SysRq is off".to_owned(),
        1 => "SysRq may do everything".to_owned(),
        mask => format!("SysRq may do what its mask {mask} says"),
    });
    let level = memory.console_level.map(|level| format!("the console's log level is {level}"));
    let known: Vec<String> = mask.into_iter().chain(level).collect();
    if !known.is_empty() {
        line(page, &known.join(", "));
    }
}

fn told_cpu(cpu: &Cpu) -> String {
    let does = match (cpu.doing(), cpu.idle) {
        (_, true) => "idle",
        (None, _) => "runs",
        (Some(Doing { user: true, interrupted: false, .. }), _) => "in a process",
        (Some(Doing { user: true, .. }), _) => "in an interrupt of a process",
        (Some(Doing { interrupted: true, .. }), _) => "in an interrupt of the kernel",
        (Some(Doing { interrupts_on: true, .. }), _) => "in the kernel",
        (Some(_), _) => "in the kernel, interrupts off",
    };
    let who = match cpu.idle {
        true => String::new(),
        false => format!(", {} ({}), {} to run", harmless(&cpu.comm), cpu.pid, cpu.running),
    };
    let did = cpu.progress.map(|progress| {
        let over = Spoken(Duration::from_millis(progress.after_ms));
        let events = progress.timer_events.filter(|_| !cpu.idle);
        let events = events.map(|events| format!(" and {events} timer interrupts"));
        format!("; {} switches{} in {over}", progress.switches, events.unwrap_or_default())
    });
    let at = match cpu.idle || cpu.stack.is_empty() {
        true => String::new(),
        false => format!("\n    {}", calls(&cpu.stack)),
    };
    format!("CPU {}: {does}{who}{}{at}", cpu.index, did.unwrap_or_default())
}

fn file_systems(memory: &Memory, page: &mut String) {
    for it in memory.file_systems.iter().filter(|it| it.frozen || it.read_only) {
        let state = if it.frozen { "frozen" } else { "read-only" };
        line(page, &format!("{} on {}: {state}", harmless(&it.kind), harmless(&it.name)));
    }
}

fn requests(memory: &Memory, page: &mut String) {
    for it in memory.requests.iter().take(REQUESTS) {
        let age = it.age_ms.map(|ms| format!(" for {}", Spoken(Duration::from_millis(ms))));
        let (disk, operation) = (harmless(&it.disk), harmless(&it.operation));
        let age = age.unwrap_or_default();
        line(
            page,
            &format!("{disk} has a {operation} of {} bytes at sector {}{age}", it.bytes, it.sector),
        );
    }
}

/// Who holds a lock stands above those who wait for it.
fn trees(memory: &Memory, page: &mut String) {
    if memory.waits.is_empty() {
        return;
    }
    line(page, "\nwho waits for whom");
    let all = forest(memory);
    all.lines().take(WAITING).for_each(|shown| line(page, shown));
    let more = all.lines().count().saturating_sub(WAITING);
    if more > 0 {
        line(page, &format!("  and {more} lines more"));
    }
}

/// All trees, however many there are.
fn forest(memory: &Memory) -> String {
    let mut page = String::new();
    let mut waiters: BTreeMap<Option<u32>, Vec<&Wait>> = BTreeMap::new();
    for wait in &memory.waits {
        waiters.entry(wait.owner).or_default().push(wait);
    }
    let mut drawn = BTreeSet::new();
    for ring in memory.rings() {
        let first = ring.first().map_or(0, |wait| wait.pid);
        line(&mut page, &format!("  {} waits for itself, by way of others", named(memory, first)));
        draw(memory, &waiters, first, &mut page, &mut drawn);
    }
    let roots: BTreeSet<u32> = memory.roots().into_iter().flatten().collect();
    for root in roots {
        let state = memory.task(root).map_or('?', |task| task.state);
        line(&mut page, &format!("  {} holds ({state})", named(memory, root)));
        draw(memory, &waiters, root, &mut page, &mut drawn);
    }
    let mut heads = BTreeSet::new();
    for wait in waiters.get(&None).into_iter().flatten() {
        let lock = wait
            .frozen
            .as_ref()
            .map_or_else(|| harmless(&wait.lock), |it| format!("{} to be thawed", harmless(it)));
        line(
            &mut page,
            &format!(
                "  {} waits for {lock}, held by nobody that is known",
                named(memory, wait.pid)
            ),
        );
        // A hostile guest has a thousand tasks of one number, and a thousand that wait for it.
        if heads.insert(wait.pid) {
            draw(memory, &waiters, wait.pid, &mut page, &mut drawn);
        }
    }
    page
}

/// Draws those that wait for a task, each once, without recursion on the guest's behalf.
fn draw(
    memory: &Memory,
    waiters: &BTreeMap<Option<u32>, Vec<&Wait>>,
    root: u32,
    page: &mut String,
    drawn: &mut BTreeSet<u32>,
) {
    let mut stack: Vec<(&Wait, usize)> =
        waiters.get(&Some(root)).into_iter().flatten().rev().map(|wait| (*wait, 1)).collect();
    while let Some((wait, depth)) = stack.pop() {
        let again = !drawn.insert(wait.pid);
        let mark = match again {
            _ if wait.pid == root => ", which closes the ring",
            true => " (above)",
            false => "",
        };
        let indent = "  ".repeat(depth);
        line(
            page,
            &format!(
                "  {indent}`- {} waits for {}{mark}",
                named(memory, wait.pid),
                harmless(&wait.lock)
            ),
        );
        if !again && depth < DEPTH && wait.pid != root {
            let next = waiters.get(&Some(wait.pid)).into_iter().flatten().rev();
            stack.extend(next.map(|wait| (*wait, depth + 1)));
        }
    }
}

/// Stacks of those that wait without taking signals, the ones that most share first.
fn stacks(memory: &Memory, page: &mut String) {
    let mut groups: BTreeMap<usize, Vec<&Task>> = BTreeMap::new();
    for task in memory.tasks.iter().filter(|task| task.state == 'D') {
        groups.entry(task.stack.unwrap_or(usize::MAX)).or_default().push(task);
    }
    let mut groups: Vec<Vec<&Task>> = groups.into_values().collect();
    groups.sort_by_key(|group| std::cmp::Reverse(group.len()));
    if !groups.is_empty() {
        line(page, "\nblocked");
    }
    for group in groups.iter().take(STACKS) {
        let mut names: Vec<String> = group.iter().take(NAMES).map(|task| aged(task)).collect();
        names.extend((group.len() > NAMES).then(|| format!("{} more", group.len() - NAMES)));
        line(page, &format!("  {}", names.join(", ")));
        let stack = group.first().map(|task| memory.stack(task)).unwrap_or_default();
        line(page, &format!("    {}", calls(stack)));
    }
    if groups.len() > STACKS {
        line(page, &format!("  and {} more stacks", groups.len() - STACKS));
    }
}

fn log(memory: &Memory, page: &mut String) {
    let lines: Vec<&str> = memory.log.lines().collect();
    if !lines.is_empty() {
        line(page, "\nthe end of the kernel's log");
    }
    for text in lines.iter().skip(lines.len().saturating_sub(LOG_LINES)) {
        line(page, &format!("  {}", harmless(text)));
    }
}

fn named(memory: &Memory, pid: u32) -> String {
    memory.task(pid).map_or_else(|| format!("task {pid}"), aged)
}

fn aged(task: &Task) -> String {
    let since = task.since_ms.map(|ms| format!(", {}", Spoken(Duration::from_millis(ms))));
    let moved = if task.moved { ", not sure" } else { "" };
    format!("{} ({}{}{moved})", harmless(&task.comm), task.pid, since.unwrap_or_default())
}

/// Calls without where in them, for those who read and do not disassemble.
fn calls(stack: &[String]) -> String {
    let mut shown: Vec<String> =
        stack.iter().take(CALLS).map(|call| harmless(&short(call))).collect();
    shown.extend((stack.len() > CALLS).then(|| "..".to_owned()));
    if shown.is_empty() { "its stack is not known".to_owned() } else { shown.join(" < ") }
}

/// `function+0x12/0x34 [module]` as `function [module]`.
fn short(call: &str) -> String {
    let (function, rest) = call.split_once('+').unwrap_or((call, ""));
    match rest.split_once(' ') {
        Some((_, module)) => format!("{function} {module}"),
        None => function.to_owned(),
    }
}

fn harmless(text: &str) -> String {
    harmless_line(text.as_bytes())
}

fn line(page: &mut String, text: &str) {
    writeln!(page, "{text}").expect("a string takes all");
}

#[cfg(test)]
mod tests;
