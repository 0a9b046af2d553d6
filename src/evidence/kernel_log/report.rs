//! One report of the kernel, and the lines that belong to it.

use crate::evidence::line::Line;
use crate::evidence::trace::Trace;
use crate::evidence::who::{Who, comm, comm_and_pid, number};
use std::ops::Range;

/// What the kernel reported.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum ReportKind {
    /// It gave up.
    Panic,
    /// It gave up because its first process ended.
    InitDied,
    /// It made a mistake and killed the task that was running.
    Oops,
    /// A CPU did not schedule.
    SoftLockup,
    /// A CPU did not take interrupts.
    HardLockup,
    /// A CPU or a task held up the readers of RCU.
    RcuStall,
    /// A task did not wake up.
    HungTask,
    /// Memory ran out and a process was killed.
    OomKill,
}

/// One report.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Report {
    /// What.
    pub kind: ReportKind,
    /// The words of its headline, without what is the same in all of its kind.
    pub reason: String,
    /// When, in microseconds after boot.
    pub time_us: Option<u64>,
    /// Who was running, or who hangs.
    pub who: Who,
    /// For how long, where the headline says.
    pub seconds: Option<u64>,
    /// Who likely owns the lock that the task waits for; kernels since 6.16 tell.
    pub owner: Option<(String, u32)>,
    /// Where.
    pub trace: Trace,
    /// Where it stands in the console bytes.
    pub span: Range<usize>,
}

impl Report {
    /// A report that begins with this line.
    #[must_use]
    pub fn new(kind: ReportKind, reason: &str, line: &Line<'_>) -> Self {
        Self {
            kind,
            reason: reason.trim().to_owned(),
            time_us: line.time_us,
            who: Who::default(),
            seconds: None,
            owner: None,
            trace: Trace::default(),
            span: line.span.clone(),
        }
    }

    /// Whether a headline only says more of what this report has begun to say: an oops has several.
    #[must_use]
    pub fn is_told_twice_by(&self, next: &Self) -> bool {
        self.kind == ReportKind::Oops && next.kind == ReportKind::Oops && self.trace.is_empty()
    }

    /// Takes a line; tells whether it belongs to the report.
    pub fn take(&mut self, line: &Line<'_>) -> bool {
        let text = line.text.as_ref();
        self.take_who(text) || self.take_kind(text) || self.trace.take(text)
    }

    /// Makes the report reach to the end of the line.
    pub fn extend(&mut self, line: &Line<'_>) {
        self.span.end = line.span.end;
    }

    fn take_who(&mut self, text: &str) -> bool {
        let Some(who) = Who::read(text) else { return false };
        if self.who.comm.is_empty() && self.kind != ReportKind::HungTask {
            self.who = Who { cpu: self.who.cpu.or(who.cpu), ..who };
        } else if self.who.release.is_none() {
            self.who.release = who.release;
        }
        true
    }

    fn take_kind(&mut self, text: &str) -> bool {
        match self.kind {
            ReportKind::HungTask => self.take_owner(text) || self.take_tainted(text),
            ReportKind::RcuStall => self.take_stalled_cpu(text),
            ReportKind::Panic
            | ReportKind::InitDied
            | ReportKind::Oops
            | ReportKind::SoftLockup
            | ReportKind::HardLockup
            | ReportKind::OomKill => false,
        }
    }

    /// `INFO: task a:1 is blocked on a mutex likely owned by task b:2.`,
    /// `INFO: task a:1 blocked on a semaphore likely last held by task b:2`,
    /// `INFO: task a:1 <reader> blocked on an rw-semaphore likely owned by task b:2 <writer>`
    fn take_owner(&mut self, text: &str) -> bool {
        let Some(rest) = text.strip_prefix("INFO: task ") else { return false };
        let by = |words| rest.split_once(words);
        let owner = by(" likely owned by task ").or_else(|| by(" likely last held by task "));
        let Some((_, owner)) = owner else { return false };
        let owner = owner.trim_end();
        let owner = owner.trim_end_matches(" <reader>").trim_end_matches(" <writer>");
        self.owner = comm_and_pid(owner.trim_end_matches('.'));
        true
    }

    /// `      Not tainted 6.1.0-56-amd64 #1`, or the task with its state.
    fn take_tainted(&mut self, text: &str) -> bool {
        let text = text.trim_start();
        if text.starts_with("Not tainted ") || text.starts_with("Tainted: ") {
            let line = format!("CPU: 0 Comm: x {text}");
            self.who.release = Who::read(&line).and_then(|who| who.release);
            return true;
        }
        // The trace of the task follows its state, with a heading or without.
        text.starts_with("task:") || text.starts_with("\"echo 0 > /proc/sys/kernel/hung_task")
    }

    /// `rcu:     1-...!: (1 GPs behind) idle=..`
    fn take_stalled_cpu(&mut self, text: &str) -> bool {
        let listed = text.strip_prefix("rcu:").unwrap_or(text).trim_start();
        let Some((cpu, flags)) = listed.split_once('-') else { return false };
        let is_listed =
            flags.len() > 4 && flags.bytes().take(3).all(|byte| b".?O!oNDT".contains(&byte));
        if !is_listed || cpu.is_empty() || !cpu.bytes().all(|byte| byte.is_ascii_digit()) {
            return false;
        }
        self.who.cpu = self.who.cpu.or_else(|| number(cpu));
        true
    }

    /// Names the task of a headline such as `CPU#1 stuck for 23s! [sh:77]`.
    pub(super) fn name_task(&mut self, name: &str, pid: Option<u32>) {
        self.who.comm = comm(name);
        self.who.pid = pid;
    }
}
