//! The host's view: what the hypervisor's process and its threads do, from `/proc`.

use super::Capture;
use crate::base::step::Step;
use crate::evidence::host::{Host, Pressure, Thread};
use crate::evidence::report::Outcome;
use crate::evidence::{Artifact, Kind};
use crate::hypervisor::process::named;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Between the two looks at the threads: enough for a hundred ticks of the accounting clock.
const WATCH: Duration = Duration::from_secs(1);

/// `/proc` counts CPU time in ticks of USER_HZ, which is 100 on every Linux.
const TICK_MS: u64 = 10;

/// More threads than this has no hypervisor of one guest.
const THREADS: usize = 512;

/// Watches the process for a second, if that is wanted.
pub(super) async fn watch(pid: Option<u32>, wanted: bool) -> Capture {
    if !wanted {
        return Capture::default();
    }
    let Some(pid) = pid else {
        let reason = "the hypervisor's process is not known: its monitor cannot be connected to";
        return Capture::nothing(Step::Host, Outcome::Failed, reason);
    };
    let started = Instant::now();
    let first = threads(pid);
    sleep(WATCH).await;
    let host = look(pid, &first, started.elapsed());
    let data = host.to_bytes();
    let artifact = Artifact { kind: Kind::Host, name: String::new(), data };
    Capture::one(Step::Host, artifact, Outcome::Done, started.elapsed())
}

/// A second look, and the difference to the first.
fn look(pid: u32, first: &BTreeMap<u32, Sample>, apart: Duration) -> Host {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let state = sample(&process).map_or(String::new(), |sample| sample.state.to_string());
    let threads = threads(pid)
        .into_iter()
        .map(|(tid, now)| {
            let (ticks, waited_ns) =
                first.get(&tid).map_or((now.ticks, now.waited_ns), |b| (b.ticks, b.waited_ns));
            Thread {
                tid,
                name: now.name,
                state: now.state.to_string(),
                cpu_ms: now.ticks.saturating_sub(ticks) * TICK_MS,
                wait_ms: now.waited_ns.saturating_sub(waited_ns) / 1_000_000,
                waits_in: waits_in(&process.join("task").join(tid.to_string())),
            }
        })
        .collect();
    Host {
        pid,
        state,
        rss_bytes: rss(&process),
        sampled_ms: u64::try_from(apart.as_millis()).unwrap_or(u64::MAX),
        threads,
        pressure: Pressure {
            cpu_permille: pressure("cpu"),
            io_permille: pressure("io"),
            memory_permille: pressure("memory"),
        },
    }
}

/// When a process was started, in ticks after boot: tells it from a later one of the same number.
pub(super) fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    named(&stat)?.1.split_whitespace().nth(19)?.parse().ok()
}

/// What `/proc/../stat` and `schedstat` say of a thread.
struct Sample {
    name: String,
    state: char,
    ticks: u64,
    /// Time in which it was ready to run and another thread had the CPU.
    waited_ns: u64,
}

fn threads(pid: u32) -> BTreeMap<u32, Sample> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return BTreeMap::new();
    };
    tasks
        .flatten()
        .take(THREADS)
        .filter_map(|task| {
            let tid = task.file_name().to_str()?.parse().ok()?;
            Some((tid, sample(&task.path())?))
        })
        .collect()
}

fn sample(process: &Path) -> Option<Sample> {
    let mut sample = parse_stat(&fs::read_to_string(process.join("stat")).ok()?)?;
    let schedstat = fs::read_to_string(process.join("schedstat")).unwrap_or_default();
    let waited = schedstat.split_whitespace().nth(1).and_then(|waited| waited.parse().ok());
    sample.waited_ns = waited.unwrap_or(0);
    Some(sample)
}

fn parse_stat(stat: &str) -> Option<Sample> {
    let (name, rest) = named(stat)?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(Sample {
        name: name.to_owned(),
        state: fields.first()?.chars().next()?,
        ticks: number(11)?.saturating_add(number(12)?),
        waited_ns: 0,
    })
}

fn rss(process: &Path) -> u64 {
    const PAGE: u64 = 4096;
    let statm = fs::read_to_string(process.join("statm")).unwrap_or_default();
    let pages: Option<u64> = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    pages.unwrap_or(0) * PAGE
}

fn waits_in(task: &Path) -> String {
    let function = fs::read_to_string(task.join("wchan")).unwrap_or_default();
    if function == "0" { String::new() } else { function }
}

fn pressure(of: &str) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/pressure/{of}")).ok()?;
    Pressure::permille(&text, "some")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read_past_a_hostile_name() {
        let stat = "42 (CPU 0/KVM) S) R 1 42 42 0 -1 4194624 9 0 0 0 700 300 0 0 20 0 6 0";
        let sample = parse_stat(stat).unwrap();
        assert_eq!((sample.name.as_str(), sample.state, sample.ticks), ("CPU 0/KVM) S", 'R', 1000));
        assert!(parse_stat("42 (x) R 1").is_none());
    }

    #[test]
    fn we_are_seen() {
        let first = threads(std::process::id());
        let host = look(std::process::id(), &first, Duration::from_secs(1));
        assert!(!host.threads.is_empty() && host.rss_bytes > 0 && !host.state.is_empty());
    }
}
