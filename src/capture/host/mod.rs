//! The host's view: what the hypervisor's process and its threads do, and what the host lets them.
//!
//! ```text
//! look, a second, look again --> what each did in between --> one artifact
//! ```
//!
//! Nothing here changes anything, and nothing here fails: what a host is built without or does not permit
//! is not in the evidence, and where somebody could change that, [`Host::missing`] says so.

mod cgroup;
mod counters;
mod descriptors;
mod kernel_log;
mod machine;
mod root;
mod threads;

use super::{Capture, Target, monitor};
use crate::base::limits;
use crate::base::step::Step;
use crate::evidence::host::{Host, Packets};
use crate::evidence::report::Outcome;
use crate::evidence::{Artifact, Kind};
use crate::hypervisor::process::{listening_on, state};
use descriptors::Descriptors;
use root::Root;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};

/// Between the two looks: enough for a hundred ticks of the accounting clock.
const WATCH: Duration = Duration::from_secs(1);

/// The hypervisor's process. Behind a monitor that cannot be connected to it is the one that was known
/// last, if that has ended or still is a hypervisor: its number may be another's by now.
pub(super) async fn process(target: &Target) -> Option<u32> {
    if let Some(pid) = monitor::pid(target.qmp.as_deref()).await {
        return Some(pid);
    }
    let listens = target.qmp.as_deref().and_then(listening_on);
    listens.or_else(|| target.pid.filter(|pid| has_ended(*pid) || is_hypervisor(*pid)))
}

fn has_ended(pid: u32) -> bool {
    state(pid).is_none_or(|state| matches!(state, 'Z' | 'X'))
}

fn is_hypervisor(pid: u32) -> bool {
    let name = Root::new("/").line(&format!("/proc/{pid}/comm")).unwrap_or_default();
    ["qemu-", "cloud-hyper"].iter().any(|begin| name.starts_with(begin))
}

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
    let Some(host) = twice(Root::new("/"), pid).await else {
        let within = limits::HOST_LOOK.as_secs();
        let reason = format!("the host did not answer for its own files within {within} s");
        return Capture::nothing(Step::Host, Outcome::Silent, reason);
    };
    let artifact = Artifact { kind: Kind::Host, name: String::new(), data: host.to_bytes() };
    Capture::one(Step::Host, artifact, Outcome::Done, started.elapsed())
}

/// Both looks, and what happened in between.
async fn twice(root: Root, pid: u32) -> Option<Host> {
    let there = root.clone();
    let (first, open, missing) = within(move || {
        let (open, missing) = opened(&there, pid);
        (Look::take(&there, pid, &open), open, missing)
    })
    .await?;
    let begun = Instant::now();
    sleep(WATCH).await;
    within(move || {
        let second = Look::take(&root, pid, &open);
        let mut host = second.since(first, &root, pid);
        host.sampled_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        host.images = open.images;
        host.missing.extend(missing.filter(|_| !host.state.is_empty()));
        machine::fill(&root, &mut host);
        match kernel_log::look(&root) {
            Ok(log) => host.log = log,
            Err(error) => host.missing.push(format!("kernel log of the host: {error}")),
        }
        host
    })
    .await
}

/// A host that is sick may not answer even here; then its answer is not waited for.
async fn within<T: Send + 'static>(look: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    timeout(limits::HOST_LOOK, spawn_blocking(look)).await.ok()?.ok()
}

fn opened(root: &Root, pid: u32) -> (Descriptors, Option<String>) {
    match descriptors::look(root, pid) {
        Ok(open) => (open, None),
        Err(error) => (Descriptors::default(), Some(format!("disks and network devices: {error}"))),
    }
}

/// All that is read twice.
struct Look {
    state: String,
    threads: BTreeMap<u32, threads::Sample>,
    cgroups: BTreeMap<String, cgroup::Sample>,
    disks: BTreeMap<String, counters::DiskSample>,
    taps: BTreeMap<String, Packets>,
}

impl Look {
    fn take(root: &Root, pid: u32, open: &Descriptors) -> Self {
        let threads = threads::look(root, pid);
        let names: BTreeSet<&String> =
            open.images.iter().map(|image| &image.disk).filter(|disk| !disk.is_empty()).collect();
        let process = threads::sample(root, &format!("/proc/{pid}"));
        Self {
            state: process.map_or(String::new(), |process| process.state),
            cgroups: cgroup::look(root, pid, threads.keys().copied()),
            disks: counters::disks(root, names.into_iter()),
            taps: counters::taps(root, pid, &open.taps),
            threads,
        }
    }

    fn since(self, first: Self, root: &Root, pid: u32) -> Host {
        let (threads, stacks_kept_from_us) =
            threads::compare(root, pid, &first.threads, self.threads);
        let mut host = Host {
            pid,
            state: self.state,
            rss_bytes: rss(root, pid),
            threads,
            cgroups: cgroup::compare(&first.cgroups, self.cgroups),
            disks: counters::compare_disks(&first.disks, self.disks),
            taps: counters::compare_taps(root, pid, &first.taps, self.taps),
            ..Host::default()
        };
        if stacks_kept_from_us {
            host.missing.push("stacks in the host's kernel: not permitted".to_owned());
        }
        host
    }
}

fn rss(root: &Root, pid: u32) -> u64 {
    const PAGE: u64 = 4096;
    let statm = root.text(&format!("/proc/{pid}/statm")).unwrap_or_default();
    let pages: Option<u64> = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    pages.unwrap_or(0).saturating_mul(PAGE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;

    #[tokio::test]
    async fn we_are_seen() {
        let us = std::process::id();
        let host = twice(Root::new("/"), us).await.unwrap();
        assert!(!host.threads.is_empty() && host.rss_bytes > 0 && !host.state.is_empty());
        assert!(host.memory.is_some_and(|memory| memory.total_bytes > 0), "{host:?}");
        assert!(host.sampled_ms >= 1000);
    }

    #[tokio::test]
    async fn a_process_that_was_known_is_taken_for_it_if_it_has_ended_or_is_a_hypervisor() {
        let target =
            |pid| Target { qmp: Some("/nowhere/qmp".into()), pid: Some(pid), ..Target::default() };
        let ended = u32::MAX;
        assert_eq!(process(&target(ended)).await, Some(ended));
        assert_eq!(process(&target(std::process::id())).await, None, "we are none");
    }

    #[tokio::test]
    async fn who_is_not_there_is_gone() {
        let empty = tempfile::tempdir().unwrap();
        let host = twice(Root::new(empty.path()), 7).await.unwrap();
        assert_eq!((host.state.as_str(), host.threads.len(), host.memory), ("", 0, None));
        assert_eq!(host.missing.len(), 2, "{:?}", host.missing);
    }

    /// A QEMU that was started with `-S`, as this host showed it.
    #[tokio::test]
    async fn a_recorded_host_is_read() {
        let tree = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/host/paused");
        let mut host = twice(Root::new(tree), 3116).await.unwrap();
        host.sampled_ms = 1000;
        let json: serde_json::Value = serde_json::from_slice(&host.to_bytes()).unwrap();
        insta::assert_snapshot!(serde_json::to_string_pretty(&json).unwrap());
    }

    const FILES: [&str; 22] = [
        "proc/7/stat",
        "proc/7/status",
        "proc/7/statm",
        "proc/7/cgroup",
        "proc/7/mountinfo",
        "proc/7/net/dev",
        "proc/7/fdinfo/5",
        "proc/7/task/7/stat",
        "proc/7/task/7/status",
        "proc/7/task/7/schedstat",
        "proc/7/task/7/wchan",
        "proc/7/task/7/stack",
        "proc/self/mountinfo",
        "proc/uptime",
        "proc/meminfo",
        "proc/loadavg",
        "proc/pressure/io",
        "sys/class/block/a/stat",
        "sys/class/thermal/thermal_zone0/temp",
        "c/cpu.stat",
        "c/cpu.max",
        "dev/kmsg",
    ];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn any_host_is_read(texts in prop::collection::vec("(7 \\(q\\) R|18446744073709551615 ?|0::/a|1 2 3:4 / /c rw - cgroup2 x rw|\n|;|,|[:0-9] |\\) D|MemTotal: |MemAvailable: |some avg10=|iff: a|flags: 02|[^a]){0,40}", FILES.len())) {
            let tree = tempfile::tempdir().unwrap();
            for (file, text) in FILES.iter().zip(&texts) {
                let path = tree.path().join(file);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            fs::create_dir_all(tree.path().join("proc/7/fd")).unwrap();
            std::os::unix::fs::symlink("/dev/a", tree.path().join("proc/7/fd/5")).unwrap();
            let root = Root::new(tree.path());
            let (open, _) = opened(&root, 7);
            let first = Look::take(&root, 7, &open);
            let mut host = Look::take(&root, 7, &open).since(first, &root, 7);
            machine::fill(&root, &mut host);
            host.log = kernel_log::look(&root).unwrap();
            prop_assert_eq!(Host::read(&host.to_bytes()), Some(host));
        }
    }
}
