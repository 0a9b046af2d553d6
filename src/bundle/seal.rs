//! Sealing: encode, compress, sign.

use super::packed::{LATEST, pack};
use super::wire::{encode_bundle, encode_headline};
use super::{Bundle, Headline};
use crate::base::id::Digest;
use crate::base::limits;
use crate::diagnosis::Diagnosis;
use crate::pb::{auth, v1};
use prost::Message;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};

/// Seals in the name of a device, or of a controller.
pub struct Signer {
    key: EcdsaKeyPair,
    certificate: Digest,
    random: SystemRandom,
}

/// Why a key cannot sign.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Not a P-256 key in PKCS#8.
    #[error("the key is no ECDSA P-256 key in PKCS#8 form ({0})")]
    Form(ring::error::KeyRejected),
}

/// Why something cannot be sealed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// More than the wire takes.
    #[error("{size} bytes where {limit} are allowed")]
    TooLarge {
        /// How much there is.
        size: u64,
        /// How much may be.
        limit: u64,
    },
    /// zstd failed.
    #[error("failed to compress the evidence")]
    Compress(#[source] std::io::Error),
    /// ring failed.
    #[error("failed to sign: no random numbers")]
    Sign,
}

impl Signer {
    /// From a PKCS#8 key and the DER of the certificate that vouches for it.
    ///
    /// # Errors
    ///
    /// When the key is of another kind.
    pub fn new(pkcs8: &[u8], certificate: &[u8]) -> Result<Self, KeyError> {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8, &random)
            .map_err(KeyError::Form)?;
        Ok(Self { key, certificate: Digest::of(certificate), random })
    }

    /// Seals a bundle.
    ///
    /// # Errors
    ///
    /// When it is larger than the wire takes, even compressed.
    pub fn seal_bundle(&self, bundle: &Bundle) -> Result<Vec<u8>, SealError> {
        let packed = pack(encode_bundle(bundle), limits::BODY_BYTES, Some(LATEST))?;
        let sealed = self.sign(v1::sealed::What::Bundle(packed))?;
        within(sealed.len() as u64, limits::BUNDLE_BYTES)?;
        Ok(sealed)
    }

    /// Seals a headline. Facts that do not fit are left out, from the last.
    ///
    /// # Errors
    ///
    /// When it is too large without any fact.
    pub fn seal_headline(&self, headline: &Headline) -> Result<Vec<u8>, SealError> {
        let mut headline = headline.clone();
        loop {
            let what = v1::sealed::What::Headline(encode_headline(&headline));
            let sealed = self.sign(what)?;
            if sealed.len() <= limits::HEADLINE_BYTES {
                return Ok(sealed);
            }
            if !headline.diagnosis.as_mut().is_some_and(drop_a_fact) {
                within(sealed.len() as u64, limits::HEADLINE_BYTES as u64)?;
            }
        }
    }

    pub(super) fn sign(&self, what: v1::sealed::What) -> Result<Vec<u8>, SealError> {
        let payload = v1::Sealed { schema: schema(&what), what: Some(what) }.encode_to_vec();
        let signature = self.key.sign(&self.random, &payload).map_err(|_| SealError::Sign)?;
        let container = auth::AuthContainer {
            protected_payload: Some(auth::AuthBody { payload }),
            algo: auth::HashAlgorithm::Sha25632bytes.into(),
            sender_cert_hash: self.certificate.as_bytes().to_vec(),
            signature_hash: signature.as_ref().to_vec(),
            sender_cert: Vec::new(),
        };
        Ok(container.encode_to_vec())
    }
}

/// The lowest that will do: whoever has no dictionaries must refuse what needs one, and say so.
fn schema(what: &v1::sealed::What) -> u32 {
    match what {
        v1::sealed::What::Bundle(packed) if packed.dictionary != 0 => 2,
        v1::sealed::What::Bundle(_)
        | v1::sealed::What::Headline(_)
        | v1::sealed::What::Bindings(_)
        | v1::sealed::What::Kept(_) => 1,
    }
}

pub(super) fn within(size: u64, limit: u64) -> Result<(), SealError> {
    if size <= limit { Ok(()) } else { Err(SealError::TooLarge { size, limit }) }
}

fn drop_a_fact(diagnosis: &mut Diagnosis) -> bool {
    diagnosis.facts_against.pop().or_else(|| diagnosis.facts_for.pop()).is_some()
}
