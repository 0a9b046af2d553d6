//! Which CPUs spin, by registers, by time on the host, and by the kernel's own backtraces.

use super::super::functions::{is_entry, is_printing};
use super::dumps;
use super::life::vcpus;
use crate::evidence::Evidence;
use crate::evidence::kernel_log::{Report, ReportKind};
use crate::evidence::qmp::Cpu;
use crate::evidence::trace::{Frame, Trace};
use crate::evidence::who::Who;

/// A thread that never rests gets at least so much of its time, in percent.
const BUSY_PERCENT: u64 = 90;

/// Samples of one loop lie as near to each other as its functions: some KiB.
const LOOP_BYTES: u64 = 16 * 1024;

/// A CPU that spins, with what tells so.
pub(super) struct Spin<'a> {
    pub(super) cpu: u32,
    /// Innermost first; empty where the guest printed none.
    pub(super) calls: Vec<&'a Frame>,
    pub(super) who: Option<&'a Who>,
    pub(super) facts: Vec<String>,
    /// Whether the guest noticed by itself.
    pub(super) reported: bool,
    /// Whether it sleeps rather than spins, and no interrupt can wake it.
    pub(super) sleeps: bool,
}

/// CPUs that take no interrupts and do not rest.
pub(super) fn with_interrupts_off(evidence: &Evidence) -> Vec<Spin<'_>> {
    spins(evidence, false)
}

/// CPUs that take interrupts, but stay in one place of the kernel.
pub(super) fn with_interrupts_on(evidence: &Evidence) -> Vec<Spin<'_>> {
    spins(evidence, true)
}

fn spins(evidence: &Evidence, interrupts_on: bool) -> Vec<Spin<'_>> {
    let mut indices: Vec<u32> = vcpus(evidence).iter().map(|cpu| cpu.index).collect();
    indices.extend(evidence.sysrq.cpus().iter().map(|backtrace| backtrace.cpu));
    indices.extend(evidence.console.reports.iter().filter_map(|report| report.who.cpu));
    indices.extend(dumps::owing(evidence));
    indices.sort_unstable();
    indices.dedup();
    indices.into_iter().filter_map(|cpu| spin(evidence, cpu, interrupts_on)).collect()
}

fn spin(evidence: &Evidence, index: u32, interrupts_on: bool) -> Option<Spin<'_>> {
    let report = report(evidence, index, interrupts_on);
    let vcpu = vcpus(evidence).iter().find(|cpu| cpu.index == index && !cpu.samples.is_empty());
    let backtrace = evidence.sysrq.cpu(index);
    let rests = backtrace.is_some_and(|cpu| cpu.idle || cpu.in_process());
    let backtrace = backtrace.filter(|cpu| !rests && !cpu.trace.is_empty());
    let stuck = |cpu| match interrupts_on {
        true => never_leaves_the_kernel(evidence, cpu, report.is_some() || backtrace.is_some()),
        false => takes_no_interrupts(evidence, cpu),
    };
    // A report is of the past: a CPU that does something else now has come back.
    if rests || vcpu.is_some_and(|cpu| !stuck(cpu)) {
        return None;
    }
    let mut facts: Vec<String> = Vec::new();
    facts.extend(vcpu.map(|cpu| by_registers(evidence, cpu, interrupts_on)));
    facts.extend(report.map(|report| by_report(report, index)));
    facts.extend(dumps::owes_timers(evidence, index).filter(|_| !interrupts_on));
    // Who writes much to a slow console is always found at it, and gets on.
    let prints = backtrace.is_some_and(|cpu| prints(&cpu.trace));
    let kept = dumps::keeps_cpu(evidence, index).filter(|_| !interrupts_on && !prints);
    // One look at a CPU that happens to run proves nothing.
    if facts.is_empty() && kept.is_none() || interrupts_on && report.is_none() && prints {
        return None;
    }
    let now = backtrace.map(|cpu| cpu.trace.calls()).unwrap_or_default();
    facts.extend(now.first().map(|frame| {
        let kept = kept.map(|kept| format!(", {kept}")).unwrap_or_default();
        format!("its backtrace shows CPU {index} in {}{kept}", frame.name())
    }));
    let named = backtrace.map(|cpu| (&cpu.trace, &cpu.who));
    let named = named.or_else(|| report.map(|report| (&report.trace, &report.who)));
    let (calls, who) = named.map(|(trace, who)| (calls(trace), who)).unzip();
    let reported = report.is_some();
    let sleeps = vcpu.is_some_and(sleeps);
    Some(Spin { cpu: index, calls: calls.unwrap_or_default(), who, facts, reported, sleeps })
}

fn prints(trace: &Trace) -> bool {
    trace.calls().iter().any(|frame| is_printing(frame.name()))
}

/// Calls down to where the kernel was entered.
fn calls(trace: &Trace) -> Vec<&Frame> {
    trace.calls().into_iter().take_while(|frame| !is_entry(frame.name())).collect()
}

/// For a moment every kernel takes no interrupts, but then the timer does not wait for long.
fn takes_no_interrupts(evidence: &Evidence, cpu: &Cpu) -> bool {
    let off = cpu.samples.iter().all(|registers| !registers.interrupts_on());
    let timer_pending = cpu.apic.map(|apic| apic.timer_pending);
    let seen_twice = cpu.samples.len() > 1 && timer_pending != Some(false);
    // A guest that knows of KVM lets a CPU sleep while it waits for a spin lock.
    let waits_asleep =
        cpu.apic.is_some_and(|apic| apic.enabled && apic.timer_pending) && sleeps(cpu);
    // All samples may have hit upon an interrupt, above all where the host keeps a CPU waiting in it.
    let seen = evidence.memory.as_ref().and_then(|memory| memory.cpu(cpu.index));
    let took_some = seen.and_then(|cpu| cpu.took_interrupts()).unwrap_or(false);
    off && !took_some
        && (stays_in_kernel(evidence, cpu) || waits_asleep)
        && is_one_loop(cpu)
        && (evidence.sysrq.silent() || seen_twice)
}

/// A sample may hit upon the timer's interrupt, so that where the guest itself tells where the CPU
/// is, the samples need not agree.
fn never_leaves_the_kernel(evidence: &Evidence, cpu: &Cpu, told: bool) -> bool {
    let on = cpu.samples.iter().all(|registers| registers.interrupts_on());
    stays_in_kernel(evidence, cpu) && (told || on && cpu.samples.len() > 1 && is_one_loop(cpu))
}

fn stays_in_kernel(evidence: &Evidence, cpu: &Cpu) -> bool {
    let in_kernel = cpu.samples.iter().all(|registers| !registers.halted && registers.cpl == 0);
    in_kernel && is_busy(evidence, cpu)
}

fn sleeps(cpu: &Cpu) -> bool {
    cpu.samples.iter().all(|registers| registers.halted)
}

fn is_one_loop(cpu: &Cpu) -> bool {
    let rips = || cpu.samples.iter().map(|registers| registers.rip);
    rips().max().unwrap_or_default() - rips().min().unwrap_or_default() <= LOOP_BYTES
}

/// On a busy host a thread that never rests may not get the time it wants, but it wants it always.
fn is_busy(evidence: &Evidence, cpu: &Cpu) -> bool {
    let Some((host, tid)) = evidence.host.as_ref().zip(cpu.tid) else { return true };
    let busy = host.busy_percent(tid).is_none_or(|percent| percent >= BUSY_PERCENT);
    busy || host.thread(tid).is_some_and(|thread| thread.state == "R")
}

fn by_registers(evidence: &Evidence, cpu: &Cpu, interrupts_on: bool) -> String {
    let samples = super::count(cpu.samples.len(), "sample");
    let sleeps = sleeps(cpu);
    let does = if sleeps { "sleeps" } else { "runs in the kernel" };
    let mut fact = format!("in {samples} of its registers, CPU {} {does}", cpu.index);
    if !interrupts_on {
        fact.push_str(" with interrupts off");
    }
    if !interrupts_on && cpu.apic.is_some_and(|apic| apic.timer_pending) {
        fact.push_str(", and its timer's interrupt waits to be served");
    }
    let busy = evidence.host.as_ref().zip(cpu.tid).and_then(|(host, tid)| host.busy_percent(tid));
    match busy {
        _ if sleeps => {}
        Some(percent @ ..BUSY_PERCENT) => {
            fact.push_str(&format!("; its thread wants to run, but got only {percent} % of a CPU"));
        }
        Some(percent) => fact.push_str(&format!("; its thread was busy {percent} % of the time")),
        None => {}
    }
    fact
}

/// The last report about this CPU that says so.
fn report(evidence: &Evidence, index: u32, interrupts_on: bool) -> Option<&Report> {
    let says = |report: &&Report| match report.kind {
        ReportKind::HardLockup => !interrupts_on,
        ReportKind::SoftLockup => interrupts_on,
        ReportKind::RcuStall => report.trace.interrupts_on() == Some(interrupts_on),
        ReportKind::Panic
        | ReportKind::InitDied
        | ReportKind::Oops
        | ReportKind::HungTask
        | ReportKind::OomKill => false,
    };
    let mut latest = evidence.console.reports.iter().rev();
    latest.find(|report| report.who.cpu == Some(index) && says(report))
}

fn by_report(report: &Report, index: u32) -> String {
    match (report.kind, report.seconds) {
        (ReportKind::SoftLockup, Some(seconds)) => {
            format!("the console reports a soft lockup: CPU {index} was stuck for {seconds} s")
        }
        (ReportKind::SoftLockup, None) => {
            format!("the console reports a soft lockup of CPU {index}")
        }
        (ReportKind::HardLockup, _) => format!("the console reports a hard lockup of CPU {index}"),
        _ => format!("the console reports that CPU {index} holds up RCU"),
    }
}
