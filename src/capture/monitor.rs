//! The monitor's view: run state, vCPUs, registers, block devices.

use super::{Capture, millis, report, shown};
use crate::base::chain::Chain;
use crate::base::step::{Query, Step};
use crate::evidence::qmp::{Replies, Reply};
use crate::evidence::report::{Outcome, StepReport};
use crate::evidence::{Artifact, Kind};
use crate::hypervisor::qmp::{AskError, ConnectError, Monitor};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Between the two looks at the registers.
const APART: Duration = Duration::from_millis(900);

/// More vCPUs than this are not asked for their interrupt controllers one by one.
const APICS: usize = 64;

/// The process behind a monitor, which is told even when it does not greet.
pub(super) async fn pid(path: Option<&Path>) -> Option<u32> {
    match Monitor::connect(path?).await {
        Ok(monitor) => monitor.pid(),
        Err(ConnectError::Busy { pid, .. }) => pid,
        Err(ConnectError::Open { .. } | ConnectError::NotQmp { .. } | ConnectError::Start(_)) => {
            None
        }
    }
}

/// One look at all registers.
pub(super) async fn look(path: &Path) -> Vec<Reply> {
    let mut asking = Asking::new(Vec::new());
    if let Ok(mut monitor) = Monitor::connect(path).await {
        asking.human(&mut monitor, "info registers -a").await.ok();
    }
    asking.replies
}

/// Asks all `queries` and makes one artifact of the replies, those of `before` first.
pub(super) async fn ask(path: Option<&Path>, queries: &[Query], before: Vec<Reply>) -> Capture {
    let mut capture = Capture::default();
    if queries.is_empty() {
        return capture;
    }
    let Some(path) = path else {
        let none = "the binding names no `qmp` socket".to_owned();
        capture.steps = all(queries, Outcome::Skipped, &none);
        return capture;
    };
    let mut asking = Asking::new(before);
    match Monitor::connect(path).await {
        Ok(mut monitor) => {
            for query in queries {
                capture.steps.push(asking.query(&mut monitor, *query).await);
            }
            drop(monitor);
            if queries.contains(&Query::Registers) {
                sleep(APART).await;
                if let Ok(mut monitor) = Monitor::connect(path).await {
                    asking.human(&mut monitor, "info registers -a").await.ok();
                }
            }
        }
        Err(error) => {
            let outcome = match error {
                ConnectError::Busy { .. } => Outcome::Silent,
                ConnectError::Open { .. }
                | ConnectError::NotQmp { .. }
                | ConnectError::Start(_) => Outcome::Failed,
            };
            let reason = Chain(&error).to_string();
            tracing::debug!(monitor = %shown(path), %reason, "the monitor was not asked");
            capture.steps = all(queries, outcome, &reason);
        }
    }
    if !asking.replies.is_empty() {
        let data = Replies(asking.replies).to_bytes();
        capture.artifacts.push(Artifact { kind: Kind::Qmp, name: String::new(), data });
    }
    capture
}

fn all(queries: &[Query], outcome: Outcome, reason: &str) -> Vec<StepReport> {
    queries.iter().map(|query| report(Step::Qmp(*query), outcome, reason.to_owned())).collect()
}

/// The replies so far.
struct Asking {
    started: Instant,
    replies: Vec<Reply>,
}

impl Asking {
    fn new(before: Vec<Reply>) -> Self {
        Self { started: Instant::now(), replies: before }
    }

    async fn query(&mut self, monitor: &mut Monitor, query: Query) -> StepReport {
        let begun = Instant::now();
        let from = self.replies.len();
        let asked = match query {
            Query::Status => self.machine(monitor, "query-status").await,
            Query::Cpus => self.machine(monitor, "query-cpus-fast").await,
            Query::Registers => self.registers(monitor).await,
            Query::Blocks => match self.machine(monitor, "query-blockstats").await {
                Ok(()) => self.machine(monitor, "query-block").await,
                Err(error) => Err(error),
            },
        };
        let mut report = match asked {
            Ok(()) => report(Step::Qmp(query), Outcome::Done, String::new()),
            Err(error) => {
                let outcome = match error {
                    AskError::Refused { .. } => Outcome::Refused,
                    AskError::Late { .. } => Outcome::Silent,
                    AskError::Gone { .. } | AskError::Rubbish { .. } => Outcome::Failed,
                };
                report(Step::Qmp(query), outcome, Chain(&error).to_string())
            }
        };
        report.took_ms = millis(begun.elapsed());
        report.bytes = self.replies[from..].iter().map(|r| r.value.to_string().len() as u64).sum();
        report
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

    async fn machine(&mut self, monitor: &mut Monitor, command: &str) -> Result<(), AskError> {
        let asked = monitor.ask(command, json!({})).await;
        self.keep(command.to_owned(), asked)
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
        let after_ms = u64::from(millis(self.started.elapsed()));
        self.replies.push(Reply { command, after_ms, value, error });
        Ok(())
    }
}
