//! The channel of an app's guest agent: the one that it came with, or one that we give it.
//!
//! An app is given one only where its binding says so (`agent: add`), it came with none, and its agent
//! is asked. It keeps the channel while the binding says so, over restarts of this program as well;
//! when the binding no longer does, the channel is taken away.

use super::{App, Chain};
use crate::base::id::AppId;
use crate::hypervisor::channel;
use crate::hypervisor::qmp::Monitor;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Where the socket of an app's channel is put. The hypervisor makes it from another directory.
#[must_use]
pub fn place(state: &Path, app: AppId) -> Option<PathBuf> {
    Some(std::path::absolute(state).ok()?.join("agent").join(app.to_string()))
}

/// The socket by which the agent can be asked, if there is one; or why there cannot be one.
pub(super) async fn socket(app: &App) -> Result<Option<PathBuf>, String> {
    let Some(socket) = to_add(app) else { return Ok(app.guest_agent.clone()) };
    let Some(monitor) = &app.qmp else {
        return Err("a channel cannot be added: the app's monitor is not known".to_owned());
    };
    make_room(socket).map_err(|error| format!("failed to make room for a channel: {error}"))?;
    let mut monitor = Monitor::connect(monitor).await.map_err(|error| Chain(&error).to_string())?;
    match channel::add(&mut monitor, socket).await {
        Ok(new) => {
            if new {
                tracing::info!(app = %app.name, "was given a channel for its guest agent");
            }
            Ok(Some(socket.clone()))
        }
        Err(error) => Err(Chain(&error).to_string()),
    }
}

/// Takes the channel away that the app was given, if it may have it no longer.
pub async fn withdraw(app: &App) {
    let Some(socket) = &app.added_agent else { return };
    let (None, Some(monitor)) = (to_add(app), &app.qmp) else { return };
    if !socket.exists() {
        return;
    }
    match unplug(monitor).await {
        Ok(()) => {
            // A hypervisor that was killed leaves it behind.
            std::fs::remove_file(socket).ok();
            tracing::info!(app = %app.name, "the channel of its guest agent was taken away");
        }
        Err(why) => {
            tracing::warn!(app = %app.name, %why, "no binding consents to the channel of its guest agent, and it stays");
        }
    }
}

async fn unplug(monitor: &Path) -> Result<(), String> {
    let mut monitor = Monitor::connect(monitor).await.map_err(|error| Chain(&error).to_string())?;
    channel::remove(&mut monitor).await.map_err(|error| Chain(&error).to_string())
}

/// The socket of the channel that the app is to be given.
fn to_add(app: &App) -> Option<&PathBuf> {
    app.added_agent.as_ref().filter(|_| app.add_agent && app.guest_agent.is_none())
}

/// Whoever can open such a socket can run programs in the guest.
fn make_room(socket: &Path) -> io::Result<()> {
    let directory = socket.parent().unwrap_or(socket);
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)
}
