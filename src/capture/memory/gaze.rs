//! Two looks at a guest's kernel, a second apart: what a CPU did meanwhile tells a dead one from a busy
//! one.
//!
//! ```text
//!   the monitor                         a thread that reads
//!   where RAM is, registers ----------> finds the kernel, looks at the CPUs
//!        |  (it is free for others)
//!   registers once more --------------> looks at all there is
//! ```
//!
//! The kernel's own tables are read once, for both looks, and not even that where an earlier look at this
//! guest has learnt what they say. A monitor that somebody else holds is not
//! waited for: RAM is then searched for the kernel, and what CPUs do this moment is not known.

use super::reader::{Place, Reader, Second};
use crate::base::chain::Chain;
use crate::evidence::memory::Memory;
use crate::evidence::qmp::{Replies, Reply};
use crate::hypervisor::qmp::{AskError, ConnectError, Monitor};
use crate::hypervisor::ram::{self, Placed, RamError};
use crate::hypervisor::stage::Stage;
use crate::kernel::OpenError;
use crate::kernel::machine::Registers;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout_at};

/// Between the two looks.
const APART: Duration = Duration::from_secs(1);

/// Who is looked at. One of both is enough.
#[derive(Clone, Copy, Debug)]
pub struct Guest<'a> {
    /// The hypervisor's process.
    pub pid: Option<u32>,
    /// Its monitor.
    pub qmp: Option<&'a Path>,
    /// A file for what is learnt of its kernel, which no other guest has.
    pub learnt: Option<&'a Path>,
}

/// Why nothing was seen.
#[derive(Debug, thiserror::Error)]
pub enum GazeError {
    /// There is nobody to ask.
    #[error("the binding names no `qmp` socket, and the hypervisor's process is not known")]
    Nobody,
    /// The monitor cannot be asked.
    #[error("failed to ask for the guest's registers")]
    Connect(#[source] ConnectError),
    /// The monitor does not tell.
    #[error("failed to ask for the guest's registers")]
    Ask(#[source] AskError),
    /// The monitor does not tell which process it is.
    #[error(
        "the process behind {0} is not known, as of another PID namespace: `lifesign inspect --pid` takes it"
    )]
    NoProcess(PathBuf),
    /// The process cannot be read.
    #[error("failed to open the guest's memory")]
    Ram(#[source] RamError),
    /// There is no kernel in it.
    #[error("failed to find the kernel")]
    Open(#[source] OpenError),
    /// There cannot be one.
    #[error("no Linux kernel runs in the guest: {0}")]
    NoKernel(Stage),
    /// There is too much of it, or too little of a CPU for us.
    #[error("the kernel was not found in the time that a look may take")]
    Late,
    /// A mistake of ours.
    #[error("the thread that read the guest's memory broke off")]
    Broken,
}

/// What was seen.
#[derive(Debug)]
pub struct Seen {
    /// What the memory shows.
    pub memory: Memory,
    /// What the monitor said meanwhile.
    pub replies: Replies,
    /// Whether there was time for all of it.
    pub is_whole: bool,
}

/// A guest between the two looks. Whoever drops it ends the reading.
pub struct Gaze {
    qmp: Option<PathBuf>,
    asked: Asked,
    /// The registers at the first look.
    registers: Vec<(u32, Registers)>,
    /// Why the monitor said nothing.
    unasked: Option<String>,
    reader: Reader,
}

impl Gaze {
    /// Asks the monitor, lets it go, and begins to read.
    ///
    /// # Errors
    ///
    /// When the monitor cannot be asked, the process is not known, or no Linux kernel runs. A monitor that
    /// is merely busy is no error where its process is known.
    pub async fn begin(guest: Guest<'_>) -> Result<Self, GazeError> {
        let mut asked = Asked::default();
        let whereabouts = match (guest.qmp, guest.pid) {
            (Some(path), pid) => asked.whereabouts(path, pid).await?,
            (None, Some(pid)) => {
                Whereabouts::Unasked { pid, why: "no monitor was asked".to_owned() }
            }
            (None, None) => return Err(GazeError::Nobody),
        };
        if let Some(stage) = asked.stage {
            return Err(GazeError::NoKernel(stage));
        }
        let (place, registers, unasked) = match whereabouts {
            Whereabouts::Told { pid, placed, registers } => {
                (Place::Told { pid, placed }, registers, None)
            }
            Whereabouts::Unasked { pid, why } => (Place::Searched { pid }, Vec::new(), Some(why)),
        };
        let cpus = registers.iter().map(|(_, registers)| *registers).collect();
        let reader = Reader::start(place, cpus, guest.learnt.map(Path::to_owned));
        Ok(Self { qmp: guest.qmp.map(Path::to_owned), asked, registers, unasked, reader })
    }

    /// Looks for the second time, when a second has passed. At `deadline` what was read is taken as it
    /// is.
    ///
    /// # Errors
    ///
    /// When the process cannot be read, or there is no kernel in it.
    pub async fn end(mut self, deadline: Instant) -> Result<Seen, GazeError> {
        let first = timeout_at(deadline, self.reader.first()).await;
        let first = first.map_err(|_| GazeError::Late)??;
        sleep_until((first + APART).min(deadline)).await;
        let second = self.second().await;
        let (mut memory, is_whole) = self.reader.finish(second, deadline).await?;
        if let Some(why) = self.unasked {
            memory.doubts.push(format!("what CPUs do this moment is not known: {why}"));
        }
        if self.asked.is_paused {
            memory.doubts.push(
                "the guest does not run: that its CPUs and tasks stand still says nothing"
                    .to_owned(),
            );
        }
        Ok(Seen { memory, replies: self.asked.replies, is_whole })
    }

    /// The registers once more, or those of the first look where the monitor does not tell by now.
    async fn second(&mut self) -> Second {
        let mut registers = std::mem::take(&mut self.registers);
        if let (Some(path), None) = (&self.qmp, &self.unasked) {
            match self.asked.again(path).await {
                Ok(again) => registers = again,
                Err(error) => self.unasked = Some(Chain(&error).to_string()),
            }
        }
        Second { registers, is_paused: self.asked.is_paused }
    }
}

/// What the monitor said of a guest.
pub(super) enum Whereabouts {
    Told { pid: u32, placed: Vec<Placed>, registers: Vec<(u32, Registers)> },
    Unasked { pid: u32, why: String },
}

/// What the monitor said, as evidence.
#[derive(Default)]
pub(super) struct Asked {
    replies: Replies,
    /// Whether the guest was seen not to run.
    pub(super) is_paused: bool,
    /// What is in charge of its CPUs, if it is no Linux kernel.
    stage: Option<Stage>,
}

impl Asked {
    /// Where the RAM is, and the registers.
    pub(super) async fn whereabouts(
        &mut self,
        path: &Path,
        pid: Option<u32>,
    ) -> Result<Whereabouts, GazeError> {
        let busy = |error: &ConnectError| match error {
            ConnectError::Busy { pid: Some(of), .. } => Some(*of),
            ConnectError::Busy { .. }
            | ConnectError::Open { .. }
            | ConnectError::NotQmp { .. }
            | ConnectError::Start(_) => None,
        };
        let mut monitor = match Monitor::connect(path).await {
            Ok(monitor) => monitor,
            Err(error) => {
                let Some(of) = busy(&error) else { return Err(GazeError::Connect(error)) };
                let why = Chain(&error).to_string();
                return Ok(Whereabouts::Unasked { pid: pid.unwrap_or(of), why });
            }
        };
        let pid = pid.or(monitor.pid()).ok_or_else(|| GazeError::NoProcess(path.to_owned()))?;
        let asked = async {
            let placed = placed(&mut monitor).await?;
            Ok((placed, self.look(&mut monitor).await?))
        };
        match asked.await {
            Ok((placed, _)) if placed.is_empty() => {
                let why = "the monitor does not tell where the guest's RAM is".to_owned();
                Ok(Whereabouts::Unasked { pid, why })
            }
            Ok((placed, registers)) => Ok(Whereabouts::Told { pid, placed, registers }),
            Err(error @ AskError::Late { .. }) => {
                Ok(Whereabouts::Unasked { pid, why: Chain(&error).to_string() })
            }
            Err(error) => Err(GazeError::Ask(error)),
        }
    }

    async fn again(&mut self, path: &Path) -> Result<Vec<(u32, Registers)>, GazeError> {
        let mut monitor = Monitor::connect(path).await.map_err(GazeError::Connect)?;
        self.look(&mut monitor).await.map_err(GazeError::Ask)
    }

    /// Whether it runs, and the registers of every CPU.
    async fn look(&mut self, monitor: &mut Monitor) -> Result<Vec<(u32, Registers)>, AskError> {
        let status = monitor.ask("query-status", json!({})).await?;
        self.is_paused |= status.get("running").and_then(Value::as_bool) == Some(false);
        self.keep("query-status", status);
        let told = monitor.ask_human("info registers -a").await?;
        let text = told.as_str().unwrap_or_default();
        self.stage = Stage::read(text);
        let registers = Registers::read(text);
        self.keep("human-monitor-command info registers -a", told);
        Ok(registers)
    }

    fn keep(&mut self, command: &str, value: Value) {
        let command = command.to_owned();
        self.replies.0.push(Reply { command, after_ms: 0, value, error: None });
    }
}

/// Where the monitor's process has the guest's RAM.
async fn placed(monitor: &mut Monitor) -> Result<Vec<Placed>, AskError> {
    let text = |value: Value| value.as_str().unwrap_or_default().to_owned();
    let tree = monitor.ask_human("info mtree -f").await?;
    let mut placed = Vec::new();
    for slot in ram::slots(&text(tree)) {
        let told = monitor.ask_human(&format!("gpa2hva {:#x}", slot.guest.start)).await?;
        if let Some(host) = ram::virtual_address(&text(told)) {
            placed.push(Placed { guest: slot.guest, host });
        }
    }
    Ok(placed)
}
