//! Answers to SysRq.
//!
//! An answer is whatever came from the console after the key: perhaps the key's echo and a prompt,
//! then the kernel's header, then the dump. Every answer at all, even a refusal, proves that the
//! kernel takes interrupts and prints.

mod backtrace;
mod memory;
mod shape;
mod tasks;

pub use backtrace::Backtrace;
pub use memory::Memory;
pub use shape::Shape;
pub use tasks::Task;

use super::line::lines;
use crate::base::step::Action;

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
    /// Of `backtrace-all-active-cpus`.
    pub cpus: Vec<Backtrace>,
    /// Of `memory-usage`.
    pub memory: Option<Memory>,
}

/// What kind of answer it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// The kernel's mask forbids the action.
    Refused,
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

    /// The tasks that waited without taking signals, each once.
    #[must_use]
    pub fn blocked(&self) -> Vec<&Task> {
        let mut blocked: Vec<&Task> = Vec::new();
        let all = self.answers.iter().flat_map(|answer| &answer.tasks);
        blocked.extend(all.filter(|task| task.state == 'D'));
        blocked.sort_by_key(|task| task.pid);
        blocked.dedup_by_key(|task| task.pid);
        blocked
    }

    /// Whether blocked tasks would have been seen, if there were any: a header alone means that none
    /// is, where the console is seen to print dumps at all.
    #[must_use]
    pub fn lists_tasks(&self) -> bool {
        let prints = self.answers.iter().any(|answer| answer.outcome == Outcome::Dump);
        let lists = |answer: &Answer| {
            matches!(answer.action.as_str(), "blocked-tasks" | "task-states")
                && matches!(answer.outcome, Outcome::Dump | Outcome::HeaderOnly)
        };
        prints && self.answers.iter().any(lists)
    }

    /// The backtraces of all CPUs.
    #[must_use]
    pub fn cpus(&self) -> Vec<&Backtrace> {
        self.answers.iter().flat_map(|answer| &answer.cpus).collect()
    }

    /// The backtrace of a CPU.
    #[must_use]
    pub fn cpu(&self, index: u32) -> Option<&Backtrace> {
        self.answers.iter().flat_map(|answer| &answer.cpus).find(|cpu| cpu.cpu == index)
    }
}

impl Answer {
    /// Reads what came after the key.
    #[must_use]
    pub fn read(action: &str, bytes: &[u8]) -> Self {
        let known = Action::ALL.into_iter().find(|known| known.word() == action);
        let begins = known.and_then(|known| header(known, bytes));
        let body = bytes.get(begins.unwrap_or(0)..).unwrap_or_default();
        let mut answer = Self {
            action: action.to_owned(),
            outcome: Outcome::Silent,
            tasks: Vec::new(),
            cpus: Vec::new(),
            memory: None,
        };
        match known {
            Some(Action::BlockedTasks | Action::TaskStates) => answer.tasks = tasks::read(body),
            Some(Action::BacktraceAllActiveCpus) => answer.cpus = backtrace::read(body),
            Some(Action::MemoryUsage) => answer.memory = memory::read(body),
            None => {}
        }
        answer.outcome = answer.outcome(begins.is_some(), bytes);
        answer
    }

    fn outcome(&self, has_header: bool, bytes: &[u8]) -> Outcome {
        let has_body = !self.tasks.is_empty() || !self.cpus.is_empty() || self.memory.is_some();
        if has_body {
            Outcome::Dump
        } else if is_refused(bytes) {
            Outcome::Refused
        } else if has_header || lines(bytes).any(|line| spoken(&line.text).is_some()) {
            Outcome::HeaderOnly
        } else {
            Outcome::Silent
        }
    }
}

fn is_refused(bytes: &[u8]) -> bool {
    lines(bytes).any(|line| spoken(&line.text).is_some_and(is_refusal))
}

fn is_refusal(words: &str) -> bool {
    words.starts_with("This sysrq operation is disabled")
}

/// Where the dump begins: behind the last header of this action, so that what is left of an earlier
/// answer is not taken for this one.
fn header(action: Action, bytes: &[u8]) -> Option<usize> {
    let words = match action {
        Action::BlockedTasks => "Show Blocked State",
        Action::BacktraceAllActiveCpus => "Show backtrace of all active CPUs",
        Action::TaskStates => "Show State",
        Action::MemoryUsage => "Show Memory",
    };
    let headers = lines(bytes).filter(|line| spoken(&line.text).map(str::trim_end) == Some(words));
    headers.map(|line| line.span.end).last()
}

/// What the SysRq handler says in a line: the prefix was `SysRq : ` before 5.0.
fn spoken(text: &str) -> Option<&str> {
    text.strip_prefix("sysrq: ").or_else(|| text.strip_prefix("SysRq : "))
}

#[cfg(test)]
mod tests;
