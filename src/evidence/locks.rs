//! Which task holds which locks, as kernels tell that are built to prove their locking (lockdep).
//!
//! ```text
//! Showing all locks held in the system:
//! 2 locks held by kworker/0:1/12:
//!  #0: ffff888019cb6938 ((wq_completion)events){+.+.}-{0:0}, at: process_one_work+0x85f/0x1670
//!  #1: ffffffff89c53980 (rtnl_mutex){+.+.}-{3:3}, at: addrconf_dad_work+0xa3/0x1280
//! ```
//!
//! A lock is listed from the moment in which a task asks for it: of a task that waits in a lock's slow
//! path, the last one is not held yet.

use super::line::Line;
use super::trace::Frame;
use super::who::{comm, number};

/// More tasks with locks than this has no guest that still prints them.
const HOLDERS_KEPT: usize = 4096;

/// The kernel's `MAX_LOCK_DEPTH`.
const LOCKS_KEPT: usize = 48;

/// What is kept of a lock's name: as much as of a function's.
const NAME_CHARS: usize = 128;

/// A task, and the locks that it holds or asks for.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Holder {
    /// Its name; a guest may have chosen it freely.
    pub comm: String,
    /// Its id.
    pub pid: u32,
    /// In the order in which it asked for them.
    pub locks: Vec<Lock>,
}

/// One lock.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Lock {
    /// Tells it apart from others. Some kernels print a hash instead; it serves as well.
    pub address: u64,
    /// The kernel's name for all of its kind, such as `&dev->mutex`.
    pub name: String,
    /// Where it was asked for.
    pub at: Option<Frame>,
}

/// Reads the list.
#[derive(Clone, Debug, Default)]
pub(super) struct Reader {
    begun: bool,
    holders: Vec<Holder>,
}

impl Reader {
    /// Takes a line; tells whether it belongs to the list.
    pub(super) fn take(&mut self, line: &Line<'_>) -> bool {
        let text = line.text.as_ref();
        if is_heading(text) {
            *self = Self { begun: true, holders: Vec::new() };
            return true;
        }
        if !self.begun {
            return false;
        }
        if let Some(holder) = holder(text) {
            if self.holders.len() < HOLDERS_KEPT {
                self.holders.push(holder);
            }
            return true;
        }
        let Some(lock) = lock(text) else {
            // Two lines of `=` end it; until then others may stand between.
            self.begun = !text.starts_with("=====");
            return false;
        };
        if let Some(holder) = self.holders.last_mut().filter(|it| it.locks.len() < LOCKS_KEPT) {
            holder.locks.push(lock);
        }
        true
    }

    pub(super) fn finish(self) -> Vec<Holder> {
        self.holders
    }
}

pub(super) fn is_heading(text: &str) -> bool {
    text.starts_with("Showing all locks held in the system")
}

/// `2 locks held by kworker/0:1/12:`, since 6.14 with `, last CPU#1:` behind.
fn holder(text: &str) -> Option<Holder> {
    let (count, task) = text.split_once(" held by ")?;
    let (_, noun) = count.split_once(' ')?;
    if !matches!(noun, "lock" | "locks") || number::<u32>(count).is_none() {
        return None;
    }
    let (name, pid) = task.rsplit_once('/')?;
    Some(Holder { comm: comm(name), pid: number(pid)?, locks: Vec::new() })
}

fn lock(text: &str) -> Option<Lock> {
    let (_, rest) = text.trim_start().strip_prefix('#')?.split_once(": ")?;
    let (address, rest) = rest.split_once(" (")?;
    let address = u64::from_str_radix(address.trim_start_matches("0x"), 16).ok()?;
    let (named, at) = rest.rsplit_once(", at: ").unwrap_or((rest, ""));
    let name = named.rsplit_once("){").map_or(named, |(name, _)| name);
    Some(Lock { address, name: name.chars().take(NAME_CHARS).collect(), at: Frame::read(at) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::line::messages;

    fn read(text: &str) -> Vec<Holder> {
        let mut reader = Reader::default();
        for line in messages(text.as_bytes()) {
            reader.take(&line);
        }
        reader.finish()
    }

    #[test]
    fn holders_and_their_locks_are_read() {
        let holders = read(
            "[    1.000000] 1 lock held by too_early/9:\n\
            [    1.000000] Showing all locks held in the system:\n\
            [    1.000000] 2 locks held by kworker/0:1/12:\n\
            [    1.000000]  #0: ffff888019cb6938 ((wq_completion)(&a->b)){+.+.}-{0:0}, at: process_one_work+0x85f/0x1670\n\
            [    1.000000]  #1: 00000000aeecf5e7 (&type->s_umount_key#49/1){+.+.}, at: alloc_super+0x158/0x890\n\
            [    1.000000] random: crng init done\n\
            [    1.000000] 1 lock held by a b/77, last CPU#1:\n\
            [    1.000000]  #0: ffffffff89c53980 (rtnl_mutex){+.+.}-{3:3}, at: x\n\
            [    1.000000] =============================================\n\
            [    1.000000] 1 lock held by too_late/9:\n",
        );
        let [worker, other] = holders.as_slice() else { panic!("{holders:?}") };
        assert_eq!((worker.comm.as_str(), worker.pid, worker.locks.len()), ("kworker/0:1", 12, 2));
        assert_eq!(worker.locks[0].name, "(wq_completion)(&a->b)");
        assert_eq!(worker.locks[1].name, "&type->s_umount_key#49/1");
        assert_eq!(worker.locks[1].at.as_ref().unwrap().function, "alloc_super");
        assert_eq!((other.comm.as_str(), other.pid), ("a b", 77));
        assert_eq!((other.locks[0].address, &other.locks[0].at), (0xffff_ffff_89c5_3980, &None));
    }
}
