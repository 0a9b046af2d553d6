//! What dumps tell of a CPU besides its backtrace: what it owes, who has it, and what it did last.

use super::super::say::quoted;
use crate::evidence::Evidence;
use crate::evidence::ftrace::Ftrace;

/// An idle guest's clock may stand still for half a second and more, and a busy host makes a CPU wait.
const LATE_MS: u64 = 5_000;

/// Timers that should have been served long ago: an interrupt that does not get through.
pub(super) fn owes_timers(evidence: &Evidence, cpu: u32) -> Option<String> {
    let late_ms = evidence.sysrq.timers()?.overdue_ms(cpu).filter(|late| *late >= LATE_MS)?;
    Some(format!("CPU {cpu} has owed its next timer for {} s", seconds(late_ms)))
}

/// Which CPUs owe timers.
pub(super) fn owing(evidence: &Evidence) -> Vec<u32> {
    let all = evidence.sysrq.timers().into_iter().flat_map(|timers| &timers.cpus);
    all.map(|it| it.cpu).filter(|cpu| owes_timers(evidence, *cpu).is_some()).collect()
}

/// Who was in the kernel with interrupts off, and still had the CPU when all tasks were listed.
pub(super) fn keeps_cpu(evidence: &Evidence, cpu: u32) -> Option<String> {
    let then = evidence.sysrq.cpu(cpu).filter(|it| it.trace.interrupts_on() == Some(false))?;
    let now = evidence.sysrq.sched()?.cpus.iter().find(|it| it.cpu == cpu)?;
    let pid = then.who.pid.filter(|pid| *pid > 0 && now.current_pid == Some(*pid))?;
    Some(format!("interrupts off, and {} ({pid}) has it a dump later", quoted(&then.who.comm)))
}

/// Who has the CPU, and how many want it.
pub(super) fn has_cpu(evidence: &Evidence, cpu: u32) -> Option<String> {
    let queue = evidence.sysrq.sched()?.cpus.iter().find(|it| it.cpu == cpu)?;
    let has = queue.runnable.iter().find(|it| it.current)?;
    let others = queue.running?.saturating_sub(1);
    let wait = match others {
        0 => String::new(),
        1 => ", and 1 more task waits for it".to_owned(),
        more => format!(", and {more} more tasks wait for it"),
    };
    Some(format!("the scheduler says that {} ({}) has CPU {cpu}{wait}", quoted(&has.comm), has.pid))
}

/// The last that the CPU recorded, and for how long the others went on.
pub(super) fn recorded(evidence: &Evidence, cpu: u32) -> Option<String> {
    let ftrace = evidence.sysrq.ftrace().or(evidence.console.ftrace.as_ref())?;
    let last = ftrace.cpus.get(&cpu)?.last.back()?;
    let what = match last.call() {
        Some((function, caller)) => format!("the call of {function} from {caller}"),
        None => quoted(&last.text),
    };
    let before = match silent_ms(ftrace, last.time_us?) {
        Some(ms) => format!(", {} s before the last of the others", seconds(ms)),
        None => String::new(),
    };
    Some(format!("the last that CPU {cpu} recorded is {what}{before}"))
}

/// By how much others went on recording.
fn silent_ms(ftrace: &Ftrace, last_us: u64) -> Option<u64> {
    let ms = ftrace.last_us?.checked_sub(last_us)? / 1000;
    (ms > 0).then_some(ms)
}

/// With one decimal.
fn seconds(ms: u64) -> String {
    format!("{}.{}", ms / 1000, ms % 1000 / 100)
}
