//! What was sealed once is opened for ever, and says what it said.
//!
//! `tests/data/sealed/` has a directory a generation: what the program of that day sealed, of every kind, and
//! the DER of the key's other half; the key itself is gone. None of its files ever changes. Whoever changes
//! what is sealed adds a generation: name it below and run
//! `cargo test --lib bundle::tests::generations -- --ignored`.

use super::super::{
    Bindings, Bundle, Dump, Headline, KeptDumps, PublicKey, Sealed, Source, Stage, Text, open,
    open_bindings, open_kept, packed, redact, wire,
};
use super::{Confidence, Outcome, bundle};
use crate::base::id::Digest;
use crate::base::time::Timestamp;
use crate::evidence::report::StepReport;
use crate::evidence::{Artifact, Kind};
use crate::pb::v1;
use prost::Message;
use std::path::{Path, PathBuf};

/// All of them, the oldest first, and how much each has.
const GENERATIONS: [(&str, usize); 3] =
    [("2026-11-20", 3), ("2026-11-20-dumps", 10), ("2026-11-20-dictionary", 11)];

#[test]
fn every_generation_is_opened_and_says_what_it_said() {
    for (generation, count) in GENERATIONS {
        let directory = Path::new("tests/data/sealed").join(generation);
        let key = PublicKey::from_spki(&read(&directory.join("key.spki"))).unwrap();
        let mut told = String::new();
        let files = files(&directory);
        assert_eq!(files.len(), count, "{generation}");
        for file in files {
            let name = file.file_name().unwrap().to_string_lossy().into_owned();
            told += &format!("== {name}\n{}\n", tell(&name, &read(&file), &key));
        }
        insta::assert_snapshot!(format!("generation-{generation}"), told);
    }
}

/// Not one byte of what was sealed is lost on the way to our types: they are encoded to the same again.
#[test]
fn nothing_of_an_old_bundle_is_overlooked() {
    let mut seen = 0;
    for (generation, _) in GENERATIONS {
        let directory = Path::new("tests/data/sealed").join(generation);
        let key = PublicKey::from_spki(&read(&directory.join("key.spki"))).unwrap();
        for file in files(&directory) {
            let sealed = read(&file);
            let again = match super::super::open::verified(&sealed, &key).unwrap() {
                v1::sealed::What::Bundle(packed) => {
                    let body = packed::unpack(&packed, 1 << 20).unwrap();
                    let Ok(Sealed::Bundle(bundle)) = open(&sealed, &key) else {
                        panic!("{file:?}")
                    };
                    (
                        wire::encode_bundle(&bundle)
                            .flat_map(|part| part.encode_to_vec())
                            .collect(),
                        body,
                    )
                }
                v1::sealed::What::Headline(headline) => {
                    let Ok(Sealed::Headline(ours)) = open(&sealed, &key) else {
                        panic!("{file:?}")
                    };
                    (wire::encode_headline(&ours).encode_to_vec(), headline.encode_to_vec())
                }
                v1::sealed::What::Bindings(_) | v1::sealed::What::Kept(_) => continue,
            };
            assert!(again.0 == again.1, "{} is not the same again", file.display());
            seen += 1;
        }
    }
    assert!(seen >= 8, "{seen}");
}

/// What the program of today seals, of every kind.
#[test]
#[ignore = "writes the files of a generation, which then never change"]
fn write_the_latest_generation() {
    let (signer, spki) = super::device_and_spki();
    let (name, _) = GENERATIONS[GENERATIONS.len() - 1];
    let directory = Path::new("tests/data/sealed").join(name);
    std::fs::create_dir(&directory).unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(directory.join(name), bytes).unwrap();
    write("key.spki", &spki);
    let source = Source {
        sealed: Digest::of(b"sealed"),
        sealed_by: Digest::of(b"a certificate"),
        keep_lines: false,
    };
    let redacted = redact(&full(), source);
    for (name, bundle) in
        [("full", full()), ("first", first()), ("bare", bare()), ("redacted", redacted)]
    {
        write(name, &signer.seal_bundle(&bundle).unwrap());
    }
    for (name, headline) in headlines() {
        write(name, &signer.seal_headline(&headline).unwrap());
    }
    for (name, bindings) in [("bindings", bindings(2)), ("bindings-none", bindings(0))] {
        write(name, &signer.seal_bindings(&bindings).unwrap());
    }
    for (name, count) in [("kept", 2), ("kept-none", 0)] {
        write(name, &signer.seal_kept(&kept(count)).unwrap());
    }
}

// === what is sealed ===

const KINDS: [Kind; 10] = [
    Kind::Console,
    Kind::Sysrq,
    Kind::Qmp,
    Kind::Host,
    Kind::Rounds,
    Kind::Memory,
    Kind::Records,
    Kind::Screenshot,
    Kind::Nmi,
    Kind::Other,
];

const OUTCOMES: [Outcome; 6] = [
    Outcome::Done,
    Outcome::Partial,
    Outcome::Refused,
    Outcome::Silent,
    Outcome::Failed,
    Outcome::Skipped,
];

/// Every kind of artifact, with bytes that are no text, and every outcome.
fn full() -> Bundle {
    let mut bundle = first();
    let artifact = |kind| Artifact { kind, name: "name".to_owned(), data: (0..=255).collect() };
    bundle.artifacts.extend(KINDS.map(artifact));
    let step = |outcome: Outcome| StepReport {
        name: format!("a step that is {outcome}"),
        outcome,
        reason: if outcome == Outcome::Done { String::new() } else { "for a reason".to_owned() },
        took_ms: 12,
        bytes: 57,
    };
    bundle.steps.extend(OUTCOMES.map(step));
    bundle.diagnosis.confidence = Confidence::Low;
    bundle.diagnosis.facts_against = vec!["the network answers".to_owned()];
    bundle
}

/// What a real guest left behind.
fn first() -> Bundle {
    let guest = Path::new("tests/data/console/panic-6.12");
    let data = |file: &str| read(&guest.join(file));
    let artifact = |kind, data| Artifact { kind, name: String::new(), data };
    let artifacts = vec![
        artifact(Kind::Console, data("console")),
        artifact(Kind::Host, data("host.json")),
        Artifact {
            kind: Kind::Sysrq,
            name: "blocked-tasks".to_owned(),
            data: data("sysrq-blocked-tasks"),
        },
    ];
    Bundle { artifacts, ..bundle() }
}

/// As little as there can be.
fn bare() -> Bundle {
    Bundle { artifacts: Vec::new(), steps: Vec::new(), ..bundle() }
}

fn headlines() -> [(&'static str, Headline); 3] {
    let Bundle { origin, diagnosis, .. } = full();
    let begun = Headline {
        origin,
        diagnosis: None,
        stage: Stage::Capturing,
        ended: None,
        revision: 1,
        repeats: None,
    };
    let sealed =
        Headline { diagnosis: Some(diagnosis), stage: Stage::Sealed, revision: 2, ..begun.clone() };
    let ended = Some(Timestamp::from_millis(1_700_000_900_000));
    let over = Headline { ended, revision: 3, ..sealed.clone() };
    [("headline-begun", begun), ("headline-sealed", sealed), ("headline-over", over)]
}

fn bindings(count: usize) -> Bindings {
    let text = |name: &str| Text { name: name.to_owned(), text: format!("{name}: []\n") };
    Bindings {
        device: "device-1".parse().unwrap(),
        sequence: 7,
        scenarios: ["first", "second"].map(text)[..count].to_vec(),
        bindings: text("bindings"),
        dumps: vec![Digest::of(b"a dump"); count],
    }
}

fn kept(count: usize) -> KeptDumps {
    let dump = Dump {
        name: "web-1".parse().unwrap(),
        app: "web".to_owned(),
        bytes: 300 << 20,
        sha256: Digest::of(b"a dump"),
        format: "kdump-zlib".to_owned(),
        taken: Timestamp::from_millis(1_700_000_000_000),
    };
    let device = "device-1".parse().unwrap();
    KeptDumps { device, on_request: count > 0, dumps: vec![dump; count] }
}

// === what it says ===

/// All that sealed bytes say; of an artifact its hash.
fn tell(name: &str, sealed: &[u8], key: &PublicKey) -> String {
    if name.starts_with("bindings") {
        return format!("{:?}", open_bindings(sealed, key).unwrap());
    }
    if name.starts_with("kept") {
        return format!("{:?}", open_kept(sealed, key).unwrap());
    }
    let Bundle { origin, steps, diagnosis, artifacts, redaction } = match open(sealed, key).unwrap()
    {
        Sealed::Headline(headline) => return format!("{headline:?}"),
        Sealed::Bundle(bundle) => bundle,
    };
    let mut lines = vec![format!("{origin:?}"), format!("{diagnosis:?}")];
    lines.extend(redaction.map(|redaction| format!("{redaction:?}")));
    lines.extend(steps.iter().map(|step| format!("{step:?}")));
    lines.extend(artifacts.iter().map(|Artifact { kind, name, data }| {
        format!("{kind:?} {name:?}: {} bytes, {}", data.len(), Digest::of(data))
    }));
    lines.join("\n")
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| !file.ends_with("key.spki"));
    files.sort();
    files
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}
