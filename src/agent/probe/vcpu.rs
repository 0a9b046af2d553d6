//! Looks at an app's vCPUs, now and then.

use super::{App, Chain, Clock, Finding, Rung, Sample, VecDeque};
use crate::evidence::qmp::{Qmp, Replies, Reply};
use crate::hypervisor::qmp::{AskError, Monitor};
use crate::hypervisor::vcpu::{self, Cpu, SPAN};
use serde_json::{Value, json};
use std::time::Duration;

/// So many of the latest samples are judged, or more where rounds are so fast that it takes more to
/// span [`SPAN`]. Older ones would tell of a guest that lived then.
const SAMPLES: usize = 3;

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

/// Rounds may follow each other faster than samples mean anything: of those in between, one is kept,
/// so that few suffice to span [`SPAN`].
fn keep(samples: &mut VecDeque<Sample>, sample: Sample) {
    let between = SPAN / 4;
    let crowded = |samples: &VecDeque<Sample>| {
        let before = samples.len().checked_sub(2).and_then(|at| samples.get(at));
        before.is_some_and(|before| sample.at.since(before.at) < between)
    };
    if crowded(samples) {
        samples.pop_back();
    }
    let spans = |first: &Sample| sample.at.since(first.at) >= SPAN;
    while samples.len() >= SAMPLES && samples.get(1).is_some_and(spans) {
        samples.pop_front();
    }
    samples.push_back(sample);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rung::Answer;
    use crate::base::time::Instant;

    fn sample(ms: u64, halted: bool) -> Sample {
        let busy = Some(Duration::from_millis(if halted { 0 } else { ms }));
        let cpu = Cpu { index: 0, at: 0x1000, interrupts_on: halted, halted, busy };
        Sample { at: Instant::from_millis(ms), status: "running".to_owned(), cpus: vec![cpu] }
    }

    #[test]
    fn a_guest_that_lived_before_is_not_alive_for_that() {
        for (pace, rounds) in [(1_000, 8), (8_000, 3), (30_000, 3)] {
            let mut samples = VecDeque::new();
            for round in 0..20 {
                keep(&mut samples, sample(round * pace, true));
                assert!(samples.len() <= 6, "{pace}: {}", samples.len());
            }
            let answers = (20..30).map(|round| {
                keep(&mut samples, sample(round * pace, false));
                vcpu::judge(samples.make_contiguous()).answer
            });
            let alive = answers.take_while(|answer| *answer != Answer::Dead).count();
            assert!(alive < rounds, "dead after {alive} rounds of {pace} ms");
        }
    }
}
