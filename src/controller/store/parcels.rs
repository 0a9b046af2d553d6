//! What became of every bundle that was offered: stored for good, or refused and set aside.

use super::{Store, StoreError, incidents, signed, transfers};
use crate::base::id::{DeviceId, Digest};
use crate::base::time::Timestamp;
use crate::bundle::Bundle;
use crate::controller::verify::Refusal;
use rusqlite::{OptionalExtension, Transaction};

/// Bundles in quarantine: enough to find out what is wrong with a fleet, and bounded whatever a
/// stolen key does.
const QUARANTINE_FILES: i64 = 256;
/// See [`QUARANTINE_FILES`].
const QUARANTINE_BYTES: i64 = 64 * 1024 * 1024;

/// Refusals that are remembered; one that is forgotten is judged again.
const REFUSALS: i64 = 4096;

/// A bundle that is believed.
pub struct Parcel<'a> {
    /// As it came.
    pub bytes: &'a [u8],
    /// Its SHA-256.
    pub digest: Digest,
    /// What it says.
    pub bundle: &'a Bundle,
    /// The key that its signature was checked with.
    pub spki: &'a [u8],
    /// When it came.
    pub at: Timestamp,
}

/// A bundle that is not.
pub struct Refused<'a> {
    /// As it was announced.
    pub digest: Digest,
    /// Why.
    pub refusal: &'a Refusal,
    /// All of it, if all of it came.
    pub bytes: Option<&'a [u8]>,
}

/// What was decided of a bundle.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// It is here for good.
    Stored,
    /// It was not taken.
    Refused {
        /// [`Refusal::word`].
        word: String,
        /// What the device was told.
        reason: String,
        /// Its bytes, if they are still in quarantine.
        kept: Option<Digest>,
    },
}

impl Store {
    /// What was decided of a bundle, if it was.
    ///
    /// # Errors
    ///
    /// When the index cannot be read.
    pub fn verdict(
        &self,
        device: &DeviceId,
        digest: Digest,
    ) -> Result<Option<Verdict>, StoreError> {
        let found = self
            .connection
            .prepare_cached(
                "SELECT refused, reason, kept FROM parcels WHERE device = ?1 AND digest = ?2",
            )?
            .query_row((device.as_str(), digest.as_bytes()), |row| {
                let word: Option<String> = row.get(0)?;
                let reason: Option<String> = row.get(1)?;
                let kept: Option<[u8; 32]> = row.get(2)?;
                Ok(word.map_or(Verdict::Stored, |word| Verdict::Refused {
                    word,
                    reason: reason.unwrap_or_default(),
                    kept: kept.map(Digest::new),
                }))
            })
            .optional()?;
        Ok(found)
    }

    /// Keeps a bundle for good and completes its incident. To do it again changes nothing.
    ///
    /// # Errors
    ///
    /// When it is not on the disk.
    pub fn keep_bundle(&mut self, parcel: &Parcel<'_>) -> Result<Result<(), Refusal>, StoreError> {
        let origin = &parcel.bundle.origin;
        if let Err(taken) = incidents::check_owner(&self.connection, origin)? {
            return Ok(Err(taken));
        }
        self.objects.put(parcel.digest, parcel.bytes)?;
        let transaction = self.connection.transaction()?;
        transaction.execute(
            "INSERT INTO parcels (device, digest, at, bytes, incident, spki)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT DO UPDATE SET at = excluded.at, incident = excluded.incident,
                 spki = excluded.spki, refused = NULL, reason = NULL, kept = NULL",
            (
                origin.device.as_str(),
                parcel.digest.as_bytes(),
                parcel.at.as_millis(),
                signed(parcel.bytes.len() as u64),
                origin.incident.as_bytes(),
                parcel.spki,
            ),
        )?;
        incidents::complete(&transaction, parcel)?;
        transfers::close(&transaction, &origin.device, parcel.digest)?;
        transaction.commit()?;
        Ok(Ok(()))
    }

    /// Remembers that a bundle was refused, and keeps what came of it for somebody to look at.
    ///
    /// # Errors
    ///
    /// When it is not on the disk.
    pub fn refuse(
        &mut self,
        device: &DeviceId,
        refused: &Refused<'_>,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let &Refused { digest, refusal, bytes } = refused;
        // Under its true name: two devices may lie under the same one.
        let kept = bytes.map(Digest::of);
        if let (Some(name), Some(bytes)) = (kept, bytes) {
            self.quarantine.put(name, bytes)?;
        }
        let transaction = self.connection.transaction()?;
        transaction.execute(
            "INSERT OR REPLACE INTO parcels (device, digest, at, bytes, refused, reason, kept)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            (
                device.as_str(),
                digest.as_bytes(),
                at.as_millis(),
                signed(bytes.map_or(0, <[u8]>::len) as u64),
                refusal.word(),
                refusal.reason(),
                kept.as_ref().map(Digest::as_bytes),
            ),
        )?;
        transfers::close(&transaction, device, digest)?;
        let gone = make_room(&transaction)?;
        transaction.commit()?;
        gone.into_iter().try_for_each(|name| self.quarantine.remove(name))
    }

    /// The bytes of a refused bundle, if they are still there.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn quarantined(&self, kept: Digest) -> Result<Option<Vec<u8>>, StoreError> {
        self.quarantine.get(kept)
    }

    /// Forgets the file of a bundle that was believed in the end.
    ///
    /// # Errors
    ///
    /// When the file cannot be removed.
    pub fn release(&mut self, kept: Digest) -> Result<(), StoreError> {
        let users: i64 = self.connection.query_row(
            "SELECT count(*) FROM parcels WHERE kept = ?1",
            [kept.as_bytes()],
            |row| row.get(0),
        )?;
        if users == 0 { self.quarantine.remove(kept) } else { Ok(()) }
    }
}

/// Lets the oldest go from quarantine until the rest is within bounds; says which files may go.
fn make_room(transaction: &Transaction<'_>) -> Result<Vec<Digest>, StoreError> {
    let mut statement = transaction.prepare_cached(
        "SELECT rowid, kept, bytes FROM parcels WHERE refused IS NOT NULL AND kept IS NOT NULL
         ORDER BY at DESC, rowid DESC",
    )?;
    let mut rows = statement.query(())?;
    let (mut files, mut bytes, mut gone) = (0, 0, Vec::new());
    while let Some(row) = rows.next()? {
        files += 1;
        bytes += row.get::<_, i64>(2)?;
        if files > QUARANTINE_FILES || bytes > QUARANTINE_BYTES {
            gone.push((row.get::<_, i64>(0)?, row.get::<_, [u8; 32]>(1)?));
        }
    }
    drop(rows);
    let mut names = Vec::new();
    for (row, kept) in gone {
        transaction.execute("UPDATE parcels SET kept = NULL WHERE rowid = ?1", [row])?;
        let users: i64 = transaction.query_row(
            "SELECT count(*) FROM parcels WHERE kept = ?1",
            [&kept],
            |row| row.get(0),
        )?;
        if users == 0 {
            names.push(Digest::new(kept));
        }
    }
    transaction.execute(
        "DELETE FROM parcels WHERE refused IS NOT NULL AND kept IS NULL AND rowid NOT IN
             (SELECT rowid FROM parcels WHERE refused IS NOT NULL
              ORDER BY at DESC, rowid DESC LIMIT ?1)",
        [REFUSALS],
    )?;
    Ok(names)
}
