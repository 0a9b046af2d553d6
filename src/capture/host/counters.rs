//! Counters of disks and network devices, which are read twice.

use super::root::Root;
use crate::evidence::host::{Disk, Packets, Tap};
use std::collections::{BTreeMap, BTreeSet};

/// A disk at one moment, counted since the host started.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct DiskSample {
    completed: u64,
    waited_ms: u64,
    in_flight: u64,
}

/// These disks.
pub(super) fn disks<'a>(
    root: &Root,
    names: impl Iterator<Item = &'a String>,
) -> BTreeMap<String, DiskSample> {
    let sampled = names.filter_map(|name| {
        let stat = root.text(&format!("/sys/class/block/{name}/stat")).ok()?;
        Some((name.clone(), parse_stat(&stat)?))
    });
    sampled.collect()
}

/// Requests completed, and the time that they took: of reads in the fields 1 and 4, of writes in 5 and
/// 8, of discards in 12 and 15, of flushes in 16 and 17. The last two pairs are newer.
fn parse_stat(stat: &str) -> Option<DiskSample> {
    let fields: Vec<u64> = stat.split_whitespace().map_while(|word| word.parse().ok()).collect();
    let sum = |all: [usize; 4]| {
        let known = all.iter().map(|at| fields.get(*at).copied().unwrap_or_default());
        known.fold(0, u64::saturating_add)
    };
    let (completed, waited_ms) = (sum([0, 4, 11, 15]), sum([3, 7, 14, 16]));
    Some(DiskSample { completed, waited_ms, in_flight: *fields.get(8)? })
}

/// What they did between two looks.
pub(super) fn compare_disks(
    first: &BTreeMap<String, DiskSample>,
    second: BTreeMap<String, DiskSample>,
) -> Vec<Disk> {
    let between = |(name, now): (String, DiskSample)| {
        let then = first.get(&name)?;
        let completed = now.completed.saturating_sub(then.completed);
        let waited_us = now.waited_ms.saturating_sub(then.waited_ms).saturating_mul(1000);
        Some(Disk {
            name,
            completed,
            latency_us: waited_us.checked_div(completed),
            in_flight_before: then.in_flight,
            in_flight: now.in_flight,
        })
    };
    second.into_iter().filter_map(between).collect()
}

/// Packets of these network devices, as the network of a process has them.
pub(super) fn taps(root: &Root, pid: u32, names: &BTreeSet<String>) -> BTreeMap<String, Packets> {
    let table = root.text(&format!("/proc/{pid}/net/dev")).unwrap_or_default();
    let row = |line: &str| {
        let (name, counters) = line.split_once(':')?;
        let name = names.get(name.trim())?;
        let counters: Vec<u64> =
            counters.split_whitespace().map_while(|word| word.parse().ok()).collect();
        // What the host receives is what the guest sent.
        let packets = Packets {
            from_guest: *counters.get(1)?,
            to_guest: *counters.get(9)?,
            dropped: *counters.get(11)?,
        };
        Some((name.clone(), packets))
    };
    table.lines().filter_map(row).collect()
}

/// What went over them between two looks.
pub(super) fn compare_taps(
    root: &Root,
    pid: u32,
    first: &BTreeMap<String, Packets>,
    second: BTreeMap<String, Packets>,
) -> Vec<Tap> {
    // A device of that name in another network than ours would be another one.
    let network = |of: &str| root.link_name(&format!("/proc/{of}/ns/net"));
    let is_ours = network(&pid.to_string()) == network("self");
    let between = |(name, total): (String, Packets)| {
        let then = first.get(&name).unwrap_or(&total);
        let of = format!("/sys/class/net/{name}");
        // Its carrier is not read: that waits for a lock which a sick host may never release.
        let state = root.line(&format!("{of}/operstate")).filter(|_| is_ours);
        let bridge = root.link_name(&format!("{of}/master")).filter(|_| is_ours);
        Tap {
            name,
            state: state.unwrap_or_default(),
            bridge: bridge.unwrap_or_default(),
            total,
            between: Packets {
                from_guest: total.from_guest.saturating_sub(then.from_guest),
                to_guest: total.to_guest.saturating_sub(then.to_guest),
                dropped: total.dropped.saturating_sub(then.dropped),
            },
        }
    };
    second.into_iter().map(between).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_known_by_what_it_completed() {
        let names =
            |name: &str, stat: &str| BTreeMap::from([(name.to_owned(), parse_stat(stat).unwrap())]);
        // Linux 6.18, and what an older one would have said.
        let now = "7113643 224411 265013442 9651204 892277 998500 473882384 2349820 3 514520 \
                   12168528 719094 66 385313920 91615 123840 75888";
        let then = "7113640 224411 265013442 9651204 892270 998500 473882384 2349790 1 514520 \
                    12168528 719094 66 385313920 91615 123840 75888";
        let found = compare_disks(&names("vda", then), names("vda", now));
        let expected = Disk {
            name: "vda".to_owned(),
            completed: 10,
            latency_us: Some(3000),
            in_flight_before: 1,
            in_flight: 3,
        };
        assert_eq!(found, [expected]);
        let old = compare_disks(
            &names("sda", "1 0 8 1 0 0 0 0 0 1 1"),
            names("sda", "3 0 8 5 0 0 0 0 0 1 1"),
        );
        assert_eq!((old[0].completed, old[0].latency_us), (2, Some(2000)));
        let idle = compare_disks(&names("vda", now), names("vda", now));
        assert_eq!((idle[0].completed, idle[0].latency_us), (0, None));
        assert_eq!(parse_stat("rubbish"), None);
    }
}
