//! Keys that the guest's kernel has to answer: SysRq, whose dumps come out on the console.
//!
//! Which keys reach the kernel depends on what its console is, and nobody tells. So a key that does
//! nothing (`h`, help) is tried first, by each [`Route`]; the first that is answered is used.
//!
//! ```text
//!   a key without effect, by each route --nobody answers--> the guest agent, if it lives
//!          | answered
//!          v
//!   each action --refused by the mask--> the root shell that is known, or the guest agent
//!          | a header without a body
//!          v
//!   the log level is noted on disk, raised, and put back at the end
//! ```
//!
//! A console that is only logged takes no keys, but the log has the answers: the machine's keyboard is left.
//!
//! Of a guest whose memory was read is known what its mask permits and how loud its console is. Where keys
//! are off none is pressed; where dumps are forbidden one is, for its refusal shows that the kernel lives.
//!
//! A paused guest is left alone: a key pressed now would act when it runs again, and the next one
//! would be typed into its shell. So is a console that a person has. Whatever happens, the focus is
//! as it was, and what a shell may have taken for typing is wiped.

mod inside;
mod keyboard;
mod known;
mod route;

pub(super) use known::Known;
pub use route::Route;

use super::no::No;
use super::progress::Meter;
use super::undo::{self, Undo};
use super::{Capture, Target, millis, monitor, report};
use crate::base::chain::Chain;
use crate::base::limits;
use crate::base::step::{Action, Step};
use crate::evidence::report::{Outcome, StepReport};
use crate::evidence::sysrq::{self, Answer};
use crate::evidence::{Artifact, Kind};
use crate::hypervisor::chardev::ConsoleDevice;
use crate::hypervisor::process;
use crate::hypervisor::qmp::{ConnectError, Monitor};
use crate::transport::console::Error;
use crate::transport::guest_agent::Error as AgentError;
use keyboard::Keyboard;
use serde_json::json;
use std::path::Path;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Everything that the kernel prints.
const LOUDEST: u8 = 9;

/// What `quiet` on the kernel's command line sets, for a guest whose own level nobody can tell.
const QUIET_LEVEL: u8 = 4;

/// Putting the level back takes a route and a key; a guest that answers neither died meanwhile.
const PUT_BACK: Duration = Duration::from_secs(5);

/// Presses all `actions` and collects the answers. Of a guest whose memory was read is `known` what its
/// kernel lets a key do.
pub(super) async fn press(
    target: &Target,
    actions: &[Action],
    known: Known,
    deadline: Instant,
    meter: &Meter<'_>,
) -> Capture {
    meter.begin("magic key");
    let device = match look_at(target).await {
        Ok(device) => device,
        Err(No(outcome, reason)) => return nothing(actions, outcome, &reason),
    };
    let mut capture = match Keyboard::open(target, device).await {
        Ok(keyboard) => {
            let shown = known.shows_dumps();
            let session =
                Session { keyboard, target, meter, known, root_shell: None, raised: None, shown };
            session.run(actions, deadline).await
        }
        Err(No(outcome, reason)) => nothing(actions, outcome, &reason),
    };
    if let Some(agent) = &target.guest_agent {
        by_agent(agent, actions, deadline, &mut capture).await;
    }
    capture
}

/// Puts back what an earlier capture could not, because it was stopped.
pub(super) async fn put_back(target: &Target) {
    let Some(path) = &target.undo else { return };
    let Some(undo) = Undo::read(path) else { return };
    let Ok(device) = look_at(target).await else { return };
    let Ok(mut keyboard) = Keyboard::open(target, device).await else { return };
    let pressed = async {
        let Some(route) = keyboard.find_route(target.by).await? else { return Ok(false) };
        keyboard.press(route, b'0' + undo.level).await?;
        Ok::<bool, Error>(true)
    };
    let pressed = timeout_at(Instant::now() + 2 * PUT_BACK, pressed).await;
    keyboard.leave().await;
    if matches!(pressed, Ok(Ok(true))) {
        undo::forget(path);
        tracing::info!(level = undo.level, "the guest's log level was put back");
    }
}

/// What the console did not bring, the agent may: it asks the kernel from inside.
async fn by_agent(agent: &Path, actions: &[Action], deadline: Instant, capture: &mut Capture) {
    for action in actions {
        let name = Step::Sysrq(*action).name();
        let Some(step) = capture.steps.iter().position(|step| step.name == name) else { continue };
        if capture.steps[step].outcome == Outcome::Done {
            continue;
        }
        let begun = Instant::now();
        let heard = match inside::press(agent, *action, deadline).await {
            Ok(heard) => heard,
            Err(error) => {
                // Who is missing for one key is missing for all.
                tracing::debug!(error = %Chain(&error), "the guest agent pressed nothing");
                blame(&error, capture);
                return;
            }
        };
        let judged = judge(*action, &heard, true, begun.elapsed());
        if judged.outcome == Outcome::Done {
            let reason = "asked from inside, through the guest agent".to_owned();
            capture.steps[step] = StepReport { reason, ..judged };
            let data = artifact(*action, heard);
            capture.artifacts.retain(|old| (old.kind, &old.name) != (Kind::Sysrq, &data.name));
            capture.artifacts.push(data);
        }
    }
}

/// Where there was no console to press a key on, it is the agent that answered none.
fn blame(error: &AgentError, capture: &mut Capture) {
    let outcome = match error {
        AgentError::Late { .. } => Outcome::Silent,
        AgentError::Refused { .. } => Outcome::Refused,
        AgentError::Open { .. } | AgentError::Gone { .. } | AgentError::Rubbish { .. } => {
            Outcome::Failed
        }
    };
    for step in capture.steps.iter_mut().filter(|step| step.outcome == Outcome::Skipped) {
        step.outcome = outcome;
        step.reason = format!("{}; {}", step.reason, Chain(error));
    }
}

/// Keys pressed on one console.
struct Session<'a> {
    keyboard: Keyboard,
    target: &'a Target,
    meter: &'a Meter<'a>,
    known: Known,
    /// Whether a root shell listens, once it was asked.
    root_shell: Option<bool>,
    /// By which route the log level was raised, and what it was before.
    raised: Option<(Route, Level)>,
    /// A dump was seen, or the log level is known, so it hides nothing.
    shown: bool,
}

/// What the log level is put back to.
#[derive(Clone, Copy)]
enum Level {
    Was(u8),
    Supposed,
}

impl Session<'_> {
    /// Presses what there is time for, and leaves the guest as it was.
    async fn run(mut self, actions: &[Action], deadline: Instant) -> Capture {
        let mut capture = Capture::default();
        let pressed = timeout_at(deadline, self.press_all(actions, &mut capture)).await;
        self.leave(&mut capture).await;
        let reason = match pressed {
            Ok(Ok(())) => return capture,
            Ok(Err(error)) => Chain(&error).to_string(),
            Err(_) => "the capture's budget of time was used up".to_owned(),
        };
        let has = |action: &Action| {
            let name = Step::Sysrq(*action).name();
            capture.steps.iter().any(|step| step.name == name)
        };
        let missing: Vec<Action> = actions.iter().copied().filter(|action| !has(action)).collect();
        capture.take(nothing(&missing, Outcome::Failed, &reason));
        capture
    }

    async fn press_all(&mut self, actions: &[Action], capture: &mut Capture) -> Result<(), Error> {
        let begun = Instant::now();
        let by = self.target.by;
        let route = match self.known.is_off() || by == Some(Route::Shell) {
            // A key would be of no use, and a shell might take it for typing.
            true => self.has_root_shell().await?.then_some(Route::Shell),
            false => self.keyboard.find_route(by).await?,
        };
        let Some(route) = route else {
            capture.take(self.no_route(actions));
            return Ok(());
        };
        capture.steps.push(StepReport {
            name: "sysrq help".to_owned(),
            outcome: Outcome::Done,
            reason: format!("answered by way of {route}"),
            took_ms: millis(begun.elapsed()),
            bytes: 0,
        });
        for (number, action) in actions.iter().enumerate() {
            self.meter.begin(action.word());
            let begun = Instant::now();
            let mut heard = self.ask(route, *action).await?;
            let is_refused = outcome(*action, &heard) == sysrq::Outcome::Refused;
            let inside = is_refused && self.has_root_shell().await?;
            if inside {
                heard = self.ask(Route::Shell, *action).await?;
            }
            capture.steps.push(judge(*action, &heard, self.shown, begun.elapsed()));
            self.meter.end(heard.len() as u64);
            capture.artifacts.push(artifact(*action, heard));
            // One refusal shows that the kernel lives; more of them show nothing.
            if let Some(reason) = self.known.forbids().filter(|_| is_refused && !inside) {
                capture.take(nothing(&actions[number + 1..], Outcome::Refused, &reason));
                break;
            }
        }
        Ok(())
    }

    /// What is said where no key gets to the kernel.
    fn no_route(&self, actions: &[Action]) -> Capture {
        if let Some(reason) = self.known.forbids().filter(|_| self.known.is_off()) {
            return nothing(actions, Outcome::Refused, &reason);
        }
        let reason = "the kernel answers no key on this console: it is dead, or SysRq is off";
        let mut capture = nothing(actions, Outcome::Silent, reason);
        // That nothing came is evidence, too.
        capture.artifacts.extend(actions.iter().map(|action| artifact(*action, Vec::new())));
        capture
    }

    /// Whether a root shell listens, asked once.
    async fn has_root_shell(&mut self) -> Result<bool, Error> {
        if !self.target.shell {
            return Ok(false);
        }
        match self.root_shell {
            Some(known) => Ok(known),
            None => Ok(*self.root_shell.insert(self.keyboard.has_root_shell().await?)),
        }
    }

    /// Asks, and once more with the log level raised where the first answer was hidden.
    async fn ask(&mut self, route: Route, action: Action) -> Result<Vec<u8>, Error> {
        if self.known.hides_dumps() && self.raised.is_none() {
            self.raise(route).await?;
        }
        let heard = self.keyboard.ask(route, action).await?;
        let said = outcome(action, &heard);
        self.shown |= said == sysrq::Outcome::Dump;
        let hidden = said == sysrq::Outcome::HeaderOnly && !self.shown && self.raised.is_none();
        if hidden && self.raise(route).await? {
            return self.keyboard.ask(route, action).await;
        }
        Ok(heard)
    }

    /// What the log level is, asked inside.
    async fn level(&mut self) -> Result<Option<u8>, Error> {
        let agent = match &self.target.guest_agent {
            Some(agent) => inside::level(agent, Instant::now() + PUT_BACK).await,
            None => None,
        };
        match agent {
            None if self.target.shell => self.keyboard.level().await,
            told => Ok(told),
        }
    }

    /// Raises the log level, if it is certain that it can be put back after a crash of ours.
    async fn raise(&mut self, route: Route) -> Result<bool, Error> {
        let told = match self.known.level {
            None => self.level().await?,
            known => known,
        };
        let level = told.map_or(Level::Supposed, Level::Was);
        let noted = match (&self.target.undo, monitor::pid(self.target.qmp.as_deref()).await) {
            (Some(path), Some(pid)) => {
                Undo::new(level.number(), pid).is_some_and(|undo| undo.note(path).is_ok())
            }
            _ => false,
        };
        if noted {
            self.raised = Some((route, level));
            self.keyboard.press(route, b'0' + LOUDEST).await?;
        }
        Ok(noted)
    }

    /// Puts the level back and leaves, whatever happened before.
    async fn leave(mut self, capture: &mut Capture) {
        if let Some((route, level)) = self.raised {
            let key = b'0' + level.number();
            let pressed =
                timeout_at(Instant::now() + PUT_BACK, self.keyboard.press(route, key)).await;
            let is_back = matches!(pressed, Ok(Ok(())));
            if let (true, Some(path)) = (is_back, &self.target.undo) {
                undo::forget(path);
            }
            capture.steps.push(level.report(is_back));
        }
        self.keyboard.leave().await;
    }
}

impl Level {
    fn number(self) -> u8 {
        match self {
            Self::Was(level) => level,
            Self::Supposed => QUIET_LEVEL,
        }
    }

    fn report(self, is_back: bool) -> StepReport {
        let (outcome, reason) = match (is_back, self) {
            (true, Self::Was(level)) => {
                (Outcome::Done, format!("raised to {LOUDEST}, and put back to {level}"))
            }
            (true, Self::Supposed) => (
                Outcome::Done,
                format!(
                    "raised to {LOUDEST}, and set to {QUIET_LEVEL} as `quiet` sets it: nobody could \
                     tell what it was"
                ),
            ),
            (false, level) => (
                Outcome::Failed,
                format!("raised to {LOUDEST}; {} is set at the next chance", level.number()),
            ),
        };
        StepReport { name: "sysrq log level".to_owned(), outcome, reason, took_ms: 0, bytes: 0 }
    }
}

/// What the monitor says of the console. A monitor that says nothing leaves us with the careful
/// assumption; a guest that is paused and a console that a person has are left alone.
async fn look_at(target: &Target) -> Result<Option<ConsoleDevice>, No> {
    let Some(monitor) = &target.qmp else { return Ok(None) };
    let mut monitor = match Monitor::connect(monitor).await {
        Ok(monitor) => monitor,
        Err(ConnectError::Busy { pid: Some(pid), .. }) if is_stopped(pid) => {
            let reason = "the hypervisor's process is stopped: a key typed now would act later, out of place";
            return Err(No(Outcome::Skipped, reason.to_owned()));
        }
        Err(_) => return Ok(None),
    };
    let status = monitor.ask("query-status", json!({})).await.ok();
    let running = status.as_ref().and_then(|status| status.get("running")?.as_bool());
    if running == Some(false) {
        let reason = "the guest does not run: a key pressed now would act later, out of place";
        return Err(No(Outcome::Skipped, reason.to_owned()));
    }
    let Some(console) = &target.console else { return Ok(None) };
    let devices = monitor.ask("query-chardev", json!({})).await.ok();
    let device = devices.and_then(|devices| ConsoleDevice::find(&devices, console));
    if device.as_ref().is_some_and(|device| device.held) {
        let reason = "somebody else holds the console; close that session and capture again";
        return Err(No(Outcome::Failed, reason.to_owned()));
    }
    Ok(device)
}

fn is_stopped(pid: u32) -> bool {
    process::state(pid).is_some_and(|state| matches!(state, 'T' | 't'))
}

fn outcome(action: Action, heard: &[u8]) -> sysrq::Outcome {
    Answer::read(action.word(), heard).outcome
}

/// What came of an action; `shown`: the log level is known to hide nothing.
fn judge(action: Action, heard: &[u8], shown: bool, took: Duration) -> StepReport {
    let (outcome, reason) = match outcome(action, heard) {
        sysrq::Outcome::Dump if heard.len() >= limits::STEP_BYTES => {
            (Outcome::Partial, "the dump is longer than a step may bring")
        }
        sysrq::Outcome::Dump => (Outcome::Done, ""),
        sysrq::Outcome::Refused => {
            (Outcome::Refused, "the kernel lives, but its sysrq mask forbids this action")
        }
        sysrq::Outcome::NotBuiltIn => {
            (Outcome::Refused, "the guest's kernel is built without this action")
        }
        sysrq::Outcome::HeaderOnly if shown => (Outcome::Done, "there is nothing to show"),
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

fn nothing(actions: &[Action], outcome: Outcome, reason: &str) -> Capture {
    let steps = actions.iter().map(|a| report(Step::Sysrq(*a), outcome, reason.to_owned()));
    Capture { artifacts: Vec::new(), steps: steps.collect() }
}
