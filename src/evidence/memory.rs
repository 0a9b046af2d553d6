//! What was read in the guest's own memory.
//!
//! The artifact is JSON of this. Names are the guest's, made text; nothing in it is a sentence of ours
//! but the doubts.

mod fit;

use super::trace::{Frame, Trace};
use serde::{Deserialize, Serialize};

/// A kernel that was looked at.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Memory {
    /// Its version, as `uname -r` has it.
    pub release: String,
    /// Milliseconds since it booted, by the latest clock of its CPUs.
    pub uptime_ms: u64,
    /// What SysRq may do: 0 is nothing, 1 everything, all else the kernel's mask.
    #[serde(default)]
    pub sysrq_mask: Option<u32>,
    /// What is less urgent than this level is not shown on the console.
    #[serde(default)]
    pub console_level: Option<u8>,
    /// CPUs that are online, by number.
    pub cpus: Vec<Cpu>,
    /// All tasks, by process id.
    pub tasks: Vec<Task>,
    /// Stacks that tasks have, each once: calls as the kernel prints them, the innermost first.
    pub stacks: Vec<Vec<String>>,
    /// Who waits for which lock.
    pub waits: Vec<Wait>,
    /// File systems on disks.
    pub file_systems: Vec<FileSystem>,
    /// What disks have not answered yet, the oldest first.
    #[serde(default)]
    pub requests: Vec<Request>,
    /// The end of the kernel's log.
    pub log: String,
    /// Why something may not be as it is shown.
    pub doubts: Vec<String>,
    /// What the look cost.
    pub cost: Cost,
}

/// A CPU.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Cpu {
    /// Its number.
    pub index: u32,
    /// Who it runs.
    pub pid: u32,
    /// The name of that task.
    pub comm: String,
    /// Whether that is the task that does nothing.
    pub idle: bool,
    /// Tasks that it has to run, the current one included.
    pub running: u32,
    /// Its registers, where the monitor told them.
    pub registers: Option<Registers>,
    /// Where it is in the kernel.
    pub stack: Vec<String>,
    /// Whether that was followed to where the kernel was entered from a process.
    #[serde(default)]
    pub from_process: bool,
    /// What it did between two looks.
    pub progress: Option<Progress>,
}

/// What the registers of a CPU tell without the kernel.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Registers {
    /// Whether it runs a process.
    pub user: bool,
    /// Whether it takes interrupts.
    pub interrupts_on: bool,
    /// Whether it sleeps until an interrupt.
    pub halted: bool,
}

/// What a CPU does for the task that it runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Doing<'c> {
    /// Whether it runs a process, or an interrupt of it.
    pub user: bool,
    /// Whether it takes interrupts.
    pub interrupts_on: bool,
    /// Whether it serves one at this moment.
    pub interrupted: bool,
    /// Where it is in the kernel.
    pub calls: &'c [String],
}

/// What a CPU did between two looks.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Progress {
    /// How long they were apart.
    pub after_ms: u64,
    /// How far the clock of its scheduler went, which stands still while it is idle.
    pub clock_ms: u64,
    /// How often it changed from one task to another.
    pub switches: u64,
    /// How many interrupts of its timer it took, where the kernel counts them.
    #[serde(default)]
    pub timer_events: Option<u64>,
}

/// A task.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Task {
    /// Its id.
    pub pid: u32,
    /// Its process.
    pub tgid: u32,
    /// Its parent.
    pub ppid: u32,
    /// Its name; a guest may have chosen it freely.
    pub comm: String,
    /// The letter that `ps` shows.
    pub state: char,
    /// Whether it is a thread of the kernel.
    pub kernel: bool,
    /// The CPU on which it runs or ran last.
    pub cpu: u32,
    /// Milliseconds since it last ran.
    pub since_ms: Option<u64>,
    /// Which of the stacks it has.
    pub stack: Option<usize>,
    /// Whether it ran while its stack was read, so that the stack may be of no moment.
    pub moved: bool,
}

/// A kind of lock.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lock {
    /// A mutex.
    Mutex,
    /// A semaphore for readers and writers.
    Rwsem,
    /// The same with readers counted by each CPU, as file systems are frozen by.
    PercpuRwsem,
}

/// A task that waits for a lock.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Wait {
    /// The task.
    pub pid: u32,
    /// What kind of lock it is.
    pub kind: Lock,
    /// What the lock is called, or where it is.
    pub lock: String,
    /// The task that holds it.
    pub owner: Option<u32>,
    /// The frozen file system that it belongs to.
    pub frozen: Option<String>,
}

/// A file system on a disk.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct FileSystem {
    /// `ext4`
    pub kind: String,
    /// The disk: `vda1`
    pub name: String,
    /// Whether writes are held up.
    pub frozen: bool,
    /// Whether nothing can be written.
    pub read_only: bool,
}

/// Something that a disk was asked for and did not answer yet.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Request {
    /// The disk: `vda`
    pub disk: String,
    /// `read`, `write`, `flush`, ..
    pub operation: String,
    /// Where on the disk.
    pub sector: u64,
    /// How much.
    pub bytes: u64,
    /// How long ago, where the kernel keeps account.
    pub age_ms: Option<u64>,
}

/// What a look cost.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Cost {
    /// Reads of the guest's memory.
    pub reads: u64,
    /// Bytes of it.
    pub bytes: u64,
}

impl Cpu {
    /// Whether it took interrupts of its timer between two looks, if that is known.
    #[must_use]
    pub fn took_interrupts(&self) -> Option<bool> {
        self.progress?.timer_events.map(|events| events > 0)
    }

    /// What its registers and its stack tell. A look may hit upon the timer's interrupt, which says
    /// nothing of the task but that it takes interrupts.
    #[must_use]
    pub fn doing(&self) -> Option<Doing<'_>> {
        let registers = self.registers?;
        let interrupt = || {
            let frames: Vec<_> = self.stack.iter().map(|call| Frame::read(call)).collect();
            let named = |is: fn(&Frame) -> bool| {
                frames.iter().rposition(|frame| frame.as_ref().is_some_and(is))
            };
            // Work that was put off until the end of an interrupt may last.
            named(Frame::is_interrupt).filter(|_| named(Frame::is_put_off).is_none())
        };
        let behind = (!registers.interrupts_on).then(interrupt).flatten().map(|at| at + 1);
        let behind = behind.filter(|at| *at < self.stack.len() || self.from_process);
        let calls = &self.stack[behind.unwrap_or_default()..];
        Some(Doing {
            user: registers.user || behind.is_some() && calls.is_empty(),
            interrupts_on: registers.interrupts_on || behind.is_some(),
            interrupted: behind.is_some(),
            calls,
        })
    }
}

impl Memory {
    /// Reads an artifact.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    /// As the data of an artifact.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain data becomes JSON")
    }

    /// The task with this id.
    #[must_use]
    pub fn task(&self, pid: u32) -> Option<&Task> {
        let at = self.tasks.binary_search_by_key(&pid, |task| task.pid).ok()?;
        self.tasks.get(at)
    }

    /// The CPU with this number.
    #[must_use]
    pub fn cpu(&self, index: u32) -> Option<&Cpu> {
        self.cpus.iter().find(|cpu| cpu.index == index)
    }

    /// The calls on a task's stack.
    #[must_use]
    pub fn stack(&self, task: &Task) -> &[String] {
        task.stack.and_then(|stack| self.stacks.get(stack)).map(Vec::as_slice).unwrap_or_default()
    }

    /// Tasks that wait for each other in a ring, from the one that was started first; each ring once.
    #[must_use]
    pub fn rings(&self) -> Vec<Vec<&Wait>> {
        let next = self.next();
        let mut rings = Vec::new();
        // In which walk a wait was met: one that the same walk meets again closes a ring.
        let mut met = vec![usize::MAX; next.len()];
        for start in 0..next.len() {
            let mut at = Some(start);
            while let Some(here) = at.filter(|here| met[*here] == usize::MAX) {
                met[here] = start;
                at = next[here];
            }
            if let Some(first) = at.filter(|here| met[*here] == start) {
                let rest = std::iter::successors(next[first], |here| next[*here]);
                let mut ring: Vec<usize> =
                    std::iter::once(first).chain(rest.take_while(|here| *here != first)).collect();
                let eldest = (0..ring.len()).min_by_key(|at| ring[*at]).unwrap_or_default();
                ring.rotate_left(eldest);
                rings.push(ring);
            }
        }
        rings.sort_unstable();
        let waits = |ring: Vec<usize>| ring.into_iter().map(|at| &self.waits[at]).collect();
        rings.into_iter().map(waits).collect()
    }

    /// By wait, who is waited for in the end; nobody where that is not known, or is in a ring.
    #[must_use]
    pub fn roots(&self) -> Vec<Option<u32>> {
        let next = self.next();
        let mut roots = vec![None; next.len()];
        let mut met = vec![usize::MAX; next.len()];
        for start in 0..next.len() {
            let mut walk = Vec::new();
            let mut at = start;
            let root = loop {
                if met[at] != usize::MAX {
                    // What an earlier walk found; in this one, it is a ring and has none.
                    break roots[at];
                }
                met[at] = start;
                walk.push(at);
                match next[at] {
                    Some(further) => at = further,
                    None => break self.waits[at].owner,
                }
            };
            walk.into_iter().for_each(|at| roots[at] = root);
        }
        roots
    }

    /// By wait, that of the lock's holder. A guest may have a chain of thousands: whoever follows it
    /// does so once.
    fn next(&self) -> Vec<Option<usize>> {
        let wait = |pid: u32| self.waits.binary_search_by_key(&pid, |wait| wait.pid).ok();
        self.waits.iter().map(|waiting| waiting.owner.and_then(wait)).collect()
    }
}

/// Calls as parsed from the text that the kernel would print.
#[must_use]
pub fn trace(stack: &[String]) -> Trace {
    let mut trace = Trace::default();
    trace.frames = stack.iter().filter_map(|call| Frame::read(call)).collect();
    trace
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn memory(waits: &[(u32, Option<u32>)]) -> Memory {
        let wait = |(pid, owner): &(u32, Option<u32>)| Wait {
            pid: *pid,
            kind: Lock::Mutex,
            lock: String::new(),
            owner: *owner,
            frozen: None,
        };
        Memory { waits: waits.iter().map(wait).collect(), ..Memory::default() }
    }

    fn rings(memory: &Memory) -> Vec<Vec<u32>> {
        let pids = |ring: Vec<&Wait>| ring.into_iter().map(|wait| wait.pid).collect();
        memory.rings().into_iter().map(pids).collect()
    }

    #[test]
    fn rings_and_those_behind_them_are_told_apart() {
        let waits = [
            (1, Some(7)),
            (2, Some(9)),
            (3, Some(2)),
            (4, Some(4)),
            (5, None),
            (6, Some(5)),
            (7, Some(8)),
            (8, Some(6)),
            (9, Some(3)),
            (10, Some(99)),
            (11, Some(10)),
        ];
        let memory = memory(&waits);
        assert_eq!(rings(&memory), [vec![2, 9, 3], vec![4]]);
        let roots = memory.roots();
        let known: Vec<u32> =
            (1..).zip(roots).filter_map(|(pid, root)| root.map(|_| pid)).collect();
        assert_eq!(known, [10, 11]);
    }

    #[test]
    fn a_chain_of_all_that_fits_is_walked_once() {
        let mut waits: Vec<(u32, Option<u32>)> =
            (0..200_000).map(|pid| (pid, Some(pid + 1))).collect();
        assert!(memory(&waits).roots().iter().all(|root| *root == Some(200_000)));
        waits.push((200_000, Some(0)));
        let ring = memory(&waits);
        assert_eq!(rings(&ring).concat().len(), 200_001);
        assert!(ring.roots().iter().all(Option::is_none));
    }

    proptest! {
        #[test]
        fn whoever_waits_in_a_ring_comes_back_to_itself(owners in proptest::collection::vec(proptest::option::of(0_u32..24), 0..20)) {
            let waits: Vec<(u32, Option<u32>)> = (0..).zip(owners).collect();
            let memory = memory(&waits);
            let owner = |pid: u32| waits.get(pid as usize).and_then(|(_, owner)| *owner);
            let walk = |pid: u32| std::iter::successors(owner(pid), |pid| owner(*pid)).take(waits.len() + 1);
            let in_rings: std::collections::BTreeSet<u32> = rings(&memory).concat().into_iter().collect();
            for ((pid, _), root) in waits.iter().zip(memory.roots()) {
                prop_assert_eq!(walk(*pid).any(|other| other == *pid), in_rings.contains(pid));
                let last = walk(*pid).last().filter(|last| *last as usize >= waits.len());
                prop_assert_eq!(root, last);
            }
        }
    }
}
