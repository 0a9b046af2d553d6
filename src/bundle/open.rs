//! Opening: verify, then parse, then decompress within bounds.

use super::packed::unpack;
use super::wire::{Malformed, decode_bundle, decode_headline};
use super::{SCHEMA, Sealed};
use crate::base::id::Digest;
use crate::base::limits;
use crate::pb::{auth, v1};
use prost::Message;
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

/// The key that a device signs with: an uncompressed P-256 point.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PublicKey(Vec<u8>);

/// Why sealed bytes were not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Not even the envelope can be read.
    #[error("it is no sealed envelope")]
    Envelope(#[source] prost::DecodeError),
    /// The envelope lacks a part.
    #[error("the envelope has no {0}")]
    Lacks(&'static str),
    /// Signed by somebody else, or altered.
    #[error(
        "the signature does not fit the sender's certificate: altered, or signed by another key"
    )]
    Signature,
    /// Signed, but not readable.
    #[error("the payload cannot be read although its signature holds")]
    Payload(#[source] prost::DecodeError),
    /// Made by a later version.
    #[error("it needs a reader of schema {0}, this one reads up to {SCHEMA}")]
    Schema(u32),
    /// Compressed with a dictionary that only a later version has.
    #[error("it is compressed with dictionary {0}, which only a later version of this program has")]
    Dictionary(u32),
    /// Declares more than is ever decompressed.
    #[error("it declares {0} bytes, more than is ever unpacked")]
    Bomb(u64),
    /// Does not decompress to what it declares.
    #[error("it does not decompress to the {declared} bytes that it declares")]
    Decompress {
        /// What it declares.
        declared: u64,
    },
    /// Signed, but something else.
    #[error("it holds no {0}")]
    Other(&'static str),
    /// Lacks what we rely on.
    #[error("the message is not complete")]
    Malformed(#[from] Malformed),
}

impl PublicKey {
    /// From the DER of a certificate's SubjectPublicKeyInfo. `None`: it is no P-256 key.
    #[must_use]
    pub fn from_spki(spki: &[u8]) -> Option<Self> {
        /// SEQUENCE { SEQUENCE { id-ecPublicKey, prime256v1 }, BIT STRING of 65 bytes }: the only
        /// DER that a P-256 key has.
        const PREFIX: [u8; 26] = [
            0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06,
            0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
        ];
        let point = spki.strip_prefix(&PREFIX)?;
        (point.len() == 65 && point[0] == 4).then(|| Self(point.to_vec()))
    }
}

/// Who says to have signed these bytes: the hash of a certificate. Proves nothing yet; it only
/// tells which key to try.
///
/// # Errors
///
/// When the envelope cannot be read.
pub fn sender(bytes: &[u8]) -> Result<Digest, OpenError> {
    let container = auth::AuthContainer::decode(bytes).map_err(OpenError::Envelope)?;
    if container.algo() != auth::HashAlgorithm::Sha25632bytes {
        return Err(OpenError::Lacks("SHA-256 of its sender"));
    }
    Digest::try_from(&*container.sender_cert_hash).map_err(|_| OpenError::Lacks("sender"))
}

/// Opens what was sealed with the key behind `key`.
///
/// # Errors
///
/// When it was not sealed with that key, was altered, or is not of a form that is believed.
pub fn open(bytes: &[u8], key: &PublicKey) -> Result<Sealed, OpenError> {
    match verified(bytes, key)? {
        v1::sealed::What::Headline(headline) => Ok(Sealed::Headline(decode_headline(headline)?)),
        v1::sealed::What::Bundle(packed) => {
            let body = unpack(&packed, limits::BODY_BYTES)?;
            let bundle = v1::Bundle::decode(&*body).map_err(OpenError::Payload)?;
            Ok(Sealed::Bundle(decode_bundle(bundle)?))
        }
        v1::sealed::What::Bindings(_) | v1::sealed::What::Kept(_) => {
            Err(OpenError::Other("evidence"))
        }
    }
}

/// What these bytes hold, once their signature is known to fit the key.
pub(super) fn verified(bytes: &[u8], key: &PublicKey) -> Result<v1::sealed::What, OpenError> {
    payload(bytes, key)?.what.ok_or(OpenError::Lacks("content"))
}

/// The same with the schema that it needs.
pub(super) fn payload(bytes: &[u8], key: &PublicKey) -> Result<v1::Sealed, OpenError> {
    let container = auth::AuthContainer::decode(bytes).map_err(OpenError::Envelope)?;
    let payload = container.protected_payload.ok_or(OpenError::Lacks("payload"))?.payload;
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &key.0)
        .verify(&payload, &container.signature_hash)
        .map_err(|_| OpenError::Signature)?;
    let sealed = v1::Sealed::decode(&*payload).map_err(OpenError::Payload)?;
    if sealed.schema > SCHEMA {
        return Err(OpenError::Schema(sealed.schema));
    }
    Ok(sealed)
}
