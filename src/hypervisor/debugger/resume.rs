//! Lets a guest run that we have stopped, by whichever way is open.
//!
//! The only module that sends `cont`, and only to a guest that the note says is ours to let go. A guest in
//! any other state than `paused` is left to whoever brought it there: a stub does nothing else to it.
//!
//! ```text
//!   the monitor answers: close our stub, `cont` if it is paused, and look again
//!   somebody else has the monitor: attach to the stub, and detach in order
//! ```

use super::note::Note;
use super::stub::Stub;
use crate::base::chain::Chain;
use crate::hypervisor::qmp::{AskError, ConnectError, Monitor};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Between two tries.
const APART: Duration = Duration::from_millis(50);

/// A stub that somebody else has attached to accepts us, but says nothing.
const ATTACHING: Duration = Duration::from_millis(500);

/// What became of a guest.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Fate {
    /// It was seen to run, and our stub is closed.
    Runs,
    /// It is in a state that no debugger brings it into.
    Other(String),
    /// Its hypervisor has ended.
    Gone,
    /// Nobody lets us see.
    Unknown,
}

/// A debugger's stub, as the monitor tells it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Known {
    pub(super) path: PathBuf,
    /// Whether somebody has attached to it.
    pub(super) is_taken: bool,
}

/// Sees to it that the guest runs, and that our stub is gone. `is_let_go`: the stub has said so.
pub(super) async fn run_again(note: &Note, mut is_let_go: bool, patience: Duration) -> Fate {
    let until = Instant::now() + patience;
    loop {
        if note.is_void() {
            return Fate::Gone;
        }
        match Monitor::connect(&note.qmp).await {
            Ok(mut monitor) => match by_monitor(&mut monitor, note).await {
                Ok(status) if status == "running" => return Fate::Runs,
                Ok(status) if status == "paused" => {}
                Ok(status) => return Fate::Other(status),
                Err(error) => tracing::debug!(reason = %Chain(&error), "not let go yet"),
            },
            Err(ConnectError::Busy { .. }) if !is_let_go => is_let_go = by_stub(note).await,
            Err(error) => tracing::debug!(reason = %Chain(&error), "not seen to run yet"),
        }
        if Instant::now() >= until {
            return Fate::Unknown;
        }
        sleep(APART).await;
    }
}

async fn by_monitor(monitor: &mut Monitor, note: &Note) -> Result<String, AskError> {
    let stub = stub(&monitor.ask("query-chardev", json!({})).await?);
    if note.is_ours && stub.is_some_and(|stub| stub.path == note.stub) {
        monitor.ask_human("gdbserver none").await?;
    }
    if status(monitor).await? == "paused" {
        monitor.ask("cont", json!({})).await?;
    }
    status(monitor).await
}

/// To attach stops a guest that runs already, for as long as the next word takes.
async fn by_stub(note: &Note) -> bool {
    match Stub::attach(&note.stub, Instant::now() + ATTACHING).await {
        Ok(stub) => stub.detach().await.is_ok(),
        Err(_) => false,
    }
}

/// The run state.
pub(super) async fn status(monitor: &mut Monitor) -> Result<String, AskError> {
    let status = monitor.ask("query-status", json!({})).await?;
    Ok(status.get("status").and_then(Value::as_str).unwrap_or_default().to_owned())
}

/// The stub on a unix socket in `query-chardev`: `disconnected:unix:/run/gdb,server=on`. QEMU has one at
/// most, and always calls it so.
pub(super) fn stub(chardevs: &Value) -> Option<Known> {
    let is_stub = |chardev: &&Value| chardev.get("label").and_then(Value::as_str) == Some("gdb");
    let told = chardevs.as_array()?.iter().find(is_stub)?.get("filename")?.as_str()?;
    let (place, is_taken) = match told.strip_prefix("disconnected:") {
        Some(place) => (place, false),
        None => (told, true),
    };
    let path = place.strip_prefix("unix:").unwrap_or_default();
    let path = path.rsplit_once(",server").map_or(path, |(path, _)| path);
    Some(Known { path: path.into(), is_taken })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stub_is_known_by_its_name() {
        let told = |filename: &str| {
            let qmp = json!({ "label": "qmp", "filename": "unix:/run/qmp,server=on" });
            stub(&json!([qmp, { "label": "gdb", "filename": filename }])).unwrap()
        };
        let known = |path: &str, is_taken| Known { path: path.into(), is_taken };
        assert_eq!(told("disconnected:unix:/run/gdb,server=on"), known("/run/gdb", false));
        assert_eq!(told("unix:/run/a,b,server=on"), known("/run/a,b", true));
        assert_eq!(told("disconnected:tcp:0.0.0.0:1234,server=on"), known("", false));
        assert_eq!(stub(&json!([{ "label": "qmp" }])), None);
    }
}
