//! Tasks in `blocked-tasks` and `task-states`.
//!
//! ```text
//! task:lab_order_ab    state:D stack:0     pid:263   tgid:263   ppid:2      flags:0x00004000
//! lab_order_ab    D    0   263      2 0x80004000                              (before 5.11)
//! ```

use crate::evidence::line::lines;
use crate::evidence::trace::Trace;
use crate::evidence::who::{comm, number};

/// More do not fit into a step's bytes.
const TASKS_KEPT: usize = 8192;

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
    /// Where it is.
    pub trace: Trace,
}

impl Task {
    /// Whether it is a thread of the kernel.
    #[must_use]
    pub fn is_kernel(&self) -> bool {
        self.ppid == 2 || self.pid == 2
    }
}

pub(super) fn read(body: &[u8]) -> Vec<Task> {
    let mut tasks: Vec<Task> = Vec::new();
    let mut reads_trace = false;
    for line in lines(body) {
        if let Some(task) = headline(&line.text) {
            if tasks.len() == TASKS_KEPT {
                break;
            }
            tasks.push(task);
            reads_trace = true;
        } else if is_tail(&line.text) {
            reads_trace = false;
        } else if let (true, Some(task)) = (reads_trace, tasks.last_mut()) {
            task.trace.take(&line.text);
        }
    }
    tasks
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
        trace: Trace::default(),
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
        trace: Trace::default(),
    })
}

/// What `task-states` prints after the last task.
fn is_tail(text: &str) -> bool {
    ["Sched Debug Version", "Showing busy workqueues", "Showing all locks held"]
        .iter()
        .any(|begin| text.starts_with(begin))
}
