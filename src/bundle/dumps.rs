//! What a device says of the dumps that it keeps, sealed in its name.
//!
//! A dump itself is not sealed, as it is too large: its SHA-256 stands in this list, and so whoever
//! believes the list believes the dump.

use super::open::{OpenError, PublicKey, verified};
use super::seal::{SealError, Signer};
use super::wire::Malformed;
use crate::base::id::{DeviceId, Digest, DumpName};
use crate::base::limits;
use crate::base::text::harmless_line;
use crate::base::time::Timestamp;
use crate::pb::v1;

/// The dumps that a device keeps.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KeptDumps {
    /// Which device.
    pub device: DeviceId,
    /// Whether it lets the controller have them.
    pub on_request: bool,
    /// Oldest first.
    pub dumps: Vec<Dump>,
}

/// A dump of a guest's memory.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Dump {
    /// Its name on the device.
    pub name: DumpName,
    /// Whose memory it is, as people call the app.
    pub app: String,
    /// How large it is.
    pub bytes: u64,
    /// Its SHA-256.
    pub sha256: Digest,
    /// The hypervisor's word for how it is written.
    pub format: String,
    /// When it was begun, as the device believes.
    pub taken: Timestamp,
}

impl Signer {
    /// Seals the list of dumps. Those that do not fit are left out, from the oldest.
    ///
    /// # Errors
    ///
    /// When there are no random numbers.
    pub fn seal_kept(&self, kept: &KeptDumps) -> Result<Vec<u8>, SealError> {
        let mut wire = encode(kept);
        loop {
            let sealed = self.sign(v1::sealed::What::Kept(wire.clone()))?;
            if sealed.len() <= limits::KEPT_LIST_BYTES || wire.dumps.is_empty() {
                return Ok(sealed);
            }
            wire.dumps.remove(0);
        }
    }
}

/// Opens a list of dumps that was sealed with the key behind `key`, a device's.
///
/// # Errors
///
/// When it was not sealed with that key, was altered, or is not of a form that is believed.
pub fn open_kept(bytes: &[u8], key: &PublicKey) -> Result<KeptDumps, OpenError> {
    let v1::sealed::What::Kept(kept) = verified(bytes, key)? else {
        return Err(OpenError::Other("list of dumps"));
    };
    Ok(decode(kept)?)
}

fn encode(kept: &KeptDumps) -> v1::Kept {
    let dump = |dump: &Dump| v1::Dump {
        name: dump.name.to_string(),
        app: dump.app.clone(),
        size: dump.bytes,
        digest: dump.sha256.as_bytes().to_vec(),
        format: dump.format.clone(),
        taken_unix_ms: dump.taken.as_millis(),
    };
    v1::Kept {
        device: kept.device.to_string(),
        on_request: kept.on_request,
        dumps: kept.dumps.iter().map(dump).collect(),
    }
}

fn decode(kept: v1::Kept) -> Result<KeptDumps, Malformed> {
    let device = kept.device.parse();
    Ok(KeptDumps {
        device: device.map_err(|source| Malformed::Id { field: "device", source })?,
        on_request: kept.on_request,
        dumps: kept.dumps.into_iter().map(decode_dump).collect::<Result<_, _>>()?,
    })
}

fn decode_dump(dump: v1::Dump) -> Result<Dump, Malformed> {
    let id = |field| move |source| Malformed::Id { field, source };
    Ok(Dump {
        name: dump.name.parse().map_err(id("name"))?,
        app: harmless_line(dump.app.as_bytes()),
        bytes: dump.size,
        sha256: Digest::try_from(dump.digest.as_slice()).map_err(id("digest"))?,
        format: harmless_line(dump.format.as_bytes()),
        taken: Timestamp::from_millis(dump.taken_unix_ms),
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::device as signer;
    use super::*;
    use crate::bundle::{open, open_bindings};
    use proptest::prelude::*;

    fn dump(name: &str) -> Dump {
        Dump {
            name: name.parse().unwrap(),
            app: "web".to_owned(),
            bytes: 300 << 20,
            sha256: Digest::of(name.as_bytes()),
            format: "kdump-zlib".to_owned(),
            taken: Timestamp::from_millis(1_780_272_000_000),
        }
    }

    fn kept(count: usize) -> KeptDumps {
        let dumps = (0..count).map(|n| dump(&format!("web-{n}"))).collect();
        KeptDumps { device: "d-1".parse().unwrap(), on_request: true, dumps }
    }

    #[test]
    fn what_was_sealed_is_opened_and_nothing_else() {
        let (signer, key) = signer();
        let (_, foreign) = super::super::tests::device();
        let sealed = signer.seal_kept(&kept(2)).unwrap();
        assert_eq!(open_kept(&sealed, &key).unwrap(), kept(2));
        assert!(matches!(open_kept(&sealed, &foreign), Err(OpenError::Signature)));
        assert!(matches!(open(&sealed, &key), Err(OpenError::Other("evidence"))));
        assert!(matches!(open_bindings(&sealed, &key), Err(OpenError::Other("bindings"))));
        let other = signer.sign(v1::sealed::What::Headline(v1::Headline::default())).unwrap();
        assert!(matches!(open_kept(&other, &key), Err(OpenError::Other("list of dumps"))));
    }

    /// What a status costs more for it: see the decision on dumps on request.
    #[test]
    fn a_list_is_small() {
        let (signer, _) = signer();
        let sizes = [0, 1, 2].map(|count| signer.seal_kept(&kept(count)).unwrap().len());
        assert_eq!(sizes, [117, 190, 266]);
    }

    #[test]
    fn the_latest_are_told_if_not_all_can_be() {
        let (signer, key) = signer();
        let sealed = signer.seal_kept(&kept(100)).unwrap();
        assert!(sealed.len() <= limits::KEPT_LIST_BYTES);
        let told = open_kept(&sealed, &key).unwrap().dumps;
        assert!(told.len() >= limits::KEPT_DUMPS, "{}", told.len());
        assert_eq!(told.last(), Some(&dump("web-99")));
    }

    #[test]
    fn a_name_that_is_no_name_is_not_believed() {
        let (signer, key) = signer();
        let mut wire = encode(&kept(1));
        wire.dumps[0].name = "../escape".to_owned();
        let sealed = signer.sign(v1::sealed::What::Kept(wire)).unwrap();
        assert!(matches!(open_kept(&sealed, &key), Err(OpenError::Malformed(_))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused(bytes: Vec<u8>) {
            let (_, key) = signer();
            prop_assert!(open_kept(&bytes, &key).is_err());
        }
    }
}
