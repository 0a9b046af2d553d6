//! What the human monitor prints about CPUs. It is text for people and may change: what is not
//! understood is left out.

use super::{Apic, Registers};

/// The timer's vector of Linux on x86-64.
const TIMER_VECTOR: &str = "236";

/// Registers of every CPU in `info registers -a`, by index.
pub(super) fn registers(text: &str) -> Vec<(u32, Registers)> {
    let mut cpus = Vec::new();
    for part in text.split("CPU#").skip(1) {
        let index =
            part.split(|c: char| !c.is_ascii_digit()).next().and_then(|word| word.parse().ok());
        if let (Some(index), Some(registers)) = (index, one(part)) {
            cpus.push((index, registers));
        }
    }
    cpus
}

/// `RIP=ffffffff81000000 RFL=00000246 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=1`
fn one(text: &str) -> Option<Registers> {
    let line = text.lines().find(|line| line.starts_with("RIP=") || line.starts_with("EIP="))?;
    let field = |keys: [&str; 2]| {
        let mut words = line.split_ascii_whitespace();
        words.find_map(|word| keys.iter().find_map(|key| word.strip_prefix(key)))
    };
    let hex = |keys| u64::from_str_radix(field(keys)?, 16).ok();
    Some(Registers {
        rip: hex(["RIP=", "EIP="])?,
        flags: hex(["RFL=", "EFL="])?,
        cpl: field(["CPL=", "CPL="])?.parse().ok()?,
        halted: field(["HLT=", "HLT="])? == "1",
    })
}

/// `info lapic`: which CPU it is about, if it says, and the state.
pub(super) fn lapic(text: &str) -> Option<(Option<u32>, Apic)> {
    let spurious = row(text, "SPIV")?;
    let pending = row(text, "IRR").unwrap_or_default();
    let index = text
        .split_once("for CPU ")
        .and_then(|(_, rest)| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok());
    let apic = Apic {
        enabled: spurious.contains("APIC enabled"),
        timer_pending: pending
            .split_ascii_whitespace()
            .any(|word| word.split('(').next() == Some(TIMER_VECTOR)),
    };
    Some((index, apic))
}

fn row<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let named = |line: &'a str| line.trim_start().strip_prefix(key)?.strip_prefix(['\t', ' ']);
    text.lines().find_map(named)
}
