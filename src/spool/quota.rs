//! Who must go when the spool is full. No IO.
//!
//! A headline is never dropped: it is small, and it is the word that an incident happened. Bundles go
//! by what they are worth, and of equal ones the oldest goes first:
//!
//! ```text
//!   first to go    those that say again what an older and a younger one of their mark say
//!                  the latest of a mark
//!                  the first of a mark, or one that has none
//!   never          the oldest of all, because what happened first explains most,
//!                  and the newest of all, because it is what somebody is waiting for
//! ```
//!
//! The floors of free bytes and files bind bundles only. They are there so that the device's own work
//! finds room, and 4 KiB of headline do not endanger that. If a floor cannot be reached by dropping our
//! own bundles, then none is dropped: whoever fills the disk must not cost us evidence as well.
//!
//! Too old are only those that say something again. A clock may be wrong by decades: who seems to be of
//! the future, or older by far than what is dropped by age, is not believed to be old.

use super::files::Room;
use super::{Kind, Limits, Mark};
use crate::base::time::Timestamp;
use std::collections::BTreeMap;

/// An age of more than so many times the one that bundles may have is a clock's mistake: those that a
/// correct clock saw grow old went long before.
const ABSURD: u32 = 10;

/// What the decision needs to know of a parcel, oldest first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stored {
    pub(super) sequence: u64,
    pub(super) kind: Kind,
    pub(super) mark: Mark,
    pub(super) size: u64,
    pub(super) since: Timestamp,
}

/// How much a bundle is worth.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Worth {
    Repeat,
    Latest,
    First,
}

/// Why there is no room, whoever goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NoRoom {
    /// What is left is never dropped.
    #[error("the spool is full: {parcels} parcels of {bytes} bytes wait, and none may be dropped")]
    Full {
        /// Bytes on disk.
        bytes: u64,
        /// Parcels on disk.
        parcels: usize,
    },
    /// Others fill the disk.
    #[error(
        "the disk is full: {free} bytes are free, {floor} must stay free; remove what fills it"
    )]
    Disk {
        /// What is free.
        free: u64,
        /// What must stay free.
        floor: u64,
    },
    /// Others have made too many files.
    #[error(
        "the disk is full: it takes {free} more files, and {floor} must stay possible; remove some"
    )]
    Inodes {
        /// How many more there may be.
        free: u64,
        /// How many must stay possible.
        floor: u64,
    },
}

/// The sequence numbers of those that must go before a parcel of `size` is stored.
///
/// `room` is `None` when the disk does not tell; then only our own bounds hold.
pub(super) fn make_room(
    stored: &[Stored],
    (kind, mark, size): (Kind, Mark, u64),
    room: Option<Room>,
    limits: &Limits,
) -> Result<Vec<u64>, NoRoom> {
    let bytes: u64 = stored.iter().map(|s| s.size).sum();
    let is_headline = kind == Kind::Headline;
    let floors = Floors::new(room.filter(|_| !is_headline), limits);
    let incoming = (!is_headline).then_some(mark);
    let mut droppable = by_worth(stored, incoming).into_iter();
    let (mut gone, mut freed) = (Vec::new(), 0);
    loop {
        let own =
            bytes - freed + size <= limits.bytes && stored.len() - gone.len() < limits.parcels;
        let hindered = floors.hinder(size, freed, gone.len() as u64);
        if own && hindered.is_none() {
            return Ok(gone);
        }
        let Some(next) = droppable.next() else {
            let parcels = stored.len();
            let full = NoRoom::Full { bytes, parcels };
            return Err(hindered.filter(|_| own).unwrap_or(full));
        };
        gone.push(next.sequence);
        freed += next.size;
    }
}

/// The sequence numbers of those that are too old.
pub(super) fn too_old(stored: &[Stored], now: Timestamp, limits: &Limits) -> Vec<u64> {
    let most = i64::try_from(limits.age.as_millis()).unwrap_or(i64::MAX);
    let absurd = most.saturating_mul(i64::from(ABSURD));
    let age = |s: &Stored| now.as_millis().saturating_sub(s.since.as_millis());
    let repeats = worths(stored, None).filter(|(_, worth)| *worth == Worth::Repeat);
    let old = repeats.filter(|(s, _)| age(s) > most && age(s) <= absurd);
    old.map(|(s, _)| s.sequence).collect()
}

/// What of the disk is not ours to use up.
struct Floors {
    free: u64,
    floor: u64,
    inodes_free: u64,
    inodes_floor: u64,
}

impl Floors {
    fn new(room: Option<Room>, limits: &Limits) -> Self {
        let Some(room) = room else {
            let (free, floor) = (u64::MAX, 0);
            return Self { free, floor, inodes_free: free, inodes_floor: floor };
        };
        let share = |total: u64| total / 100 * u64::from(limits.free_percent);
        // A disk without a table of files has none to run out of.
        let inodes_free = if room.inodes == 0 { u64::MAX } else { room.inodes_free };
        Self {
            free: room.free,
            floor: share(room.total),
            inodes_free,
            inodes_floor: share(room.inodes),
        }
    }

    /// Which of them would be broken by one more of `size`, once so much was freed.
    fn hinder(&self, size: u64, freed: u64, freed_files: u64) -> Option<NoRoom> {
        let Self { free, floor, inodes_free, inodes_floor } = *self;
        if free.saturating_add(freed) < floor.saturating_add(size) {
            return Some(NoRoom::Disk { free, floor });
        }
        let files = inodes_free.saturating_add(freed_files);
        (files <= inodes_floor).then_some(NoRoom::Inodes { free: inodes_free, floor: inodes_floor })
    }
}

/// Bundles in the order in which they go; `incoming` is the mark of a bundle that is about to be the
/// newest.
fn by_worth(stored: &[Stored], incoming: Option<Mark>) -> Vec<&Stored> {
    let mut bundles: Vec<(&Stored, Worth)> = worths(stored, incoming).collect();
    if incoming.is_none() {
        bundles.pop();
    }
    let mut droppable = bundles.split_off(bundles.len().min(1));
    droppable.sort_by_key(|(_, worth)| *worth);
    droppable.into_iter().map(|(stored, _)| stored).collect()
}

/// What each bundle is worth, oldest first.
fn worths(
    stored: &[Stored],
    incoming: Option<Mark>,
) -> impl Iterator<Item = (&Stored, Worth)> + '_ {
    let bundles = || stored.iter().filter(|s| s.kind == Kind::Bundle);
    let mut ends: BTreeMap<Mark, (u64, u64)> = BTreeMap::new();
    for s in bundles().filter(|s| s.mark.is_known()) {
        ends.entry(s.mark).or_insert((s.sequence, s.sequence)).1 = s.sequence;
    }
    bundles().map(move |s| {
        let worth = match ends.get(&s.mark) {
            Some((first, _)) if *first != s.sequence => {
                let is_latest = ends[&s.mark].1 == s.sequence && incoming != Some(s.mark);
                if is_latest { Worth::Latest } else { Worth::Repeat }
            }
            Some(_) | None => Worth::First,
        };
        (s, worth)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    const LIMITS: Limits = Limits {
        bytes: 100,
        parcels: 4,
        held_bytes: 0,
        free_percent: 10,
        age: Duration::from_secs(1000),
    };
    const MANY: Limits = Limits { parcels: 100, ..LIMITS };
    const NONE: Mark = Mark([0; 7]);

    /// Bundles by size and mark, one a second.
    fn marked(of: &[(u64, &str)]) -> Vec<Stored> {
        let stored = |(i, (size, mark)): (usize, &(u64, &str))| Stored {
            sequence: i as u64,
            kind: Kind::Bundle,
            mark: Mark::of(mark),
            size: *size,
            since: Timestamp::from_millis(i as i64 * 1000),
        };
        of.iter().enumerate().map(stored).collect()
    }

    fn bundles(sizes: &[u64]) -> Vec<Stored> {
        marked(&sizes.iter().map(|size| (*size, "")).collect::<Vec<_>>())
    }

    fn room(free: u64) -> Option<Room> {
        Some(Room { free, total: 1000, inodes_free: 0, inodes: 0 })
    }

    #[test]
    fn the_oldest_but_one_goes() {
        let go = |sizes: &[u64], size| {
            make_room(&bundles(sizes), (Kind::Bundle, NONE, size), room(1000), &LIMITS)
        };
        assert_eq!(go(&[30, 30], 40), Ok(vec![]));
        assert_eq!(go(&[30, 30], 41), Ok(vec![1]));
        assert_eq!(go(&[1, 1, 1, 1], 1), Ok(vec![1]));
        let headline = make_room(&bundles(&[50, 50]), (Kind::Headline, NONE, 4), None, &LIMITS);
        assert_eq!(headline, Err(NoRoom::Full { bytes: 100, parcels: 2 }));
        assert_eq!(go(&[60], 41), Err(NoRoom::Full { bytes: 60, parcels: 1 }));
    }

    #[test]
    fn repeats_go_first_and_the_first_and_the_latest_last() {
        let stored =
            marked(&[(10, "a"), (10, "b"), (10, "c"), (10, "b"), (10, "a"), (10, "b"), (10, "b")]);
        let go = |mark, size| make_room(&stored, (Kind::Bundle, mark, size), None, &MANY);
        assert_eq!(go(NONE, 30), Ok(vec![]));
        assert_eq!(go(NONE, 40), Ok(vec![3]));
        assert_eq!(go(NONE, 50), Ok(vec![3, 5]));
        assert_eq!(go(NONE, 60), Ok(vec![3, 5, 4]), "then the latest, oldest first");
        assert_eq!(go(NONE, 80), Ok(vec![3, 5, 4, 6, 1]), "then the first");
        assert_eq!(go(Mark::of("b"), 60), Ok(vec![3, 5, 6]), "the latest is about to come in");
        let headline = make_room(&stored, (Kind::Headline, NONE, 60), None, &MANY);
        assert_eq!(headline, Ok(vec![3, 5, 4]), "and for a headline the newest stays");
    }

    #[test]
    fn headlines_stay_and_may_use_the_last_of_the_disk() {
        let mut headline = bundles(&[4])[0];
        headline.kind = Kind::Headline;
        let incoming = (Kind::Headline, NONE, 4);
        let full = make_room(&[headline; 4], incoming, room(1000), &LIMITS);
        assert_eq!(full, Err(NoRoom::Full { bytes: 16, parcels: 4 }));
        assert_eq!(make_room(&[headline; 3], incoming, room(0), &LIMITS), Ok(vec![]));
    }

    #[test]
    fn nothing_is_dropped_for_a_floor_that_others_broke() {
        let at = |room| make_room(&bundles(&[20, 20, 20]), (Kind::Bundle, NONE, 10), room, &LIMITS);
        assert_eq!(at(room(110)), Ok(vec![]));
        assert_eq!(at(room(100)), Ok(vec![1]));
        assert_eq!(at(room(69)), Err(NoRoom::Disk { free: 69, floor: 100 }));
        let files = |inodes_free| Some(Room { inodes_free, inodes: 1000, ..room(1000).unwrap() });
        assert_eq!(at(files(101)), Ok(vec![]));
        assert_eq!(at(files(100)), Ok(vec![1]));
        assert_eq!(at(files(98)), Err(NoRoom::Inodes { free: 98, floor: 100 }));
    }

    #[test]
    fn what_is_old_goes_if_it_says_nothing_new_and_the_clock_can_be_believed() {
        let stored = marked(&[(1, "a"), (1, "a"), (1, "a"), (1, "b"), (1, "")]);
        let old = |secs: i64| too_old(&stored, Timestamp::from_millis(secs * 1000), &LIMITS);
        assert_eq!(old(1001), [0; 0]);
        assert_eq!(old(1002), [1]);
        assert_eq!(old(10_001), [1]);
        assert_eq!(old(10_002), [0; 0], "a clock in 2106");
        assert_eq!(old(-1), [0; 0], "a clock in 1970");
        assert_eq!(too_old(&stored, Timestamp::from_millis(i64::MIN), &LIMITS), [0; 0]);
    }

    proptest! {
        #[test]
        fn whoever_goes_is_a_bundle_and_worth_no_more_than_who_stays(
            of in proptest::collection::vec((0..40u64, 0..4usize, proptest::bool::ANY), 0..12),
            size in 1..60u64,
        ) {
            let marks = ["", "a", "b", "c"];
            let texts: Vec<(u64, &str)> = of.iter().map(|(s, m, _)| (*s, marks[*m])).collect();
            let mut stored = marked(&texts);
            for (s, (.., headline)) in stored.iter_mut().zip(&of) {
                s.kind = if *headline { Kind::Headline } else { Kind::Bundle };
            }
            let Ok(gone) = make_room(&stored, (Kind::Bundle, Mark::of("a"), size), None, &MANY)
            else { return Ok(()) };
            let worth: BTreeMap<u64, Worth> =
                worths(&stored, Some(Mark::of("a"))).map(|(s, w)| (s.sequence, w)).collect();
            let oldest = worth.keys().next().copied();
            let stays = worth.iter().filter(|(s, _)| !gone.contains(s) && Some(**s) != oldest);
            let least = stays.map(|(_, worth)| *worth).min();
            prop_assert!(gone.iter().all(|s| Some(worth[s]) <= least.or(Some(Worth::First))));
            let left: u64 =
                stored.iter().filter(|s| !gone.contains(&s.sequence)).map(|s| s.size).sum();
            prop_assert!(left + size <= MANY.bytes);
        }
    }
}
