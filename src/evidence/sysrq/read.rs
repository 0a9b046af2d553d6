//! Reads an answer in one pass.
//!
//! ```text
//!  headless --header of the action--> inside --any other word of the handler--> over
//!      |                                ^  |                                      |
//!      |                                +--+---------header of the action---------+
//!      +--any other word of the handler: forget what was read--> over
//! ```
//!
//! The last header counts, so that what is left of an earlier answer is not taken for this one. What
//! the handler says next, such as the header of the next action, ends the dump. A dump whose header was
//! torn by a shell's echo is still one.

use super::{Answer, Outcome, Said, backtrace, memory, tasks, timers};
use crate::base::step::Action;
use crate::evidence::line::{Line, messages};
use crate::evidence::{ftrace, locks};

impl Answer {
    /// Reads what came after the key.
    #[must_use]
    pub fn read(action: &str, bytes: &[u8]) -> Self {
        let known = Action::ALL.into_iter().find(|known| known.word() == action);
        let mut reader = Reader::new(known);
        for line in messages(bytes) {
            reader.take(&line);
        }
        reader.finish(action)
    }

    fn has_body(&self) -> bool {
        !self.tasks.is_empty()
            || !self.cpus.is_empty()
            || !self.locks.is_empty()
            || self.memory.is_some()
            || self.timers.is_some()
            || self.ftrace.is_some()
    }
}

struct Reader {
    action: Option<Action>,
    part: Part,
    /// The surest that was heard of the handler.
    heard: Option<Said>,
    dump: Dump,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Part {
    Headless,
    Inside,
    Over,
}

/// The dump of an action.
enum Dump {
    Tasks(tasks::Reader),
    Cpus(backtrace::Reader),
    Registers(backtrace::Reader),
    Memory(memory::Reader),
    Timers(timers::Reader),
    Locks(locks::Reader),
    Ftrace(ftrace::Reader),
    Unknown,
}

impl Reader {
    fn new(action: Option<Action>) -> Self {
        Self { action, part: Part::Headless, heard: None, dump: Dump::of(action) }
    }

    fn take(&mut self, line: &Line<'_>) {
        match Said::read(&line.text, self.action) {
            Some(Said::Header) => {
                self.part = Part::Inside;
                self.heard = Some(Said::Header);
                self.dump = Dump::of(self.action);
            }
            Some(said @ (Said::Refused | Said::Help | Said::Other)) => {
                if self.part == Part::Headless {
                    self.dump = Dump::of(self.action);
                }
                self.part = Part::Over;
                self.hear(said);
            }
            Some(Said::Part) | None if self.part == Part::Over => {}
            Some(Said::Part) | None => self.dump.take(line),
        }
    }

    /// A refusal is about this action, but what else was said may be left from another.
    fn hear(&mut self, said: Said) {
        let outranked = match self.heard {
            Some(Said::Header | Said::Refused) => true,
            Some(Said::Help) => said == Said::Other,
            Some(Said::Part | Said::Other) | None => false,
        };
        if !outranked {
            self.heard = Some(said);
        }
    }

    fn finish(self, action: &str) -> Answer {
        let mut answer = Answer {
            action: action.to_owned(),
            outcome: match self.heard {
                Some(Said::Refused) => Outcome::Refused,
                Some(Said::Help) if self.action.is_some() => Outcome::NotBuiltIn,
                Some(_) => Outcome::HeaderOnly,
                None => Outcome::Silent,
            },
            tasks: Vec::new(),
            sched: None,
            cpus: Vec::new(),
            memory: None,
            timers: None,
            locks: Vec::new(),
            ftrace: None,
        };
        self.dump.finish(&mut answer);
        if answer.has_body() {
            answer.outcome = Outcome::Dump;
        }
        answer
    }
}

impl Dump {
    fn of(action: Option<Action>) -> Self {
        match action {
            Some(Action::BlockedTasks | Action::TaskStates) => Self::Tasks(Default::default()),
            Some(Action::BacktraceAllActiveCpus) => Self::Cpus(Default::default()),
            Some(Action::Registers) => Self::Registers(Default::default()),
            Some(Action::MemoryUsage) => Self::Memory(Default::default()),
            Some(Action::Timers) => Self::Timers(Default::default()),
            Some(Action::Locks) => Self::Locks(Default::default()),
            Some(Action::DumpFtraceBuffer) => Self::Ftrace(Default::default()),
            None => Self::Unknown,
        }
    }

    fn take(&mut self, line: &Line<'_>) {
        match self {
            Self::Tasks(tasks) => tasks.take(line),
            Self::Cpus(cpus) => cpus.take(line),
            Self::Registers(cpu) => cpu.take_alone(line),
            Self::Memory(memory) => memory.take(line),
            Self::Timers(timers) => timers.take(line),
            Self::Locks(locks) => _ = locks.take(line),
            Self::Ftrace(ftrace) => _ = ftrace.take(line),
            Self::Unknown => {}
        }
    }

    fn finish(self, answer: &mut Answer) {
        match self {
            Self::Tasks(tasks) => {
                let tasks = tasks.finish();
                (answer.tasks, answer.sched, answer.locks) =
                    (tasks.tasks, tasks.sched, tasks.locks);
            }
            Self::Cpus(cpus) | Self::Registers(cpus) => answer.cpus = cpus.finish(),
            Self::Memory(memory) => answer.memory = memory.finish(),
            Self::Timers(timers) => answer.timers = timers.finish(),
            Self::Locks(locks) => answer.locks = locks.finish(),
            Self::Ftrace(ftrace) => answer.ftrace = ftrace.finish(),
            Self::Unknown => {}
        }
    }
}
