//! Answers of real kernels, old forms, and torn ones.

use super::*;
use crate::evidence::recorded::bytes;
use crate::evidence::trace::Frame;
use proptest::prelude::*;

const BLOCKED: &str = "blocked-tasks";
const CPUS: &str = "backtrace-all-active-cpus";

fn calls(trace: &crate::evidence::trace::Trace) -> Vec<&str> {
    trace.calls().iter().map(|frame| frame.name()).collect()
}

#[test]
fn answers_are_told_apart() {
    let outcome = |action, bytes: &[u8]| Answer::read(action, bytes).outcome;
    assert_eq!(outcome(BLOCKED, b""), Outcome::Silent);
    assert_eq!(outcome(BLOCKED, b"w\r\n/ # \x1b[6n"), Outcome::Silent);
    assert_eq!(outcome(BLOCKED, bytes!("refused-6.12", "sysrq-blocked-tasks")), Outcome::Refused);
    assert_eq!(
        outcome(BLOCKED, b"/ # SysRq : This sysrq operation is disabled.\n"),
        Outcome::Silent
    );
    assert_eq!(outcome(BLOCKED, b"SysRq : This sysrq operation is disabled.\n"), Outcome::Refused);
    assert_eq!(outcome(BLOCKED, bytes!("oops-6.12", "sysrq-blocked-tasks")), Outcome::HeaderOnly);
    assert_eq!(
        outcome(BLOCKED, bytes!("mutex-deadlock-6.1", "sysrq-blocked-tasks")),
        Outcome::Dump
    );
    assert_eq!(outcome(BLOCKED, bytes!("panic-6.1", "sysrq-blocked-tasks")), Outcome::Silent);
    assert_eq!(outcome("of-a-later-version", b"sysrq: Show Timers\n"), Outcome::HeaderOnly);
}

#[test]
fn blocked_tasks_are_read() {
    for bytes in [
        bytes!("mutex-deadlock-6.12", "sysrq-blocked-tasks"),
        bytes!("mutex-deadlock-6.1", "sysrq-blocked-tasks"),
    ] {
        let answer = Answer::read(BLOCKED, bytes);
        let names: Vec<&str> = answer.tasks.iter().map(|task| task.comm.as_str()).collect();
        let expected =
            ["sh", "sh", "lab-bystander", "lab_order_ab", "lab_order_ba", "lab_bystander"];
        assert_eq!(names, expected);
        assert!(answer.tasks.iter().all(|task| task.state == 'D'));
        let kernel: Vec<bool> = answer.tasks.iter().map(Task::is_kernel).collect();
        assert_eq!(kernel, [false, false, false, true, true, true]);
        let calls = calls(&answer.tasks[3].trace);
        assert_eq!(calls[0], "__schedule");
        assert!(calls.windows(2).any(|pair| pair == ["__mutex_lock", "lab_order_ab"]), "{calls:?}");
    }
}

#[test]
fn the_form_before_5_11_is_read() {
    let answer = Answer::read(
        BLOCKED,
        b"w\r\n[  10.000000] sysrq: Show Blocked State\r\n\
        [  10.000001]   task                        PC stack   pid father\r\n\
        [  10.000002] my app D       D    0   123      2 0x80004000\r\n\
        [  10.000003] Call Trace:\r\n\
        [  10.000004]  __schedule+0x2e3/0x740\r\n\
        [  10.000005]  ? __switch_to_asm+0x40/0x70\r\n\
        [  10.000006]  io_schedule+0x12/0x40\r\n\
        [  10.000007] sh              R  running task        0    77      1 0x00000008\r\n",
    );
    let [first, second] = answer.tasks.as_slice() else { panic!("{:?}", answer.tasks) };
    assert_eq!((first.comm.as_str(), first.pid, first.ppid, first.state), ("my app", 123, 2, 'D'));
    assert_eq!(calls(&first.trace), ["__schedule", "io_schedule"]);
    assert_eq!((second.comm.as_str(), second.pid, second.state), ("sh", 77, 'R'));
}

#[test]
fn all_tasks_are_read() {
    for bytes in [
        bytes!("userspace-stopped-6.12", "sysrq-task-states"),
        bytes!("userspace-stopped-6.1", "sysrq-task-states"),
    ] {
        let tasks = Answer::read("task-states", bytes).tasks;
        let text = String::from_utf8_lossy(bytes);
        assert_eq!(tasks.len(), text.matches("] task:").count());
        assert_eq!(
            (tasks[0].comm.as_str(), tasks[0].pid, tasks[1].comm.as_str()),
            ("init", 1, "kthreadd")
        );
        assert!(tasks.iter().filter(|task| task.state == 'T').count() >= 6);
        let sleeps = tasks.iter().filter(|task| task.state == 'S');
        assert!(sleeps.clone().all(|task| calls(&task.trace)[0] == "__schedule"));
    }
}

#[test]
fn cpus_are_read() {
    let cpus =
        Answer::read(CPUS, bytes!("soft-lockup-6.12", "sysrq-backtrace-all-active-cpus")).cpus;
    let [stuck, idle] = cpus.as_slice() else { panic!("{cpus:?}") };
    assert_eq!((stuck.cpu, stuck.idle, stuck.who.comm.as_str()), (1, false, "lab_soft_lockup"));
    assert_eq!(calls(&stuck.trace)[..2], ["lab_spin_forever", "lab_soft_lockup"]);
    assert_eq!((idle.cpu, idle.idle), (0, true));

    let cpus =
        Answer::read(CPUS, bytes!("mutex-deadlock-6.1", "sysrq-backtrace-all-active-cpus")).cpus;
    assert_eq!(
        cpus.iter().map(|cpu| (cpu.cpu, cpu.idle)).collect::<Vec<_>>(),
        [(0, true), (1, true)]
    );

    let cpus = Answer::read(CPUS, bytes!("irq-off-6.1", "sysrq-backtrace-all-active-cpus")).cpus;
    let stuck = cpus.iter().find(|cpu| cpu.cpu == 1).unwrap();
    assert_eq!(calls(&stuck.trace)[..2], ["lab_spin_forever", "lab_irq_off"]);
}

#[test]
fn a_cpu_that_runs_a_process_is_nowhere_in_the_kernel() {
    let bytes = bytes!("userspace-spin-6.12", "sysrq-backtrace-all-active-cpus");
    let cpus = Answer::read(CPUS, bytes).cpus;
    assert_eq!(cpus.len(), 2);
    assert!(cpus.iter().all(|cpu| cpu.in_process() && cpu.who.comm == "lab-spin"), "{cpus:?}");
}

#[test]
fn memory_is_read() {
    let memory =
        Answer::read("memory-usage", bytes!("mutex-deadlock-6.12", "sysrq-memory-usage")).memory;
    let memory = memory.unwrap();
    assert_eq!((memory.free_kb, memory.total_kb), (Some(110_956 * 4), Some(130_942 * 4)));
    assert_eq!((memory.anon_kb, memory.slab_kb), (Some(2_262 * 4), Some((219 + 2_270) * 4)));
    assert_eq!((memory.shmem_kb, memory.dirty_kb), (Some(2_148 * 4), Some(0)));
    assert_eq!((memory.swap_kb, memory.swap_free_kb), (Some(0), Some(0)));
    let [_, zone] = memory.zones.as_slice() else { panic!("{:?}", memory.zones) };
    assert_eq!((zone.name.as_str(), zone.free_kb, zone.min_kb), ("DMA32", 428_592, 2_616));
    assert_eq!((zone.low_kb, zone.managed_kb), (3_268, 459_392));
    assert!(!memory.is_short());

    let short = Answer::read("memory-usage", bytes!("oom-6.12", "sysrq-memory-usage")).memory;
    assert!(short.unwrap().is_short());
}

#[test]
fn pages_are_as_large_as_the_machine_has_them() {
    let dump =
        b"sysrq: Show Memory\nMem-Info:\n free:10 free_pcp:0\nNode 0 DMA: 3*64kB (U) = 192kB\n";
    let memory = Answer::read("memory-usage", dump).memory.unwrap();
    assert_eq!(memory.free_kb, Some(640));
}

#[test]
fn a_dump_without_its_header_is_still_one() {
    let dump = bytes!("mutex-deadlock-6.12", "sysrq-blocked-tasks");
    let headless = &dump[dump.iter().position(|&byte| byte == b'\n').unwrap()..];
    let answer = Answer::read(BLOCKED, headless);
    assert_eq!((answer.tasks.len(), answer.outcome), (6, Outcome::Dump));
    // But not where it was left from another action.
    let refused = bytes!("refused-6.12", "sysrq-blocked-tasks");
    let answer = Answer::read(BLOCKED, &[headless, refused].concat());
    assert_eq!((answer.tasks.len(), answer.outcome), (0, Outcome::Refused));
}

#[test]
fn a_shell_between_does_not_matter_nor_does_what_is_left_of_another_answer() {
    let left = bytes!("mutex-deadlock-6.12", "sysrq-blocked-tasks");
    let both = [left, b"/ # w\r\n/ # [  50.000000] sysrq: Show Blocked State\r\n"].concat();
    let answer = Answer::read(BLOCKED, &both);
    assert_eq!((answer.tasks.len(), answer.outcome), (0, Outcome::HeaderOnly));
}

#[test]
fn a_task_that_was_seen_twice_is_as_it_was_seen_last() {
    let task = |pid: u32, state: char| {
        format!(
            "task:t state:{state} stack:0 pid:{pid} ppid:2 flags:0x0\nCall Trace:\n <TASK>\n f+0x1/0x2\n </TASK>\n"
        )
    };
    let mut answers = Answers::default();
    let blocked = format!("sysrq: Show Blocked State\n{}{}", task(7, 'D'), task(8, 'D'));
    answers.read(BLOCKED, blocked.as_bytes());
    let cut = task(8, 'S').replace(" </TASK>\n", "");
    answers.read("task-states", format!("sysrq: Show State\n{}{cut}", task(7, 'S')).as_bytes());
    let seen: Vec<_> = answers.tasks().iter().map(|task| (task.pid, task.state)).collect();
    assert_eq!(seen, [(7, 'S'), (8, 'D')], "what was cut is not preferred");
    assert_eq!(answers.blocked().len(), 1);
}

#[test]
fn a_worker_tells_what_it_works_on() {
    let blocked = bytes!("mutex-deadlock-all-keys-6.1", "sysrq-blocked-tasks");
    let answer = Answer::read(BLOCKED, blocked);
    assert_eq!(answer.tasks[0].comm, "kworker/u4:0");
    assert_eq!(answer.tasks[0].work.as_deref(), Some("events_unbound flush_to_ldisc"));
    assert_eq!(answer.tasks[0].flags, 0x4000);
    assert!(answer.tasks.iter().all(|task| !task.torn));
}

#[test]
fn a_dump_that_was_cut_or_disturbed_says_so() {
    let dump = bytes!("mutex-deadlock-6.12", "sysrq-blocked-tasks");
    let torn = |bytes: &[u8]| {
        let tasks = Answer::read(BLOCKED, bytes).tasks;
        tasks.iter().filter(|task| task.torn).map(|task| task.pid).collect::<Vec<_>>()
    };
    assert_eq!(torn(dump), [] as [u32; 0]);
    assert_eq!(torn(&dump[..dump.len() - 400]), [265]);
    let text = String::from_utf8_lossy(dump);
    let disturbed =
        text.replacen("n_tty_write", "n_tty\n[   38.390691] usb 1-1: new device\n_write", 1);
    assert_eq!(torn(disturbed.as_bytes()), [176]);
    // What stands behind the other message still belongs to the task.
    let tasks = Answer::read(BLOCKED, disturbed.as_bytes()).tasks;
    assert!(calls(&tasks[0].trace).contains(&"ksys_write"));
}

#[test]
fn dumps_that_several_print_at_once_are_told_apart() {
    let cpu = |cpu: u32, function: &str| {
        let head = format!(
            "NMI backtrace for cpu {cpu}\nCPU: {cpu} PID: {cpu} Comm: c{cpu} Not tainted 6.1 #1\n"
        );
        let rest = format!(
            "RIP: 0010:{function}+0x1/0x2\nCall Trace:\n <TASK>\n by_{function}+0x1/0x2\n </TASK>\n"
        );
        (head + &rest)
            .lines()
            .map(|line| format!("[    1.000000][    C{cpu}] {line}\n"))
            .collect::<Vec<_>>()
    };
    let mixed: String =
        cpu(1, "one").into_iter().zip(cpu(2, "two")).flat_map(|(a, b)| [a, b]).collect();
    let dump = format!("[    1.000000][  T1] sysrq: Show backtrace of all active CPUs\n{mixed}");
    let cpus = Answer::read(CPUS, dump.as_bytes()).cpus;
    let seen: Vec<_> =
        cpus.iter().map(|it| (it.cpu, it.who.comm.as_str(), calls(&it.trace))).collect();
    assert_eq!(seen, [(1, "c1", vec!["one", "by_one"]), (2, "c2", vec!["two", "by_two"])]);
}

#[test]
fn a_machine_without_nmi_answers_by_cpu() {
    let dump = b"sysrq: Show backtrace of all active CPUs\nsysrq: CPU1:\nCall trace:\n spin+0x1/0x8\n kthread+0x1/0x2\n\
        sysrq: CPU3:\nCall trace:\n cpuidle_enter_state+0x1/0x8\n";
    let cpus = Answer::read(CPUS, dump).cpus;
    let seen: Vec<_> = cpus.iter().map(|it| (it.cpu, it.idle, calls(&it.trace)[0])).collect();
    assert_eq!(seen, [(1, false, "spin"), (3, true, "cpuidle_enter_state")]);
}

#[test]
fn a_stuck_cpu_shows_its_registers() {
    let cpus =
        Answer::read(CPUS, bytes!("irq-off-all-keys-6.12", "sysrq-backtrace-all-active-cpus")).cpus;
    let [busy, stuck] = cpus.as_slice() else { panic!("{cpus:?}") };
    assert_eq!(
        (busy.cpu, calls(&busy.trace)[..2].to_vec()),
        (1, vec!["iov_iter_init", "seq_read"])
    );
    assert_eq!((stuck.cpu, stuck.trace.interrupts_on()), (0, Some(false)));
    assert_eq!(stuck.trace.registers.get("RSI"), Some(0x246));
    assert_eq!(stuck.trace.registers.get("CR3"), Some(0x1682_2000));

    let alone = Answer::read("registers", bytes!("irq-off-all-keys-6.12", "sysrq-registers")).cpus;
    assert_eq!((alone.len(), alone[0].cpu, alone[0].idle), (1, 1, true));
}

#[test]
fn the_scheduler_tells_who_has_a_cpu() {
    let states = bytes!("irq-off-all-keys-6.12", "sysrq-task-states");
    let answer = Answer::read("task-states", states);
    let sched = answer.sched.unwrap();
    let [stuck, other] = sched.cpus.as_slice() else { panic!("{sched:?}") };
    assert_eq!((stuck.cpu, stuck.current_pid, stuck.running), (0, Some(259), Some(2)));
    assert_eq!((stuck.switches, stuck.clock_us), (Some(1535), Some(33_733_614)));
    let runnable: Vec<_> =
        stuck.runnable.iter().map(|it| (it.comm.as_str(), it.pid, it.current)).collect();
    assert_eq!(runnable, [("kworker/0:1", 10, false), ("lab_irq_off", 259, true)]);
    assert!(other.runnable.is_empty() && !other.rt_throttled && !other.cfs_throttled);

    let states = bytes!("mutex-deadlock-all-keys-6.1", "sysrq-task-states");
    let sched = Answer::read("task-states", states).sched.unwrap();
    let work = Work {
        queue: "events_unbound".into(),
        pid: 9,
        function: "flush_to_ldisc flush_to_ldisc".into(),
    };
    assert_eq!((sched.work, sched.hung_s), (vec![work], Some(0)));
}

#[test]
fn a_stuck_cpu_owes_its_timers() {
    let timers = |bytes| Answer::read("timers", bytes).timers.unwrap();
    let stuck = timers(bytes!("irq-off-all-keys-6.12", "sysrq-timers"));
    assert_eq!((stuck.overdue_ms(0), stuck.overdue_ms(1)), (Some(12_221), None));
    assert_eq!(stuck.cpus[0].timers[0].function, "tick_nohz_handler");
    assert_eq!(stuck.cpus[0].timers[0].left_ns, -12_221_546_789);
    assert_eq!((stuck.cpus[0].timers.len(), stuck.cpus[1].timers.len()), (3, 4));
    let idle = timers(bytes!("mutex-deadlock-all-keys-6.1", "sysrq-timers"));
    assert_eq!((idle.overdue_ms(0), idle.overdue_ms(1), idle.overdue_ms(2)), (None, None, None));
    assert_eq!(idle.cpus[1].timers[1].function, "watchdog_timer_fn");
    assert_eq!(idle.cpus[1].tick_stopped, Some(true));
}

#[test]
fn the_last_events_of_a_stuck_cpu_are_kept() {
    let dump = bytes!("irq-off-all-keys-6.12", "sysrq-dump-ftrace-buffer");
    let ftrace = Answer::read("dump-ftrace-buffer", dump).ftrace.unwrap();
    let stuck = &ftrace.cpus[&0];
    assert_eq!(stuck.lost, 825_775);
    let last = stuck.last.back().unwrap();
    assert_eq!((last.pid, last.call()), (259, Some(("lab_spin_forever", "lab_irq_off"))));
    assert_eq!((last.time_us, ftrace.last_us), (Some(20_276_003), Some(28_185_759)));
}

#[test]
fn a_kernel_without_an_action_lists_those_that_it_has() {
    let answer = Answer::read("locks", bytes!("irq-off-all-keys-6.12", "sysrq-locks"));
    assert_eq!(answer.outcome, Outcome::NotBuiltIn);
    assert_eq!(
        Shape::of(bytes!("irq-off-all-keys-6.12", "sysrq-locks"), Action::Locks),
        Shape::Complete
    );
}

#[test]
fn a_quiet_console_is_known_by_headers_alone() {
    let mut answers = Answers::default();
    answers.read(BLOCKED, b"sysrq: Show Blocked State\n");
    assert!(!answers.is_quiet() && !answers.lists_tasks());
    answers.read(
        "dump-ftrace-buffer",
        b"sysrq: Dump ftrace buffer\nDumping ftrace buffer:\n   (ftrace buffer empty)\n",
    );
    assert!(!answers.lists_tasks(), "that is printed at any log level");
    answers.read("memory-usage", b"sysrq: Show Memory\n");
    assert!(answers.is_quiet() && !answers.lists_tasks());
}

#[test]
fn the_next_key_ends_a_dump() {
    let blocked = bytes!("mutex-deadlock-6.12", "sysrq-blocked-tasks");
    let next = b"[   39.000000] sysrq: HELP : loglevel(0-9) reboot(b)\n";
    let mut listener = Listener::new(Action::BlockedTasks);
    assert_eq!((listener.hear(blocked), listener.helped()), (Shape::Growing, false));
    assert_eq!(listener.hear(&next[..next.len() - 1]), Shape::Growing);
    assert_eq!((listener.hear(b"\n"), listener.helped()), (Shape::Complete, true));
    // Nothing of what follows is taken for the dump.
    let both = [blocked, next, b"task:late state:D stack:0 pid:7 ppid:2 flags:0x0\n"].concat();
    assert_eq!(Answer::read(BLOCKED, &both), Answer::read(BLOCKED, blocked));
}

#[test]
fn shapes_grow() {
    let shape = |bytes: &[u8], action| Shape::of(bytes, action);
    let cpus = bytes!("soft-lockup-6.12", "sysrq-backtrace-all-active-cpus");
    let end = cpus.windows(7).rposition(|window| window == b"</TASK>").unwrap();
    let all = Action::BacktraceAllActiveCpus;
    assert_eq!(shape(b"l\r\n/ # ", all), Shape::Nothing);
    assert_eq!(shape(&cpus[..end], all), Shape::Growing);
    assert_eq!(shape(cpus, all), Shape::Complete);
    let skipped = bytes!("mutex-deadlock-6.1", "sysrq-backtrace-all-active-cpus");
    assert_eq!(shape(skipped, all), Shape::Complete);
    let memory = bytes!("mutex-deadlock-6.12", "sysrq-memory-usage");
    assert_eq!(shape(memory, Action::MemoryUsage), Shape::Complete);
    assert_eq!(shape(&memory[..memory.len() - 9], Action::MemoryUsage), Shape::Growing);
    let ftrace = bytes!("irq-off-all-keys-6.12", "sysrq-dump-ftrace-buffer");
    assert_eq!(shape(ftrace, Action::DumpFtraceBuffer), Shape::Complete);
    assert_eq!(shape(&ftrace[..ftrace.len() - 40], Action::DumpFtraceBuffer), Shape::Growing);
    let empty = b"sysrq: Dump ftrace buffer\nDumping ftrace buffer:\n   (ftrace buffer empty)\n";
    assert_eq!(shape(empty, Action::DumpFtraceBuffer), Shape::Complete);
    let blocked = bytes!("mutex-deadlock-6.12", "sysrq-blocked-tasks");
    assert_eq!(shape(blocked, Action::BlockedTasks), Shape::Growing);
    let refused = bytes!("refused-6.12", "sysrq-blocked-tasks");
    assert_eq!(shape(refused, Action::BlockedTasks), Shape::Complete);
    assert_eq!(shape(&refused[..20], Action::BlockedTasks), Shape::Nothing);
}

/// Ten megabytes of what a guest may print to make us keep or do the most.
fn hostile() -> Vec<u8> {
    let name = "f".repeat(120);
    let mut text = String::from("sysrq: Show State\n");
    let mut n = 0_u32;
    while text.len() < 10_000_000 {
        n += 1;
        let mut say = |line: &str| text.push_str(&format!("[    1.000000][ T{n}] {line}\n"));
        say(&format!("task:{name} state:D stack:0 pid:{n} ppid:{n} flags:0x0"));
        say(&format!("Workqueue: {name}"));
        say("Call Trace:");
        let (frame, times) = match n {
            ..1100 => (" a+0x0/0x0".to_owned(), 70),
            1100.. => (format!(" {name}+0x0/0x0 [{name}]"), 1),
        };
        (0..times).for_each(|_| say(&frame));
        say("[[[[[ [    1.000000[[[ [    1.000000]");
    }
    text.into_bytes()
}

fn weight(task: &Task) -> usize {
    let frame = |frame: &Frame| frame.function.len() + frame.module.as_ref().map_or(0, String::len);
    let frames: usize = task.trace.frames.iter().map(frame).sum();
    task.comm.len() + task.work.as_ref().map_or(0, String::len) + frames
}

#[test]
fn a_hostile_dump_is_read_once_and_little_of_it_is_kept() {
    let hostile = hostile();
    let mut tasks = Vec::new();
    let work =
        crate::evidence::line::work::of(|| tasks = Answer::read("task-states", &hostile).tasks);
    assert_eq!(work, hostile.len());
    assert_eq!(tasks.len(), 8192);
    assert_eq!(tasks.iter().map(|task| task.trace.frames.len()).sum::<usize>(), 65_536);
    assert!(tasks.iter().map(weight).sum::<usize>() <= 8192 * 192 + 65_536 * 256);
}

#[test]
fn a_listener_looks_at_every_byte_once() {
    let dump = bytes!("mutex-deadlock-all-keys-6.12", "sysrq-task-states");
    let mut listener = Listener::new(Action::TaskStates);
    let work = crate::evidence::line::work::of(|| {
        for piece in dump.chunks(7) {
            assert_ne!(listener.hear(piece), Shape::Complete);
        }
    });
    assert_eq!(work, dump.len());
}

proptest! {
    /// However an answer comes in pieces, the same is heard, and no byte is looked at twice.
    #[test]
    fn a_listener_does_not_mind_pieces(
        cuts in prop::collection::vec(0_usize..12_000, 0..40),
        action in prop::sample::select(Action::ALL.to_vec()),
    ) {
        let left = bytes!("refused-6.12", "sysrq-blocked-tasks");
        let cpus = bytes!("irq-off-all-keys-6.12", "sysrq-backtrace-all-active-cpus");
        let memory = bytes!("mutex-deadlock-6.12", "sysrq-memory-usage");
        let ftrace = &bytes!("irq-off-all-keys-6.12", "sysrq-dump-ftrace-buffer")[..3_000];
        let all = [left, cpus, memory, ftrace].concat();
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(all.len())).collect();
        cuts.sort_unstable();
        let mut listener = Listener::new(action);
        let mut from = 0;
        for cut in cuts {
            prop_assert_eq!(listener.hear(&all[from..cut]), Shape::of(&all[..cut], action));
            from = cut;
        }
        prop_assert_eq!(listener.hear(&all[from..]), Shape::of(&all, action));
    }
}
