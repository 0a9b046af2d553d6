//! The monitor's view: run state, vCPUs, disks, the machine around them.

mod asking;

use super::no::No;
use super::{Capture, report, shown};
use crate::base::step::{Query, Step};
use crate::evidence::qmp::{Replies, Reply};
use crate::evidence::report::{Outcome, StepReport};
use crate::evidence::{Artifact, Kind};
use crate::hypervisor::qmp::{ConnectError, Monitor};
use asking::Asking;
use std::path::Path;
use std::time::Duration;
use tokio::time::sleep;

/// Between the two looks at what moves.
const APART: Duration = Duration::from_millis(900);

/// What is looked at twice: it tells by what has changed.
const MOVING: [Query; 2] = [Query::Registers, Query::Blocks];

/// The process behind a monitor, which is told even when it does not greet.
pub(super) async fn pid(path: Option<&Path>) -> Option<u32> {
    match Monitor::connect(path?).await {
        Ok(monitor) => monitor.pid(),
        Err(ConnectError::Busy { pid, .. }) => pid,
        Err(ConnectError::Open { .. } | ConnectError::NotQmp { .. } | ConnectError::Start(_)) => {
            None
        }
    }
}

/// One look at all registers and disks.
pub(super) async fn look(path: &Path) -> Vec<Reply> {
    let mut asking = Asking::new(Vec::new());
    look_again(&mut asking, path, &MOVING).await;
    asking.replies
}

/// Asks all `queries` and makes one artifact of the replies, those of `before` first.
pub(super) async fn ask(path: Option<&Path>, queries: &[Query], before: Vec<Reply>) -> Capture {
    let mut capture = Capture::default();
    if queries.is_empty() {
        return capture;
    }
    let Some(path) = path else {
        let none = "the binding names no `qmp` socket".to_owned();
        capture.steps = all(queries, Outcome::Skipped, &none);
        return capture;
    };
    let mut asking = Asking::new(before);
    match Monitor::connect(path).await {
        Ok(mut monitor) => {
            // Each once, and the most telling first: they share a second.
            for query in Query::ALL.into_iter().filter(|query| queries.contains(query)) {
                capture.steps.push(asking.query(&mut monitor, query).await);
            }
            asking.leave(monitor);
            let moving: Vec<Query> =
                MOVING.into_iter().filter(|moves| queries.contains(moves)).collect();
            if !moving.is_empty() {
                sleep(APART).await;
                look_again(&mut asking, path, &moving).await;
            }
        }
        Err(error) => {
            let No(outcome, reason) = error.into();
            tracing::debug!(monitor = %shown(path), %reason, "the monitor was not asked");
            capture.steps = all(queries, outcome, &reason);
        }
    }
    if !asking.replies.is_empty() {
        let data = Replies(asking.replies).to_bytes();
        capture.artifacts.push(Artifact { kind: Kind::Qmp, name: String::new(), data });
    }
    if let Some(data) = asking.picture {
        capture.artifacts.push(Artifact { kind: Kind::Screenshot, name: String::new(), data });
    }
    capture
}

async fn look_again(asking: &mut Asking, path: &Path, moving: &[Query]) {
    if let Ok(mut monitor) = Monitor::connect(path).await {
        asking.again(&mut monitor, moving).await;
        asking.leave(monitor);
    }
}

fn all(queries: &[Query], outcome: Outcome, reason: &str) -> Vec<StepReport> {
    queries.iter().map(|query| report(Step::Qmp(*query), outcome, reason.to_owned())).collect()
}

#[cfg(test)]
mod tests;
