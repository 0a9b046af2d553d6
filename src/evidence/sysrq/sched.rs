//! What the scheduler says at the end of `task-states`: who has which CPU, who wants one, and which
//! workers hold up their queues.
//!
//! ```text
//! Sched Debug Version: v0.11, 6.12.117+deb12-cloud-amd64 #1
//! ktime                                   : 34456.315026
//! cpu#0, 2596.119 MHz
//!   .nr_running                    : 2
//!   .nr_switches                   : 1535
//!   .curr->pid                     : 259
//!   .clock                         : 33733.614755
//! cfs_rq[0]:/
//!   .throttled                     : 0
//! rt_rq[0]:
//!   .rt_throttled                  : 0
//! runnable tasks:
//!  S            task   PID       vruntime   ..
//! >R     lab_irq_off   259     26824.321542   ..
//! Showing busy workqueues and worker pools:
//! workqueue events_unbound: flags=0x2
//!   pwq 4: cpus=0-1 flags=0x4 nice=0 active=2/512 refcnt=4
//!     in-flight: 9:flush_to_ldisc flush_to_ldisc
//! pool 4: cpus=0-1 flags=0x4 nice=0 hung=0s workers=3 idle: 25 31
//! ```

use crate::evidence::line::Line;
use crate::evidence::who::{comm, number};

/// More than edge guests have.
const CPUS_KEPT: usize = 1024;

/// Of those who want a CPU, the first.
const RUNNABLE_KEPT: usize = 32;

/// Of workers that are at work, the first.
const WORK_KEPT: usize = 256;

/// What is kept of the name of a queue or of a function.
const NAME_CHARS: usize = 128;

/// What the scheduler says.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Sched {
    /// Its CPUs.
    pub cpus: Vec<RunQueue>,
    /// Work that was begun and is not done.
    pub work: Vec<Work>,
    /// The longest time for which a pool of workers has not got on, in seconds.
    pub hung_s: Option<u64>,
}

/// One CPU and who wants it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RunQueue {
    /// Its number.
    pub cpu: u32,
    /// How many want to run.
    pub running: Option<u32>,
    /// How often it changed from one task to another.
    pub switches: Option<u64>,
    /// The task that has it; 0 is none.
    pub current_pid: Option<u32>,
    /// Its clock, in microseconds: it stands still where nobody wakes up.
    pub clock_us: Option<u64>,
    /// Whether realtime tasks have used up their share of time.
    pub rt_throttled: bool,
    /// Whether a group of tasks has used up its share of time.
    pub cfs_throttled: bool,
    /// Those who want to run, the first of them.
    pub runnable: Vec<Runnable>,
}

/// A task that wants to run.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Runnable {
    /// Its name.
    pub comm: String,
    /// Its id.
    pub pid: u32,
    /// Whether it has the CPU.
    pub current: bool,
}

/// Work that was begun and is not done.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Work {
    /// The queue.
    pub queue: String,
    /// The worker.
    pub pid: u32,
    /// What it does.
    pub function: String,
}

#[derive(Default)]
pub(super) struct Reader {
    sched: Sched,
    begun: bool,
    queue: String,
}

impl Reader {
    pub(super) fn take(&mut self, line: &Line<'_>) {
        let text = line.text.trim_end();
        self.begun |= is_heading(text);
        if let Some(cpu) = text.strip_prefix("cpu#") {
            self.begin_cpu(cpu);
        } else if let Some((key, value)) = text.split_once(':').filter(|_| text.starts_with("  ."))
        {
            self.take_field(key.trim(), value.trim());
        } else if let Some(task) = runnable(text) {
            let cpu = self.sched.cpus.last_mut();
            if let Some(cpu) = cpu.filter(|cpu| cpu.runnable.len() < RUNNABLE_KEPT) {
                cpu.runnable.push(task);
            }
        } else {
            self.take_work(text);
        }
    }

    pub(super) fn finish(self) -> Option<Sched> {
        self.begun.then_some(self.sched)
    }

    fn begin_cpu(&mut self, text: &str) {
        if let Some(cpu) = number(text)
            && self.sched.cpus.len() < CPUS_KEPT
        {
            self.sched.cpus.push(RunQueue { cpu, ..RunQueue::default() });
        }
    }

    /// Those of the CPU come first, so that the same words of its parts do not count.
    fn take_field(&mut self, key: &str, value: &str) {
        let Some(cpu) = self.sched.cpus.last_mut() else { return };
        match key {
            ".nr_running" => cpu.running = cpu.running.or_else(|| value.parse().ok()),
            ".nr_switches" => cpu.switches = cpu.switches.or_else(|| value.parse().ok()),
            ".curr->pid" => cpu.current_pid = cpu.current_pid.or_else(|| value.parse().ok()),
            ".clock" => cpu.clock_us = cpu.clock_us.or_else(|| microseconds(value)),
            ".rt_throttled" => cpu.rt_throttled |= value == "1",
            ".throttled" => cpu.cfs_throttled |= value == "1",
            _ => {}
        }
    }

    fn take_work(&mut self, text: &str) {
        if let Some(queue) = text.strip_prefix("workqueue ") {
            self.queue = kept(queue.split(": ").next().unwrap_or_default());
        } else if let Some(work) = text.strip_prefix("    in-flight: ") {
            let of = |(pid, function): (&str, &str)| {
                let pid = number(pid)?;
                Some(Work { queue: self.queue.clone(), pid, function: kept(function) })
            };
            let words = work.split(", ").filter_map(|work| of(work.split_once(':')?));
            let room = WORK_KEPT.saturating_sub(self.sched.work.len());
            self.sched.work.extend(words.take(room));
        } else if let Some((_, hung)) =
            text.split_once(" hung=").filter(|_| text.starts_with("pool "))
        {
            self.sched.hung_s = self.sched.hung_s.max(number(hung));
        }
    }
}

/// What comes behind the last task.
pub(super) fn is_heading(text: &str) -> bool {
    text.starts_with("Sched Debug Version") || text.starts_with("Showing busy workqueues")
}

/// `>R     lab_irq_off   259     26824.321542`: the name is as wide as names get.
fn runnable(text: &str) -> Option<Runnable> {
    const NAME: std::ops::Range<usize> = 3..18;
    let state = text.get(..NAME.start)?;
    if !matches!(state, ">R " | " R " | "R  ") {
        return None;
    }
    let pid = text.get(NAME.end..)?.split_ascii_whitespace().next()?.parse().ok()?;
    Some(Runnable { comm: comm(text.get(NAME)?), pid, current: state != " R " })
}

/// `33733.614755`, in milliseconds.
fn microseconds(text: &str) -> Option<u64> {
    let (millis, fraction) = text.split_once('.')?;
    let micros: u64 = fraction.get(..3)?.parse().ok()?;
    millis.parse::<u64>().ok()?.checked_mul(1000)?.checked_add(micros)
}

fn kept(text: &str) -> String {
    text.trim().chars().take(NAME_CHARS).collect()
}
