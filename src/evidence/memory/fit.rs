//! What is left out of a look that is larger than it may be, the least telling first.
//!
//! Judges count processes, so none of those is ever left out.

use super::{Memory, Task};
use std::collections::{BTreeMap, BTreeSet};

/// Of the log this much is worth more than who sleeps where.
const LOG_END: usize = 16 * 1024;

/// What a doubt takes.
const DOUBT: usize = 256;

impl Memory {
    /// The same in at most so many bytes; what was left out is said in its doubts. Nothing where the
    /// rest is still too much.
    #[must_use]
    pub fn fit(mut self, bytes: usize) -> Option<Self> {
        let ways: [fn(&mut Self, usize); 4] = [
            |memory, excess| memory.cut_log(excess, LOG_END),
            |memory, _| memory.leave_out_stacks(),
            |memory, _| memory.leave_out_sleepers(),
            |memory, excess| memory.cut_log(excess, 0),
        ];
        for way in ways {
            match self.to_bytes().len().saturating_sub(bytes) {
                0 => return Some(self),
                excess => way(&mut self, excess + DOUBT),
            }
        }
        (self.to_bytes().len() <= bytes).then_some(self)
    }

    /// Leaves out lines from the start of the log, and keeps so much of its end.
    fn cut_log(&mut self, excess: usize, keep: usize) {
        let cut = excess.min(self.log.len().saturating_sub(keep));
        if cut == 0 {
            return;
        }
        let rest = self.log.as_bytes().get(cut..).unwrap_or_default();
        let line = rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |end| end + 1);
        self.log.drain(..cut + line);
        self.doubts.push(format!("{} bytes of the log were left out: no room", cut + line));
    }

    /// Leaves out where those are that merely sleep.
    fn leave_out_stacks(&mut self) {
        let telling = self.telling();
        let mut numbers: BTreeMap<usize, usize> = BTreeMap::new();
        let mut left_out = 0;
        for task in &mut self.tasks {
            let Some(stack) = task.stack else { continue };
            if is_asleep(task, &telling) {
                task.stack = None;
                left_out += 1;
            } else {
                let next = numbers.len();
                task.stack = Some(*numbers.entry(stack).or_insert(next));
            }
        }
        let mut kept: Vec<(usize, usize)> =
            numbers.into_iter().map(|(old, new)| (new, old)).collect();
        kept.sort_unstable();
        let stack = |(_, old): (usize, usize)| self.stacks.get(old).cloned().unwrap_or_default();
        self.stacks = kept.into_iter().map(stack).collect();
        if left_out > 0 {
            self.doubts
                .push(format!("the stacks of {left_out} tasks that sleep were left out: no room"));
        }
    }

    /// Leaves out threads, and tasks of the kernel, that merely sleep.
    fn leave_out_sleepers(&mut self) {
        let telling = self.telling();
        let before = self.tasks.len();
        self.tasks.retain(|task| {
            let is_process = !task.kernel && task.pid == task.tgid;
            is_process || !is_asleep(task, &telling)
        });
        let left_out = before - self.tasks.len();
        if left_out > 0 {
            self.doubts.push(format!("{left_out} threads that sleep were left out: no room"));
        }
    }

    /// Who runs, waits for a lock or holds one.
    fn telling(&self) -> BTreeSet<u32> {
        let waits = self.waits.iter().flat_map(|wait| [Some(wait.pid), wait.owner]);
        waits.flatten().chain(self.cpus.iter().map(|cpu| cpu.pid)).collect()
    }
}

fn is_asleep(task: &Task, telling: &BTreeSet<u32>) -> bool {
    matches!(task.state, 'S' | 'I') && !telling.contains(&task.pid)
}

#[cfg(test)]
mod tests {
    use super::super::{Lock, Wait};
    use super::*;
    use proptest::prelude::*;

    fn task(pid: u32, state: char, kernel: bool, stack: usize) -> Task {
        let comm = format!("task-{pid}");
        Task { pid, tgid: pid, comm, state, kernel, stack: Some(stack), ..Task::default() }
    }

    /// Two who wait for each other, and many who sleep.
    fn memory(sleepers: u32, log_lines: usize) -> Memory {
        let mut tasks = vec![task(1, 'D', false, 0), task(2, 'D', true, 2)];
        tasks.extend((3..3 + sleepers).map(|pid| task(pid, 'S', pid % 2 == 0, 1)));
        let stack = |name: &str| vec![format!("{name}+0x1/0x2")];
        let wait = |pid, owner| Wait {
            pid,
            kind: Lock::Mutex,
            lock: "a".to_owned(),
            owner: Some(owner),
            frozen: None,
        };
        Memory {
            tasks,
            stacks: vec![stack("take_a"), stack("sleep"), stack("take_b")],
            waits: vec![wait(1, 2), wait(2, 1)],
            log: (0..log_lines).map(|line| format!("[{line:>12}.000000] a line\n")).collect(),
            ..Memory::default()
        }
    }

    #[test]
    fn what_fits_is_as_it_was() {
        let memory = memory(10, 100);
        assert_eq!(memory.clone().fit(1 << 20), Some(memory));
    }

    #[test]
    fn the_end_of_the_log_and_who_waits_go_last() {
        let whole = memory(1_000, 2_000);
        let bytes = |memory: &Memory| memory.to_bytes().len();
        let shorter = whole.clone().fit(bytes(&whole) - 1_000).unwrap();
        assert_eq!((shorter.tasks.len(), shorter.stacks.len()), (1_002, 3));
        assert!(whole.log.ends_with(&shorter.log) && shorter.log.starts_with('['));
        assert!(shorter.log.len() > LOG_END);

        let little = whole.clone().fit(100_000).unwrap();
        assert!(bytes(&little) <= 100_000);
        assert_eq!(little.tasks.iter().filter(|task| !task.kernel).count(), 501, "all processes");
        assert_eq!(little.stacks, [["take_a+0x1/0x2"], ["take_b+0x1/0x2"]]);
        assert_eq!(little.stack(little.task(2).unwrap()), ["take_b+0x1/0x2"]);
        assert_eq!(little.rings().len(), 1);
        insta::assert_snapshot!(little.doubts.join("\n"));
        assert_eq!(whole.fit(1_000), None);
    }

    proptest! {
        #[test]
        fn it_fits_or_is_nothing(sleepers in 0_u32..200, log in ".{0,400}", bytes in 0_usize..40_000) {
            let memory = Memory { log: log.repeat(20), ..memory(sleepers, 0) };
            if let Some(fitting) = memory.fit(bytes) {
                prop_assert!(fitting.to_bytes().len() <= bytes);
                prop_assert!(fitting.tasks.iter().filter_map(|task| task.stack).all(|at| at < fitting.stacks.len()));
                prop_assert_eq!(fitting.rings().len(), 1);
            }
        }
    }
}
