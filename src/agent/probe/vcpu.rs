//! Looks at an app's vCPUs, now and then.

use super::{App, Chain, Clock, Finding, Rung, Sample, VecDeque};
use crate::evidence::qmp::{Qmp, Replies, Reply};
use crate::hypervisor::qmp::{AskError, Monitor};
use crate::hypervisor::vcpu::{self, Cpu, SPAN};
use serde_json::{Value, json};
use std::time::Duration;

/// Samples that are kept: enough to span [`SPAN`] at any pace.
const SAMPLES: usize = 8;

/// Takes a sample, and says what all of them show.
pub(super) async fn ask(app: &App, samples: &mut VecDeque<Sample>) -> Finding {
    let Some(path) = &app.qmp else {
        return Finding::unknown(Rung::Vcpu, "the app's monitor is not known: bind `qmp`");
    };
    let mut monitor = match Monitor::connect(path).await {
        Ok(monitor) => monitor,
        Err(error) => return Finding::unknown(Rung::Vcpu, Chain(&error).to_string()),
    };
    match sample(&mut monitor).await {
        Ok(sample) => keep(samples, sample),
        Err(error) => return Finding::unknown(Rung::Vcpu, Chain(&error).to_string()),
    }
    vcpu::judge(samples.make_contiguous())
}

/// Rounds may follow each other faster than samples mean anything: of those in between, one is kept.
fn keep(samples: &mut VecDeque<Sample>, sample: Sample) {
    let between = SPAN / 4;
    let crowded = |samples: &VecDeque<Sample>| {
        let before = samples.len().checked_sub(2).and_then(|at| samples.get(at));
        before.is_some_and(|before| sample.at.since(before.at) < between)
    };
    if crowded(samples) {
        samples.pop_back();
    }
    samples.push_back(sample);
    if samples.len() > SAMPLES {
        samples.pop_front();
    }
}

async fn sample(monitor: &mut Monitor) -> Result<Sample, AskError> {
    let status = monitor.ask("query-status", json!({})).await?;
    let mut replies = Vec::new();
    let mut take = |command: &str, value: Value| {
        replies.push(Reply { command: command.to_owned(), after_ms: 0, value, error: None });
    };
    take("query-cpus-fast", monitor.ask("query-cpus-fast", json!({})).await?);
    let registers = "info registers -a";
    take(&format!("human-monitor-command {registers}"), monitor.ask_human(registers).await?);
    let pid = monitor.pid();
    let qmp = Qmp::read(&Replies(replies).to_bytes()).unwrap_or_default();
    let cpus = qmp.cpus.iter().filter_map(|cpu| {
        let registers = cpu.samples.last()?;
        Some(Cpu {
            index: cpu.index,
            at: registers.rip,
            interrupts_on: registers.interrupts_on(),
            halted: registers.halted,
            busy: pid.zip(cpu.tid).and_then(|(pid, tid)| cpu_time(pid, tid)),
        })
    });
    let status = status.get("status").and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok(Sample { at: Clock::now(), status, cpus: cpus.collect() })
}

fn cpu_time(pid: u32, tid: u32) -> Option<Duration> {
    let schedstat = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/schedstat")).ok()?;
    vcpu::cpu_time(&schedstat)
}
