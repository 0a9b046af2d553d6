//! What is done with parcels.

use super::files::{Files, Shelf};
use super::quota::{self, Stored};
use super::tally::{self, Gone, Tally};
use super::{
    Entry, Flaw, Kept, Kind, Limits, Mark, Parcel, PutError, ReadError, Spool, StoreError, Usage,
    Waiting, format,
};
use crate::base::chain::Chain;
use crate::base::id::Digest;
use crate::base::limits;
use crate::base::time::Timestamp;
use std::io;
use tracing::{debug, info, warn};

impl<F: Files> Spool<F> {
    /// Keeps a parcel. A headline takes the place of an older one of its incident.
    ///
    /// # Errors
    ///
    /// When it is too large, or neither disk nor memory takes it.
    pub fn put(&mut self, parcel: Parcel) -> Result<Kept, PutError> {
        let waiting = parcel.waiting();
        let max = parcel.kind.bytes_max();
        if waiting.size > max {
            return Err(PutError::TooLarge { size: waiting.size, max });
        }
        if let Some((_, entry)) = self.find(waiting.digest) {
            return Ok(entry.kept());
        }
        let opened = self.reopen().map_err(StoreError::from);
        let (sequence, since) = (self.next, self.files.now());
        self.next += 1;
        let stored = opened.and_then(|()| self.store(sequence, (waiting, since), &parcel.bytes));
        match stored {
            Ok(()) => Ok(Kept::OnDisk),
            Err(error) => {
                let entry = Entry { waiting, since, held: Some(parcel.bytes) };
                self.hold(sequence, entry, error)
            }
        }
    }

    /// Tries again to bring to disk what is held in memory, and drops what is too old.
    ///
    /// # Errors
    ///
    /// With what is wrong with the disk, when it does not take everything.
    pub fn settle(&mut self) -> Result<(), StoreError> {
        self.reopen()?;
        while let Some((sequence, Entry { waiting, since, held: Some(bytes) })) = self.take_held() {
            let stored = self.store(sequence, (waiting, since), &bytes);
            if stored.is_err() {
                self.entries.insert(sequence, Entry { waiting, since, held: Some(bytes) });
            }
            stored?;
            info!(parcel = %waiting.digest, "the disk has taken a parcel that was held in memory");
        }
        let old = quota::too_old(&self.on_disk(), self.files.now(), &self.limits);
        self.evict(&old, "it is too old and says nothing that others do not say")?;
        if self.tally.is_behind { self.write_tally() } else { Ok(()) }
    }

    /// What is to be sent: headlines first, then bundles, each oldest first.
    pub fn waiting(&self) -> impl Iterator<Item = Waiting> + '_ {
        let of = |kind| {
            let entries = self.entries.iter().filter(move |(_, e)| e.waiting.kind == kind);
            let current = entries.filter(|(sequence, e)| !self.is_replaced(**sequence, e));
            current.map(|(_, entry)| entry.waiting)
        };
        of(Kind::Headline).chain(of(Kind::Bundle))
    }

    /// The bytes of a parcel, checked. What is damaged is set aside.
    ///
    /// # Errors
    ///
    /// When no such parcel waits, it is damaged, or the disk fails.
    pub fn read(&mut self, digest: Digest) -> Result<Vec<u8>, ReadError> {
        let (sequence, entry) = self.find(digest).ok_or(ReadError::Unknown(digest))?;
        if let Some(bytes) = &entry.held {
            return Ok(bytes.clone());
        }
        let limit = entry.waiting.kind.bytes_max() + format::HEADER_BYTES as u64 + 1;
        let file = self.files.read(Shelf::Waiting, &format::name(sequence), limit);
        let file = match file {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                warn!(parcel = %digest, "the file of a parcel was removed by somebody else");
                self.entries.remove(&sequence);
                return Err(ReadError::Unknown(digest));
            }
            Err(source) => return Err(ReadError::Disk { digest, source }),
        };
        match format::content(file) {
            Ok((header, bytes)) if header.digest == digest => Ok(bytes),
            Ok(_) => Err(self.damaged(sequence, digest, Flaw::Content)),
            Err(flaw) => Err(self.damaged(sequence, digest, flaw)),
        }
    }

    /// Lets go of a parcel that the controller has.
    pub fn forget(&mut self, digest: Digest) {
        let Some((sequence, entry)) = self.find(digest) else { return };
        let waiting = entry.waiting;
        self.replace_older(sequence, waiting);
        self.remove(sequence);
        if self.entries.is_empty() {
            self.evicted_before = self.tally.evicted;
        }
    }

    /// Keeps a parcel that the controller will never take where a person finds it, out of the way.
    pub fn set_aside(&mut self, digest: Digest, reason: &str) {
        let Some((sequence, entry)) = self.find(digest) else { return };
        let incident = entry.waiting.incident;
        warn!(%incident, parcel = %digest, "the controller refused a parcel: {reason}");
        self.refused += 1;
        self.move_aside(sequence, Shelf::Refused);
    }

    /// What the spool holds.
    pub fn usage(&self) -> Usage {
        let start = Usage {
            evicted: self.tally.evicted,
            evicted_bytes: self.tally.bytes,
            evicted_lately: self.tally.evicted - self.evicted_before,
            lost: self.tally.lost,
            corrupt: self.corrupt,
            refused: self.refused,
            ..Usage::default()
        };
        self.entries.values().fold(start, |mut usage, entry| {
            if entry.held.is_some() {
                usage.held += 1;
                usage.held_bytes += entry.waiting.size;
            } else {
                usage.parcels += 1;
                usage.bytes += entry.waiting.size;
            }
            usage
        })
    }

    /// The latest bundles that were dropped, oldest first.
    pub fn gone(&self) -> impl Iterator<Item = &Gone> {
        self.tally.gone.iter()
    }

    /// Whether a parcel survives a power cut.
    #[cfg(test)]
    pub(crate) fn is_on_disk(&self, digest: Digest) -> bool {
        self.find(digest).is_some_and(|(_, entry)| entry.held.is_none())
    }

    /// Brings a parcel to the disk, all the way.
    fn store(
        &mut self,
        sequence: u64,
        (waiting, since): (Waiting, Timestamp),
        bytes: &[u8],
    ) -> Result<(), StoreError> {
        self.make_room(waiting)?;
        let new = format::name_unfinished(sequence);
        let written = self.write(&new, sequence, waiting, bytes);
        if written.is_err() {
            // What is half written must not fill the disk; if even that fails, the next run does it.
            let _ = self.files.remove(Shelf::Waiting, &new);
        }
        written?;
        self.files.sync_names().map_err(failed("sync the directory"))?;
        self.entries.insert(sequence, Entry { waiting, since, held: None });
        self.replace_older(sequence, waiting);
        Ok(())
    }

    fn write(
        &mut self,
        new: &str,
        sequence: u64,
        waiting: Waiting,
        bytes: &[u8],
    ) -> Result<(), StoreError> {
        let header = format::encode(sequence, &waiting);
        self.files.write(new, &header, bytes).map_err(failed("write a parcel"))?;
        self.files.sync_file(new).map_err(failed("sync a parcel"))?;
        let renamed = self.files.rename(new, Shelf::Waiting, &format::name(sequence));
        renamed.map_err(failed("name a parcel"))
    }

    fn make_room(&mut self, parcel: Waiting) -> Result<(), StoreError> {
        let room = self.files.room().ok();
        let gone = quota::make_room(&self.on_disk(), incoming(parcel), room, &self.limits)?;
        self.evict(&gone, "another one needs the room")
    }

    /// Drops bundles that are on disk. Nothing goes of which the disk cannot be told first.
    fn evict(&mut self, all: &[u64], why: &str) -> Result<(), StoreError> {
        for some in all.chunks(limits::EVICTED_TOLD) {
            let before = self.tally.clone();
            some.iter().for_each(|sequence| self.count(*sequence, why));
            if let Err(error) = self.write_tally() {
                self.tally = Tally { is_behind: true, ..before };
                return Err(error);
            }
            some.iter().for_each(|sequence| self.remove(*sequence));
        }
        Ok(())
    }

    fn count(&mut self, sequence: u64, why: &str) {
        let Some(entry) = self.entries.get(&sequence) else { return };
        let Waiting { incident, digest, size, .. } = entry.waiting;
        warn!(%incident, parcel = %digest, size, "a bundle is dropped: {why}");
        self.tally.add(Gone::new(sequence, entry.waiting));
    }

    fn write_tally(&mut self) -> Result<(), StoreError> {
        let (new, bytes) = (tally::NAME_UNFINISHED, self.tally.encode());
        self.files.write(new, &bytes, &[]).map_err(failed("tell what is dropped"))?;
        self.files.sync_file(new).map_err(failed("sync what is dropped"))?;
        let renamed = self.files.rename(new, Shelf::Waiting, tally::NAME);
        renamed.map_err(failed("name what is dropped"))?;
        self.files.sync_names().map_err(failed("sync the directory"))?;
        self.tally.is_behind = false;
        Ok(())
    }

    /// Keeps a parcel in memory, where the same goes first as on disk.
    fn hold(&mut self, sequence: u64, entry: Entry, error: StoreError) -> Result<Kept, PutError> {
        let waiting = entry.waiting;
        let older = |entry: &Entry| entry.held.is_some() && entry.waiting.is_headline_of(waiting);
        let held = self.stored(|entry| entry.held.is_some() && !older(entry));
        let bounds = Limits { bytes: self.limits.held_bytes, parcels: usize::MAX, ..self.limits };
        let Ok(gone) = quota::make_room(&held, incoming(waiting), None, &bounds) else {
            self.tally.lost += 1;
            self.tally.is_behind = true;
            return Err(PutError::Lost { held: self.usage().held_bytes, source: error });
        };
        for sequence in gone {
            self.count(sequence, "no disk takes it, and another one needs the memory");
            self.tally.is_behind = true;
            self.remove(sequence);
        }
        let why = Chain(&error).to_string();
        warn!(parcel = %waiting.digest, "a parcel is held in memory for now: {why}");
        // An older headline on disk stays there: it is better than none if the power goes.
        self.entries.retain(|_, entry| !older(entry));
        self.entries.insert(sequence, entry);
        Ok(Kept::InMemory { why })
    }

    fn take_held(&mut self) -> Option<(u64, Entry)> {
        let mut entries = self.entries.iter();
        let sequence = *entries.find(|(_, entry)| entry.held.is_some())?.0;
        Some((sequence, self.entries.remove(&sequence)?))
    }

    fn on_disk(&self) -> Vec<Stored> {
        self.stored(|entry| entry.held.is_none())
    }

    fn stored(&self, wanted: impl Fn(&Entry) -> bool) -> Vec<Stored> {
        let entries = self.entries.iter().filter(|(_, entry)| wanted(entry));
        let stored = entries.map(|(sequence, entry)| {
            let Waiting { kind, mark, size, .. } = entry.waiting;
            Stored { sequence: *sequence, kind, mark, size, since: entry.since }
        });
        stored.collect()
    }

    pub(super) fn find(&self, digest: Digest) -> Option<(u64, &Entry)> {
        let mut entries = self.entries.iter();
        let found = entries.find(|(_, entry)| entry.waiting.digest == digest);
        found.map(|(sequence, entry)| (*sequence, entry))
    }

    /// Whether a newer headline of the incident waits.
    fn is_replaced(&self, sequence: u64, entry: &Entry) -> bool {
        let mut newer = self.entries.range(sequence + 1..);
        newer.any(|(_, other)| other.waiting.is_headline_of(entry.waiting))
    }

    fn replace_older(&mut self, sequence: u64, waiting: Waiting) {
        let older = self.entries.range(..sequence);
        let older = older.filter(|(_, entry)| entry.waiting.is_headline_of(waiting));
        let older: Vec<u64> = older.map(|(sequence, _)| *sequence).collect();
        for sequence in older {
            self.remove(sequence);
        }
    }

    pub(super) fn remove(&mut self, sequence: u64) {
        let Some(entry) = self.entries.remove(&sequence) else { return };
        if entry.held.is_none()
            && let Err(error) = self.files.remove(Shelf::Waiting, &format::name(sequence))
        {
            let parcel = entry.waiting.digest;
            debug!(%parcel, "a parcel's file stays and will be sent again: {error}");
        }
    }

    fn damaged(&mut self, sequence: u64, digest: Digest, flaw: Flaw) -> ReadError {
        warn!(parcel = %digest, "a parcel is damaged and was moved to `corrupt`: {flaw}");
        self.corrupt += 1;
        self.move_aside(sequence, Shelf::Corrupt);
        ReadError::Corrupt { digest, flaw }
    }

    fn move_aside(&mut self, sequence: u64, shelf: Shelf) {
        let Some(entry) = self.entries.remove(&sequence) else { return };
        if entry.held.is_none() {
            put_aside(&mut self.files, &format::name(sequence), shelf);
        }
    }
}

/// Moves a file to a shelf of which only the newest few are kept.
pub(super) fn put_aside(files: &mut impl Files, name: &str, shelf: Shelf) {
    let moved = files.rename(name, shelf, name);
    if let Err(error) = moved.and_then(|()| files.sync_names()) {
        warn!(name, "a parcel could not be set aside: {error}");
    }
    let mut names = files.names(shelf).unwrap_or_default();
    names.sort_unstable();
    let surplus = names.len().saturating_sub(limits::ASIDE_PARCELS);
    for name in names.iter().take(surplus) {
        if let Err(error) = files.remove(shelf, name) {
            debug!(name, "an old parcel that was set aside stays: {error}");
        }
    }
}

fn incoming(parcel: Waiting) -> (Kind, Mark, u64) {
    (parcel.kind, parcel.mark, parcel.size)
}

fn failed(doing: &'static str) -> impl Fn(io::Error) -> StoreError {
    move |source| StoreError::Disk { doing, source }
}
