//! When the capturing side may stop waiting for more of an answer.
//!
//! The handler serves one key after the other, so what it says to the next one ends the answer to this
//! one: press `h`, which changes nothing, and the list of keys that it prints is the end of any dump.
//! Some answers show their end by themselves:
//! - a refusal, and the list of keys where the kernel is built without the action;
//! - `memory-usage`, `dump-ftrace-buffer` and `locks` have a last line;
//! - `backtrace-all-active-cpus` lists the CPUs that it asks, though one that takes no NMI never
//!   answers, and a guest with one CPU prints no list.
//!
//! The others have none: a list of tasks may go on with another one, and without a blocked task it is a
//! header alone. Where neither end comes, a quiet time has to decide.

use super::{Said, backtrace};
use crate::base::step::Action;
use crate::evidence::ftrace;
use crate::evidence::line::{Caller, Line, messages};
use crate::evidence::who::number;
use std::collections::{BTreeMap, BTreeSet};

/// As much of a line as matters: no line that matters is longer.
const LINE_BYTES: usize = 2048;

/// More than edge guests have; the others are not waited for.
const CPUS: usize = 1024;

/// How much of an answer is there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Shape {
    /// The kernel has not answered.
    Nothing,
    /// It has begun to answer; whether more comes cannot be seen.
    Growing,
    /// Nothing more will come.
    Complete,
}

/// Listens to an answer while it comes, in pieces of any size. Looks at every byte once.
#[derive(Debug)]
pub struct Listener {
    action: Action,
    /// The line that has not ended.
    line: Vec<u8>,
    heard: Heard,
    cpus: Cpus,
    ftrace: ftrace::Reader,
}

/// What was heard of the kernel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Heard {
    Nothing,
    /// Words that may be left from an earlier answer.
    Words,
    /// The header of the action.
    Header,
    /// The end of the answer.
    End,
    /// The list of keys, the answer to `h`.
    Help,
}

/// Which CPUs were asked for a backtrace and have not shown one.
#[derive(Debug, Default)]
struct Cpus {
    asked: Option<BTreeSet<u32>>,
    /// The one that each caller is printing.
    open: BTreeMap<Option<Caller>, u32>,
}

impl Shape {
    /// Of all that came after the key.
    #[must_use]
    pub fn of(bytes: &[u8], action: Action) -> Self {
        Listener::new(action).hear(bytes)
    }
}

impl Listener {
    /// Listens to the answer to an action.
    #[must_use]
    pub fn new(action: Action) -> Self {
        Self {
            action,
            line: Vec::new(),
            heard: Heard::Nothing,
            cpus: Cpus::default(),
            ftrace: ftrace::Reader::default(),
        }
    }

    /// Takes what came next.
    pub fn hear(&mut self, bytes: &[u8]) -> Shape {
        for part in bytes.split_inclusive(|&byte| byte == b'\n') {
            let room = LINE_BYTES.saturating_sub(self.line.len());
            self.line.extend(part.iter().take(room));
            if part.ends_with(b"\n") {
                let mut whole = std::mem::take(&mut self.line);
                if !whole.ends_with(b"\n") {
                    whole.push(b'\n');
                }
                messages(&whole).for_each(|line| self.take(&line));
                whole.clear();
                self.line = whole;
            }
        }
        match self.heard {
            Heard::Nothing => Shape::Nothing,
            Heard::Words | Heard::Header => Shape::Growing,
            Heard::End | Heard::Help => Shape::Complete,
        }
    }

    /// Whether the kernel has listed its keys, the answer to `h`.
    #[must_use]
    pub fn helped(&self) -> bool {
        self.heard == Heard::Help
    }

    fn take(&mut self, line: &Line<'_>) {
        match (self.heard, Said::read(&line.text, Some(self.action))) {
            // The last one counts: an earlier one was left from an earlier answer.
            (_, Some(Said::Header)) => {
                *self = Self { heard: Heard::Header, ..Self::new(self.action) }
            }
            (_, Some(Said::Help)) => self.heard = Heard::Help,
            (Heard::End | Heard::Help, _) => {}
            (_, Some(Said::Refused)) | (Heard::Header, Some(Said::Other)) => {
                self.heard = Heard::End
            }
            (Heard::Header, Some(Said::Part) | None) if self.ends(line) => self.heard = Heard::End,
            (Heard::Nothing, Some(Said::Part | Said::Other)) => self.heard = Heard::Words,
            (Heard::Nothing | Heard::Words | Heard::Header, _) => {}
        }
    }

    /// Whether the dump shows its end in this line.
    fn ends(&mut self, line: &Line<'_>) -> bool {
        let text = line.text.as_ref();
        match self.action {
            Action::BacktraceAllActiveCpus => self.cpus.all_shown(line),
            Action::MemoryUsage => text.ends_with(" pages hwpoisoned"),
            Action::Locks => text.starts_with("====="),
            Action::DumpFtraceBuffer => {
                self.ftrace.take(line);
                self.ftrace.ended()
            }
            Action::BlockedTasks | Action::TaskStates | Action::Timers | Action::Registers => false,
        }
    }
}

impl Cpus {
    /// Takes a line; tells whether every CPU that was asked has shown where it is.
    fn all_shown(&mut self, line: &Line<'_>) -> bool {
        let text = line.text.as_ref();
        if let Some(list) = sending(text) {
            self.asked.get_or_insert_with(|| cpu_list(list));
        } else if let Some(cpu) = backtrace::headline(text) {
            match (cpu.idle, self.open.len() < CPUS) {
                (true, _) => self.shown(cpu.cpu),
                (false, true) => _ = self.open.insert(line.caller, cpu.cpu),
                (false, false) => {}
            }
        } else if text.trim() == "</TASK>"
            && let Some(cpu) = self.open.remove(&line.caller)
        {
            self.shown(cpu);
        }
        self.asked.as_ref().is_some_and(BTreeSet::is_empty)
    }

    fn shown(&mut self, cpu: u32) {
        if let Some(asked) = &mut self.asked {
            asked.remove(&cpu);
        }
    }
}

/// `Sending NMI from CPU 0 to CPUs 1-3,5:`
fn sending(text: &str) -> Option<&str> {
    let list = text.strip_prefix("Sending NMI from CPU ")?.strip_suffix(':')?;
    Some(list.split_once(" to CPUs ")?.1)
}

fn cpu_list(list: &str) -> BTreeSet<u32> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(number::<u32>(first)?..=number::<u32>(last)?)
    };
    list.split(',').filter_map(range).flatten().take(CPUS).collect()
}
