//! Which boot of a guest this is, told from outside.
//!
//! Pure. A guest that restarts by itself keeps its process, and no monitor remembers the restart for
//! those who were not listening. But a kernel that hides its own addresses, as Linux does since 6.2 and
//! its older stable series do, puts the table of segments (GDT) of each CPU at a place that it draws by
//! lot when it boots and never moves. Firmware and the first steps of a kernel have it somewhere else
//! again. So whoever saw the tables while the guest was well can tell later, and at any time, whether it
//! booted since.
//!
//! It shows nothing of a guest that starts with `nokaslr`, of 32 bits or on another machine than x86-64;
//! there, [`Boot::was_left`] never says yes. A crash kernel is another boot. While a guest runs guests of
//! its own, a CPU may show the table of one of those, so every CPU must agree.

use std::collections::BTreeMap;

/// As many vCPUs as anybody has.
const CPUS_KEPT: usize = 1024;

/// Kernels of 64 bits live in the upper half; firmware does not.
const UPPER_HALF: u64 = 1 << 63;

/// Where each vCPU's table was at one moment.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Boot {
    tables: BTreeMap<u32, u64>,
}

impl Boot {
    /// Of the text of `info registers -a`: `CPU#0`, and lines below it `GDT=     fffffe218f119000
    /// 0000007f`. What is not understood is left out.
    #[must_use]
    pub fn read(registers: &str) -> Self {
        let cpus = registers.split("CPU#").skip(1).take(CPUS_KEPT);
        let tables = cpus.filter_map(|cpu| {
            let index = cpu.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()?;
            let table = cpu.lines().find_map(|line| line.trim_start().strip_prefix("GDT="))?;
            let base = table.split_ascii_whitespace().next()?;
            Some((index, u64::from_str_radix(base, 16).ok()?))
        });
        Self { tables: tables.collect() }
    }

    /// Whether a kernel is up that can be told from the next one.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.tables.values().any(|table| *table >= UPPER_HALF)
    }

    /// Whether the guest has booted between this moment and a later one.
    #[must_use]
    pub fn was_left(&self, later: &Self) -> bool {
        let before = self.tables.iter().filter(|(_, table)| **table >= UPPER_HALF);
        let mut both = before.filter_map(|(cpu, table)| Some((table, later.tables.get(cpu)?)));
        let differ = |(before, after): (&u64, &u64)| before != after;
        both.next().is_some_and(differ) && both.all(differ)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn boot(tables: &[(u32, u64)]) -> Boot {
        Boot { tables: tables.iter().copied().collect() }
    }

    /// What QEMU 7.2 printed of one guest, before it rebooted, in its firmware and afterwards.
    const LIFE: [[(u32, u64); 2]; 5] = [
        [(0, 0xffff_fe21_8f11_9000), (1, 0xffff_fe58_8489_a000)],
        [(0, 0x000f_6180), (1, 0x000f_6180)],
        [(0, 0x0477_5010), (1, 0x000f_6180)],
        [(0, 0xffff_fe36_bd4e_9000), (1, 0x000f_6180)],
        [(0, 0xffff_fe36_bd4e_9000), (1, 0xffff_fe64_c79b_c000)],
    ];

    #[test]
    fn a_boot_is_seen_at_any_time_after_it_began() {
        let [before, later @ ..] = LIFE.map(|tables| boot(&tables));
        assert!(before.is_known() && !before.was_left(&before));
        for moment in &later {
            assert!(before.was_left(moment), "{moment:?}");
        }
        let [firmware, .., after] = &later;
        assert!(!firmware.is_known() && !firmware.was_left(after), "firmware is nobody's boot");
        assert!(!after.was_left(after));
    }

    #[test]
    fn one_cpu_that_shows_something_else_is_no_boot() {
        let before = boot(&LIFE[0]);
        assert!(!before.was_left(&boot(&[LIFE[0][0], (1, 0xffff_8000_0000_0000)])));
        assert!(!before.was_left(&boot(&[(7, 0xffff_8000_0000_0000)])));
        assert!(!before.was_left(&Boot::default()) && !Boot::default().was_left(&before));
        // A CPU that the kernel never started shows the firmware's table for ever.
        let one = boot(&[LIFE[0][0], (1, 0x000f_6180)]);
        assert!(one.was_left(&boot(&LIFE[3])));
    }

    #[test]
    fn registers_are_read_as_the_monitor_prints_them() {
        let text = "\r\nCPU#0\r\nRAX=0000000000000000 RBX=ffffffff98010a40\r\n\
                    GS =0000 ff3c2ef85ec00000 00000000 00000000\r\n\
                    GDT=     fffffe218f119000 0000007f\r\nIDT=     fffffe0000000000 00000fff\r\n\
                    \r\nCPU#1\r\nGDT=     000f6180 00000037\r\nCPU#x\r\nGDT= 1 2\r\nCPU#2\r\nGDT=";
        let read = Boot::read(text);
        assert_eq!(read, boot(&[(0, 0xffff_fe21_8f11_9000), (1, 0x000f_6180)]));
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "(CPU#|GDT=|[0-9a-f \n]){0,40}") {
            let read = Boot::read(&text);
            prop_assert!(!read.was_left(&read));
        }
    }
}
