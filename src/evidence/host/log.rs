//! What the host's kernel said of this process, its disks and the heat.

use super::Host;
use crate::evidence::kernel_log::{KernelLog, Report, ReportKind};

/// Lines that are told; a disk that fails says the same hundreds of times.
const TOLD: usize = 24;

/// What a line of the host's kernel tells.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Said {
    /// It killed this process, for memory ran out.
    Killed,
    /// This process made a mistake and died of it.
    Crashed,
    /// One of its threads waits in the host's kernel and does not wake up.
    Hung,
    /// It names this process or one of its threads.
    Named,
    /// A disk below its images fails, or the file system on it.
    Storage,
    /// The host is too hot.
    Heat,
    /// Something else of the host is not well: another disk fails, a process was killed, a CPU is stuck.
    Host,
}

/// One such line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Told {
    /// What it tells.
    pub said: Said,
    /// As the kernel wrote it, with its time.
    pub line: String,
}

impl Host {
    /// What of the host's kernel log matters to this process, in the order of time.
    #[must_use]
    pub fn told(&self) -> Vec<Told> {
        let text = self.log.join("\n");
        let reports = KernelLog::read(text.as_bytes()).reports;
        let mut start = 0;
        let mut told = Vec::new();
        for line in &self.log {
            let end = start + line.len();
            let report = reports.iter().find(|report| (start..=end).contains(&report.span.start));
            let said = report.map(|report| self.reported(report)).or_else(|| self.said(line));
            told.extend(said.map(|said| Told { said, line: line.clone() }));
            start = end + 1;
        }
        // What is said of this process is never crowded out by what is said of others.
        if told.len() > TOLD {
            let others = told.len().saturating_sub(TOLD);
            let mut left_out = 0;
            told.retain(|told| {
                let drop = told.said > Said::Named && left_out < others;
                left_out += usize::from(drop);
                !drop
            });
            told.truncate(TOLD);
        }
        told
    }

    fn reported(&self, report: &Report) -> Said {
        let is_ours = report.who.pid.is_some_and(|pid| self.is_ours(pid));
        if is_ours && report.kind == ReportKind::OomKill {
            Said::Killed
        } else if is_ours && report.kind == ReportKind::HungTask {
            Said::Hung
        } else {
            Said::Host
        }
    }

    fn said(&self, line: &str) -> Option<Said> {
        let text = line.split_once("] ").map_or(line, |(_, text)| text);
        let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
        let named = numbers(text).any(|number| self.is_ours(number));
        let crashes = ["segfault at ", "general protection", "trap invalid opcode", "bus error"];
        if named && has(&crashes) {
            Some(Said::Crashed)
        } else if named {
            Some(Said::Named)
        } else if has(&STORAGE) {
            let is_below = self.disks.iter().any(|disk| names_disk(text, &disk.name));
            Some(if is_below { Said::Storage } else { Said::Host })
        } else if has(&HEAT) {
            Some(Said::Heat)
        } else {
            None
        }
    }

    fn is_ours(&self, number: u32) -> bool {
        number > 1 && (number == self.pid || self.thread(number).is_some())
    }
}

/// What disks, their drivers and file systems say when they fail.
const STORAGE: [&str; 10] = [
    "I/O error",
    "Medium Error",
    "critical medium error",
    ": I/O timeout",
    "timeout, aborting",
    "timeout, reset controller",
    "exception Emask",
    "EXT4-fs error",
    "BTRFS error",
    "Remounting filesystem read-only",
];

/// What processors and their drivers say of the heat.
const HEAT: [&str; 3] =
    ["temperature above threshold", "cpu clock throttled", "critical temperature reached"];

/// Whether a line is of this disk, or of the whole one that it is a part of.
fn names_disk(text: &str, disk: &str) -> bool {
    let mut words = text.split(|c: char| !c.is_alphanumeric() && c != '-');
    words.any(|word| word == disk || word == whole(disk))
}

/// `sda` of `sda1`, `nvme0n1` of `nvme0n1p3`; others are not divided.
fn whole(disk: &str) -> &str {
    let base = disk.trim_end_matches(|c: char| c.is_ascii_digit());
    let numbered =
        base.strip_suffix('p').filter(|whole| whole.ends_with(|c: char| c.is_ascii_digit()));
    match numbered {
        Some(whole) if base != disk => whole,
        _ if ["sd", "vd", "hd", "xvd"].iter().any(|kind| base.starts_with(kind)) => base,
        _ => disk,
    }
}

/// Numbers that stand where the kernel writes a task's: `kvm [77]:`, `qemu[77]:`, `CPU 0/KVM:77 `,
/// `process 77 (`, `pid=77,`.
fn numbers(text: &str) -> impl Iterator<Item = u32> {
    const BEFORE: [&str; 7] = ["[", ":", "process ", "task ", "pid=", "pid ", "PID: "];
    let is_digit = |at: usize| text.as_bytes().get(at).is_some_and(u8::is_ascii_digit);
    let starts = text.char_indices().filter(move |(at, _)| {
        is_digit(*at) && BEFORE.iter().any(|before| text[..*at].ends_with(before))
    });
    starts.filter_map(|(at, _)| {
        let rest = &text[at..];
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let alone = !rest[end..].starts_with(|c: char| c.is_alphanumeric() || c == '.');
        rest[..end].parse().ok().filter(|_| alone)
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Disk, Thread};
    use super::*;
    use proptest::prelude::*;

    fn host(log: &[&str]) -> Host {
        let threads = vec![Thread { tid: 3120, ..Thread::default() }];
        let log = log.iter().map(|line| (*line).to_owned()).collect();
        let disks = vec![Disk { name: "sda9".to_owned(), ..Disk::default() }];
        Host { pid: 3116, threads, log, disks, ..Host::default() }
    }

    fn said(log: &[&str]) -> Vec<Said> {
        host(log).told().iter().map(|told| told.said).collect()
    }

    #[test]
    fn lines_of_a_host_are_recognised() {
        let log = [
            "[25468.545192] bn1: port 1(near) entered blocking state",
            "[25469.000001] Out of memory: Killed process 3116 (qemu-system-x86) total-vm:1kB",
            "[25469.000002] Out of memory: Killed process 31 (firefox) total-vm:1kB",
            "[25469.000003] INFO: task CPU 0/KVM:3120 blocked for more than 120 seconds.",
            "[25469.000004]       Not tainted 6.18.44 #1",
            "[25469.000005] kvm [3116]: vcpu0, guest rIP: 0x1 ignored rdmsr: 0x122",
            "[25469.000006] I/O error, dev sda, sector 3116 op 0x1:(WRITE) flags 0x800",
            "[25469.000006] EXT4-fs error (device sda9): ext4_find_entry:1455: inode #2",
            "[25469.000006] I/O error, dev sdb, sector 1 op 0x1:(WRITE) flags 0x800",
            "[25469.000007] CPU0: Core temperature above threshold, cpu clock throttled",
            "[25469.000008] qemu-system-x86[3116]: segfault at 0 ip 000055 sp 00007f error 4",
            "[25469.000009] eth0: 3116 packets, 13116 of 3116.5",
        ];
        use Said::{Crashed, Heat, Host, Hung, Killed, Named, Storage};
        let expected = [Killed, Host, Hung, Named, Storage, Storage, Host, Heat, Crashed];
        assert_eq!(said(&log), expected);
        assert_eq!(host(&log).told()[0].line, log[1]);
    }

    #[test]
    fn parts_of_a_disk_belong_to_it() {
        let disks = ["sda9", "nvme0n1p3", "mmcblk0p2", "vda", "dm-0", "nvme0n1", "zd16", "p1"];
        let whole = disks.map(whole);
        assert_eq!(whole, ["sda", "nvme0n1", "mmcblk0", "vda", "dm-0", "nvme0n1", "zd16", "p1"]);
    }

    #[test]
    fn what_is_said_of_others_does_not_crowd_out() {
        let mut log = vec![
            "[    1.000000] Memory cgroup out of memory: Killed process 3116 (qemu) total-vm:1",
        ];
        log.extend(["[    2.000000] I/O error, dev sda, sector 1"; 400]);
        let said = said(&log);
        assert_eq!((said.len(), said[0]), (TOLD, Said::Killed));
    }

    proptest! {
        #[test]
        fn any_log_is_read(lines in prop::collection::vec("(\\[ 1.000000\\] )?(I/O error|\\[3116|:3116 |é|INFO: task a:3120 blocked for more than 1|.){0,6}", 0..40)) {
            let log: Vec<&str> = lines.iter().map(String::as_str).collect();
            prop_assert!(said(&log).len() <= TOLD);
        }
    }
}
