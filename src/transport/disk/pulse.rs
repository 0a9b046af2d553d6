//! Whether a heartbeat goes on.
//!
//! Judged by our own clock and by nothing that a guest says of its own: a record that is another
//! than at the last look is a beat, whatever is in it. So a guest whose clock jumps, that reboots or
//! whose writer begins anew is no riddle, and a guest that lies can only pretend to live.
//!
//! ```text
//!   no record --------> unknown
//!      |  a record is seen
//!      v
//!   seen once --------> unknown, until `within` has gone by
//!      |  it changes                       |  it does not
//!      v                                   v
//!   beating ---- no change within ----> silent: dead
//!      ^                                   |
//!      +------------- it changes ----------+
//! ```

use super::record::{Beat, Place};
use crate::base::rung::{Finding, Rung};
use crate::base::time::{Instant, Spoken};
use std::time::Duration;

/// What was seen of a heartbeat so far.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    last: [Option<Beat>; 2],
    seen: Seen,
}

#[derive(Clone, Copy, Debug, Default)]
enum Seen {
    #[default]
    Nothing,
    Once {
        at: Instant,
    },
    Beating {
        at: Instant,
        beat: Beat,
    },
}

impl Pulse {
    /// Takes what stands at the two places now.
    pub(super) fn judge(&mut self, places: [Place; 2], within: Duration, now: Instant) -> Finding {
        let beats =
            places.map(|place| if let Place::Beat(beat) = place { Some(beat) } else { None });
        if beats == [None; 2] {
            return Finding::unknown(Rung::Storage, no_record(places));
        }
        self.take(beats, now);
        match self.seen {
            Seen::Beating { at, beat } if now.since(at) <= within => alive(beat, now.since(at)),
            Seen::Beating { at, beat } => dead(beat, now.since(at)),
            Seen::Once { at } if now.since(at) > within => {
                let newest = beats.into_iter().flatten().max_by_key(|beat| beat.time_s);
                newest.map_or_else(|| once(within), |beat| dead(beat, now.since(at)))
            }
            Seen::Nothing | Seen::Once { .. } => once(within),
        }
    }

    fn take(&mut self, beats: [Option<Beat>; 2], now: Instant) {
        // A place that could not be read between two looks tells when it can be read again.
        let changed = (0..2).find_map(|at| {
            beats[at].filter(|beat| self.last[at].is_some_and(|last| last != *beat))
        });
        let first = self.last == [None; 2];
        for (last, beat) in self.last.iter_mut().zip(beats) {
            *last = beat.or(*last);
        }
        match (self.seen, changed) {
            (_, Some(beat)) => self.seen = Seen::Beating { at: now, beat },
            (Seen::Nothing, None) if first => self.seen = Seen::Once { at: now },
            (Seen::Nothing | Seen::Once { .. } | Seen::Beating { .. }, None) => {}
        }
    }
}

fn once(within: Duration) -> Finding {
    let wait = Spoken(within);
    let reason =
        format!("a heartbeat stands on its disk; whether it goes on is known after {wait}");
    Finding::unknown(Rung::Storage, reason)
}

fn alive(beat: Beat, ago: Duration) -> Finding {
    let since = if ago.is_zero() { String::new() } else { format!(", {} ago", Spoken(ago)) };
    Finding::alive(Rung::Storage, format!("its heartbeat reached number {}{since}", beat.sequence))
}

fn dead(beat: Beat, ago: Duration) -> Finding {
    let (number, ago) = (beat.sequence, Spoken(ago));
    let up = Spoken(Duration::from_millis(beat.uptime_ms));
    let reason = format!(
        "its heartbeat stands at number {number} for {ago}; the guest was up for {up} then"
    );
    Finding::dead(Rung::Storage, reason)
}

fn no_record(places: [Place; 2]) -> String {
    let version = places.into_iter().find_map(|place| match place {
        Place::Version(version) => Some(version),
        Place::Blank | Place::Damaged | Place::Beat(_) => None,
    });
    match version {
        Some(version) => format!("its heartbeat is of version {version}, and we know version 1"),
        None if places == [Place::Blank; 2] => {
            "no heartbeat was ever written: does lifesign-heartbeat run in the guest?".to_owned()
        }
        None => "what stands on its disk is no heartbeat: is it the right disk?".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WITHIN: Duration = Duration::from_secs(10);

    fn beat(sequence: u64, boot: u128) -> Place {
        Place::Beat(Beat { sequence, uptime_ms: sequence * 1000, time_s: 1_700_000_000, boot })
    }

    fn story(looks: &[(u64, [Place; 2])]) -> String {
        let mut pulse = Pulse::default();
        let told = looks.iter().map(|(at, places)| {
            let found = pulse.judge(*places, WITHIN, Instant::from_millis(at * 1000));
            format!("{at:>3} s {}: {}", found.answer, found.reason)
        });
        told.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_heart_beats_and_stops_and_beats_again() {
        let told = story(&[
            (0, [Place::Blank, Place::Blank]),
            (1, [beat(2, 1), beat(1, 1)]),
            (2, [beat(2, 1), beat(3, 1)]),
            (10, [beat(2, 1), beat(3, 1)]),
            (13, [beat(2, 1), beat(3, 1)]),
            (20, [beat(4, 1), beat(3, 1)]),
        ]);
        insta::assert_snapshot!(told, @"
         0 s unknown: no heartbeat was ever written: does lifesign-heartbeat run in the guest?
         1 s unknown: a heartbeat stands on its disk; whether it goes on is known after 10.0 s
         2 s alive: its heartbeat reached number 3
        10 s alive: its heartbeat reached number 3, 8.0 s ago
        13 s dead: its heartbeat stands at number 3 for 11.0 s; the guest was up for 3.0 s then
        20 s alive: its heartbeat reached number 4
        ");
    }

    #[test]
    fn one_that_never_moves_is_dead_after_the_time() {
        let still = [beat(2, 1), beat(1, 1)];
        insta::assert_snapshot!(story(&[(0, still), (10, still), (11, still)]), @"
         0 s unknown: a heartbeat stands on its disk; whether it goes on is known after 10.0 s
        10 s unknown: a heartbeat stands on its disk; whether it goes on is known after 10.0 s
        11 s dead: its heartbeat stands at number 1 for 11.0 s; the guest was up for 1.0 s then
        ");
    }

    #[test]
    fn a_guest_that_boots_anew_beats_though_its_numbers_are_smaller() {
        let told = story(&[
            (0, [beat(5000, 1), beat(4999, 1)]),
            (60, [beat(5000, 1), beat(1, 2)]),
            (61, [beat(2, 2), beat(1, 2)]),
        ]);
        insta::assert_snapshot!(told, @"
         0 s unknown: a heartbeat stands on its disk; whether it goes on is known after 10.0 s
        60 s alive: its heartbeat reached number 1
        61 s alive: its heartbeat reached number 2
        ");
    }

    #[test]
    fn torn_records_and_strange_disks() {
        let told = story(&[
            (0, [beat(2, 1), Place::Damaged]),
            (1, [beat(2, 1), beat(3, 1)]),
            (2, [Place::Damaged, beat(3, 1)]),
            (3, [beat(4, 1), beat(3, 1)]),
            (4, [Place::Damaged, Place::Damaged]),
            (5, [Place::Version(2), Place::Damaged]),
            (6, [beat(4, 1), beat(5, 1)]),
        ]);
        insta::assert_snapshot!(told, @"
        0 s unknown: a heartbeat stands on its disk; whether it goes on is known after 10.0 s
        1 s unknown: a heartbeat stands on its disk; whether it goes on is known after 10.0 s
        2 s unknown: a heartbeat stands on its disk; whether it goes on is known after 10.0 s
        3 s alive: its heartbeat reached number 4
        4 s unknown: what stands on its disk is no heartbeat: is it the right disk?
        5 s unknown: its heartbeat is of version 2, and we know version 1
        6 s alive: its heartbeat reached number 5
        ");
    }

    proptest! {
        /// Nobody is called dead who was seen to beat within the time, nor alive who was not.
        #[test]
        fn an_answer_agrees_with_what_was_seen(steps in proptest::collection::vec((0_u64..8, any::<bool>()), 1..40)) {
            let mut pulse = Pulse::default();
            let (mut now, mut sequence, mut beaten, mut first) = (0, 1, None, None);
            for (gap, beats) in steps {
                now += gap;
                let started = first.is_some();
                first = first.or(Some(now));
                if beats && started {
                    sequence += 1;
                    beaten = Some(now);
                }
                let (even, odd) = (sequence / 2 * 2, (sequence - 1) / 2 * 2 + 1);
                let found = pulse.judge([beat(even, 1), beat(odd, 1)], WITHIN, Instant::from_millis(now * 1000));
                let expected = match (beaten, first) {
                    (Some(at), _) if now - at <= 10 => crate::base::rung::Answer::Alive,
                    (Some(_), _) => crate::base::rung::Answer::Dead,
                    (None, Some(at)) if now - at > 10 => crate::base::rung::Answer::Dead,
                    (None, _) => crate::base::rung::Answer::Unknown,
                };
                prop_assert_eq!(found.answer, expected);
            }
        }
    }
}
