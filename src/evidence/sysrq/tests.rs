//! Answers of real kernels, old forms, and torn ones.

use super::*;
use crate::evidence::recorded::bytes;

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
    let expected = Memory {
        free_kb: Some(110_956 * 4),
        total_kb: Some(130_942 * 4),
        anon_kb: Some(2_262 * 4),
        slab_kb: Some((219 + 2_270) * 4),
    };
    assert_eq!(memory, Some(expected));
}

#[test]
fn a_shell_between_does_not_matter_nor_does_what_is_left_of_another_answer() {
    let left = bytes!("mutex-deadlock-6.12", "sysrq-blocked-tasks");
    let both = [left, b"/ # w\r\n/ # [  50.000000] sysrq: Show Blocked State\r\n"].concat();
    let answer = Answer::read(BLOCKED, &both);
    assert_eq!((answer.tasks.len(), answer.outcome), (0, Outcome::HeaderOnly));
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
    let blocked = bytes!("mutex-deadlock-6.12", "sysrq-blocked-tasks");
    assert_eq!(shape(blocked, Action::BlockedTasks), Shape::Growing);
    let refused = bytes!("refused-6.12", "sysrq-blocked-tasks");
    assert_eq!(shape(refused, Action::BlockedTasks), Shape::Complete);
    assert_eq!(shape(&refused[..20], Action::BlockedTasks), Shape::Nothing);
}
