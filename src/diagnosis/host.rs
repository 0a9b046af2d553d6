//! What the host does to the guest: no CPU, no disk, no space, no memory.
//!
//! One second tells what the host did in that second. So a wait is only believed to be the cause where
//! something else says the same: a limit that is used up, a disk that completes nothing, the host's own log.

use super::life;
use super::say::{count, cpus, list, quoted};
use super::{Blame, Class, Confidence, Finding};
use crate::base::time::Spoken;
use crate::evidence::Evidence;
use crate::evidence::host::{Cgroup, Disk, Host, Image, Said, Thread, Told};
use std::time::Duration;

/// A thread that wants to run for less than this part of the time is mostly idle, in percent.
const WANTS_PERCENT: u64 = 50;

/// A vCPU that gets less than this part of what it wants stands still for every practical purpose, and
/// what its registers show says nothing of the guest, in percent.
const STARVED_PERCENT: u64 = 10;

/// An image grows by clusters of at most so much.
const CLUSTER_BYTES: u64 = 2 * 1024 * 1024;

/// A disk this slow is not well, in microseconds a request.
const SLOW_US: u64 = 500_000;

/// Half of the time: others wait, too.
const PRESSED_PERMILLE: u32 = 500;

/// Facts of a kind; the report has all of them.
const FACTS: usize = 4;

/// Calls of a stack; what is further out is the same for all system calls.
const CALLS: usize = 6;

/// Why the process ended, if the host's kernel tells.
pub(super) fn ended(host: &Host, finding: &mut Finding) {
    let told = host.told();
    let last = told.iter().rfind(|told| matches!(told.said, Said::Killed | Said::Crashed));
    let Some(told) = last else { return };
    if told.said == Said::Crashed {
        finding.subject = "crash".to_owned();
        finding.title = "the hypervisor crashed".to_owned();
    } else {
        finding.subject = "oom-kill".to_owned();
        finding.blame = Blame::Host;
        let by_limit = told.line.contains("Memory cgroup");
        finding.title = if by_limit {
            "the host killed the hypervisor: it came to the memory limit of its control group"
        } else {
            "the host killed the hypervisor, because the host's memory ran out"
        }
        .to_owned();
    }
    finding.facts_for.push(said(told));
}

/// Why a guest's disk failed, if the host shows it.
pub(super) fn disk_failed(host: &Host, finding: &mut Finding) {
    if let Some(image) = full(host) {
        finding.subject = "no-space".to_owned();
        finding.blame = Blame::Host;
        finding.title =
            "the guest is paused, because no space is left on the host for its disk".to_owned();
        finding.facts_for.push(left(image));
    }
    let told = host.told();
    let mut storage = told.iter().filter(|told| told.said == Said::Storage).peekable();
    if storage.peek().is_some() {
        finding.blame = Blame::Host;
    }
    finding.facts_for.extend(storage.take(FACTS).map(said));
}

/// Somebody froze its control group.
pub(super) fn frozen(evidence: &Evidence) -> Option<Finding> {
    let group = evidence.host.as_ref()?.cgroups.iter().find(|group| group.frozen)?;
    let mut finding = Finding::new(Class::VmmStopped, Blame::Vmm, Confidence::High);
    finding.subject = "frozen".to_owned();
    finding.title = "the hypervisor's control group is frozen".to_owned();
    finding.facts_for.push(format!("the host keeps the control group {} frozen", path(group)));
    Some(finding)
}

/// The process, or a thread that runs a CPU of the guest, waits in the host's kernel.
pub(super) fn stuck(evidence: &Evidence) -> Option<Finding> {
    let host = evidence.host.as_ref()?;
    let main =
        host.thread(host.pid).map(|thread| ("the hypervisor's main thread".to_owned(), thread));
    let vcpus = vcpus(evidence).into_iter();
    let vcpus = vcpus.map(|(cpu, thread)| (format!("the thread of the guest's CPU {cpu}"), thread));
    let mut waiting = main.into_iter().chain(vcpus).filter(|(_, thread)| thread.waits_on());
    let (who, thread) = waiting.next()?;
    let told = host.told();
    let hung: Vec<&Told> =
        told.iter().filter(|told| matches!(told.said, Said::Hung | Said::Storage)).collect();
    let stalled = stalled(host);
    let mut finding = Finding::new(Class::VmmStopped, Blame::Host, Confidence::Low);
    finding.confidence = match (stalled.is_empty(), hung.is_empty()) {
        (true, true) => Confidence::Low,
        (false, false) => Confidence::High,
        _ => Confidence::Medium,
    };
    finding.subject = if stalled.is_empty() { "host-wait" } else { "disk-io" }.to_owned();
    finding.title = match host.stalled_disks().next() {
        Some(disk) => format!("{who} waits, and the host's disk {} completes nothing", name(disk)),
        None => format!("{who} waits in the host's kernel"),
    };
    let apart = time(host.sampled_ms);
    finding.facts_for.push(format!(
        "{who} was in state D at two looks, {apart} apart, and did nothing in between"
    ));
    finding.facts_for.extend(waits_in(thread));
    finding.facts_for.extend(stalled);
    finding.facts_for.extend(hung.into_iter().take(FACTS).map(said));
    Some(finding)
}

/// The CPUs of the guest want to run, and the host does not let them.
pub(super) fn starved(evidence: &Evidence) -> Option<Finding> {
    let host = evidence.host.as_ref()?;
    let wanting = wanting(evidence);
    let is_starved = |(_, thread): &&(u32, &Thread)| share(host, thread) < STARVED_PERCENT;
    let starved: Vec<&(u32, &Thread)> = wanting.iter().filter(is_starved).collect();
    starved.first()?;
    let mut finding = Finding::new(Class::VmmStopped, Blame::Host, Confidence::Medium);
    finding.subject = "cpu".to_owned();
    let indices: Vec<u32> = starved.iter().map(|(cpu, _)| *cpu).collect();
    let who = cpus(&indices, life::vcpus(evidence).len());
    finding.title = format!("the host does not let {who} of the guest run");
    let facts = starved.iter().take(FACTS).map(|(cpu, thread)| got(host, *cpu, thread));
    finding.facts_for.extend(facts);
    let throttled = throttled(host);
    let pressed = host.pressure.cpu_permille.is_some_and(|permille| permille >= PRESSED_PERMILLE);
    if starved.len() == wanting.len() && (pressed || !throttled.is_empty()) {
        finding.confidence = Confidence::High;
    }
    finding.facts_for.extend(throttled);
    finding.facts_for.extend(pressure(host));
    let fed = wanting.iter().filter(|(_, thread)| share(host, thread) >= WANTS_PERCENT);
    finding.facts_against.extend(fed.take(FACTS).map(|(cpu, thread)| got(host, *cpu, thread)));
    Some(finding)
}

/// A disk below the guest's does not complete what it is asked, and the guest itself does not tell.
pub(super) fn disk(evidence: &Evidence) -> Option<Finding> {
    let host = evidence.host.as_ref()?;
    let disk = host.stalled_disks().next()?;
    let waiting: Vec<&Thread> = host.threads.iter().filter(|thread| thread.waits_on()).collect();
    let told = host.told();
    let storage: Vec<&Told> = told.iter().filter(|told| told.said == Said::Storage).collect();
    let mut finding = Finding::new(Class::HungTask, Blame::Host, Confidence::Low);
    finding.confidence = match (waiting.is_empty(), storage.is_empty()) {
        (true, true) => Confidence::Low,
        (false, false) => Confidence::High,
        _ => Confidence::Medium,
    };
    finding.subject = "disk-io".to_owned();
    finding.title = format!("the host's disk {} completes nothing", name(disk));
    finding.facts_for.extend(stalled(host));
    if let Some(thread) = waiting.first() {
        let all = count(waiting.len(), "thread");
        finding.facts_for.push(format!("{all} of the hypervisor in state D all the time"));
        finding.facts_for.extend(waits_in(thread));
    }
    finding.facts_for.extend(storage.into_iter().take(FACTS).map(said));
    if finding.confidence == Confidence::Low {
        let unknown = "Not known: whether the requests that wait there are of this guest";
        finding.facts_against.push(unknown.to_owned());
    }
    Some(finding)
}

/// Whose fault it is that a guest's disk does not answer, if the host shows it.
pub(super) fn whose_disk(evidence: &Evidence, finding: &mut Finding) {
    let host = evidence.host.as_ref();
    let stalled = host.map(stalled).unwrap_or_default();
    if !stalled.is_empty() {
        finding.blame = Blame::Host;
        finding.facts_for.extend(stalled);
        return;
    }
    let works = host.iter().flat_map(|host| &host.disks).filter(|disk| disk.completed > 0);
    finding.facts_for.extend(works.take(FACTS).map(completed));
    let unknown = "Not known: whether the guest or the host fails its disk";
    finding.facts_against.push(unknown.to_owned());
}

/// What else of the host may have to do with it, for want of a sure judgement.
pub(super) fn remarks(evidence: &Evidence) -> Vec<String> {
    let Some(host) = &evidence.host else { return Vec::new() };
    let wanting = wanting(evidence);
    let short = wanting.iter().filter(|(_, thread)| share(host, thread) < WANTS_PERCENT);
    let mut remarks: Vec<String> =
        short.take(FACTS).map(|(cpu, thread)| got(host, *cpu, thread)).collect();
    remarks.extend(throttled(host));
    remarks.extend(pressure(host));
    remarks.extend(host.cgroups.iter().filter(|group| group.limit_hits > 0).take(FACTS).map(
        |group| {
            format!(
                "the control group {} came to its memory limit {} times",
                path(group),
                group.limit_hits
            )
        },
    ));
    remarks.extend(stalled(host));
    let slow = |disk: &&Disk| disk.latency_us.is_some_and(|us| us >= SLOW_US);
    remarks.extend(host.disks.iter().filter(slow).take(FACTS).map(completed));
    remarks.extend(full(host).map(left));
    let dropped = host.taps.iter().filter(|tap| tap.between.dropped > 0).take(FACTS);
    remarks.extend(dropped.map(|tap| {
        format!(
            "the guest did not take {} on {}",
            count_of(tap.between.dropped, "packet"),
            quoted(&tap.name)
        )
    }));
    let hot =
        host.zones.iter().filter(|zone| zone.limit_celsius.is_some_and(|c| zone.celsius >= c));
    remarks.extend(hot.take(FACTS).map(|zone| {
        format!("the host is too hot: {} shows {} °C", quoted(&zone.name), zone.celsius)
    }));
    let told = host.told();
    let matters = |told: &&Told| told.said != Said::Named;
    remarks.extend(told.iter().filter(matters).take(FACTS).map(said));
    remarks
}

/// The guest's CPUs and their threads. Where the monitor could not be asked, QEMU may have named them:
/// `CPU 0/KVM`.
fn vcpus(evidence: &Evidence) -> Vec<(u32, &Thread)> {
    let Some(host) = &evidence.host else { return Vec::new() };
    let known = life::vcpus(evidence).iter();
    let known: Vec<(u32, &Thread)> =
        known.filter_map(|cpu| Some((cpu.index, host.thread(cpu.tid?)?))).collect();
    if !known.is_empty() {
        return known;
    }
    let named = |thread: &Thread| {
        let (index, _) = thread.name.strip_prefix("CPU ")?.split_once('/')?;
        index.parse().ok()
    };
    host.threads.iter().filter_map(|thread| Some((named(thread)?, thread))).collect()
}

/// Those that want to run.
fn wanting(evidence: &Evidence) -> Vec<(u32, &Thread)> {
    let Some(host) = &evidence.host else { return Vec::new() };
    let least_ms = host.sampled_ms.saturating_mul(WANTS_PERCENT) / 100;
    let mut vcpus = vcpus(evidence);
    vcpus.retain(|(_, thread)| host.wanted_ms(thread) >= least_ms.max(1));
    vcpus
}

/// What a thread got of the time for which it wanted to run, in percent.
fn share(host: &Host, thread: &Thread) -> u64 {
    thread.cpu_ms.saturating_mul(100).checked_div(host.wanted_ms(thread)).unwrap_or(100)
}

fn got(host: &Host, cpu: u32, thread: &Thread) -> String {
    let (wanted, ran) = (time(host.wanted_ms(thread)), time(thread.cpu_ms));
    format!("CPU {cpu} of the guest was ready to run for {wanted}, and the host let it for {ran}")
}

fn throttled(host: &Host) -> Vec<String> {
    let groups = host.cgroups.iter().filter(|group| group.throttled_periods > 0).take(FACTS);
    let fact = |group: &Cgroup| {
        let limit = group.cpu_percent.map(|percent| format!(", {percent} % of a CPU,"));
        format!(
            "the limit of the control group {}{} was used up in {} of {} periods",
            path(group),
            limit.unwrap_or_default(),
            group.throttled_periods,
            group.periods
        )
    };
    groups.map(fact).collect()
}

fn pressure(host: &Host) -> Option<String> {
    let pressure = host.pressure;
    let pressed = |permille: Option<u32>, what: &str| {
        let permille = permille.filter(|permille| *permille >= PRESSED_PERMILLE)?;
        Some(format!("for {what} in {} % of the last 10 s", permille / 10))
    };
    let all = [
        pressed(pressure.cpu_permille, "a CPU"),
        pressed(pressure.io_full_permille, "I/O"),
        pressed(pressure.memory_full_permille, "memory"),
    ];
    let waits: Vec<String> = all.into_iter().flatten().collect();
    (!waits.is_empty()).then(|| format!("on the host tasks waited {}", list(&waits, waits.len())))
}

fn stalled(host: &Host) -> Vec<String> {
    let fact = |disk: &Disk| {
        format!(
            "the host's disk {} completed nothing in {}, while {} waited",
            name(disk),
            time(host.sampled_ms),
            count_of(disk.in_flight, "request")
        )
    };
    host.stalled_disks().take(FACTS).map(fact).collect()
}

fn completed(disk: &Disk) -> String {
    let took = disk.latency_us.map(|us| format!(", in {} ms each", us / 1000));
    format!(
        "the host's disk {} completed {}{}",
        name(disk),
        count_of(disk.completed, "request"),
        took.unwrap_or_default()
    )
}

/// An image that cannot grow.
fn full(host: &Host) -> Option<&Image> {
    let is_full = |image: &&Image| image.available_bytes.is_some_and(|bytes| bytes < CLUSTER_BYTES);
    host.images.iter().find(is_full)
}

fn left(image: &Image) -> String {
    let left = image.available_bytes.unwrap_or_default() / 1024;
    format!("the file system of {} has {left} KiB left", quoted(&image.path))
}

/// Where a thread waits, and how it came there.
fn waits_in(thread: &Thread) -> Option<String> {
    let calls: Vec<String> = thread.stack.iter().map(|call| quoted(call)).collect();
    match (thread.waits_in.as_str(), calls.is_empty()) {
        ("", true) => None,
        (function, true) => Some(format!("it waits in {}", quoted(function))),
        (_, false) => Some(format!("it waits in {}", list(&calls, CALLS))),
    }
}

fn said(told: &Told) -> String {
    format!("the host's kernel said: {}", quoted(&told.line))
}

fn path(group: &Cgroup) -> String {
    quoted(&group.path)
}

fn name(disk: &Disk) -> String {
    quoted(&disk.name)
}

fn count_of(number: u64, noun: &str) -> String {
    count(usize::try_from(number).unwrap_or(usize::MAX), noun)
}

fn time(ms: u64) -> String {
    Spoken(Duration::from_millis(ms)).to_string()
}
