//! The same for programs. Fields are added, never renamed.

use super::{Found, broken, state};
use crate::controller::store::{Incident, Open, Record};
use crate::report::Contents;
use serde::Serialize;

#[derive(Serialize)]
struct Row<'a> {
    incident: String,
    device: &'a str,
    app: String,
    app_name: &'a str,
    scenario: &'a str,
    agent_version: &'a str,
    state: &'static str,
    failed_unix_ms: i64,
    ended_unix_ms: Option<i64>,
    received_unix_ms: i64,
    bundle_sha256: Option<String>,
    /// What the controller thinks.
    diagnosis: Option<&'a Record>,
    /// What the device thinks.
    claimed: Option<&'a Record>,
}

#[derive(Serialize)]
struct Full<'a> {
    #[serde(flatten)]
    row: Row<'a>,
    bundle: Option<Contents>,
    /// Why the bundle cannot be read, if so.
    broken: Option<String>,
}

/// A list.
pub(super) fn incidents(incidents: &[Incident]) -> String {
    let rows: Vec<Row<'_>> = incidents.iter().map(row).collect();
    pretty(&rows)
}

/// One object.
pub(super) fn incident(found: &Found) -> String {
    let (bundle, failure) = match &found.open {
        Ok(Some(Open { bytes, bundle: Ok(opened) })) => {
            (Some(Contents::new(bytes.len(), opened)), None)
        }
        Ok(Some(Open { bundle: Err(error), .. })) => (None, Some(broken(error))),
        Ok(None) => (None, None),
        Err(error) => (None, Some(broken(error))),
    };
    pretty(&Full { row: row(&found.incident), bundle, broken: failure })
}

fn pretty(value: &impl Serialize) -> String {
    let mut text = serde_json::to_string_pretty(value).expect("plain data becomes JSON");
    text.push('\n');
    text
}

fn row(incident: &Incident) -> Row<'_> {
    Row {
        incident: incident.id.to_string(),
        device: &incident.device,
        app: incident.app.to_string(),
        app_name: &incident.app_name,
        scenario: &incident.scenario,
        agent_version: &incident.agent_version,
        state: state(incident),
        failed_unix_ms: incident.failed_at.as_millis(),
        ended_unix_ms: incident.ended_at.map(|at| at.as_millis()),
        received_unix_ms: incident.received_at.as_millis(),
        bundle_sha256: incident.bundle.map(|digest| digest.to_string()),
        diagnosis: incident.diagnosis.as_ref(),
        claimed: incident.claimed.as_ref(),
    }
}
