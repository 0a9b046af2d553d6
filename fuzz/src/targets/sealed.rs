//! What a device seals with a key that is its own, and right: that it is who it says does not make it honest.

use lifesign::bundle::PublicKey;
use lifesign::pb::{auth, v1};
use prost::Message;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};

/// What stands before the point of a P-256 key.
const SPKI: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// A device's key, another one each time.
pub(super) struct Device {
    key: EcdsaKeyPair,
    random: SystemRandom,
    pub(super) public: PublicKey,
}

/// How a message is packed.
#[derive(Clone, Copy)]
pub(super) enum Form {
    /// As it is.
    Payload,
    /// As the body of a bundle.
    Bundle,
    /// As the body of bindings.
    Bindings,
}

impl Device {
    pub(super) fn new() -> Self {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random)
            .expect("there are random numbers");
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.as_ref(), &random)
            .expect("a key that was made just now");
        let spki = [&SPKI[..], key.public_key().as_ref()].concat();
        let public = PublicKey::from_spki(&spki).expect("a key of the right kind");
        Self { key, random, public }
    }

    /// Seals any bytes.
    pub(super) fn seal(&self, form: Form, message: &[u8]) -> Vec<u8> {
        let zstd = || zstd::bulk::compress(message, 1).expect("memory is enough");
        let packed = || v1::Packed { size: message.len() as u64, zstd: zstd(), dictionary: 0 };
        let sealed = |what| v1::Sealed { schema: 1, what: Some(what) }.encode_to_vec();
        let payload = match form {
            Form::Payload => message.to_vec(),
            Form::Bundle => sealed(v1::sealed::What::Bundle(packed())),
            Form::Bindings => sealed(v1::sealed::What::Bindings(packed())),
        };
        let signature = self.key.sign(&self.random, &payload).expect("there are random numbers");
        let container = auth::AuthContainer {
            protected_payload: Some(auth::AuthBody { payload }),
            algo: auth::HashAlgorithm::Sha25632bytes.into(),
            sender_cert_hash: vec![7; 32],
            signature_hash: signature.as_ref().to_vec(),
            sender_cert: Vec::new(),
        };
        container.encode_to_vec()
    }
}
