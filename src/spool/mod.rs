//! Parcels that must not be lost: sealed headlines and bundles, kept until the controller has them.
//! What is too large to be sent unasked, a guest's memory, is in a store of its own: [`kept`].
//!
//! This room knows nothing of what is in a parcel, and sends nothing. A parcel is one file:
//!
//! ```text
//!   offset size
//!      0     8   "lfspool1", whose last character is the version
//!      8     1   kind: 1 headline, 2 bundle
//!      9     7   mark: bundles of one mark tell of the same defect; zero: of none that is known
//!     16     8   sequence number, little endian: the order, counted on over restarts
//!     24     8   length of the content, little endian
//!     32    16   incident
//!     48    32   SHA-256 of the content
//!     80     8   first eight bytes of the SHA-256 of bytes 0..80
//!     88     -   the content
//! ```
//!
//! ```text
//!   put --> 0000000000000007.new --sync, rename, sync--> 0000000000000007.parcel --forget--> gone
//!    |                                                        |            |
//!    +--> held in memory, while the disk takes nothing     damaged      refused
//!         (settle tries again)                                v            v
//!                                                          corrupt/     refused/
//! ```
//!
//! What was dropped to make room is told beside them, in the file `evicted`, before it goes; without
//! that nothing goes. Who is killed in between finishes it at the next start:
//!
//! ```text
//!   offset size
//!      0     8   "lfgone01", whose last two characters are the version
//!      8     8   bundles that were dropped, ever
//!     16     8   their bytes
//!     24     8   parcels that neither disk nor memory took, ever
//!     32     8   first eight bytes of the SHA-256 of all the others
//!     40  64 n   the latest that were dropped, oldest first:
//!                 0   8   sequence number
//!                 8   8   size
//!                16  16   incident
//!                32  32   SHA-256 of the content
//! ```
//!
//! What holds after a crash at any point: a parcel for which `put` returned [`Kept::OnDisk`] is
//! there with the same bytes, or its file was damaged later, and then it is moved to `corrupt/` and
//! reported, when the spool is opened (header, length) or when it is read (content). What was
//! forgotten may come back, as a name is removed without waiting for the disk: it is sent again, and
//! the controller knows it by its digest.
//!
//! A newer headline of an incident replaces the older one. What is dropped when the room is not
//! enough, or when it is too old, stands in [`quota`].
//!
//! The directory may be on a disk that is not unlocked yet. Only its last part is ever made, so until
//! the directory above it is there, parcels are held in memory, within [`Limits::held_bytes`], and go
//! behind what is found when the disk comes.
//!
//! One owner: the directory is locked against other processes. Within the process it is a plain
//! value without a lock of its own.

mod files;
mod format;
mod keep;
pub mod kept;
mod look;
mod open;
mod quota;
mod tally;

#[cfg(test)]
pub(crate) mod faulty;
#[cfg(test)]
mod tests;

pub use files::{Disk, DiskError, Facts, Files, Room, Shelf};
pub use format::Flaw;
pub use look::{Look, LookError, Seen};
pub use open::{Damaged, OpenError, Report};
pub use quota::NoRoom;
pub use tally::Gone;

use crate::base::id::{Digest, IncidentId};
use crate::base::limits;
use crate::base::time::Timestamp;
use std::collections::BTreeMap;
use std::io;
use std::time::Duration;
use tally::Tally;

/// What a parcel is to the upload: headlines go first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    /// The word that an incident happened.
    Headline,
    /// Its evidence.
    Bundle,
}

/// What bundles have in common that tell of the same defect. This room knows no more of it.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Mark([u8; 7]);

/// Something sealed, to be kept until it is received.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Parcel {
    /// What it is.
    pub kind: Kind,
    /// Whose it is.
    pub incident: IncidentId,
    /// Which others tell of the same.
    pub mark: Mark,
    /// The sealed bytes.
    pub bytes: Vec<u8>,
}

/// A parcel that waits, without its bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Waiting {
    /// SHA-256 of its bytes: its name.
    pub digest: Digest,
    /// What it is.
    pub kind: Kind,
    /// Whose it is.
    pub incident: IncidentId,
    /// Which others tell of the same.
    pub mark: Mark,
    /// How many bytes it has.
    pub size: u64,
}

/// The bounds of a spool. Parcels in memory do not count as those on disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Bytes on disk.
    pub bytes: u64,
    /// Parcels on disk.
    pub parcels: usize,
    /// Bytes in memory, while the disk takes nothing.
    pub held_bytes: u64,
    /// How much of the disk bundles leave free, in bytes and in files.
    pub free_percent: u8,
    /// Bundles that are older go, unless they are the first or the latest of their mark.
    pub age: Duration,
}

/// Where a parcel is kept.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Kept {
    /// It survives a power cut.
    OnDisk,
    /// It survives as long as the process.
    InMemory {
        /// Why the disk did not take it.
        why: String,
    },
}

/// Why a parcel is not kept at all.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// Larger than anything that is sealed.
    #[error("the parcel has {size} bytes, {max} are the most that one may have")]
    TooLarge {
        /// Its size.
        size: u64,
        /// The bound.
        max: u64,
    },
    /// Neither the disk nor the memory set apart for this takes it.
    #[error("the parcel is lost: {held} bytes wait in memory already, and the disk takes none")]
    Lost {
        /// Bytes in memory.
        held: u64,
        /// What is wrong with the disk.
        source: StoreError,
    },
}

/// Why the disk does not take a parcel.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It is not there, or not to be read.
    #[error(transparent)]
    Closed(#[from] OpenError),
    /// It may not be used further.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    /// It failed.
    #[error("the disk failed to {doing}")]
    Disk {
        /// The operation.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// Why a parcel cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It was forgotten, replaced or dropped.
    #[error("no parcel {0} waits")]
    Unknown(Digest),
    /// Its file is damaged; it was set aside and waits no more.
    #[error("the parcel {digest} is damaged and was moved to `corrupt`: {flaw}")]
    Corrupt {
        /// Which.
        digest: Digest,
        /// How.
        flaw: Flaw,
    },
    /// The disk failed; another time it may not.
    #[error("the disk failed to read the parcel {digest}")]
    Disk {
        /// Which.
        digest: Digest,
        /// What the system said.
        source: io::Error,
    },
}

/// What the spool holds, and what became of what it no longer holds.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Usage {
    /// Bytes of parcels on disk.
    pub bytes: u64,
    /// Parcels on disk.
    pub parcels: usize,
    /// Parcels in memory, because the disk takes none.
    pub held: usize,
    /// Their bytes.
    pub held_bytes: u64,
    /// Bundles dropped to make room, since the spool was made.
    pub evicted: u64,
    /// Their bytes.
    pub evicted_bytes: u64,
    /// How many of them since the spool was empty, or the program started.
    pub evicted_lately: u64,
    /// Parcels that neither disk nor memory took, since the spool was made.
    pub lost: u64,
    /// Parcels found damaged, since the program started.
    pub corrupt: u64,
    /// Parcels that the controller refused, since the program started.
    pub refused: u64,
}

/// The parcels of one directory.
#[derive(Debug)]
pub struct Spool<F = Disk> {
    files: F,
    /// Whether what an earlier run left has been found.
    is_open: bool,
    limits: Limits,
    /// By sequence number, so that the order of iteration is the order of age.
    entries: BTreeMap<u64, Entry>,
    next: u64,
    tally: Tally,
    /// What the tally said when nothing waited.
    evicted_before: u64,
    corrupt: u64,
    refused: u64,
}

#[derive(Debug)]
struct Entry {
    waiting: Waiting,
    /// When it was put, by a clock that anybody may set.
    since: Timestamp,
    /// The bytes, while the disk has not taken them.
    held: Option<Vec<u8>>,
}

// === impl Mark, Entry, Parcel, Waiting, Limits ===

impl Mark {
    /// The mark of whatever this names. Nothing has no mark.
    #[must_use]
    pub fn of(name: &str) -> Self {
        if name.is_empty() {
            return Self::default();
        }
        let mut mark = [0; 7];
        mark.copy_from_slice(&Digest::of(name.as_bytes()).as_bytes()[..7]);
        Self(mark)
    }

    /// Whether anything can have it in common.
    #[must_use]
    pub fn is_known(self) -> bool {
        self != Self::default()
    }
}

impl Entry {
    fn kept(&self) -> Kept {
        if self.held.is_some() {
            Kept::InMemory { why: "the disk has not taken it yet".to_owned() }
        } else {
            Kept::OnDisk
        }
    }
}

impl Parcel {
    /// Its name.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&self.bytes)
    }

    fn waiting(&self) -> Waiting {
        let Self { kind, incident, mark, .. } = *self;
        let size = self.bytes.len() as u64;
        Waiting { digest: self.digest(), kind, incident, mark, size }
    }
}

impl Waiting {
    /// Whether both are headlines of one incident.
    fn is_headline_of(self, other: Self) -> bool {
        let headlines = self.kind == Kind::Headline && other.kind == Kind::Headline;
        headlines && self.incident == other.incident
    }
}

impl Limits {
    /// What a device gives by default.
    pub const STANDARD: Self = Self {
        bytes: limits::SPOOL_BYTES,
        parcels: limits::SPOOL_PARCELS,
        held_bytes: limits::HELD_BYTES,
        free_percent: limits::DISK_FREE_PERCENT,
        age: limits::SPOOL_AGE,
    };
}
