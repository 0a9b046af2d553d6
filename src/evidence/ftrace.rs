//! The kernel's flight recorder, dumped by SysRq or by a kernel that dies (`ftrace_dump_on_oops`).
//!
//! ```text
//! Dumping ftrace buffer:
//! ---------------------------------
//! CPU:1 [LOST 917 EVENTS]
//!   <idle>-0         1dNs4. 54640531us : sched_waking: comm=rcu_preempt pid=15 prio=120
//! lab_irq_-259       0dN... 20276003us : lab_spin_forever <-lab_irq_off
//!  0)   1.204 us    |  mutex_lock();
//! ---------------------------------
//! ```
//!
//! The buffer of one CPU tells what that CPU did; one that is stuck says nothing any more. Its last
//! events are the ones before the fault, so of every CPU the last ones are kept.

use super::line::Line;
use super::trace::is_function;
use super::who::{comm, number};
use std::collections::{BTreeMap, VecDeque};

/// Enough to see what led to a fault.
const EVENTS_KEPT: usize = 32;

/// With fewer CPUs than `NR_CPUS`, so that a hostile dump stays small: edge guests have a handful.
const CPUS_KEPT: usize = 256;

/// What is kept of an event's text.
const TEXT_CHARS: usize = 160;

/// What was recorded.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Ftrace {
    /// By CPU.
    pub cpus: BTreeMap<u32, Recorded>,
    /// The time of the last event of any CPU, in microseconds of the recorder's clock.
    pub last_us: Option<u64>,
}

/// What one CPU recorded.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Recorded {
    /// The last events, oldest first.
    pub last: VecDeque<Event>,
    /// How many the dump had.
    pub events: u64,
    /// How many the kernel had to overwrite before.
    pub lost: u64,
}

/// One event.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Event {
    /// When, in microseconds of the recorder's clock, which also starts about at boot.
    pub time_us: Option<u64>,
    /// Who was running, cut by the kernel to 8 letters; empty where the tracer does not tell.
    pub comm: String,
    /// Its id.
    pub pid: u32,
    /// The kernel's letters for interrupts, need of scheduling, context and preemption: `dNs4.`.
    pub flags: String,
    /// `lab_spin_forever <-lab_irq_off`, `sched_waking: comm=..`
    pub text: String,
}

impl Event {
    /// The function that was entered and its caller, if that is what the event tells.
    #[must_use]
    pub fn call(&self) -> Option<(&str, &str)> {
        let (function, caller) = self.text.split_once(" <-")?;
        let is_call = is_function(function) && is_function(caller);
        is_call.then_some((function, caller))
    }
}

/// Reads a dump.
#[derive(Clone, Debug, Default)]
pub(super) struct Reader {
    state: State,
    ftrace: Ftrace,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum State {
    #[default]
    Before,
    /// Behind the heading.
    Begun,
    /// Behind the first ruler.
    Inside,
    Ended,
}

impl Reader {
    /// Takes a line; tells whether it belongs to a dump.
    pub(super) fn take(&mut self, line: &Line<'_>) -> bool {
        let text = line.text.as_ref();
        if is_heading(text) {
            self.state = State::Begun;
            return true;
        }
        match self.state {
            State::Before | State::Ended => false,
            State::Begun | State::Inside if is_ruler(text) => {
                let begins = self.state == State::Begun;
                self.state = if begins { State::Inside } else { State::Ended };
                true
            }
            State::Begun if text.trim() == "(ftrace buffer empty)" => {
                self.state = State::Ended;
                true
            }
            State::Begun | State::Inside => self.take_event(text),
        }
    }

    /// Whether the dump has shown its end.
    pub(super) fn ended(&self) -> bool {
        self.state == State::Ended
    }

    /// What was recorded; nothing, if there was no dump.
    pub(super) fn finish(self) -> Option<Ftrace> {
        (self.state != State::Before).then_some(self.ftrace)
    }

    fn take_event(&mut self, text: &str) -> bool {
        if let Some((cpu, lost)) = lost(text) {
            self.with_cpu(cpu, |recorded| recorded.lost = recorded.lost.saturating_add(lost));
            return true;
        }
        let Some((cpu, event)) = timed(text).or_else(|| graphed(text)) else { return false };
        self.ftrace.last_us = self.ftrace.last_us.max(event.time_us);
        self.with_cpu(cpu, |recorded| {
            recorded.events += 1;
            if recorded.last.len() == EVENTS_KEPT {
                recorded.last.pop_front();
            }
            recorded.last.push_back(event);
        });
        true
    }

    fn with_cpu(&mut self, cpu: u32, change: impl FnOnce(&mut Recorded)) {
        let cpus = &mut self.ftrace.cpus;
        if cpus.len() < CPUS_KEPT || cpus.contains_key(&cpu) {
            change(cpus.entry(cpu).or_default());
        }
    }
}

pub(super) fn is_heading(text: &str) -> bool {
    text.starts_with("Dumping ftrace ") && text.trim_end().ends_with("buffer:")
}

fn is_ruler(text: &str) -> bool {
    let text = text.trim_end();
    text.len() > 16 && text.bytes().all(|byte| byte == b'-')
}

/// `CPU:1 [LOST 917 EVENTS]`
fn lost(text: &str) -> Option<(u32, u64)> {
    let (cpu, rest) = text.strip_prefix("CPU:")?.split_once(" [LOST ")?;
    Some((cpu.trim().parse().ok()?, number(rest)?))
}

/// `lab_irq_-259       0dN... 20276003us : lab_spin_forever <-lab_irq_off`
fn timed(text: &str) -> Option<(u32, Event)> {
    let (head, text) = split_time(text)?;
    let (head, time) = head.rsplit_once(' ')?;
    let (task, place) = head.trim_end().rsplit_once(' ')?;
    let (name, pid) = task.trim().rsplit_once('-')?;
    let flags = place.trim_start_matches(|c: char| c.is_ascii_digit());
    let cpu = place[..place.len() - flags.len()].parse().ok()?;
    let event = Event {
        time_us: Some(time.parse().ok()?),
        comm: comm(name),
        pid: pid.parse().ok()?,
        flags: flags.chars().take(8).collect(),
        text: kept(text),
    };
    Some((cpu, event))
}

/// What stands before and behind `us : `; the mark in its midst tells of a delay.
fn split_time(text: &str) -> Option<(&str, &str)> {
    let is_time = |at: &usize| {
        let rest = text.as_bytes().get(at + 2..at + 5).unwrap_or_default();
        matches!(rest, [b' ' | b'!' | b'+' | b'#' | b'*' | b'@' | b'$', b':', b' '])
    };
    let at = text.match_indices("us").map(|(at, _)| at).find(is_time)?;
    Some((&text[..at], &text[at + 5..]))
}

/// ` 0)   1.204 us    |  mutex_lock();`
fn graphed(text: &str) -> Option<(u32, Event)> {
    let (cpu, rest) = text.trim_start().split_once(')')?;
    let cpu = cpu.parse().ok()?;
    let (_, text) = rest.split_once('|')?;
    Some((cpu, Event { text: kept(text), ..Event::default() }))
}

fn kept(text: &str) -> String {
    text.trim().chars().take(TEXT_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::line::messages;

    fn read(text: &str) -> Option<Ftrace> {
        let mut reader = Reader::default();
        for line in messages(text.as_bytes()) {
            reader.take(&line);
        }
        reader.finish()
    }

    #[test]
    fn events_of_all_tracers_are_read() {
        let ftrace = read(
            "Dumping ftrace buffer:\n---------------------------------\nCPU:1 [LOST 917 EVENTS]\n  \
            <idle>-0         1dNs4. 54640531us+: sched_waking: comm=a: b-c us : d pid=15\n\
            my us a--259       0dN... 20276003us : lab_spin_forever <-lab_irq_off\n \
            0)   1.204 us    |  mutex_lock();\nstrange\n---------------------------------\n\
            x-1 0d... 1us : too late\n",
        );
        let ftrace = ftrace.unwrap();
        assert_eq!(ftrace.last_us, Some(54_640_531));
        let other = &ftrace.cpus[&1];
        assert_eq!((other.lost, other.events, other.last[0].flags.as_str()), (917, 1, "dNs4."));
        assert_eq!(other.last[0].text, "sched_waking: comm=a: b-c us : d pid=15");
        let [call, graph] = [&ftrace.cpus[&0].last[0], &ftrace.cpus[&0].last[1]];
        assert_eq!(
            (call.comm.as_str(), call.pid, call.time_us),
            ("my us a-", 259, Some(20_276_003))
        );
        assert_eq!(call.call(), Some(("lab_spin_forever", "lab_irq_off")));
        assert_eq!((graph.text.as_str(), graph.call()), ("mutex_lock();", None));
    }

    #[test]
    fn an_empty_buffer_is_a_dump_and_silence_is_none() {
        let empty = read("Dumping ftrace buffer:\n   (ftrace buffer empty)\n").unwrap();
        assert_eq!(empty, Ftrace::default());
        assert_eq!(read("a-1 0d... 1us : x\n"), None);
    }

    #[test]
    fn the_last_events_are_kept() {
        let events: String = (0..100).map(|n| format!("a-1 0d... {n}us : e{n}\n")).collect();
        let ruler = "-".repeat(33);
        let ftrace = read(&format!("Dumping ftrace buffer:\n{ruler}\n{events}")).unwrap();
        let cpu = &ftrace.cpus[&0];
        assert_eq!((cpu.events, cpu.last.len(), cpu.last[31].text.as_str()), (100, 32, "e99"));
    }
}
