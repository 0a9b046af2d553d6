//! What differs from one architecture to the other, as far as reading needs it.
//!
//! ```text
//!   registers   of a CPU, as the hypervisor tells them     Registers
//!   boot        how they, or a note in RAM, lead to it     super::boot::Found
//!   paging      how addresses become physical ones         super::paging::Form
//!   unwind      who called whom                            super::unwind::Unwinder
//! ```
//!
//! Each of them is there for every architecture, in a directory of its name. All else is the same for all.

pub use super::arm64::registers::Registers as Arm64;
pub use super::x86_64::registers::Registers as X86_64;

use super::space::Space;
use crate::evidence::memory;

/// One CPU at one moment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Registers {
    /// Of an x86-64 machine.
    X86_64(X86_64),
    /// Of an arm64 machine.
    Arm64(Arm64),
}

/// An architecture, and how it is set up.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Architecture {
    X86_64,
    Arm64 {
        /// Lowest bits of an address that mean something.
        address_bits: u32,
        page_bytes: u64,
    },
}

impl Registers {
    /// All CPUs in the monitor's `info registers -a`, by index. It is text for people and may change:
    /// a CPU that is not understood is left out.
    #[must_use]
    pub fn read(text: &str) -> Vec<(u32, Self)> {
        let parts = text.split("CPU#").skip(1);
        let of = |part| X86_64::of(part).map(Self::X86_64).or(Arm64::of(part).map(Self::Arm64));
        parts.filter_map(|part| Some((number(part)?, of(part)?))).collect()
    }

    /// What they say of the CPU's state. The kernel's code tells what registers do not.
    pub(super) fn told(&self, space: &Space<'_>) -> memory::Registers {
        match self {
            Self::X86_64(cpu) => memory::Registers {
                user: cpu.is_user(),
                interrupts_on: cpu.interrupts_on(),
                halted: cpu.halted,
            },
            Self::Arm64(cpu) => {
                let halted = !cpu.is_user() && cpu.waits(space);
                // Who waits so is woken by an interrupt that it has masked as well.
                let interrupts_on = halted || cpu.interrupts_on();
                memory::Registers { user: cpu.is_user(), interrupts_on, halted }
            }
        }
    }
}

impl Architecture {
    /// What the root of the kernel's own page tables is called.
    pub(super) fn root(self) -> &'static str {
        match self {
            Self::X86_64 => "init_top_pgt",
            Self::Arm64 { .. } => "swapper_pg_dir",
        }
    }

    /// `THREAD_SIZE` without KASAN: how much the stack of a task takes.
    pub(super) fn stack_bytes(self) -> u64 {
        const STACK: u64 = 16 * 1024;
        match self {
            Self::X86_64 => STACK,
            // Stacks are mapped by whole pages.
            Self::Arm64 { page_bytes, .. } => page_bytes.max(STACK),
        }
    }
}

/// A register that the monitor prints in hexadecimal digits.
pub(super) fn register(text: &str, name: &str) -> Option<u64> {
    // Names are padded to their column: `R8 =..`, `IDT=     fffffe0000000000 00000fff`.
    let (_, rest) = text.split_once(name)?;
    u64::from_str_radix(rest.split_ascii_whitespace().next()?, 16).ok()
}

fn number(text: &str) -> Option<u32> {
    text.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const X86: &str = "\r
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

    const ARM: &str = "\r
CPU#0\r
 PC=ffff9c1152dbccb0 X00=0000000000019f34 X01=fff000001fdc3510\r
X29=ffff9c1153e93d80 X30=ffff9c1152dbccc8  SP=ffff9c1153e93d70\r
PSTATE=414000c5 -Z-- EL1h  SVCR=00000000 --  BTYPE=0     FPCR=00000000 FPSR=00000000\r
CPU#1\r
 PC=000000000040ba10 X00=0000000000000000 X01=0000000000000000\r
X29=0000ffffdff6b210 X30=0000000000400f34  SP=0000ffffdff6b200\r
PSTATE=60001000 -ZC- EL0t    FPU disabled\r
";

    #[test]
    fn what_the_monitor_prints_is_read() {
        let x86 = X86_64 {
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
        assert_eq!(Registers::read(X86), [(0, Registers::X86_64(x86))]);
        assert!(x86.interrupts_on() && !x86.is_user());
        let [(0, Registers::Arm64(idle)), (1, Registers::Arm64(process))] =
            Registers::read(ARM)[..]
        else {
            panic!("{:?}", Registers::read(ARM));
        };
        let expected = Arm64 {
            pc: 0xffff_9c11_52db_ccb0,
            sp: 0xffff_9c11_53e9_3d70,
            fp: 0xffff_9c11_53e9_3d80,
            lr: 0xffff_9c11_52db_ccc8,
            pstate: 0x4140_00c5,
        };
        assert_eq!(idle, expected);
        assert_eq!((idle.is_user(), idle.interrupts_on()), (false, false));
        assert_eq!((process.is_user(), process.interrupts_on()), (true, true));
    }

    proptest! {
        #[test]
        fn any_text_is_taken(text in "(CPU#|[A-Z0-9]{3}=|PC=|PSTATE=| |[0-9a-f]{1,20}|\n){0,80}") {
            _ = Registers::read(&text);
        }
    }
}
