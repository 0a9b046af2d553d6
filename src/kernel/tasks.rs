//! All tasks, and where each of them is in the kernel.

use super::Kernel;
use super::machine::Registers;
use super::memory::Fault;
use super::open::place;
use super::types::layout::Layout;
use super::unwind::{Call, End, Stack};
use super::walk::List;
use std::collections::BTreeMap;

/// A guest that has more is shown in part; `pid_max` of a stock guest is half of that per CPU and less.
const TASKS: usize = 65_536;

/// How often a list that changed while it was read is read again.
const TRIES: usize = 3;

/// `PF_KTHREAD`.
const KERNEL_THREAD: u32 = 0x0020_0000;

/// `TASK_IDLE`: waits, and is not to be counted as waiting.
const IDLE: u32 = 0x402;

/// The letters of the states, by their bits.
const LETTERS: [char; 9] = ['R', 'S', 'D', 'T', 't', 'X', 'Z', 'P', 'I'];

/// Bits that are shown.
const SHOWN: u32 = 0x7f;

/// Other kinds of waiting that the kernel shows as `D`: for a lock of a real-time kernel, and frozen.
const ALSO_WAITS: u32 = 0x1000 | 0x8000;

/// One task.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Task {
    pub(super) at: u64,
    pub(super) pid: u32,
    pub(super) tgid: u32,
    pub(super) parent: u64,
    pub(super) comm: Vec<u8>,
    pub(super) state: char,
    pub(super) is_kernel: bool,
    pub(super) cpu: Option<u32>,
    pub(super) on_cpu: bool,
    pub(super) stack: u64,
    /// By the clock of its CPU's queue, in nanoseconds: when it last ran.
    pub(super) ran_at: u64,
    /// What changes whenever it runs.
    pub(super) mark: Mark,
}

/// What changes whenever a task runs: its stack pointer and how often it was switched.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Mark {
    sp: u64,
    switches: (u64, u64),
}

/// All tasks.
#[derive(Clone, Debug, Default)]
pub(super) struct Tasks {
    /// By address.
    pub(super) all: BTreeMap<u64, Task>,
    /// Whether the list was read without a change in its midst.
    pub(super) is_whole: bool,
}

/// A stack and who called whom on it.
pub(super) struct Trail<'k, 'm> {
    pub(super) stack: Stack<'k, 'm>,
    pub(super) calls: Vec<Call>,
    pub(super) end: End,
}

impl Tasks {
    pub(super) fn read(kernel: &Kernel<'_>) -> Result<Self, Fault> {
        let mut tasks = Self::default();
        for _ in 0..TRIES {
            tasks = Self::once(kernel)?;
            if tasks.is_whole {
                break;
            }
        }
        Ok(tasks)
    }

    fn once(kernel: &Kernel<'_>) -> Result<Self, Fault> {
        let mut tasks = Self::default();
        let Some(first) = kernel.symbols.maybe("init_task") else { return Ok(tasks) };
        let layout = &kernel.layouts.task;
        let leaders = List::read(&kernel.space, place(first, layout.tasks), TASKS)?;
        tasks.is_whole = leaders.is_whole;
        for at in leaders.at {
            let at = at.wrapping_sub(u64::from(layout.tasks.offset));
            let Some(signal) = tasks.take(kernel, at)? else { continue };
            let head = place(signal, kernel.layouts.signal.thread_head);
            let left = TASKS.saturating_sub(tasks.all.len());
            let threads = match List::read(&kernel.space, head, left) {
                Err(Fault::Spent) => return Err(Fault::Spent),
                threads => threads.unwrap_or_default(),
            };
            tasks.is_whole &= threads.is_whole;
            for thread in threads.at {
                let thread = thread.wrapping_sub(u64::from(layout.thread_node.offset));
                if thread != at {
                    tasks.take(kernel, thread)?;
                }
            }
        }
        Ok(tasks)
    }

    /// Reads one, and tells where what it shares with its threads is.
    fn take(&mut self, kernel: &Kernel<'_>, at: u64) -> Result<Option<u64>, Fault> {
        match Task::read(kernel, at) {
            Ok(Some((task, signal))) => {
                self.all.insert(at, task);
                Ok(Some(signal))
            }
            Err(Fault::Spent) => Err(Fault::Spent),
            Ok(None) | Err(_) => {
                self.is_whole = false;
                Ok(None)
            }
        }
    }
}

impl Task {
    /// Reads one, if it is one: it went away and its memory was used anew otherwise.
    pub(super) fn read(kernel: &Kernel<'_>, at: u64) -> Result<Option<(Self, u64)>, Fault> {
        let layout = &kernel.layouts.task;
        let view = layout.read(&kernel.space, at)?;
        let mark = Mark {
            sp: view.word(layout.sp),
            switches: (view.word(layout.switches), view.word(layout.forced_switches)),
        };
        let task = Self {
            at,
            pid: view.u32(layout.pid),
            tgid: view.u32(layout.tgid),
            parent: view.word(layout.parent),
            comm: view.text(layout.comm).to_vec(),
            state: letter(view.u32(layout.state), view.u32(layout.exit_state)),
            is_kernel: view.u32(layout.flags) & KERNEL_THREAD != 0,
            cpu: layout.cpu.map(|cpu| view.u32(cpu)),
            on_cpu: view.word(layout.on_cpu) != 0,
            stack: view.word(layout.stack),
            ran_at: view.word(layout.exec_start),
            mark,
        };
        // `PID_MAX_LIMIT`; and a name always ends within its array.
        let is_one = task.pid <= 1 << 22 && task.comm.len() < layout.comm.bytes as usize;
        Ok(is_one.then(|| (task, view.word(layout.signal))))
    }

    /// Whether it did not run since it was read.
    pub(super) fn rests(&self, kernel: &Kernel<'_>) -> Result<bool, Fault> {
        let layout = &kernel.layouts.task;
        let word = |field| kernel.space.u64(place(self.at, field));
        let switches = (word(layout.switches)?, word(layout.forced_switches)?);
        Ok(self.mark == Mark { sp: word(layout.sp)?, switches })
    }

    /// The part of its stack that is in use, unwound; nothing if it runs or has none any more.
    pub(super) fn trail<'k, 'm>(
        &self,
        kernel: &'k Kernel<'m>,
    ) -> Result<Option<Trail<'k, 'm>>, Fault> {
        let sp = self.mark.sp;
        if self.on_cpu || self.stack == 0 || sp.wrapping_sub(self.stack) >= kernel.stack_bytes {
            return Ok(None);
        }
        let bytes = self.stack.wrapping_add(kernel.stack_bytes).wrapping_sub(sp);
        let bytes = kernel.space.bytes(sp, bytes as usize)?;
        let stack = Stack { space: &kernel.space, at: sp, bytes };
        let saved = place(self.at, kernel.layouts.task.sp);
        let (calls, end) = kernel.unwinder.asleep(kernel, &stack, saved)?;
        Ok(Some(Trail { stack, calls, end }))
    }
}

impl<'m> Kernel<'m> {
    /// Where a CPU is, if that is in the kernel.
    pub(super) fn running<'k>(&'k self, cpu: &Registers) -> Option<Trail<'k, 'm>> {
        let stack = Stack { space: &self.space, at: 0, bytes: Vec::new() };
        let (calls, end) = self.unwinder.running(self, &stack, cpu)?;
        Some(Trail { stack, calls, end })
    }
}

/// The letter that `ps` shows.
fn letter(state: u32, exit: u32) -> char {
    if state & IDLE == IDLE && exit == 0 {
        return 'I';
    }
    let also = if state & ALSO_WAITS != 0 { 2 } else { 0 };
    let shown = (state | exit | also) & SHOWN;
    let highest = u32::BITS - shown.leading_zeros();
    LETTERS.get(highest as usize).copied().unwrap_or('?')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_have_the_letters_of_ps() {
        let letters: String = [
            (0, 0),
            (1, 0),
            (2, 0),
            (0x102, 0),
            (4, 0),
            (8, 0),
            (0x402, 0),
            (0x40, 0),
            (0x80, 0x20),
            (0x80, 0x10),
            (0x8000, 0),
        ]
        .into_iter()
        .map(|(state, exit)| letter(state, exit))
        .collect();
        assert_eq!(letters, "RSDDTtIPZXD");
    }
}
