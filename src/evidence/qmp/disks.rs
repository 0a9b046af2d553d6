//! The guest's disks as the hypervisor counts them, and what it was told to do with them.
//!
//! Counters count what was completed. What was taken and is not completed only the queues of virtio
//! tell, and only since QEMU 7.2.

use crate::base::limits;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// Disks by their names: the drive's, or else the device's.
pub type Disks = BTreeMap<String, Disk>;

/// One disk at one moment.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Disk {
    /// The device's path in the hypervisor, by which its queues are asked; or its name alone, where the
    /// device is no part of a larger one.
    pub path: Option<String>,
    /// Reads completed.
    pub reads: u64,
    /// Writes and flushes completed.
    pub writes: u64,
    /// Reads, writes and flushes failed. Not discards: many a disk refuses those and is well.
    pub failed: u64,
    /// Whatever came to an end, well or not, discards and what later versions count included.
    pub ended: u64,
    /// Since anything was completed, if the hypervisor tells.
    pub idle: Option<Duration>,
    /// Requests taken and not completed, if the hypervisor tells.
    pub in_flight: Option<u64>,
    /// Some request took at least so long, if the hypervisor was told to keep histograms.
    pub slowest: Option<Duration>,
}

/// What the hypervisor was told of a disk, and what became of it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Drive {
    /// `ok`, `failed` or `nospace`; the latter two until the guest is let go on.
    pub status: Option<String>,
    /// Where its bytes are on the host.
    pub file: Option<String>,
    /// What it may do in a second, by the hypervisor's own names: `bps_wr`, `iops`, ..
    pub limits: BTreeMap<String, u64>,
}

/// Limits that the hypervisor has, of all requests and of either kind.
const LIMITS: [&str; 6] = ["bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"];

/// Histograms that it may have.
const HISTOGRAMS: [&str; 3] =
    ["rd_latency_histogram", "wr_latency_histogram", "flush_latency_histogram"];

/// Reads the reply to `query-blockstats`.
#[must_use]
pub fn disks(blockstats: &Value) -> Disks {
    let all = blockstats.as_array().into_iter().flatten().take(limits::DISKS);
    all.filter_map(disk).collect()
}

/// Reads the reply to `query-block`.
pub(super) fn drives(block: &Value) -> BTreeMap<String, Drive> {
    let all = block.as_array().into_iter().flatten().take(limits::DISKS);
    all.filter_map(|device| Some((name(device)?, drive(device)))).collect()
}

/// The paths of those `disks` whose queues can be asked, from the reply to `x-query-virtio`.
///
/// A device of that kind that is no disk of the hypervisor's own is served by another process. To ask for
/// its queue would stop it: QEMU passes the question on as the vhost-user message GET_VRING_BASE.
#[must_use]
pub fn queued(virtio: &Value, disks: &Disks) -> Vec<String> {
    let all = virtio.as_array().into_iter().flatten();
    let kind = all.filter(|device| text(device, "name") == Some("virtio-blk"));
    let paths = kind.filter_map(|device| text(device, "path"));
    let own = paths.filter(|path| disks.values().any(|disk| disk.is_at(path)));
    own.map(str::to_owned).take(limits::DISKS).collect()
}

/// Adds the reply to `x-query-virtio-queue-status` of one queue of a disk.
pub fn add_queue<'a>(disks: impl Iterator<Item = &'a mut Disk>, path: &str, status: &Value) {
    let number = |key| status.get(key).and_then(Value::as_u64);
    let Some(in_use) = number("inuse") else { return };
    // A count that ran below zero is none.
    if number("vring-num").is_some_and(|size| in_use > size) {
        return;
    }
    for disk in disks.filter(|disk| disk.is_at(path)) {
        disk.in_flight = Some(disk.in_flight.unwrap_or(0).saturating_add(in_use));
    }
}

/// `disk0` of `/machine/peripheral/disk0/virtio-backend`.
#[must_use]
pub fn short(path: &str) -> &str {
    let path = path.strip_suffix("/virtio-backend").unwrap_or(path);
    path.rsplit('/').next().unwrap_or(path)
}

impl Disk {
    fn is_at(&self, path: &str) -> bool {
        let own = self.path.as_deref();
        own == Some(path)
            || own.is_some_and(|own| path.strip_prefix("/machine/peripheral/") == Some(own))
    }

    /// For how long it has completed none of the requests that it had at an `earlier` look already; only
    /// if both looks found some, and none came to an end in between.
    #[must_use]
    pub fn stalled_since(&self, earlier: &Self) -> Option<Duration> {
        let waits = |disk: &Self| disk.in_flight > Some(0);
        let none_ended = self.ended == earlier.ended && self.path == earlier.path;
        let passed = self.idle?.checked_sub(earlier.idle?)?;
        (waits(self) && waits(earlier) && none_ended).then_some(passed)
    }
}

impl Drive {
    /// The limit of bytes a second that lets less than a page through: no program is made for such a disk.
    #[must_use]
    pub fn strangled(&self) -> Option<(&str, u64)> {
        const PAGE: u64 = 4096;
        let bytes = self.limits.iter().filter(|(name, _)| name.starts_with("bps"));
        let small = bytes.filter(|(_, limit)| **limit < PAGE);
        small.map(|(name, limit)| (name.as_str(), *limit)).min_by_key(|(_, limit)| *limit)
    }
}

fn disk(device: &Value) -> Option<(String, Disk)> {
    let stats = device.get("stats")?;
    let count = |key: &str| stats.get(key).and_then(Value::as_u64).unwrap_or(0);
    let sum = |keys: &[&str]| keys.iter().fold(0_u64, |sum, key| sum.saturating_add(count(key)));
    let all = stats.as_object()?.iter().filter(|(key, _)| key.ends_with("_operations"));
    let ended = all.filter_map(|(_, count)| count.as_u64()).fold(0, u64::saturating_add);
    let idle = stats.get("idle_time_ns").and_then(Value::as_u64);
    let disk = Disk {
        path: text(device, "qdev").map(str::to_owned),
        reads: count("rd_operations"),
        writes: sum(&["wr_operations", "flush_operations"]),
        failed: sum(&["failed_rd_operations", "failed_wr_operations", "failed_flush_operations"]),
        ended,
        idle: idle.map(Duration::from_nanos),
        in_flight: None,
        slowest: HISTOGRAMS.iter().filter_map(|key| slowest(stats.get(key)?)).max(),
    };
    Some((name(device)?, disk))
}

fn drive(device: &Value) -> Drive {
    let inserted = device.get("inserted").unwrap_or(&Value::Null);
    let limit = |key: &str| {
        let limit = inserted.get(key)?.as_u64().filter(|limit| *limit > 0)?;
        Some((key.to_owned(), limit))
    };
    Drive {
        status: text(device, "io-status").map(str::to_owned),
        file: text(inserted, "file").map(str::to_owned),
        limits: LIMITS.iter().filter_map(|key| limit(key)).collect(),
    }
}

fn name(device: &Value) -> Option<String> {
    let of_device = text(device, "qdev").map(short);
    let of_node = || text(device, "node-name");
    text(device, "device").or(of_device).or_else(of_node).map(str::to_owned)
}

/// Between `boundaries` there are `bins`, one more than there are boundaries.
fn slowest(histogram: &Value) -> Option<Duration> {
    let list = |key: &str| histogram.get(key).and_then(Value::as_array);
    let last = list("bins")?.iter().rposition(|count| count.as_u64() > Some(0))?;
    let from = list("boundaries")?.get(last.checked_sub(1)?)?.as_u64()?;
    Some(Duration::from_nanos(from))
}

fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key)?.as_str().filter(|text| !text.is_empty())
}
