//! What the guest's kernel left behind when it died, in files that the hypervisor keeps for it. They are
//! read and nothing else; the guest, which may live again, does not notice.

use super::{Capture, Target, shown};
use crate::base::limits;
use crate::base::step::Step;
use crate::evidence::pstore::{Records, Store};
use crate::evidence::report::Outcome;
use crate::evidence::{Artifact, Kind};
use crate::hypervisor::process;
use crate::hypervisor::stores::Stores;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use tokio::time::Instant;

/// Reads all records that the machine's stores have.
pub(super) async fn read(target: &Target) -> Capture {
    let started = Instant::now();
    let target = target.clone();
    let found = tokio::task::spawn_blocking(move || Found::at(&stores(&target))).await;
    let Ok(found) = found else {
        let reason = "the reader of the records stopped";
        return Capture::nothing(Step::Records, Outcome::Failed, reason);
    };
    let (outcome, reason) = found.outcome();
    if found.records.records.is_empty() {
        return Capture::nothing(Step::Records, outcome, reason);
    }
    let data = found.records.to_bytes();
    let artifact = Artifact { kind: Kind::Records, name: String::new(), data };
    let mut capture = Capture::one(Step::Records, artifact, outcome, started.elapsed());
    for step in &mut capture.steps {
        step.reason.clone_from(&reason);
    }
    capture
}

/// The files: those that are bound, and others that the hypervisor was started with.
fn stores(target: &Target) -> Vec<(Store, PathBuf)> {
    let bound = Stores { erst: target.erst.clone(), flash: target.flash.clone() };
    let listens = || target.qmp.as_deref().and_then(process::listening_on);
    let started = match (&bound.erst, &bound.flash) {
        (Some(_), Some(_)) => None,
        _ => target.pid.or_else(listens).map(process::stores),
    };
    let started = started.unwrap_or_default();
    let erst = bound.erst.or(started.erst).map(|path| (Store::Erst, path));
    let flash = bound.flash.or(started.flash).map(|path| (Store::Efi, path));
    erst.into_iter().chain(flash).collect()
}

/// What the files have.
#[derive(Debug, Default)]
struct Found {
    files: usize,
    records: Records,
    problems: Vec<String>,
}

impl Found {
    fn at(stores: &[(Store, PathBuf)]) -> Self {
        let mut found = Self { files: stores.len(), ..Self::default() };
        for (store, path) in stores {
            let read = read_file(path).map_err(|error| error.to_string());
            let records = read.and_then(|file| {
                Records::of_file(*store, &file).map_err(|error| error.to_string())
            });
            match records {
                Ok(records) => found.records.extend(records),
                Err(why) => found.problems.push(format!("failed to read {}: {why}", shown(path))),
            }
        }
        found
    }

    fn outcome(&self) -> (Outcome, String) {
        let nothing = self.records.records.is_empty();
        let mut reasons = self.problems.clone();
        match self.records.damaged {
            0 => {}
            1 => reasons.push("a part of a record cannot be read".to_owned()),
            parts => reasons.push(format!("{parts} parts of records cannot be read")),
        }
        match (self.files, reasons.is_empty(), nothing) {
            (0, _, _) => {
                let reason = "not applicable: the machine has no `acpi-erst` and no flash, or the \
                              binding names no `erst` and no `flash`";
                (Outcome::Skipped, reason.to_owned())
            }
            (_, true, true) => (Outcome::Done, "the kernel left no record".to_owned()),
            (_, true, false) if self.records.full => {
                let reason = "the store is full, and the kernel has no room for another record; \
                              the guest clears it in /sys/fs/pstore";
                (Outcome::Done, reason.to_owned())
            }
            (_, true, false) => (Outcome::Done, String::new()),
            (_, false, true) => (Outcome::Failed, reasons.join("; ")),
            (_, false, false) => (Outcome::Partial, reasons.join("; ")),
        }
    }
}

/// As much of a file as a store has. What is none would keep us waiting.
fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no plain file"));
    }
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(limits::STORE_BYTES as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::consent::Consent;
    use crate::evidence::Evidence;
    use crate::evidence::pstore::written::{LAST_WORDS, erst, flash, panic};
    use crate::evidence::report::StepReport;

    fn target(erst: Option<&Path>, flash: Option<&Path>) -> Target {
        let (erst, flash) = (erst.map(Path::to_owned), flash.map(Path::to_owned));
        Target { erst, flash, consent: Consent::Observe, ..Target::default() }
    }

    fn step(capture: &Capture) -> (Outcome, &str) {
        let [StepReport { outcome, reason, .. }] = capture.steps.as_slice() else {
            panic!("{capture:?}")
        };
        (*outcome, reason)
    }

    #[tokio::test]
    async fn records_of_both_stores_are_read_and_the_files_stay_as_they_were() {
        let directory = tempfile::tempdir().unwrap();
        let [first, second] = ["erst", "flash"].map(|name| directory.path().join(name));
        std::fs::write(&first, erst(&[panic(&LAST_WORDS)])).unwrap();
        std::fs::write(&second, flash(&[panic(&LAST_WORDS)], true)).unwrap();
        let state = |path| {
            (std::fs::read(path).unwrap(), std::fs::metadata(path).unwrap().modified().unwrap())
        };
        let before = [state(&first), state(&second)];
        let capture = read(&target(Some(&first), Some(&second))).await;
        assert_eq!(step(&capture), (Outcome::Done, ""));
        let records = Evidence::read(&capture.artifacts).records.records;
        let stores: Vec<Store> = records.iter().map(|record| record.store).collect();
        assert_eq!(stores, [Store::Erst, Store::Efi]);
        assert!(records[0].text.contains("Kernel panic"));
        assert_eq!([state(&first), state(&second)], before);
    }

    #[tokio::test]
    async fn what_cannot_be_had_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        let nothing = read(&target(None, None)).await;
        assert_eq!(step(&nothing).0, Outcome::Skipped);
        std::fs::write(&path, erst(&[])).unwrap();
        let empty = read(&target(Some(&path), None)).await;
        assert_eq!(step(&empty), (Outcome::Done, "the kernel left no record"));
        let other = read(&target(None, Some(&path))).await;
        assert_eq!(step(&other).0, Outcome::Failed);
        assert!(step(&other).1.ends_with("it has no variables of a UEFI firmware"), "{other:?}");
        let none = read(&target(Some(directory.path()), None)).await;
        assert!(step(&none).1.ends_with("it is no plain file"), "{none:?}");
        // Who reads the steps shall not wonder why the latest panic is not there.
        std::fs::write(&path, erst(&[panic(&["a\n"; 7])])).unwrap();
        let full = read(&target(Some(&path), None)).await;
        assert!(step(&full).0 == Outcome::Done && step(&full).1.starts_with("the store is full"));
        // One of two files is better than none.
        std::fs::write(&path, erst(&[panic(&LAST_WORDS)])).unwrap();
        let one = read(&target(Some(&path), Some(directory.path()))).await;
        assert_eq!((step(&one).0, one.artifacts.len()), (Outcome::Partial, 1));
    }
}
