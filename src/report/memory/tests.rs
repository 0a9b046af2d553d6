//! Pages of guests that broke in several ways.

use super::*;
use crate::base::id::{AppId, IncidentId};
use crate::base::time::{Instant, Timestamp};
use crate::bundle::{Bundle, Origin};
use crate::diagnosis::diagnose;
use crate::evidence::memory::{Cost, FileSystem, Lock, Progress, Registers, Request};
use crate::evidence::{Artifact, Evidence, Kind};
use crate::report::{Style, bundle};

fn task(pid: u32, comm: &str, state: char, since_ms: u64, stack: usize) -> Task {
    let (comm, since_ms, stack) = (comm.to_owned(), Some(since_ms), Some(stack));
    Task { pid, tgid: pid, comm, state, since_ms, stack, ..Task::default() }
}

fn wait(pid: u32, lock: &str, owner: Option<u32>) -> Wait {
    Wait { pid, kind: Lock::Mutex, lock: lock.to_owned(), owner, frozen: None }
}

/// In a second.
fn did(clock_ms: u64, switches: u64) -> Option<Progress> {
    Some(Progress { after_ms: 1000, clock_ms, switches, timer_events: None })
}

fn sample() -> Memory {
    let words = |calls: &[&str]| calls.iter().map(|call| (*call).to_owned()).collect::<Vec<_>>();
    let idle = Cpu { idle: true, progress: did(900, 12), ..Cpu::default() };
    let spins = Cpu {
        index: 1,
        pid: 40,
        comm: "spin\x1b[2J".to_owned(),
        running: 2,
        registers: Some(Registers::default()),
        stack: words(&["lab_spin+0x1/0x2 [lab]", "kthread+0x1/0x2"]),
        progress: did(0, 0),
        ..Cpu::default()
    };
    Memory {
        release: "6.1.0-1-amd64".to_owned(),
        uptime_ms: 200_000,
        sysrq_mask: Some(438),
        console_level: Some(7),
        cpus: vec![idle, spins],
        tasks: vec![
            task(7, "ab", 'D', 20_000, 0),
            task(8, "ba", 'D', 20_010, 0),
            task(9, "victim", 'D', 500, 0),
            task(10, "behind it", 'D', 400, 0),
            task(11, "writer", 'D', 3_000, 1),
            task(12, "sleeps", 'S', 3_000, 1),
        ],
        stacks: vec![
            words(&["schedule+0x1/0x2", "__mutex_lock+0x1/0x2", "take+0x1/0x2 [lab]"]),
            words(&["schedule+0x1/0x2", "percpu_rwsem_wait+0x1/0x2", "vfs_write+0x1/0x2"]),
        ],
        waits: vec![
            wait(7, "lock_b [lab]", Some(8)),
            wait(8, "lock_a [lab]", Some(7)),
            wait(9, "lock_b [lab]", Some(8)),
            wait(10, "0xff00", Some(9)),
            Wait {
                kind: Lock::PercpuRwsem,
                frozen: Some("ext4 on vda".to_owned()),
                ..wait(11, "0xff11", None)
            },
        ],
        file_systems: vec![FileSystem {
            kind: "ext4".to_owned(),
            name: "vda".to_owned(),
            frozen: true,
            read_only: false,
        }],
        requests: vec![Request {
            disk: "vda".to_owned(),
            operation: "write".to_owned(),
            sector: 2048,
            bytes: 4096,
            age_ms: Some(3_000),
        }],
        log: (0..20).map(|number| format!("[    {number}.000000] line {number}\n")).collect(),
        doubts: vec!["a doubt".to_owned()],
        cost: Cost { reads: 12, bytes: 20_480 },
    }
}

#[test]
fn a_page_of_everything() {
    insta::assert_snapshot!(memory(&sample()));
}

#[test]
fn waits_are_drawn_once_whatever_they_say() {
    let mut strange = sample();
    // A task that waits for itself, two whose holder is not there, and one that is not there itself.
    strange.waits = vec![
        wait(7, "own", Some(7)),
        wait(8, "x", Some(999)),
        wait(9, "y", Some(999)),
        wait(77, "z", None),
    ];
    let shown = memory(&strange);
    let tree =
        shown.split("who waits for whom\n").nth(1).and_then(|rest| rest.split("\n\n").next());
    insta::assert_snapshot!(tree.unwrap_or_default());
}

#[test]
fn a_thousand_who_wait_are_counted() {
    let mut crowd = sample();
    crowd.waits = (1000..2000).map(|pid| wait(pid, "lock", Some(7))).collect();
    let shown = memory(&crowd);
    assert!(shown.lines().count() < 120 && shown.contains("  and 937 lines more"), "{shown}");
}

#[test]
fn a_thousand_of_one_number_are_drawn_no_more_often_than_they_are() {
    let mut hostile = sample();
    hostile.waits = (0..1000).map(|_| wait(7, "x", None)).collect();
    hostile.waits.extend((0..1000).map(|_| wait(8, "y", Some(7))));
    assert_eq!(forest(&hostile).lines().count(), 2000);
}

#[test]
fn a_bundle_shows_it_as_an_inspection_does() {
    let data = sample().to_bytes();
    let artifact = |data| vec![Artifact { kind: Kind::Memory, name: String::new(), data }];
    let of = |artifacts: Vec<Artifact>| Bundle {
        origin: Origin {
            incident: IncidentId::new([1; 16]),
            device: "device-1".parse().unwrap(),
            app: AppId::new([2; 16]),
            app_name: "web".to_owned(),
            scenario: "linux-console".parse().unwrap(),
            agent_version: "0.1.0".to_owned(),
            failed_at: Timestamp::from_millis(1_700_000_000_000),
            failed_uptime: Instant::from_millis(77_000),
            boot_id: [3; 16],
        },
        steps: Vec::new(),
        diagnosis: diagnose(&Evidence::read(&artifacts)),
        artifacts,
        redaction: None,
    };
    let shown = bundle(&of(artifact(data)), Style::default(), "show");
    assert!(shown.contains(&format!("From the guest's memory\n{}", memory(&sample()))), "{shown}");
    let shown = bundle(&of(artifact(b"rubbish".to_vec())), Style::default(), "show");
    assert!(!shown.contains("From the guest's memory"), "{shown}");
}
