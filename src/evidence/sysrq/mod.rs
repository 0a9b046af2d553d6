//! Answers to SysRq.
//!
//! An answer is whatever came from the console after the key: perhaps the key's echo and a prompt,
//! then the kernel's header, then the dump. Every answer at all, even a refusal, proves that the
//! kernel takes interrupts and prints.

mod backtrace;
mod memory;
mod read;
mod sched;
mod shape;
mod tasks;
mod timers;

pub use backtrace::Backtrace;
pub use memory::{Memory, Zone};
pub use sched::{RunQueue, Runnable, Sched, Work};
pub use shape::{Listener, Shape};
pub use tasks::Task;
pub use timers::{CpuTimers, Timer, Timers};

use super::ftrace::Ftrace;
use super::locks::Holder;
use crate::base::step::Action;
use std::collections::{BTreeMap, BTreeSet};

/// All answers.
#[derive(Clone, Debug, Default)]
pub struct Answers {
    /// In the order in which they were read.
    pub answers: Vec<Answer>,
}

/// The answer to one action.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Answer {
    /// The action, as the artifact names it.
    pub action: String,
    /// What kind of answer it is.
    pub outcome: Outcome,
    /// Of `blocked-tasks` and `task-states`.
    pub tasks: Vec<Task>,
    /// Of `task-states`.
    pub sched: Option<Sched>,
    /// Of `backtrace-all-active-cpus`, and of `registers` the one CPU.
    pub cpus: Vec<Backtrace>,
    /// Of `memory-usage`.
    pub memory: Option<Memory>,
    /// Of `timers`.
    pub timers: Option<Timers>,
    /// Of `locks`, and of `task-states` where the kernel knows.
    pub locks: Vec<Holder>,
    /// Of `dump-ftrace-buffer`.
    pub ftrace: Option<Ftrace>,
}

/// What kind of answer it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// The kernel's mask forbids the action.
    Refused,
    /// The kernel is built without it, and listed what it knows instead.
    NotBuiltIn,
    /// The dump was kept back by the console's log level, or there was nothing to show.
    HeaderOnly,
    /// The kernel did not answer.
    Silent,
    /// There is a dump.
    Dump,
}

impl Answers {
    /// Reads the answer to one action.
    pub fn read(&mut self, action: &str, bytes: &[u8]) {
        self.answers.push(Answer::read(action, bytes));
    }

    /// Whether the kernel answered any of them.
    #[must_use]
    pub fn any(&self) -> bool {
        self.answers.iter().any(|answer| answer.outcome != Outcome::Silent)
    }

    /// Whether it was asked and answered none.
    #[must_use]
    pub fn silent(&self) -> bool {
        !self.answers.is_empty() && !self.any()
    }

    /// The tasks that wait without taking signals, each once: one that was seen to wait, and later not
    /// to, has come back.
    #[must_use]
    pub fn blocked(&self) -> Vec<&Task> {
        self.tasks().into_iter().filter(|task| task.state == 'D').collect()
    }

    /// All tasks that were listed, each once: as it was seen last, or at least seen whole.
    #[must_use]
    pub fn tasks(&self) -> Vec<&Task> {
        let latest = self.answers.iter().rev().flat_map(|answer| &answer.tasks);
        let mut tasks: Vec<&Task> = latest.collect();
        tasks.sort_by_key(|task| (task.pid, task.torn));
        tasks.dedup_by_key(|task| task.pid);
        tasks
    }

    /// The tasks that two looks found waiting in the same place.
    #[must_use]
    pub fn blocked_twice(&self) -> BTreeSet<u32> {
        let mut first: BTreeMap<u32, &Task> = BTreeMap::new();
        let mut twice = BTreeSet::new();
        let all = self.answers.iter().flat_map(|answer| &answer.tasks);
        for task in all.filter(|task| task.state == 'D') {
            let before = first.insert(task.pid, task);
            if before.is_some_and(|before| before.trace.calls() == task.trace.calls()) {
                twice.insert(task.pid);
            }
        }
        twice
    }

    /// Whether blocked tasks would have been seen, if there were any: a header alone means that none
    /// is, where the console is seen to print dumps at all.
    #[must_use]
    pub fn lists_tasks(&self) -> bool {
        let lists = |answer: &Answer| {
            matches!(answer.action.as_str(), "blocked-tasks" | "task-states")
                && matches!(answer.outcome, Outcome::Dump | Outcome::HeaderOnly)
        };
        // What was recorded is printed at any log level.
        let prints = |answer: &Answer| answer.outcome == Outcome::Dump && answer.ftrace.is_none();
        self.answers.iter().any(prints) && self.answers.iter().any(lists)
    }

    /// Whether tasks that merely sleep were listed, too.
    #[must_use]
    pub fn lists_sleepers(&self) -> bool {
        let lists = |answer: &Answer| answer.action == Action::TaskStates.word();
        self.answers.iter().any(|answer| lists(answer) && answer.outcome == Outcome::Dump)
    }

    /// Whether the console's log level keeps dumps back: a header came alone, of a dump that is never
    /// empty.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let may_be_empty = |answer: &Answer| answer.action == Action::BlockedTasks.word();
        let alone = |answer: &Answer| answer.outcome == Outcome::HeaderOnly;
        self.answers.iter().any(|answer| alone(answer) && !may_be_empty(answer))
    }

    /// The backtraces of all CPUs, each once.
    #[must_use]
    pub fn cpus(&self) -> Vec<&Backtrace> {
        let mut cpus: BTreeMap<u32, &Backtrace> = BTreeMap::new();
        for cpu in self.answers.iter().flat_map(|answer| &answer.cpus) {
            cpus.entry(cpu.cpu).or_insert(cpu);
        }
        cpus.into_values().collect()
    }

    /// What the scheduler said.
    #[must_use]
    pub fn sched(&self) -> Option<&Sched> {
        self.answers.iter().find_map(|answer| answer.sched.as_ref())
    }

    /// The timers of all CPUs.
    #[must_use]
    pub fn timers(&self) -> Option<&Timers> {
        self.answers.iter().find_map(|answer| answer.timers.as_ref())
    }

    /// Who holds which locks, as the kernel told it last.
    #[must_use]
    pub fn locks(&self) -> &[Holder] {
        let told = self.answers.iter().rev().find(|answer| !answer.locks.is_empty());
        told.map(|answer| answer.locks.as_slice()).unwrap_or_default()
    }

    /// What was recorded before.
    #[must_use]
    pub fn ftrace(&self) -> Option<&Ftrace> {
        self.answers.iter().find_map(|answer| answer.ftrace.as_ref())
    }

    /// The backtrace of a CPU.
    #[must_use]
    pub fn cpu(&self, index: u32) -> Option<&Backtrace> {
        self.answers.iter().flat_map(|answer| &answer.cpus).find(|cpu| cpu.cpu == index)
    }
}

/// What the kernel says before the dump of an action.
pub(crate) fn header(action: Action) -> &'static str {
    match action {
        Action::BlockedTasks => "Show Blocked State",
        Action::BacktraceAllActiveCpus => "Show backtrace of all active CPUs",
        Action::TaskStates => "Show State",
        Action::MemoryUsage => "Show Memory",
        Action::DumpFtraceBuffer => "Dump ftrace buffer",
        Action::Timers => "Show clockevent devices & pending hrtimers (no others)",
        Action::Locks => "Show Locks Held",
        Action::Registers => "Show Regs",
    }
}

/// What the SysRq handler said.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Said {
    /// The header of the action that was asked for.
    Header,
    /// That it must not.
    Refused,
    /// What it knows: the answer to `h`, and to a key that it does not know.
    Help,
    /// A part of a dump.
    Part,
    /// Something else: the header of another action, for one.
    Other,
}

impl Said {
    fn read(text: &str, action: Option<Action>) -> Option<Self> {
        let words = spoken(text)?.trim_end();
        Some(if action.is_some_and(|action| words == header(action)) {
            Self::Header
        } else if words.starts_with("This sysrq operation is disabled") {
            Self::Refused
        } else if words.starts_with("HELP : ") {
            Self::Help
        } else if backtrace::without_nmi(words).is_some() {
            Self::Part
        } else {
            Self::Other
        })
    }
}

/// What the SysRq handler says in a line: the prefix was `SysRq : ` before 5.0.
fn spoken(text: &str) -> Option<&str> {
    text.strip_prefix("sysrq: ").or_else(|| text.strip_prefix("SysRq : "))
}

#[cfg(test)]
mod tests;
