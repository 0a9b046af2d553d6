//! What was received, on the disk.
//!
//! ```text
//!   DATA/lock                  held by the one process that writes
//!   DATA/index.sqlite          incidents, parcels, devices, the chunks of open transfers, and what
//!                              is published for devices
//!   DATA/objects/<digest>      sealed bundles, byte for byte as they were sealed
//!   DATA/quarantine/<digest>   bundles that were not believed, while there is room
//!   DATA/dumps/<device>/<digest>        dumps that were asked for, as they are,
//!   DATA/dumps/<device>/<digest>.part   and as they come in: the beginning of one
//! ```
//!
//! A bundle's file is on the disk before the row that names it is committed, and the row is on the
//! disk before anybody is told. So a crash leaves at worst a file without a row, which the same
//! bundle overwrites when it is sent again, for nobody has receipted it.
//!
//! [`Store`] writes and has one owner; [`Reader`] looks on while it does, and never writes. Beside the
//! owner, [`Bindings`] writes one table that is not the owner's.

mod bindings;
mod dumps;
mod growing;
mod incidents;
mod objects;
mod parcels;
mod reader;
mod record;
mod schema;
mod transfers;

pub use bindings::{Bindings, Change, Published, Wish};
pub use dumps::{State, Wanted};
pub use growing::{Growing, remove as remove_dump, save as save_dump};
pub use incidents::Pending;
pub use parcels::{Parcel, Refused, Verdict};
pub use reader::{Find, Incident, Open, Reader};
pub use record::Record;
pub use transfers::Transfer;

use crate::base::time::Timestamp;
use nix::fcntl::{Flock, FlockArg};
use rusqlite::{Connection, TransactionBehavior};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

const INDEX: &str = "index.sqlite";
const OBJECTS: &str = "objects";
const QUARANTINE: &str = "quarantine";

/// How long a statement waits for another process, such as somebody's backup.
const BUSY: Duration = Duration::from_secs(5);

/// The store of one controller.
pub struct Store {
    connection: Connection,
    objects: objects::Objects,
    quarantine: objects::Objects,
    data: PathBuf,
    _lock: Flock<File>,
}

/// Why the store could not do it. Nothing was lost: what was not committed was not receipted.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The index said no.
    #[error("the index of what was received does not work")]
    Index(#[from] rusqlite::Error),
    /// The file system said no.
    #[error("failed to {doing} {path}")]
    File {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Two controllers on one directory would not know of each other's chunks.
    #[error("{0} is used by another lifesign-controller: stop it, or give this one its own `data`")]
    Locked(PathBuf),
    /// Nothing to read.
    #[error("{0} holds no controller's data: has `run` been started with it?")]
    Absent(PathBuf),
    /// Written by a later version of this program.
    #[error("the index has version {0}, which a later lifesign-controller wrote: use that one")]
    Newer(i64),
    /// The index says something that we never wrote.
    #[error("the index holds a {0} that cannot be read")]
    Corrupt(&'static str),
}

impl StoreError {
    fn file<'a>(doing: &'static str, path: &'a Path) -> impl Fn(io::Error) -> Self + use<'a> {
        move |source| Self::File { doing, path: path.to_owned(), source }
    }
}

impl Store {
    /// Opens the store in `data`, or makes one.
    ///
    /// # Errors
    ///
    /// When somebody else has it open, or it cannot be written.
    pub fn open(data: &Path) -> Result<Self, StoreError> {
        make(data)?;
        let lock = lock(data)?;
        let objects = objects::Objects::open(data, OBJECTS)?;
        let quarantine = objects::Objects::open(data, QUARANTINE)?;
        let connection = connect(data)?;
        let data = data.to_owned();
        let store = Self { connection, objects, quarantine, data, _lock: lock };
        store.tidy_dumps()?;
        Ok(store)
    }

    /// Notes that a device was heard of, and what it says of itself.
    ///
    /// # Errors
    ///
    /// When it is not on the disk.
    pub fn status(&self, device: &str, status: &[u8], at: Timestamp) -> Result<(), StoreError> {
        self.connection.execute(
            "INSERT INTO devices (device, seen_at, status) VALUES (?1, ?2, ?3)
             ON CONFLICT DO UPDATE SET seen_at = excluded.seen_at, status = excluded.status",
            (device, at.as_millis(), status),
        )?;
        Ok(())
    }

    /// Notes what a device that was heard of says of its dumps.
    ///
    /// # Errors
    ///
    /// When it is not on the disk.
    pub fn kept(&self, device: &str, kept: &[u8]) -> Result<(), StoreError> {
        let sql = "UPDATE devices SET kept = ?2 WHERE device = ?1";
        self.connection.execute(sql, (device, kept))?;
        Ok(())
    }
}

/// Nobody else shall read evidence, or reach the broker's socket in here.
fn make(data: &Path) -> Result<(), StoreError> {
    let private = fs::DirBuilder::new().recursive(true).mode(0o700).create(data);
    private.map_err(StoreError::file("make", data))
}

/// The index, brought up to what this program needs.
fn connect(data: &Path) -> Result<Connection, StoreError> {
    let mut connection = Connection::open(data.join(INDEX))?;
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // A receipt is a promise: a commit waits for the disk.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // Whoever begins by reading cannot wait for another writer afterwards; it fails at once.
    connection.set_transaction_behavior(TransactionBehavior::Immediate);
    schema::migrate(&mut connection)?;
    Ok(connection)
}

fn lock(data: &Path) -> Result<Flock<File>, StoreError> {
    let path = data.join("lock");
    let file = File::create(&path).map_err(StoreError::file("open", &path))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
        if errno == nix::errno::Errno::EWOULDBLOCK {
            StoreError::Locked(data.to_owned())
        } else {
            StoreError::file("lock", &path)(errno.into())
        }
    })
}

/// SQLite counts with sign; nothing of ours comes near the end of either.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The other way; what is negative was never written by us.
fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

#[cfg(test)]
mod tests;
