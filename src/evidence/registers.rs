//! Registers, as the kernel prints them with a trace.
//!
//! ```text
//! RSP: 0018:ff48a68c805a3f10 EFLAGS: 00000046
//! RAX: 0000000000000000 RBX: ff23f35d5fe20940 RCX: 0000000000000000
//! FS:  0000000000000000(0000) GS:ff23f35d5e900000(0000) knlGS:0000000000000000
//! pstate: 604000c5 (nZCv daIF +PAN -UAO -TCO BTYPE=--)
//! sp : ffff800081a3bd70
//! x29: ffff800081a3bd70 x28: 0000000000000000 x27: 0000000000000001
//! ```

/// Bit 9 of EFLAGS: interrupts are taken.
const X86_INTERRUPTS: u64 = 1 << 9;

/// Bit 7 of PSTATE: interrupts are masked.
const ARM64_MASKED: u64 = 1 << 7;

/// All that is read; other words of these lines are left out.
const NAMES: [&str; 59] = [
    "RAX", "RBX", "RCX", "RDX", "RSI", "RDI", "RBP", "RSP", "R08", "R09", "R10", "R11", "R12",
    "R13", "R14", "R15", "EFLAGS", "ORIG_RAX", "CR0", "CR2", "CR3", "CR4", "FS", "GS", "knlGS",
    "PKRU", "sp", "pstate", "x0", "x1", "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9", "x10",
    "x11", "x12", "x13", "x14", "x15", "x16", "x17", "x18", "x19", "x20", "x21", "x22", "x23",
    "x24", "x25", "x26", "x27", "x28", "x29", "x30",
];

/// Registers by name, each once, as they were printed first.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Registers {
    values: Vec<(&'static str, u64)>,
}

impl Registers {
    /// One of them, by the kernel's own name, such as `RAX`, `EFLAGS`, `x29` or `pstate`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<u64> {
        self.values.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
    }

    /// Whether none was printed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Whether interrupts are taken, if the flags were printed.
    #[must_use]
    pub fn interrupts_on(&self) -> Option<bool> {
        let x86 = self.get("EFLAGS").map(|flags| flags & X86_INTERRUPTS != 0);
        x86.or_else(|| self.get("pstate").map(|state| state & ARM64_MASKED == 0))
    }

    /// Takes a line; tells whether registers stand in it.
    pub(super) fn take(&mut self, text: &str) -> bool {
        if !begins(text) {
            return false;
        }
        let mut name = "";
        for word in text.split_ascii_whitespace() {
            match word.split_once(':') {
                Some((before, "")) if !before.is_empty() => name = before,
                // `sp : ffff..`: the colon stands alone.
                Some((_, "")) => {}
                Some((before, value)) if NAMES.contains(&before) => self.set(before, value),
                // `RSP: 0018:ff48..`: the value stands behind its segment.
                Some((_, value)) => self.set(name, value),
                None if NAMES.contains(&word) => name = word,
                None => self.set(name, word),
            }
        }
        true
    }

    fn set(&mut self, name: &str, value: &str) {
        let digits = value.split('(').next().unwrap_or_default();
        let known = NAMES.into_iter().find(|known| *known == name);
        if let (Some(known), Ok(value)) = (known, u64::from_str_radix(digits, 16))
            && self.get(known).is_none()
        {
            self.values.push((known, value));
        }
    }
}

/// Whether a line begins as one with registers does.
fn begins(text: &str) -> bool {
    let text = text.trim_start();
    let name = text.split([':', ' ']).next().unwrap_or_default();
    NAMES.contains(&name) && text[name.len()..].trim_start().starts_with(':')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_of_both_architectures_are_read() {
        let mut registers = Registers::default();
        for line in [
            "RSP: 0018:ff48a68c805a3f10 EFLAGS: 00000046 ORIG_RAX: 0000000000000001",
            "RAX: 0000000000000007 RBX: ff23f35d5fe20940 RCX: 00000000000000aa",
            "FS:  0000000000000001(0000) GS:ff23f35d5e900000(0000) knlGS:0000000000000003",
            "PKRU: 55555554",
        ] {
            assert!(registers.take(line), "{line}");
        }
        for (name, value) in [
            ("RSP", 0xff48_a68c_805a_3f10),
            ("EFLAGS", 0x46),
            ("ORIG_RAX", 1),
            ("RAX", 7),
            ("RCX", 0xaa),
            ("FS", 1),
            ("GS", 0xff23_f35d_5e90_0000),
            ("knlGS", 3),
            ("PKRU", 0x5555_5554),
        ] {
            assert_eq!(registers.get(name), Some(value), "{name}");
        }
        assert_eq!(registers.interrupts_on(), Some(false));

        let mut registers = Registers::default();
        for line in
            ["pstate: 60400005 (nZCv daif +PAN -UAO)", "sp : ffff800081a3bd70", "x29: 1 x28: 2"]
        {
            assert!(registers.take(line), "{line}");
        }
        assert_eq!(
            (registers.get("sp"), registers.get("x28")),
            (Some(0xffff_8000_81a3_bd70), Some(2))
        );
        assert_eq!(registers.interrupts_on(), Some(true));
        assert!(
            registers.take("pstate: 0") && registers.interrupts_on() == Some(true),
            "the first counts"
        );
    }

    #[test]
    fn other_lines_have_none() {
        let mut registers = Registers::default();
        for line in ["", "RIP: 0010:f+0x1/0x2", "RAXX: 1", "x+0x1/0x2", "Code: 90 90", "sp", "RSP"]
        {
            assert!(!registers.take(line), "{line}");
        }
        assert!(registers.take("RAX: zz RBX:") && registers.is_empty());
    }
}
