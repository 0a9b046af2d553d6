//! What comes out is what went in, or it is refused, whatever comes in.

use super::*;
use crate::base::limits;
use proptest::prelude::*;

const LIMIT: u64 = limits::BODY_BYTES;

fn text(data: Vec<u8>) -> v1::Artifact {
    v1::Artifact { kind: 1, name: "name".to_owned(), data }
}

fn packed(data: Vec<u8>, dictionary: Option<&Dictionary>) -> v1::Packed {
    pack(std::iter::once(text(data)), LIMIT, dictionary).unwrap()
}

#[test]
fn parts_are_the_whole() {
    let parts = || {
        (0..100u8).map(|n| v1::Bundle { manifest: None, artifacts: vec![text(vec![n; 10_000])] })
    };
    let whole = v1::Bundle {
        manifest: None,
        artifacts: (0..100u8).map(|n| text(vec![n; 10_000])).collect(),
    };
    let packed = pack(parts(), LIMIT, Some(LATEST)).unwrap();
    assert_eq!(unpack(&packed, LIMIT).unwrap(), whole.encode_to_vec());
}

#[test]
fn a_dictionary_is_what_its_header_says() {
    const MAGIC: [u8; 4] = [0x37, 0xa4, 0x30, 0xec];
    let mut seen = std::collections::BTreeSet::new();
    for Dictionary { id, bytes } in Dictionary::all() {
        assert!((32_768..1 << 31).contains(id), "{id} is not for us to give");
        assert!(seen.insert(id), "{id} is given twice");
        assert_eq!((&bytes[..4], &bytes[4..8]), (&MAGIC[..], &id.to_le_bytes()[..]));
    }
}

/// None may ever change: evidence lies in stores for years.
#[test]
fn every_dictionary_ever_shipped_is_still_here() {
    let here = Dictionary::all().iter();
    let here: Vec<String> =
        here.map(|d| format!("{} {}", d.id, crate::base::id::Digest::of(d.bytes))).collect();
    insta::assert_snapshot!(here.join("\n"));
}

#[test]
fn what_needs_a_later_dictionary_is_refused_in_a_sentence() {
    let mut packed = packed(vec![1, 2, 3], Some(LATEST));
    packed.dictionary += 1;
    let refused = unpack(&packed, LIMIT).unwrap_err().to_string();
    let id = packed.dictionary;
    assert_eq!(
        refused,
        format!(
            "it is compressed with dictionary {id}, which only a later version of this program has"
        )
    );
    // One that does not say so is no better.
    packed.dictionary = 0;
    assert!(matches!(unpack(&packed, LIMIT), Err(OpenError::Decompress { .. })));
}

#[test]
fn what_is_declared_is_what_has_to_come() {
    for dictionary in [None, Some(LATEST)] {
        let honest = packed(vec![b'x'; 100_000], dictionary);
        for size in [honest.size - 1, honest.size + 1, 0] {
            let liar = v1::Packed { size, ..honest.clone() };
            assert!(matches!(unpack(&liar, LIMIT), Err(OpenError::Decompress { .. })), "{size}");
        }
        let refused = unpack(&honest, honest.size - 1);
        assert!(matches!(refused, Err(OpenError::Bomb(size)) if size == honest.size));
        for behind in [&b"x"[..], &honest.zstd] {
            let zstd = [&honest.zstd, behind].concat();
            let more = v1::Packed { zstd, ..honest.clone() };
            assert!(matches!(unpack(&more, LIMIT), Err(OpenError::Decompress { .. })));
        }
    }
}

/// A frame of 20 bytes that asks its reader to remember 2 GiB.
#[test]
fn nobody_is_made_to_remember_more_than_there_is() {
    let mut encoder = Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(27).unwrap();
    encoder.write_all(b"small").unwrap();
    let zstd = encoder.finish().unwrap();
    let packed = v1::Packed { size: 5, zstd, dictionary: 0 };
    assert!(matches!(unpack(&packed, LIMIT), Err(OpenError::Decompress { .. })));
}

#[test]
fn more_than_may_be_is_not_packed() {
    let parts = std::iter::once(text(vec![0; 1000]));
    assert!(matches!(pack(parts, 999, None), Err(SealError::TooLarge { limit: 999, .. })));
}

proptest! {
    // Each case prepares a dictionary for the highest level.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_was_packed_is_unpacked(data: Vec<u8>, repeated in 1..200usize, with: bool) {
        let data = data.repeat(repeated);
        let packed = packed(data.clone(), with.then_some(LATEST));
        prop_assert_eq!(unpack(&packed, LIMIT).unwrap(), text(data).encode_to_vec());
    }

    #[test]
    fn whatever_comes_is_unpacked_or_refused(
        zstd: Vec<u8>, size in 0..100_000u64, dictionary in prop_oneof![Just(0), Just(LATEST.id)]
    ) {
        let packed = v1::Packed { size, zstd, dictionary };
        if let Ok(body) = unpack(&packed, LIMIT) {
            prop_assert_eq!(body.len() as u64, size);
        }
    }

    #[test]
    fn one_byte_that_is_wrong_never_makes_it_longer(
        at: prop::sample::Index, bit in 0..8u32, with: bool
    ) {
        let mut packed = packed(b"Call Trace:\n <TASK>\n".repeat(200), with.then_some(LATEST));
        let at = at.index(packed.zstd.len());
        packed.zstd[at] ^= 1u8 << bit;
        if let Ok(body) = unpack(&packed, LIMIT) {
            prop_assert_eq!(body.len() as u64, packed.size);
        }
    }
}
