//! What a guest runs while no kernel that could be read is in charge of it, by its CPUs' registers alone.
//!
//! Pure. Whoever is in charge of an x86-64 CPU has told it where its interrupt descriptors are, and Linux
//! keeps them in one of few places. So a guest that is still in its firmware, or runs something else, need
//! not be searched for a kernel from one end of its RAM to the other.

use std::fmt;
use std::ops::{Range, RangeInclusive};

/// Bit of EFER: the CPU is in long mode.
const LONG_MODE: u64 = 1 << 10;

/// Addresses of processes, and of firmware.
const LOW: Range<u64> = 1..1 << 47;

/// Where Linux has its descriptors: where each CPU enters the kernel, or in the kernel's image, while it
/// boots and before 4.15.
const ENTRY: Range<u64> = 0xffff_fe00_0000_0000..0xffff_fe80_0000_0000;
const IMAGE: RangeInclusive<u64> = 0xffff_ffff_8000_0000..=u64::MAX;

/// What is in charge of a guest.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Stage {
    /// No kernel of 64 bits has begun.
    Before,
    /// Another system's kernel.
    Other,
}

impl Stage {
    /// From the monitor's `info registers -a`; nothing where a Linux kernel may be in charge of any CPU.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let cpus: Option<Vec<Self>> = text.split("CPU#").skip(1).map(Self::of).collect();
        cpus?.into_iter().max()
    }

    fn of(cpu: &str) -> Option<Self> {
        let value = |name: &str| {
            let (_, rest) = cpu.split_once(name)?;
            u64::from_str_radix(rest.split_ascii_whitespace().next()?, 16).ok()
        };
        // The firmware's own mode interrupts whoever is in charge.
        if value("SMM=")? != 0 {
            return None;
        }
        if value("EFER=")? & LONG_MODE == 0 {
            return Some(Self::Before);
        }
        // In a process of 32 bits half of every address is left out.
        value("RIP=")?;
        match value("IDT=")? {
            // A kernel may do without.
            0 => None,
            idt if LOW.contains(&idt) => Some(Self::Before),
            idt if ENTRY.contains(&idt) || IMAGE.contains(&idt) => None,
            _ => Some(Self::Other),
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Before => {
                "its CPUs are still in the firmware or a boot loader, or in a system of 32 bits"
            }
            Self::Other => "another system's kernel is in charge of its CPUs",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As QEMU prints them, without what is not read.
    const SEABIOS: &str = "\r
CPU#0\r
EIP=0000b7b9 EFL=00000246 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=1\r
IDT=     00000000 000003ff\r
CR0=00000010 CR2=00000000 CR3=00000000 CR4=00000000\r
EFER=0000000000000000\r
";
    const LINUX: &str = "CPU#1\r
RIP=ffffffff8f6592eb RFL=00000246 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=1\r
IDT=     fffffe0000000000 00000fff\r
EFER=0000000000000d01\r
";

    #[test]
    fn firmware_and_others_are_told_from_linux() {
        let with = |from: &str, to: &str| LINUX.replace(from, to);
        let idt = |to| with("fffffe0000000000", to);
        assert_eq!(Stage::read(SEABIOS), Some(Stage::Before));
        assert_eq!(Stage::read(LINUX), None);
        assert_eq!(Stage::read(&format!("{SEABIOS}{LINUX}")), None);
        let windows = idt("fffff8003a7c1000");
        assert_eq!(Stage::read(&format!("{SEABIOS}{windows}")), Some(Stage::Other));
        assert_eq!(Stage::read(&idt("000000007e91e018")), Some(Stage::Before), "UEFI");
        assert_eq!(Stage::read(&idt("ffffffff9c1d2000")), None, "a kernel that boots");
        assert_eq!(Stage::read(&idt("0000000000000000")), None, "a kernel with FRED");
        assert_eq!(Stage::read(&SEABIOS.replace("SMM=0", "SMM=1")), None);
        let process = with("RIP=ffffffff8f6592eb", "EIP=08049000");
        assert_eq!(Stage::read(&process.replace("fffffe0000000000", "00000000")), None);
        assert_eq!(Stage::read(""), None);
    }

    proptest! {
        #[test]
        fn any_text_is_taken(text in "(CPU#|SMM=|EFER=|RIP=|IDT=| |[0-9a-f]{1,20}|\n){0,60}") {
            _ = Stage::read(&text);
        }
    }
}
