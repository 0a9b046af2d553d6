//! The questions behind each word, and the replies so far.
//!
//! All of one connection share its second. What is worth most is asked first, every list is bounded, and
//! whoever comes too late is told to be so.

use super::report;
use crate::base::chain::Chain;
use crate::base::limits;
use crate::base::step::{Query, Step};
use crate::capture::millis;
use crate::evidence::qmp::{Reply, disks};
use crate::evidence::report::{Outcome, StepReport};
use crate::hypervisor::qmp::{AskError, Monitor};
use crate::hypervisor::screen;
use serde_json::{Value, json};
use tokio::time::Instant;

/// More vCPUs than this are not asked for their interrupt controllers one by one.
const APICS: usize = 64;

/// Where devices with a name are, and those without.
const DEVICES: [&str; 2] = ["/machine/peripheral", "/machine/peripheral-anon"];

/// Kinds of virtio devices that are never served by another process than the hypervisor.
const NEVER_ELSEWHERE: [&str; 3] = ["virtio-serial", "virtio-balloon", "virtio-9p"];

/// The replies so far.
pub(super) struct Asking {
    started: Instant,
    pub(super) replies: Vec<Reply>,
    /// What the guest shows, as PNG.
    pub(super) picture: Option<Vec<u8>>,
    /// How many queues may still be asked for.
    queues_left: usize,
}

impl Asking {
    pub(super) fn new(before: Vec<Reply>) -> Self {
        let queues_left = limits::QMP_QUEUES;
        Self { started: Instant::now(), replies: before, picture: None, queues_left }
    }

    /// Asks one word of a scenario.
    pub(super) async fn query(&mut self, monitor: &mut Monitor, query: Query) -> StepReport {
        let begun = Instant::now();
        let from = self.replies.len();
        let asked = self.ask(monitor, query).await;
        let replies = &self.replies[from..];
        let mut report = match asked {
            Ok(()) => match refusal(replies) {
                Some(reason) => unavailable(query, reason),
                None => report(Step::Qmp(query), Outcome::Done, String::new()),
            },
            Err(error) => match error {
                AskError::Refused { ref reason, .. } => unavailable(query, reason),
                AskError::Late { .. } => {
                    let some = !replies.is_empty();
                    let outcome = if some { Outcome::Partial } else { Outcome::Silent };
                    report(Step::Qmp(query), outcome, Chain(&error).to_string())
                }
                AskError::Gone { .. } | AskError::Rubbish { .. } => {
                    report(Step::Qmp(query), Outcome::Failed, Chain(&error).to_string())
                }
            },
        };
        report.took_ms = millis(begun.elapsed());
        report.bytes = replies.iter().map(|reply| reply.value.to_string().len() as u64).sum();
        if query == Query::Screenshot {
            report.bytes = self.picture.as_ref().map_or(0, Vec::len) as u64;
        }
        report
    }

    async fn ask(&mut self, monitor: &mut Monitor, query: Query) -> Result<(), AskError> {
        match query {
            Query::Status => self.plain(monitor, &["query-status"]).await,
            Query::Cpus => self.plain(monitor, &["query-cpus-fast"]).await,
            Query::Registers => self.registers(monitor).await,
            Query::Blocks => {
                self.plain(monitor, &["query-block"]).await?;
                self.disks(monitor).await
            }
            Query::Machine => self.machine(monitor).await,
            Query::Chardevs => self.plain(monitor, &["query-chardev"]).await,
            Query::Migration => self.plain(monitor, &["query-migrate"]).await,
            Query::Balloon => self.balloon(monitor).await,
            Query::Devices => self.devices(monitor).await,
            Query::Interrupts => {
                self.human(monitor, "info irq").await?;
                self.human(monitor, "info pic").await
            }
            Query::Virtio => self.virtio(monitor).await,
            Query::Screenshot => self.screenshot(monitor).await,
        }
    }

    /// What moves, once more. Where the monitor does not answer any more, the first look has to do.
    pub(super) async fn again(&mut self, monitor: &mut Monitor, moving: &[Query]) {
        self.queues_left = limits::QMP_QUEUES;
        for query in moving {
            let asked = if *query == Query::Registers {
                self.human(monitor, "info registers -a").await
            } else {
                self.disks(monitor).await
            };
            if asked.is_err() {
                return;
            }
        }
    }

    /// What happened while it was asked.
    pub(super) fn leave(&mut self, monitor: Monitor) {
        let after_ms = self.elapsed_ms();
        let events = monitor.into_events().into_iter();
        self.replies.extend(events.map(|(name, value)| Reply::event(&name, value, after_ms)));
    }

    async fn registers(&mut self, monitor: &mut Monitor) -> Result<(), AskError> {
        self.human(monitor, "info registers -a").await?;
        let cpus = self.replies.iter().rfind(|reply| reply.command == "query-cpus-fast");
        let count = cpus.and_then(|reply| reply.value.as_array()).map_or(0, Vec::len);
        for cpu in 0..count.min(APICS) {
            self.human(monitor, &format!("info lapic {cpu}")).await?;
        }
        Ok(())
    }

    /// What the disks completed, and then what they have not completed yet.
    async fn disks(&mut self, monitor: &mut Monitor) -> Result<(), AskError> {
        self.plain(monitor, &["query-blockstats", "x-query-virtio"]).await?;
        // Hypervisors before 7.2 do not know their queues.
        for path in self.own_disks() {
            self.queues(monitor, &path, limits::DISK_QUEUES).await?;
        }
        Ok(())
    }

    /// The virtio disks that the hypervisor serves itself, by the last replies.
    fn own_disks(&self) -> Vec<String> {
        let last = |command| self.replies.iter().rfind(|reply| reply.command == command);
        match (last("x-query-virtio"), last("query-blockstats")) {
            (Some(virtio), Some(stats)) => {
                disks::queued(&virtio.value, &disks::disks(&stats.value))
            }
            _ => Vec::new(),
        }
    }

    async fn machine(&mut self, monitor: &mut Monitor) -> Result<(), AskError> {
        self.plain(monitor, &["query-version", "query-kvm", "query-name"]).await?;
        self.plain(monitor, &["query-memory-size-summary"]).await?;
        self.property(monitor, "/machine", "type").await
    }

    /// A VM that has none says so at the first question.
    async fn balloon(&mut self, monitor: &mut Monitor) -> Result<(), AskError> {
        self.plain(monitor, &["query-balloon"]).await?;
        if self.replies.last().is_some_and(|reply| reply.error.is_some()) {
            return Ok(());
        }
        for place in DEVICES {
            let devices = match monitor.ask("qom-list", json!({ "path": place })).await {
                Err(AskError::Refused { .. }) => continue,
                asked => asked?,
            };
            if let Some(name) = balloon_of(&devices) {
                return self.property(monitor, &format!("{place}/{name}"), "guest-stats").await;
            }
        }
        Ok(())
    }

    async fn devices(&mut self, monitor: &mut Monitor) -> Result<(), AskError> {
        for place in DEVICES {
            let asked = monitor.ask("qom-list", json!({ "path": place })).await;
            self.keep(format!("qom-list {place}"), asked)?;
        }
        Ok(())
    }

    /// Only of devices that the hypervisor serves itself: what another process serves would be stopped by
    /// the question ([`disks::queued`]). The queues of disks were asked before.
    async fn virtio(&mut self, monitor: &mut Monitor) -> Result<(), AskError> {
        self.plain(monitor, &["x-query-virtio"]).await?;
        let own = self.own_disks();
        for (path, kind) in virtio(self.replies.last()) {
            let is_disk = own.contains(&path);
            if !is_disk && !NEVER_ELSEWHERE.contains(&kind.as_str()) {
                continue;
            }
            let status = monitor.ask("x-query-virtio-status", json!({ "path": path })).await;
            self.keep(format!("x-query-virtio-status {path}"), status)?;
            if !is_disk {
                self.queues(monitor, &path, limits::VIRTIO_QUEUES).await?;
            }
        }
        Ok(())
    }

    async fn screenshot(&mut self, monitor: &mut Monitor) -> Result<(), AskError> {
        let refused =
            |reason: String| AskError::Refused { command: "screendump".to_owned(), reason };
        self.picture = Some(screen::picture(monitor).await.map_err(|error| match error {
            screen::Error::Monitor(error) => error,
            screen::Error::NotRunning | screen::Error::File(_) | screen::Error::Large { .. } => {
                refused(Chain(&error).to_string())
            }
        })?);
        Ok(())
    }

    /// The first queues of a device. That it has no more of them is no refusal worth telling.
    async fn queues(
        &mut self,
        monitor: &mut Monitor,
        path: &str,
        most: usize,
    ) -> Result<(), AskError> {
        for queue in 0..most.min(self.queues_left) {
            let which = json!({ "path": path, "queue": queue });
            let asked = monitor.ask("x-query-virtio-queue-status", which).await;
            self.queues_left -= 1;
            if matches!(asked, Err(AskError::Refused { .. })) {
                break;
            }
            self.keep(format!("x-query-virtio-queue-status {path} {queue}"), asked)?;
        }
        Ok(())
    }

    async fn plain(&mut self, monitor: &mut Monitor, commands: &[&str]) -> Result<(), AskError> {
        for command in commands {
            let asked = monitor.ask(command, json!({})).await;
            self.keep((*command).to_owned(), asked)?;
        }
        Ok(())
    }

    async fn property(
        &mut self,
        monitor: &mut Monitor,
        path: &str,
        property: &str,
    ) -> Result<(), AskError> {
        let which = json!({ "path": path, "property": property });
        let asked = monitor.ask("qom-get", which).await;
        self.keep(format!("qom-get {path} {property}"), asked)
    }

    async fn human(&mut self, monitor: &mut Monitor, line: &str) -> Result<(), AskError> {
        let asked = monitor.ask_human(line).await;
        self.keep(format!("human-monitor-command {line}"), asked)
    }

    /// A refusal is evidence, too, and does not end the asking; anything else does.
    fn keep(&mut self, command: String, asked: Result<Value, AskError>) -> Result<(), AskError> {
        let (value, error) = match asked {
            Ok(value) => (value, None),
            Err(AskError::Refused { reason, .. }) => (Value::Null, Some(reason)),
            Err(error) => return Err(error),
        };
        let after_ms = self.elapsed_ms();
        self.replies.push(Reply { command, after_ms, value, error });
        Ok(())
    }

    fn elapsed_ms(&self) -> u64 {
        u64::from(millis(self.started.elapsed()))
    }
}

fn unavailable(query: Query, reason: &str) -> StepReport {
    report(Step::Qmp(query), Outcome::Skipped, format!("not available: {reason}"))
}

/// Why nothing was told, if all that was asked is refused: an older version, a device that is not there.
fn refusal(replies: &[Reply]) -> Option<&str> {
    let first = replies.first()?.error.as_deref()?;
    replies.iter().all(|reply| reply.error.is_some()).then_some(first)
}

fn balloon_of(devices: &Value) -> Option<&str> {
    let mut all = devices.as_array()?.iter();
    let is_balloon = |device: &&Value| {
        device["type"].as_str().is_some_and(|kind| kind.starts_with("child<virtio-balloon"))
    };
    all.find(is_balloon)?["name"].as_str()
}

/// The paths and the kinds of all virtio devices.
fn virtio(reply: Option<&Reply>) -> Vec<(String, String)> {
    let all = reply.and_then(|reply| reply.value.as_array()).into_iter().flatten();
    let text = |device: &Value, key: &str| Some(device[key].as_str()?.to_owned());
    let device = |device: &Value| Some((text(device, "path")?, text(device, "name")?));
    all.filter_map(device).take(limits::DISKS).collect()
}
