//! What the guest said by itself: the end of the file to which the hypervisor copies its console.

use super::{Capture, shown};
use crate::base::limits;
use crate::base::step::Step;
use crate::evidence::report::Outcome;
use crate::evidence::{Artifact, Kind};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use tokio::time::Instant;

/// Reads the tail.
pub(super) async fn tail(path: Option<&Path>) -> Capture {
    let Some(path) = path else {
        let reason = "the binding names no `console-log`";
        return Capture::nothing(Step::Console, Outcome::Skipped, reason);
    };
    let started = Instant::now();
    let owned = path.to_owned();
    let read = tokio::task::spawn_blocking(move || read_tail(&owned)).await;
    match read.unwrap_or_else(|_| Err(io::ErrorKind::Other.into())) {
        Ok(data) => {
            let artifact = Artifact { kind: Kind::Console, name: String::new(), data };
            Capture::one(Step::Console, artifact, Outcome::Done, started.elapsed())
        }
        Err(error) => {
            let reason = format!("failed to read {}: {error}", shown(path));
            Capture::nothing(Step::Console, Outcome::Failed, reason)
        }
    }
}

fn read_tail(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = std::fs::File::open(path)?;
    let start = file.metadata()?.len().saturating_sub(limits::CONSOLE_TAIL_BYTES as u64);
    file.seek(SeekFrom::Start(start))?;
    let mut tail = Vec::new();
    file.take(limits::CONSOLE_TAIL_BYTES as u64).read_to_end(&mut tail)?;
    Ok(tail)
}
