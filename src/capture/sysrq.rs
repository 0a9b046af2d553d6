//! Keys that the guest's kernel has to answer: SysRq over the console.
//!
//! Which keys reach the kernel depends on what its console is, and nobody tells. So a key that does
//! nothing (`h`, help) is tried first, by each [`Route`]; the first that is answered is used.
//!
//! ```text
//!   front end in focus is the kernel's console, and a virtio one:   ^O key
//!   another front end of the multiplexer is, and a serial one:      turn focus, BREAK, key
//!   no multiplexer:                                                 BREAK by the monitor, key
//! ```
//!
//! A paused guest is left alone: a key pressed now would act when it runs again, and the next one
//! would be typed into its shell. The focus is turned back whatever happens, and what a shell may
//! have taken for typing is wiped.

use super::{Capture, Target, millis, report};
use crate::base::chain::Chain;
use crate::base::step::{Action, Step};
use crate::evidence::report::{Outcome, StepReport};
use crate::evidence::sysrq::{self, Answer, Shape};
use crate::evidence::{Artifact, Kind};
use crate::hypervisor::chardev::ConsoleDevice;
use crate::hypervisor::qmp::Monitor;
use crate::transport::console::{self, Console};
use crate::transport::mux::Wiring;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// A kernel that answers does so within 20 ms; software emulation and a busy host need more.
const FIRST_WORD: Duration = Duration::from_millis(1500);

/// Between two lines of a dump. A backtrace of a CPU that takes no interrupts stops for longer.
const QUIET: Duration = Duration::from_millis(900);

/// Short enough not to wait long after the last line, long enough not to look at every line.
const GLANCE: Duration = Duration::from_millis(60);

const CTRL_O: u8 = 0x0f;
const KILL_LINE: u8 = 0x15;
const HELP: u8 = b'h';

/// A way on which a key reaches the kernel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Route {
    /// `^O` on the virtio console in focus.
    ControlO,
    /// BREAK through the multiplexer, on the front end that is next after the one in focus.
    BreakNext,
    /// BREAK by the monitor.
    BreakByMonitor,
}

/// Why no key was pressed.
#[derive(Debug)]
struct No(Outcome, String);

/// An open console, and how to press a key on it.
struct Keyboard {
    console: Console,
    monitor: Option<PathBuf>,
    label: String,
    turned: bool,
}

/// Presses all `actions` and collects the answers.
pub(super) async fn press(target: &Target, actions: &[Action], deadline: Instant) -> Capture {
    let mut keyboard = match Keyboard::open(target).await {
        Ok(keyboard) => keyboard,
        Err(No(outcome, reason)) => {
            let steps = actions.iter().map(|a| report(Step::Sysrq(*a), outcome, reason.clone()));
            return Capture { artifacts: Vec::new(), steps: steps.collect() };
        }
    };
    let mut capture = Capture::default();
    let pressed = timeout_at(deadline, keyboard.press_all(actions, &mut capture)).await;
    keyboard.leave().await;
    let reason = match pressed {
        Ok(Ok(())) => return capture,
        Ok(Err(error)) => Chain(&error).to_string(),
        Err(_) => "the capture's budget of time was used up".to_owned(),
    };
    for action in &actions[capture.steps.len()..] {
        capture.steps.push(report(Step::Sysrq(*action), Outcome::Failed, reason.clone()));
    }
    capture
}

impl Keyboard {
    async fn open(target: &Target) -> Result<Self, No> {
        let Some(path) = &target.console else {
            return Err(No(Outcome::Skipped, "the binding names no `console`".to_owned()));
        };
        let device = match &target.qmp {
            Some(monitor) => look_at(monitor, path).await?,
            None => None,
        };
        if device.as_ref().is_some_and(|device| device.held) {
            let reason = "somebody else holds the console; close that session and capture again";
            return Err(No(Outcome::Failed, reason.to_owned()));
        }
        let wiring = match &device {
            Some(device) if !device.muxed => Wiring::Plain,
            _ => Wiring::Mux,
        };
        let failed = |error: console::Error| No(Outcome::Failed, Chain(&error).to_string());
        let console = Console::open(path, wiring).await.map_err(failed)?;
        let label = device.map(|device| device.label).unwrap_or_default();
        Ok(Self { console, monitor: target.qmp.clone(), label, turned: false })
    }

    async fn press_all(
        &mut self,
        actions: &[Action],
        capture: &mut Capture,
    ) -> Result<(), console::Error> {
        let Some(route) = self.find_route().await? else {
            let reason = "the kernel answers no key on this console: it is dead, or SysRq is off";
            let steps = actions
                .iter()
                .map(|action| report(Step::Sysrq(*action), Outcome::Silent, reason.to_owned()));
            capture.steps.extend(steps);
            // That nothing came is evidence, too.
            capture.artifacts.extend(actions.iter().map(|action| artifact(*action, Vec::new())));
            return Ok(());
        };
        for action in actions {
            let begun = Instant::now();
            let heard = self.ask(route, *action).await?;
            capture.steps.push(judge(*action, &heard, begun.elapsed()));
            capture.artifacts.push(artifact(*action, heard));
        }
        Ok(())
    }

    /// Tries the key that does nothing, by each route that this console has.
    async fn find_route(&mut self) -> Result<Option<Route>, console::Error> {
        let routes = match self.console.wiring() {
            Wiring::Mux => [Route::ControlO, Route::BreakNext],
            Wiring::Plain => [Route::BreakByMonitor, Route::ControlO],
        };
        for route in routes {
            self.strike(route, HELP).await?;
            let deadline = Instant::now() + FIRST_WORD;
            let mut heard = self.console.listen(deadline, speaks).await?.bytes();
            if speaks(&heard) {
                self.console.listen_until_quiet(&mut heard, GLANCE * 2, deadline).await?;
                return Ok(Some(route));
            }
            // If a shell got the key instead, it shall not keep it.
            self.console.type_text(&[KILL_LINE]).await?;
            self.turn_back().await?;
        }
        Ok(None)
    }

    /// Presses one key by a route.
    async fn strike(&mut self, route: Route, key: u8) -> Result<(), console::Error> {
        match route {
            Route::ControlO => self.console.type_text(&[CTRL_O, key]).await,
            Route::BreakNext => {
                let wiring = self.console.wiring();
                if let (false, Some(keys)) = (self.turned, wiring.rotate()) {
                    self.console.write(&keys).await?;
                    self.turned = true;
                }
                if let Some(keys) = wiring.send_break() {
                    self.console.write(&keys).await?;
                }
                self.console.type_text(&[key]).await
            }
            Route::BreakByMonitor => {
                if let Some(path) = &self.monitor
                    && let Ok(mut monitor) = Monitor::connect(path).await
                {
                    let id = json!({ "id": self.label });
                    if let Err(error) = monitor.ask("chardev-send-break", id).await {
                        tracing::debug!(error = %Chain(&error), "no BREAK by the monitor");
                    }
                }
                self.console.type_text(&[key]).await
            }
        }
    }

    /// Presses the key of an action and listens for as long as its answer grows.
    async fn ask(&mut self, route: Route, action: Action) -> Result<Vec<u8>, console::Error> {
        self.strike(route, action.key()).await?;
        let begun = Instant::now();
        let mut last = begun;
        let mut heard = Vec::new();
        loop {
            let now = Instant::now();
            if self.console.listen_until_quiet(&mut heard, GLANCE, now + QUIET).await? {
                last = Instant::now();
            }
            let patience = match Shape::of(&heard, action) {
                Shape::Complete => return Ok(heard),
                Shape::Nothing => FIRST_WORD,
                Shape::Growing => QUIET,
            };
            if last.elapsed() >= patience || heard.len() >= crate::base::limits::STEP_BYTES {
                return Ok(heard);
            }
        }
    }

    async fn turn_back(&mut self) -> Result<(), console::Error> {
        if let (true, Some(keys)) = (self.turned, self.console.wiring().rotate()) {
            // EVE's multiplexer has two front ends: one turn further is where we began.
            self.console.write(&keys).await?;
            self.turned = false;
        }
        Ok(())
    }

    async fn leave(mut self) {
        if let Err(error) = self.turn_back().await {
            tracing::warn!(
                error = %Chain(&error),
                "the console's keyboard focus was not turned back; `^A c` on the console does it"
            );
        }
        self.console.close().await;
    }
}

/// What the monitor says of the console. A monitor that says nothing leaves us with the careful
/// assumption; a guest that is paused is left alone.
async fn look_at(monitor: &Path, console: &Path) -> Result<Option<ConsoleDevice>, No> {
    let Ok(mut monitor) = Monitor::connect(monitor).await else {
        return Ok(None);
    };
    let status = monitor.ask("query-status", json!({})).await.ok();
    let running = status.as_ref().and_then(|status| status.get("running")?.as_bool());
    if running == Some(false) {
        let reason = "the guest does not run: a key pressed now would act later, out of place";
        return Err(No(Outcome::Skipped, reason.to_owned()));
    }
    let devices = monitor.ask("query-chardev", json!({})).await.ok();
    Ok(devices.and_then(|devices| ConsoleDevice::find(&devices, console)))
}

/// Whether the kernel's SysRq handler says anything.
fn speaks(heard: &[u8]) -> bool {
    [&b"sysrq: "[..], b"SysRq : "].iter().any(|word| heard.windows(word.len()).any(|w| w == *word))
}

fn judge(action: Action, heard: &[u8], took: Duration) -> StepReport {
    let (outcome, reason) = match Answer::read(action.word(), heard).outcome {
        sysrq::Outcome::Dump if heard.len() >= crate::base::limits::STEP_BYTES => {
            (Outcome::Partial, "the dump is longer than a step may bring")
        }
        sysrq::Outcome::Dump => (Outcome::Done, ""),
        sysrq::Outcome::Refused => {
            (Outcome::Refused, "the kernel lives, but its sysrq mask forbids this action")
        }
        sysrq::Outcome::HeaderOnly => (
            Outcome::Partial,
            "only the header came: nothing to show, or the guest's log level hides it",
        ),
        sysrq::Outcome::Silent => (Outcome::Silent, "the kernel did not answer this key"),
    };
    let mut report = report(Step::Sysrq(action), outcome, reason.to_owned());
    report.took_ms = millis(took);
    report.bytes = heard.len() as u64;
    report
}

fn artifact(action: Action, data: Vec<u8>) -> Artifact {
    Artifact { kind: Kind::Sysrq, name: action.word().to_owned(), data }
}
