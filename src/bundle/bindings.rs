//! What the controller binds on a device, sealed in its name.

use super::open::{OpenError, PublicKey, verified};
use super::packed::{pack, unpack};
use super::seal::{SealError, Signer, within};
use super::wire::Malformed;
use crate::base::id::{DeviceId, Digest, Invalid};
use crate::base::limits;
use crate::pb::v1;
use prost::Message;

/// All that the controller binds on one device.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Bindings {
    /// The device that is meant.
    pub device: DeviceId,
    /// Counts up with every change.
    pub sequence: u64,
    /// The scenarios that come with it.
    pub scenarios: Vec<Text>,
    /// The bindings file.
    pub bindings: Text,
    /// The dumps that it wishes to have.
    pub dumps: Vec<Digest>,
}

/// A file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Text {
    /// Its name, for people.
    pub name: String,
    /// All of it.
    pub text: String,
}

impl Signer {
    /// Seals bindings. Only a controller's signature on them counts.
    ///
    /// # Errors
    ///
    /// When they are larger than one message may be.
    pub fn seal_bindings(&self, bindings: &Bindings) -> Result<Vec<u8>, SealError> {
        // Without a dictionary: there are devices that have none.
        let parts = std::iter::once(encode(bindings));
        let packed = pack(parts, limits::BINDINGS_BODY_BYTES, None)?;
        let sealed = self.sign(v1::sealed::What::Bindings(packed))?;
        within(sealed.len() as u64, limits::BINDINGS_BYTES as u64)?;
        Ok(sealed)
    }
}

/// Opens bindings that were sealed with the key behind `key`, the controller's.
///
/// # Errors
///
/// When they were not sealed with that key, were altered, or are not of a form that is believed.
pub fn open_bindings(bytes: &[u8], key: &PublicKey) -> Result<Bindings, OpenError> {
    let v1::sealed::What::Bindings(packed) = verified(bytes, key)? else {
        return Err(OpenError::Other("bindings"));
    };
    let body = unpack(&packed, limits::BINDINGS_BODY_BYTES)?;
    let bindings = v1::Bindings::decode(&*body).map_err(OpenError::Payload)?;
    Ok(decode(bindings)?)
}

fn encode(bindings: &Bindings) -> v1::Bindings {
    let text = |text: &Text| v1::Text { name: text.name.clone(), text: text.text.clone() };
    v1::Bindings {
        device: bindings.device.to_string(),
        sequence: bindings.sequence,
        scenarios: bindings.scenarios.iter().map(text).collect(),
        bindings: Some(text(&bindings.bindings)),
        dumps: bindings.dumps.iter().map(|digest| digest.as_bytes().to_vec()).collect(),
    }
}

fn decode(bindings: v1::Bindings) -> Result<Bindings, Malformed> {
    let text = |text: v1::Text| Text { name: text.name, text: text.text };
    let id = |field| move |source| Malformed::Id { field, source };
    let dumps = bindings.dumps.iter().map(|bytes| Digest::try_from(bytes.as_slice()));
    let dumps: Result<Vec<Digest>, Invalid> = dumps.collect();
    Ok(Bindings {
        device: bindings.device.parse().map_err(id("device"))?,
        sequence: bindings.sequence,
        scenarios: bindings.scenarios.into_iter().map(text).collect(),
        bindings: text(bindings.bindings.ok_or(Malformed::Missing("bindings"))?),
        dumps: dumps.map_err(id("dumps"))?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::device as signer;
    use super::*;
    use crate::bundle::open;
    use proptest::prelude::*;

    fn bindings() -> Bindings {
        let text = |name: &str| Text { name: name.to_owned(), text: format!("{name}: 1\n") };
        Bindings {
            device: "d-1".parse().unwrap(),
            sequence: 7,
            scenarios: vec![text("a"), text("b")],
            bindings: text("bindings"),
            dumps: vec![Digest::of(b"a dump")],
        }
    }

    #[test]
    fn what_was_sealed_is_opened_and_nothing_else() {
        let (signer, key) = signer();
        let (_, foreign) = super::super::tests::device();
        let sealed = signer.seal_bindings(&bindings()).unwrap();
        assert_eq!(open_bindings(&sealed, &key).unwrap(), bindings());
        assert!(matches!(open_bindings(&sealed, &foreign), Err(OpenError::Signature)));
        assert!(matches!(open(&sealed, &key), Err(OpenError::Other("evidence"))));
        let headline = v1::sealed::What::Headline(v1::Headline::default());
        let other = signer.sign(headline).unwrap();
        assert!(matches!(open_bindings(&other, &key), Err(OpenError::Other("bindings"))));
    }

    #[test]
    fn what_no_broker_takes_is_not_sealed() {
        let (signer, _) = signer();
        let mut large = bindings();
        large.bindings.text = "x".repeat(2 << 20);
        assert!(matches!(signer.seal_bindings(&large), Err(SealError::TooLarge { .. })));
    }

    #[test]
    fn a_bomb_is_not_unpacked() {
        let (signer, key) = signer();
        let zstd = zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap();
        let packed = v1::Packed { size: 64 << 20, zstd, dictionary: 0 };
        let sealed = signer.sign(v1::sealed::What::Bindings(packed)).unwrap();
        assert!(matches!(open_bindings(&sealed, &key), Err(OpenError::Bomb(_))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused(bytes: Vec<u8>) {
            let (_, key) = signer();
            prop_assert!(open_bindings(&bytes, &key).is_err());
        }
    }
}
