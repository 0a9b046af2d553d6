//! What still lives: the facts that judges weigh against each other.

use super::say::quoted;
use crate::base::rung::{Answer, Rung};
use crate::evidence::Evidence;
use crate::evidence::qmp::Cpu;
use crate::evidence::rounds::Probe;
use std::ops::RangeBounds;

/// Why the kernel must be alive, in a sentence.
pub(super) fn kernel(evidence: &Evidence) -> Option<String> {
    if evidence.sysrq.any() {
        return Some("the kernel answered SysRq".to_owned());
    }
    let proves = |probe: &&Probe| probe.rung >= Rung::Kernel && probe.answer == Answer::Alive;
    if let Some(probe) = last_round(evidence).iter().find(proves) {
        return Some(format!(
            "the {} still lives: probe {} was answered",
            probe.rung,
            quoted(&probe.name)
        ));
    }
    if idle(evidence) {
        return Some(
            "all CPUs are idle and take interrupts, and no timer waits to be served".to_owned(),
        );
    }
    let in_process = vcpus(evidence).iter().find(|cpu| runs_process(cpu))?;
    Some(format!("CPU {} runs a process and takes interrupts", in_process.index))
}

/// Why nothing can hang that anybody waits for, in a sentence: processes answer, and every question was
/// answered. The kernel writes to disks without any process.
pub(super) fn guest(evidence: &Evidence) -> Option<String> {
    let probes = last_round(evidence);
    let answers = |probe: &&Probe| {
        matches!(probe.rung, Rung::Userspace | Rung::Service) && probe.answer == Answer::Alive
    };
    let probe = probes.iter().find(answers)?;
    (!is_refuted(evidence, ..))
        .then(|| format!("processes live: probe {} was answered", quoted(&probe.name)))
}

/// Whether the last round refuted one of these rungs.
pub(super) fn is_refuted(evidence: &Evidence, rungs: impl RangeBounds<Rung>) -> bool {
    let refutes = |probe: &Probe| probe.answer == Answer::Dead && rungs.contains(&probe.rung);
    last_round(evidence).iter().any(refutes)
}

/// Whether the kernel lives, and nobody refuted that processes do: what it said of a mistake was no end.
pub(super) fn went_on(evidence: &Evidence) -> bool {
    kernel(evidence).is_some() && !is_refuted(evidence, Rung::Userspace..)
}

/// What the last round asked.
pub(super) fn last_round(evidence: &Evidence) -> &[Probe] {
    evidence.rounds.rounds.last().map(|round| round.probes.as_slice()).unwrap_or_default()
}

/// What the hypervisor shows of the CPUs.
pub(super) fn vcpus(evidence: &Evidence) -> &[Cpu] {
    evidence.qmp.as_ref().map(|qmp| qmp.cpus.as_slice()).unwrap_or_default()
}

/// The clock of an idle guest may stand still, so idleness is read from the CPUs and not from time.
fn idle(evidence: &Evidence) -> bool {
    let rests = |cpu: &Cpu| {
        cpu.samples.last().is_some_and(|registers| registers.halted && registers.interrupts_on())
            && cpu.apic.is_some_and(|apic| apic.enabled && !apic.timer_pending)
    };
    !vcpus(evidence).is_empty() && vcpus(evidence).iter().all(rests)
}

fn runs_process(cpu: &Cpu) -> bool {
    let last = cpu.samples.last();
    last.is_some_and(|registers| registers.cpl == 3 && registers.interrupts_on())
}
