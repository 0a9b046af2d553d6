//! Disks that the host does not serve, as the hypervisor's own counters prove it.
//!
//! A request that the hypervisor took and has not completed is no longer in the guest's hands. So a disk
//! that had some at two looks and completed none between them is stalled by the host, whatever the guest
//! did; how long the looks are apart the hypervisor's own clock tells, which stands still with the host.

use super::say::{count, quoted};
use super::{Blame, Class, Confidence, Finding, memory, task};
use crate::evidence::Evidence;
use crate::evidence::qmp::Qmp;
use crate::evidence::qmp::disks::{Disk, Drive};
use crate::evidence::qmp::machine::{Event, What};
use std::time::Duration;

/// What tasks wait for, whoever is to blame.
const SUBJECT: &str = "disk-io";

/// Facts about single events.
const FACTS: usize = 4;

/// Storage may well take a second, and a card that erases several.
const LONG: Duration = Duration::from_secs(10);

/// Where a limit explains it, two looks of one capture are enough.
const SHORT: Duration = Duration::from_millis(500);

/// One disk that completes nothing.
struct Stall<'a> {
    disk: &'a str,
    requests: u64,
    lasts: Duration,
    limit: Option<(&'a str, u64)>,
}

/// The host has requests of the guest and does not complete them.
pub(super) fn stalled(evidence: &Evidence) -> Option<Finding> {
    let mut stalls = stalls(evidence.qmp.as_ref()?);
    stalls.retain(|stall| stall.lasts >= LONG || stall.limit.is_some());
    let longest = stalls.iter().max_by_key(|stall| stall.lasts)?;
    let waiters = memory::disk(evidence).or_else(|| task::hung(evidence));
    let mut finding = waiters.filter(|finding| finding.subject == SUBJECT).unwrap_or_else(|| {
        let mut finding = Finding::new(Class::HungTask, Blame::Vmm, Confidence::High);
        finding.subject = SUBJECT.to_owned();
        finding
    });
    let (disk, seconds) = (quoted(longest.disk), longest.lasts.as_secs());
    finding.title = match longest.limit {
        Some((_, limit)) => {
            format!("the host lets {} a second through to the disk {disk}", bytes(limit))
        }
        None => format!("the host completes nothing of the disk {disk}, for {seconds} s"),
    };
    finding.blame = Blame::Vmm;
    finding.confidence = Confidence::High;
    let said: Vec<String> = stalls.iter().flat_map(Stall::said).collect();
    finding.facts_for.retain(|fact| !said.contains(fact));
    finding.facts_for.splice(..0, said);
    finding.facts_against.retain(|fact| !fact.starts_with("Not known: whether the guest or the"));
    Some(finding)
}

/// What the hypervisor has of what tasks wait for, where that proves nothing by itself.
pub(super) fn unanswered(evidence: &Evidence) -> Vec<String> {
    let Some(qmp) = &evidence.qmp else { return Vec::new() };
    let last = qmp.disks.values().filter_map(|looks| looks.last());
    let mut used = last.filter(|disk| disk.idle.is_some()).peekable();
    let none = used.peek().is_some() && used.all(|disk| disk.in_flight == Some(0));
    if none {
        return vec!["the hypervisor has no unanswered request of any disk".to_owned()];
    }
    stalls(qmp).iter().flat_map(Stall::said).collect()
}

/// The host fails requests of the guest.
pub(super) fn fails(evidence: &Evidence) -> Option<Finding> {
    let qmp = evidence.qmp.as_ref()?;
    let failing = qmp.disks.iter().filter_map(|(name, looks)| Some((name, failed_between(looks)?)));
    let failing: Vec<(&String, u64)> = failing.collect();
    let told: Vec<(&String, String)> = qmp.events.iter().filter_map(told).collect();
    let most = failing.iter().max_by_key(|(_, failed)| *failed).map(|(disk, _)| *disk);
    let disk = most.or_else(|| told.first().map(|(disk, _)| *disk))?;
    let mut finding = Finding::new(Class::HungTask, Blame::Vmm, Confidence::Medium);
    finding.subject = "disk-error".to_owned();
    finding.title = format!("the host fails what the disk {} is asked for", quoted(disk));
    finding.facts_for.extend(failing.iter().map(|(name, failed)| {
        let failed = count(usize::try_from(*failed).unwrap_or(usize::MAX), "request");
        format!("the hypervisor failed {failed} of the disk {} between two looks", quoted(name))
    }));
    finding.facts_for.extend(told.into_iter().map(|(_, said)| said).take(FACTS));
    Some(finding)
}

/// That a request failed while the monitor was listened to.
fn told(event: &Event) -> Option<(&String, String)> {
    let What::DiskError { disk, operation, reason, .. } = &event.what else { return None };
    let [name, operation, reason] = [disk, operation, reason].map(|word| quoted(word));
    Some((
        disk,
        format!("the hypervisor told that a {operation} of the disk {name} failed: {reason}"),
    ))
}

/// What the hypervisor says of disks for which it stopped the guest.
pub(super) fn stopped_for(qmp: &Qmp) -> impl Iterator<Item = String> {
    qmp.drives.iter().filter_map(|(name, drive)| {
        let why = match drive.status.as_deref()? {
            "nospace" => "the host has no space left for it",
            "failed" => "the host failed a request",
            _ => return None,
        };
        Some(format!("of the disk {} the hypervisor says: {why}", quoted(name)))
    })
}

fn stalls(qmp: &Qmp) -> Vec<Stall<'_>> {
    let stall = |disk: &'_ String, looks: &[Disk]| {
        let (last, earlier) = looks.split_last()?;
        let lasts = earlier.iter().filter_map(|look| last.stalled_since(look)).max()?;
        let limit = qmp.drives.get(disk).and_then(Drive::strangled);
        (lasts >= SHORT).then_some((last.in_flight?, lasts, limit))
    };
    let all = qmp.disks.iter().filter_map(|(disk, looks)| Some((disk, stall(disk, looks)?)));
    all.map(|(disk, (requests, lasts, limit))| Stall { disk, requests, lasts, limit }).collect()
}

fn failed_between(looks: &[Disk]) -> Option<u64> {
    let (first, last) = (looks.first()?, looks.last()?);
    // Fewer than before are those of another process.
    last.failed.checked_sub(first.failed).filter(|failed| *failed > 0 && last.ended > first.ended)
}

fn bytes(number: u64) -> String {
    count(usize::try_from(number).unwrap_or(usize::MAX), "byte")
}

impl Stall<'_> {
    fn said(&self) -> Vec<String> {
        let disk = quoted(self.disk);
        let requests = count(usize::try_from(self.requests).unwrap_or(usize::MAX), "request");
        let tenths = self.lasts.as_millis() / 100;
        let seconds = format!("{}.{}", tenths / 10, tenths % 10);
        let mut said = vec![format!(
            "the hypervisor has {requests} of the disk {disk} and completed none for {seconds} s"
        )];
        said.extend(self.limit.map(|(name, limit)| {
            format!("it was told to let {} a second through ({name})", bytes(limit))
        }));
        said
    }
}
