//! Files as people have them: right, altered, somebody else's, and none at all.

use super::*;
use crate::base::id::{IncidentId, ScenarioName};
use crate::base::time::{Instant, Timestamp};
use crate::diagnosis::diagnose;
use crate::evidence::{Artifact, Evidence, Kind};
use std::fs;
use tempfile::TempDir;

/// A directory with two devices, each with certificate and key, and evidence that `edge-1` sealed.
struct Desk {
    directory: TempDir,
}

impl Desk {
    fn new() -> Self {
        let desk = Self { directory: tempfile::tempdir().unwrap() };
        for name in ["edge-1", "edge-2"] {
            let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
            let parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
            let certificate = parameters.self_signed(&key).unwrap();
            fs::write(desk.path(&format!("{name}.pem")), certificate.pem()).unwrap();
            fs::write(desk.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
        }
        let signer = desk.identity("edge-1").signer;
        fs::write(desk.path("web.bundle"), signer.seal_bundle(&bundle()).unwrap()).unwrap();
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn identity(&self, name: &str) -> Identity {
        let [certificate, key] = ["pem", "key"].map(|end| self.path(&format!("{name}.{end}")));
        identity::load(&certificate, &key).unwrap()
    }

    fn sealer(&self, name: &str) -> Sealer {
        let certificate = Some(self.path(&format!("{name}.pem")));
        Sealer { certificate, config: self.path("no-config") }
    }

    fn verify(&self, files: &[&str], by: &str) -> Told {
        let files = files.iter().map(|file| self.path(file)).collect();
        act(&Command::Verify { files, sealer: self.sealer(by) }).unwrap()
    }

    fn redact(&self, file: &str, out: &str) -> Result<Told, Error> {
        act(&Command::Redact {
            file: self.path(file),
            out: self.path(out),
            keep_lines: false,
            certificate_as: Some(self.path("edge-2.pem")),
            key: Some(self.path("edge-2.key")),
            sealer: self.sealer("edge-1"),
        })
    }

    /// What was said, without what is new with every key.
    fn text(&self, told: &Told) -> String {
        let hashes = regex::Regex::new("[0-9a-f]{64}").unwrap();
        let sizes = regex::Regex::new("[0-9]+ (bytes|packed)").unwrap();
        let text = [&told.right[..], &told.wrong[..]].concat().join("\n");
        let text = text.replace(&format!("{}/", self.directory.path().display()), "");
        sizes.replace_all(&hashes.replace_all(&text, "HASH"), "N $1").into_owned()
    }
}

fn bundle() -> Bundle {
    let console =
        b"[    1.000000] martian source 10.1.2.3\n[    2.000000] Kernel panic - not syncing: x\n";
    let artifact = |kind, data: &[u8]| Artifact { kind, name: String::new(), data: data.to_vec() };
    let artifacts = vec![artifact(Kind::Console, console), artifact(Kind::Screenshot, b"PNG")];
    Bundle {
        origin: Origin {
            incident: IncidentId::new([1; 16]),
            device: "edge-1".parse().unwrap(),
            app: AppId::new([2; 16]),
            app_name: "web\u{1b}[31m".to_owned(),
            scenario: "linux-console".parse::<ScenarioName>().unwrap(),
            agent_version: "0.1.0".to_owned(),
            failed_at: Timestamp::from_millis(1_700_000_000_000),
            failed_uptime: Instant::from_millis(77_000),
            boot_id: [3; 16],
        },
        steps: Vec::new(),
        diagnosis: diagnose(&Evidence::read(&artifacts)),
        artifacts,
        redaction: None,
    }
}

#[test]
fn what_is_right_is_told_and_what_is_not_too() {
    let desk = Desk::new();
    let told = desk.verify(&["web.bundle"], "edge-1");
    assert_eq!((told.code, told.wrong.len()), (0, 0));
    insta::assert_snapshot!(desk.text(&told));
    assert!(!told.right.join("").contains('\u{1b}'));

    let mut altered = fs::read(desk.path("web.bundle")).unwrap();
    let middle = altered.len() / 2;
    altered[middle] ^= 1;
    fs::write(desk.path("altered"), &altered).unwrap();
    fs::write(desk.path("empty"), b"").unwrap();
    let told = desk.verify(&["altered", "missing", "web.bundle", "empty"], "edge-1");
    assert_eq!(told.code, 1);
    assert!(told.right[0].contains("web.bundle: right"));
    insta::assert_snapshot!(
        told.wrong
            .iter()
            .map(|line| desk.text(&Told { wrong: vec![line.clone()], ..Told::default() }))
            .collect::<Vec<_>>()
            .join("\n")
    );
    assert_eq!(desk.verify(&["missing", "web.bundle"], "edge-1").code, 2);
    assert_eq!(desk.verify(&["web.bundle"], "edge-2").code, 1);
}

#[test]
fn a_copy_is_sealed_by_who_made_it_and_says_of_what() {
    let desk = Desk::new();
    let told = desk.redact("web.bundle", "copy").unwrap();
    insta::assert_snapshot!(desk.text(&told));
    assert_eq!(desk.verify(&["copy"], "edge-1").code, 1);
    let verified = desk.verify(&["copy"], "edge-2");
    assert_eq!(verified.code, 0);
    insta::assert_snapshot!(desk.text(&verified));
    let of = Digest::of(&fs::read(desk.path("web.bundle")).unwrap());
    assert!(verified.right.iter().any(|line| line.ends_with(&format!("of the bundle {of}"))));
    let sealed = fs::read(desk.path("copy")).unwrap();
    let key = key(&desk.path("edge-2.pem")).unwrap();
    let Holds::Bundle(copy) = verify(&sealed, &key).unwrap().holds else { panic!("no bundle") };
    assert_eq!(copy.diagnosis.signature, bundle().diagnosis.signature);
    assert!(!String::from_utf8_lossy(&copy.artifacts[0].data).contains("10.1.2.3"));
}

#[test]
fn what_cannot_be_redacted_is_left_alone() {
    let desk = Desk::new();
    fs::write(desk.path("altered"), b"no bundle").unwrap();
    assert!(matches!(desk.redact("altered", "copy"), Err(Error::File(FileError::Open { .. }))));
    let bundle = bundle();
    let headline = crate::bundle::Headline {
        origin: bundle.origin,
        diagnosis: None,
        stage: crate::bundle::Stage::Capturing,
        ended: None,
        revision: 1,
        repeats: None,
    };
    let sealed = desk.identity("edge-1").signer.seal_headline(&headline).unwrap();
    fs::write(desk.path("headline"), sealed).unwrap();
    assert!(matches!(desk.redact("headline", "copy"), Err(Error::NoBundle { .. })));
    assert!(!desk.path("copy").exists());
    insta::assert_snapshot!(desk.text(&desk.verify(&["headline"], "edge-1")));
}
