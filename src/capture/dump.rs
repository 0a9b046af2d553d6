//! The guest's memory as a file that is kept on the device.
//!
//! ```text
//!   plan: its state, its size, its disks --> room in the store --> begin --> asked after --> it runs again
//!     |  not fit                              |  none                |                          |
//!     +--> refused, and not stopped <---------+                      |                    hashed, kept
//!                                             we are killed: the hypervisor goes on to its end
//! ```
//!
//! It is the one step that stops a guest, so all that can be refused is refused before. A disk that
//! completes nothing is such a reason: QEMU waits for it when it stops a guest, and serves no monitor
//! meanwhile. Once begun a dump cannot be called off; it is watched to its end even where that is beyond
//! the budget of the capture, for somebody has to see that the guest runs again.

use super::no::No;
use super::progress::Meter;
use super::{Capture, Target, millis, monitor, report};
use crate::base::chain::Chain;
use crate::base::id::DumpName;
use crate::base::limits;
use crate::base::step::Step;
use crate::base::time::{Clock, Spoken, Timestamp};
use crate::evidence::qmp::disks::Disk;
use crate::evidence::qmp::{Qmp, Replies};
use crate::evidence::report::Outcome;
use crate::hypervisor::dump::{self, DUMPING, Plan, Progress, RUNNING};
use crate::hypervisor::qmp::{AskError, ConnectError, Monitor};
use crate::spool::kept::{Begun, Facts, Item, Kept};
use std::path::Path;
use std::time::Duration;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

/// How often it is asked after. Each time others wait for the monitor, for a millisecond.
const GLANCE: Duration = Duration::from_millis(250);

/// A guest runs again within milliseconds after its dump.
const RESUME: Duration = Duration::from_secs(5);

/// A disk that answers does so within this time.
const ANSWERS: Duration = Duration::from_millis(500);

/// How much of an app's name is in that of its dump.
const NAME_BYTES: usize = 40;

/// Dumps the guest, and tells where that is kept.
pub(super) async fn take(target: &Target, deadline: Instant, meter: &Meter<'_>) -> Capture {
    meter.begin("dump");
    let started = Instant::now();
    let (outcome, reason) = match keep(target, deadline, meter).await {
        Ok(said) => (Outcome::Done, said),
        Err(No(outcome, reason)) => (outcome, reason),
    };
    let mut step = report(Step::Dump, outcome, reason);
    step.took_ms = millis(started.elapsed());
    Capture { artifacts: Vec::new(), steps: vec![step] }
}

async fn keep(target: &Target, deadline: Instant, meter: &Meter<'_>) -> Result<String, No> {
    let Some(path) = &target.qmp else {
        return Err(No::skipped("the binding names no `qmp` socket"));
    };
    let Some(kept) = &target.kept else {
        return Err(No::skipped("there is no directory for dumps; the agent's log says why"));
    };
    if Instant::now() >= deadline {
        return Err(No(Outcome::Failed, "the capture's budget of time was used up".to_owned()));
    }
    let plan = plan(path).await?;
    let taken = Clock::wall();
    let begun = make_room(kept, name(&target.app, taken), plan.worst).await?;
    let stopped = Instant::now();
    begin(path, &begun, &plan).await?;
    let ended = watch(path, &begun, meter).await;
    let guest = match resume(path, &plan.state).await {
        Ok(()) => format!("the guest stood still for {}", Spoken(stopped.elapsed())),
        Err(is) => is,
    };
    ended.map_err(|No(outcome, why)| No(outcome, format!("{why}; {guest}")))?;
    let facts =
        Facts { app: target.app.clone(), taken, format: plan.format.to_owned(), ram: plan.ram };
    let item = spawn_blocking(move || begun.finish(facts)).await;
    let item = item.unwrap_or_else(|_| Err(std::io::ErrorKind::Other.into()));
    let Item { name, bytes, sha256, format, .. } = item.map_err(|error| No::failed(&error))?;
    Ok(format!("kept on the device as {name}: {bytes} bytes, {format}, SHA-256 {sha256}; {guest}"))
}

/// What the dump would be, if the guest and its disks are in a state for it.
async fn plan(path: &Path) -> Result<Plan, No> {
    let looks = Replies(monitor::look(path).await).to_bytes();
    if let Some(disk) = Qmp::read(&looks).and_then(|qmp| hung_disk(&qmp)) {
        let why = format!(
            "the disk {disk} completes nothing: the hypervisor would wait for it before it dumps, and \
             serve nobody meanwhile"
        );
        return Err(No(Outcome::Refused, why));
    }
    let mut monitor = Monitor::connect(path).await?;
    dump::plan(&mut monitor).await.map_err(|error| match error {
        dump::Error::Monitor(error) => error.into(),
        dump::Error::State(_) => No(Outcome::Skipped, error.to_string()),
        dump::Error::Busy | dump::Error::NoRam => No(Outcome::Refused, error.to_string()),
    })
}

/// A disk that has requests and has completed none for a while.
fn hung_disk(qmp: &Qmp) -> Option<String> {
    let hung = |(name, disk): (&String, &Disk)| {
        let waits = disk.in_flight.is_some_and(|requests| requests > 0);
        (waits && disk.idle.is_none_or(|idle| idle >= ANSWERS)).then(|| name.clone())
    };
    qmp.disks.iter().filter_map(|(name, looks)| Some((name, looks.last()?))).find_map(hung)
}

async fn make_room(kept: &Kept, name: Option<DumpName>, worst: u64) -> Result<Begun, No> {
    let Some(name) = name else {
        return Err(No(Outcome::Failed, "the dump has no name".to_owned()));
    };
    let kept = kept.clone();
    match spawn_blocking(move || kept.begin(name, worst)).await {
        Ok(Ok(begun)) => Ok(begun),
        Ok(Err(refused)) => Err(No(Outcome::Refused, Chain(&refused).to_string())),
        Err(_) => Err(No(Outcome::Failed, "the store of dumps broke off".to_owned())),
    }
}

/// Begins it, unless the guest's state is another one by now.
async fn begin(path: &Path, begun: &Begun, plan: &Plan) -> Result<(), No> {
    let mut monitor = Monitor::connect(path).await?;
    let state = dump::state(&mut monitor).await?;
    if state != plan.state {
        let why = format!("the guest is in the run state `{state}` by now");
        return Err(No(Outcome::Skipped, why));
    }
    match dump::begin(&mut monitor, begun.file(), plan.format).await {
        // Whether it has begun will be seen: to stop a guest may take longer than an answer.
        Ok(()) | Err(AskError::Late { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Waits for its end.
async fn watch(path: &Path, begun: &Begun, meter: &Meter<'_>) -> Result<(), No> {
    let failed = |why: &str| Err(No(Outcome::Failed, why.to_owned()));
    let deadline = Instant::now() + limits::DUMP_TIME;
    let is_empty = || begun.file().metadata().is_ok_and(|file| file.len() == 0);
    while Instant::now() < deadline {
        // Who is late or away is asked again: the guest stands still until somebody has seen it run.
        let progress = match Monitor::connect(path).await {
            Ok(mut monitor) => dump::progress(&mut monitor).await.ok(),
            Err(error @ (ConnectError::Open { .. } | ConnectError::NotQmp { .. })) => {
                return Err(error.into());
            }
            Err(ConnectError::Busy { .. } | ConnectError::Start(_)) => None,
        };
        match progress {
            Some(Progress::Active { done, total }) => meter.within("dump", done, total),
            // One that completed before ours was begun has written nothing into our file.
            Some(Progress::Completed) if !is_empty() => return Ok(()),
            Some(Progress::Completed | Progress::None) => {
                return failed("the hypervisor did not begin the dump");
            }
            Some(Progress::Failed) => {
                return failed("the hypervisor failed to write the dump, and gave it up");
            }
            None => {}
        }
        sleep(GLANCE).await;
    }
    failed("the dump takes longer than one may take; the hypervisor goes on, and nobody keeps it")
}

/// Sees that the guest is in `state` again; what it is in, if it is not.
async fn resume(path: &Path, state: &str) -> Result<(), String> {
    let deadline = Instant::now() + RESUME;
    let mut is = "not known".to_owned();
    let mut pushed = false;
    loop {
        if let Ok(mut monitor) = Monitor::connect(path).await {
            is = dump::state(&mut monitor).await.unwrap_or(is);
            // It ran before our dump, which is over, so nothing is left that would let it go on.
            let stands = is == DUMPING && state == RUNNING;
            if stands && !pushed && Instant::now() + RESUME / 2 >= deadline {
                let progress = dump::progress(&mut monitor).await;
                if let Ok(Progress::Completed | Progress::Failed) = progress {
                    pushed = true;
                    dump::go_on(&mut monitor).await.ok();
                }
            }
        }
        if is == state {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(format!("the run state of the guest is `{is}`, and was `{state}` before"));
        }
        sleep(GLANCE).await;
    }
}

/// `web-20261120T151233Z`
fn name(app: &str, taken: Timestamp) -> Option<DumpName> {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    let app: String = app.chars().map(plain).take(NAME_BYTES).collect();
    let app = Some(app.trim_start_matches('.')).filter(|app| !app.is_empty()).unwrap_or("app");
    let when: String = taken.to_string().chars().filter(char::is_ascii_alphanumeric).collect();
    format!("{app}-{when}").parse().ok()
}

#[cfg(test)]
mod tests;
