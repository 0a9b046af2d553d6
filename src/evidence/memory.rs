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

/// What a CPU did between two looks.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Progress {
    /// How long they were apart.
    pub after_ms: u64,
    /// How far the clock of its scheduler went, which stands still while it is idle.
    pub clock_ms: u64,
    /// How often it changed from one task to another.
    pub switches: u64,
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

    /// The calls on a task's stack.
    #[must_use]
    pub fn stack(&self, task: &Task) -> &[String] {
        task.stack.and_then(|stack| self.stacks.get(stack)).map(Vec::as_slice).unwrap_or_default()
    }

    /// What the task with this id waits for.
    #[must_use]
    pub fn wait(&self, pid: u32) -> Option<&Wait> {
        let at = self.waits.binary_search_by_key(&pid, |wait| wait.pid).ok()?;
        self.waits.get(at)
    }

    /// Tasks that wait for each other in a ring, from the one that was started first; each ring once.
    #[must_use]
    pub fn rings(&self) -> Vec<Vec<&Wait>> {
        let mut rings: Vec<Vec<&Wait>> = Vec::new();
        for wait in &self.waits {
            let chain = self.chain(wait);
            let closes = chain.last().is_some_and(|last| last.owner == Some(wait.pid));
            let is_first = chain.iter().all(|other| other.pid >= wait.pid);
            if closes && is_first {
                rings.push(chain);
            }
        }
        rings
    }

    /// Who is waited for in the end; nobody where that is not known, or is in a ring.
    #[must_use]
    pub fn root(&self, wait: &Wait) -> Option<u32> {
        let chain = self.chain(wait);
        let owner = chain.last()?.owner?;
        chain.iter().all(|wait| wait.pid != owner).then_some(owner)
    }

    /// A wait, that of the lock's holder, and so on, each task once.
    fn chain(&self, wait: &Wait) -> Vec<&Wait> {
        let mut chain: Vec<&Wait> = Vec::new();
        let mut next = Some(wait.pid);
        while let Some(wait) = next.and_then(|pid| self.wait(pid)) {
            if chain.iter().any(|known| known.pid == wait.pid) {
                break;
            }
            chain.push(wait);
            next = wait.owner;
        }
        chain
    }
}

/// Calls as parsed from the text that the kernel would print.
#[must_use]
pub fn trace(stack: &[String]) -> Trace {
    let mut trace = Trace::default();
    trace.frames = stack.iter().filter_map(|call| Frame::read(call)).collect();
    trace
}
