//! The first lines of reports.
//!
//! Each is matched from the start of the kernel's text, in the kernel's own words, so that firmware
//! and processes that write `WARNING:` or `panic:` are not taken for it.

use super::report::{Report, ReportKind};
use crate::evidence::line::Line;
use crate::evidence::who::{comm_and_pid, number};

/// A report that begins with this line.
pub(super) fn read(line: &Line<'_>) -> Option<Report> {
    let text = line.text.as_ref();
    // Cheap and true of every headline: almost all lines of a healthy console end here.
    if !text.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return None;
    }
    let plain = without_prefix(text);
    panic(text, line)
        .or_else(|| oops(text, line))
        .or_else(|| soft_lockup(plain, line))
        .or_else(|| hard_lockup(plain, line))
        .or_else(|| rcu_stall(plain, line))
        .or_else(|| hung_task(plain, line))
        .or_else(|| oom_kill(plain, line))
}

/// Kernels differ in which part of them they say is speaking.
fn without_prefix(text: &str) -> &str {
    const PREFIXES: [&str; 5] =
        ["NMI watchdog: ", "watchdog: ", "rcu: ", "hung_task: ", "workqueue: "];
    PREFIXES.iter().find_map(|prefix| text.strip_prefix(prefix)).unwrap_or(text)
}

fn panic(text: &str, line: &Line<'_>) -> Option<Report> {
    let reason = text.strip_prefix("Kernel panic - not syncing")?;
    let reason = reason.strip_prefix(':').unwrap_or(reason);
    let kind = if reason.trim_start().starts_with("Attempted to kill init") {
        ReportKind::InitDied
    } else {
        ReportKind::Panic
    };
    Some(Report::new(kind, reason, line))
}

fn oops(text: &str, line: &Line<'_>) -> Option<Report> {
    const BEGINS: [&str; 11] = [
        "BUG: unable to handle ",
        "BUG: kernel NULL pointer dereference",
        "BUG: stack guard page was hit",
        "BUG: TASK stack guard page was hit",
        "Unable to handle kernel ",
        "Internal error: ",
        "Oops: ",
        "Oops[#",
        "kernel BUG at ",
        "kernel tried to execute ",
        "PANIC: double fault",
    ];
    // These also begin lines about processes, but only the kernel's own mistakes are numbered.
    const NUMBERED: [&str; 6] = [
        "general protection fault",
        "divide error: ",
        "divide_error: ",
        "invalid opcode: ",
        "stack segment: ",
        "double fault: ",
    ];
    let begins = |begin: &str| text.starts_with(begin);
    let numbered = text.contains("[#") || text.contains("probably for non-canonical address");
    let is_oops = BEGINS.iter().any(|begin| begins(begin))
        || numbered && NUMBERED.iter().any(|begin| begins(begin));
    is_oops.then(|| Report::new(ReportKind::Oops, text.strip_prefix("BUG: ").unwrap_or(text), line))
}

/// `BUG: soft lockup - CPU#1 stuck for 23s! [sh:77]`
fn soft_lockup(text: &str, line: &Line<'_>) -> Option<Report> {
    let rest = text.strip_prefix("BUG: soft lockup - CPU#")?;
    let mut report = Report::new(ReportKind::SoftLockup, text.trim_start_matches("BUG: "), line);
    report.who.cpu = number(rest);
    report.seconds = rest.split_once(" stuck for ").and_then(|(_, time)| number(time));
    let task = rest.split_once("! [").and_then(|(_, task)| task.trim_end().strip_suffix(']'));
    if let Some((name, pid)) = task.and_then(comm_and_pid) {
        report.name_task(&name, Some(pid));
    }
    Some(report)
}

/// `Watchdog detected hard LOCKUP on cpu 1`
fn hard_lockup(text: &str, line: &Line<'_>) -> Option<Report> {
    let rest = text.strip_prefix("Watchdog detected hard LOCKUP on cpu ")?;
    let mut report = Report::new(ReportKind::HardLockup, text, line);
    report.who.cpu = number(rest);
    Some(report)
}

/// `INFO: rcu_preempt detected stalls on CPUs/tasks:`, `INFO: rcu_sched self-detected stall on CPU`
fn rcu_stall(text: &str, line: &Line<'_>) -> Option<Report> {
    let rest = text.strip_prefix("INFO: ").filter(|rest| rest.starts_with("rcu"))?;
    let stalls = ["detected stall", "detected expedited stall"];
    if !stalls.iter().any(|stall| rest.contains(stall)) {
        return None;
    }
    let mut report = Report::new(ReportKind::RcuStall, rest, line);
    let listed = rest.split_once("{ ").or_else(|| rest.split_once("on CPU "));
    report.who.cpu = listed.and_then(|(_, cpu)| number(cpu));
    Some(report)
}

/// `INFO: task sh:77 blocked for more than 120 seconds.`, since 6.18 with `in I/O wait` in its midst
fn hung_task(text: &str, line: &Line<'_>) -> Option<Report> {
    let rest = text.strip_prefix("INFO: task ")?;
    let split = |by| rest.split_once(by);
    let (task, time) = split(" blocked for more than ")
        .or_else(|| split(" blocked in I/O wait for more than "))
        .or_else(|| split(" can't die for more than "))?;
    let (name, pid) = comm_and_pid(task)?;
    let mut report = Report::new(ReportKind::HungTask, text.trim_start_matches("INFO: "), line);
    report.name_task(&name, Some(pid));
    report.seconds = number(time);
    Some(report)
}

/// `Out of memory: Killed process 77 (sh) total-vm:..`
fn oom_kill(text: &str, line: &Line<'_>) -> Option<Report> {
    let memory = ["Out of memory", "Memory cgroup out of memory"];
    if !memory.iter().any(|begin| text.starts_with(begin)) {
        return None;
    }
    let (_, rest) = text.split_once("Kill")?;
    let (_, killed) = rest.split_once(" process ")?;
    let mut report = Report::new(ReportKind::OomKill, text, line);
    let name = killed.split_once('(').and_then(|(_, name)| name.split_once(')'));
    report.name_task(name.map_or("", |(name, _)| name), number(killed));
    Some(report)
}
