//! Consoles of real guests, and any bytes at all.

use super::*;
use crate::base::step::Action;
use crate::evidence::line::work;
use crate::evidence::recorded::bytes;
use crate::evidence::sysrq::{Answer, Outcome, Shape, header};
use proptest::prelude::*;

fn kinds(bytes: &[u8]) -> Vec<ReportKind> {
    kinds_of(&KernelLog::read(bytes))
}

fn kinds_of(log: &KernelLog) -> Vec<ReportKind> {
    log.reports.iter().map(|report| report.kind).collect()
}

fn calls(report: &Report) -> Vec<&str> {
    report.trace.calls().iter().map(|frame| frame.name()).collect()
}

#[test]
fn a_panic_names_its_reason_and_its_calls() {
    let log = KernelLog::read(bytes!("panic-6.12", "console"));
    let [report] = log.reports.as_slice() else { panic!("{:?}", log.reports) };
    assert_eq!(report.kind, ReportKind::Panic);
    assert_eq!(report.reason, "lifesign_lab: asked to panic");
    assert_eq!((report.who.comm.as_str(), report.who.cpu), ("sh", Some(0)));
    assert_eq!(calls(report)[..3], ["panic", "lab_panic", "lab_write"]);
    assert_eq!(report.trace.frames[2].module.as_deref(), Some("lifesign_lab"));
    assert_eq!(log.release.as_deref(), Some("6.12.117+deb12-cloud-amd64"));
}

#[test]
fn an_oops_is_one_report_although_it_has_several_headlines() {
    for (bytes, release) in [
        (bytes!("oops-6.12", "console"), "6.12.117+deb12-cloud-amd64"),
        (bytes!("oops-6.1", "console"), "6.1.0-56-amd64"),
    ] {
        let log = KernelLog::read(bytes);
        let [report] = log.reports.as_slice() else { panic!("{:?}", log.reports) };
        assert_eq!(report.kind, ReportKind::Oops);
        assert!(report.reason.starts_with("kernel NULL pointer dereference"), "{}", report.reason);
        assert_eq!(calls(report)[..2], ["lab_oops", "lab_write"]);
        assert_eq!(log.release.as_deref(), Some(release));
    }
}

#[test]
fn an_rcu_stall_names_the_cpu_and_where_it_was_interrupted() {
    for bytes in [bytes!("irq-off-6.12", "console"), bytes!("irq-off-6.1", "console")] {
        let log = KernelLog::read(bytes);
        let report = log.first(ReportKind::RcuStall).unwrap();
        assert_eq!(report.who.cpu, Some(1));
        assert_eq!(report.who.comm, "lab_irq_off");
        assert_eq!(calls(report)[..3], ["lab_spin_forever", "lab_irq_off", "kthread"]);
        assert_eq!(report.trace.interrupts_on(), Some(false));
    }
}

#[test]
fn a_soft_lockup_tells_how_long() {
    let log = KernelLog::read(bytes!("soft-lockup-6.12", "console"));
    let report = log.first(ReportKind::SoftLockup).unwrap();
    assert_eq!((report.who.cpu, report.seconds, report.who.pid), (Some(1), Some(49), Some(206)));
    assert_eq!(calls(report)[..2], ["lab_spin_forever", "lab_soft_lockup"]);
    assert_eq!(report.trace.interrupts_on(), Some(true));
}

#[test]
fn hung_tasks_are_told_apart() {
    let log = KernelLog::read(bytes!("mutex-deadlock-6.1", "console"));
    let task = |report: &Report| (report.who.comm.clone(), report.who.pid.unwrap_or_default());
    let mut tasks: Vec<_> = log.all(ReportKind::HungTask).map(task).collect();
    tasks.sort_by_key(|(_, pid)| *pid);
    tasks.dedup();
    let names: Vec<&str> = tasks.iter().map(|(comm, _)| comm.as_str()).collect();
    let expected = ["sh", "sh", "lab-bystander", "lab_order_ab", "lab_order_ba", "lab_bystander"];
    assert_eq!(names, expected);
    let report = log.all(ReportKind::HungTask).find(|report| report.who.comm == "lab_order_ab");
    assert!(calls(report.unwrap()).contains(&"lab_order_ab"));
}

#[test]
fn a_sysrq_dump_is_no_report() {
    for dump in [
        bytes!("userspace-stopped-6.12", "sysrq-task-states"),
        bytes!("userspace-stopped-6.1", "sysrq-task-states"),
        bytes!("mutex-deadlock-6.12", "sysrq-blocked-tasks"),
        bytes!("soft-lockup-6.12", "sysrq-backtrace-all-active-cpus"),
        bytes!("mutex-deadlock-6.12", "sysrq-memory-usage"),
    ] {
        assert_eq!(kinds(dump), []);
    }
}

#[test]
fn a_sysrq_dump_does_not_lengthen_the_report_before_it() {
    let report = b"watchdog: BUG: soft lockup - CPU#1 stuck for 23s! [a b:7]\n".to_vec();
    let dump = bytes!("mutex-deadlock-6.12", "sysrq-blocked-tasks");
    let log = KernelLog::read(&[report.as_slice(), dump].concat());
    assert_eq!(log.reports.len(), 1);
    assert_eq!(log.reports[0].span, 0..report.len());
    assert_eq!(log.reports[0].who.comm, "a b");
    assert!(log.reports[0].trace.is_empty());
}

#[test]
fn headlines_are_known() {
    use ReportKind::{HardLockup, HungTask, InitDied, OomKill, Oops, Panic, RcuStall, SoftLockup};
    for (text, kind) in [
        ("Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100", InitDied),
        ("Kernel panic - not syncing", Panic),
        ("NMI watchdog: Watchdog detected hard LOCKUP on cpu 1", HardLockup),
        ("watchdog: Watchdog detected hard LOCKUP on cpu 1", HardLockup),
        ("NMI watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [x:1]", SoftLockup),
        ("INFO: rcu_sched self-detected stall on CPU", RcuStall),
        ("rcu: INFO: rcu_preempt detected expedited stalls on CPUs/tasks: { 1-.... }", RcuStall),
        ("INFO: task kworker/0:1:12 blocked for more than 120 seconds.", HungTask),
        ("Out of memory: Killed process 77 (sh) total-vm:1kB", OomKill),
        ("Memory cgroup out of memory: Kill process 77 (sh) score 1", OomKill),
        ("general protection fault, probably for non-canonical address 0x1: 0000 [#1]", Oops),
        ("kernel BUG at mm/slub.c:1!", Oops),
        ("Oops: 0002 [#1] PREEMPT SMP", Oops),
    ] {
        assert_eq!(kinds(text.as_bytes()), [kind], "{text}");
        assert_eq!(kinds(format!("<1>[    1.000000][    C1] {text}\r\n").as_bytes()), [kind]);
    }
}

#[test]
fn what_others_write_is_no_report() {
    for text in [
        "WARNING: RO_VPD is uninitialized or empty.",
        "panic: runtime error: index out of range",
        "traps: sh[77] general protection fault ip:1 sp:2 error:0 in sh",
        "sh[77]: segfault at 0 ip 1 sp 2 error 4",
        "---[ end Kernel panic - not syncing: x ]---",
        "systemd[1]: INFO: task x finished",
        "reboot: Restarting system",
        "Booting paravirtualized kernel on KVM",
        "INFO: NMI handler (nmi_cpu_backtrace_handler) took too long to run: 1.884 msecs",
    ] {
        assert_eq!(kinds(text.as_bytes()), [], "{text}");
    }
}

#[test]
fn the_last_boot_counts() {
    let panic = "Kernel panic - not syncing: x\n";
    let banner = "[    0.000000] Linux version 6.1.0-56-amd64 (debian-kernel@lists.debian.org)\n";
    let log = KernelLog::read(format!("{banner}{panic}{banner}[    1.000000] fine\n").as_bytes());
    assert_eq!((log.boots, log.reports.len(), log.last_us), (2, 0, Some(1_000_000)));
    assert_eq!(log.release.as_deref(), Some("6.1.0-56-amd64"));
    assert_eq!(kinds(format!("{banner}{panic}").as_bytes()), [ReportKind::Panic]);
}

#[test]
fn newer_kernels_name_the_owner_of_a_mutex() {
    let log = KernelLog::read(
        b"INFO: task a:1 blocked for more than 10 seconds.\n      Not tainted 6.16.0 #1\n\
        INFO: task a:1 is blocked on a mutex likely owned by task b:x:2.\n",
    );
    assert_eq!(log.reports[0].owner, Some(("b:x".to_owned(), 2)));
    assert_eq!(log.release.as_deref(), Some("6.16.0"));
}

#[test]
fn other_locks_have_owners_too() {
    for (owned, seconds) in [
        ("a:1 blocked on a semaphore likely last held by task b:2", "blocked for more than 10"),
        (
            "a:1 <reader> blocked on an rw-semaphore likely owned by task b:2 <writer>",
            "blocked in I/O wait for more than 10",
        ),
    ] {
        let text = format!("INFO: task a:1 {seconds} seconds.\nINFO: task {owned}\n");
        let log = KernelLog::read(text.as_bytes());
        let [report] = log.reports.as_slice() else { panic!("{:?}", log.reports) };
        assert_eq!((report.seconds, &report.owner), (Some(10), &Some(("b".to_owned(), 2))));
    }
}

#[test]
fn a_dying_kernel_tells_what_it_recorded_and_who_holds_locks() {
    let log = KernelLog::read(
        b"[    1.0] x\nINFO: task a:1 blocked for more than 10 seconds.\n\
        Showing all locks held in the system:\n1 lock held by b/2:\n #0: ffff12 (&x){+.+.}, at: f+0x1/0x2\n\
        Kernel panic - not syncing: hung_task: blocked tasks\nDumping ftrace buffer:\n\
        ---------------------------------\n   <...>-7         1d..2.   150us : f <-g\n\
        ---------------------------------\n---[ end Kernel panic - not syncing: x ]---\n",
    );
    assert_eq!(kinds_of(&log), [ReportKind::HungTask, ReportKind::Panic]);
    assert_eq!(
        (log.locks.len(), log.locks[0].pid, log.locks[0].locks[0].address),
        (1, 2, 0xffff12)
    );
    let last = &log.ftrace.unwrap().cpus[&1].last[0];
    assert_eq!((last.comm.as_str(), last.pid, last.call()), ("<...>", 7, Some(("f", "g"))));
}

#[test]
fn a_crash_loop_is_read_once() {
    let loops = [bytes!("oops-6.12", "console"), bytes!("mutex-deadlock-6.12", "console")]
        .concat()
        .repeat(20);
    let mut log = KernelLog::default();
    assert_eq!(work::of(|| log = KernelLog::read(&loops)), loops.len());
    assert!(log.reports.len() <= 2 * REPORTS_KEPT);
}

#[test]
fn a_crash_loop_keeps_its_first_and_its_last_reports() {
    let text: String = (0..1000).map(|n| format!("Kernel panic - not syncing: {n}\n")).collect();
    let log = KernelLog::read(text.as_bytes());
    let reasons: Vec<&str> = log.reports.iter().map(|report| report.reason.as_str()).collect();
    assert_eq!((reasons.len(), log.reports_left_out), (64, 936));
    assert_eq!((reasons[0], reasons[31], reasons[32], reasons[63]), ("0", "31", "968", "999"));
}

/// Pieces of which reports are made, so that random text gets past the first check.
const OF_REPORTS: [&str; 51] = [
    "[   12.345678] ",
    "[ T12]",
    "<6>",
    "\n",
    "\r\n",
    "\x1b[",
    "\x1b]",
    "\0",
    "BUG: ",
    "Oops: ",
    "RIP: 0010:",
    "Call Trace:\n",
    " <TASK>\n",
    " </TASK>\n",
    " a+0x1/0x2",
    " [m]",
    "? ",
    "[<",
    ">] ",
    "+0x",
    "/0x",
    "INFO: task ",
    ":1 blocked for more than ",
    "rcu: INFO: rcu",
    " detected stalls",
    "CPU: 1 PID: 2 Comm: ",
    " Not tainted ",
    " #1",
    "Kernel panic - not syncing: ",
    "Linux version 6",
    "task:",
    " state:D",
    " pid:3",
    " ppid:2",
    "NMI backtrace for cpu ",
    " skipped: idling at ",
    "sysrq: Show State\n",
    "Sending NMI from CPU 0 to CPUs ",
    "1-4294967295",
    ":",
    "Mem-Info:\n",
    "free:",
    "18446744073709551615",
    " pages RAM\n",
    "é",
    "BUG: soft lockup - CPU#",
    " stuck for ",
    "! [",
    "]",
    "RSP: 0018:1 EFLAGS: ",
    "0x00000000",
];

/// Pieces of which dumps are made.
const OF_DUMPS: [&str; 29] = [
    "Node 0 DMA",
    " 4*4kB",
    "Sched Debug Version\n",
    "cpu#0, 1 MHz\n",
    "  .nr_running : ",
    ">R              sh ",
    "Showing busy workqueues\n",
    "    in-flight: 7:f\n",
    "now at 5 nsecs\n",
    "cpu: 0\n",
    "  .expires_next : ",
    " nsecs",
    " # expires at 1-1 nsecs [in -5 to ",
    "Dumping ftrace buffer:\n",
    "---------------------------------\n",
    "<...>-7 0dNs4. ",
    "us : ",
    " <-",
    "CPU:1 [LOST 9 EVENTS]\n",
    "Showing all locks held in the system:\n",
    "2 locks held by ",
    "/12:\n",
    " #0: ffff12 (",
    "){+.+.}-{3:3}, at: ",
    "sysrq: CPU1:\n",
    "sysrq: HELP : loglevel(0-9)\n",
    "pstate: ",
    "x29: ffff x28: ",
    "[    C1] ",
];

fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let known = prop::sample::select([OF_REPORTS.as_slice(), &OF_DUMPS].concat());
    let piece = prop_oneof![
        4 => known.prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..8),
    ];
    prop::collection::vec(piece, 0..80).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_bytes_are_read(bytes in pieces()) {
        let log = KernelLog::read(&bytes);
        for report in &log.reports {
            prop_assert!(report.span.start <= report.span.end && report.span.end <= bytes.len());
        }
        for action in Action::ALL {
            let dump = [format!("sysrq: {}\n", header(action)).as_bytes(), &bytes].concat();
            let answer = Answer::read(action.word(), &dump);
            prop_assert!(answer.tasks.len() <= dump.len() && answer.cpus.len() <= dump.len());
            prop_assert_ne!(answer.outcome, Outcome::Silent);
            prop_assert_ne!(Shape::of(&dump, action), Shape::Nothing);
        }
    }

    /// What is kept is bounded by what came, and by the caps: no line makes more of itself.
    #[test]
    fn memory_is_bounded(bytes in pieces(), times in 1_usize..200) {
        let log = KernelLog::read(&bytes.repeat(times));
        prop_assert!(log.reports.len() <= 2 * REPORTS_KEPT);
        let frames: usize = log.reports.iter().map(|report| report.trace.frames.len()).sum();
        prop_assert!(frames <= 2 * REPORTS_KEPT * 64);
    }
}
