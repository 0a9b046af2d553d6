//! Who must go when the spool is full. No IO.
//!
//! A headline is never dropped: it is small, and it is the word that an incident happened. Of the
//! bundles the oldest stays, because what happened first explains most, and the newest stays,
//! because it is what somebody is waiting for: the oldest but one goes.
//!
//! The floor of free disk space binds bundles only. It is there so that the device's own work finds
//! room, and 4 KiB of headline do not endanger that. If the floor cannot be reached by dropping our
//! own bundles, then none is dropped: whoever fills the disk must not cost us evidence as well.

use super::files::Room;
use super::{Kind, Limits};

/// What the decision needs to know of a parcel on disk, oldest first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stored {
    pub(super) sequence: u64,
    pub(super) kind: Kind,
    pub(super) size: u64,
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
}

/// The sequence numbers of those that must go before a parcel of `size` is stored.
///
/// `room` is `None` when the disk does not tell; then only our own bounds hold.
pub(super) fn make_room(
    stored: &[Stored],
    (kind, size): (Kind, u64),
    room: Option<Room>,
    limits: &Limits,
) -> Result<Vec<u64>, NoRoom> {
    let bytes: u64 = stored.iter().map(|s| s.size).sum();
    let floor = room.map_or(0, |room| room.total / 100 * u64::from(limits.free_percent));
    let free = room.map_or(u64::MAX, |room| room.free);
    let bundles = stored.iter().filter(|s| s.kind == Kind::Bundle);
    // The newest is the parcel that comes in, unless that is a headline.
    let kept_last = usize::from(kind == Kind::Headline);
    let count = bundles.clone().count().saturating_sub(kept_last);
    let mut droppable = bundles.take(count).skip(1);
    let (mut gone, mut freed) = (Vec::new(), 0);
    loop {
        let own =
            bytes - freed + size <= limits.bytes && stored.len() - gone.len() < limits.parcels;
        let disk =
            kind == Kind::Headline || free.saturating_add(freed) >= floor.saturating_add(size);
        if own && disk {
            return Ok(gone);
        }
        let Some(next) = droppable.next() else {
            let parcels = stored.len();
            return Err(if own {
                NoRoom::Disk { free, floor }
            } else {
                NoRoom::Full { bytes, parcels }
            });
        };
        gone.push(next.sequence);
        freed += next.size;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { bytes: 100, parcels: 4, held_bytes: 0, free_percent: 10 };

    fn bundles(sizes: &[u64]) -> Vec<Stored> {
        let stored = |(i, size): (usize, &u64)| Stored {
            sequence: i as u64,
            kind: Kind::Bundle,
            size: *size,
        };
        sizes.iter().enumerate().map(stored).collect()
    }

    fn room(free: u64) -> Option<Room> {
        Some(Room { free, total: 1000 })
    }

    #[test]
    fn the_oldest_but_one_goes() {
        let go = |sizes: &[u64], size| {
            make_room(&bundles(sizes), (Kind::Bundle, size), room(1000), &LIMITS)
        };
        assert_eq!(go(&[30, 30], 40), Ok(vec![]));
        assert_eq!(go(&[30, 30], 41), Ok(vec![1]));
        assert_eq!(go(&[1, 1, 1, 1], 1), Ok(vec![1]));
        let headline = make_room(&bundles(&[50, 50]), (Kind::Headline, 4), None, &LIMITS);
        assert_eq!(headline, Err(NoRoom::Full { bytes: 100, parcels: 2 }));
        assert_eq!(go(&[60], 41), Err(NoRoom::Full { bytes: 60, parcels: 1 }));
    }

    #[test]
    fn headlines_stay_and_may_use_the_last_of_the_disk() {
        let headline = Stored { sequence: 0, kind: Kind::Headline, size: 4 };
        let full = make_room(&[headline; 4], (Kind::Headline, 4), room(1000), &LIMITS);
        assert_eq!(full, Err(NoRoom::Full { bytes: 16, parcels: 4 }));
        assert_eq!(make_room(&[headline; 3], (Kind::Headline, 4), room(0), &LIMITS), Ok(vec![]));
    }

    #[test]
    fn nothing_is_dropped_for_a_floor_that_others_broke() {
        let at = |free| make_room(&bundles(&[20, 20, 20]), (Kind::Bundle, 10), room(free), &LIMITS);
        assert_eq!(at(110), Ok(vec![]));
        assert_eq!(at(100), Ok(vec![1]));
        assert_eq!(at(69), Err(NoRoom::Disk { free: 69, floor: 100 }));
    }
}
