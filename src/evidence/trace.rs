//! Call traces, as the kernel prints them in reports and in SysRq dumps.
//!
//! ```text
//!  before --"Call Trace:"--> inside --"</TASK>" or any other line--> done
//! ```
//!
//! A trace that began with a RIP is about that RIP: another one in its midst is what was
//! interrupted, and ends it. A trace that began without was printed by an interrupt: the RIP in its
//! midst is what was interrupted, and only that and what follows is kept.

use super::registers::Registers;
use std::fmt;

/// A kernel stack of 16 KiB rarely holds more calls.
const FRAMES_KEPT: usize = 64;

/// Longer names are no functions of a kernel (`KSYM_NAME_LEN` is 512 since 6.1, 128 before).
const NAME_BYTES: usize = 512;

/// What is kept of a name: all of it but for mangled ones, which must not crowd out a headline.
const NAME_BYTES_KEPT: usize = 128;

/// One call.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Frame {
    /// The function as the kernel names it, such as `__mutex_lock.constprop.0`.
    pub function: String,
    /// How far into it.
    pub offset: u64,
    /// How long it is.
    pub size: u64,
    /// The module that it belongs to.
    pub module: Option<String>,
    /// Whether the unwinder vouches for it; the others merely lay on the stack.
    pub certain: bool,
    /// On whose behalf the CPU ran it.
    pub context: Context,
}

/// On whose behalf a CPU runs a function: the section of the stack in which it stands.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Context {
    /// A task.
    #[default]
    Task,
    /// An interrupt, or what was put off until its end.
    Interrupt,
    /// A non-maskable interrupt.
    Nmi,
    /// A fault that got a stack of its own.
    Fault,
}

/// Where a CPU or a task was.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Trace {
    /// The function that was running.
    pub rip: Option<Frame>,
    /// Its callers, innermost first.
    pub frames: Vec<Frame>,
    /// Who called the running function, where a register tells: arm64.
    pub link: Option<Frame>,
    /// Registers of the running function.
    pub registers: Registers,
    phase: Phase,
    context: Context,
    /// Whether its beginning was marked, and its end not yet.
    open: bool,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Phase {
    #[default]
    Before,
    Inside,
    Done,
}

impl Frame {
    /// Reads ` ? function+0x12/0x34 [module]`.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let text = text.trim_start();
        let text = after_address(text);
        let certain = !text.starts_with("? ");
        let text = text.strip_prefix("? ").unwrap_or(text);
        let (function, rest) = text.split_once("+0x")?;
        if !is_function(function) {
            return None;
        }
        let (offset, rest) = hex(rest)?;
        let (size, rest) = hex(rest.strip_prefix("/0x")?)?;
        if !rest.is_empty() && !rest.starts_with(' ') {
            return None;
        }
        let function = kept(function);
        let context = Context::default();
        Some(Self { function, offset, size, module: module(rest), certain, context })
    }

    /// Its name in the source: without what the compiler appended.
    #[must_use]
    pub fn name(&self) -> &str {
        self.function.split('.').next().unwrap_or_default()
    }

    /// Whether it is where an interrupt enters the kernel: what stands behind it took interrupts.
    #[must_use]
    pub fn is_interrupt(&self) -> bool {
        let name = self.name();
        name.starts_with("asm_sysvec_")
            || matches!(name, "asm_common_interrupt" | "el0t_64_irq" | "el1h_64_irq")
    }

    /// Whether it does the work that interrupts put off.
    #[must_use]
    pub fn is_put_off(&self) -> bool {
        matches!(self.name(), "__do_softirq" | "handle_softirqs")
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { function, offset, size, module, certain, .. } = self;
        let doubt = if *certain { "" } else { "? " };
        write!(f, "{doubt}{function}+{offset:#x}/{size:#x}")?;
        module.iter().try_for_each(|module| write!(f, " [{module}]"))
    }
}

impl Trace {
    /// Takes one line; tells whether the line belongs to a trace.
    pub fn take(&mut self, text: &str) -> bool {
        match text.trim() {
            "<TASK>" => self.open = true,
            "</TASK>" => self.open = false,
            _ => {}
        }
        if let Some(rip) = rip(text) {
            self.take_rip(rip);
            return true;
        }
        // arm64 prints its flags first.
        let begun = self.rip.is_some() || text.starts_with("pstate: ");
        if begun && self.phase != Phase::Done && self.take_registers(text) {
            return true;
        }
        match self.phase {
            Phase::Before => self.take_before(text),
            Phase::Inside => self.take_inside(text),
            Phase::Done => is_surrounding(text) || Frame::read(text).is_some(),
        }
    }

    /// Whether a line can belong to a trace. Lines of others that a dump has in its midst cannot.
    #[must_use]
    pub fn knows(text: &str) -> bool {
        let tag = text.trim();
        is_tag(tag)
            || is_heading(tag)
            || Frame::read(text).is_some()
            || rip(text).is_some()
            || is_surrounding(text)
            || Registers::default().take(text)
    }

    /// The running function and its callers; those that merely lay on the stack only when there are
    /// no others.
    #[must_use]
    pub fn calls(&self) -> Vec<&Frame> {
        let all = || self.rip.iter().chain(&self.frames);
        if all().any(|frame| frame.certain) {
            all().filter(|frame| frame.certain).collect()
        } else {
            all().collect()
        }
    }

    /// Whether the running function takes interrupts, if that was printed.
    #[must_use]
    pub fn interrupts_on(&self) -> Option<bool> {
        self.registers.interrupts_on()
    }

    /// Whether nothing was read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rip.is_none() && self.frames.is_empty()
    }

    /// Whether its beginning was seen and its end was not, where the kernel marks both.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Whether a trace was read to its end.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.phase == Phase::Done
    }

    fn take_rip(&mut self, rip: Option<Frame>) {
        match (self.phase, rip) {
            (Phase::Before, Some(rip)) if self.rip.is_none() => self.rip = Some(rip),
            (Phase::Inside, Some(rip)) if self.rip.is_none() => {
                self.rip = Some(rip);
                self.frames.clear();
            }
            // What was interrupted, or the registers of userspace.
            (Phase::Inside, _) => self.phase = Phase::Done,
            (Phase::Before | Phase::Done, _) => {}
        }
    }

    /// Those of the running function follow its RIP.
    fn take_registers(&mut self, text: &str) -> bool {
        if let Some(link) = text.strip_prefix("lr : ") {
            self.link = self.link.take().or_else(|| Frame::read(link));
            return true;
        }
        self.registers.take(text)
    }

    fn take_before(&mut self, text: &str) -> bool {
        if is_heading(text.trim_start()) {
            self.phase = Phase::Inside;
            return true;
        }
        is_surrounding(text)
    }

    fn take_inside(&mut self, text: &str) -> bool {
        if let Some(frame) = Frame::read(text) {
            if self.frames.len() < FRAMES_KEPT {
                self.frames.push(Frame { context: self.context, ..frame });
            }
            return true;
        }
        let tag = text.trim();
        self.context = section(tag).unwrap_or(self.context);
        if tag == "</TASK>" || !self.frames.is_empty() && !is_tag(tag) && !is_surrounding(text) {
            self.phase = Phase::Done;
        }
        is_tag(tag) || is_surrounding(text)
    }
}

/// Whether the text is fit to be shown as a function's name.
#[must_use]
pub fn is_function(text: &str) -> bool {
    (1..=NAME_BYTES).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'$'))
        && !text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Reads `RIP: 0010:function+0x1/0x2` and its like: `Some(None)` is a RIP without a function.
fn rip(text: &str) -> Option<Option<Frame>> {
    let text = text.trim_start();
    if let Some(rest) = text.strip_prefix("pc : ").or_else(|| text.strip_prefix("PC is at ")) {
        return Some(Frame::read(rest));
    }
    let rest = text.strip_prefix("RIP: ").or_else(|| text.strip_prefix("EIP: "))?;
    let rest = rest.split_once(':').map_or(rest, |(_, symbol)| symbol);
    // Kernels before 4.11 print the address twice.
    Some(Frame::read(after_address(after_address(rest.trim_start()))))
}

/// What follows `[<ffffffff81000000>] `.
fn after_address(text: &str) -> &str {
    let after = || text.strip_prefix("[<")?.split_once(">]").map(|(_, rest)| rest.trim_start());
    after().unwrap_or(text)
}

fn hex(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(text.len());
    let value = u64::from_str_radix(&text[..end], 16).ok()?;
    Some((value, &text[end..]))
}

/// ` [module]`, or ` [module 0123abcd]` with a build id.
fn module(rest: &str) -> Option<String> {
    let inside = rest.strip_prefix(" [")?.split(']').next()?;
    let name = inside.split(' ').next().filter(|name| is_function(name))?;
    Some(kept(name))
}

fn kept(name: &str) -> String {
    name.chars().take(NAME_BYTES_KEPT).collect()
}

fn is_heading(text: &str) -> bool {
    text.starts_with("Call Trace:") || text.starts_with("Call trace:")
}

fn is_tag(tag: &str) -> bool {
    section(tag).is_some()
}

/// The section of a stack that begins with a tag.
fn section(tag: &str) -> Option<Context> {
    const TAGS: [(&str, Context); 12] = [
        ("<TASK>", Context::Task),
        ("</TASK>", Context::Task),
        ("<EOI>", Context::Task),
        ("<IRQ>", Context::Interrupt),
        ("</IRQ>", Context::Task),
        ("<SOFTIRQ>", Context::Interrupt),
        ("</SOFTIRQ>", Context::Task),
        ("<NMI>", Context::Nmi),
        ("</NMI>", Context::Task),
        ("<#DF>", Context::Fault),
        ("</#DF>", Context::Task),
        ("<ENTRY_TRAMPOLINE>", Context::Fault),
    ];
    TAGS.iter().find(|(known, _)| *known == tag).map(|(_, context)| *context)
}

/// Registers and other lines that a report has around its trace.
fn is_surrounding(text: &str) -> bool {
    const BEGINS: [&str; 22] = [
        "RSP: ",
        "RAX: ",
        "RDX: ",
        "RBP: ",
        "R10: ",
        "R13: ",
        "FS: ",
        "CS: ",
        "CR2: ",
        "CR3: ",
        "DR0: ",
        "DR3: ",
        "Code: ",
        "PKRU: ",
        "Modules linked in:",
        "Hardware name:",
        "Workqueue: ",
        "Stack:",
        "#PF: ",
        "PGD ",
        "---[ end trace",
        "Tainted: ",
    ];
    let text = text.trim_start();
    BEGINS.iter().any(|begin| text.starts_with(begin))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn functions(text: &str) -> (Option<String>, Vec<String>) {
        let mut trace = Trace::default();
        for line in text.lines() {
            trace.take(line);
        }
        let names = trace.frames.iter().map(|frame| frame.function.clone()).collect();
        (trace.rip.map(|rip| rip.function), names)
    }

    #[test]
    fn frames_are_read() {
        let frame = Frame::read(" ? lab_oops+0x7/0x10 [lifesign_lab 0123]").unwrap();
        assert_eq!((frame.function.as_str(), frame.offset, frame.size), ("lab_oops", 7, 16));
        assert_eq!((frame.module.as_deref(), frame.certain), (Some("lifesign_lab"), false));
        let frame = Frame::read(" [<ffffffff8100>] ? foo.isra.0+0x0/0x1").unwrap();
        assert_eq!((frame.name(), frame.certain), ("foo", false));
        for bad in [
            "",
            "foo",
            "foo+0x",
            "foo+0x1",
            "foo+0x1/0x",
            "a b+0x1/0x2",
            "12+0x1/0x2",
            "f+0x1/0x2!",
        ] {
            assert_eq!(Frame::read(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_was_interrupted_counts_not_the_interrupt() {
        let text = "Call Trace:\n <IRQ>\n dump_stack_lvl+0x1/0x2\n </IRQ>\n <TASK>\n \
            asm_sysvec+0x1/0x2\nRIP: 0010:spin+0x3/0x8\nCode: 90\nRSP: 0018:ffff\n kthread+0x1/0x2\n </TASK>\n \
            later+0x1/0x2";
        assert_eq!(functions(text), (Some("spin".into()), vec!["kthread".into()]));
    }

    #[test]
    fn sections_of_a_stack_are_told_apart() {
        let text = "RIP: 0010:f+0x3/0x8\nRSP: 0018:1 EFLAGS: 00000046\nCall Trace:\n <NMI>\n nmi+0x1/0x2\n \
            </NMI>\n <IRQ>\n irq+0x1/0x2\n </IRQ>\n <TASK>\n task+0x1/0x2\n </TASK>";
        let mut trace = Trace::default();
        assert!(text.lines().all(|line| Trace::knows(line) && trace.take(line)));
        let contexts: Vec<_> = trace.frames.iter().map(|frame| frame.context).collect();
        assert_eq!(contexts, [Context::Nmi, Context::Interrupt, Context::Task]);
        assert_eq!((trace.interrupts_on(), trace.registers.get("RSP")), (Some(false), Some(1)));
        assert!(!Trace::knows("systemd[1]: Started x+y") && trace.is_done());
    }

    #[test]
    fn an_arm64_trace_has_its_registers() {
        let text = "pc : spin+0x3/0x8 [m]\nlr : outer+0x10/0x20 [m]\nsp : ffff800081a3bd70\n\
            x29: ffff800081a3bd70 x28: 0000000000000000\nCall trace:\n spin+0x3/0x8 [m] (P)\n kthread+0x1/0x2\n";
        let mut trace = Trace::default();
        assert!(trace.take("pstate: 604000c5 (nZCv daIF +PAN)"));
        assert!(text.lines().all(|line| trace.take(line)));
        assert_eq!(trace.interrupts_on(), Some(false));
        assert_eq!(trace.link.unwrap().function, "outer");
        assert_eq!(trace.registers.get("x29"), trace.registers.get("sp"));
        assert_eq!(trace.frames.len(), 2);
    }

    #[test]
    fn a_fault_in_an_interrupt_is_not_what_was_interrupted() {
        let text = "RIP: 0010:timer+0x3/0x8\nCall Trace:\n <IRQ>\n run+0x1/0x2\n </IRQ>\n \
            asm_sysvec+0x1/0x2\nRIP: 0010:idle+0x3/0x8\n do_idle+0x1/0x2";
        let frames = vec!["run".into(), "asm_sysvec".into()];
        assert_eq!(functions(text), (Some("timer".into()), frames));
    }

    #[test]
    fn registers_of_userspace_end_a_trace() {
        let text = "RIP: 0010:deref+0x3/0x8\nCall Trace:\n do_syscall_64+0x1/0x2\nRIP: 0033:0x7f12\n x+0x1/0x2";
        assert_eq!(functions(text), (Some("deref".into()), vec!["do_syscall_64".into()]));
    }
}
