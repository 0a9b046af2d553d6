//! CPUs that never get on with anything.

use super::super::functions::{is_delay, is_helper, is_printing, is_spin_lock, waits_for_cpu};
use super::super::say::{cpus, place, quoted};
use super::super::{Blame, Class, Confidence, Finding, life, signature};
use super::{FACTS, name};
use crate::evidence::Evidence;
use crate::evidence::kernel_log::ReportKind;
use crate::evidence::memory::{Cpu, Memory, Progress, Task, trace};
use crate::evidence::qmp::Registers;
use crate::evidence::trace::Frame;

/// Over less time a CPU that changes no task may be merely busy.
const SPAN_MS: u64 = 900;

/// Turns that tasks take on a CPU in a second, if they share it at all: several times as many.
const TURNS: u64 = 10;

/// A CPU that was seen in the kernel, and did nothing else meanwhile.
struct Spin<'m> {
    cpu: &'m Cpu,
    /// Where it is.
    at: &'m str,
    /// From the function that is to blame, outward.
    calls: Vec<Frame>,
    for_lock: bool,
}

/// CPUs spin with interrupts off.
pub(crate) fn hard_lockup(evidence: &Evidence) -> Option<Finding> {
    let memory = evidence.memory.as_ref()?;
    let mut finding = lockup(memory, Class::HardLockup, |cpu| interrupts_off(evidence, cpu))?;
    // At one look a kernel that is merely busy may have interrupts off as well.
    let spins = || {
        let stand = memory.cpus.iter().filter(|cpu| stands(cpu));
        stand.filter(|cpu| interrupts_off(evidence, cpu).is_some())
    };
    if spins().map(|cpu| looks(evidence, cpu).len()).min() < Some(2) {
        finding.confidence = Confidence::Medium;
    }
    let all_spin = spins().count() == memory.cpus.len();
    if let Some(life) = life::kernel(evidence).filter(|_| all_spin) {
        finding.facts_against.push(life);
        finding.confidence = Confidence::Low;
    }
    Some(finding)
}

/// Where a CPU is that was never seen to take interrupts.
fn interrupts_off<'m>(evidence: &Evidence, cpu: &'m Cpu) -> Option<&'m [String]> {
    let looks = looks(evidence, cpu);
    let is_off = cpu.registers.is_some_and(|registers| !registers.interrupts_on)
        && looks.iter().all(|look| !look.interrupts_on());
    // Two looks may both have hit upon an interrupt that is soon over.
    let takes_some = cpu
        .took_interrupts()
        .unwrap_or_else(|| looks.len() < 2 && cpu.doing().is_some_and(|doing| doing.interrupted));
    (is_off && !takes_some).then_some(&cpu.stack)
}

/// What the hypervisor showed of a CPU besides.
fn looks<'e>(evidence: &'e Evidence, cpu: &Cpu) -> &'e [Registers] {
    let seen = life::vcpus(evidence).iter().find(|seen| seen.index == cpu.index);
    seen.map(|seen| seen.samples.as_slice()).unwrap_or_default()
}

/// CPUs spin in the kernel with interrupts on.
pub(crate) fn soft_lockup(evidence: &Evidence) -> Option<Finding> {
    let memory = evidence.memory.as_ref()?;
    let is_reported = evidence.console.first(ReportKind::SoftLockup).is_some();
    let mut finding = lockup(memory, Class::SoftLockup, |cpu| {
        let doing = cpu.doing().filter(|doing| doing.interrupts_on)?;
        let looks = looks(evidence, cpu);
        let stays = looks.iter().all(|look| !look.halted && look.cpl == 0);
        let waits = cpu.running > 1 && (is_reported || !prints(doing.calls));
        (stays && waits).then_some(doing.calls)
    })?;
    // A second is not long for a kernel that is merely busy, above all while the guest answers.
    finding.confidence = match (is_reported, life::guest(evidence)) {
        (true, _) => Confidence::High,
        (false, None) => Confidence::Medium,
        (false, Some(_)) => Confidence::Low,
    };
    Some(finding)
}

/// Processes leave no CPU to the others, who are ready to run and are not let.
pub(crate) fn busy(evidence: &Evidence) -> Option<Finding> {
    let memory = evidence.memory.as_ref()?;
    let starving = starving(memory);
    if memory.cpus.is_empty()
        || starving.is_empty()
        || !memory.cpus.iter().all(|cpu| is_taken(evidence, cpu))
    {
        return None;
    }
    // Of those that take it all, one may be who answers.
    let confidence =
        if life::guest(evidence).is_some() { Confidence::Low } else { Confidence::High };
    let mut finding = Finding::new(Class::UserspaceDead, Blame::GuestUserspace, confidence);
    finding.subject = "cpu".to_owned();
    finding.title = "processes take all CPUs for themselves".to_owned();
    for cpu in memory.cpus.iter().take(FACTS) {
        let Cpu { index, pid, comm, running, .. } = cpu;
        let fact =
            format!("CPU {index} runs {} ({pid}), one of {running} that want it", quoted(comm));
        finding.facts_for.push(fact);
    }
    for task in starving.iter().take(FACTS) {
        let seconds = task.since_ms.unwrap_or_default() / 1000;
        let fact = format!("{} is ready to run, and was not let for {seconds} s", name(task));
        finding.facts_for.push(fact);
    }
    Some(finding)
}

/// Whether it runs a process and hardly ever another: who shares a CPU takes turns of milliseconds.
fn is_taken(evidence: &Evidence, cpu: &Cpu) -> bool {
    let seldom = |progress: Progress| {
        progress.after_ms >= SPAN_MS
            && progress.switches.saturating_mul(1000) / progress.after_ms < TURNS
    };
    cpu.running > 1 && cpu.progress.is_some_and(seldom) && runs_process(evidence, cpu)
}

/// Whether it was seen in a process at any look: at each it may be found in the timer's interrupt.
fn runs_process(evidence: &Evidence, cpu: &Cpu) -> bool {
    cpu.doing().is_some_and(|doing| doing.user)
        || looks(evidence, cpu).iter().any(|look| look.cpl == 3)
}

/// Tasks that are ready to run and did not for long.
fn starving(memory: &Memory) -> Vec<&Task> {
    let runs = |task: &Task| memory.cpus.iter().any(|cpu| cpu.pid == task.pid);
    let waits = |task: &&Task| {
        task.state == 'R' && !runs(task) && task.since_ms.is_some_and(|ms| ms >= SPAN_MS)
    };
    memory.tasks.iter().filter(waits).collect()
}

/// `stuck` has the calls of a CPU that is in the kernel as it must not be for long.
fn lockup<'m>(
    memory: &'m Memory,
    class: Class,
    stuck: impl Fn(&'m Cpu) -> Option<&'m [String]>,
) -> Option<Finding> {
    let stand = memory.cpus.iter().filter(|cpu| stands(cpu));
    let mut spins: Vec<Spin<'_>> = stand.filter_map(|cpu| Spin::of(cpu, stuck(cpu)?)).collect();
    // Who only waits for another CPU is a victim.
    spins.sort_by_key(|spin| spin.calls.first().is_some_and(|frame| waits_for_cpu(frame.name())));
    let first = spins.first()?;
    let mut finding = Finding::new(class, Blame::GuestKernel, Confidence::High);
    let mut indices: Vec<u32> = spins.iter().map(|spin| spin.cpu.index).collect();
    indices.sort_unstable();
    let who = cpus(&indices, memory.cpus.len());
    let s = if indices.len() == 1 { "s" } else { "" };
    let off = if class == Class::HardLockup { "interrupts off" } else { "interrupts on" };
    let frame = first.calls.first()?;
    finding.title = match first.for_lock {
        true => format!("{who} wait{s} for a spin lock with {off}, in {}", place(frame)),
        false => format!("{who} spin{s} with {off}, in {}", place(frame)),
    };
    finding.subject = frame.name().to_owned();
    let callers: Vec<&Frame> = first.calls.iter().skip(1).collect();
    finding.callers = signature::callers(&callers);
    finding.facts_for.extend(spins.iter().take(FACTS).map(Spin::fact));
    if first.for_lock {
        finding.facts_against.push("Not known: who holds the spin lock".to_owned());
    }
    Some(finding)
}

impl<'m> Spin<'m> {
    /// Nothing of a CPU that is not in the kernel.
    fn of(cpu: &'m Cpu, stack: &'m [String]) -> Option<Self> {
        let at = stack.first()?;
        let mut calls = trace(stack).frames;
        let for_lock =
            calls.iter().take_while(|frame| passes(frame)).any(|frame| is_spin_lock(frame.name()));
        let blamed = calls.iter().position(|frame| !passes(frame)).unwrap_or_default();
        calls.drain(..blamed);
        Some(Self { cpu, at, calls, for_lock })
    }

    fn fact(&self) -> String {
        let Cpu { index, pid, comm, .. } = self.cpu;
        let Progress { after_ms, timer_events, .. } = self.cpu.progress.unwrap_or_default();
        let (comm, at) = (quoted(comm), quoted(self.at));
        let took = match timer_events {
            None => String::new(),
            Some(0) => ", took none of its timer's interrupts".to_owned(),
            Some(events) => format!(", took {events} of its timer's interrupts"),
        };
        format!("CPU {index} runs {comm} ({pid}) and nothing else for {after_ms} ms{took}, at {at}")
    }
}

/// Whether a function only does what its caller wants.
fn passes(frame: &Frame) -> bool {
    is_spin_lock(frame.name()) || is_delay(frame.name()) || is_helper(frame.name())
}

/// Whether it writes to a console that is slow: who writes much is always found at it, and gets on.
fn prints(calls: &[String]) -> bool {
    trace(calls).frames.iter().any(|frame| is_printing(frame.name()))
}

/// Whether it changed no task for long enough, and neither rests nor runs a process.
fn stands(cpu: &Cpu) -> bool {
    !cpu.idle
        && cpu.progress.is_some_and(|it| it.switches == 0 && it.after_ms >= SPAN_MS)
        && cpu.registers.is_some_and(|registers| !registers.halted && !registers.user)
}
