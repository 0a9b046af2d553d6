//! Looking at a store while another process may write it. Nothing here writes, not even a lock.

use super::{
    INDEX, OBJECTS, Published, Record, StoreError, Wanted, bindings, dumps, objects, schema,
};
use crate::base::id::{AppId, DeviceId, Digest, IncidentId};
use crate::base::time::Timestamp;
use crate::bundle::{self, Bundle, OpenError, PublicKey, Sealed};
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row};
use std::path::{Path, PathBuf};

/// Incidents that are listed or compared at once: more is not for a terminal.
const LISTED: i64 = 10_000;

/// A store that is looked at.
pub struct Reader {
    connection: Connection,
    objects: PathBuf,
}

/// One incident, as the index has it.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(missing_docs, reason = "the names are those of bundle::Origin and Headline")]
pub struct Incident {
    pub id: IncidentId,
    pub device: String,
    pub app: AppId,
    pub app_name: String,
    pub scenario: String,
    pub agent_version: String,
    pub failed_at: Timestamp,
    pub ended_at: Option<Timestamp>,
    pub received_at: Timestamp,
    /// The sealed bundle, once it is here.
    pub bundle: Option<Digest>,
    /// What the device thinks.
    pub claimed: Option<Record>,
    /// What we think.
    pub diagnosis: Option<Record>,
}

/// What a prefix of an id leads to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Find {
    /// One incident.
    One(Box<Incident>),
    /// Several: the ids.
    Several(Vec<IncidentId>),
    /// None.
    Nothing,
}

/// What is in the file of a bundle.
#[derive(Debug)]
pub struct Open {
    /// As it was received.
    pub bytes: Vec<u8>,
    /// What it says, checked again, for a disk may err.
    pub bundle: Result<Bundle, OpenError>,
}

impl Reader {
    /// Opens the store in `data`.
    ///
    /// # Errors
    ///
    /// When there is none, or it cannot be read.
    pub fn open(data: &Path) -> Result<Self, StoreError> {
        let index = data.join(INDEX);
        if !index.exists() {
            return Err(StoreError::Absent(data.to_owned()));
        }
        // SQLite reads a WAL file together with its companions. Where they are not there, nobody
        // writes, and to make them would be to write: so it is told that nothing changes.
        let still = !data.join(format!("{INDEX}-wal")).exists();
        let uri =
            format!("file:{}?mode=ro{}", escape(&index), if still { "&immutable=1" } else { "" });
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
        let connection = Connection::open_with_flags(uri, flags)?;
        connection.busy_timeout(super::BUSY)?;
        schema::version(&connection)?;
        Ok(Self { connection, objects: data.join(OBJECTS) })
    }

    /// All incidents, newest first.
    ///
    /// # Errors
    ///
    /// When the index cannot be read.
    pub fn incidents(&self) -> Result<Vec<Incident>, StoreError> {
        self.select("ORDER BY failed_at DESC, incident LIMIT ?1", LISTED)
    }

    /// The incident whose id begins with these digits.
    ///
    /// # Errors
    ///
    /// When the index cannot be read.
    pub fn find(&self, prefix: &str) -> Result<Find, StoreError> {
        let prefix: String = prefix.chars().filter(|c| *c != '-').collect();
        if !prefix.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(Find::Nothing);
        }
        let clause =
            "WHERE hex(incident) LIKE ?1 || '%' ORDER BY failed_at DESC, incident LIMIT 10";
        let mut found = self.select(clause, &prefix)?;
        Ok(match found.len() {
            0 => Find::Nothing,
            1 => Find::One(Box::new(found.remove(0))),
            _ => Find::Several(found.into_iter().map(|incident| incident.id).collect()),
        })
    }

    /// The bundle of an incident, if it is here.
    ///
    /// # Errors
    ///
    /// When the index or the file cannot be read.
    pub fn bundle(&self, incident: &Incident) -> Result<Option<Open>, StoreError> {
        let Some(digest) = incident.bundle else { return Ok(None) };
        let spki: Option<Vec<u8>> = self
            .connection
            .query_row(
                "SELECT spki FROM parcels WHERE device = ?1 AND digest = ?2",
                (&incident.device, digest.as_bytes()),
                |row| row.get(0),
            )
            .optional()?
            .flatten();
        let key = spki.and_then(|spki| PublicKey::from_spki(&spki));
        let key = key.ok_or(StoreError::Corrupt("key"))?;
        let bytes = objects::get(&self.objects, digest)?.ok_or(StoreError::Corrupt("bundle"))?;
        let bundle = match bundle::open(&bytes, &key) {
            Ok(Sealed::Bundle(bundle)) => Ok(bundle),
            Ok(Sealed::Headline(_)) => Err(OpenError::Lacks("bundle")),
            Err(error) => Err(error),
        };
        Ok(Some(Open { bytes, bundle }))
    }

    /// What is published for a device.
    ///
    /// # Errors
    ///
    /// When the index cannot be read.
    pub fn published(&self, device: &DeviceId) -> Result<Option<Published>, StoreError> {
        // An index that no later `run` has seen has no such table.
        let known = schema::version(&self.connection)? > 1;
        if known { bindings::published(&self.connection, device) } else { Ok(None) }
    }

    /// What a device last said of itself, and when.
    ///
    /// # Errors
    ///
    /// When the index cannot be read.
    pub fn status(&self, device: &DeviceId) -> Result<Option<(Timestamp, Vec<u8>)>, StoreError> {
        let found = self.connection.query_row(
            "SELECT seen_at, status FROM devices WHERE device = ?1 AND status IS NOT NULL",
            [device.as_str()],
            |row| Ok((Timestamp::from_millis(row.get(0)?), row.get(1)?)),
        );
        Ok(found.optional()?)
    }

    /// All dumps that were asked for.
    ///
    /// # Errors
    ///
    /// When the index cannot be read.
    pub fn dumps(&self) -> Result<Vec<Wanted>, StoreError> {
        if self.knows_dumps()? { dumps::all(&self.connection) } else { Ok(Vec::new()) }
    }

    /// What a device last said of its dumps, sealed.
    ///
    /// # Errors
    ///
    /// When the index cannot be read.
    pub fn kept(&self, device: &DeviceId) -> Result<Option<Vec<u8>>, StoreError> {
        if !self.knows_dumps()? {
            return Ok(None);
        }
        let sql = "SELECT kept FROM devices WHERE device = ?1";
        let found = self.connection.query_row(sql, [device.as_str()], |row| row.get(0));
        Ok(found.optional()?.flatten())
    }

    /// An index that no later `run` has seen knows of none.
    fn knows_dumps(&self) -> Result<bool, StoreError> {
        Ok(schema::version(&self.connection)? > 2)
    }

    fn select(
        &self,
        clause: &str,
        parameter: impl rusqlite::ToSql,
    ) -> Result<Vec<Incident>, StoreError> {
        let mut statement = self.connection.prepare(&format!(
            "SELECT incident, device, app, app_name, scenario, agent_version, failed_at, ended_at,
                 received_at, bundle, claimed, diagnosis
             FROM incidents {clause}"
        ))?;
        let rows = statement.query_map([parameter], incident)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

fn incident(row: &Row<'_>) -> rusqlite::Result<Incident> {
    let record = |column| -> rusqlite::Result<Option<Record>> {
        let text: Option<String> = row.get(column)?;
        Ok(text.as_deref().and_then(Record::from_json))
    };
    Ok(Incident {
        id: IncidentId::new(row.get(0)?),
        device: row.get(1)?,
        app: AppId::new(row.get(2)?),
        app_name: row.get(3)?,
        scenario: row.get(4)?,
        agent_version: row.get(5)?,
        failed_at: Timestamp::from_millis(row.get(6)?),
        ended_at: row.get::<_, Option<i64>>(7)?.map(Timestamp::from_millis),
        received_at: Timestamp::from_millis(row.get(8)?),
        bundle: row.get::<_, Option<[u8; 32]>>(9)?.map(Digest::new),
        claimed: record(10)?,
        diagnosis: record(11)?,
    })
}

/// A path as SQLite's URIs take it.
fn escape(path: &Path) -> String {
    let text = path.to_string_lossy();
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '%' => escaped.push_str("%25"),
            '?' => escaped.push_str("%3f"),
            '#' => escaped.push_str("%23"),
            other => escaped.push(other),
        }
    }
    escaped
}
