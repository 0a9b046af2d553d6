//! CPUs in `backtrace-all-active-cpus`.

use crate::evidence::line::{Caller, Line};
use crate::evidence::trace::{Frame, Trace};
use crate::evidence::who::{Who, number};
use std::collections::BTreeMap;

/// `NR_CPUS` of distributions is 8192; no edge guest has more than this.
const CPUS_KEPT: usize = 1024;

/// One CPU.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Backtrace {
    /// Its number.
    pub cpu: u32,
    /// Who was running.
    pub who: Who,
    /// Where.
    pub trace: Trace,
    /// Whether it had nothing to do.
    pub idle: bool,
}

#[derive(Default)]
pub(super) struct Reader {
    cpus: Vec<Backtrace>,
    /// The CPU that each caller is printing: they do not wait for each other.
    open: BTreeMap<Option<Caller>, usize>,
}

impl Reader {
    pub(super) fn take(&mut self, line: &Line<'_>) {
        let text = line.text.as_ref();
        if let Some(cpu) = headline(text) {
            self.begin(cpu, line.caller);
        } else if let Some(at) = self.open.get(&line.caller) {
            let cpu = &mut self.cpus[*at];
            match Who::read(text) {
                Some(who) => cpu.who = who,
                None if Trace::knows(text) => _ = cpu.trace.take(text),
                None => {}
            }
        }
    }

    /// The key for registers gives one CPU, without a headline.
    pub(super) fn take_alone(&mut self, line: &Line<'_>) {
        match Who::read(&line.text) {
            Some(who) if self.cpus.is_empty() => {
                let cpu = who.cpu.unwrap_or_default();
                self.begin(Backtrace { cpu, who, ..Backtrace::default() }, line.caller);
            }
            _ => self.take(line),
        }
    }

    pub(super) fn finish(mut self) -> Vec<Backtrace> {
        for cpu in &mut self.cpus {
            cpu.forget_own_interrupt();
            cpu.idle |= cpu.trace.calls().iter().take(4).any(|frame| is_idle(frame));
        }
        self.cpus
    }

    fn begin(&mut self, cpu: Backtrace, caller: Option<Caller>) {
        self.open.remove(&caller);
        if self.cpus.len() < CPUS_KEPT {
            self.open.insert(caller, self.cpus.len());
            self.cpus.push(cpu);
        }
    }
}

/// `NMI backtrace for cpu 1`, perhaps with ` skipped: idling at ..`; where the machine has no NMI to
/// ask with, `sysrq: CPU1:`.
pub(super) fn headline(text: &str) -> Option<Backtrace> {
    if let Some(cpu) = super::spoken(text).and_then(without_nmi) {
        return Some(Backtrace { cpu, ..Backtrace::default() });
    }
    let rest = text.strip_prefix("NMI backtrace for cpu ")?;
    let (cpu, at) = match rest.split_once(" skipped: idling at ") {
        Some((cpu, at)) => (cpu, Some(at)),
        None => (rest, None),
    };
    let mut backtrace = Backtrace { cpu: number(cpu)?, idle: at.is_some(), ..Backtrace::default() };
    backtrace.trace.rip = at.and_then(Frame::read);
    Some(backtrace)
}

/// `CPU1:`
pub(super) fn without_nmi(words: &str) -> Option<u32> {
    words.trim_end().strip_prefix("CPU")?.strip_suffix(':')?.parse().ok()
}

impl Backtrace {
    /// Whether a process was running, perhaps just interrupted.
    #[must_use]
    pub fn in_process(&self) -> bool {
        // What was interrupted would stand behind the interrupt, if it were in the kernel.
        let interrupted = self.trace.frames.last().is_none_or(Frame::is_interrupt);
        let in_kernel = self.trace.rip.is_some() && self.trace.frames.is_empty();
        !self.idle && interrupted && !in_kernel && !self.who.comm.is_empty()
    }

    /// The CPU that prints does so from an interrupt; when that did not interrupt the kernel, its
    /// own calls are all that was printed, and say nothing of what the CPU does.
    fn forget_own_interrupt(&mut self) {
        let prints = |frame: &Frame| frame.name() == "nmi_cpu_backtrace";
        if self.trace.rip.is_none() && self.trace.frames.iter().any(prints) {
            self.trace = Trace::default();
        }
    }
}

fn is_idle(frame: &Frame) -> bool {
    [
        "default_idle",
        "default_idle_call",
        "cpuidle_enter_state",
        "do_idle",
        "cpu_idle_loop",
        "cpu_startup_entry",
    ]
    .contains(&frame.name())
}
