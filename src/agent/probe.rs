//! Asks one probe of one app.
//!
//! Silence is not death: a console that somebody else holds, a monitor that is busy, a socket that is
//! not there say nothing of the guest. So a probe that got no answer looks at the hypervisor before
//! it says *dead*.

use crate::base::chain::Chain;
use crate::base::rung::{Answer, Rung};
use crate::binding::App;
use crate::evidence::rounds;
use crate::hypervisor::chardev::ConsoleDevice;
use crate::hypervisor::process;
use crate::hypervisor::qmp::{ConnectError, Monitor};
use crate::scenario::Probe;
use crate::transport::console::{self, Console, Heard};
use crate::transport::mux::Wiring;
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;

/// A busy main loop of QEMU notices a closed socket within this.
const NOTICE: Duration = Duration::from_millis(100);

/// What the hypervisor is doing while its guest is silent.
enum Vmm {
    /// It runs the guest.
    Runs {
        /// Whether somebody holds the console, which is not us.
        console_held: bool,
    },
    /// The guest stands still by somebody's wish.
    Halted {
        /// The run state.
        status: String,
    },
    /// Its process is stopped.
    Stopped,
    /// It cannot be asked.
    Unknown {
        /// Why.
        reason: String,
    },
}

/// Asks, and says what came of it: the probe itself, and where it took a look at the hypervisor,
/// that look.
pub async fn ask(app: &App, probe: &Probe, timeout: Duration) -> Vec<rounds::Probe> {
    let started = Instant::now();
    match probe {
        Probe::Console { send, expect } => {
            let heard = ask_console(app, send, expect, started + timeout).await;
            let (answer, reason, vmm) = match heard {
                Ok(Heard::Wanted(_)) => (Answer::Alive, format!("`{send}` was answered"), None),
                Ok(Heard::Other(bytes)) => {
                    let silence = silence(send, expect, bytes.len());
                    interpret(look(app).await, silence, !bytes.is_empty())
                }
                Err(error @ (console::Error::NotTaken { .. } | console::Error::Crowded { .. })) => {
                    interpret(look(app).await, Chain(&error).to_string(), false)
                }
                Err(error) => (Answer::Unknown, Chain(&error).to_string(), None),
            };
            let took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            let name = probe.name().to_owned();
            let mut answers =
                vec![rounds::Probe { name, rung: probe.rung(), answer, reason, took_ms }];
            answers.extend(vmm);
            answers
        }
    }
}

async fn ask_console(
    app: &App,
    send: &str,
    expect: &str,
    deadline: Instant,
) -> Result<Heard, console::Error> {
    let Some(path) = &app.console else {
        let source = std::io::Error::other("the binding names no `console`");
        return Err(console::Error::Open { path: std::path::PathBuf::new(), source });
    };
    // Which wiring it is would take the monitor to tell. A line that holds no 0x01 is the same on
    // either, and one that does is safe on a multiplexer and harmless on a plain line.
    let mut console = Console::open(path, Wiring::Mux).await?;
    console::ask(&mut console, send, expect, deadline).await
}

fn silence(send: &str, expect: &str, bytes: usize) -> String {
    match bytes {
        0 => format!("`{send}` was typed and nothing came back"),
        _ => format!("`{send}` was typed and {bytes} bytes came back, but not `{expect}`"),
    }
}

/// What the guest's silence means, given what the hypervisor does.
fn interpret(vmm: Vmm, silence: String, echoed: bool) -> (Answer, String, Option<rounds::Probe>) {
    match vmm {
        Vmm::Runs { console_held: false } => {
            let look = vmm_probe(Answer::Alive, "its monitor says that the guest runs".to_owned());
            (Answer::Dead, silence, Some(look))
        }
        Vmm::Runs { console_held: true } => {
            let look = vmm_probe(Answer::Alive, "its monitor says that the guest runs".to_owned());
            (Answer::Unknown, "somebody else holds the console".to_owned(), Some(look))
        }
        Vmm::Halted { status } => {
            let look = vmm_probe(Answer::Alive, format!("its monitor says `{status}`"));
            (
                Answer::Dead,
                format!("{silence}: the guest is in the run state `{status}`"),
                Some(look),
            )
        }
        Vmm::Stopped => {
            let look = vmm_probe(Answer::Dead, "its process is stopped".to_owned());
            (Answer::Dead, format!("{silence}: the hypervisor's process is stopped"), Some(look))
        }
        // What was echoed proves that it was us who were heard.
        Vmm::Unknown { reason } if echoed => {
            (Answer::Dead, silence, Some(vmm_probe(Answer::Unknown, reason)))
        }
        Vmm::Unknown { reason } => {
            let both = format!("{silence}, and whether somebody else holds it is not known");
            (Answer::Unknown, both, Some(vmm_probe(Answer::Unknown, reason)))
        }
    }
}

fn vmm_probe(answer: Answer, reason: String) -> rounds::Probe {
    rounds::Probe { name: "vmm".to_owned(), rung: Rung::Vmm, answer, reason, took_ms: 0 }
}

/// Looks at the hypervisor. Our own console connection is closed by now, so whoever holds the
/// console is somebody else.
async fn look(app: &App) -> Vmm {
    let Some(path) = &app.qmp else {
        return Vmm::Unknown { reason: "the binding names no `qmp` socket to ask".to_owned() };
    };
    let mut monitor = match Monitor::connect(path).await {
        Ok(monitor) => monitor,
        Err(error) => {
            let pid = if let ConnectError::Busy { pid, .. } = &error { *pid } else { None };
            if pid.and_then(process::state).is_some_and(|state| matches!(state, 'T' | 't')) {
                return Vmm::Stopped;
            }
            return Vmm::Unknown { reason: Chain(&error).to_string() };
        }
    };
    let status = monitor.ask("query-status", json!({})).await;
    let status = match &status {
        Ok(value) => value.get("status").and_then(|status| status.as_str()).unwrap_or("unknown"),
        Err(error) => return Vmm::Unknown { reason: Chain(error).to_string() },
    };
    if status != "running" {
        return Vmm::Halted { status: status.to_owned() };
    }
    let mut held = is_held(&mut monitor, app).await;
    if held {
        // QEMU may not have noticed yet that we left.
        tokio::time::sleep(NOTICE).await;
        held = is_held(&mut monitor, app).await;
    }
    Vmm::Runs { console_held: held }
}

async fn is_held(monitor: &mut Monitor, app: &App) -> bool {
    let devices = monitor.ask("query-chardev", json!({})).await.ok();
    let device = devices
        .zip(app.console.as_ref())
        .and_then(|(devices, console)| ConsoleDevice::find(&devices, console));
    device.is_some_and(|device| device.held)
}
