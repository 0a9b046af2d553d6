//! Sealed bytes looked at for their own sake: who sealed what, how, and how large it is.

use super::open::{OpenError, PublicKey, open, payload, sender};
use super::{Bindings, Bundle, Headline, KeptDumps, Sealed, open_bindings, open_kept};
use crate::base::id::Digest;
use crate::pb::v1::sealed::What;

/// What is known of sealed bytes once their signature held.
#[derive(Clone, Debug)]
pub struct Verified {
    /// SHA-256 of them: their name on the wire.
    pub digest: Digest,
    /// How many they are.
    pub bytes: u64,
    /// SHA-256 of the certificate that they name. That the key fits is proven, that it is of this certificate
    /// is for whoever has it to see.
    pub sender: Digest,
    /// The reader that they need.
    pub schema: u32,
    /// How they are packed, if they are.
    pub packed: Option<Packed>,
    /// What they hold.
    pub holds: Holds,
}

/// How something is packed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Packed {
    /// The dictionary; 0: none.
    pub dictionary: u32,
    /// Compressed.
    pub bytes: u64,
    /// Unpacked.
    pub body_bytes: u64,
}

/// What sealed bytes hold.
#[derive(Clone, Debug)]
pub enum Holds {
    /// What there is to say before anything else.
    Headline(Headline),
    /// The evidence of an incident.
    Bundle(Bundle),
    /// What a controller binds on a device.
    Bindings(Bindings),
    /// The dumps that a device keeps.
    Kept(KeptDumps),
}

/// Verifies whatever was sealed with the key behind `key`, and reads it to its end.
///
/// # Errors
///
/// When it was not sealed with that key, was altered, or is not of a form that is believed.
pub fn verify(bytes: &[u8], key: &PublicKey) -> Result<Verified, OpenError> {
    let sealed = payload(bytes, key)?;
    let (packed, holds) = match sealed.what.ok_or(OpenError::Lacks("content"))? {
        What::Bindings(packed) => (Some(packed), Holds::Bindings(open_bindings(bytes, key)?)),
        What::Kept(_) => (None, Holds::Kept(open_kept(bytes, key)?)),
        What::Bundle(packed) => (Some(packed), evidence(bytes, key)?),
        What::Headline(_) => (None, evidence(bytes, key)?),
    };
    Ok(Verified {
        digest: Digest::of(bytes),
        bytes: bytes.len() as u64,
        sender: sender(bytes)?,
        schema: sealed.schema,
        packed: packed.map(|packed| Packed {
            dictionary: packed.dictionary,
            bytes: packed.zstd.len() as u64,
            body_bytes: packed.size,
        }),
        holds,
    })
}

fn evidence(bytes: &[u8], key: &PublicKey) -> Result<Holds, OpenError> {
    Ok(match open(bytes, key)? {
        Sealed::Headline(headline) => Holds::Headline(headline),
        Sealed::Bundle(bundle) => Holds::Bundle(bundle),
    })
}
