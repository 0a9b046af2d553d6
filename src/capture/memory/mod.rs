//! The guest's kernel, read out of its RAM while it runs on and notices nothing.
//!
//! There is one way of looking, the [`Gaze`]; a capture takes it along with its other steps, and a
//! person takes it alone. That a guest cannot be read, runs something else, or has not booted yet is an
//! outcome of the step and never ends the capture.

mod gaze;
mod learnt;
mod loan;
mod reader;

pub use gaze::{Gaze, GazeError, Guest, Seen};
pub(super) use loan::{Lent, lend, put_back};

use super::{Capture, Target, millis, report};
use crate::base::chain::Chain;
use crate::base::limits;
use crate::base::step::Step;
use crate::evidence::memory::Memory;
use crate::evidence::report::Outcome;
use crate::evidence::{Artifact, Kind};
use crate::hypervisor::qmp::ConnectError;
use crate::hypervisor::ram::RamError;
use std::io;
use tokio::time::Instant;

/// A look that has begun, or why there is none.
pub(super) struct Looking {
    started: Instant,
    gaze: Result<Gaze, GazeError>,
}

/// Begins to read. The monitor is let go before this returns; whoever asks it next does not wait.
pub(super) async fn begin(target: &Target, pid: Option<u32>) -> Looking {
    let started = Instant::now();
    let guest = Guest { pid, qmp: target.qmp.as_deref(), learnt: target.learnt.as_deref() };
    Looking { started, gaze: Gaze::begin(guest).await }
}

/// Looks for the second time, and tells what was seen, and whether the guest can be read at all.
pub(super) async fn end(looking: Looking, deadline: Instant) -> (Capture, bool) {
    let Looking { started, gaze } = looking;
    let deadline = deadline.min(started + limits::LOOK_TIME);
    let seen = match gaze {
        Ok(gaze) => gaze.end(deadline).await,
        Err(error) => Err(error),
    };
    let is_readable =
        matches!(seen, Ok(_) | Err(GazeError::NoKernel(_) | GazeError::Open(_) | GazeError::Late));
    let mut capture = match seen {
        Ok(Seen { memory, is_whole, .. }) => brought(Step::Memory, memory, is_whole),
        Err(error) => {
            let (outcome, reason) = (outcome(&error), Chain(&error).to_string());
            tracing::debug!(%reason, "the guest's memory was not read");
            Capture::nothing(Step::Memory, outcome, reason)
        }
    };
    capture.steps.iter_mut().for_each(|step| step.took_ms = millis(started.elapsed()));
    (capture, is_readable)
}

/// What memory shows, as the evidence of a step.
pub(super) fn brought(step: Step, memory: Memory, is_whole: bool) -> Capture {
    let doubts = memory.doubts.len();
    let Some(memory) = memory.fit(limits::STEP_BYTES) else {
        let reason = "what the guest's memory shows is more than a step may bring";
        return Capture::nothing(step, Outcome::Partial, reason);
    };
    let is_whole = is_whole && memory.doubts.len() == doubts;
    let outcome = if is_whole { Outcome::Done } else { Outcome::Partial };
    let artifact = Artifact { kind: Kind::Memory, name: String::new(), data: memory.to_bytes() };
    let mut step = report(step, outcome, memory.doubts.join("; "));
    step.bytes = artifact.data.len() as u64;
    Capture { artifacts: vec![artifact], steps: vec![step] }
}

/// That a guest is not ours to read says nothing of it.
fn outcome(error: &GazeError) -> Outcome {
    match error {
        GazeError::Nobody => Outcome::Skipped,
        GazeError::Connect(ConnectError::Busy { .. }) | GazeError::Late => Outcome::Silent,
        GazeError::Ram(RamError::Process { source, .. })
            if source.kind() == io::ErrorKind::PermissionDenied =>
        {
            Outcome::Refused
        }
        GazeError::Connect(_)
        | GazeError::Ask(_)
        | GazeError::NoProcess(_)
        | GazeError::Ram(_)
        | GazeError::NoKernel(_)
        | GazeError::Open(_)
        | GazeError::Broken => Outcome::Failed,
    }
}

#[cfg(test)]
mod tests;
