//! What is known of a guest's CPUs from outside: their registers, as far as reading needs them.

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
    /// All CPUs in the monitor's `info registers -a`, by index. It is text for people and may change:
    /// a CPU that is not understood is left out.
    #[must_use]
    pub fn read(text: &str) -> Vec<(u32, Self)> {
        let parts = text.split("CPU#").skip(1);
        parts.filter_map(|part| Some((number(part)?, Self::of(part)?))).collect()
    }

    /// Whether it takes interrupts.
    #[must_use]
    pub fn interrupts_on(&self) -> bool {
        self.flags & 1 << 9 != 0
    }

    fn of(text: &str) -> Option<Self> {
        // Names are padded to their column: `R8 =..`, `IDT=     fffffe0000000000 00000fff`.
        let value = |name: &str| {
            let (_, rest) = text.split_once(name)?;
            u64::from_str_radix(rest.split_ascii_whitespace().next()?, 16).ok()
        };
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
}

fn number(text: &str) -> Option<u32> {
    text.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXT: &str = "\r
CPU#0\r
RAX=000000000001ad40 RBX=0000000000000000 RCX=0000000000000001 RDX=4000000000000000\r
RSI=0000000000000083 RDI=0000000000040b7c RBP=ffffffff9061aa40 RSP=ffffffff90603e98\r
R8 =0000000000023000 R9 =00000000315f71ca R10=00000000000001c7 R11=0000000000000001\r
R12=0000000000000000 R13=000000000000000d R14=0000000000000000 R15=0000000000014790\r
RIP=ffffffff8f6592eb RFL=00000246 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=1\r
IDT=     fffffe0000000000 00000fff\r
CR0=80050033 CR2=00007ffddf5de108 CR3=0000000018002000 CR4=00751ef0\r
CPU#1\r
RAX=0\r
";

    #[test]
    fn what_the_monitor_prints_is_read() {
        let expected = Registers {
            rip: 0xffff_ffff_8f65_92eb,
            rsp: 0xffff_ffff_9060_3e98,
            rbp: 0xffff_ffff_9061_aa40,
            r10: 0x1c7,
            r13: 0xd,
            rdx: 0x4000_0000_0000_0000,
            rdi: 0x40b7c,
            flags: 0x246,
            cpl: 0,
            cr3: 0x1800_2000,
            cr4: 0x0075_1ef0,
            idt: 0xffff_fe00_0000_0000,
            halted: true,
        };
        assert_eq!(Registers::read(TEXT), [(0, expected)]);
        assert!(expected.interrupts_on());
    }

    proptest! {
        #[test]
        fn any_text_is_taken(text in "(CPU#|[A-Z0-9]{3}=| |[0-9a-f]{1,20}|\n){0,80}") {
            _ = Registers::read(&text);
        }
    }
}
