//! Dumps that were asked for: one row each, made by who asks, and kept up to date by the owner while the
//! file grows.

use super::{Connection, Store, StoreError, growing, signed, unsigned};
use crate::base::id::{DeviceId, Digest, DumpName};
use crate::base::limits;
use crate::base::time::Timestamp;
use rusqlite::{OptionalExtension, Row};
use std::io;
use std::path::PathBuf;

/// A dump that was asked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Wanted {
    /// Of which device.
    pub device: DeviceId,
    /// SHA-256 of the file, as the device told and signed.
    pub digest: Digest,
    /// What it is called there.
    pub name: DumpName,
    /// Whose memory it is.
    pub app: String,
    /// How it is written.
    pub format: String,
    /// How large it is.
    pub bytes: u64,
    /// When it was begun, as the device believes.
    pub taken_at: Timestamp,
    /// When it was asked for.
    pub asked_at: Timestamp,
    /// So many bytes, from the first, are on the disk.
    pub held: u64,
    /// What has come of it.
    pub state: State,
}

/// What has come of a wish.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum State {
    /// It is waited for.
    Coming {
        /// Why it does not go on now.
        hindered: Option<String>,
    },
    /// All of it is here, since then.
    Stored(Timestamp),
    /// It will never be taken, and why.
    Refused(String),
}

impl Wanted {
    /// What tells it from others.
    #[must_use]
    pub fn key(&self) -> (DeviceId, Digest) {
        (self.device.clone(), self.digest)
    }

    /// Whether it is waited for.
    #[must_use]
    pub fn is_coming(&self) -> bool {
        matches!(self.state, State::Coming { .. })
    }
}

impl Store {
    /// A dump that was asked for, if it was.
    ///
    /// # Errors
    ///
    /// When the index cannot be read.
    pub fn wanted(&self, device: &DeviceId, digest: Digest) -> Result<Option<Wanted>, StoreError> {
        let found = self
            .connection
            .prepare_cached(&format!(
                "SELECT {COLUMNS} FROM dumps WHERE device = ?1 AND digest = ?2"
            ))?
            .query_row((device.as_str(), digest.as_bytes()), raw)
            .optional()?;
        found.map(wanted).transpose()
    }

    /// Where the files are.
    #[must_use]
    pub fn dumps_directory(&self) -> PathBuf {
        growing::directory(&self.data)
    }

    /// Why the disk does not take so many bytes more, if it does not.
    ///
    /// # Errors
    ///
    /// When the disk does not tell.
    pub fn lacks_room(&self, bytes: u64) -> io::Result<Option<String>> {
        let disk = nix::sys::statvfs::statvfs(&self.data)?;
        let count = |blocks| u64::saturating_mul(blocks, disk.fragment_size());
        let percent = limits::DISK_FREE_PERCENT;
        let floor = count(disk.blocks()) / 100 * u64::from(percent);
        let fits = count(disk.blocks_available()) >= floor.saturating_add(bytes);
        Ok((!fits).then(|| {
            let mib = bytes.div_ceil(1 << 20);
            format!("the disk must take {mib} MiB more and keep {percent} % free: make room")
        }))
    }

    /// So much is on the disk.
    ///
    /// # Errors
    ///
    /// When that is not.
    pub fn dump_held(&self, wanted: &Wanted, held: u64) -> Result<(), StoreError> {
        self.set(wanted, "held = ?3", signed(held))
    }

    /// Notes why a dump does not go on, or that it does; says whether that is new.
    ///
    /// # Errors
    ///
    /// When it is not on the disk.
    pub fn dump_hindered(&self, wanted: &Wanted, why: Option<&str>) -> Result<bool, StoreError> {
        let is_new = match &wanted.state {
            State::Coming { hindered } => hindered.as_deref() != why,
            State::Stored(_) | State::Refused(_) => false,
        };
        if is_new {
            self.set(wanted, "hindered = ?3", why)?;
        }
        Ok(is_new)
    }

    /// All of it is here under its name.
    ///
    /// # Errors
    ///
    /// When it is not on the disk.
    pub fn dump_stored(&self, wanted: &Wanted, at: Timestamp) -> Result<(), StoreError> {
        self.set(wanted, "stored_at = ?3, held = bytes, hindered = NULL", at.as_millis())
    }

    /// It will never be taken; what is here of it goes.
    ///
    /// # Errors
    ///
    /// When it is not on the disk.
    pub fn dump_refused(&self, wanted: &Wanted, why: &str) -> Result<(), StoreError> {
        self.set(wanted, "refused = ?3, held = 0, hindered = NULL", why)?;
        self.remove_dump(&wanted.device, wanted.digest)
    }

    /// Who asks anew, or thinks better of it, does so beside us: only what is still the same wish counts.
    fn set(
        &self,
        wanted: &Wanted,
        what: &str,
        value: impl rusqlite::ToSql,
    ) -> Result<(), StoreError> {
        let key = (wanted.device.as_str(), wanted.digest.as_bytes());
        let asked = wanted.asked_at.as_millis();
        let sql =
            format!("UPDATE dumps SET {what} WHERE device = ?1 AND digest = ?2 AND asked_at = ?4");
        self.connection.prepare_cached(&sql)?.execute((key.0, key.1, value, asked))?;
        Ok(())
    }

    /// Removes files that nobody wants, as a kill may have left.
    pub(super) fn tidy_dumps(&self) -> Result<(), StoreError> {
        let directory = self.dumps_directory();
        let failed = StoreError::file("list", &directory);
        for (device, digest) in growing::list(&directory).map_err(failed)? {
            let wanted = self.wanted(&device, digest)?;
            if wanted.is_none_or(|wanted| matches!(wanted.state, State::Refused(_))) {
                self.remove_dump(&device, digest)?;
            }
        }
        Ok(())
    }

    fn remove_dump(&self, device: &DeviceId, digest: Digest) -> Result<(), StoreError> {
        growing::remove(&self.data, device, digest)
    }
}

const COLUMNS: &str = "device, digest, name, app, format, bytes, taken_at, asked_at, held, hindered, \
                       stored_at, refused";

/// As it stands in the index.
struct Raw {
    device: String,
    digest: [u8; 32],
    name: String,
    wanted: (String, String, u64, Timestamp, Timestamp, u64),
    state: State,
}

fn raw(row: &Row<'_>) -> rusqlite::Result<Raw> {
    let number = |column| row.get(column).map(unsigned);
    let time = |column| row.get(column).map(Timestamp::from_millis);
    let stored: Option<i64> = row.get(10)?;
    let refused: Option<String> = row.get(11)?;
    let state = match (stored, refused) {
        (Some(at), _) => State::Stored(Timestamp::from_millis(at)),
        (None, Some(why)) => State::Refused(why),
        (None, None) => State::Coming { hindered: row.get(9)? },
    };
    Ok(Raw {
        device: row.get(0)?,
        digest: row.get(1)?,
        name: row.get(2)?,
        wanted: (row.get(3)?, row.get(4)?, number(5)?, time(6)?, time(7)?, number(8)?),
        state,
    })
}

fn wanted(raw: Raw) -> Result<Wanted, StoreError> {
    let (app, format, bytes, taken_at, asked_at, held) = raw.wanted;
    Ok(Wanted {
        device: raw.device.parse().map_err(|_| StoreError::Corrupt("device"))?,
        digest: Digest::new(raw.digest),
        name: raw.name.parse().map_err(|_| StoreError::Corrupt("name"))?,
        app,
        format,
        bytes,
        taken_at,
        asked_at,
        held,
        state: raw.state,
    })
}

/// All of them, latest first.
pub(super) fn all(connection: &Connection) -> Result<Vec<Wanted>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM dumps ORDER BY device, asked_at DESC, digest");
    let mut statement = connection.prepare_cached(&sql)?;
    let rows = statement.query_map((), raw)?;
    rows.map(|row| wanted(row?)).collect()
}

/// The digests of those that a device is asked for and that have not come.
pub(super) fn coming(
    connection: &Connection,
    device: &DeviceId,
) -> Result<Vec<Digest>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT digest FROM dumps
         WHERE device = ?1 AND stored_at IS NULL AND refused IS NULL ORDER BY asked_at, digest",
    )?;
    let rows = statement.query_map([device.as_str()], |row| row.get(0).map(Digest::new))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Asks for a dump. One that was refused begins anew, and one that is coming goes on.
pub(super) fn ask(connection: &Connection, wanted: &Wanted) -> Result<(), StoreError> {
    connection.execute(
        "INSERT INTO dumps (device, digest, name, app, format, bytes, taken_at, asked_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
         ON CONFLICT DO UPDATE SET name = excluded.name, bytes = excluded.bytes,
             asked_at = excluded.asked_at, held = 0, refused = NULL
         WHERE refused IS NOT NULL",
        (
            wanted.device.as_str(),
            wanted.digest.as_bytes(),
            wanted.name.as_str(),
            &wanted.app,
            &wanted.format,
            signed(wanted.bytes),
            wanted.taken_at.as_millis(),
            wanted.asked_at.as_millis(),
        ),
    )?;
    Ok(())
}

/// Takes a wish back.
pub(super) fn cancel(
    connection: &Connection,
    device: &DeviceId,
    digest: Digest,
) -> Result<(), StoreError> {
    let key = (device.as_str(), digest.as_bytes());
    connection.execute("DELETE FROM dumps WHERE device = ?1 AND digest = ?2", key)?;
    Ok(())
}
