//! What the hypervisor is doing while its guest is silent.
//!
//! Silence is not death: a console that somebody else holds, a monitor that is busy, a socket that is
//! not there say nothing of the guest. So a probe that got no answer looks here before it says *dead*.

use crate::base::chain::Chain;
use crate::base::rung::{Answer, Finding, Rung};
use crate::binding::App;
use crate::hypervisor::chardev::ConsoleDevice;
use crate::hypervisor::process;
use crate::hypervisor::qmp::{ConnectError, Monitor};
use crate::ladder::Pause;
use serde_json::json;
use std::path::Path;
use std::time::Duration;

/// A busy main loop of QEMU notices a closed socket within this.
const NOTICE: Duration = Duration::from_millis(100);

/// What it does.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Vmm {
    /// It runs the guest.
    Runs {
        /// Whether somebody holds the console, which is not us.
        console_held: bool,
    },
    /// The guest stands still by somebody's wish, or by a failure.
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

/// Looks at the hypervisor, and at who holds `console`. Our own connection to it must be closed by
/// then.
pub async fn look(app: &App, console: Option<&Path>) -> Vmm {
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
    let mut held = is_held(&mut monitor, console).await;
    if held {
        // QEMU may not have noticed yet that we left.
        tokio::time::sleep(NOTICE).await;
        held = is_held(&mut monitor, console).await;
    }
    Vmm::Runs { console_held: held }
}

async fn is_held(monitor: &mut Monitor, console: Option<&Path>) -> bool {
    let Some(console) = console else { return false };
    let devices = monitor.ask("query-chardev", json!({})).await.ok();
    let device = devices.and_then(|devices| ConsoleDevice::find(&devices, console));
    device.is_some_and(|device| device.held)
}

impl Vmm {
    /// What this says of the hypervisor itself.
    #[must_use]
    pub fn finding(&self) -> Finding {
        match self {
            Self::Runs { .. } => Finding::alive(Rung::Vmm, "its monitor says that the guest runs"),
            Self::Halted { status } => {
                Finding::alive(Rung::Vmm, format!("its monitor says `{status}`"))
            }
            Self::Stopped => Finding::dead(Rung::Vmm, "its process is stopped"),
            Self::Unknown { reason } => Finding::unknown(Rung::Vmm, reason.clone()),
        }
    }

    /// Whether the guest stands still by somebody's wish, and is well.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        match self {
            Self::Halted { status } => Pause::of_run_state(status).is_some(),
            Self::Runs { .. } | Self::Stopped | Self::Unknown { .. } => false,
        }
    }

    /// What a guest's silence means, given this, by a way that cannot be held by somebody else.
    #[must_use]
    pub fn unless_paused(&self, silence: Finding) -> Finding {
        let Self::Halted { status } = self else { return silence };
        let Finding { rung, answer, reason } = silence;
        let reason = format!("{reason}: the guest is in the run state `{status}`");
        let paused = answer == Answer::Dead && self.is_paused();
        Finding { rung, answer: if paused { Answer::Unknown } else { answer }, reason }
    }

    /// What a guest's silence on its console means, given this. `heard` says that it was us who were
    /// heard, such as by an echo.
    #[must_use]
    pub fn interpret(&self, silence: Finding, heard: bool) -> Finding {
        let Finding { rung, answer, reason } = silence;
        if answer != Answer::Dead {
            return Finding { rung, answer, reason };
        }
        match self {
            Self::Runs { console_held: false } => Finding::dead(rung, reason),
            Self::Runs { console_held: true } => {
                Finding::unknown(rung, "somebody else holds the console")
            }
            Self::Halted { .. } => self.unless_paused(Finding::dead(rung, reason)),
            Self::Stopped => {
                Finding::dead(rung, format!("{reason}: the hypervisor's process is stopped"))
            }
            Self::Unknown { .. } if heard => Finding::dead(rung, reason),
            Self::Unknown { .. } => Finding::unknown(
                rung,
                format!("{reason}, and whether somebody else holds it is not known"),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_alone_is_never_death() {
        let silent = || Finding::dead(Rung::Userspace, "nothing came back");
        let unknown = Vmm::Unknown { reason: "busy".to_owned() };
        assert_eq!(unknown.interpret(silent(), false).answer, Answer::Unknown);
        assert_eq!(unknown.interpret(silent(), true).answer, Answer::Dead);
        let held = Vmm::Runs { console_held: true };
        assert_eq!(held.interpret(silent(), false).answer, Answer::Unknown);
        let free = Vmm::Runs { console_held: false };
        assert_eq!(free.interpret(silent(), false).answer, Answer::Dead);
        assert_eq!(Vmm::Stopped.interpret(silent(), false).answer, Answer::Dead);
        assert_eq!(Vmm::Stopped.finding().answer, Answer::Dead);
        let alive = Finding::alive(Rung::Userspace, "answered");
        assert_eq!(held.interpret(alive.clone(), true), alive);
    }

    #[test]
    fn who_is_paused_is_not_dead_of_it() {
        let silent = || Finding::dead(Rung::Service, "nothing came back");
        let halted = |status: &str| Vmm::Halted { status: status.to_owned() };
        for (status, answer) in [("paused", Answer::Unknown), ("io-error", Answer::Dead)] {
            let look = halted(status);
            let reason = format!("nothing came back: the guest is in the run state `{status}`");
            let expected = Finding { rung: Rung::Service, answer, reason };
            assert_eq!(look.unless_paused(silent()), expected);
            assert_eq!(look.interpret(silent(), true), expected);
        }
        let free = Vmm::Runs { console_held: false };
        assert_eq!(free.unless_paused(silent()), silent());
        assert_eq!(Vmm::Stopped.unless_paused(silent()), silent());
    }
}
