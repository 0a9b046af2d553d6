//! One look at a kernel: all that is read of it, as evidence.

use super::Kernel;
use super::cpus::Sample;
use super::files::{FileSystem, file_systems};
use super::keys::Keys;
use super::locks::{Locks, Wait};
use super::log::Log;
use super::machine::Registers;
use super::memory::Fault;
use super::requests::in_flight;
use super::tasks::{Task, Tasks};
use super::unwind::{Call, End};
use crate::base::limits;
use crate::evidence::memory::{self, Memory, Progress};
use crate::evidence::trace::Frame;
use std::collections::BTreeMap;
use std::time::Duration;

/// How often a stack is read again whose task ran meanwhile.
const TRIES: usize = 3;

const MS: u64 = 1_000_000;

/// Requests that are told, the oldest.
const REQUESTS: usize = 64;

/// What stacks may cost, in bytes of their functions' names and so many more for each call: a tenth of
/// it is 2,000 tasks with 20 calls each. Reads do not bound it, for the deepest stack is read at once.
const STACKS: usize = 32 << 20;
const CALL: usize = 64;

/// What else is known from outside.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outside<'a> {
    /// The registers of CPUs, by number, at about the time of the look.
    pub registers: &'a [(u32, Registers)],
    /// An earlier sample, and how long ago it was taken.
    pub before: Option<(&'a Sample, Duration)>,
}

/// Looks at all of it. What cannot be read is left out, and said to be.
#[must_use]
pub fn look(kernel: &Kernel<'_>, outside: Outside<'_>) -> Memory {
    let mut doubts = Vec::new();
    let sample = or_doubt(Sample::take(kernel), "the CPUs", &mut doubts);
    let tasks = or_doubt(Tasks::read(kernel), "the list of tasks", &mut doubts);
    let release = or_doubt(kernel.release(), "the kernel's version", &mut doubts);
    let file_systems = or_doubt(file_systems(kernel), "the list of file systems", &mut doubts);
    let uptime_ms = sample.now() / MS;
    let Keys { mask: sysrq_mask, console_level } = Keys::read(kernel);
    let mut look = Look {
        kernel,
        sample: &sample,
        tasks: &tasks,
        file_systems,
        stacks: Stacks::default(),
        memory: Memory {
            release,
            uptime_ms,
            sysrq_mask,
            console_level,
            doubts,
            ..Memory::default()
        },
    };
    look.tell_cpus(outside);
    look.tell_requests();
    look.tell_tasks();
    look.tell_log();
    look.done()
}

fn or_doubt<T: Default>(read: Result<T, Fault>, what: &str, doubts: &mut Vec<String>) -> T {
    read.unwrap_or_else(|fault| {
        doubts.push(format!("{what} cannot be read: {fault}"));
        T::default()
    })
}

struct Look<'l, 'm> {
    kernel: &'l Kernel<'m>,
    sample: &'l Sample,
    tasks: &'l Tasks,
    file_systems: Vec<FileSystem>,
    stacks: Stacks,
    memory: Memory,
}

/// Stacks, each once.
#[derive(Default)]
struct Stacks {
    known: BTreeMap<Vec<String>, usize>,
    /// What unwinding and telling cost so far, of [`STACKS`].
    spent: usize,
}

impl Stacks {
    fn number(&mut self, stack: Vec<String>) -> Option<usize> {
        let next = self.known.len();
        (!stack.is_empty()).then(|| *self.known.entry(stack).or_insert(next))
    }

    /// Whether there is room for what these calls cost.
    fn take(&mut self, calls: usize, frames: &[Frame]) -> Result<(), Fault> {
        let names = frames.iter().map(|frame| frame.function.len()).sum::<usize>();
        self.spent += calls * CALL + names;
        if self.spent > STACKS { Err(Fault::Spent) } else { Ok(()) }
    }

    fn all(self) -> Vec<Vec<String>> {
        let mut all: Vec<(usize, Vec<String>)> =
            self.known.into_iter().map(|(stack, at)| (at, stack)).collect();
        all.sort();
        all.into_iter().map(|(_, stack)| stack).collect()
    }
}

impl Look<'_, '_> {
    fn tell_cpus(&mut self, outside: Outside<'_>) {
        for cpu in &self.sample.cpus {
            let current = match self.tasks.all.get(&cpu.current) {
                Some(task) => Some(task.clone()),
                // The tasks that do nothing are in no list.
                None => Task::read(self.kernel, cpu.current).ok().flatten().map(|(task, _)| task),
            };
            let registers = outside.registers.iter().find(|(index, _)| *index == cpu.index);
            let registers = registers.map(|(_, registers)| registers);
            let trail = registers.and_then(|registers| self.kernel.running(registers));
            let from_process = trail.as_ref().is_some_and(|trail| trail.end == End::User);
            let calls = trail.map(|trail| trail.calls).unwrap_or_default();
            let progress = outside.before.and_then(|(before, ago)| {
                let before = before.cpu(cpu.index)?;
                Some(Progress {
                    after_ms: u64::try_from(ago.as_millis()).unwrap_or(u64::MAX),
                    clock_ms: cpu.clock_ns.saturating_sub(before.clock_ns) / MS,
                    switches: cpu.switches.saturating_sub(before.switches),
                    timer_events: cpu
                        .timer_events
                        .zip(before.timer_events)
                        .map(|(now, then)| now.wrapping_sub(then)),
                })
            });
            self.memory.cpus.push(memory::Cpu {
                index: cpu.index,
                pid: current.as_ref().map_or(0, |task| task.pid),
                comm: current.map(|task| text(&task.comm)).unwrap_or_default(),
                idle: cpu.idle,
                running: cpu.running,
                registers: registers.map(|registers| registers.told(&self.kernel.space)),
                stack: printed(&self.frames(&calls)),
                from_process,
                progress,
            });
        }
    }

    fn tell_requests(&mut self) {
        let now = self.sample.now();
        let requests = in_flight(self.kernel, &self.file_systems);
        let requests = or_doubt(requests, "the requests of disks", &mut self.memory.doubts);
        for request in requests.into_iter().take(REQUESTS) {
            self.memory.requests.push(memory::Request {
                disk: request.disk,
                operation: request.operation.to_owned(),
                sector: request.sector,
                bytes: request.bytes,
                // The clocks of the scheduler and of disks both start at boot, within a second.
                age_ms: (request.started_ns > 0)
                    .then(|| now.saturating_sub(request.started_ns) / MS),
            });
        }
    }

    fn tell_tasks(&mut self) {
        let mut locks = Locks::new(self.kernel, self.tasks);
        for task in self.tasks.all.values() {
            let mut told = self.told(task);
            match self.tell_stack(task, &mut told, &mut locks) {
                Err(Fault::Spent) => {
                    self.memory.doubts.push("not all stacks were read: the guest has more tasks, or longer lists, than a look may read".to_owned());
                    self.memory.tasks.push(told);
                    break;
                }
                // The stack of a task that ended is gone.
                Ok(()) | Err(_) => self.memory.tasks.push(told),
            }
        }
        if self.kernel.layouts.locks.is_none() {
            self.memory.doubts.push(
                "this kernel has its locks in a way that is not known: who waits for whom is not told"
                    .to_owned(),
            );
        }
        if !self.tasks.is_whole {
            self.memory.doubts.push(
                "the list of tasks changed each time it was read: some may be missing".to_owned(),
            );
        }
    }

    fn told(&self, task: &Task) -> memory::Task {
        let pid = |at| self.tasks.all.get(&at).map_or(0, |task| task.tgid);
        let cpu = task.cpu.unwrap_or_default();
        memory::Task {
            pid: task.pid,
            tgid: task.tgid,
            ppid: pid(task.parent),
            comm: text(&task.comm),
            state: task.state,
            kernel: task.is_kernel,
            cpu,
            since_ms: if task.on_cpu {
                Some(0)
            } else {
                self.sample.since(cpu, task.ran_at).map(|ns| ns / MS)
            },
            stack: None,
            moved: false,
        }
    }

    /// Reads a stack, again if the task ran meanwhile.
    fn tell_stack(
        &mut self,
        task: &Task,
        told: &mut memory::Task,
        locks: &mut Locks<'_, '_>,
    ) -> Result<(), Fault> {
        let mut task = task.clone();
        for _ in 0..TRIES {
            let Some(trail) = task.trail(self.kernel)? else {
                told.stack = self.running_stack(told);
                return Ok(());
            };
            let frames = self.frames(&trail.calls);
            self.stacks.take(trail.calls.len(), &frames)?;
            let wait = locks.wait(self.tasks, &task, &trail, &frames)?;
            told.moved = !task.rests(self.kernel)? || trail.end == End::Lost;
            if !told.moved || trail.end == End::Lost {
                told.stack = self.stacks.number(printed(&frames));
                if let Some(wait) = wait {
                    let wait = self.wait(told.pid, wait)?;
                    self.memory.waits.push(wait);
                }
                return Ok(());
            }
            match Task::read(self.kernel, task.at)? {
                Some((again, _)) => task = again,
                None => return Ok(()),
            }
        }
        Ok(())
    }

    /// Of a task that runs, what its CPU's registers showed.
    fn running_stack(&mut self, told: &memory::Task) -> Option<usize> {
        let cpu = self.memory.cpus.iter().find(|cpu| cpu.pid == told.pid && !cpu.idle)?;
        self.stacks.number(cpu.stack.clone())
    }

    fn wait(&self, pid: u32, wait: Wait) -> Result<memory::Wait, Fault> {
        let owner = wait.owner.and_then(|owner| self.tasks.all.get(&owner));
        let within = self.file_systems.iter().find(|it| it.has(self.kernel, wait.at));
        let symbol = self.kernel.symbol(wait.at)?;
        let lock = symbol.map(|(symbol, module)| {
            let offset = wait.at - symbol.start;
            let offset = if offset == 0 { String::new() } else { format!("+{offset:#x}") };
            let module = module.map(|module| format!(" [{module}]")).unwrap_or_default();
            format!("{}{offset}{module}", symbol.name)
        });
        Ok(memory::Wait {
            pid,
            kind: wait.kind,
            lock: lock.unwrap_or_else(|| format!("{:#x}", wait.at)),
            owner: owner.map(|task| task.pid),
            frozen: within.filter(|it| it.frozen).map(|it| format!("{} on {}", it.kind, it.name)),
        })
    }

    /// Calls that have no name, or none that can be read, are left out: there is nothing to show.
    fn frames(&self, calls: &[Call]) -> Vec<Frame> {
        calls.iter().filter_map(|call| self.kernel.frame(*call).ok().flatten()).collect()
    }

    fn tell_log(&mut self) {
        match Log::read(self.kernel, limits::LOOK_LOG_BYTES) {
            Ok(log) => {
                self.memory.log = text(&log.to_bytes());
                if log.dropped > 0 {
                    let doubt =
                        format!("{} records of the log changed while they were read", log.dropped);
                    self.memory.doubts.push(doubt);
                }
            }
            Err(fault) => {
                self.memory.doubts.push(format!("the kernel's log was not read: {fault}"))
            }
        }
    }

    fn done(self) -> Memory {
        let mut memory = self.memory;
        memory.tasks.sort_by_key(|task| task.pid);
        memory.waits.sort_by_key(|wait| wait.pid);
        let on_disk = self.file_systems.into_iter().filter(|it| it.device != 0);
        memory.file_systems = on_disk
            .map(|it| memory::FileSystem {
                kind: it.kind,
                name: it.name,
                frozen: it.frozen,
                read_only: it.read_only,
            })
            .collect();
        memory.stacks = self.stacks.all();
        let spent = self.kernel.spent();
        memory.cost = memory::Cost { reads: spent.reads, bytes: spent.bytes };
        memory
    }
}

fn printed(frames: &[Frame]) -> Vec<String> {
    frames.iter().map(ToString::to_string).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As many tasks as a list may have, with the deepest stacks and the longest names.
    #[test]
    fn stacks_cost_no_more_than_they_may() {
        for name in ["f", &"long_".repeat(100)] {
            let frame = Frame::read("f+0x1/0x2").unwrap();
            let frame = Frame { function: name.to_owned(), ..frame };
            let stack = vec![frame; 96];
            let mut stacks = Stacks::default();
            let told = (0..65_536).take_while(|_| stacks.take(stack.len(), &stack).is_ok()).count();
            let cost = 96 * (CALL + name.len());
            assert_eq!(told, STACKS / cost);
            assert!(stacks.take(96, &[]).is_err(), "calls without a name cost nothing");
        }
    }
}
