//! Tasks that wait without taking signals, by SysRq and by the kernel's own reports.

use super::functions::{Wait, waiting};
use super::holders::{self, Holders};
use super::say::{count, list, place, quoted};
use crate::evidence::Evidence;
use crate::evidence::kernel_log::{Report, ReportKind};
use crate::evidence::sysrq::Task;
use crate::evidence::trace::{Frame, Trace, is_function};
use std::collections::BTreeMap;

/// A task that waits.
pub(super) struct Waiter<'a> {
    pub(super) comm: &'a str,
    pub(super) pid: u32,
    pub(super) is_kernel: bool,
    /// Of a worker of the kernel: what it was asked to do.
    pub(super) work: Option<&'a str>,
    pub(super) wait: Wait,
    /// From the function that chose to wait, outward.
    pub(super) calls: Vec<&'a Frame>,
    /// For more than so long, where the kernel says.
    pub(super) seconds: Option<u64>,
    /// Whether two looks found it in the same place.
    pub(super) twice: bool,
    /// Whom the kernel itself takes for the owner.
    pub(super) told: Option<&'a (String, u32)>,
    /// Who holds what it waits for, as far as that can be concluded.
    pub(super) holders: Holders<'a>,
}

/// Who waits now, by SysRq where it answered, else by the last reports on the console.
pub(super) fn all(evidence: &Evidence) -> Vec<Waiter<'_>> {
    let reports: BTreeMap<u32, &Report> = evidence
        .console
        .all(ReportKind::HungTask)
        .filter_map(|report| Some((report.who.pid?, report)))
        .collect();
    let mut waiters: Vec<Waiter<'_>> = evidence.sysrq.blocked().into_iter().map(of_task).collect();
    let twice = evidence.sysrq.blocked_twice();
    for waiter in &mut waiters {
        waiter.twice = twice.contains(&waiter.pid);
        if let Some(report) = reports.get(&waiter.pid) {
            waiter.seconds = report.seconds;
            waiter.told = report.owner.as_ref();
        }
    }
    // A report is of the past: a task that SysRq does not show as blocked has come back.
    if !evidence.sysrq.lists_tasks() {
        let known: Vec<u32> = waiters.iter().map(|waiter| waiter.pid).collect();
        let others = reports
            .values()
            .filter(|report| report.who.pid.is_none_or(|pid| known.binary_search(&pid).is_err()));
        waiters.extend(others.map(|report| of_report(report)));
    }
    waiters.retain(|waiter| waiter.wait != Wait::Time);
    let found = holders::find(evidence, &waiters);
    for (waiter, holders) in waiters.iter_mut().zip(found) {
        waiter.holders = holders;
    }
    waiters
}

fn of_task(task: &Task) -> Waiter<'_> {
    let (wait, calls) = waiting_for(&task.trace);
    Waiter {
        comm: &task.comm,
        pid: task.pid,
        is_kernel: task.is_kernel(),
        // Behind the name of its queue.
        work: task
            .work
            .as_deref()
            .and_then(|work| work.split(' ').nth(1))
            .filter(|it| is_function(it)),
        wait,
        calls,
        seconds: None,
        twice: false,
        told: None,
        holders: Holders::default(),
    }
}

fn of_report(report: &Report) -> Waiter<'_> {
    let (wait, calls) = waiting_for(&report.trace);
    Waiter {
        comm: &report.who.comm,
        pid: report.who.pid.unwrap_or_default(),
        is_kernel: report.trace.calls().iter().any(|frame| frame.name() == "kthread"),
        work: None,
        wait,
        calls,
        seconds: report.seconds,
        twice: false,
        told: report.owner.as_ref(),
        holders: Holders::default(),
    }
}

fn waiting_for(trace: &Trace) -> (Wait, Vec<&Frame>) {
    waiting(&trace.calls())
}

impl Waiter<'_> {
    /// `kernel task lab_order_ab (263) waits for a mutex in lab_order_ab (lifesign_lab), for more than
    /// 20 s; lab_order_ba (264) likely holds it`
    pub(super) fn said(&self) -> String {
        let within = self.calls.first().map(|frame| format!(" in {}", place(frame)));
        let long = match self.seconds {
            Some(seconds) => format!(", for more than {seconds} s"),
            None if self.twice => ", in two looks".to_owned(),
            None => String::new(),
        };
        let holders = self.holders.said(self.pid);
        format!(
            "{} waits for {}{}{}{}",
            self.named(),
            self.wait.words(),
            within.unwrap_or_default(),
            long,
            holders.map(|holders| format!("; {holders}")).unwrap_or_default(),
        )
    }

    /// `process sh (77)`, `kernel task kworker/u4:0 (9), at work on flush_to_ldisc,`
    fn named(&self) -> String {
        let kind = if self.is_kernel { "kernel task" } else { "process" };
        let work = self.work.map(|work| format!(", at work on {},", quoted(work)));
        format!("{kind} {} ({}){}", quoted(self.comm), self.pid, work.unwrap_or_default())
    }
}

/// `kernel tasks a and b`, `process sh`, `3 tasks`
pub(super) fn name_all(waiters: &[&Waiter<'_>]) -> String {
    let kernel = waiters.iter().filter(|waiter| waiter.is_kernel).count();
    let (kind, many) = match (waiters.len(), kernel) {
        (_, 0) => ("process", "processes"),
        (all, kernel) if all == kernel => ("kernel task", "kernel tasks"),
        _ => ("task", "tasks"),
    };
    let names: Vec<String> = waiters.iter().map(|waiter| quoted(waiter.comm)).collect();
    match names.len() {
        1 => format!("{kind} {}", names.concat()),
        2 | 3 => format!("{many} {}", list(&names, 3)),
        more => count(more, "task"),
    }
}
