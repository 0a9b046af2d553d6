//! When the capturing side may stop waiting for more of an answer.
//!
//! Only some answers show that they are complete. Where the shape cannot tell, the answer counts as
//! growing, and a quiet time has to decide:
//! - `blocked-tasks` has no tail, and without a blocked task it is a header alone.
//! - `task-states` ends with a list of busy workqueues, but the list itself has no end; to stop at
//!   its heading would leave its lines to be taken for the next answer.
//! - `backtrace-all-active-cpus` lists the CPUs that it asks, but a CPU that takes no NMI never
//!   answers, and a guest with one CPU prints no list.

use super::backtrace;
use crate::base::step::Action;
use crate::evidence::line::{Line, lines};
use crate::evidence::who::number;
use std::collections::BTreeSet;

/// How much of an answer is there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Shape {
    /// The kernel has not answered.
    Nothing,
    /// It has begun to answer; whether more comes cannot be seen.
    Growing,
    /// Nothing more will come.
    Complete,
}

impl Shape {
    /// Of what came after the key.
    #[must_use]
    pub fn of(bytes: &[u8], action: Action) -> Self {
        let Some(begins) = super::header(action, bytes) else {
            return Self::without_header(bytes);
        };
        let body = bytes.get(begins..).unwrap_or_default();
        let complete = match action {
            Action::BlockedTasks | Action::TaskStates => false,
            Action::BacktraceAllActiveCpus => all_cpus_shown(body),
            Action::MemoryUsage => whole(body).any(|line| line.text.ends_with(" pages hwpoisoned")),
        };
        if complete { Self::Complete } else { Self::Growing }
    }

    fn without_header(bytes: &[u8]) -> Self {
        let mut spoken = false;
        for line in whole(bytes) {
            match super::spoken(&line.text) {
                Some(words) if super::is_refusal(words) => return Self::Complete,
                Some(_) => spoken = true,
                None => {}
            }
        }
        if spoken { Self::Growing } else { Self::Nothing }
    }
}

/// Lines whose end has come.
fn whole(bytes: &[u8]) -> impl Iterator<Item = Line<'_>> {
    lines(bytes).filter(|line| line.ended)
}

/// Whether every CPU that was asked has shown where it is.
fn all_cpus_shown(body: &[u8]) -> bool {
    let mut asked: Option<BTreeSet<u32>> = None;
    let mut current = None;
    for line in whole(body) {
        if let Some((_, list)) = sending(&line.text) {
            asked = Some(cpu_list(list));
        } else if let Some(cpu) = backtrace::headline(&line.text) {
            current = Some(cpu.cpu);
            if cpu.idle {
                asked.as_mut().map(|asked| asked.remove(&cpu.cpu));
            }
        } else if let (true, Some(cpu)) = (line.text.trim() == "</TASK>", current) {
            asked.as_mut().map(|asked| asked.remove(&cpu));
        }
    }
    asked.is_some_and(|asked| asked.is_empty())
}

/// `Sending NMI from CPU 0 to CPUs 1-3,5:`
fn sending(text: &str) -> Option<(&str, &str)> {
    text.strip_prefix("Sending NMI from CPU ")?.strip_suffix(':')?.split_once(" to CPUs ")
}

fn cpu_list(list: &str) -> BTreeSet<u32> {
    const CPU_MAX: u32 = 8192;
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(number::<u32>(first)?..=number::<u32>(last)?.min(CPU_MAX))
    };
    list.split(',').filter_map(range).take(64).flatten().collect()
}
