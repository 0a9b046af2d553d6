//! The tables, and how an older file becomes a newer one.
//!
//! `user_version` counts the steps of [`MIGRATIONS`] that a file has seen. A step, once released,
//! never changes; what is needed later is another step.

use super::{StoreError, signed};
use rusqlite::Connection;

const MIGRATIONS: [&str; 3] = [
    "
    CREATE TABLE devices (
        device   TEXT PRIMARY KEY,
        seen_at  INTEGER NOT NULL,
        status   BLOB
    ) STRICT;

    -- One row per incident id, made by its first headline or by its bundle, whichever comes first.
    CREATE TABLE incidents (
        incident       BLOB PRIMARY KEY CHECK (length(incident) = 16),
        device         TEXT NOT NULL,
        app            BLOB NOT NULL,
        app_name       TEXT NOT NULL,
        scenario       TEXT NOT NULL,
        agent_version  TEXT NOT NULL,
        failed_at      INTEGER NOT NULL,
        ended_at       INTEGER,
        received_at    INTEGER NOT NULL,
        revision       INTEGER NOT NULL DEFAULT 0,
        headline       BLOB,
        bundle         BLOB,
        -- What the device thinks, and what we think: JSON.
        claimed        TEXT,
        diagnosis      TEXT,
        -- How often a diagnosis was begun: what brings the program down is not tried for ever.
        attempts       INTEGER NOT NULL DEFAULT 0
    ) STRICT;
    CREATE INDEX incidents_in_time ON incidents (failed_at);

    -- What became of every bundle that was offered.
    CREATE TABLE parcels (
        device    TEXT NOT NULL,
        digest    BLOB NOT NULL,
        at        INTEGER NOT NULL,
        bytes     INTEGER NOT NULL,
        -- Stored: of which incident, and the key that it was verified with.
        incident  BLOB,
        spki      BLOB,
        -- Refused: why, and the name of the file in quarantine while it is there.
        refused   TEXT,
        reason    TEXT,
        kept      BLOB,
        PRIMARY KEY (device, digest)
    ) STRICT;
    CREATE INDEX parcels_refused ON parcels (at) WHERE refused IS NOT NULL;

    CREATE TABLE transfers (
        device   TEXT NOT NULL,
        digest   BLOB NOT NULL,
        total    INTEGER NOT NULL,
        -- Counts up: the lowest of a device is the one that was not heard of for longest.
        touched  INTEGER NOT NULL,
        PRIMARY KEY (device, digest)
    ) STRICT;

    CREATE TABLE chunks (
        device  TEXT NOT NULL,
        digest  BLOB NOT NULL,
        start   INTEGER NOT NULL,
        data    BLOB NOT NULL,
        PRIMARY KEY (device, digest, start),
        FOREIGN KEY (device, digest) REFERENCES transfers ON DELETE CASCADE
    ) STRICT;
",
    "
    -- What the controller says to each device, for the running one to say.
    CREATE TABLE bindings (
        device    TEXT PRIMARY KEY,
        sequence  INTEGER NOT NULL,
        at        INTEGER NOT NULL,
        sealed    BLOB NOT NULL
    ) STRICT;
",
    "
    -- Dumps that were asked for, and what has come of it.
    CREATE TABLE dumps (
        device     TEXT NOT NULL,
        digest     BLOB NOT NULL,
        name       TEXT NOT NULL,
        app        TEXT NOT NULL,
        format     TEXT NOT NULL,
        bytes      INTEGER NOT NULL,
        taken_at   INTEGER NOT NULL,
        asked_at   INTEGER NOT NULL,
        -- So many bytes, from the first, are on the disk.
        held       INTEGER NOT NULL DEFAULT 0,
        -- Why it does not go on now.
        hindered   TEXT,
        -- Since when all of it is here, and it is what was asked for.
        stored_at  INTEGER,
        -- Why it will never be.
        refused    TEXT,
        PRIMARY KEY (device, digest)
    ) STRICT;

    -- What a device last said of its dumps: it holds while the device is away.
    ALTER TABLE devices ADD COLUMN kept BLOB;
",
];

/// Brings a file up to what this program needs.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    while version(connection)? < MIGRATIONS.len() {
        let transaction = connection.transaction()?;
        // Another process may have been quicker.
        let seen = version(&transaction)?;
        if let Some(sql) = MIGRATIONS.get(seen) {
            transaction.execute_batch(sql)?;
            transaction.pragma_update(None, "user_version", signed(seen as u64 + 1))?;
        }
        transaction.commit()?;
    }
    Ok(())
}

/// Refuses a file that a later program has written.
pub(super) fn version(connection: &Connection) -> Result<usize, StoreError> {
    let seen: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    match usize::try_from(seen) {
        Ok(seen) if seen <= MIGRATIONS.len() => Ok(seen),
        Ok(_) | Err(_) => Err(StoreError::Newer(seen)),
    }
}
