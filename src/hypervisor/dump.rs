//! The guest's memory, written by the hypervisor into a file of ours.
//!
//! The hypervisor stops the guest for that (run state `save-vm`) and lets it go on by itself when it has
//! come to the end, whether anybody waits for that or not. The file is handed over, so the hypervisor
//! needs no right to any directory; it has no name for it, and closes it when it is done. No connection
//! lasts as long as the dump: it is begun, and asked after by others.

use super::qmp::{AskError, Monitor};
use super::ram;
use serde_json::{Value, json};
use std::os::fd::AsFd;

/// The run state while a dump is written.
pub const DUMPING: &str = "save-vm";

/// The run state of a guest that runs.
pub const RUNNING: &str = "running";

/// Our name for the file, for as long as the command takes that takes it.
const FILE: &str = "lifesign-dump";

/// Compressed, and read by `crash` and `makedumpfile`; a hypervisor that has none of it writes ELF.
const COMPRESSED: &str = "kdump-zlib";
const PLAIN: &str = "elf";

/// Why a guest is not dumped. It was not stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The monitor says no, or nothing.
    #[error(transparent)]
    Monitor(#[from] AskError),
    /// It is on its way, or somebody else saves it.
    #[error("the guest is in the run state `{0}`, in which it is not dumped")]
    State(String),
    /// Somebody else is at it.
    #[error("the hypervisor writes a dump for somebody else")]
    Busy,
    /// How large the dump may become cannot be told.
    #[error("the monitor does not tell where the guest's RAM is")]
    NoRam,
}

/// A dump as it would be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Plan {
    /// The run state of the guest, which it shall have again.
    pub state: String,
    /// The hypervisor's word for how it is written.
    pub format: &'static str,
    /// How much RAM the guest has.
    pub ram: u64,
    /// No dump of it is larger.
    pub worst: u64,
}

/// How far a dump has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Progress {
    /// No dump was begun.
    None,
    /// It is being written: so many bytes of so many.
    Active {
        /// Read so far.
        done: u64,
        /// Of so many.
        total: u64,
    },
    /// All of it is written.
    Completed,
    /// It was given up.
    Failed,
}

/// What a dump of this guest would be.
///
/// # Errors
///
/// When the guest is in no state to be dumped, or the monitor does not tell what has to be known.
pub async fn plan(monitor: &mut Monitor) -> Result<Plan, Error> {
    let state = state(monitor).await?;
    // In any of these the hypervisor may read all of its memory, and leaves the state as it is.
    const STATES: [&str; 7] =
        [RUNNING, "paused", "guest-panicked", "internal-error", "io-error", "shutdown", "watchdog"];
    if !STATES.contains(&state.as_str()) {
        return Err(Error::State(state));
    }
    if let Progress::Active { .. } = progress(monitor).await? {
        return Err(Error::Busy);
    }
    let known = monitor.ask("query-dump-guest-memory-capability", json!({})).await?;
    let known = known["formats"].as_array().cloned().unwrap_or_default();
    let format = if known.iter().any(|format| format == COMPRESSED) { COMPRESSED } else { PLAIN };
    let tree = monitor.ask_human("info mtree -f").await?;
    let tree = tree.as_str().unwrap_or_default();
    let ram = ram::slots(tree).iter().map(|slot| slot.guest.end - slot.guest.start).sum();
    let (bytes, end) = ram::extent(tree);
    match ram {
        0 => Err(Error::NoRam),
        ram => Ok(Plan { state, format, ram, worst: worst(bytes, end) }),
    }
}

/// Stops the guest and begins to write it into `file`.
///
/// # Errors
///
/// When the monitor refuses. Any other error leaves open whether it has begun.
pub async fn begin(monitor: &mut Monitor, file: &impl AsFd, format: &str) -> Result<(), AskError> {
    monitor.hand(file, FILE).await?;
    let how = json!({
        "paging": false,
        "protocol": format!("fd:{FILE}"),
        "detach": true,
        "format": format,
    });
    let begun = monitor.ask("dump-guest-memory", how).await;
    if matches!(begun, Err(AskError::Refused { .. })) {
        // It may have taken the file already.
        monitor.ask("closefd", json!({ "fdname": FILE })).await.ok();
    }
    begun.map(drop)
}

/// How far the last dump has come.
///
/// # Errors
///
/// As [`Monitor::ask`].
pub async fn progress(monitor: &mut Monitor) -> Result<Progress, AskError> {
    let told = monitor.ask("query-dump", json!({})).await?;
    let number = |key: &str| told[key].as_u64().unwrap_or_default();
    Ok(match told["status"].as_str() {
        Some("active") => Progress::Active { done: number("completed"), total: number("total") },
        Some("completed") => Progress::Completed,
        Some("failed") => Progress::Failed,
        _ => Progress::None,
    })
}

/// The run state.
///
/// # Errors
///
/// As [`Monitor::ask`].
pub async fn state(monitor: &mut Monitor) -> Result<String, AskError> {
    let told = monitor.ask("query-status", json!({})).await?;
    Ok(told["status"].as_str().unwrap_or_default().to_owned())
}

/// Lets a guest go on that stands still in [`DUMPING`] although its dump is over. No hypervisor is known
/// that leaves one so.
///
/// # Errors
///
/// As [`Monitor::ask`].
pub async fn go_on(monitor: &mut Monitor) -> Result<(), AskError> {
    monitor.ask("cont", json!({})).await.map(|_: Value| ())
}

/// The largest that a dump may be of so much memory, of which the last ends there: of every page its bytes,
/// for those that do not get smaller are written as they are, and 24 more; two bits for each page that
/// there might be; 16 bytes a block, which are some KiB; and what is known of the CPUs.
fn worst(bytes: u64, end: u64) -> u64 {
    const HEADERS: u64 = 16 << 20;
    bytes.saturating_add(bytes / 64).saturating_add(end / 16_000).saturating_add(HEADERS)
}
