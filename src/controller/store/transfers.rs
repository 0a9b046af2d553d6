//! Bundles that are on their way: their chunks, bounded per device.

use super::{Store, StoreError, signed, unsigned};
use crate::base::id::{DeviceId, Digest};
use crate::controller::transfer::{Held, Piece};
use rusqlite::{OptionalExtension, Transaction};
use std::ops::Range;

/// Open transfers of one device. A device sends one bundle after the other; what it gave up for
/// another makes room, the longest unheard of first.
const OPEN_TRANSFERS: i64 = 4;

/// What is here of one bundle.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Transfer {
    /// Its size, as the first chunk announced it.
    pub total: u64,
    /// Which bytes are here.
    pub held: Held,
}

impl Store {
    /// What is here of a bundle, if anything is.
    ///
    /// # Errors
    ///
    /// When the index cannot be read.
    pub fn transfer(
        &self,
        device: &DeviceId,
        digest: Digest,
    ) -> Result<Option<Transfer>, StoreError> {
        let key = (device.as_str(), digest.as_bytes());
        let total: Option<i64> = self
            .connection
            .prepare_cached("SELECT total FROM transfers WHERE device = ?1 AND digest = ?2")?
            .query_row(key, |row| row.get(0))
            .optional()?;
        let Some(total) = total else { return Ok(None) };
        let mut statement = self.connection.prepare_cached(
            "SELECT start, start + length(data) FROM chunks
             WHERE device = ?1 AND digest = ?2 ORDER BY start",
        )?;
        let spans =
            statement.query_map(key, |row| Ok(unsigned(row.get(0)?)..unsigned(row.get(1)?)))?;
        let held = Held::new(spans.collect::<Result<Vec<_>, _>>()?);
        Ok(Some(Transfer { total: unsigned(total), held }))
    }

    /// The bytes of one chunk that is here.
    ///
    /// # Errors
    ///
    /// When the index cannot be read.
    pub fn chunk(
        &self,
        device: &DeviceId,
        digest: Digest,
        span: &Range<u64>,
    ) -> Result<Vec<u8>, StoreError> {
        let data = self
            .connection
            .prepare_cached(
                "SELECT data FROM chunks WHERE device = ?1 AND digest = ?2 AND start = ?3",
            )?
            .query_row((device.as_str(), digest.as_bytes(), signed(span.start)), |row| {
                row.get(0)
            })?;
        Ok(data)
    }

    /// Keeps a chunk that overlaps nothing.
    ///
    /// # Errors
    ///
    /// When it is not on the disk.
    pub fn keep_chunk(&mut self, device: &DeviceId, piece: &Piece) -> Result<(), StoreError> {
        let key = (device.as_str(), piece.digest.as_bytes());
        let transaction = self.connection.transaction()?;
        transaction
            .prepare_cached(
                "INSERT INTO transfers (device, digest, total, touched) VALUES (?1, ?2, ?3,
                     (SELECT coalesce(max(touched), 0) + 1 FROM transfers))
                 ON CONFLICT DO UPDATE SET touched = excluded.touched",
            )?
            .execute((key.0, key.1, signed(piece.total)))?;
        make_room(&transaction, device)?;
        transaction
            .prepare_cached(
                "INSERT INTO chunks (device, digest, start, data) VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute((key.0, key.1, signed(piece.start), &piece.data))?;
        transaction.commit()?;
        Ok(())
    }

    /// All bytes of a bundle, once none is missing.
    ///
    /// # Errors
    ///
    /// When the index cannot be read.
    pub fn assemble(&self, device: &DeviceId, digest: Digest) -> Result<Vec<u8>, StoreError> {
        let mut bytes = Vec::new();
        let mut statement = self.connection.prepare_cached(
            "SELECT data FROM chunks WHERE device = ?1 AND digest = ?2 ORDER BY start",
        )?;
        let mut rows = statement.query((device.as_str(), digest.as_bytes()))?;
        while let Some(row) = rows.next()? {
            bytes.extend_from_slice(
                row.get_ref(0)?.as_blob().map_err(|_| StoreError::Corrupt("chunk"))?,
            );
        }
        Ok(bytes)
    }
}

fn make_room(transaction: &Transaction<'_>, device: &DeviceId) -> Result<(), StoreError> {
    transaction
        .prepare_cached(
            "DELETE FROM transfers WHERE device = ?1 AND digest NOT IN
                 (SELECT digest FROM transfers WHERE device = ?1
                  ORDER BY touched DESC LIMIT ?2)",
        )?
        .execute((device.as_str(), OPEN_TRANSFERS))?;
    Ok(())
}

/// Forgets a transfer and its chunks.
pub(super) fn close(
    transaction: &Transaction<'_>,
    device: &DeviceId,
    digest: Digest,
) -> Result<(), StoreError> {
    transaction.execute(
        "DELETE FROM transfers WHERE device = ?1 AND digest = ?2",
        (device.as_str(), digest.as_bytes()),
    )?;
    Ok(())
}
