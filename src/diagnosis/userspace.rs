//! The kernel lives, but no process answers.

use super::say::{count, quoted};
use super::{Blame, Class, Confidence, Finding, life};
use crate::base::rung::Rung;
use crate::evidence::Evidence;
use crate::evidence::kernel_log::ReportKind;
use crate::evidence::qmp::Cpu;
use crate::evidence::sysrq::{Memory, Outcome, Task};

/// Processes do not answer, and nothing is known to be wrong with the kernel.
pub(super) fn dead(evidence: &Evidence) -> Option<Finding> {
    let kernel = life::kernel(evidence)?;
    if !life::is_refuted(evidence, Rung::Userspace..) {
        return None;
    }
    let mut finding = Finding::new(Class::UserspaceDead, Blame::GuestUserspace, Confidence::Medium);
    finding.title = "the kernel lives, but no process answers".to_owned();
    finding.facts_for.push(kernel);
    let causes: [fn(&Evidence, &mut Finding) -> bool; 3] = [stopped, killed, busy];
    if causes.iter().any(|cause| cause(evidence, &mut finding)) {
        return Some(finding);
    }
    // A service or a cable may have failed alone.
    if !life::is_refuted(evidence, Rung::Userspace..=Rung::Userspace) {
        return None;
    }
    without_cause(evidence, &mut finding);
    Some(finding)
}

/// Nothing tells why. Where the kernel listed no blocked tasks, they may be the cause as well.
fn without_cause(evidence: &Evidence, finding: &mut Finding) {
    if evidence.sysrq.lists_tasks() {
        finding.facts_for.push(match evidence.sysrq.blocked().len() {
            0 => "the kernel lists no task that hangs in it".to_owned(),
            some => format!("{} waited in the kernel, perhaps for a moment", count(some, "task")),
        });
        finding.facts_against.push("Not known: why no process answers".to_owned());
        return;
    }
    finding.blame = Blame::Unknown;
    finding.confidence = Confidence::Low;
    let mut unknown = "Not known: whether processes hang in the kernel".to_owned();
    if evidence.sysrq.answers.iter().any(|answer| answer.outcome == Outcome::Refused) {
        unknown.push_str("; the guest's SysRq mask forbids to ask");
    } else if evidence.sysrq.is_quiet() {
        unknown.push_str("; the guest's log level keeps the answers off the console");
    }
    finding.facts_against.push(unknown);
}

/// Somebody sent SIGSTOP.
fn stopped(evidence: &Evidence, finding: &mut Finding) -> bool {
    let tasks = evidence.sysrq.answers.iter().flat_map(|answer| &answer.tasks);
    let processes: Vec<&Task> = tasks.filter(|task| !task.is_kernel()).collect();
    let stopped: Vec<&&Task> = processes.iter().filter(|task| task.state == 'T').collect();
    if stopped.is_empty() || stopped.len() * 2 < processes.len() {
        return false;
    }
    finding.subject = "stopped".to_owned();
    finding.confidence = Confidence::High;
    let all = processes.len();
    finding.title = format!("{} of {} are stopped by a signal", stopped.len(), process_count(all));
    let names = stopped.iter().take(8).map(|task| format!("{} ({})", quoted(&task.comm), task.pid));
    let names: Vec<String> = names.collect();
    finding.facts_for.push(format!("stopped: {}", super::say::list(&names, 8)));
    true
}

/// Memory ran out.
fn killed(evidence: &Evidence, finding: &mut Finding) -> bool {
    let kills: Vec<_> = evidence.console.all(ReportKind::OomKill).collect();
    let Some(last) = kills.last() else { return false };
    finding.subject = "oom".to_owned();
    let last = quoted(&last.who.comm);
    finding.title =
        format!("memory ran out: the kernel killed {}, last {last}", process_count(kills.len()));
    if let Some(memory) = evidence.sysrq.answers.iter().find_map(|answer| answer.memory.as_ref()) {
        account(memory, finding);
    }
    true
}

/// Who holds the memory.
fn account(memory: &Memory, finding: &mut Finding) {
    let mib = |kb: u64| kb / 1024;
    let Some((free, total)) = memory.free_kb.zip(memory.total_kb) else { return };
    finding.facts_for.push(format!("{} MiB of {} MiB are free", mib(free), mib(total)));
    if memory.is_short() {
        finding.facts_for.push("no more is left than the kernel's own reserve".to_owned());
    }
    let Some(anon) = memory.anon_kb else { return };
    let mut held = format!("processes hold {} MiB", mib(anon));
    if let Some(slab) = memory.slab_kb {
        held.push_str(&format!(", and the kernel's objects {} MiB", mib(slab)));
    }
    finding.facts_for.push(held);
    if anon < total / 4 {
        finding.blame = Blame::GuestKernel;
        finding.facts_for.push("so it is not processes that hold the memory".to_owned());
    }
}

/// Processes leave no CPU to the others.
fn busy(evidence: &Evidence, finding: &mut Finding) -> bool {
    let cpus = life::vcpus(evidence);
    let in_process = |cpu: &Cpu| cpu.samples.iter().filter(|registers| registers.cpl == 3).count();
    // A sample may hit upon the timer's interrupt.
    let runs_processes = |cpu: &Cpu| {
        let rests = cpu.samples.iter().any(|registers| registers.halted);
        cpu.samples.len() > 1 && !rests && in_process(cpu) * 2 >= cpu.samples.len()
    };
    if cpus.is_empty() || !cpus.iter().all(runs_processes) {
        return false;
    }
    finding.subject = "cpu".to_owned();
    finding.title = "processes take all CPUs for themselves".to_owned();
    let samples: usize = cpus.iter().map(|cpu| cpu.samples.len()).sum();
    let often = match cpus.iter().map(in_process).sum::<usize>() {
        all if all == samples => "all samples".to_owned(),
        some => format!("{some} of {samples} samples"),
    };
    let all = count(cpus.len(), "CPU");
    finding.facts_for.push(format!("in {often}, all of {all} run processes"));
    for cpu in evidence.sysrq.cpus().into_iter().filter(|cpu| cpu.in_process()).take(8) {
        let pid = cpu.who.pid.map(|pid| format!(" ({pid})")).unwrap_or_default();
        finding.facts_for.push(format!("CPU {} runs {}{pid}", cpu.cpu, quoted(&cpu.who.comm)));
    }
    true
}

fn process_count(number: usize) -> String {
    if number == 1 { "1 process".to_owned() } else { format!("{number} processes") }
}
