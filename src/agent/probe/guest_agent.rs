//! Asks the agent inside the guest.

use super::{App, Finding, Instant, Rung, channel};
use crate::hypervisor::chardev::ConsoleDevice;
use crate::hypervisor::qmp::Monitor;
use crate::scenario::AgentProbe;
use crate::transport::guest_agent::{Channel, Program, Question, probe};
use serde_json::json;
use std::path::Path;

/// Asks. The first finding is the probe's own.
pub(super) async fn ask(app: &App, question: &AgentProbe, deadline: Instant) -> Vec<Finding> {
    let socket = match channel::socket(app).await {
        Ok(socket) => socket,
        Err(reason) => return vec![Finding::unknown(Rung::Userspace, reason)],
    };
    let held = match &socket {
        Some(path) => held(app, path).await,
        None => Channel::Unknown,
    };
    probe(socket.as_deref(), held, &asked(question), deadline).await
}

/// What the monitor says of the channel, before we connect to it.
async fn held(app: &App, path: &Path) -> Channel {
    let Some(monitor) = &app.qmp else { return Channel::Unknown };
    let Ok(mut monitor) = Monitor::connect(monitor).await else { return Channel::Unknown };
    let devices = monitor.ask("query-chardev", json!({})).await.ok();
    match devices.and_then(|devices| ConsoleDevice::find(&devices, path)) {
        Some(ConsoleDevice { held: true, .. }) => Channel::Held,
        Some(ConsoleDevice { open: Some(true), .. }) => Channel::Open,
        Some(ConsoleDevice { open: Some(false), .. }) => Channel::Closed,
        Some(ConsoleDevice { open: None, .. }) | None => Channel::Unknown,
    }
}

fn asked(question: &AgentProbe) -> Question {
    match question {
        AgentProbe::Ping => Question::Ping,
        AgentProbe::Info => Question::Info,
        AgentProbe::Exec { command } => {
            let (path, arguments) = command
                .split_first()
                .map_or_else(Default::default, |(path, rest)| (path.clone(), rest.to_vec()));
            Question::Run { program: Program { path, arguments }, expect: String::new() }
        }
    }
}
