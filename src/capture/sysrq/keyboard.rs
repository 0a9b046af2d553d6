//! An open console, the keys that are pressed by it, and what comes back.

use super::No;
use super::inside::level_in;
use super::route::Route;
use crate::base::chain::Chain;
use crate::base::limits;
use crate::base::step::Action;
use crate::capture::Target;
use crate::evidence::report::Outcome;
use crate::evidence::sysrq::{Listener, Shape};
use crate::hypervisor::chardev::ConsoleDevice;
use crate::hypervisor::qmp::Monitor;
use crate::transport::console::{self, Console, Error};
use crate::transport::mux::Wiring;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::Instant;

/// A kernel that answers does so within 20 ms; software emulation and a busy host need more.
const FIRST_WORD: Duration = Duration::from_millis(1500);

/// Between two lines of an answer that nobody needs.
const QUIET: Duration = Duration::from_millis(900);

/// Before the answer to the next key, which comes for certain unless the console drops it: a guest on a
/// starved host was seen to pause for more than a second in the midst of a dump.
const NEXT_WORD: Duration = Duration::from_secs(3);

/// The kernel waits for the backtraces of others for 10 s, and for a CPU that takes none all of them.
const BACKTRACES: Duration = Duration::from_secs(11);

/// Short enough not to wait long after the last line, long enough not to look at every line.
const GLANCE: Duration = Duration::from_millis(60);

const CTRL_O: u8 = 0x0f;
const KILL_LINE: u8 = 0x15;
const HELP: u8 = b'h';

/// A console and how keys get to the kernel from it.
pub(super) struct Keyboard {
    console: Console,
    monitor: Option<PathBuf>,
    label: String,
}

impl Keyboard {
    /// Opens the console, or its log if nothing else is known. Where a person has it, nothing is pressed.
    pub(super) async fn open(target: &Target, device: Option<ConsoleDevice>) -> Result<Self, No> {
        let wiring = match &device {
            Some(device) if !device.muxed => Wiring::Plain,
            _ => Wiring::Mux,
        };
        let failed = |error: Error| No(Outcome::Failed, Chain(&error).to_string());
        let opened = match (&target.console, &target.console_log) {
            (Some(path), _) => Console::open(path, wiring).await,
            (None, Some(log)) if target.qmp.is_some() => Console::open_log(log).await,
            (None, _) => {
                return Err(No(Outcome::Skipped, "the binding names no `console`".to_owned()));
            }
        };
        let console = opened.map_err(failed)?;
        let label = device.map(|device| device.label).unwrap_or_default();
        Ok(Self { console, monitor: target.qmp.clone(), label })
    }

    /// Tries the key that does nothing, by each route that this console has, or by the one that is said.
    pub(super) async fn find_route(&mut self, by: Option<Route>) -> Result<Option<Route>, Error> {
        let routes = match by {
            Some(route) => vec![route],
            None if self.console.is_log() => vec![Route::Keyboard],
            None => Route::of(self.console.wiring(), self.monitor.is_some()),
        };
        for route in routes {
            self.strike(route, HELP).await?;
            let deadline = Instant::now() + FIRST_WORD;
            let mut heard = self.console.listen(deadline, speaks).await?.bytes();
            if speaks(&heard) {
                self.console.listen_until_quiet(&mut heard, GLANCE * 2, deadline).await?;
                return Ok(Some(route));
            }
            if route.types() {
                self.wipe(route).await?;
            }
        }
        Ok(None)
    }

    /// Whether a root shell listens, for one that is known to be there for us.
    pub(super) async fn has_root_shell(&mut self) -> Result<bool, Error> {
        if self.console.is_log() {
            return Ok(false);
        }
        let deadline = Instant::now() + FIRST_WORD;
        let heard =
            console::ask(&mut self.console, "echo uid=$(id -u).", "uid=0.", deadline).await?;
        Ok(matches!(heard, console::Heard::Wanted(_)))
    }

    /// The log level of the console, asked of a shell that is known to be there for us.
    pub(super) async fn level(&mut self) -> Result<Option<u8>, Error> {
        if self.console.is_log() {
            return Ok(None);
        }
        let deadline = Instant::now() + FIRST_WORD;
        let line = [&[KILL_LINE], &b" cat /proc/sys/kernel/printk\r"[..]].concat();
        self.console.type_text(&line).await?;
        let heard = self.console.listen(deadline, |heard| level_in(heard).is_some()).await?;
        Ok(level_in(&heard.bytes()))
    }

    /// Presses a key whose answer nobody needs.
    pub(super) async fn press(&mut self, route: Route, key: u8) -> Result<(), Error> {
        self.strike(route, key).await?;
        let mut heard = Vec::new();
        self.console.listen_until_quiet(&mut heard, GLANCE * 2, Instant::now() + QUIET).await?;
        Ok(())
    }

    /// Presses the key of an action and listens to its answer. Where a pause does not tell whether it
    /// is the end, the key that does nothing is pressed: the kernel answers one after the other.
    pub(super) async fn ask(&mut self, route: Route, action: Action) -> Result<Vec<u8>, Error> {
        self.strike(route, action.key()).await?;
        let mut listener = Listener::new(action);
        let mut last = Instant::now();
        let mut heard = Vec::new();
        let mut asked_next = false;
        loop {
            let before = heard.len();
            // Little at a time: a virtio console drops what is not read at once.
            let deadline = Instant::now() + GLANCE * 2;
            if self.console.listen_until_quiet(&mut heard, GLANCE, deadline).await? {
                last = Instant::now();
            }
            let shape = listener.hear(&heard[before..]);
            if shape == Shape::Growing && !asked_next && last.elapsed() >= GLANCE {
                self.strike(route, HELP).await?;
                (asked_next, last) = (true, Instant::now());
            }
            let patience = match (shape, action) {
                // The answer to the next key is not left for the next action to hear.
                (Shape::Complete, _) if !asked_next || listener.helped() => return Ok(heard),
                (Shape::Nothing, _) => FIRST_WORD,
                (Shape::Growing, Action::BacktraceAllActiveCpus) => BACKTRACES,
                (Shape::Growing | Shape::Complete, _) => NEXT_WORD,
            };
            if last.elapsed() >= patience || heard.len() >= limits::STEP_BYTES {
                return Ok(heard);
            }
        }
    }

    /// Lets the next one have the console.
    pub(super) async fn leave(self) {
        self.console.close().await;
    }

    /// If a shell got the key instead, it shall not keep it.
    async fn wipe(&mut self, route: Route) -> Result<(), Error> {
        if let (Route::BreakNext, Some(keys)) =
            (route, self.console.wiring().text_next(&[KILL_LINE]))
        {
            self.console.write(&keys).await?;
        }
        // Where a multiplexer was only assumed, this is the line that got all of it.
        self.console.type_text(&[KILL_LINE]).await
    }

    /// A BREAK and its key are sent within milliseconds: the kernel takes the key for 5 s, and a later
    /// one would be typed into a shell.
    async fn strike(&mut self, route: Route, key: u8) -> Result<(), Error> {
        match route {
            Route::ControlO => self.console.type_text(&[CTRL_O, key]).await,
            Route::BreakNext => match self.console.wiring().break_next(key) {
                Some(keys) => self.console.write(&keys).await,
                None => Ok(()),
            },
            Route::BreakByMonitor => {
                // Without the BREAK the key would be typing.
                if self.tell_monitor("chardev-send-break", json!({ "id": self.label })).await {
                    self.console.type_text(&[key]).await?;
                }
                Ok(())
            }
            Route::Keyboard => {
                let name = char::from(key).to_string();
                let key = |name: &str| json!({ "type": "qcode", "data": name });
                let keys = json!({ "keys": [key("alt"), key("sysrq"), key(&name)] });
                self.tell_monitor("send-key", keys).await;
                Ok(())
            }
            Route::Shell => {
                let key = char::from(key);
                let line = format!(" echo {key} > /proc/sysrq-trigger\r");
                self.console.type_text(&[&[KILL_LINE], line.as_bytes()].concat()).await
            }
        }
    }

    async fn tell_monitor(&self, command: &str, arguments: Value) -> bool {
        let Some(path) = &self.monitor else { return false };
        let Ok(mut monitor) = Monitor::connect(path).await else { return false };
        match monitor.ask(command, arguments).await {
            Ok(_nothing) => true,
            Err(error) => {
                tracing::debug!(error = %Chain(&error), command, "the monitor pressed nothing");
                false
            }
        }
    }
}

/// Whether the kernel's SysRq handler says anything.
fn speaks(heard: &[u8]) -> bool {
    [&b"sysrq: "[..], b"SysRq : "].iter().any(|word| heard.windows(word.len()).any(|w| w == *word))
}
