//! What each CPU schedules.

use super::Kernel;
use super::memory::Fault;
use super::types::layout::Layout;

/// No edge guest has more.
const CPUS: u32 = 1024;

/// A CPU's queue at one moment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Cpu {
    /// Its number.
    pub index: u32,
    /// Nanoseconds since boot, when it last looked. Stands still while it is idle.
    pub clock_ns: u64,
    /// The same without the time that interrupts took.
    pub task_clock_ns: u64,
    /// How often it changed from one task to another.
    pub switches: u64,
    /// How many interrupts of its timer it took; no more than how they change means anything.
    pub timer_events: Option<u64>,
    /// How many tasks it has to run.
    pub running: u32,
    /// The address of the task that it runs.
    pub current: u64,
    /// Whether that is the one that does nothing.
    pub idle: bool,
}

/// All CPUs at one moment.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Sample {
    /// Those that are online, by number.
    pub cpus: Vec<Cpu>,
}

impl Sample {
    /// Looks at all of them.
    ///
    /// # Errors
    ///
    /// When memory cannot be read.
    pub fn take(kernel: &Kernel<'_>) -> Result<Self, Fault> {
        let symbol = |name| kernel.symbols.maybe(name);
        let (Some(online), Some(offsets), Some(queues)) =
            (symbol("__cpu_online_mask"), symbol("__per_cpu_offset"), symbol("runqueues"))
        else {
            return Ok(Self::default());
        };
        let mask = kernel.space.bytes(online, CPUS as usize / 8)?;
        // Behind a mask that is shorter stands something else.
        let most = match symbol("nr_cpu_ids") {
            Some(at) => kernel.space.u32(at)?.min(CPUS),
            None => 1,
        };
        let is_online = |cpu: u32| mask[cpu as usize / 8] >> (cpu % 8) & 1 == 1;
        let mut cpus = Vec::new();
        for index in (0..most).filter(|cpu| is_online(*cpu)) {
            let offset = kernel.space.u64(offsets.wrapping_add(u64::from(index) * 8))?;
            match Cpu::read(kernel, index, queues, offset) {
                Ok(cpu) => cpus.push(cpu),
                Err(Fault::Spent) => return Err(Fault::Spent),
                // It was unplugged this moment.
                Err(_) => {}
            }
        }
        Ok(Self { cpus })
    }

    /// The latest moment that any of them has seen, in nanoseconds since boot.
    pub(super) fn now(&self) -> u64 {
        self.cpus.iter().map(|cpu| cpu.clock_ns).max().unwrap_or_default()
    }

    pub(super) fn cpu(&self, index: u32) -> Option<&Cpu> {
        self.cpus.iter().find(|cpu| cpu.index == index)
    }

    /// How long ago a task ran on a CPU, by that CPU's clock; the clock of an idle CPU stands still.
    pub(super) fn since(&self, index: u32, ran_at: u64) -> Option<u64> {
        let cpu = self.cpu(index)?;
        let by_its_clock = cpu.task_clock_ns.checked_sub(ran_at)?;
        by_its_clock.checked_add(self.now() - cpu.clock_ns)
    }
}

impl Cpu {
    /// What it has of its own is at `offset` from where the kernel says that all have it.
    fn read(kernel: &Kernel<'_>, index: u32, queues: u64, offset: u64) -> Result<Self, Fault> {
        let layout = &kernel.layouts.queue;
        let view = layout.read(&kernel.space, queues.wrapping_add(offset))?;
        let current = view.word(layout.curr);
        Ok(Self {
            index,
            clock_ns: view.word(layout.clock),
            task_clock_ns: view.word(layout.clock_task),
            switches: view.word(layout.switches),
            timer_events: timer_events(kernel, offset)?,
            running: view.u32(layout.running),
            current,
            idle: current == view.word(layout.idle),
        })
    }
}

fn timer_events(kernel: &Kernel<'_>, offset: u64) -> Result<Option<u64>, Fault> {
    let layout = &kernel.layouts.timers;
    let Some((timers, events)) = kernel.symbols.maybe("hrtimer_bases").zip(layout.events) else {
        return Ok(None);
    };
    match layout.read(&kernel.space, timers.wrapping_add(offset)) {
        Ok(view) => Ok(Some(view.word(events))),
        Err(Fault::Spent) => Err(Fault::Spent),
        Err(_) => Ok(None),
    }
}
