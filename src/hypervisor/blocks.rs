//! A guest's disks as the hypervisor counts them: do writes go on, does something hang?
//!
//! Pure: judges over time what the monitor replied. Counters count what was completed,
//! so a write that goes on reached the host's storage. It proves no process, though: a kernel writes
//! by itself what processes left to it, for half a minute after they died.
//!
//! ```text
//!   requests fail                                     dead
//!   requests in flight, none completed for `within`   dead
//!   a write completed within `within`                 alive
//!   no write for longer, and writes are demanded      dead
//!   no write, and nobody asks for any                 unknown: an idle guest is not a dead one
//! ```

use crate::base::rung::{Finding, Rung};
use crate::base::time::{Instant, Spoken};
use crate::evidence::qmp::disks::{Disk, Disks, short};
use std::collections::BTreeMap;
use std::time::Duration;

/// What a scenario wants of the disks.
#[derive(Clone, Debug)]
pub struct Demand<'a> {
    /// Of this disk alone, by its name or its device's; else of any.
    pub disk: Option<&'a str>,
    /// How long may pass.
    pub within: Duration,
    /// Whether a guest that does not write is dead; else it is only idle.
    pub writes: bool,
}

/// What was seen of a guest's disks so far.
#[derive(Debug, Default)]
pub struct Progress {
    seen: BTreeMap<String, Seen>,
}

/// One disk over time.
#[derive(Clone, Debug)]
struct Seen {
    last: Disk,
    /// Since when its silence counts: since it is watched, or longer if the hypervisor knows of a
    /// longer one.
    first: Instant,
    wrote: Option<Instant>,
    failed: Option<Instant>,
    pending: Option<Instant>,
}

impl Progress {
    /// Takes what is counted now, and says what has become of the disks.
    pub fn judge(&mut self, disks: &Disks, demand: &Demand<'_>, now: Instant) -> Finding {
        self.take(disks, now);
        let wanted = |name: &str, seen: &Seen| {
            let device = seen.last.path.as_deref().map(short);
            demand.disk.is_none_or(|disk| disk == name || Some(disk) == device)
        };
        let seen = self.seen.iter().filter(|(name, seen)| wanted(name, seen));
        let seen: Vec<(&str, &Seen)> = seen.map(|(name, seen)| (name.as_str(), seen)).collect();
        if seen.is_empty() {
            return Finding::unknown(Rung::Storage, missing(disks, demand));
        }
        failing(&seen, demand.within, now)
            .or_else(|| hanging(&seen, demand.within, now))
            .or_else(|| writing(&seen, demand.within, now))
            .unwrap_or_else(|| silent(&seen, demand, now))
    }

    /// The guest booted or was held: neither what it wrote before nor its silence tells anything.
    pub fn begin_anew(&mut self, now: Instant) {
        for seen in self.seen.values_mut() {
            let last = std::mem::take(&mut seen.last);
            *seen = Seen { last, first: now, wrote: None, failed: None, pending: None };
        }
    }

    fn take(&mut self, disks: &Disks, now: Instant) {
        self.seen.retain(|name, _| disks.contains_key(name));
        for (name, disk) in disks {
            match self.seen.get_mut(name) {
                Some(seen) if !seen.began_anew(disk) => seen.take(disk, now),
                Some(_) | None => {
                    self.seen.insert(name.clone(), Seen::first(disk, now));
                }
            }
        }
    }
}

impl Seen {
    fn first(disk: &Disk, now: Instant) -> Self {
        let pending = (disk.in_flight > Some(0)).then_some(now);
        // Counters of a guest that has just begun stand at nothing, and its disk was never used.
        let silent = disk.idle.filter(|_| disk.writes > 0).unwrap_or_default();
        Self { last: disk.clone(), first: now - silent, wrote: None, failed: None, pending }
    }

    /// Counters only grow, until another process counts.
    fn began_anew(&self, disk: &Disk) -> bool {
        let last = &self.last;
        disk.reads < last.reads || disk.writes < last.writes || disk.failed < last.failed
    }

    fn take(&mut self, disk: &Disk, now: Instant) {
        let wrote = disk.writes > self.last.writes;
        let completed = wrote || disk.reads > self.last.reads || disk.failed > self.last.failed;
        if wrote {
            // No later than when anything was completed.
            let wrote = now - disk.idle.unwrap_or_default();
            self.wrote = Some(wrote).filter(|wrote| *wrote >= self.first).or(self.wrote);
        }
        if disk.failed > self.last.failed {
            self.failed = Some(now);
        } else if wrote {
            self.failed = None;
        }
        self.pending = match self.pending {
            _ if disk.in_flight.unwrap_or(0) == 0 => None,
            Some(since) if !completed => Some(since),
            Some(_) | None => Some(now),
        };
        self.last = disk.clone();
    }

    fn silence(&self, now: Instant) -> Duration {
        now.since(self.wrote.unwrap_or(self.first))
    }
}

fn missing(disks: &Disks, demand: &Demand<'_>) -> String {
    let names: Vec<String> = disks.keys().map(|name| format!("`{name}`")).collect();
    match demand.disk {
        Some(disk) if !names.is_empty() => {
            format!("it has no disk `{disk}`; it has {}", names.join(", "))
        }
        Some(_) | None => "it has no disk that is counted".to_owned(),
    }
}

fn failing(seen: &[(&str, &Seen)], within: Duration, now: Instant) -> Option<Finding> {
    seen.iter().find_map(|(name, seen)| {
        let since = now.since(seen.failed?);
        let (failed, ago) = (seen.last.failed, ago(since));
        let reason = format!("`{name}` failed a request {ago}, {failed} so far");
        (since <= within).then(|| Finding::dead(Rung::Storage, reason))
    })
}

fn hanging(seen: &[(&str, &Seen)], within: Duration, now: Instant) -> Option<Finding> {
    seen.iter().find_map(|(name, seen)| {
        let since = now.since(seen.pending?);
        let (requests, said) = (seen.last.in_flight.unwrap_or(0), Spoken(since));
        let reason = format!("`{name}` completes none of {requests} requests in flight for {said}");
        (since >= within).then(|| Finding::dead(Rung::Storage, reason))
    })
}

fn writing(seen: &[(&str, &Seen)], within: Duration, now: Instant) -> Option<Finding> {
    let wrote = seen.iter().filter_map(|(name, seen)| Some((name, now.since(seen.wrote?))));
    let (name, since) = wrote.min_by_key(|(_, since)| *since)?;
    let reason = format!("`{name}` completed a write {}", ago(since));
    (since <= within).then(|| Finding::alive(Rung::Storage, reason))
}

fn silent(seen: &[(&str, &Seen)], demand: &Demand<'_>, now: Instant) -> Finding {
    let silence = seen.iter().map(|(_, seen)| seen.silence(now)).min().unwrap_or_default();
    if demand.writes && silence > demand.within {
        let reason = format!("no disk completed a write for {}", Spoken(silence));
        return Finding::dead(Rung::Storage, reason);
    }
    Finding::unknown(Rung::Storage, idle(seen, silence, now))
}

fn idle(seen: &[(&str, &Seen)], silence: Duration, now: Instant) -> String {
    let pending = seen.iter().find_map(|(name, seen)| Some((name, seen, seen.pending?)));
    if let Some((name, seen, since)) = pending {
        let (requests, said) = (seen.last.in_flight.unwrap_or(0), Spoken(now.since(since)));
        return format!("`{name}` has {requests} requests in flight, so far for {said}");
    }
    if silence.is_zero() {
        return "its disks were looked at for the first time".to_owned();
    }
    if seen.iter().any(|(_, seen)| seen.last.in_flight.is_none()) {
        let said = Spoken(silence);
        return format!(
            "no disk completed a write for {said}; whether it was asked for one is not known"
        );
    }
    "its disks are idle: no write was asked of them".to_owned()
}

/// A count that grew since the last look did so at a time that is not known better.
fn ago(since: Duration) -> String {
    if since.is_zero() {
        "since the last look".to_owned()
    } else {
        format!("{} ago", Spoken(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rung::Answer;
    use proptest::prelude::*;

    const WITHIN: Duration = Duration::from_secs(30);

    fn demand(writes: bool) -> Demand<'static> {
        Demand { disk: None, within: WITHIN, writes }
    }

    fn one(reads: u64, writes: u64, failed: u64, in_flight: Option<u64>) -> Disks {
        let path = Some("/machine/peripheral/vda/virtio-backend".to_owned());
        let disk = Disk { path, reads, writes, failed, in_flight, ..Disk::default() };
        BTreeMap::from([("drive-vda".to_owned(), disk)])
    }

    fn story(demand: &Demand<'_>, looks: &[(u64, Disks)]) -> String {
        let mut progress = Progress::default();
        let told = looks.iter().map(|(at, disks)| {
            let found = progress.judge(disks, demand, Instant::from_millis(at * 1000));
            format!("{at:>3} s {}: {}", found.answer, found.reason)
        });
        told.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_disk_writes_and_rests() {
        let looks = [
            (0, one(1, 1, 0, Some(0))),
            (10, one(1, 2, 0, Some(0))),
            (40, one(9, 2, 0, Some(0))),
            (41, one(9, 2, 0, Some(0))),
            (99, one(9, 2, 0, Some(0))),
        ];
        insta::assert_snapshot!(story(&demand(false), &looks), @"
         0 s unknown: its disks were looked at for the first time
        10 s alive: `drive-vda` completed a write since the last look
        40 s alive: `drive-vda` completed a write 30.0 s ago
        41 s unknown: its disks are idle: no write was asked of them
        99 s unknown: its disks are idle: no write was asked of them
        ");
        insta::assert_snapshot!(story(&demand(true), &looks), @"
         0 s unknown: its disks were looked at for the first time
        10 s alive: `drive-vda` completed a write since the last look
        40 s alive: `drive-vda` completed a write 30.0 s ago
        41 s dead: no disk completed a write for 31.0 s
        99 s dead: no disk completed a write for 1 min 29 s
        ");
    }

    #[test]
    fn who_was_paused_did_not_fail_to_write() {
        let mut progress = Progress::default();
        let at = |seconds: u64| Instant::from_millis(seconds * 1000);
        let mut told = |seconds, disks| progress.judge(&disks, &demand(true), at(seconds)).answer;
        assert_eq!(told(0, one(1, 1, 0, Some(1))), Answer::Unknown);
        assert_eq!(told(40, one(1, 1, 0, Some(1))), Answer::Dead);
        progress.begin_anew(at(3_600));
        let mut told = |seconds, disks| progress.judge(&disks, &demand(true), at(seconds)).answer;
        assert_eq!(told(3_610, one(1, 1, 0, Some(1))), Answer::Unknown);
        assert_eq!(told(3_620, one(1, 2, 0, Some(0))), Answer::Alive);
        assert_eq!(told(3_651, one(1, 2, 0, Some(0))), Answer::Dead);
    }

    #[test]
    fn requests_hang() {
        let looks = [
            (0, one(1, 1, 0, Some(1))),
            (10, one(1, 2, 0, Some(3))),
            (39, one(1, 2, 0, Some(3))),
            (40, one(1, 2, 0, Some(7))),
            (41, one(2, 2, 0, Some(6))),
            (42, one(8, 2, 0, Some(0))),
        ];
        insta::assert_snapshot!(story(&demand(false), &looks), @"
         0 s unknown: `drive-vda` has 1 requests in flight, so far for 0 ms
        10 s alive: `drive-vda` completed a write since the last look
        39 s alive: `drive-vda` completed a write 29.0 s ago
        40 s dead: `drive-vda` completes none of 7 requests in flight for 30.0 s
        41 s unknown: `drive-vda` has 6 requests in flight, so far for 0 ms
        42 s unknown: its disks are idle: no write was asked of them
        ");
    }

    #[test]
    fn requests_fail() {
        let looks = [
            (0, one(1, 1, 5, None)),
            (10, one(1, 2, 5, None)),
            (20, one(1, 2, 6, None)),
            (30, one(1, 2, 6, None)),
            (40, one(1, 3, 6, None)),
        ];
        insta::assert_snapshot!(story(&demand(false), &looks), @"
         0 s unknown: its disks were looked at for the first time
        10 s alive: `drive-vda` completed a write since the last look
        20 s dead: `drive-vda` failed a request since the last look, 6 so far
        30 s dead: `drive-vda` failed a request 10.0 s ago, 6 so far
        40 s alive: `drive-vda` completed a write since the last look
        ");
    }

    #[test]
    fn another_process_counts_anew() {
        let looks = [(0, one(9, 9, 9, None)), (10, one(1, 1, 0, None)), (20, one(1, 2, 0, None))];
        insta::assert_snapshot!(story(&demand(true), &looks), @"
         0 s unknown: its disks were looked at for the first time
        10 s unknown: its disks were looked at for the first time
        20 s alive: `drive-vda` completed a write since the last look
        ");
    }

    #[test]
    fn a_silence_that_the_hypervisor_knows_counts_from_the_first_look() {
        let mut disks = one(9, 9, 0, None);
        let slept = |disks: &mut Disks, s| {
            disks.values_mut().for_each(|disk| disk.idle = Some(Duration::from_secs(s)));
        };
        slept(&mut disks, 300);
        assert!(story(&demand(true), &[(400, disks.clone())]).contains("dead"));
        assert!(story(&demand(false), &[(400, disks.clone())]).contains("unknown"));
        slept(&mut disks, 3);
        assert!(story(&demand(true), &[(400, disks)]).contains("unknown"));
    }

    #[test]
    fn a_guest_that_was_held_has_its_time_again() {
        let idle = |writes, s| {
            let mut disks = one(9, writes, 0, Some(0));
            disks.values_mut().for_each(|disk| disk.idle = Some(Duration::from_secs(s)));
            disks
        };
        let mut progress = Progress::default();
        let mut told = |disks: &Disks, s: u64, anew: bool| {
            let now = Instant::from_millis(s * 1000);
            let found = progress.judge(disks, &demand(true), now);
            if anew {
                progress.begin_anew(now);
            }
            format!("{s:>3} s {}: {}", found.answer, found.reason)
        };
        let told = [
            told(&idle(7, 1), 100, false),
            told(&idle(9, 1), 110, false),
            // It is paused, with a write that was not seen.
            told(&idle(9, 91), 200, true),
            told(&idle(10, 92), 203, false),
            told(&idle(10, 119), 229, false),
            told(&idle(11, 1), 231, false),
            told(&idle(11, 41), 271, false),
        ];
        insta::assert_snapshot!(told.join("\n"), @"
        100 s unknown: its disks are idle: no write was asked of them
        110 s alive: `drive-vda` completed a write 1.0 s ago
        200 s dead: no disk completed a write for 1 min 31 s
        203 s unknown: its disks are idle: no write was asked of them
        229 s unknown: its disks are idle: no write was asked of them
        231 s alive: `drive-vda` completed a write 1.0 s ago
        271 s dead: no disk completed a write for 41.0 s
        ");
    }

    #[test]
    fn one_disk_of_many_is_meant() {
        let asked = |disk, disks: &Disks| {
            let demand = Demand { disk: Some(disk), within: WITHIN, writes: true };
            Progress::default().judge(disks, &demand, Instant::from_millis(0)).reason
        };
        let disks = one(1, 1, 0, None);
        assert_eq!(asked("drive-vda", &disks), asked("vda", &disks));
        assert_eq!(asked("vdb", &disks), "it has no disk `vdb`; it has `drive-vda`");
        assert_eq!(asked("vdb", &Disks::new()), "it has no disk that is counted");
    }

    proptest! {
        /// Without failures, without a hang and without a demand nobody is ever called dead; and
        /// alive only who wrote since the last look or within the time.
        #[test]
        fn idle_is_never_dead(steps in proptest::collection::vec((1_u64..60, 0_u64..2, 0_u64..2), 1..40)) {
            let mut progress = Progress::default();
            let (mut now, mut reads, mut writes, mut wrote) = (0, 0, 0, None);
            for (at, (gap, read, write)) in steps.into_iter().enumerate() {
                now += gap;
                reads += read;
                writes += write;
                if write > 0 && at > 0 {
                    wrote = Some(now);
                }
                let found = progress.judge(&one(reads, writes, 0, Some(0)), &demand(false), Instant::from_millis(now * 1000));
                let alive = wrote.is_some_and(|wrote| now - wrote <= 30);
                prop_assert_eq!(found.answer, if alive { Answer::Alive } else { Answer::Unknown });
            }
        }
    }
}
