//! Verdicts from memory alone.

use super::super::{Blame, Class, Confidence, Diagnosis, diagnose};
use crate::base::rung::{Answer, Rung};
use crate::base::time::Timestamp;
use crate::evidence::Evidence;
use crate::evidence::host::{Disk, Host};
use crate::evidence::memory::{Cpu, Lock, Memory, Progress, Registers, Request, Task, Wait};
use crate::evidence::recorded::bytes;
use crate::evidence::rounds::{Probe, Round, Rounds};

const STACKS: [&[&str]; 8] = [
    &[
        "schedule+0x1/0x9",
        "__mutex_lock.constprop.0+0x1/0x9",
        "take_b+0x1/0x9 [lab]",
        "kthread+0x1/0x9",
    ],
    &[
        "schedule+0x1/0x9",
        "io_schedule+0x1/0x9",
        "folio_wait_bit+0x1/0x9",
        "ext4_sync_file+0x1/0x9",
    ],
    &[
        "schedule+0x1/0x9",
        "percpu_rwsem_wait+0x1/0x9",
        "__percpu_down_read+0x1/0x9",
        "vfs_write+0x1/0x9",
    ],
    &[
        "native_queued_spin_lock_slowpath+0x1/0x9",
        "_raw_spin_lock_irqsave+0x1/0x9",
        "take_spin+0x1/0x9 [lab]",
    ],
    &["schedule+0x1/0x9", "do_wait+0x1/0x9"],
    &["hvc_push+0x1/0x9", "hvc_write+0x1/0x9", "n_tty_write+0x1/0x9", "vfs_write+0x1/0x9"],
    &["native_apic_mem_eoi+0x1/0x9", "asm_sysvec_apic_timer_interrupt+0x1/0x9"],
    &["native_apic_mem_eoi+0x1/0x9", "asm_sysvec_apic_timer_interrupt+0x1/0x9", "spin_on+0x1/0x9"],
];

/// Tasks as (pid, name, state, seconds since it ran, stack).
fn memory(tasks: &[(u32, &str, char, u64, usize)]) -> Memory {
    let task = |(pid, comm, state, seconds, stack): &(u32, &str, char, u64, usize)| Task {
        pid: *pid,
        tgid: *pid,
        comm: (*comm).to_owned(),
        state: *state,
        since_ms: Some(seconds * 1000),
        stack: Some(*stack),
        ..Task::default()
    };
    let words = |stack: &&[&str]| stack.iter().map(|call| (*call).to_owned()).collect();
    Memory {
        tasks: tasks.iter().map(task).collect(),
        stacks: STACKS.iter().map(words).collect(),
        ..Memory::default()
    }
}

fn wait(pid: u32, lock: &str, owner: Option<u32>) -> Wait {
    Wait { pid, kind: Lock::Mutex, lock: lock.to_owned(), owner, frozen: None }
}

/// A CPU that changed no task for a second; flags: I interrupts on, U in a process.
fn cpu(index: u32, flags: &str, stack: usize) -> Cpu {
    Cpu {
        index,
        pid: 100 + index,
        comm: format!("busy-{index}"),
        running: 3,
        registers: Some(Registers {
            user: flags.contains('U'),
            interrupts_on: flags.contains('I'),
            halted: false,
        }),
        stack: STACKS[stack].iter().map(|call| (*call).to_owned()).collect(),
        progress: Some(Progress {
            after_ms: 1000,
            clock_ms: 0,
            switches: 0,
            ..Progress::default()
        }),
        ..Cpu::default()
    }
}

fn told(memory: Memory) -> String {
    let Diagnosis { class, subject, title, confidence, facts_for, facts_against, .. } =
        diagnose(&Evidence { memory: Some(memory), ..Evidence::default() });
    let facts_for = facts_for.iter().map(|fact| format!("\n  + {fact}"));
    let facts_against = facts_against.iter().map(|fact| format!("\n  - {fact}"));
    let facts: String = facts_for.chain(facts_against).collect();
    format!("{title} ({class}, {confidence}, subject {subject}){facts}")
}

#[test]
fn waits() {
    let mut ring =
        memory(&[(7, "ab", 'D', 20, 0), (8, "ba", 'D', 20, 0), (9, "victim", 'D', 3, 0)]);
    ring.waits = vec![
        wait(7, "lock_b [lab]", Some(8)),
        wait(8, "lock_a [lab]", Some(7)),
        wait(9, "lock_b [lab]", Some(8)),
    ];
    let mut itself = memory(&[(7, "ab", 'D', 20, 0)]);
    itself.waits = vec![wait(7, "0xffff8880", Some(7))];
    let mut held = memory(&[
        (5, "holder", 'D', 60, 1),
        (7, "one", 'D', 12, 0),
        (8, "two", 'D', 11, 0),
        (9, "none", 'D', 99, 4),
    ]);
    held.waits =
        vec![wait(7, "inode", Some(5)), wait(8, "other", Some(7)), wait(9, "unknown", None)];
    held.tasks[0].state = 'S';
    let mut moment = held.clone();
    moment.tasks.iter_mut().for_each(|task| task.since_ms = Some(50));
    let mut frozen = memory(&[(7, "writer", 'D', 2, 2)]);
    let rwsem = wait(7, "0xffff8880", None);
    frozen.waits =
        vec![Wait { kind: Lock::PercpuRwsem, frozen: Some("ext4 on vda".to_owned()), ..rwsem }];
    let mut disk =
        memory(&[(7, "writer", 'D', 31, 1), (8, "reader", 'D', 2, 1), (9, "other", 'D', 90, 4)]);
    let request = |age_ms| Request {
        disk: "vda".to_owned(),
        operation: "write".to_owned(),
        sector: 2048,
        bytes: 4096,
        age_ms,
    };
    disk.requests = vec![request(Some(31_500)), request(None)];
    let all = [ring, itself, held, moment, frozen, disk].map(told);
    insta::assert_snapshot!(all.join("\n\n"));
}

#[test]
fn who_waits_still_when_sysrq_is_asked() {
    let later = |pids: [u32; 2]| {
        let [ab, ba] = pids;
        let mut memory =
            memory(&[(ab, "lab_order_ab", 'D', 20, 0), (ba, "lab_order_ba", 'D', 20, 0)]);
        memory.waits = vec![wait(ab, "lab_mutex_b", Some(ba)), wait(ba, "lab_mutex_a", Some(ab))];
        let mut evidence = Evidence { memory: Some(memory), ..Evidence::default() };
        let answer = bytes!("mutex-deadlock-6.12", "sysrq-blocked-tasks");
        evidence.sysrq.read("blocked-tasks", answer);
        diagnose(&evidence)
    };
    let still = later([263, 264]);
    assert!(still.facts_for.contains(&"SysRq, asked later, shows all 2 wait still".to_owned()));
    let moved = later([263, 999]);
    assert_eq!(moved.facts_against, ["SysRq, asked later, does not show 1 of 2 wait any more"]);
}

#[test]
fn a_disk_that_stalls_on_the_host_is_the_hosts() {
    let with = |completed| {
        let disk = Disk { name: "sda".to_owned(), completed, ..Disk::default() };
        let disks = vec![Disk { in_flight_before: 2, in_flight: 3, ..disk }];
        let host = Host { state: "S".to_owned(), sampled_ms: 1000, disks, ..Host::default() };
        let memory = memory(&[(7, "writer", 'D', 31, 1)]);
        diagnose(&Evidence { memory: Some(memory), host: Some(host), ..Evidence::default() })
    };
    let stalls = with(0);
    assert_eq!((stalls.subject.as_str(), stalls.blame), ("disk-io", Blame::Host));
    assert_eq!(stalls.facts_against, Vec::<String>::new());
    let works = with(5);
    assert_eq!((works.subject.as_str(), works.blame), ("disk-io", Blame::Unknown));
    assert_eq!(works.facts_for[1], "the host's disk sda completed 5 requests");
}

#[test]
fn cpus() {
    let with = |cpus: Vec<Cpu>| Memory { cpus, ..memory(&[(1, "init", 'S', 5, 4)]) };
    let mut idle = cpu(0, "I", 4);
    idle.idle = true;
    let mut moves = cpu(0, "", 3);
    moves.progress = moves.progress.map(|progress| Progress { switches: 1, ..progress });
    let mut short = cpu(0, "", 3);
    short.progress = short.progress.map(|progress| Progress { after_ms: 100, ..progress });
    let mut starves = with(vec![cpu(0, "IU", 4), cpu(1, "IU", 4)]);
    starves.cpus[0].progress =
        starves.cpus[0].progress.map(|progress| Progress { switches: 3, ..progress });
    starves.tasks.push(Task {
        pid: 9,
        comm: "starves".to_owned(),
        state: 'R',
        since_ms: Some(4_000),
        ..Task::default()
    });
    let mut interrupted = starves.clone();
    interrupted.cpus[1] = Cpu { from_process: true, ..cpu(1, "", 6) };
    let took =
        |events| Progress { after_ms: 1000, timer_events: Some(events), ..Progress::default() };
    let stuck = |events| Cpu { progress: Some(took(events)), ..cpu(1, "", 3) };
    let all = [
        starves,
        interrupted,
        with(vec![idle.clone(), cpu(1, "", 7)]),
        with(vec![idle.clone(), cpu(1, "", 3)]),
        with(vec![cpu(0, "", 0), cpu(1, "", 3)]),
        with(vec![idle, cpu(1, "I", 0)]),
        with(vec![cpu(0, "IU", 4), cpu(1, "IU", 4)]),
        with(vec![stuck(0)]),
        with(vec![stuck(250)]),
        with(vec![moves]),
        with(vec![short]),
    ];
    insta::assert_snapshot!(all.map(told).join("\n\n"));
}

#[test]
fn processes() {
    let stopped = memory(&[(1, "init", 'S', 5, 4), (7, "sh", 'T', 5, 4), (8, "sleep", 'T', 5, 4)]);
    let mut kernel = memory(&[(1, "init", 'S', 5, 4), (2, "kthreadd", 'T', 5, 4)]);
    kernel.tasks[1].kernel = true;
    let mut killed = memory(&[(1, "init", 'S', 5, 4), (9, "sh", 'S', 5, 4)]);
    killed.log = "[   12.000000] Out of memory: Killed process 77 (web) total-vm:1kB, anon-rss:1kB, file-rss:0kB, shmem-rss:0kB, UID:0 pgtables:1kB oom_score_adj:0\n".to_owned();
    let mut evidence = Evidence { memory: Some(killed.clone()), ..Evidence::default() };
    evidence.console = crate::evidence::kernel_log::KernelLog::read(killed.log.as_bytes());
    let killed = diagnose(&evidence).title;
    let all = [told(stopped), told(kernel), killed];
    insta::assert_snapshot!(all.join("\n\n"));
}

#[test]
fn a_guest_that_answers_is_busy_and_not_locked_up() {
    let with = |cpus: Vec<Cpu>| Memory { cpus, ..memory(&[(1, "init", 'S', 5, 4)]) };
    let judged = |cpus: Vec<Cpu>, rung, answer| {
        let probe =
            Probe { name: "console".to_owned(), rung, answer, reason: String::new(), took_ms: 1 };
        let round = Round { at: Timestamp::from_millis(0), probes: vec![probe] };
        let rounds = Rounds { rounds: vec![round] };
        let evidence = Evidence { memory: Some(with(cpus)), rounds, ..Evidence::default() };
        let Diagnosis { class, confidence, .. } = diagnose(&evidence);
        (class, confidence)
    };
    let [spins, prints, off] = [cpu(1, "I", 0), cpu(1, "I", 5), cpu(1, "", 3)];
    let (lives, dead) = ((Rung::Userspace, Answer::Alive), (Rung::Userspace, Answer::Dead));
    let soft = (Class::SoftLockup, Confidence::Medium);
    assert_eq!(judged(vec![spins.clone()], dead.0, dead.1), soft);
    assert_eq!(judged(vec![spins], lives.0, lives.1).0, Class::Silent);
    assert_eq!(judged(vec![prints], dead.0, dead.1).0, Class::Silent);
    // One of two may be gone while the other answers; if all were, nobody would.
    let both = vec![cpu(0, "", 3), off.clone()];
    assert_eq!(judged(both.clone(), dead.0, dead.1).0, Class::HardLockup);
    assert_eq!(judged(both, lives.0, lives.1).0, Class::Silent);
    let mut idle = cpu(0, "I", 4);
    idle.idle = true;
    assert_eq!(judged(vec![idle, off], lives.0, lives.1).0, Class::HardLockup);
}
