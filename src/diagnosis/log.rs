//! What the kernel itself reported on the console.

use super::functions::{is_delay, is_helper, is_reporting, waiting};
use super::say::{count, place, quoted};
use super::{Blame, Class, Confidence, Finding, life, record, signature};
use crate::evidence::Evidence;
use crate::evidence::kernel_log::{KernelLog, Report, ReportKind};
use crate::evidence::qmp::Qmp;
use crate::evidence::trace::Frame;

/// What an oops leaves locked is missed within minutes; what fails an hour later has other causes.
const RECENT_S: u64 = 600;

/// What says it.
const CONSOLE: &str = "the console";

/// The kernel gave up and said why.
pub(super) fn panic(evidence: &Evidence) -> Option<Finding> {
    let log = &evidence.console;
    let report = last_words(log)?;
    // A panicked kernel answers nothing: the report is of an earlier life, whose end was not seen.
    if life::kernel(evidence).is_some() {
        return None;
    }
    let mut finding = gave_up(log, report);
    finding.facts_for.insert(0, said(CONSOLE, report));
    confirm(evidence, &mut finding);
    Some(finding)
}

/// The report of a kernel that gave up.
pub(super) fn last_words(log: &KernelLog) -> Option<&Report> {
    let is_panic =
        |report: &&Report| matches!(report.kind, ReportKind::Panic | ReportKind::InitDied);
    log.reports.iter().find(is_panic)
}

/// The log of the kernel that is in memory now, and of no earlier one.
pub(super) fn of_memory(evidence: &Evidence) -> Option<&KernelLog> {
    evidence.memory.as_ref().filter(|memory| !memory.log.is_empty()).map(|_| &evidence.console)
}

/// What a kernel gave up for, by its own words.
pub(super) fn gave_up(log: &KernelLog, report: &Report) -> Finding {
    if report.kind == ReportKind::InitDied {
        init_died(report)
    } else {
        panicked(report, cause(log, report))
    }
}

/// The kernel killed a task for a mistake of its own, and was not heard of since.
pub(super) fn oops(evidence: &Evidence) -> Option<Finding> {
    if life::went_on(evidence) {
        return None;
    }
    oopsed(evidence, &evidence.console, CONSOLE)
}

/// The kernel killed a task for a mistake of its own and went on, and memory shows nothing worse.
pub(super) fn survived(evidence: &Evidence) -> Option<Finding> {
    evidence.memory.as_ref()?;
    oopsed(evidence, &evidence.console, CONSOLE)
}

/// The first oops of a log, of which `source` tells.
pub(super) fn oopsed(evidence: &Evidence, log: &KernelLog, source: &str) -> Option<Finding> {
    let report = log.first(ReportKind::Oops)?;
    let mut finding = Finding::new(Class::Oops, Blame::GuestKernel, Confidence::Medium);
    let reason = quoted(&report.reason);
    finding.title = with_place(format!("kernel oops: {reason}"), &mut finding, &guilty(report));
    finding.facts_for.push(said(source, report));
    if !report.who.comm.is_empty() {
        let who = quoted(&report.who.comm);
        finding.facts_for.push(format!("it killed {who}, and any lock that it held stays locked"));
    }
    let blocked = evidence.sysrq.blocked().len();
    if blocked > 0 {
        finding.facts_for.push(format!("{} cannot go on since", count(blocked, "task")));
    }
    if let Some(life) = life::kernel(evidence) {
        finding.facts_against.push(format!("the kernel went on: {life}"));
        if went_on_s(log, report) > RECENT_S {
            finding.confidence = Confidence::Low;
        }
    }
    Some(finding)
}

/// For how long the kernel went on printing after a report.
fn went_on_s(log: &KernelLog, report: &Report) -> u64 {
    let last_us = log.last_us.unwrap_or_default();
    last_us.saturating_sub(report.time_us.unwrap_or(last_us)) / 1_000_000
}

/// RCU was held up, and nothing else tells by whom.
pub(super) fn stall(evidence: &Evidence) -> Option<Finding> {
    let report = evidence.console.first(ReportKind::RcuStall)?;
    if life::kernel(evidence).is_some() {
        return None;
    }
    let mut finding = Finding::new(Class::SoftLockup, Blame::GuestKernel, Confidence::Low);
    let frames = guilty(report);
    finding.title = with_place("a CPU held up the kernel".to_owned(), &mut finding, &frames);
    finding.facts_for.push(said(CONSOLE, report));
    Some(finding)
}

fn panicked(report: &Report, cause: Option<&Report>) -> Finding {
    let mut finding = Finding::new(Class::Panic, Blame::GuestKernel, Confidence::Medium);
    let reason = quoted(&report.reason);
    if let Some(cause) = cause {
        let first = quoted(&cause.reason);
        finding.facts_for.push(format!("before it, the kernel said: {first}"));
        let title = format!("kernel panic: {reason}, after {first}");
        finding.title = with_place(title, &mut finding, &guilty(cause));
        return finding;
    }
    if let Some(resource) = resource(&report.reason) {
        finding.title = format!("kernel panic: {reason}");
        finding.subject = resource.to_owned();
        return finding;
    }
    if report.reason.starts_with("sysrq triggered crash") {
        // Somebody asked for it.
        finding.blame = Blame::Unknown;
    }
    finding.title = with_place(format!("kernel panic: {reason}"), &mut finding, &guilty(report));
    finding
}

fn init_died(report: &Report) -> Finding {
    let mut finding = Finding::new(Class::Panic, Blame::GuestUserspace, Confidence::Medium);
    finding.subject = "init".to_owned();
    finding.title = "kernel panic: the guest's first process ended".to_owned();
    finding.facts_for.push(match report.reason.split_once("exitcode=") {
        Some((_, code)) => format!("its exit code was {}", quoted(code)),
        None => "its exit code was not printed".to_owned(),
    });
    finding
}

/// Panics that are about a thing rather than a function.
fn resource(reason: &str) -> Option<&'static str> {
    const RESOURCES: [(&str, &str); 4] = [
        ("VFS: Unable to mount root fs", "no-root"),
        ("No working init found", "no-init"),
        ("Out of memory", "oom"),
        ("System is deadlocked on memory", "oom"),
    ];
    RESOURCES.iter().find(|(begin, _)| reason.starts_with(begin)).map(|(_, name)| *name)
}

/// The report that a panic only follows from.
fn cause<'a>(log: &'a KernelLog, panic: &Report) -> Option<&'a Report> {
    const FOLLOWS: [(&str, &[ReportKind]); 7] = [
        ("Fatal exception", &[ReportKind::Oops]),
        ("Machine halted", &[ReportKind::Oops]),
        ("Attempted to kill the idle task", &[ReportKind::Oops]),
        ("softlockup: hung tasks", &[ReportKind::SoftLockup]),
        ("hung_task: blocked tasks", &[ReportKind::HungTask]),
        ("RCU Stall", &[ReportKind::RcuStall]),
        ("Hard LOCKUP", &[ReportKind::HardLockup]),
    ];
    let (_, kinds) = FOLLOWS.iter().find(|(begin, _)| panic.reason.starts_with(begin))?;
    let mut earlier = log.reports.iter().rev();
    earlier.find(|report| report.span.end <= panic.span.start && kinds.contains(&report.kind))
}

/// Where a report points to: its calls without those that only report, wait or help.
fn guilty(report: &Report) -> Vec<&Frame> {
    let calls = report.trace.calls();
    let panics = calls.iter().rposition(|frame| matches!(frame.name(), "panic" | "vpanic"));
    let after = calls.get(panics.map_or(0, |at| at + 1)..).unwrap_or_default();
    if report.kind == ReportKind::HungTask {
        return waiting(after).1;
    }
    let says_nothing = |frame: &&&Frame| {
        let name = frame.name();
        is_reporting(name) || is_delay(name) || is_helper(name)
    };
    after.iter().skip_while(says_nothing).copied().collect()
}

/// Names the subject, and adds it to the title.
fn with_place(title: String, finding: &mut Finding, frames: &[&Frame]) -> String {
    let Some((first, callers)) = frames.split_first() else { return title };
    finding.subject = first.name().to_owned();
    finding.callers = signature::callers(callers);
    format!("{title} (in {})", place(first))
}

/// That `source` tells of a report.
pub(super) fn said(source: &str, report: &Report) -> String {
    let reason = quoted(&report.reason);
    let what = match report.kind {
        ReportKind::Panic | ReportKind::InitDied => "a panic",
        ReportKind::Oops => "an oops",
        ReportKind::SoftLockup => "a soft lockup",
        ReportKind::HardLockup => "a hard lockup",
        ReportKind::RcuStall => "an RCU stall",
        ReportKind::HungTask => "a hung task",
        ReportKind::OomKill => "a kill for want of memory",
    };
    match report.time_us {
        Some(us) => format!("{source} reports {what} {} s after boot: {reason}", us / 1_000_000),
        None => format!("{source} reports {what}: {reason}"),
    }
}

/// Facts about a panic from other sources than the console.
fn confirm(evidence: &Evidence, finding: &mut Finding) {
    let facts = finding.facts_for.len();
    if evidence.qmp.as_ref().is_some_and(|qmp| qmp.status.as_deref() == Some("shutdown")) {
        finding.facts_for.push(
            "the hypervisor holds the guest as its kernel left it: its run state is shutdown"
                .to_owned(),
        );
    }
    finding.facts_for.extend(died(evidence));
    finding.facts_for.extend(record::confirms_panic(evidence));
    if evidence.sysrq.silent() {
        finding.facts_for.push("the kernel did not answer SysRq".to_owned());
    }
    if finding.facts_for.len() > facts {
        finding.confidence = Confidence::High;
    }
}

/// What only a kernel that gave up leaves behind in its machine.
pub(super) fn died(evidence: &Evidence) -> Vec<String> {
    let mut facts = Vec::new();
    if evidence.qmp.as_ref().is_some_and(Qmp::told_of_panic) {
        facts.push("the guest told the hypervisor that it panicked".to_owned());
    }
    if super::cpu::all_apics_are_off(evidence) {
        facts.push(
            "the interrupt controllers of all CPUs are off, as a panic leaves them".to_owned(),
        );
    }
    facts
}
