//! Whether sealed bytes are believed: the sender is enrolled and valid today, the signature holds,
//! and the device that the certificate, the topic and the signed origin name is one and the same.
//! No IO but the reread of [`Enrolled`].

use super::identity::{Enrolled, Sender, Stranger};
use super::transfer::Absurd;
use crate::base::chain::Chain;
use crate::base::id::{DeviceId, Digest, IncidentId};
use crate::base::time::{Instant, Timestamp};
use crate::bundle::{self, OpenError, Origin, Sealed};

/// What is believed, and of whom.
pub struct Verified {
    /// What was said.
    pub sealed: Sealed,
    /// Who said it.
    pub sender: Sender,
}

/// The clocks, as a value.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// By the clock that nobody sets.
    pub instant: Instant,
    /// By the one on the wall.
    pub wall: Timestamp,
}

/// Why something is not taken. What the device is told is this and its causes.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Who signed is not believed.
    #[error(transparent)]
    Stranger(#[from] Stranger),
    /// Nobody enrolled the device that the topic names.
    #[error(
        "no certificate is enrolled for {0}: put it as {0}.pem into the controller's directory of \
         devices"
    )]
    NotEnrolled(DeviceId),
    /// It came on the topic of another device.
    #[error("it was signed by {signed}, but came on the topic of {topic}")]
    Topic {
        /// Whose certificate.
        signed: DeviceId,
        /// Whose topic.
        topic: DeviceId,
    },
    /// It speaks for another device.
    #[error("it was signed by {signed}, but says that it comes from {origin}")]
    Origin {
        /// Whose certificate.
        signed: DeviceId,
        /// Who it says to be.
        origin: DeviceId,
    },
    /// It cannot be opened.
    #[error("it cannot be opened")]
    Seal(#[source] OpenError),
    /// Another thing is expected on this topic.
    #[error("a {0} is expected on this topic")]
    Misplaced(&'static str),
    /// A chunk that makes no sense.
    #[error(transparent)]
    Absurd(#[from] Absurd),
    /// Two chunks say different things of the same bytes, or of the size.
    #[error("the chunk at {0} contradicts what was sent before under the same digest")]
    Contradiction(u64),
    /// All chunks are here, but they are something else.
    #[error("what was sent has the SHA-256 {0}, not the one that was announced")]
    Digest(Digest),
    /// A dump that is not wanted.
    #[error("nobody has asked for this dump, or not any more")]
    Unasked,
    /// A dump of another size than the device had told.
    #[error("it has {offered} bytes, where a dump of {told} was told of under this digest")]
    Size {
        /// What the chunk says.
        offered: u64,
        /// What the list said.
        told: u64,
    },
    /// The incident is another device's.
    #[error("incident {incident} was reported by {owner}")]
    Taken {
        /// Which incident.
        incident: IncidentId,
        /// Whose it is.
        owner: DeviceId,
    },
}

impl Refusal {
    /// The word for it in metrics and in the store.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Stranger(Stranger::Unknown(_)) => "unknown-sender",
            Self::Stranger(_) => "certificate",
            Self::NotEnrolled(_) => "not-enrolled",
            Self::Topic { .. } | Self::Origin { .. } => "wrong-device",
            Self::Seal(OpenError::Signature) => "signature",
            Self::Seal(_) | Self::Misplaced(_) => "malformed",
            Self::Absurd(_) => "absurd-chunk",
            Self::Contradiction(_) => "contradiction",
            Self::Digest(_) => "digest",
            Self::Unasked => "unasked",
            Self::Size { .. } => "size",
            Self::Taken { .. } => "taken",
        }
    }

    /// All that the device is told.
    #[must_use]
    pub fn reason(&self) -> String {
        Chain(self).to_string()
    }

    /// Whether an operator may have put it right in the meantime, so that asking again is worth it.
    #[must_use]
    pub fn may_pass(word: &str) -> bool {
        matches!(word, "unknown-sender" | "certificate" | "not-enrolled")
    }
}

/// Opens what came on the topic of `topic`, if it is to be believed.
///
/// # Errors
///
/// Why it is not.
pub fn verify(
    bytes: &[u8],
    topic: &DeviceId,
    enrolled: &mut Enrolled,
    now: Now,
) -> Result<Verified, Refusal> {
    let certificate = bundle::sender(bytes).map_err(Refusal::Seal)?;
    let sender = enrolled.sender(certificate, now.instant, now.wall)?;
    if sender.device != *topic {
        return Err(Refusal::Topic { signed: sender.device, topic: topic.clone() });
    }
    let sealed = bundle::open(bytes, &sender.key).map_err(Refusal::Seal)?;
    let origin = &origin_of(&sealed).device;
    if *origin != sender.device {
        return Err(Refusal::Origin { signed: sender.device, origin: origin.clone() });
    }
    Ok(Verified { sealed, sender })
}

fn origin_of(sealed: &Sealed) -> &Origin {
    match sealed {
        Sealed::Headline(headline) => &headline.origin,
        Sealed::Bundle(bundle) => &bundle.origin,
    }
}
