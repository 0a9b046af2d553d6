//! What an incident is when it travels: sealed, so that nobody can alter it, and small.
//!
//! ```text
//!   Bundle --wire--> bytes --zstd--> Packed --+
//!                                             +--> Sealed --sign--> AuthContainer   (what is sent)
//!   Headline ---------------------------------+
//! ```
//!
//! Opening goes the other way and never looks at a byte of the payload before its signature held:
//! [`open`] takes the key that the bytes must be signed with. Decompression stops at the declared
//! size and at [`crate::base::limits::BODY_BYTES`], whichever is less.
//!
//! The controller seals one thing of its own, [`Bindings`], in the same envelope, and a device the list
//! of dumps that it has kept, [`KeptDumps`]. Each is opened by a function of its own: what a device says
//! and what is said to a device are never taken for one another.
//!
//! Compression knows what kernels always say, by a dictionary that both sides have (`packed`). For somebody who
//! may not see everything there is [`redact`].
//!
//! This room does no IO: keys come in as bytes, and what is sealed goes out as bytes.

mod bindings;
mod dumps;
mod open;
mod packed;
mod redact;
mod seal;
mod verify;
mod wire;

pub use bindings::{Bindings, Text, open_bindings};
pub use dumps::{Dump, KeptDumps, open_kept};
pub use open::{OpenError, PublicKey, open, sender};
pub use redact::{Source, redact};
pub use seal::{KeyError, SealError, Signer};
pub use verify::{Holds, Packed, Verified, verify};

use crate::base::id::{AppId, DeviceId, Digest, IncidentId, ScenarioName};
use crate::base::time::{Instant, Timestamp};
use crate::diagnosis::Diagnosis;
use crate::evidence::Artifact;
use crate::evidence::report::StepReport;

/// What this program reads. It seals with the lowest schema that will do: 2 where a dictionary is needed.
pub const SCHEMA: u32 = 2;

/// What was sealed.
#[derive(Clone, Debug, PartialEq)]
pub enum Sealed {
    /// What there is to say before anything else.
    Headline(Headline),
    /// The evidence.
    Bundle(Bundle),
}

/// The evidence of one incident.
#[derive(Clone, Debug, PartialEq)]
pub struct Bundle {
    /// Whose incident.
    pub origin: Origin,
    /// What was tried, and what came of it.
    pub steps: Vec<StepReport>,
    /// What the device thinks of it.
    pub diagnosis: Diagnosis,
    /// What was brought.
    pub artifacts: Vec<Artifact>,
    /// What is no longer in it, if somebody has redacted it.
    pub redaction: Option<Redaction>,
}

/// What somebody took out of a bundle, and of which.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Redaction {
    /// SHA-256 of the sealed bundle that it was made from.
    pub of: Digest,
    /// SHA-256 of the certificate of who sealed that.
    pub sealed_by: Digest,
    /// The version of the program whose rules these were.
    pub program: String,
    /// The rules that masked something, and how often.
    pub masked: Vec<(String, u64)>,
    /// Artifacts of which nothing could stay.
    pub left_out: Vec<String>,
}

/// What there is to say of an incident in at most [`crate::base::limits::HEADLINE_BYTES`].
#[derive(Clone, Debug, PartialEq)]
pub struct Headline {
    /// Whose incident.
    pub origin: Origin,
    /// What the device thinks of it by now.
    pub diagnosis: Option<Diagnosis>,
    /// Where the evidence stands.
    pub stage: Stage,
    /// When it ended, once it has.
    pub ended: Option<Timestamp>,
    /// Counts up with every change: the highest one holds.
    pub revision: u32,
    /// How often the same was seen, if the stage is [`Stage::Counted`].
    pub repeats: Option<Repeats>,
}

/// What was seen before, and how often.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Repeats {
    /// So many times,
    pub count: u32,
    /// first
    pub first: Timestamp,
    /// and last.
    pub last: Timestamp,
    /// The incident whose evidence tells of all of them, if there is one.
    pub full: Option<IncidentId>,
}

/// Where the evidence stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stage {
    /// It is being collected.
    Capturing,
    /// The bundle is sealed and on its way.
    Sealed,
    /// No bundle comes: it is one of many that are alike.
    Counted,
}

/// Whose incident, and when it began.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Origin {
    /// Its name.
    pub incident: IncidentId,
    /// The device that saw it.
    pub device: DeviceId,
    /// The app that failed.
    pub app: AppId,
    /// What people call the app.
    pub app_name: String,
    /// The scenario that found out.
    pub scenario: ScenarioName,
    /// The program that found out.
    pub agent_version: String,
    /// When the app was declared failed, as the device believes,
    pub failed_at: Timestamp,
    /// and by the clock that nobody sets,
    pub failed_uptime: Instant,
    /// of this boot of the device.
    pub boot_id: [u8; 16],
}

#[cfg(test)]
mod tests;
