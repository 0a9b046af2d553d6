//! The registers of a CPU.

use crate::kernel::machine::register;

/// One CPU of an x86-64 machine at one moment.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Registers {
    /// Where it is.
    pub rip: u64,
    /// Its stack.
    pub rsp: u64,
    /// Its frame, where functions keep one.
    pub rbp: u64,
    /// Functions that realign their stack keep the old one in one of these.
    pub r10: u64,
    /// See `r10`.
    pub r13: u64,
    /// See `r10`.
    pub rdx: u64,
    /// See `r10`.
    pub rdi: u64,
    /// EFLAGS; bit 9 is IF.
    pub flags: u64,
    /// 0 is the kernel, 3 is userspace.
    pub cpl: u8,
    /// The root of its page tables.
    pub cr3: u64,
    /// Bit 12 is set where page tables have five levels.
    pub cr4: u64,
    /// Where its interrupt descriptors are.
    pub idt: u64,
    /// Whether it sleeps until an interrupt.
    pub halted: bool,
}

impl Registers {
    /// One CPU's part of what the monitor prints.
    pub(in crate::kernel) fn of(text: &str) -> Option<Self> {
        let value = |name| register(text, name);
        Some(Self {
            rip: value("RIP=")?,
            rsp: value("RSP=")?,
            rbp: value("RBP=")?,
            r10: value("R10=")?,
            r13: value("R13=")?,
            rdx: value("RDX=")?,
            rdi: value("RDI=")?,
            flags: value("RFL=")?,
            cpl: value("CPL=")?.try_into().ok()?,
            cr3: value("CR3=")?,
            cr4: value("CR4=")?,
            idt: value("IDT=")?,
            halted: value("HLT=")? == 1,
        })
    }

    /// Whether it runs a process.
    #[must_use]
    pub fn is_user(&self) -> bool {
        self.cpl == 3
    }

    /// Whether it takes interrupts.
    #[must_use]
    pub fn interrupts_on(&self) -> bool {
        self.flags & 1 << 9 != 0
    }
}
