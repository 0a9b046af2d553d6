//! Finding again what an earlier run left.

use super::files::{Disk, DiskError, Files, Shelf};
use super::keep::put_aside;
use super::{Entry, Flaw, Kind, Limits, Spool, Waiting, format};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::Path;
use tracing::warn;

/// Why a spool cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory cannot be had.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// It cannot be listed.
    #[error("cannot list the parcels of the spool")]
    List(#[source] io::Error),
}

/// What was found.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Report {
    /// Parcels that wait.
    pub parcels: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Parcels that were being written when the program ended; nobody was told that they are kept.
    pub unfinished: usize,
    /// What could not be used, each with the reason.
    pub damaged: Vec<Damaged>,
}

/// A file that is no good.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Damaged {
    /// Moved to `corrupt`.
    SetAside {
        /// The file.
        name: String,
        /// What is wrong with it.
        flaw: Flaw,
    },
    /// Left where it is: the disk may read it another time.
    Unreadable {
        /// The file.
        name: String,
        /// What the system said.
        why: String,
    },
}

impl Spool<Disk> {
    /// Opens a directory, makes it if need be, and finds what waits there.
    ///
    /// # Errors
    ///
    /// When the directory cannot be had or listed.
    pub fn open(dir: &Path, limits: Limits) -> Result<(Self, Report), OpenError> {
        Self::over(Disk::open(dir)?, limits)
    }
}

impl<F: Files> Spool<F> {
    /// Finds what waits.
    ///
    /// # Errors
    ///
    /// When the files cannot be listed.
    pub fn over(files: F, limits: Limits) -> Result<(Self, Report), OpenError> {
        let names = files.names(Shelf::Waiting).map_err(OpenError::List)?;
        let (evicted, corrupt, refused) = (0, 0, 0);
        let entries = BTreeMap::new();
        let mut spool = Self { files, limits, entries, next: 1, evicted, corrupt, refused };
        let mut report = Report::default();
        for name in names {
            if format::is_unfinished(&name) {
                report.unfinished += usize::from(spool.files.remove(Shelf::Waiting, &name).is_ok());
            } else if let Some(sequence) = format::sequence(&name) {
                spool.next = spool.next.max(sequence.saturating_add(1));
                report.damaged.extend(spool.take_in(sequence, name));
            }
        }
        spool.remove_doubles();
        let usage = spool.usage();
        (report.parcels, report.bytes) = (usage.parcels, usage.bytes);
        Ok((spool, report))
    }

    fn take_in(&mut self, sequence: u64, name: String) -> Option<Damaged> {
        match self.header(sequence, &name) {
            Ok(Ok(header)) => {
                let format::Header { kind, incident, digest, length: size, .. } = header;
                let waiting = Waiting { digest, kind, incident, size };
                self.entries.insert(sequence, Entry { waiting, held: None });
                None
            }
            Ok(Err(flaw)) => {
                warn!(name, "a file of the spool is damaged and was moved to `corrupt`: {flaw}");
                self.corrupt += 1;
                put_aside(&mut self.files, &name, Shelf::Corrupt);
                Some(Damaged::SetAside { name, flaw })
            }
            Err(error) => {
                warn!(name, "a file of the spool cannot be read: {error}");
                Some(Damaged::Unreadable { name, why: error.to_string() })
            }
        }
    }

    fn header(&self, sequence: u64, name: &str) -> io::Result<Result<format::Header, Flaw>> {
        let size = self.files.size(Shelf::Waiting, name)?;
        let start = self.files.read(Shelf::Waiting, name, format::HEADER_BYTES as u64)?;
        let header = format::header(&start, size);
        let flaw = Flaw::Nonsense("the file bears the name of another parcel");
        Ok(header.and_then(|h| if h.sequence == sequence { Ok(h) } else { Err(flaw) }))
    }

    /// A crash between storing a parcel and removing what it replaces leaves both.
    fn remove_doubles(&mut self) {
        let (mut digests, mut headlines) = (BTreeSet::new(), BTreeSet::new());
        let mut doubles = Vec::new();
        for (sequence, entry) in self.entries.iter().rev() {
            let Waiting { digest, kind, incident, .. } = entry.waiting;
            let same = !digests.insert(digest);
            let older = kind == Kind::Headline && !headlines.insert(incident);
            doubles.extend((same || older).then_some(*sequence));
        }
        doubles.into_iter().for_each(|sequence| self.remove(sequence));
    }
}

// === impl Damaged ===

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SetAside { name, flaw } => write!(f, "{name} was moved to `corrupt`: {flaw}"),
            Self::Unreadable { name, why } => write!(f, "{name} stays but cannot be read: {why}"),
        }
    }
}
