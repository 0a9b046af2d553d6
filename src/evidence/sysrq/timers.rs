//! Timers in `timers`: which CPU is late to serve its own.
//!
//! ```text
//! now at 36493546789 nsecs
//! cpu: 0
//!  clock 0:
//!   .get_time:   ktime_get
//! active timers:
//!  #0: <0000000050ca9736>, tick_nohz_handler
//!  # expires at 24272000000-24272000000 nsecs [in -12221546789 to -12221546789 nsecs]
//!   .expires_next   : 24272000000 nsecs
//!   .tick_stopped   : 0
//! ```

use crate::evidence::line::Line;
use crate::evidence::trace::is_function;

/// More than edge guests have; what a dump shows of the others is left out.
const CPUS_KEPT: usize = 1024;

/// The first to expire matter, and they come first.
const TIMERS_KEPT: usize = 16;

/// The longest name that is kept.
const NAME_BYTES: usize = 128;

/// What a CPU has never planned.
const NEVER: u64 = i64::MAX as u64;

/// All of it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Timers {
    /// The kernel's monotonic clock, in nanoseconds.
    pub now_ns: u64,
    /// Its CPUs.
    pub cpus: Vec<CpuTimers>,
}

/// The timers of one CPU.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct CpuTimers {
    /// Its number.
    pub cpu: u32,
    /// When it has to serve the next one, on the monotonic clock; none, if it has none.
    pub next_ns: Option<u64>,
    /// Whether it lets its tick rest, as an idle one does.
    pub tick_stopped: Option<bool>,
    /// The first of its monotonic clock.
    pub timers: Vec<Timer>,
}

/// One timer.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Timer {
    /// What is called when it expires.
    pub function: String,
    /// In how many nanoseconds; negative when it ought to have been.
    pub left_ns: i64,
}

impl Timers {
    /// For how many milliseconds a CPU has owed its next timer.
    #[must_use]
    pub fn overdue_ms(&self, cpu: u32) -> Option<u64> {
        let next_ns = self.cpus.iter().find(|it| it.cpu == cpu)?.next_ns?;
        Some(self.now_ns.checked_sub(next_ns)? / 1_000_000)
    }
}

#[derive(Default)]
pub(super) struct Reader {
    timers: Option<Timers>,
    /// Of the timer whose expiry comes next.
    function: String,
    /// Whether the timers that come are of the clock that `now` is of.
    monotonic: bool,
}

impl Reader {
    pub(super) fn take(&mut self, line: &Line<'_>) {
        let text = line.text.trim();
        if let Some(now) = text.strip_prefix("now at ") {
            self.timers = nanoseconds(now).map(|now_ns| Timers { now_ns, cpus: Vec::new() });
            return;
        }
        let Some(timers) = &mut self.timers else { return };
        if let Some(cpu) = text.strip_prefix("cpu: ").and_then(|cpu| cpu.parse().ok()) {
            if timers.cpus.len() < CPUS_KEPT {
                timers.cpus.push(CpuTimers { cpu, ..CpuTimers::default() });
            }
        } else if let Some(timer) = text.strip_prefix('#') {
            self.take_timer(timer);
        } else if let Some((key, value)) = text.strip_prefix('.').and_then(|it| it.split_once(':'))
        {
            self.take_field(key.trim_end(), value.trim());
        }
    }

    pub(super) fn finish(self) -> Option<Timers> {
        self.timers
    }

    fn cpu(&mut self) -> Option<&mut CpuTimers> {
        self.timers.as_mut()?.cpus.last_mut()
    }

    /// `0: <0000000050ca9736>, tick_nohz_handler`, and in the next line when it expires.
    fn take_timer(&mut self, text: &str) {
        if let Some((_, function)) = text.split_once(">, ") {
            let name = function.split([',', ' ']).next().unwrap_or_default();
            let is_name = name.len() <= NAME_BYTES && is_function(name);
            self.function = if is_name { name.to_owned() } else { String::new() };
            return;
        }
        let left = || text.split_once("[in ")?.1.split_once(" to ")?.0.parse().ok();
        let (Some(left_ns), true) = (left(), self.monotonic) else { return };
        let function = std::mem::take(&mut self.function);
        if let Some(cpu) = self.cpu().filter(|cpu| cpu.timers.len() < TIMERS_KEPT) {
            cpu.timers.push(Timer { function, left_ns });
        }
    }

    fn take_field(&mut self, key: &str, value: &str) {
        match key {
            "get_time" => self.monotonic = value == "ktime_get",
            "expires_next" => {
                let next_ns = nanoseconds(value).filter(|next_ns| *next_ns < NEVER);
                _ = self.cpu().map(|cpu| cpu.next_ns = next_ns);
            }
            "tick_stopped" => {
                _ = self.cpu().map(|cpu| cpu.tick_stopped = Some(value != "0"));
            }
            _ => {}
        }
    }
}

fn nanoseconds(text: &str) -> Option<u64> {
    text.strip_suffix(" nsecs")?.trim().parse().ok()
}
