//! Real guests, and what is said of them, to be read as prose: `tests/data/console/snapshots`.

use super::*;
use crate::base::rung::Rung;
use crate::base::step::Action;
use crate::base::time::Timestamp;
use crate::evidence::host::Host;
use crate::evidence::kernel_log::KernelLog;
use crate::evidence::memory::{self, Memory, Progress};
use crate::evidence::nmi::Nmi;
use crate::evidence::qmp::{Apic, Cpu, Qmp, Registers};
use crate::evidence::recorded::bytes;
use crate::evidence::rounds::{Probe, Round, Rounds};
use crate::evidence::sysrq::header;
use crate::evidence::{Artifact, Kind};
use proptest::prelude::*;

macro_rules! case {
    ($case:literal: $($action:literal)*) => {
        artifacts(&[
            ("console", bytes!($case, "console")),
            ("qmp", bytes!($case, "qmp.json")),
            ("host", bytes!($case, "host.json")),
            $(($action, bytes!($case, $action)),)*
        ])
    };
}

mod disks;
mod host;
mod locks;
mod records;

fn prose(diagnosis: &Diagnosis) -> String {
    let Diagnosis { title, class, subject, signature, blame, confidence, .. } = diagnosis;
    let mut text = format!(
        "{title}\n\nclass:      {class}\nsubject:    {subject}\nsignature:  {signature}\n\
        fault of:   {blame}\nconfidence: {confidence}\n\n"
    );
    for fact in &diagnosis.facts_for {
        text.push_str(&format!("+ {fact}\n"));
    }
    for fact in &diagnosis.facts_against {
        text.push_str(&format!("- {fact}\n"));
    }
    text
}

macro_rules! tells {
    ($($test:ident $case:literal: $($action:literal)*;)*) => {$(
        #[test]
        fn $test() {
            let evidence = Evidence::read(&case!($case: $($action)*));
            insta::with_settings!({
                snapshot_path => "../../tests/data/console/snapshots",
                prepend_module_to_snapshot => false,
                omit_expression => true,
            }, {
                insta::assert_snapshot!($case, prose(&diagnose(&evidence)));
            });
        }
    )*};
}

tells! {
    panic_6_1 "panic-6.1": "sysrq-backtrace-all-active-cpus" "sysrq-blocked-tasks";
    panic_6_12 "panic-6.12": "sysrq-backtrace-all-active-cpus" "sysrq-blocked-tasks";
    init_exit_6_12 "init-exit-6.12": "sysrq-blocked-tasks";
    oops_6_1 "oops-6.1": "sysrq-blocked-tasks";
    oops_6_12 "oops-6.12": "sysrq-blocked-tasks";
    irq_off_6_1 "irq-off-6.1": "sysrq-backtrace-all-active-cpus" "sysrq-blocked-tasks";
    irq_off_6_12 "irq-off-6.12": "sysrq-backtrace-all-active-cpus" "sysrq-blocked-tasks";
    irq_off_all_6_1 "irq-off-all-6.1": "sysrq-backtrace-all-active-cpus" "sysrq-blocked-tasks";
    irq_off_all_6_12 "irq-off-all-6.12": "sysrq-backtrace-all-active-cpus" "sysrq-blocked-tasks";
    spin_lock_6_1 "spin-lock-6.1": "sysrq-backtrace-all-active-cpus" "sysrq-blocked-tasks";
    spin_lock_6_12 "spin-lock-6.12": "sysrq-backtrace-all-active-cpus" "sysrq-blocked-tasks";
    soft_lockup_6_1 "soft-lockup-6.1": "sysrq-backtrace-all-active-cpus" "sysrq-blocked-tasks";
    soft_lockup_6_12 "soft-lockup-6.12": "sysrq-backtrace-all-active-cpus" "sysrq-blocked-tasks";
    mutex_deadlock_6_1 "mutex-deadlock-6.1":
        "sysrq-backtrace-all-active-cpus" "sysrq-blocked-tasks" "sysrq-memory-usage";
    mutex_deadlock_6_12 "mutex-deadlock-6.12":
        "sysrq-backtrace-all-active-cpus" "sysrq-blocked-tasks" "sysrq-memory-usage";
    mutex_deadlock_all_keys_6_1 "mutex-deadlock-all-keys-6.1":
        "sysrq-backtrace-all-active-cpus" "sysrq-blocked-tasks" "sysrq-memory-usage"
        "sysrq-dump-ftrace-buffer" "sysrq-task-states" "sysrq-timers" "sysrq-locks" "sysrq-registers";
    mutex_deadlock_all_keys_6_12 "mutex-deadlock-all-keys-6.12":
        "sysrq-backtrace-all-active-cpus" "sysrq-blocked-tasks" "sysrq-memory-usage"
        "sysrq-dump-ftrace-buffer" "sysrq-task-states" "sysrq-timers" "sysrq-locks" "sysrq-registers";
    irq_off_all_keys_6_12 "irq-off-all-keys-6.12":
        "sysrq-backtrace-all-active-cpus" "sysrq-blocked-tasks" "sysrq-memory-usage"
        "sysrq-dump-ftrace-buffer" "sysrq-task-states" "sysrq-timers" "sysrq-locks" "sysrq-registers";
    userspace_spin_6_12 "userspace-spin-6.12":
        "sysrq-backtrace-all-active-cpus" "sysrq-blocked-tasks";
    userspace_stopped_6_1 "userspace-stopped-6.1": "sysrq-blocked-tasks" "sysrq-task-states";
    userspace_stopped_6_12 "userspace-stopped-6.12": "sysrq-blocked-tasks" "sysrq-task-states";
    fs_freeze_6_12 "fs-freeze-6.12": "sysrq-backtrace-all-active-cpus" "sysrq-blocked-tasks";
    fs_freeze_early_6_12 "fs-freeze-early-6.12":
        "sysrq-backtrace-all-active-cpus" "sysrq-blocked-tasks" "sysrq-memory-usage" "sysrq-task-states";
    disk_stall_6_12 "disk-stall-6.12": "sysrq-backtrace-all-active-cpus" "sysrq-blocked-tasks";
    oom_6_12 "oom-6.12":
        "sysrq-backtrace-all-active-cpus" "sysrq-blocked-tasks" "sysrq-memory-usage";
    refused_6_1 "refused-6.1": "sysrq-backtrace-all-active-cpus" "sysrq-blocked-tasks";
    refused_6_12 "refused-6.12": "sysrq-backtrace-all-active-cpus" "sysrq-blocked-tasks";
}

#[test]
fn a_fault_has_one_signature_on_all_kernels() {
    let of = |console: &[u8]| {
        let evidence = Evidence { console: KernelLog::read(console), ..Evidence::default() };
        diagnose(&evidence).signature
    };
    for (one, other) in [
        (bytes!("panic-6.1", "console"), bytes!("panic-6.12", "console")),
        (bytes!("oops-6.1", "console"), bytes!("oops-6.12", "console")),
        (bytes!("irq-off-6.1", "console"), bytes!("irq-off-6.12", "console")),
        (bytes!("spin-lock-6.1", "console"), bytes!("spin-lock-6.12", "console")),
        (bytes!("soft-lockup-6.1", "console"), bytes!("soft-lockup-6.12", "console")),
        (bytes!("mutex-deadlock-6.1", "console"), bytes!("mutex-deadlock-6.12", "console")),
    ] {
        assert_eq!(of(one), of(other));
    }
}

#[test]
fn a_panic_needs_no_console() {
    let case = case!("panic-6.12":);
    let diagnosis = diagnose(&without(&case, &[Kind::Console]));
    assert_eq!((diagnosis.class, diagnosis.confidence), (Class::Panic, Confidence::Medium));
    assert_eq!((diagnosis.subject.as_str(), diagnosis.blame), ("", Blame::GuestKernel));
}

#[test]
fn a_stuck_cpu_needs_no_console() {
    let case = case!("irq-off-6.12":);
    let diagnosis = diagnose(&without(&case, &[Kind::Console]));
    assert_eq!(diagnosis.class, Class::HardLockup);
    assert_eq!(diagnosis.title, "CPU 1 spins in the kernel with interrupts off");
    let mut evidence = without(&case, &[Kind::Console]);
    let progress = Progress { timer_events: Some(41), ..Progress::default() };
    let cpu = memory::Cpu { index: 1, progress: Some(progress), ..memory::Cpu::default() };
    evidence.memory = Some(Memory { cpus: vec![cpu], ..Memory::default() });
    assert_ne!(diagnose(&evidence).class, Class::HardLockup, "it took interrupts");
}

#[test]
fn a_stuck_cpu_needs_nothing_but_text() {
    let keys = case!("irq-off-all-keys-6.12":
        "sysrq-backtrace-all-active-cpus" "sysrq-blocked-tasks" "sysrq-task-states");
    let diagnosis = diagnose(&without(&keys, &[Kind::Console, Kind::Qmp, Kind::Host]));
    assert_eq!((diagnosis.class, diagnosis.confidence), (Class::HardLockup, Confidence::Medium));
    assert_eq!(
        diagnosis.title,
        "CPU 0 spins with interrupts off, in lab_spin_forever (lifesign_lab)"
    );
    let told = "its backtrace shows CPU 0 in lab_spin_forever, interrupts off, and lab_irq_off (259) has it a dump later";
    assert_eq!(diagnosis.facts_for[0], told);
}

#[test]
fn a_deadlock_needs_either_sysrq_or_the_console() {
    let case = case!("mutex-deadlock-6.12": "sysrq-blocked-tasks");
    for missing in [Kind::Sysrq, Kind::Console] {
        let diagnosis = diagnose(&without(&case, &[missing]));
        assert_eq!(diagnosis.signature, "v1:deadlock:lab_order_ab+lab_order_ba:378725d4");
        assert_eq!(diagnosis.confidence, Confidence::Medium);
    }
    let diagnosis = diagnose(&without(&case, &[Kind::Sysrq, Kind::Console]));
    assert_eq!((diagnosis.class, diagnosis.blame), (Class::UserspaceDead, Blame::Unknown));
    assert_eq!(diagnosis.confidence, Confidence::Low);
}

#[test]
fn a_kernel_that_answers_has_not_panicked() {
    let case = case!("mutex-deadlock-6.12": "sysrq-blocked-tasks");
    let mut evidence = Evidence::read(&case);
    let old = KernelLog::read(bytes!("panic-6.12", "console"));
    evidence.console.reports.splice(0..0, old.reports);
    assert_eq!(diagnose(&evidence).class, Class::Deadlock);
}

#[test]
fn a_task_that_came_back_does_not_hang() {
    let mut evidence = Evidence::read(&case!("mutex-deadlock-6.12": "sysrq-memory-usage"));
    evidence.sysrq.read("blocked-tasks", b"sysrq: Show Blocked State\n");
    assert_eq!(diagnose(&evidence).class, Class::UserspaceDead);
}

#[test]
fn a_cpu_that_came_back_is_not_locked_up() {
    let mut evidence = Evidence::read(&case!("soft-lockup-6.12":));
    assert_eq!(diagnose(&evidence).class, Class::SoftLockup);
    evidence.qmp = Qmp::read(bytes!("refused-6.12", "qmp.json"));
    assert_eq!(diagnose(&evidence).class, Class::UserspaceDead);
}

#[test]
fn the_hypervisor_comes_first() {
    let mut evidence = Evidence::read(&case!("panic-6.12":));
    let state = |state: &str| Some(Host { pid: 7, state: state.to_owned(), ..Host::default() });
    for (host, class) in [("", Class::VmmGone), ("T", Class::VmmStopped), ("S", Class::Panic)] {
        evidence.host = state(host);
        assert_eq!(diagnose(&evidence).class, class);
    }
    for status in ["paused", "io-error", "shutdown"] {
        evidence.qmp = Some(Qmp { status: Some(status.to_owned()), ..Qmp::default() });
        let diagnosis = diagnose(&evidence);
        assert_eq!((diagnosis.class, diagnosis.subject.as_str()), (Class::Paused, status));
    }
    // The console may have the panic of an earlier life; memory has that of this one.
    evidence.memory = Some(Memory { log: "it is read".to_owned(), ..Memory::default() });
    let diagnosis = diagnose(&evidence);
    assert_eq!((diagnosis.class, diagnosis.confidence), (Class::Panic, Confidence::High));
    let held = "the hypervisor holds the guest as its kernel left it: its run state is shutdown";
    assert!(diagnosis.facts_for.contains(&held.to_owned()), "{:?}", diagnosis.facts_for);
    evidence.console = KernelLog::default();
    assert_eq!(diagnose(&evidence).class, Class::Paused, "it was switched off");
}

/// A CPU as the hypervisor may show it.
fn cpu(index: u32, registers: Registers, timer_pending: bool) -> Cpu {
    let apic = Some(Apic { enabled: true, timer_pending });
    Cpu { index, tid: None, samples: vec![registers; 2], apic }
}

#[test]
fn a_cpu_that_sleeps_for_a_spin_lock_is_locked_up() {
    let sleeps = Registers { rip: 1 << 63, flags: 2, cpl: 0, halted: true };
    let qmp = |pending| Qmp { cpus: vec![cpu(0, sleeps, pending)], ..Qmp::default() };
    let of = |qmp| diagnose(&Evidence { qmp: Some(qmp), ..Evidence::default() }).class;
    assert_eq!(of(qmp(true)), Class::HardLockup);
    // One that was switched off sleeps as well, but no timer waits for it.
    assert_eq!(of(qmp(false)), Class::Silent);
}

#[test]
fn a_cpu_that_takes_an_nmi_executes_and_that_is_all_it_proves() {
    let nmi = Some(Nmi { cpu: Some(1), panicked: true });
    let diagnosis = diagnose(&Evidence { nmi, ..Evidence::default() });
    assert_eq!(diagnosis.class, Class::Silent);
    let fact = "an NMI was sent: CPU 1 executes and took it, and the kernel panicked over it";
    assert_eq!(diagnosis.facts_for, [fact]);
    let runs = Registers { rip: 1 << 63, flags: 2, cpl: 0, halted: false };
    let after_nmi = Some(Qmp { cpus: vec![cpu(1, runs, false)], ..Qmp::default() });
    let diagnosis = diagnose(&Evidence { nmi, after_nmi, ..Evidence::default() });
    let fact = format!("{fact}; after it CPU 1 runs in the kernel, interrupts off");
    assert_eq!(diagnosis.facts_for, [fact]);
}

#[test]
fn a_kernel_that_is_merely_busy_is_only_suspected() {
    let busy = Registers { rip: 1 << 63, flags: 0x202, cpl: 0, halted: false };
    let qmp = Qmp { cpus: vec![cpu(0, busy, false)], ..Qmp::default() };
    let diagnosis = diagnose(&Evidence { qmp: Some(qmp), ..Evidence::default() });
    assert_eq!((diagnosis.class, diagnosis.confidence), (Class::SoftLockup, Confidence::Low));
}

#[test]
fn a_guess_gives_way_to_what_is_known() {
    let mut evidence = Evidence::read(&case!("userspace-stopped-6.12": "sysrq-task-states"));
    let momentary = b"sysrq: Show Blocked State\ntask:a state:D stack:0 pid:7 ppid:2 flags:0x0\n";
    evidence.sysrq.read("blocked-tasks", momentary);
    let diagnosis = diagnose(&evidence);
    assert_eq!((diagnosis.class, diagnosis.subject.as_str()), (Class::UserspaceDead, "stopped"));
}

#[test]
fn processes_may_take_all_cpus() {
    let process = Registers { rip: 0x40_0000, flags: 0x202, cpl: 3, halted: false };
    let mut evidence = Evidence::read(&case!("refused-6.12": "sysrq-blocked-tasks"));
    evidence.qmp = Some(Qmp { cpus: vec![cpu(0, process, false)], ..Qmp::default() });
    let diagnosis = diagnose(&evidence);
    assert_eq!((diagnosis.class, diagnosis.subject.as_str()), (Class::UserspaceDead, "cpu"));
}

#[test]
fn a_panic_that_follows_from_something_names_that() {
    let oops = bytes!("oops-6.12", "console");
    let panic = b"[    9.000000] Kernel panic - not syncing: Fatal exception\n";
    let console = KernelLog::read(&[oops, panic].concat());
    let diagnosis = diagnose(&Evidence { console, ..Evidence::default() });
    assert_eq!((diagnosis.class, diagnosis.subject.as_str()), (Class::Panic, "lab_oops"));
}

#[test]
fn a_guest_that_answers_refutes_a_guess_that_it_hangs() {
    let mut evidence = Evidence::default();
    let momentary = b"sysrq: Show Blocked State\ntask:a state:D stack:0 pid:7 ppid:2 flags:0x0\n";
    evidence.sysrq.read("blocked-tasks", momentary);
    // The kernel writes to disks without any process.
    evidence.rounds = asked("writes", Rung::Storage, Answer::Alive);
    assert_eq!(diagnose(&evidence).class, Class::HungTask);
    evidence.rounds = asked("console", Rung::Userspace, Answer::Alive);
    let diagnosis = diagnose(&evidence);
    assert_eq!(diagnosis.class, Class::Silent);
    assert_eq!(diagnosis.title, "nothing is known to be wrong: the guest answers");
}

#[test]
fn a_service_that_fails_alone_is_no_dead_userspace() {
    let mut evidence = Evidence::read(&case!("mutex-deadlock-6.12": "sysrq-memory-usage"));
    evidence.console = KernelLog::default();
    evidence.rounds = asked("http", Rung::Service, Answer::Dead);
    let diagnosis = diagnose(&evidence);
    assert_eq!(diagnosis.class, Class::Silent);
    assert_eq!(diagnosis.facts_for.last().unwrap(), "probe http: dead, no answer within 5.0 s");
    evidence.sysrq = Evidence::read(&case!("userspace-stopped-6.12": "sysrq-task-states")).sysrq;
    assert_eq!(diagnose(&evidence).class, Class::UserspaceDead);
}

#[test]
fn nothing_gives_silence() {
    let diagnosis = diagnose(&Evidence::default());
    assert_eq!((diagnosis.class, diagnosis.confidence), (Class::Silent, Confidence::Low));
    assert_eq!(diagnosis.facts_for, Vec::<String>::new());
}

#[test]
fn what_a_guest_chose_is_made_harmless() {
    let name = "x\u{202e}\u{2028}y";
    let console = format!(
        "INFO: task {name}:7 blocked for more than 120 seconds.\nCall Trace:\n schedule+0x1/0x2\n \
        f\u{202e}+0x1/0x2\n __mutex_lock+0x1/0x2\n g.cold+0x1/0x2 [m]\n"
    );
    let console = KernelLog::read(console.as_bytes());
    let diagnosis = diagnose(&Evidence { console, ..Evidence::default() });
    assert_eq!(diagnosis.title, "process x\\u{202e}\\u{2028}y waits for something");
}

proptest! {
    #[test]
    fn any_console_and_any_dump_are_judged(text in "(task:a\u{202e} state:D stack:0 pid:[1-4] ppid:2 flags:0x0\n| __mutex_lock\\+0x1/0x2\n| [fg]\\+0x[1-9]0/0x99 \\[m\\]\n|NMI backtrace for cpu 1\n|now at 9999999999999 nsecs\ncpu: 1\n  .expires_next: 1 nsecs\n|cpu#1\n  .nr_running: 2\n>R         \u{202e}sh     7\n|Dumping ftrace buffer:\n|---------------------------------\n|a-7 1d... 5us : \u{1b}e\n|2 locks held by a/[1-4]:\n #0: 1 \\(x\\)\n|Showing all locks held in the system:\n|BUG: |Oops: |Kernel panic - not syncing: |soft lockup - CPU#1 stuck for 9s! \\[|Call Trace:|\n| a\\+0x1/0x2|INFO: task |:1 blocked for more than |rcu: INFO: rcu detected stalls|CPU: 1 PID: 2 Comm: | Not tainted | #1|\u{202e}|\u{1b}|x|:){0,60}") {
        let console = Artifact { kind: Kind::Console, name: String::new(), data: text.clone().into_bytes() };
        let answer = |action: Action| {
            let dump = format!("sysrq: {}\n{text}", header(action));
            artifact(&format!("sysrq-{}", action.word()), dump.as_bytes())
        };
        let answers = Action::ALL.into_iter().map(answer);
        let artifacts: Vec<Artifact> = std::iter::once(console).chain(answers).collect();
        let diagnosis = diagnose(&Evidence::read(&artifacts));
        let said = prose(&diagnosis);
        prop_assert!(!said.contains('\u{202e}') && !said.contains('\u{1b}'), "{said}");
        prop_assert!(diagnosis.signature.bytes().all(|byte| byte.is_ascii_graphic()));
        prop_assert!(diagnosis.title.len() < 1024);
    }
}

/// The files of a case, and the round of probes that may have led to them.
fn artifacts(files: &[(&str, &[u8])]) -> Vec<Artifact> {
    let mut artifacts: Vec<Artifact> =
        files.iter().map(|(name, data)| artifact(name, data)).collect();
    artifacts.push(console_dead().to_artifact());
    artifacts
}

/// The evidence of a case without some of it.
fn without(artifacts: &[Artifact], kinds: &[Kind]) -> Evidence {
    let kept = artifacts.iter().filter(|artifact| !kinds.contains(&artifact.kind));
    Evidence::read(&kept.cloned().collect::<Vec<_>>())
}

fn artifact(name: &str, data: &[u8]) -> Artifact {
    let (kind, name) = match name {
        "console" => (Kind::Console, name),
        "qmp" => (Kind::Qmp, name),
        "host" => (Kind::Host, name),
        _ => (Kind::Sysrq, name.strip_prefix("sysrq-").unwrap_or(name)),
    };
    Artifact { kind, name: name.to_owned(), data: data.to_vec() }
}

fn console_dead() -> Rounds {
    asked("console", Rung::Userspace, Answer::Dead)
}

fn asked(name: &str, rung: Rung, answer: Answer) -> Rounds {
    let (name, reason) = (name.to_owned(), "no answer within 5.0 s".to_owned());
    let probe = Probe { name, rung, answer, reason, took_ms: 5_000 };
    Rounds { rounds: vec![Round { at: Timestamp::from_millis(0), probes: vec![probe] }] }
}
