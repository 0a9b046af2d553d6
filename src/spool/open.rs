//! Finding again what an earlier run left.

use super::files::{Disk, DiskError, Facts, Files, Shelf};
use super::keep::put_aside;
use super::tally::{self, Tally};
use super::{Entry, Flaw, Kind, Limits, Spool, Waiting, format};
use crate::base::chain::Chain;
use crate::base::id::Digest;
use crate::base::time::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::Path;
use tracing::{info, warn};

type Dated = (format::Header, Timestamp);

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
    /// Why nothing could be looked at yet. What is put meanwhile is held in memory.
    pub absent: Option<String>,
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
        Self::over(Disk::new(dir), limits)
    }

    /// The same, or a spool that holds parcels in memory until the directory can be had.
    ///
    /// # Errors
    ///
    /// When waiting would not help.
    pub fn open_or_wait(dir: &Path, limits: Limits) -> Result<(Self, Report), OpenError> {
        Self::over_or_wait(Disk::new(dir), limits)
    }
}

impl<F: Files> Spool<F> {
    /// Finds what waits.
    ///
    /// # Errors
    ///
    /// When the files cannot be listed.
    pub fn over(files: F, limits: Limits) -> Result<(Self, Report), OpenError> {
        let mut spool = Self::closed(files, limits);
        let report = spool.find_all()?;
        Ok((spool, report))
    }

    /// The same, or a spool that holds parcels in memory until the files can be had.
    ///
    /// # Errors
    ///
    /// When waiting would not help.
    pub fn over_or_wait(files: F, limits: Limits) -> Result<(Self, Report), OpenError> {
        let mut spool = Self::closed(files, limits);
        match spool.find_all() {
            Err(error @ OpenError::Disk(DiskError::Absent { .. })) => {
                let absent = Some(Chain(&error).to_string());
                Ok((spool, Report { absent, ..Report::default() }))
            }
            found => Ok((spool, found?)),
        }
    }

    fn closed(files: F, limits: Limits) -> Self {
        let (corrupt, refused, evicted_before) = (0, 0, 0);
        let (entries, tally) = (BTreeMap::new(), Tally::default());
        let is_open = false;
        Self { files, is_open, limits, entries, next: 1, tally, evicted_before, corrupt, refused }
    }

    /// Finds what waits, unless that is known, and puts what is held in memory behind it.
    pub(super) fn reopen(&mut self) -> Result<(), OpenError> {
        if !self.is_open {
            let Report { parcels, bytes, .. } = self.find_all()?;
            info!(parcels, bytes, "the spool can be had now");
        }
        Ok(())
    }

    fn find_all(&mut self) -> Result<Report, OpenError> {
        self.files.open()?;
        let names = self.files.names(Shelf::Waiting).map_err(OpenError::List)?;
        let held = std::mem::take(&mut self.entries);
        let mut report = Report::default();
        report.damaged.extend(self.take_in_tally(&names));
        for name in names {
            if format::is_unfinished(&name) {
                report.unfinished += usize::from(self.files.remove(Shelf::Waiting, &name).is_ok());
            } else if let Some(sequence) = format::sequence(&name) {
                self.next = self.next.max(sequence.saturating_add(1));
                report.damaged.extend(self.take_in(sequence, name));
            }
        }
        self.remove_doubles();
        self.remove_told();
        for entry in held.into_values() {
            if self.find(entry.waiting.digest).is_none() {
                self.entries.insert(self.next, entry);
                self.next += 1;
            }
        }
        self.is_open = true;
        let usage = self.usage();
        (report.parcels, report.bytes) = (usage.parcels, usage.bytes);
        Ok(report)
    }

    /// What an earlier run has dropped is added to what was dropped before the disk was there.
    fn take_in_tally(&mut self, names: &[String]) -> Option<Damaged> {
        let name = names.iter().find(|name| *name == tally::NAME)?.clone();
        let read = self.files.read(Shelf::Waiting, &name, tally::BYTES_MAX + 1);
        let bytes = match read {
            Ok(bytes) => bytes,
            Err(error) => return Some(Damaged::Unreadable { name, why: error.to_string() }),
        };
        let Some(found) = Tally::decode(&bytes) else {
            warn!(name, "what the spool has dropped so far is not known any more");
            self.corrupt += 1;
            put_aside(&mut self.files, &name, Shelf::Corrupt);
            return Some(Damaged::SetAside { name, flaw: Flaw::Tally });
        };
        let next = found.gone.iter().map(|gone| gone.sequence.saturating_add(1)).max();
        self.next = self.next.max(next.unwrap_or(0));
        self.evicted_before += found.evicted;
        self.tally.put_behind(found);
        None
    }

    /// What was told to be dropped is dropped, if a crash came in between.
    fn remove_told(&mut self) {
        let told: Vec<(u64, Digest)> =
            self.tally.gone.iter().map(|gone| (gone.sequence, gone.digest)).collect();
        for (sequence, digest) in told {
            if self.entries.get(&sequence).is_some_and(|e| e.waiting.digest == digest) {
                self.remove(sequence);
            }
        }
    }

    fn take_in(&mut self, sequence: u64, name: String) -> Option<Damaged> {
        match self.header(sequence, &name) {
            Ok(Ok((header, since))) => {
                let format::Header { kind, incident, mark, digest, length: size, .. } = header;
                let waiting = Waiting { digest, kind, incident, mark, size };
                self.entries.insert(sequence, Entry { waiting, since, held: None });
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

    fn header(&self, sequence: u64, name: &str) -> io::Result<Result<Dated, Flaw>> {
        let Facts { size, written } = self.files.facts(Shelf::Waiting, name)?;
        let start = self.files.read(Shelf::Waiting, name, format::HEADER_BYTES as u64)?;
        let header = format::header(&start, size);
        let flaw = Flaw::Nonsense("the file bears the name of another parcel");
        Ok(header.and_then(|h| if h.sequence == sequence { Ok((h, written)) } else { Err(flaw) }))
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
