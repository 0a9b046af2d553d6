//! What guests of the lab left behind, sealed: `tests/data/bundles/`, of faults that no dictionary was trained on
//! (`hack/dictionary`). Two levels of each: `full` and `first`.

use super::super::{Bundle, Headline, Packed, PublicKey, Sealed, Signer, Stage, open, verify};
use crate::base::id::Digest;
use crate::bundle::{Holds, Verified};
use crate::diagnosis::diagnose;
use crate::evidence::Evidence;
use nix::time::{ClockId, clock_gettime};
use regex::bytes::Regex;
use std::path::{Path, PathBuf};
use std::time::Duration;

const KEPT: &str = "tests/data/bundles";

#[test]
fn every_recorded_guest_is_read_as_it_was() {
    let key = key(Path::new(KEPT));
    let mut told = String::new();
    for file in files(Path::new(KEPT)) {
        let Verified { holds: Holds::Bundle(bundle), packed: Some(packed), schema, .. } =
            verify(&read(&file), &key).unwrap()
        else {
            panic!("{} is no bundle", file.display())
        };
        let Packed { dictionary, body_bytes, .. } = packed;
        let diagnosis = diagnose(&Evidence::read(&bundle.artifacts));
        let all: Vec<u8> = bundle.artifacts.iter().flat_map(|one| one.data.clone()).collect();
        told += &format!(
            "{}: schema {schema}, dictionary {dictionary}, {body_bytes} bytes, {} artifacts {}, {}\n",
            name(&file),
            bundle.artifacts.len(),
            Digest::of(&all),
            diagnosis.signature,
        );
    }
    assert_eq!(told.lines().count(), 16);
    insta::assert_snapshot!(told);
}

/// Where the lab was is no part of what a guest left behind.
#[test]
#[ignore = "hack/dictionary keep: writes tests/data/bundles, which then never change"]
fn keep_what_was_held_out() {
    let from = PathBuf::from(std::env::var_os("LIFESIGN_RECORDED").expect("LIFESIGN_RECORDED"));
    let lab = std::env::current_dir().unwrap().join("target/lab/dictionary");
    let lab = Regex::new(&regex::escape(lab.to_str().unwrap())).unwrap();
    let group = Regex::new(r#"("cgroups":\[\{"path":")[^"]*"#).unwrap();
    let (theirs, (signer, spki)) = (key(&from), super::device_and_spki());
    std::fs::create_dir_all(KEPT).unwrap();
    std::fs::write(Path::new(KEPT).join("key.spki"), spki).unwrap();
    let firsts = files(&from).into_iter().filter(|file| file.extension().unwrap() == "first");
    for file in firsts.flat_map(|file| [file.with_extension("full"), file]) {
        let mut bundle = bundle(&read(&file), &theirs);
        for artifact in &mut bundle.artifacts {
            let data = lab.replace_all(&artifact.data, &b"/run/hypervisor/kvm/web"[..]);
            artifact.data = group.replace_all(&data, &b"${1}/eve-user-apps/web"[..]).into_owned();
        }
        let kept = Path::new(KEPT).join(file.file_name().unwrap());
        std::fs::write(kept, signer.seal_bundle(&bundle).unwrap()).unwrap();
    }
}

/// For each: its evidence as files, and a line of what it costs to seal them today.
#[test]
#[ignore = "hack/bench bundle: measures"]
fn what_each_costs() {
    let into = PathBuf::from(std::env::var_os("LIFESIGN_BENCH").expect("LIFESIGN_BENCH"));
    let (signer, key_of_it) = super::device();
    let ours = key(Path::new(KEPT));
    for file in files(Path::new(KEPT)) {
        let bundle = bundle(&read(&file), &ours);
        let directory = into.join(name(&file));
        std::fs::create_dir_all(&directory).unwrap();
        for artifact in &bundle.artifacts {
            std::fs::write(directory.join(artifact.label()), &artifact.data).unwrap();
        }
        let (sealed, cost) = measured(|| signer.seal_bundle(&bundle).unwrap());
        let (_, opening) = measured(|| open(&sealed, &key_of_it).unwrap());
        let line = format!(
            "{} {} {} {} {} {} {}\n",
            name(&file),
            sealed.len(),
            headline(&signer, &bundle),
            cost.cpu.as_micros(),
            cost.peak_kib,
            opening.cpu.as_micros(),
            opening.peak_kib,
        );
        std::fs::write(into.join(format!("{}.cost", name(&file))), line).unwrap();
    }
}

/// Bytes of the headline that says what the bundle found.
fn headline(signer: &Signer, bundle: &Bundle) -> usize {
    let (origin, diagnosis) = (bundle.origin.clone(), Some(bundle.diagnosis.clone()));
    let headline = Headline {
        origin,
        diagnosis,
        stage: Stage::Sealed,
        ended: None,
        revision: 2,
        repeats: None,
    };
    signer.seal_headline(&headline).unwrap().len()
}

struct Cost {
    cpu: Duration,
    /// How much more memory there was at once than before.
    peak_kib: u64,
}

/// CPU and memory of this whole process: nothing else may run in it.
fn measured<T>(work: impl Fn() -> T) -> (T, Cost) {
    let cpu = || Duration::from(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).unwrap());
    let kib = |key: &str| -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with(key)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let (before, from) = (kib("VmRSS"), cpu());
    let done = work();
    let cost = Cost { cpu: cpu() - from, peak_kib: kib("VmHWM").saturating_sub(before) };
    (done, cost)
}

fn bundle(sealed: &[u8], key: &PublicKey) -> Bundle {
    let Ok(Sealed::Bundle(bundle)) = open(sealed, key) else { panic!("no bundle") };
    bundle
}

fn key(directory: &Path) -> PublicKey {
    PublicKey::from_spki(&read(&directory.join("key.spki"))).unwrap()
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|level| level == "full" || level == "first"));
    files.sort();
    files
}

fn name(file: &Path) -> String {
    file.file_name().unwrap().to_string_lossy().into_owned()
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}
