//! The guest's kernel, read through QEMU's debugger stub while the guest stands still.
//!
//! For guests whose process cannot be read, with the consent `pause`.
//!
//! ```text
//!   held, released, held, ..   the kernel is found: its tables do not change while the guest runs
//!   a second
//!   held                       all that changes is looked at, at one moment
//! ```
//!
//! Not where a disk completes nothing: QEMU ends what it has in flight before it stops a guest, and answers
//! nobody until then.
//!
//! What the CPUs did between the first look and the last tells a dead one from a busy one, as it does for
//! a guest that is read while it runs.

use super::{Capture, Target, memory, millis, monitor};
use crate::base::chain::Chain;
use crate::base::limits;
use crate::base::step::Step;
use crate::base::time::{Clock, Instant as Moment};
use crate::evidence::memory::Memory;
use crate::evidence::qmp::{Qmp, Replies};
use crate::evidence::report::Outcome;
use crate::hypervisor::debugger::{Debugger, DebuggerError, put_back as let_go};
use crate::kernel::look::{Outside, look};
use crate::kernel::machine::Registers;
use crate::kernel::memory::{Fault, Memory as Physical};
use crate::kernel::{Kernel, OpenError, Sample};
use std::cell::{Cell, RefCell};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;
use tokio::task::spawn_blocking;
use tokio::time::Instant;

/// For so long the guest stands still at once while its kernel is found, about,
const SLICE: Duration = Duration::from_millis(250);

/// and for so long it runs in between: what it serves is slowed down to half its pace, and not stopped.
const REST: Duration = Duration::from_millis(250);

/// Between two looks at the disks: one that completes nothing for so long is not waited for.
const DISKS: Duration = Duration::from_millis(500);

/// Between the two looks.
const APART: Duration = Duration::from_secs(1);

/// What the second look takes at most, with letting the guest go.
const SECOND: Duration = Duration::from_secs(4);

/// Why nothing was seen.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("the guest's memory cannot be read by a debugger")]
    Debugger(#[from] DebuggerError),
    #[error("failed to find the kernel")]
    Open(#[source] OpenError),
    #[error("the kernel was not found in the time that a look may take")]
    Late,
    #[error("the thread that read the guest's memory broke off")]
    Broken,
}

/// What was seen, and how long the guest stood still for it, each time.
struct Looked {
    memory: Memory,
    stood: Vec<Duration>,
}

/// Reads the guest's memory, unless it can be read while the guest runs.
pub(super) async fn read(target: &Target, is_readable: bool, deadline: Instant) -> Capture {
    let nothing = |outcome, reason: &str| Capture::nothing(Step::Debugger, outcome, reason);
    if is_readable {
        return nothing(Outcome::Skipped, "the guest's memory can be read while it runs");
    }
    let Some(qmp) = &target.qmp else {
        return nothing(Outcome::Skipped, "the binding names no `qmp` socket");
    };
    let Some(note) = note(target) else {
        return nothing(
            Outcome::Skipped,
            "there is no place for a note of what has to be put back",
        );
    };
    let begun = Instant::now();
    let left = deadline.saturating_duration_since(begun).min(limits::LOOK_TIME);
    let Some(finding) = left.checked_sub(APART + SECOND) else {
        return nothing(Outcome::Skipped, "the capture's budget of time was used up");
    };
    if let Some(disk) = hanging_disk(qmp).await {
        let reason = format!(
            "the disk `{disk}` completes nothing: its hypervisor would wait for it before it stops the guest"
        );
        return nothing(Outcome::Skipped, &reason);
    }
    let mut capture = match look_twice(qmp.clone(), note.clone(), finding).await {
        Ok(Looked { memory, stood }) => brought(memory, &stood),
        Err(error) => nothing(outcome(&error), &Chain(&error).to_string()),
    };
    // Of a holder that was killed.
    let_go(&note).await;
    capture.steps.iter_mut().for_each(|step| step.took_ms = millis(begun.elapsed()));
    capture
}

/// Lets a guest go that an earlier capture left stopped.
pub(super) async fn put_back(target: &Target) {
    if let Some(note) = note(target) {
        let_go(&note).await;
    }
}

fn note(target: &Target) -> Option<PathBuf> {
    target.undo.as_ref().map(|path| path.with_extension("held"))
}

/// A disk that has completed none of its requests between two looks.
async fn hanging_disk(qmp: &Path) -> Option<String> {
    let mut replies = monitor::look(qmp).await;
    tokio::time::sleep(DISKS).await;
    replies.extend(monitor::look(qmp).await);
    hanging(&Qmp::read(&Replies(replies).to_bytes())?)
}

fn hanging(qmp: &Qmp) -> Option<String> {
    let mut disks = qmp.disks.iter().filter(|(_, looks)| {
        let last = looks.split_last();
        last.is_some_and(|(last, earlier)| {
            earlier.iter().any(|earlier| last.stalled_since(earlier).is_some())
        })
    });
    disks.next().map(|(name, _)| name.clone())
}

async fn look_twice(qmp: PathBuf, note: PathBuf, finding: Duration) -> Result<Looked, Error> {
    spawn_blocking(move || looked(&qmp, &note, finding)).await.map_err(|_| Error::Broken)?
}

fn looked(qmp: &Path, note: &Path, finding: Duration) -> Result<Looked, Error> {
    let turns = Turns {
        debugger: Debugger::start(qmp, note)?,
        until: Cell::new(Some(Clock::now() + finding)),
        since: Cell::new(Clock::now()),
        stood: RefCell::default(),
        failed: RefCell::default(),
    };
    let registers = turns.hold()?;
    let cpus: Vec<_> = registers.iter().map(|(_, registers)| *registers).collect();
    let kernel = Kernel::open(&turns, &cpus);
    let kernel = kernel.map_err(|error| turns.why(error))?;
    let first = Sample::take(&kernel).ok();
    let since = Clock::now();
    turns.release()?;
    turns.until.set(None);
    sleep(APART);
    let registers = turns.hold()?;
    let before = first.as_ref().map(|first| (first, Clock::now().since(since)));
    let memory = look(&kernel, Outside { registers: &registers, before });
    turns.release()?;
    let stood = turns.stood.take();
    Ok(Looked { memory, stood })
}

/// A guest that stands still by turns.
struct Turns {
    debugger: Debugger,
    /// As long as it may take turns, and until when. What is read then is of no one moment.
    until: Cell<Option<Moment>>,
    /// Since when it stands still.
    since: Cell<Moment>,
    /// How long it stood still, each time.
    stood: RefCell<Vec<Duration>>,
    /// Why it could not take its turn.
    failed: RefCell<Option<Error>>,
}

impl Turns {
    fn hold(&self) -> Result<Vec<(u32, Registers)>, Error> {
        let registers = self.debugger.hold()?;
        self.since.set(Clock::now());
        Ok(registers)
    }

    fn release(&self) -> Result<(), Error> {
        let stood = self.debugger.release()?;
        self.stood.borrow_mut().push(stood);
        Ok(())
    }

    /// The guest runs for a while.
    fn rest(&self, until: Moment) -> Result<(), Error> {
        self.release()?;
        if Clock::now() > until {
            return Err(Error::Late);
        }
        sleep(REST);
        self.hold().map(drop)
    }

    fn why(&self, error: OpenError) -> Error {
        self.failed.take().unwrap_or(Error::Open(error))
    }
}

impl Physical for Turns {
    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Fault> {
        if self.failed.borrow().is_some() {
            return Err(Fault::Source(io::ErrorKind::BrokenPipe));
        }
        let is_over = Clock::now().since(self.since.get()) >= SLICE;
        let read = match self.until.get() {
            Some(_) if is_over => Err(Fault::Spent),
            Some(_) | None => self.debugger.read(at, into),
        };
        match (read, self.until.get()) {
            (Err(Fault::Spent), Some(until)) => {
                if let Err(error) = self.rest(until) {
                    *self.failed.borrow_mut() = Some(error);
                    return Err(Fault::Spent);
                }
                self.debugger.read(at, into)
            }
            (read, _) => read,
        }
    }

    fn ranges(&self) -> Vec<Range<u64>> {
        self.debugger.ranges()
    }
}

fn brought(memory: Memory, stood: &[Duration]) -> Capture {
    let is_whole = stood.last().is_some_and(|stood| *stood < limits::STANDSTILL);
    let mut capture = memory::brought(Step::Debugger, memory, is_whole);
    let times = stood.len();
    let longest = stood.iter().max().map_or(0, Duration::as_millis);
    let all: Duration = stood.iter().sum();
    let stood = format!(
        "the guest stood still {times} times, {longest} ms at most and {} ms in all, and runs",
        all.as_millis()
    );
    for step in &mut capture.steps {
        let doubts = std::mem::take(&mut step.reason);
        step.reason = if doubts.is_empty() { stood.clone() } else { format!("{stood}; {doubts}") };
    }
    capture
}

fn outcome(error: &Error) -> Outcome {
    match error {
        Error::Debugger(DebuggerError::No(_)) => Outcome::Refused,
        Error::Debugger(DebuggerError::Late) | Error::Late => Outcome::Silent,
        Error::Debugger(DebuggerError::Start(_) | DebuggerError::Gone(_))
        | Error::Open(_)
        | Error::Broken => Outcome::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::consent::Consent;
    use crate::capture::{Budget, capture};
    use crate::evidence::qmp::disks::Disk;
    use std::collections::BTreeMap;

    #[test]
    fn a_guest_whose_disk_hangs_is_not_stopped() {
        let told = |in_flight, ended| {
            let idle = Some(Duration::from_secs(ended));
            let disk = |idle| Disk { in_flight: Some(in_flight), idle, ..Disk::default() };
            let looks = vec![disk(Some(Duration::ZERO)), Disk { ended, ..disk(idle) }];
            hanging(&Qmp { disks: BTreeMap::from([("vda".to_owned(), looks)]), ..Qmp::default() })
        };
        assert_eq!(told(2, 0), Some("vda".to_owned()));
        assert_eq!((told(0, 0), told(2, 1)), (None, None));
        assert_eq!(hanging(&Qmp::default()), None);
    }

    #[tokio::test]
    async fn why_a_guest_was_not_stopped_is_told() {
        let told = async |target: &Target, seconds| {
            let budget = Budget { time: Duration::from_secs(seconds), bytes: 1 << 20 };
            let captured = capture(target, &[Step::Debugger], Vec::new(), budget, &|_| {}).await;
            let [step] = &captured.steps[..] else { panic!("{:?}", captured.steps) };
            assert_eq!((&step.name[..], captured.artifacts.len()), ("debugger", 0));
            format!("{}: {}", step.outcome, step.reason)
        };
        let place = tempfile::tempdir().unwrap();
        let none = Target { consent: Consent::Pause, ..Target::default() };
        let nowhere = Target { qmp: Some("/nowhere/qmp".into()), ..none.clone() };
        let noted = Target { undo: Some(place.path().join("undo/app")), ..nowhere.clone() };
        let input = Target { consent: Consent::Input, ..noted.clone() };
        let all = [
            told(&input, 60).await,
            told(&none, 60).await,
            told(&nowhere, 60).await,
            told(&noted, 4).await,
        ];
        insta::assert_snapshot!(all.join("\n"), @"
        skipped: needs the consent `pause`
        skipped: the binding names no `qmp` socket
        skipped: there is no place for a note of what has to be put back
        skipped: the capture's budget of time was used up
        ");
        let readable = read(&noted, true, Instant::now() + Duration::from_secs(60)).await;
        assert_eq!(readable.steps[0].reason, "the guest's memory can be read while it runs");
    }
}
