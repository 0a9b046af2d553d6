//! `lifesign inspect`: a guest's kernel on one screen, read out of its memory.
//!
//! A live guest is looked at twice, a second apart: what a CPU did meanwhile tells a dead one from a
//! busy one. The monitor is asked for registers each time and let go at once; the guest runs on and
//! notices nothing.

mod page;

pub use page::page;

use crate::base::chain::Chain;
use crate::base::time::Clock;
use crate::diagnosis::{Diagnosis, diagnose};
use crate::evidence::memory::Memory;
use crate::evidence::qmp::{Replies, Reply};
use crate::evidence::{Artifact, Evidence, Kind};
use crate::hypervisor::qmp::{AskError, ConnectError, Monitor};
use crate::hypervisor::ram::{self, Dump, DumpError, Placed, Ram, RamError};
use crate::kernel::look::{Outside, look};
use crate::kernel::machine::Registers;
use crate::kernel::{Kernel, OpenError, Sample};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::sleep;

/// Between the two looks.
const APART: Duration = Duration::from_secs(1);

/// What is looked at.
#[derive(Clone, Debug)]
pub enum Subject {
    /// A guest with a monitor; its process is the one that serves it.
    Monitor(PathBuf),
    /// A hypervisor's process, and its monitor if there is one.
    Process {
        /// The process.
        pid: u32,
        /// The monitor.
        qmp: Option<PathBuf>,
    },
    /// A file that `dump-guest-memory` or `pmemsave` wrote.
    Dump(PathBuf),
}

/// What was seen.
#[derive(Debug)]
pub struct Inspection {
    /// What the memory shows.
    pub memory: Memory,
    /// What that means.
    pub diagnosis: Diagnosis,
}

/// Why nothing was seen.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The monitor cannot be asked.
    #[error("failed to ask for the guest's registers")]
    Connect(#[source] ConnectError),
    /// The monitor does not tell.
    #[error("failed to ask for the guest's registers")]
    Ask(#[source] AskError),
    /// The monitor does not tell which process it is.
    #[error("the process behind {0} is not known: name it with --pid")]
    NoProcess(PathBuf),
    /// The process cannot be read.
    #[error("failed to open the guest's memory")]
    Ram(#[source] RamError),
    /// The dump cannot be read.
    #[error("failed to open the dump")]
    Dump(#[source] DumpError),
    /// There is no kernel in it.
    #[error("failed to find the kernel")]
    Open(#[source] OpenError),
}

/// Looks at a guest, or at what is left of one.
///
/// # Errors
///
/// When it cannot be read, or there is no kernel in it.
pub async fn inspect(subject: &Subject) -> Result<Inspection, InspectError> {
    match subject {
        Subject::Monitor(path) => live(None, path).await,
        Subject::Process { pid, qmp: Some(path) } => live(Some(*pid), path).await,
        Subject::Process { pid, qmp: None } => alone(*pid).await,
        Subject::Dump(path) => dump(path),
    }
}

/// An inspection for programs: JSON in ASCII, so that nothing of a guest's deceives a terminal either.
#[must_use]
pub fn json(inspection: &Inspection) -> String {
    let Inspection { memory, diagnosis } = inspection;
    let told = json!({
        "verdict": {
            "class": diagnosis.class.word(),
            "subject": diagnosis.subject,
            "title": diagnosis.title,
            "signature": diagnosis.signature,
            "blame": diagnosis.blame.word(),
            "confidence": diagnosis.confidence.to_string(),
            "for": diagnosis.facts_for,
            "against": diagnosis.facts_against,
        },
        "memory": memory,
    });
    let mut text = String::new();
    for c in told.to_string().chars() {
        if c.is_ascii() {
            text.push(c);
        } else {
            let units = c
                .encode_utf16(&mut [0; 2])
                .iter()
                .map(|unit| format!("\\u{unit:04x}"))
                .collect::<String>();
            text.push_str(&units);
        }
    }
    text
}

/// A guest whose monitor is asked.
async fn live(pid: Option<u32>, path: &Path) -> Result<Inspection, InspectError> {
    let mut asked = Asked::default();
    let (ram, before) = {
        let mut monitor = Monitor::connect(path).await.map_err(InspectError::Connect)?;
        let pid = pid.or(monitor.pid()).ok_or_else(|| InspectError::NoProcess(path.to_owned()))?;
        let ram = Ram::of_process(pid, &placed(&mut monitor).await?).map_err(InspectError::Ram)?;
        (ram, asked.look(&mut monitor).await?)
    };
    let cpus: Vec<Registers> = before.iter().map(|(_, registers)| *registers).collect();
    let kernel = Kernel::open(&ram, &cpus).map_err(InspectError::Open)?;
    let first = Sample::take(&kernel).unwrap_or_default();
    let since = Clock::now();
    sleep(APART).await;
    // Of a monitor that somebody else holds by now there is the first look.
    let registers = match Monitor::connect(path).await {
        Ok(mut monitor) => asked.look(&mut monitor).await?,
        Err(_) => before,
    };
    let before = Some((&first, Clock::now().since(since)));
    let memory = look(&kernel, Outside { registers: &registers, before });
    Ok(judged(memory, &asked.replies))
}

/// A process without a monitor: its kernel is searched in all of its RAM.
async fn alone(pid: u32) -> Result<Inspection, InspectError> {
    let guesses = Ram::guesses(pid).map_err(InspectError::Ram)?;
    let mut failed = OpenError::NotFound;
    for ram in &guesses {
        let kernel = match Kernel::open(ram, &[]) {
            Ok(kernel) => kernel,
            Err(error) => {
                failed = error;
                continue;
            }
        };
        let first = Sample::take(&kernel).unwrap_or_default();
        let since = Clock::now();
        sleep(APART).await;
        let before = Some((&first, Clock::now().since(since)));
        let mut memory = look(&kernel, Outside { registers: &[], before });
        memory.doubts.push(
            "no monitor was asked: what CPUs do this moment is not known (--qmp SOCKET)".to_owned(),
        );
        return Ok(judged(memory, &Replies::default()));
    }
    Err(InspectError::Open(failed))
}

fn dump(path: &Path) -> Result<Inspection, InspectError> {
    let Dump { ram, cpus } = Dump::open(path).map_err(InspectError::Dump)?;
    let kernel = Kernel::open(&ram, &cpus).map_err(InspectError::Open)?;
    let registers: Vec<(u32, Registers)> = (0..).zip(cpus).collect();
    let outside = Outside { registers: &registers, before: None };
    let mut memory = look(&kernel, outside);
    memory.doubts.push("a dump is of one moment: whether a CPU gets on is not known".to_owned());
    Ok(judged(memory, &Replies::default()))
}

fn judged(memory: Memory, replies: &Replies) -> Inspection {
    let artifact = |kind, data| Artifact { kind, name: String::new(), data };
    let mut artifacts = vec![artifact(Kind::Memory, memory.to_bytes())];
    if !replies.0.is_empty() {
        artifacts.push(artifact(Kind::Qmp, replies.to_bytes()));
    }
    Inspection { diagnosis: diagnose(&Evidence::read(&artifacts)), memory }
}

/// Where the monitor's process has the guest's RAM.
async fn placed(monitor: &mut Monitor) -> Result<Vec<Placed>, InspectError> {
    let text = |value: serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let tree = monitor.ask_human("info mtree -f").await.map_err(InspectError::Ask)?;
    let mut placed = Vec::new();
    for slot in ram::slots(&text(tree)) {
        let line = format!("gpa2hva {:#x}", slot.guest.start);
        let told = monitor.ask_human(&line).await.map_err(InspectError::Ask)?;
        if let Some(host) = ram::virtual_address(&text(told)) {
            placed.push(Placed { guest: slot.guest, host });
        }
    }
    Ok(placed)
}

/// What the monitor said, as evidence.
#[derive(Default)]
struct Asked {
    replies: Replies,
}

impl Asked {
    /// The registers of every CPU, and what the guest's interrupt controllers wait for.
    async fn look(&mut self, monitor: &mut Monitor) -> Result<Vec<(u32, Registers)>, InspectError> {
        let status = monitor.ask("query-status", json!({})).await.map_err(InspectError::Ask)?;
        self.keep("query-status", status);
        let told = monitor.ask_human("info registers -a").await.map_err(InspectError::Ask)?;
        let registers = Registers::read(told.as_str().unwrap_or_default());
        self.keep("human-monitor-command info registers -a", told);
        for (cpu, _) in registers.iter().take(64) {
            let line = format!("info lapic {cpu}");
            match monitor.ask_human(&line).await {
                Ok(told) => self.keep(&format!("human-monitor-command {line}"), told),
                Err(error) => {
                    tracing::debug!(reason = %Chain(&error), "an interrupt controller was not seen");
                    break;
                }
            }
        }
        Ok(registers)
    }

    fn keep(&mut self, command: &str, value: serde_json::Value) {
        let command = command.to_owned();
        self.replies.0.push(Reply { command, after_ms: 0, value, error: None });
    }
}
