//! Tasks in `blocked-tasks` and `task-states`.
//!
//! ```text
//! task:lab_order_ab    state:D stack:0     pid:263   tgid:263   ppid:2      flags:0x00004000
//! lab_order_ab    D    0   263      2 0x80004000                              (before 5.11)
//! ```

use super::sched::{self, Sched};
use crate::evidence::line::{Caller, Line};
use crate::evidence::locks::{self, Holder};
use crate::evidence::trace::Trace;
use crate::evidence::who::{comm, number};
use std::collections::BTreeMap;

/// More do not fit into a step's bytes.
const TASKS_KEPT: usize = 8192;

/// All tasks together; a guest of 1000 tasks has some 20,000. Of those that come later only the headline is
/// kept.
const FRAMES_KEPT: usize = 65_536;

/// What is kept of the words of what a worker does.
const WORK_CHARS: usize = 128;

/// One task.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Task {
    /// Its name; a guest may have chosen it freely.
    pub comm: String,
    /// Its id.
    pub pid: u32,
    /// Its parent's; kernel threads are children of 2.
    pub ppid: u32,
    /// `D` waits and takes no signals, `R` runs, `S` sleeps, `T` is stopped, `I` is idle.
    pub state: char,
    /// The kernel's flags of its thread.
    pub flags: u64,
    /// Queue and function, of a worker that is at work.
    pub work: Option<String>,
    /// Where it is.
    pub trace: Trace,
    /// Whether lines of it are missing, or others stand in its midst.
    pub torn: bool,
}

impl Task {
    /// Whether it is a thread of the kernel.
    #[must_use]
    pub fn is_kernel(&self) -> bool {
        self.ppid == 2 || self.pid == 2
    }
}

/// What a dump of tasks holds.
#[derive(Default)]
pub(super) struct Tasks {
    pub(super) tasks: Vec<Task>,
    pub(super) sched: Option<Sched>,
    pub(super) locks: Vec<Holder>,
}

#[derive(Default)]
pub(super) struct Reader {
    tasks: Vec<Task>,
    frames: usize,
    /// The task that each caller is printing: dumps of several may be mixed.
    open: BTreeMap<Option<Caller>, usize>,
    part: Part,
    sched: sched::Reader,
    locks: locks::Reader,
    /// Whether the last line came whole.
    cut: bool,
}

/// The dump of all tasks has more behind the last one.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Part {
    #[default]
    Tasks,
    Sched,
    Locks,
}

impl Reader {
    pub(super) fn take(&mut self, line: &Line<'_>) {
        let text = line.text.as_ref();
        self.cut = !line.ended;
        if let Some(task) = headline(text) {
            self.part = Part::Tasks;
            self.begin(task, line.caller);
            return;
        }
        if sched::is_heading(text) {
            self.part = Part::Sched;
        } else if locks::is_heading(text) {
            self.part = Part::Locks;
        }
        match self.part {
            Part::Tasks => self.go_on(text, line.caller),
            Part::Sched => self.sched.take(line),
            Part::Locks => _ = self.locks.take(line),
        }
    }

    pub(super) fn finish(mut self) -> Tasks {
        for at in std::mem::take(&mut self.open).into_values() {
            self.end(at);
        }
        if let Some(last) = self.tasks.last_mut().filter(|_| self.part == Part::Tasks && self.cut) {
            last.torn |= !last.trace.is_done();
        }
        Tasks { tasks: self.tasks, sched: self.sched.finish(), locks: self.locks.finish() }
    }

    fn begin(&mut self, task: Task, caller: Option<Caller>) {
        if let Some(at) = self.open.remove(&caller) {
            self.end(at);
        }
        if self.tasks.len() < TASKS_KEPT {
            self.open.insert(caller, self.tasks.len());
            self.tasks.push(task);
        }
    }

    fn end(&mut self, at: usize) {
        let task = &mut self.tasks[at];
        task.torn |= task.trace.is_open();
    }

    fn go_on(&mut self, text: &str, caller: Option<Caller>) {
        let Some(at) = self.open.get(&caller) else { return };
        let task = &mut self.tasks[*at];
        if let Some(work) = text.strip_prefix("Workqueue: ") {
            task.work = Some(work.trim().chars().take(WORK_CHARS).collect());
        } else if self.frames >= FRAMES_KEPT {
            task.torn = true;
        } else if Trace::knows(text) {
            let before = task.trace.frames.len();
            task.trace.take(text);
            self.frames += task.trace.frames.len().saturating_sub(before);
        } else if task.trace.is_open() && !text.trim().is_empty() {
            task.torn = true;
        }
    }
}

/// The first line of a task.
pub(super) fn headline(text: &str) -> Option<Task> {
    current_form(text).or_else(|| early_form(text))
}

fn current_form(text: &str) -> Option<Task> {
    let (name, rest) = text.strip_prefix("task:")?.split_once(" state:")?;
    let field = |key| rest.split_once(key).and_then(|(_, value)| number(value.trim_start()));
    Some(Task {
        comm: comm(name),
        pid: field(" pid:")?,
        ppid: field(" ppid:")?,
        state: rest.chars().next()?,
        flags: rest.split_once(" flags:0x").and_then(|(_, flags)| hex(flags)).unwrap_or_default(),
        ..Task::default()
    })
}

/// Read from its end, because a name may contain anything.
fn early_form(text: &str) -> Option<Task> {
    let mut words = text.split_ascii_whitespace().rev();
    let flags = words.next()?;
    if flags.len() != 10 || !flags.starts_with("0x") {
        return None;
    }
    let ppid = words.next()?.parse().ok()?;
    let pid = words.next()?.parse().ok()?;
    let _stack: u64 = words.next()?.parse().ok()?;
    let mut state = words.next()?;
    if state == "task" && words.next() == Some("running") {
        state = words.next()?;
    }
    let mut letters = state.chars();
    let (Some(letter), None) = (letters.next(), letters.next()) else { return None };
    let name = text.get(..text.find(&format!(" {letter} "))?)?;
    "RSDTtXZPI".contains(letter).then(|| Task {
        comm: comm(name),
        pid,
        ppid,
        state: letter,
        flags: hex(&flags[2..]).unwrap_or_default(),
        ..Task::default()
    })
}

fn hex(digits: &str) -> Option<u64> {
    u64::from_str_radix(digits.split(' ').next()?, 16).ok()
}
