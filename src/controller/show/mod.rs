//! What an operator reads: the list of incidents, one of them in full, an artifact, a bundle, and
//! what became of published bindings and of dumps that were asked for.
//!
//! Everything here gives text or bytes back, or says in a sentence why there is none; printing is
//! the program's. Whatever a guest or a device wrote is made harmless on its way into text, and
//! raw only as an artifact that was asked for by name.

mod bindings;
mod dumps;
mod json;
mod list;
mod report;

pub use bindings::bindings;
pub use dumps::text as dumps;

use super::store::{Find, Incident, Open, Reader, StoreError};
use crate::base::chain::Chain;
use crate::base::id::IncidentId;
use crate::base::time::Timestamp;
use crate::bundle::OpenError;
use crate::evidence::Artifact;
use std::path::Path;

/// How text is to look.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// With colours, for a terminal.
    pub colour: bool,
    /// For how long something lasts by now.
    pub now: Timestamp,
}

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
pub enum ShowError {
    /// The store cannot be read.
    #[error("failed to read what was received")]
    Store(#[from] StoreError),
    /// No such incident.
    #[error("no incident begins with `{0}`: `lifesign-controller incidents` lists them")]
    Nothing(String),
    /// More than one.
    #[error("several incidents begin with `{prefix}`, give more digits: {}", ids.join(", "))]
    Several {
        /// What was asked for.
        prefix: String,
        /// What there is.
        ids: Vec<String>,
    },
    /// Announced, but not here.
    #[error(
        "the bundle of incident {0} is not here yet: the device sends it when its link and its \
         budget allow"
    )]
    NoBundle(IncidentId),
    /// The file is not what was stored.
    #[error("the stored bundle of incident {0} does not open: check the disk of the controller")]
    Broken(IncidentId, #[source] OpenError),
    /// No such artifact.
    #[error("the bundle has no artifact `{name}`; it has: {}", names.join(", "))]
    NoArtifact {
        /// What was asked for.
        name: String,
        /// What there is.
        names: Vec<String>,
    },
}

/// An incident and, once it is here, its bundle. One that cannot be read from the disk does not hide
/// what is known of the incident.
struct Found {
    incident: Incident,
    open: Result<Option<Open>, StoreError>,
}

/// The list of incidents, newest first.
///
/// # Errors
///
/// When the store cannot be read.
pub fn incidents(data: &Path, style: Style) -> Result<String, ShowError> {
    Ok(list::text(&Reader::open(data)?.incidents()?, style))
}

/// The same for programs: a JSON list.
///
/// # Errors
///
/// When the store cannot be read.
pub fn incidents_json(data: &Path) -> Result<String, ShowError> {
    Ok(json::incidents(&Reader::open(data)?.incidents()?))
}

/// One incident in full.
///
/// # Errors
///
/// When there is not exactly one, or it cannot be read.
pub fn incident(data: &Path, prefix: &str, style: Style) -> Result<String, ShowError> {
    Ok(report::text(&find(data, prefix)?, style))
}

/// The same for programs: a JSON object.
///
/// # Errors
///
/// When there is not exactly one, or it cannot be read.
pub fn incident_json(data: &Path, prefix: &str) -> Result<String, ShowError> {
    Ok(json::incident(&find(data, prefix)?))
}

/// The bytes of an artifact, as the guest or the hypervisor gave them.
///
/// # Errors
///
/// When there is no such incident, bundle or artifact.
pub fn artifact(data: &Path, prefix: &str, name: &str) -> Result<Vec<u8>, ShowError> {
    let Found { incident, open } = find(data, prefix)?;
    let open = open?.ok_or(ShowError::NoBundle(incident.id))?;
    let bundle = open.bundle.map_err(|source| ShowError::Broken(incident.id, source))?;
    let names: Vec<String> = bundle.artifacts.iter().map(Artifact::label).collect();
    let found = names.iter().position(|own| own == name);
    match found.and_then(|at| bundle.artifacts.into_iter().nth(at)) {
        Some(artifact) => Ok(artifact.data),
        None => Err(ShowError::NoArtifact { name: name.to_owned(), names }),
    }
}

/// The sealed bundle, byte for byte as the device sealed it.
///
/// # Errors
///
/// When there is no such incident or bundle.
pub fn sealed(data: &Path, prefix: &str) -> Result<Vec<u8>, ShowError> {
    let Found { incident, open } = find(data, prefix)?;
    Ok(open?.ok_or(ShowError::NoBundle(incident.id))?.bytes)
}

fn find(data: &Path, prefix: &str) -> Result<Found, ShowError> {
    let reader = Reader::open(data)?;
    match reader.find(prefix)? {
        Find::One(incident) => {
            let open = reader.bundle(&incident);
            Ok(Found { incident: *incident, open })
        }
        Find::Several(ids) => {
            let ids = ids.iter().map(ToString::to_string).collect();
            Err(ShowError::Several { prefix: prefix.to_owned(), ids })
        }
        Find::Nothing => Err(ShowError::Nothing(prefix.to_owned())),
    }
}

/// Where an incident stands.
fn state(incident: &Incident) -> &'static str {
    match (incident.ended_at, incident.bundle) {
        (Some(_), _) => "ended",
        (None, Some(_)) => "stored",
        (None, None) => "capturing",
    }
}

impl Style {
    fn text(self) -> crate::report::Style {
        crate::report::Style { colour: self.colour }
    }
}

/// Why a bundle does not open, for a report.
fn broken(error: &dyn std::error::Error) -> String {
    format!("the stored bundle does not open ({}): check the disk", Chain(error))
}
