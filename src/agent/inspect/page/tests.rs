//! Pages of guests that broke in several ways.

use super::*;
use crate::diagnosis::diagnose;
use crate::evidence::Evidence;
use crate::evidence::memory::{Cost, FileSystem, Lock, Progress, Registers, Request};

fn task(pid: u32, comm: &str, state: char, since_ms: u64, stack: usize) -> Task {
    let (comm, since_ms, stack) = (comm.to_owned(), Some(since_ms), Some(stack));
    Task { pid, tgid: pid, comm, state, since_ms, stack, ..Task::default() }
}

fn wait(pid: u32, lock: &str, owner: Option<u32>) -> Wait {
    Wait { pid, kind: Lock::Mutex, lock: lock.to_owned(), owner, frozen: None }
}

fn sample() -> Memory {
    let words = |calls: &[&str]| calls.iter().map(|call| (*call).to_owned()).collect::<Vec<_>>();
    let idle = Cpu {
        idle: true,
        progress: Some(Progress { after_ms: 1000, clock_ms: 900, switches: 12 }),
        ..Cpu::default()
    };
    let spins = Cpu {
        index: 1,
        pid: 40,
        comm: "spin\x1b[2J".to_owned(),
        running: 2,
        registers: Some(Registers::default()),
        stack: words(&["lab_spin+0x1/0x2 [lab]", "kthread+0x1/0x2"]),
        progress: Some(Progress { after_ms: 1000, clock_ms: 0, switches: 0 }),
        ..Cpu::default()
    };
    Memory {
        release: "6.1.0-1-amd64".to_owned(),
        uptime_ms: 200_000,
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

fn shown(memory: Memory) -> String {
    let diagnosis = diagnose(&Evidence { memory: Some(memory.clone()), ..Evidence::default() });
    page(&Inspection { memory, diagnosis })
}

#[test]
fn a_page_of_everything() {
    insta::assert_snapshot!(shown(sample()));
}

#[test]
fn waits_are_drawn_once_whatever_they_say() {
    let mut memory = sample();
    // A task that waits for itself, two whose holder is not there, and one that is not there itself.
    memory.waits = vec![
        wait(7, "own", Some(7)),
        wait(8, "x", Some(999)),
        wait(9, "y", Some(999)),
        wait(77, "z", None),
    ];
    let shown = shown(memory);
    let tree =
        shown.split("who waits for whom\n").nth(1).and_then(|rest| rest.split("\n\n").next());
    insta::assert_snapshot!(tree.unwrap_or_default());
}

#[test]
fn a_guest_cannot_break_the_json() {
    let mut memory = sample();
    memory.log = "\u{1b}[2J \u{202e} \u{1f4a5} \"quoted\"".to_owned();
    let diagnosis = diagnose(&Evidence::default());
    let text = super::super::json(&Inspection { memory: memory.clone(), diagnosis });
    assert!(text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' '));
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["memory"]["log"].as_str(), Some(memory.log.as_str()));
}
