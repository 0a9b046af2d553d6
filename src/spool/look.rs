//! Looking into a spool that an agent may own at the same time. Nothing is changed, and nothing locked:
//! what goes meanwhile is passed over.

use super::files::{Disk, Facts, Files, Shelf};
use super::tally::{self, Tally};
use super::{Flaw, Gone, Kind, Waiting, format};
use crate::base::time::Timestamp;
use std::collections::BTreeSet;
use std::io;
use std::path::Path;

/// What was seen.
#[derive(Debug)]
pub struct Look {
    files: Disk,
    /// What is to be sent, in the order in which it will be.
    pub parcels: Vec<Seen>,
    /// Files that are no parcels, by name.
    pub damaged: Vec<(String, Flaw)>,
    /// How many bundles were dropped to make room,
    pub evicted: u64,
    /// how many bytes they had,
    pub evicted_bytes: u64,
    /// and which were the latest, oldest first.
    pub gone: Vec<Gone>,
    /// How many files are set aside as damaged,
    pub corrupt: usize,
    /// and as refused.
    pub refused: usize,
}

/// A parcel on disk.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// Its place in the order of age.
    pub sequence: u64,
    /// What it is.
    pub waiting: Waiting,
    /// When it was put, by a clock that anybody may set.
    pub since: Timestamp,
}

/// Why a parcel cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// The disk fails, or it went meanwhile.
    #[error("it cannot be read")]
    Disk(#[source] io::Error),
    /// It is damaged.
    #[error("it is damaged: {0}")]
    Flaw(Flaw),
}

impl Look {
    /// Looks into a directory.
    ///
    /// # Errors
    ///
    /// When it cannot be listed.
    pub fn into(directory: &Path) -> io::Result<Self> {
        let files = Disk::new(directory);
        let names = files.names(Shelf::Waiting)?;
        let count = |shelf| files.names(shelf).map_or(0, |names| names.len());
        let tally = files.read(Shelf::Waiting, tally::NAME, tally::BYTES_MAX + 1);
        let tally = tally.ok().and_then(|bytes| Tally::decode(&bytes)).unwrap_or_default();
        let (corrupt, refused) = (count(Shelf::Corrupt), count(Shelf::Refused));
        let Tally { evicted, bytes: evicted_bytes, gone, .. } = tally;
        let (mut parcels, mut damaged) = (Vec::new(), Vec::new());
        for name in names {
            match seen(&files, &name) {
                None => {}
                Some(Ok(seen)) => parcels.push(seen),
                Some(Err(flaw)) => damaged.push((name, flaw)),
            }
        }
        let gone = gone.into();
        in_order(&mut parcels);
        Ok(Self { files, parcels, damaged, evicted, evicted_bytes, gone, corrupt, refused })
    }

    /// The bytes of a parcel, checked.
    ///
    /// # Errors
    ///
    /// When they cannot be read, or are damaged.
    pub fn read(&self, seen: &Seen) -> Result<Vec<u8>, LookError> {
        let limit = seen.waiting.kind.bytes_max() + format::HEADER_BYTES as u64 + 1;
        let file = self.files.read(Shelf::Waiting, &format::name(seen.sequence), limit);
        let (header, bytes) =
            format::content(file.map_err(LookError::Disk)?).map_err(LookError::Flaw)?;
        match header.digest == seen.waiting.digest {
            true => Ok(bytes),
            false => Err(LookError::Flaw(Flaw::Content)),
        }
    }
}

/// Nothing if it is no parcel's file, or is gone already.
fn seen(files: &Disk, name: &str) -> Option<Result<Seen, Flaw>> {
    let sequence = format::sequence(name)?;
    let Facts { size, written: since } = files.facts(Shelf::Waiting, name).ok()?;
    let start = files.read(Shelf::Waiting, name, format::HEADER_BYTES as u64).ok()?;
    let read = format::header(&start, size).map(|header| {
        let format::Header { kind, incident, mark, digest, length: size, .. } = header;
        Seen { sequence, waiting: Waiting { digest, kind, incident, mark, size }, since }
    });
    Some(read)
}

/// Headlines first, and of each incident the newest alone.
fn in_order(parcels: &mut Vec<Seen>) {
    parcels.sort_by_key(|seen| std::cmp::Reverse(seen.sequence));
    let mut told = BTreeSet::new();
    parcels.retain(|seen| seen.waiting.kind == Kind::Bundle || told.insert(seen.waiting.incident));
    parcels.sort_by_key(|seen| (seen.waiting.kind, seen.sequence));
}
