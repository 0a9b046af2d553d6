//! CPUs in `backtrace-all-active-cpus`.

use crate::evidence::line::lines;
use crate::evidence::trace::{Frame, Trace};
use crate::evidence::who::{Who, number};

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

pub(super) fn read(body: &[u8]) -> Vec<Backtrace> {
    let mut cpus: Vec<Backtrace> = Vec::new();
    for line in lines(body) {
        if let Some(cpu) = headline(&line.text) {
            if cpus.len() == CPUS_KEPT {
                break;
            }
            cpus.push(cpu);
        } else if let Some(cpu) = cpus.last_mut() {
            match Who::read(&line.text) {
                Some(who) => cpu.who = who,
                None => _ = cpu.trace.take(&line.text),
            }
        }
    }
    for cpu in &mut cpus {
        cpu.forget_own_interrupt();
        cpu.idle |= cpu.trace.calls().iter().take(4).any(|frame| is_idle(frame));
    }
    cpus
}

/// `NMI backtrace for cpu 1`, perhaps with ` skipped: idling at ..`.
pub(super) fn headline(text: &str) -> Option<Backtrace> {
    let rest = text.strip_prefix("NMI backtrace for cpu ")?;
    let (cpu, at) = match rest.split_once(" skipped: idling at ") {
        Some((cpu, at)) => (cpu, Some(at)),
        None => (rest, None),
    };
    let mut backtrace = Backtrace { cpu: number(cpu)?, idle: at.is_some(), ..Backtrace::default() };
    backtrace.trace.rip = at.and_then(Frame::read);
    Some(backtrace)
}

impl Backtrace {
    /// Whether a process was running, perhaps just interrupted.
    #[must_use]
    pub fn in_process(&self) -> bool {
        let interrupts = |frame: &Frame| {
            frame.name().starts_with("asm_sysvec_") || frame.name() == "asm_common_interrupt"
        };
        // What was interrupted would stand behind the interrupt, if it were in the kernel.
        let interrupted = self.trace.frames.last().is_none_or(interrupts);
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
