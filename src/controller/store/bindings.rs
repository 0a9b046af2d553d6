//! What is published for each device: one row, written by whoever publishes, and read by the process
//! that says it to the broker. With it comes and goes what is wished for of dumps.
//!
//! The only tables that are not the owner's alone. Their writer takes no lock of the directory, so that
//! it works beside a controller that runs; a row is replaced only by one of a higher number that was
//! made of it, all devices of one call or none.

use super::{Connection, StoreError, Wanted, connect, dumps, make, signed, unsigned};
use crate::base::id::{DeviceId, Digest};
use crate::base::time::Timestamp;
use rusqlite::OptionalExtension;
use std::path::Path;

/// The table.
pub struct Bindings(Connection);

/// What is published for one device.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Published {
    /// Which device.
    pub device: DeviceId,
    /// Its number.
    pub sequence: u64,
    /// Since when.
    pub at: Timestamp,
    /// The message.
    pub sealed: Vec<u8>,
}

/// What is to be published.
#[derive(Clone, Debug)]
pub struct Change {
    /// The new row.
    pub row: Published,
    /// The number of the row that it was made of, if there was one.
    pub after: Option<u64>,
    /// What it wishes for that the one before did not, or no longer.
    pub wish: Option<Wish>,
}

/// What changes of the dumps that are asked for.
#[derive(Clone, Debug)]
pub enum Wish {
    /// This one shall come.
    Ask(Box<Wanted>),
    /// This one need not.
    Cancel(Digest),
}

impl Bindings {
    /// Opens the table in `data`, and makes it if there is none yet.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn open(data: &Path) -> Result<Self, StoreError> {
        make(data)?;
        Ok(Self(connect(data)?))
    }

    /// The number that comes next for a device. Seconds count too, so that a row that was lost or
    /// comes from an old backup does not bring back a number that the device has seen.
    ///
    /// # Errors
    ///
    /// When the index cannot be read.
    pub fn next(&self, device: &DeviceId, now: Timestamp) -> Result<u64, StoreError> {
        let seconds = unsigned(now.as_millis() / 1000);
        let last = published(&self.0, device)?.map_or(0, |published| published.sequence);
        Ok(seconds.max(last + 1))
    }

    /// Keeps all of these, or none: `Some` is the device for which somebody else was quicker.
    ///
    /// # Errors
    ///
    /// When they are not on the disk.
    pub fn publish(&mut self, all: &[Change]) -> Result<Option<DeviceId>, StoreError> {
        let transaction = self.0.transaction()?;
        for Change { row: Published { device, sequence, at, sealed }, after, wish } in all {
            let changed = transaction.execute(
                "INSERT INTO bindings (device, sequence, at, sealed) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT DO UPDATE SET sequence = excluded.sequence, at = excluded.at,
                     sealed = excluded.sealed
                 WHERE sequence IS ?5 AND sequence < excluded.sequence",
                (device.as_str(), signed(*sequence), at.as_millis(), sealed, after.map(signed)),
            )?;
            if changed == 0 {
                return Ok(Some(device.clone()));
            }
            match wish {
                Some(Wish::Ask(wanted)) => dumps::ask(&transaction, wanted)?,
                Some(Wish::Cancel(digest)) => dumps::cancel(&transaction, device, *digest)?,
                None => {}
            }
        }
        transaction.commit()?;
        Ok(None)
    }

    /// The dumps that a device is asked for and that have not come.
    ///
    /// # Errors
    ///
    /// When the index cannot be read.
    pub fn dumps(&self, device: &DeviceId) -> Result<Vec<Digest>, StoreError> {
        dumps::coming(&self.0, device)
    }

    /// The number of every device.
    ///
    /// # Errors
    ///
    /// When the index cannot be read.
    pub fn numbers(&self) -> Result<Vec<(DeviceId, u64)>, StoreError> {
        let mut statement = self.0.prepare_cached("SELECT device, sequence FROM bindings")?;
        let rows = statement.query_map((), |row| Ok((row.get::<_, String>(0)?, row.get(1)?)))?;
        rows.map(|row| {
            let (device, sequence) = row?;
            let device = device.parse().map_err(|_| StoreError::Corrupt("device"))?;
            Ok((device, unsigned(sequence)))
        })
        .collect()
    }

    /// What is published for one device.
    ///
    /// # Errors
    ///
    /// When the index cannot be read.
    pub fn of(&self, device: &DeviceId) -> Result<Option<Published>, StoreError> {
        published(&self.0, device)
    }
}

pub(super) fn published(
    connection: &Connection,
    device: &DeviceId,
) -> Result<Option<Published>, StoreError> {
    let found = connection
        .prepare_cached("SELECT sequence, at, sealed FROM bindings WHERE device = ?1")?
        .query_row([device.as_str()], |row| {
            Ok(Published {
                device: device.clone(),
                sequence: unsigned(row.get(0)?),
                at: Timestamp::from_millis(row.get(1)?),
                sealed: row.get(2)?,
            })
        });
    Ok(found.optional()?)
}

#[cfg(test)]
mod tests {
    use super::super::{Reader, Store};
    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_millis(1_000_000_500)
    }

    fn row(device: &str, sequence: u64) -> Published {
        Published { device: device.parse().unwrap(), sequence, at: now(), sealed: vec![7] }
    }

    fn change(device: &str, after: Option<u64>, sequence: u64) -> Change {
        Change { row: row(device, sequence), after, wish: None }
    }

    #[test]
    fn rows_are_written_beside_the_owner_and_read_by_others() {
        let data = tempfile::tempdir().unwrap();
        // Before a controller was ever started, and while one runs.
        let mut before = Bindings::open(data.path()).unwrap();
        assert_eq!(before.publish(&[change("a", None, 1)]).unwrap(), None);
        let _owner = Store::open(data.path()).unwrap();
        let mut beside = Bindings::open(data.path()).unwrap();
        let both = [change("a", Some(1), 2), change("b", None, 1)];
        assert_eq!(beside.publish(&both).unwrap(), None);
        let mut numbers = before.numbers().unwrap();
        numbers.sort();
        let device = |name: &str| -> DeviceId { name.parse().unwrap() };
        assert_eq!(numbers, [(device("a"), 2), (device("b"), 1)]);
        let reader = Reader::open(data.path()).unwrap();
        assert_eq!(reader.published(&device("a")).unwrap(), Some(row("a", 2)));
        assert_eq!(reader.published(&device("c")).unwrap(), None);
    }

    #[test]
    fn all_rows_or_none_never_a_lower_number_and_nothing_is_lost_between() {
        let data = tempfile::tempdir().unwrap();
        let mut bindings = Bindings::open(data.path()).unwrap();
        bindings.publish(&[change("a", None, 5)]).unwrap();
        for (after, sequence) in [(Some(5), 4), (Some(5), 5), (Some(4), 9), (None, 9)] {
            let both = [change("b", None, 9), change("a", after, sequence)];
            assert_eq!(bindings.publish(&both).unwrap().unwrap().as_str(), "a");
            assert_eq!(bindings.numbers().unwrap().len(), 1);
        }
    }

    #[test]
    fn numbers_go_up_whatever_the_clock_or_the_row_does() {
        let data = tempfile::tempdir().unwrap();
        let mut bindings = Bindings::open(data.path()).unwrap();
        let device = "a".parse().unwrap();
        let seconds = 1_000_000;
        assert_eq!(bindings.next(&device, now()).unwrap(), seconds);
        bindings.publish(&[change("a", None, seconds)]).unwrap();
        // Twice in a second, and with a clock that is set back or wrong.
        assert_eq!(bindings.next(&device, now()).unwrap(), seconds + 1);
        for clock in [0, -5_000] {
            let next = bindings.next(&device, Timestamp::from_millis(clock)).unwrap();
            assert_eq!(next, seconds + 1);
        }
        // A row that is lost: the clock has gone on.
        let later = Timestamp::from_millis(now().as_millis() + 60_000);
        assert_eq!(bindings.next(&"b".parse().unwrap(), later).unwrap(), seconds + 60);
    }
}
