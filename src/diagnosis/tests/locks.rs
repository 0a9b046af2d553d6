//! Who holds what others wait for, and when that is a deadlock.

use super::*;

/// A task in the answer to `blocked-tasks` or `task-states`, its calls innermost first.
fn task(comm: &str, pid: u32, state: char, calls: &[&str]) -> String {
    let head = format!("task:{comm} state:{state} stack:0 pid:{pid} tgid:{pid} ppid:1 flags:0x0\n");
    let calls: String = calls.iter().map(|call| format!(" {call}\n")).collect();
    format!("{head}Call Trace:\n <TASK>\n __schedule+0x1/0x9\n schedule+0x1/0x9\n{calls} </TASK>\n")
}

fn mutex(comm: &str, pid: u32, site: &str) -> String {
    task(comm, pid, 'D', &["__mutex_lock.constprop.0+0x1/0x9", site, "kthread+0x1/0x9"])
}

fn asked(blocked: &[String], more: &[(&str, String)]) -> Evidence {
    let mut evidence = Evidence::default();
    evidence.sysrq.read(
        "blocked-tasks",
        format!("sysrq: Show Blocked State\n{}", blocked.concat()).as_bytes(),
    );
    for (action, dump) in more {
        evidence.sysrq.read(action, dump.as_bytes());
    }
    evidence
}

fn facts(diagnosis: &Diagnosis) -> String {
    diagnosis.facts_for.join("\n")
}

#[test]
fn a_deadlock_names_both_owners_what_they_wait_for_and_the_bystanders() {
    let recorded = [
        case!("mutex-deadlock-6.1": "sysrq-blocked-tasks" "sysrq-backtrace-all-active-cpus"),
        case!("mutex-deadlock-6.12": "sysrq-blocked-tasks" "sysrq-backtrace-all-active-cpus"),
    ];
    for ((ab, ba), case) in [(230, 231), (263, 264)].into_iter().zip(&recorded) {
        let diagnosis = diagnose(&without(case, &[Kind::Console]));
        let facts = facts(&diagnosis);
        for fact in [
            format!(
                "kernel task lab_order_ab ({ab}) waits for a mutex in lab_order_ab (lifesign_lab); lab_order_ba ({ba}) likely holds it"
            ),
            format!(
                "kernel task lab_order_ba ({ba}) waits for a mutex in lab_order_ba (lifesign_lab); lab_order_ab ({ab}) likely holds it"
            ),
            format!("one of lab_order_ab ({ab}) and lab_order_ba ({ba}) likely holds it"),
            "nobody runs who could release them: both CPUs are idle".to_owned(),
        ] {
            assert!(facts.contains(&fact), "{fact}\n in\n{facts}");
        }
        let bystanders = diagnosis.facts_for.iter().filter(|fact| fact.starts_with("bystander: "));
        assert_eq!(bystanders.count(), 4);
    }
}

#[test]
fn many_that_wait_for_one_disk_are_no_deadlock() {
    let io = [
        "io_schedule+0x1/0x9",
        "folio_wait_bit_common+0x1/0x9",
        "ext4_read_folio+0x50/0x99 [ext4]",
    ];
    let tasks: Vec<String> = (1..=50).map(|pid| task("cat", pid, 'D', &io)).collect();
    let diagnosis = diagnose(&asked(&tasks, &[]));
    assert_eq!((diagnosis.class, diagnosis.subject.as_str()), (Class::HungTask, "disk-io"));
}

#[test]
fn a_crowd_at_one_lock_waits_for_the_one_that_is_further_on() {
    let mut tasks: Vec<String> =
        (1..=50).map(|pid| mutex("cat", pid, "drv_open+0x30/0x99 [drv]")).collect();
    let reads = ["io_schedule+0x1/0x9", "blk_wait+0x1/0x9", "drv_open+0x80/0x99 [drv]"];
    tasks.push(task("owner", 77, 'D', &reads));
    let diagnosis = diagnose(&asked(&tasks, &[]));
    assert_eq!((diagnosis.class, diagnosis.subject.as_str()), (Class::HungTask, "disk-io"));
    assert!(diagnosis.title.starts_with("process owner waits for I/O"), "{}", diagnosis.title);
    let holder = "owner (77) likely holds it, being further on in the same function";
    assert!(facts(&diagnosis).contains(holder), "{}", facts(&diagnosis));
}

#[test]
fn a_sleeper_in_the_module_may_hold_the_lock_as_well() {
    let waiters =
        [mutex("a", 1, "drv_open+0x60/0x99 [drv]"), mutex("b", 2, "drv_close+0x60/0x99 [drv]")];
    let sleeper = task("c", 3, 'S', &["wait_woken+0x1/0x9", "drv_read+0x60/0x99 [drv]"]);
    let states =
        |extra: &str| ("task-states", format!("sysrq: Show State\n{}{extra}", waiters.concat()));
    let class = |more| diagnose(&asked(&waiters, &[more])).class;
    assert_eq!(class(states("")), Class::Deadlock);
    assert_eq!(class(states(&sleeper)), Class::HungTask);
}

#[test]
fn who_asks_for_his_first_lock_holds_none() {
    let tasks = [
        mutex("a", 1, "drv_ab+0x60/0x99 [drv]"),
        mutex("b", 2, "drv_ba+0x60/0x99 [drv]"),
        mutex("c", 3, "drv_first+0x15/0x99 [drv]"),
    ];
    let diagnosis = diagnose(&asked(&tasks, &[]));
    assert_eq!((diagnosis.class, diagnosis.subject.as_str()), (Class::Deadlock, "drv_ab+drv_ba"));
    let two = diagnose(&asked(&tasks[1..], &[]));
    assert_eq!(two.class, Class::HungTask, "one of the two cannot hold anything");
}

#[test]
fn a_cpu_that_runs_in_the_module_may_release_what_was_seen_once() {
    let tasks = [mutex("a", 1, "drv_ab+0x60/0x99 [drv]"), mutex("b", 2, "drv_ba+0x60/0x99 [drv]")];
    let class = |function: &str| {
        let dump = format!(
            "sysrq: Show backtrace of all active CPUs\nNMI backtrace for cpu 0\n\
            CPU: 0 PID: 9 Comm: c Not tainted 6.1 #1\nRIP: 0010:{function}\n"
        );
        diagnose(&asked(&tasks, &[("backtrace-all-active-cpus", dump)])).class
    };
    assert_eq!(class("drv_work+0x1/0x9 [drv]"), Class::HungTask);
    assert_eq!(class("other_work+0x1/0x9 [other]"), Class::Deadlock);
}

#[test]
fn a_kernel_that_knows_its_locks_is_believed() {
    let tasks = [
        mutex("a", 11, "f+0x60/0x99"),
        mutex("b", 12, "g+0x60/0x99"),
        mutex("c", 13, "h+0x60/0x99"),
        mutex("d", 14, "h+0x60/0x99"),
    ];
    let held = |comm: &str, pid: u32, locks: &[&str]| {
        let head = format!("{} locks held by {comm}/{pid}:\n", locks.len());
        let lock = |(at, lock): (usize, &&str)| {
            format!(" #{at}: {lock} (&x->lock){{+.+.}}-{{3:3}}, at: f+0x1/0x9\n")
        };
        head + &locks.iter().enumerate().map(lock).collect::<String>()
    };
    let list = [
        held("a", 11, &["ffff01", "ffff02"]),
        held("b", 12, &["ffff02", "ffff03"]),
        held("c", 13, &["ffff03", "ffff01"]),
        held("d", 14, &["ffff01"]),
    ];
    let dump =
        format!("sysrq: Show Locks Held\nShowing all locks held in the system:\n{}", list.concat());
    let diagnosis = diagnose(&asked(&tasks, &[("locks", dump)]));
    assert_eq!((diagnosis.class, diagnosis.confidence), (Class::Deadlock, Confidence::High));
    assert_eq!(diagnosis.subject, "f+g+h");
    let facts = facts(&diagnosis);
    for (waits, holds) in [("a (11)", "b (12)"), ("b (12)", "c (13)"), ("c (13)", "a (11)")] {
        let fact =
            diagnosis.facts_for.iter().find(|it| it.starts_with(&format!("process {waits}")));
        assert!(
            fact.is_some_and(|it| it.ends_with(&format!("lists it as held by {holds}"))),
            "{facts}"
        );
    }
    assert!(
        facts.contains("bystander: process d (14)") && facts.contains("held by a (11)"),
        "{facts}"
    );
}

#[test]
fn a_kernel_that_names_owners_is_believed() {
    let report = |comm: &str, pid: u32, owner: &str| {
        format!(
            "INFO: task {comm}:{pid} blocked for more than 10 seconds.\n      Not tainted 6.18.0 #1\n\
            task:{comm} state:D stack:0 pid:{pid} tgid:{pid} ppid:2 flags:0x0\nCall Trace:\n <TASK>\n \
            schedule+0x1/0x9\n __mutex_lock+0x1/0x9\n {comm}_f+0x60/0x99\n kthread+0x1/0x9\n </TASK>\n\
            INFO: task {comm}:{pid} {owner}\n"
        )
    };
    let ring = [
        report("a", 1, "is blocked on a mutex likely owned by task b:2."),
        report("b", 2, "<writer> blocked on an rw-semaphore likely owned by task a:1 <reader>"),
    ];
    let console = KernelLog::read(ring.concat().as_bytes());
    let diagnosis = diagnose(&Evidence { console, ..Evidence::default() });
    assert_eq!((diagnosis.class, diagnosis.confidence), (Class::Deadlock, Confidence::High));
    assert_eq!(diagnosis.subject, "a_f+b_f");

    let alone = report("a", 1, "blocked on a semaphore likely last held by task a:1");
    let console = KernelLog::read(alone.as_bytes());
    let diagnosis = diagnose(&Evidence { console, ..Evidence::default() });
    assert_eq!(diagnosis.title, "kernel task a waits for a mutex that it holds itself in a_f");
}

#[test]
fn a_ring_of_thousands_is_found() {
    let tasks: Vec<String> = (1..=8000)
        .map(|pid| mutex("a", pid, &format!("f{pid}+0x60/0x99 [m{}]", pid / 2)))
        .collect();
    let diagnosis = diagnose(&asked(&tasks, &[]));
    assert_eq!((diagnosis.class, diagnosis.subject.as_str()), (Class::Deadlock, "f2+f3"));
}
