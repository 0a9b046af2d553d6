//! Who must go before a guest is dumped, and whether that suffices. No IO.
//!
//! Decided before the guest is stopped, for the largest that its dump may become: a guest that stood
//! still for a dump which then did not fit would have been stopped for nothing.

use super::super::files::Room;
use super::Refused;

/// The bounds of a store as they are on its disk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) bytes: u64,
    pub(super) dumps: usize,
    /// What stays free for the device's own work.
    pub(super) floor: u64,
}

/// What a store holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Held {
    /// The sizes of the dumps, oldest first.
    pub(super) dumps: Vec<u64>,
    /// Bytes of those that are being written.
    pub(super) begun: u64,
}

/// How many of the oldest dumps must go before one of at most `worst` bytes is begun. None goes where
/// that would not suffice.
pub(super) fn make_room(
    held: &Held,
    worst: u64,
    room: Room,
    bounds: Bounds,
) -> Result<usize, Refused> {
    let Bounds { bytes: quota, dumps, floor } = bounds;
    if worst > quota {
        return Err(Refused::Large { worst, quota });
    }
    let mut used = held.dumps.iter().sum::<u64>() + held.begun;
    let mut free = room.free;
    for gone in 0..=held.dumps.len() {
        let few = held.dumps.len() - gone < dumps;
        let fits = used.saturating_add(worst) <= quota;
        if few && fits && free >= floor.saturating_add(worst) {
            return Ok(gone);
        }
        if let Some(next) = held.dumps.get(gone) {
            used -= next;
            free = free.saturating_add(*next);
        }
    }
    match used.saturating_add(worst) <= quota {
        true => Err(Refused::Disk { worst, free: room.free, floor }),
        false => Err(Refused::Busy { worst, begun: held.begun, quota }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOUNDS: Bounds = Bounds { bytes: 100, dumps: 3, floor: 50 };

    fn gone(dumps: &[u64], begun: u64, worst: u64, free: u64) -> Result<usize, String> {
        let held = Held { dumps: dumps.to_vec(), begun };
        let room = Room { free, total: 1000, inodes_free: 0, inodes: 0 };
        make_room(&held, worst, room, BOUNDS).map_err(|refused| refused.to_string())
    }

    #[test]
    fn the_oldest_go_and_no_more_than_must() {
        assert_eq!(gone(&[], 0, 100, 1000), Ok(0));
        assert_eq!(gone(&[30, 30], 0, 40, 1000), Ok(0));
        assert_eq!(gone(&[30, 30], 0, 41, 1000), Ok(1));
        assert_eq!(gone(&[30, 30], 0, 71, 1000), Ok(2));
        assert_eq!(gone(&[1, 1, 1], 0, 1, 1000), Ok(1), "three at most");
        assert_eq!(gone(&[30, 30], 0, 40, 60), Ok(1), "the disk's floor");
    }

    #[test]
    fn what_never_fits_costs_no_dump() {
        assert!(gone(&[30], 0, 101, 1000).unwrap_err().contains("set apart"));
        assert!(gone(&[30], 60, 50, 1000).unwrap_err().contains("being written"));
        assert!(gone(&[30], 0, 40, 59).unwrap_err().contains("must stay free"));
    }

    proptest! {
        #[test]
        fn whoever_is_let_in_fits(
            dumps in proptest::collection::vec(0..60u64, 0..5),
            begun in 0..60u64, worst in 0..120u64, free in 0..300u64,
        ) {
            let held = Held { dumps: dumps.clone(), begun };
            let room = Room { free, total: 1000, inodes_free: 0, inodes: 0 };
            if let Ok(gone) = make_room(&held, worst, room, BOUNDS) {
                let stays: u64 = dumps[gone..].iter().sum();
                let freed: u64 = dumps[..gone].iter().sum();
                prop_assert!(stays + begun + worst <= BOUNDS.bytes);
                prop_assert!(dumps.len() - gone < BOUNDS.dumps);
                prop_assert!(free + freed >= BOUNDS.floor + worst);
            }
        }
    }
}
