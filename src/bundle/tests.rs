//! Sealing and opening, with a real key each time.

mod generations;
mod recorded;

use super::*;
use crate::base::limits;
use crate::diagnosis::{Blame, Class, Confidence};
use crate::evidence::Kind;
use crate::evidence::report::Outcome;
use crate::pb::{auth, v1};
use prost::Message;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};

#[test]
fn what_was_sealed_is_opened() {
    let (signer, key) = device();
    let bundle = bundle();
    let sealed = signer.seal_bundle(&bundle).unwrap();
    assert_eq!(open(&sealed, &key).unwrap(), Sealed::Bundle(bundle.clone()));

    let headline = Headline {
        origin: bundle.origin,
        diagnosis: Some(bundle.diagnosis),
        stage: Stage::Counted,
        ended: Some(Timestamp::from_millis(7)),
        revision: 3,
        repeats: Some(Repeats {
            count: 5,
            first: Timestamp::from_millis(3),
            last: Timestamp::from_millis(6),
            full: Some(IncidentId::new([9; 16])),
        }),
    };
    let sealed = signer.seal_headline(&headline).unwrap();
    assert_eq!(open(&sealed, &key).unwrap(), Sealed::Headline(headline));
}

#[test]
fn nobody_can_alter_what_is_said() {
    let (signer, key) = device();
    let sealed = signer.seal_bundle(&bundle()).unwrap();
    let said = Sealed::Bundle(bundle());
    for at in 0..sealed.len() {
        let mut altered = sealed.clone();
        altered[at] ^= 1;
        // What stands beside the payload only tells which key to try.
        assert!(open(&altered, &key).map_or(true, |opened| opened == said), "byte {at}");
    }
}

#[test]
fn another_key_opens_nothing() {
    let (signer, _) = device();
    let (_, foreign) = device();
    let sealed = signer.seal_bundle(&bundle()).unwrap();
    assert!(matches!(open(&sealed, &foreign), Err(OpenError::Signature)));
}

#[test]
fn a_bomb_is_not_unpacked() {
    let (signer, key) = device();
    let zstd = zstd::bulk::compress(&vec![0; 1 << 20], 1).unwrap();
    for (declared, is_bomb) in [(limits::BODY_BYTES + 1, true), (1000, false), (2 << 20, false)] {
        let packed = v1::Packed { size: declared, zstd: zstd.clone(), dictionary: 0 };
        let sealed = signer.sign(v1::sealed::What::Bundle(packed)).unwrap();
        match open(&sealed, &key) {
            Err(OpenError::Bomb(_)) => assert!(is_bomb),
            Err(OpenError::Decompress { .. }) => assert!(!is_bomb),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_headline_fits_even_when_its_facts_do_not() {
    let (signer, key) = device();
    let Bundle { origin, mut diagnosis, .. } = bundle();
    diagnosis.facts_for = vec!["a fact of some length".to_owned(); 1000];
    let diagnosis = Some(diagnosis);
    let headline = Headline {
        origin,
        diagnosis,
        stage: Stage::Capturing,
        ended: None,
        revision: 1,
        repeats: None,
    };
    let sealed = signer.seal_headline(&headline).unwrap();
    assert!(sealed.len() <= limits::HEADLINE_BYTES);
    let Sealed::Headline(opened) = open(&sealed, &key).unwrap() else { panic!("no headline") };
    assert!(opened.diagnosis.unwrap().facts_for.len() > 50);
}

#[test]
fn the_envelope_is_eves() {
    let (signer, _) = device();
    let sealed = signer.seal_bundle(&bundle()).unwrap();
    // Field 1, length-delimited, holding field 1, length-delimited: AuthBody.payload.
    assert_eq!(sealed[0], 0x0a);
    let container = auth::AuthContainer::decode(&*sealed).unwrap();
    assert_eq!(container.algo, 2);
    assert_eq!(container.sender_cert_hash.len(), 32);
    assert_eq!(container.signature_hash.len(), 64);
    assert!(container.sender_cert.is_empty());
}

#[test]
fn whoever_a_later_version_blames_no_bundle_is_refused_for_it() {
    let mut manifest = wire::encode_manifest(&bundle());
    manifest.diagnosis.as_mut().unwrap().blame = "the moon".to_owned();
    let wire = v1::Bundle { manifest: Some(manifest), artifacts: Vec::new() };
    assert_eq!(wire::decode_bundle(wire).unwrap().diagnosis.blame, Blame::Unknown);
}

pub(super) fn device() -> (Signer, PublicKey) {
    let (signer, spki) = device_and_spki();
    (signer, PublicKey::from_spki(&spki).unwrap())
}

fn device_and_spki() -> (Signer, Vec<u8>) {
    let random = SystemRandom::new();
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random)
        .unwrap();
    let head = "3059301306072a8648ce3d020106082a8648ce3d030107034200";
    let mut spki: Vec<u8> = (0..head.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&head[at..at + 2], 16).unwrap())
        .collect();
    spki.extend_from_slice(pair.public_key().as_ref());
    (Signer::new(pkcs8.as_ref(), b"a certificate").unwrap(), spki)
}

pub(super) fn bundle() -> Bundle {
    Bundle {
        origin: Origin {
            incident: IncidentId::new([1; 16]),
            device: "device-1".parse().unwrap(),
            app: AppId::new([2; 16]),
            app_name: "web".to_owned(),
            scenario: "linux-console".parse().unwrap(),
            agent_version: "0.1.0".to_owned(),
            failed_at: Timestamp::from_millis(1_700_000_000_000),
            failed_uptime: Instant::from_millis(77_000),
            boot_id: [3; 16],
        },
        steps: vec![StepReport {
            name: "sysrq blocked-tasks".to_owned(),
            outcome: Outcome::Refused,
            reason: "this sysrq operation is disabled".to_owned(),
            took_ms: 12,
            bytes: 57,
        }],
        diagnosis: Diagnosis {
            class: Class::Panic,
            subject: "sysrq_handle_crash".to_owned(),
            title: "kernel panic".to_owned(),
            signature: "v1:panic:sysrq_handle_crash:12345678".to_owned(),
            blame: Blame::GuestKernel,
            confidence: Confidence::High,
            facts_for: vec!["the console says so".to_owned()],
            facts_against: Vec::new(),
        },
        artifacts: vec![Artifact {
            kind: Kind::Console,
            name: String::new(),
            data: vec![0xff, 0, b'x'],
        }],
        redaction: None,
    }
}
