//! What the guest said by itself: out of the file to which the hypervisor copies its console, or out of
//! what was kept of the device's log.
//!
//! The most recent part tells what happened. How it began tells which kernel that was and how it was
//! started, and is kept beside it. The report says which bytes they are of all that it ever said.

use super::{Capture, Target, shown};
use crate::base::limits;
use crate::base::step::Step;
use crate::evidence::report::Outcome;
use crate::evidence::{Artifact, CONSOLE_FIRST, Kind};
use crate::transport::log::{History, Piece};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use tokio::time::Instant;

/// What is known of it.
struct Said {
    /// How it began, as far as that is not recent.
    first: Vec<u8>,
    recent: Piece,
}

/// Takes what is there.
pub(super) async fn recall(target: &Target) -> Capture {
    let started = Instant::now();
    let said = match (&target.console_log, &target.heard) {
        (Some(path), _) => {
            let owned = path.clone();
            let read = tokio::task::spawn_blocking(move || Said::read(&owned)).await;
            match read.unwrap_or_else(|_| Err(io::ErrorKind::Other.into())) {
                Ok(said) => said,
                Err(error) => {
                    let reason = format!("failed to read {}: {error}", shown(path));
                    return Capture::nothing(Step::Console, Outcome::Failed, reason);
                }
            }
        }
        (None, Some(history)) => Said::heard(history),
        (None, None) => {
            let reason = "the binding names no `console-log`, and no log of the device tells of it";
            return Capture::nothing(Step::Console, Outcome::Skipped, reason);
        }
    };
    said.into_capture(started)
}

impl Said {
    fn read(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let missed = file.metadata()?.len().saturating_sub(limits::CONSOLE_TAIL_BYTES as u64);
        let mut first = Vec::new();
        (&mut file).take(missed.min(limits::LOG_FIRST_BYTES as u64)).read_to_end(&mut first)?;
        file.seek(SeekFrom::Start(missed))?;
        let mut bytes = Vec::new();
        file.take(limits::CONSOLE_TAIL_BYTES as u64).read_to_end(&mut bytes)?;
        Ok(Self { first, recent: Piece { bytes, missed } })
    }

    fn heard(history: &History) -> Self {
        Self { first: history.first().to_vec(), recent: history.since(0) }
    }

    fn into_capture(self, started: Instant) -> Capture {
        let Self { first, recent: Piece { bytes, missed } } = self;
        let end = missed + bytes.len() as u64;
        let began = match first.len() {
            0 => String::new(),
            length => format!(", and its first {length}"),
        };
        let reason = format!("bytes {missed} to {end} of what it said{began}");
        let recent = Artifact { kind: Kind::Console, name: String::new(), data: bytes };
        let mut capture = Capture::one(Step::Console, recent, Outcome::Done, started.elapsed());
        capture.steps[0].reason = reason;
        if !first.is_empty() {
            capture.steps[0].bytes += first.len() as u64;
            let name = CONSOLE_FIRST.to_owned();
            // Whoever knows of no parts takes the last one for the console.
            capture.artifacts.insert(0, Artifact { kind: Kind::Console, name, data: first });
        }
        capture
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(said: Said) -> (Vec<(String, usize)>, String) {
        let Capture { artifacts, steps } = said.into_capture(Instant::now());
        let artifacts = artifacts.iter().map(|it| (it.label(), it.data.len())).collect();
        (artifacts, steps[0].reason.clone())
    }

    #[test]
    fn a_log_gives_how_it_began_and_how_it_ends() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("console.log");
        for (length, parts, reason) in [
            (0, vec![("console", 0)], "bytes 0 to 0 of what it said"),
            (5, vec![("console", 5)], "bytes 0 to 5 of what it said"),
            (
                131_072 + 100,
                vec![("console-first", 100), ("console", 131_072)],
                "bytes 100 to 131172 of what it said, and its first 100",
            ),
            (
                1_000_000,
                vec![("console-first", 16_384), ("console", 131_072)],
                "bytes 868928 to 1000000 of what it said, and its first 16384",
            ),
        ] {
            std::fs::write(&path, vec![b'x'; length]).unwrap();
            let (artifacts, said) = told(Said::read(&path).unwrap());
            let artifacts: Vec<(&str, usize)> =
                artifacts.iter().map(|(label, length)| (label.as_str(), *length)).collect();
            assert_eq!((artifacts, said.as_str()), (parts, reason));
        }
    }

    #[test]
    fn so_does_a_history() {
        let mut history = History::default();
        history.hear(&vec![b'x'; 100_000]);
        let (artifacts, said) = told(Said::heard(&history));
        assert_eq!(
            artifacts,
            [("console-first".to_owned(), 16_384), ("console".to_owned(), 65_536)]
        );
        assert_eq!(said, "bytes 34464 to 100000 of what it said, and its first 16384");
    }
}
