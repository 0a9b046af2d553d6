//! Incidents: made by a headline or a bundle, whichever comes first; exactly one per incident id.

use super::{Parcel, Record, Store, StoreError};
use crate::base::id::{Digest, IncidentId};
use crate::base::time::Timestamp;
use crate::bundle::{Headline, Origin};
use crate::controller::verify::Refusal;
use crate::diagnosis::Diagnosis;
use rusqlite::{Connection, OptionalExtension, Transaction};
use std::collections::BTreeMap;

/// A diagnosis that was begun this often and never ended brings the program down: it is left alone.
const ATTEMPTS: i64 = 3;

/// A bundle that is stored, but not diagnosed yet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pending {
    /// Which incident.
    pub incident: IncidentId,
    /// The sealed bundle.
    pub bytes: Vec<u8>,
    /// The key to open it with.
    pub spki: Vec<u8>,
}

impl Store {
    /// Notes what a headline says, unless a later one was here before it.
    ///
    /// # Errors
    ///
    /// When it is not on the disk.
    pub fn keep_headline(
        &mut self,
        headline: &Headline,
        sealed: &[u8],
        at: Timestamp,
    ) -> Result<Result<(), Refusal>, StoreError> {
        if let Err(taken) = check_owner(&self.connection, &headline.origin)? {
            return Ok(Err(taken));
        }
        let transaction = self.connection.transaction()?;
        begin(&transaction, &headline.origin, at)?;
        transaction.execute(
            "UPDATE incidents SET revision = ?2, headline = ?3,
                 ended_at = coalesce(?4, ended_at), claimed = coalesce(?5, claimed)
             WHERE incident = ?1 AND (revision < ?2 OR headline IS NULL)",
            (
                headline.origin.incident.as_bytes(),
                headline.revision,
                sealed,
                headline.ended.map(Timestamp::as_millis),
                headline.diagnosis.as_ref().map(json),
            ),
        )?;
        transaction.commit()?;
        Ok(Ok(()))
    }

    /// A bundle to diagnose, if there is one. It is noted that it was begun.
    ///
    /// # Errors
    ///
    /// When the index or the file cannot be read.
    pub fn begin_diagnosis(&mut self) -> Result<Option<Pending>, StoreError> {
        let found: Option<([u8; 16], [u8; 32], Vec<u8>)> = self
            .connection
            .prepare_cached(
                "SELECT i.incident, i.bundle, p.spki FROM incidents i
                 JOIN parcels p ON p.device = i.device AND p.digest = i.bundle
                 WHERE i.diagnosis IS NULL AND i.attempts < ?1 AND p.spki IS NOT NULL LIMIT 1",
            )?
            .query_row([ATTEMPTS], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .optional()?;
        let Some((incident, digest, spki)) = found else { return Ok(None) };
        self.connection.execute(
            "UPDATE incidents SET attempts = attempts + 1 WHERE incident = ?1",
            [&incident],
        )?;
        let bytes = self.objects.get(Digest::new(digest))?.unwrap_or_default();
        Ok(Some(Pending { incident: IncidentId::new(incident), bytes, spki }))
    }

    /// Keeps what we think of an incident.
    ///
    /// # Errors
    ///
    /// When it is not on the disk.
    pub fn keep_diagnosis(
        &mut self,
        incident: IncidentId,
        diagnosis: &Diagnosis,
    ) -> Result<(), StoreError> {
        self.connection.execute(
            "UPDATE incidents SET diagnosis = ?2 WHERE incident = ?1",
            (incident.as_bytes(), json(diagnosis)),
        )?;
        Ok(())
    }

    /// How many incidents there are of each class; those without a diagnosis are `unknown`.
    ///
    /// # Errors
    ///
    /// When the index cannot be read.
    pub fn classes(&self) -> Result<BTreeMap<String, i64>, StoreError> {
        let mut statement = self.connection.prepare_cached(
            "SELECT coalesce(coalesce(diagnosis, claimed) ->> '$.class', 'unknown'), count(*)
             FROM incidents GROUP BY 1",
        )?;
        let rows = statement.query_map((), |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

/// Whether the incident is new or this device's own.
pub(super) fn check_owner(
    connection: &Connection,
    origin: &Origin,
) -> Result<Result<(), Refusal>, StoreError> {
    let owner: Option<String> = connection
        .prepare_cached("SELECT device FROM incidents WHERE incident = ?1")?
        .query_row([origin.incident.as_bytes()], |row| row.get(0))
        .optional()?;
    Ok(match owner {
        Some(owner) if owner != origin.device.as_str() => Err(Refusal::Taken {
            incident: origin.incident,
            owner: owner.parse().map_err(|_| StoreError::Corrupt("device"))?,
        }),
        Some(_) | None => Ok(()),
    })
}

fn begin(transaction: &Transaction<'_>, origin: &Origin, at: Timestamp) -> Result<(), StoreError> {
    transaction.execute(
        "INSERT INTO incidents (incident, device, app, app_name, scenario, agent_version,
             failed_at, received_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT DO NOTHING",
        (
            origin.incident.as_bytes(),
            origin.device.as_str(),
            origin.app.as_bytes(),
            &origin.app_name,
            origin.scenario.as_str(),
            &origin.agent_version,
            origin.failed_at.as_millis(),
            at.as_millis(),
        ),
    )?;
    Ok(())
}

/// Joins a bundle to its incident. Another bundle of the same incident goes before an earlier one,
/// and is diagnosed anew.
pub(super) fn complete(
    transaction: &Transaction<'_>,
    parcel: &Parcel<'_>,
) -> Result<(), StoreError> {
    let origin = &parcel.bundle.origin;
    begin(transaction, origin, parcel.at)?;
    transaction.execute(
        "UPDATE incidents SET bundle = ?2, claimed = ?3, diagnosis = NULL, attempts = 0
         WHERE incident = ?1 AND bundle IS NOT ?2",
        (origin.incident.as_bytes(), parcel.digest.as_bytes(), json(&parcel.bundle.diagnosis)),
    )?;
    Ok(())
}

fn json(diagnosis: &Diagnosis) -> String {
    Record::from(diagnosis).to_json()
}
