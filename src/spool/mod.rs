//! Parcels that must not be lost: sealed headlines and bundles, kept until the controller has them.
//! What is too large to be sent unasked, a guest's memory, is in a store of its own: [`kept`].
//!
//! This room knows nothing of what is in a parcel, and sends nothing. A parcel is one file:
//!
//! ```text
//!   offset size
//!      0     8   "lfspool1", whose last character is the version
//!      8     1   kind: 1 headline, 2 bundle
//!      9     7   zero
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
//! What holds after a crash at any point: a parcel for which `put` returned [`Kept::OnDisk`] is
//! there with the same bytes, or its file was damaged later, and then it is moved to `corrupt/` and
//! reported, when the spool is opened (header, length) or when it is read (content). What was
//! forgotten may come back, as a name is removed without waiting for the disk: it is sent again, and
//! the controller knows it by its digest.
//!
//! A newer headline of an incident replaces the older one. What is dropped when the room is not
//! enough stands in [`quota`].
//!
//! One owner: the directory is locked against other processes. Within the process it is a plain
//! value without a lock of its own.

mod files;
mod format;
mod keep;
pub mod kept;
mod open;
mod quota;

#[cfg(test)]
mod faulty;
#[cfg(test)]
mod tests;

pub use files::{Disk, DiskError, Files, Room, Shelf};
pub use format::Flaw;
pub use open::{Damaged, OpenError, Report};
pub use quota::NoRoom;

use crate::base::id::{Digest, IncidentId};
use crate::base::limits;
use std::collections::BTreeMap;
use std::io;

/// What a parcel is to the upload: headlines go first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    /// The word that an incident happened.
    Headline,
    /// Its evidence.
    Bundle,
}

/// Something sealed, to be kept until it is received.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Parcel {
    /// What it is.
    pub kind: Kind,
    /// Whose it is.
    pub incident: IncidentId,
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
    /// How much of the disk bundles leave free.
    pub free_percent: u8,
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
    /// Bundles dropped to make room, since the program started.
    pub evicted: u64,
    /// Parcels found damaged, since the program started.
    pub corrupt: u64,
    /// Parcels that the controller refused, since the program started.
    pub refused: u64,
}

/// The parcels of one directory.
#[derive(Debug)]
pub struct Spool<F = Disk> {
    files: F,
    limits: Limits,
    /// By sequence number, so that the order of iteration is the order of age.
    entries: BTreeMap<u64, Entry>,
    next: u64,
    evicted: u64,
    corrupt: u64,
    refused: u64,
}

#[derive(Debug)]
struct Entry {
    waiting: Waiting,
    /// The bytes, while the disk has not taken them.
    held: Option<Vec<u8>>,
}

// === impl Entry, Parcel, Waiting, Limits ===

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
        let Self { kind, incident, .. } = *self;
        Waiting { digest: self.digest(), kind, incident, size: self.bytes.len() as u64 }
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
    };
}
