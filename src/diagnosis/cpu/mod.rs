//! What the vCPUs do: panic without a word, lockups with interrupts off and on.
//!
//! The hypervisor shows registers, but not functions: the guest's kernel lies at a random address.
//! Functions come from the guest's own backtraces, where it printed any.

mod dumps;
mod spin;

use super::functions::{is_delay, is_helper, is_spin_lock, waits_for_cpu};
use super::say::{count, cpus, list, place, quoted};
use super::{Blame, Class, Confidence, Finding, life, signature};
use crate::evidence::Evidence;
use crate::evidence::kernel_log::ReportKind;
use crate::evidence::qmp::Cpu;
use crate::evidence::trace::Frame;
use spin::Spin;

/// A panicked kernel switches off all interrupt controllers, and one CPU waits for nothing.
pub(super) fn panic(evidence: &Evidence) -> Option<Finding> {
    let told = evidence.qmp.as_ref()?.told_of_panic();
    let runs = |cpu: &&Cpu| cpu.samples.last().is_some_and(|registers| !registers.halted);
    let running: Vec<u32> =
        life::vcpus(evidence).iter().filter(runs).map(|cpu| cpu.index).collect();
    if !told && (!all_apics_are_off(evidence) || running.is_empty()) {
        return None;
    }
    let mut finding = Finding::new(Class::Panic, Blame::GuestKernel, Confidence::Medium);
    finding.title = "kernel panic, without a word on the console".to_owned();
    if told {
        finding.facts_for.push("the guest told the hypervisor that it panicked".to_owned());
    }
    if all_apics_are_off(evidence) {
        let all = life::vcpus(evidence).len();
        finding.facts_for.push(format!(
            "the interrupt controllers of all CPUs ({all}) are off and {} runs on, as a panic leaves them",
            cpus(&running, all)
        ));
    }
    if evidence.sysrq.silent() {
        finding.facts_for.push("the kernel did not answer SysRq".to_owned());
    }
    finding.facts_against.extend(life::kernel(evidence));
    Some(finding)
}

/// CPUs spin with interrupts off.
pub(super) fn hard_lockup(evidence: &Evidence) -> Option<Finding> {
    let spins = spin::with_interrupts_off(evidence);
    let mut finding = lockup(evidence, Class::HardLockup, &spins)?;
    let sources = spins.iter().map(|spin| spin.facts.len()).max().unwrap_or_default();
    finding.confidence = match sources + usize::from(evidence.sysrq.silent()) {
        ..2 => Confidence::Medium,
        2.. => Confidence::High,
    };
    let all_spin = spins.len() == life::vcpus(evidence).len();
    if let Some(life) = life::kernel(evidence).filter(|_| all_spin) {
        finding.facts_against.push(life);
        finding.confidence = Confidence::Low;
    }
    Some(finding)
}

/// CPUs spin in the kernel with interrupts on.
pub(super) fn soft_lockup(evidence: &Evidence) -> Option<Finding> {
    let spins = spin::with_interrupts_on(evidence);
    let mut finding = lockup(evidence, Class::SoftLockup, &spins)?;
    let sources = spins.iter().map(|spin| spin.facts.len()).max().unwrap_or_default();
    let reported = spins.iter().any(|spin| spin.reported);
    // What the guest did not notice by itself may be a kernel that is merely busy.
    finding.confidence = match (reported, sources) {
        (true, 2..) => Confidence::High,
        (true, _) | (false, 2..) => Confidence::Medium,
        (false, _) => Confidence::Low,
    };
    Some(finding)
}

/// Whether no CPU can be interrupted any more.
pub(super) fn all_apics_are_off(evidence: &Evidence) -> bool {
    let cpus = life::vcpus(evidence);
    !cpus.is_empty() && cpus.iter().all(|cpu| cpu.apic.is_some_and(|apic| !apic.enabled))
}

/// What the CPUs do, for want of a judgement.
pub(super) fn summary(evidence: &Evidence) -> Vec<String> {
    does(life::vcpus(evidence))
}

fn does(cpus: &[Cpu]) -> Vec<String> {
    let of = |cpu: &Cpu| {
        let registers = cpu.samples.last()?;
        let does = match (registers.halted, registers.cpl) {
            (true, _) => "sleeps until an interrupt",
            (false, 0) => "runs in the kernel",
            (false, _) => "runs a process",
        };
        let takes = if registers.interrupts_on() { "on" } else { "off" };
        Some(format!("CPU {} {does}, interrupts {takes}", cpu.index))
    };
    cpus.iter().filter_map(of).take(16).collect()
}

/// An NMI reaches a CPU whatever it does: the one that says so carries out instructions. It proves nothing
/// else, for it is served where no other interrupt is.
pub(super) fn took_nmi(evidence: &Evidence) -> Option<String> {
    let nmi = evidence.nmi?;
    let after = evidence.after_nmi.as_ref().map(|qmp| does(&qmp.cpus)).unwrap_or_default();
    let after = match after.is_empty() {
        true => String::new(),
        false => format!("; after it {}", after.join("; ")),
    };
    Some(format!("an NMI was sent: {}{after}", nmi.said()))
}

fn lockup(evidence: &Evidence, class: Class, spins: &[Spin<'_>]) -> Option<Finding> {
    let first = culprit(spins)?;
    let mut finding = Finding::new(class, Blame::GuestKernel, Confidence::Medium);
    let indices: Vec<u32> = spins.iter().map(|spin| spin.cpu).collect();
    let all = life::vcpus(evidence).len().max(evidence.sysrq.cpus().len());
    let off = if class == Class::HardLockup { "interrupts off" } else { "interrupts on" };
    let who = cpus(&indices, all);
    let calls = blamed(first);
    let verb = if indices.len() == 1 { "s" } else { "" };
    let does = if first.sleeps { "sleep" } else { "spin" };
    finding.title = match calls.first() {
        Some(frame) if waits_for_lock(first) => {
            format!("{who} wait{verb} for a spin lock with {off}, in {}", place(frame))
        }
        Some(frame) => format!("{who} {does}{verb} with {off}, in {}", place(frame)),
        None => format!("{who} {does}{verb} in the kernel with {off}"),
    };
    if let Some((subject, callers)) = calls.split_first() {
        finding.subject = subject.name().to_owned();
        finding.callers = signature::callers(callers);
    }
    finding.facts_for.extend(spins.iter().flat_map(|spin| spin.facts.clone()).take(16));
    finding.facts_for.extend(who_runs(first));
    finding.facts_for.extend(called_from(&calls));
    finding.facts_for.extend(dumps::has_cpu(evidence, first.cpu));
    finding.facts_for.extend(dumps::recorded(evidence, first.cpu));
    finding.facts_for.extend(consequences(evidence, class));
    if calls.is_empty() {
        finding
            .facts_against
            .push("Not known: the function, for the guest printed no backtrace".to_owned());
    }
    if waits_for_lock(first) {
        finding.facts_against.push("Not known: who holds the spin lock".to_owned());
    }
    Some(finding)
}

/// Of several CPUs the one that does not merely wait for another.
fn culprit<'a, 'b>(spins: &'a [Spin<'b>]) -> Option<&'a Spin<'b>> {
    let waits = |spin: &&Spin| spin.calls.iter().take(3).any(|frame| waits_for_cpu(frame.name()));
    let named = spins.iter().find(|spin| !spin.calls.is_empty() && !waits(spin));
    named.or_else(|| spins.first())
}

fn waits_for_lock(spin: &Spin<'_>) -> bool {
    spin.calls.first().is_some_and(|frame| is_spin_lock(frame.name()))
}

/// The calls from the one that chose to take a lock, or to wait, or to spin.
fn blamed<'a>(spin: &Spin<'a>) -> Vec<&'a Frame> {
    let skipped = |frame: &&&Frame| {
        let name = frame.name();
        is_spin_lock(name) || is_delay(name) || is_helper(name)
    };
    spin.calls.iter().skip_while(skipped).copied().collect()
}

fn who_runs(spin: &Spin<'_>) -> Option<String> {
    let who = spin.who?;
    let pid = who.pid.map(|pid| format!(" ({pid})")).unwrap_or_default();
    (!who.comm.is_empty()).then(|| format!("it runs {}{pid}", quoted(&who.comm)))
}

fn called_from(calls: &[&Frame]) -> Option<String> {
    let (first, callers) = calls.split_first().filter(|(_, callers)| !callers.is_empty())?;
    let callers: Vec<String> = callers.iter().map(|frame| place(frame)).collect();
    Some(format!("{} was called from {}", first.name(), list(&callers, 4)))
}

fn consequences(evidence: &Evidence, class: Class) -> Vec<String> {
    let mut facts = Vec::new();
    if class == Class::HardLockup && evidence.sysrq.silent() {
        facts.push("the kernel did not answer SysRq".to_owned());
    }
    let hung = evidence.console.all(ReportKind::HungTask).count();
    if hung > 0 {
        facts.push(format!("the console reports {} that hang", count(hung, "task")));
    }
    facts
}
