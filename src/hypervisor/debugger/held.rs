//! The agent's side: a guest that can be held, and read while it is.

use super::holder::PATIENCE;
use super::wire::{self, Answer, Question, READ_BYTES, Standing};
use crate::base::limits;
use crate::base::time::Clock;
use crate::kernel::machine::Registers;
use crate::kernel::memory::{Fault, Memory};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

/// Small reads come by this much at once: a kernel's stack, or most of a task. A question takes longer than
/// its answer.
const BLOCK: u64 = 16 * 1024;

/// Blocks that are kept while the guest stands still: 8 MiB.
const BLOCKS: usize = 512;

/// After this the holder is taken for stuck: it gives up a guest that it does not see run before.
const ANSWER: Duration = PATIENCE.saturating_add(Duration::from_secs(5));

/// Between two looks at whether the holder has ended.
const ENDING: Duration = Duration::from_millis(5);

/// A guest that can be made to stand still. Nothing of it can be read before.
#[derive(Debug)]
pub struct Debugger {
    link: UnixStream,
    holder: Option<Child>,
    ram: RefCell<Vec<Range<u64>>>,
    /// What was read, by where it begins.
    blocks: RefCell<BTreeMap<u64, Vec<u8>>>,
}

/// Why a guest was not held.
#[derive(Debug, thiserror::Error)]
pub enum DebuggerError {
    /// The holder says why.
    #[error("{0}")]
    No(String),
    /// It was let go already.
    #[error("the guest may stand still for {} ms at most", limits::STANDSTILL.as_millis())]
    Late,
    /// There is no holder.
    #[error("failed to start the process that holds the guest")]
    Start(#[source] io::Error),
    /// It is gone.
    #[error("the process that holds the guest went away")]
    Gone(#[source] io::Error),
}

impl Debugger {
    /// Starts the process that will hold the guest of this monitor, with a note of it in that file.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn start(qmp: &Path, note: &Path) -> Result<Self, DebuggerError> {
        let start = || {
            let (ours, theirs) = UnixStream::pair()?;
            let mut program = Command::new("/proc/self/exe");
            program
                .arg0("lifesign")
                .arg("hold")
                .arg(qmp)
                .arg(note)
                .stdin(Stdio::from(OwnedFd::from(theirs)));
            let holder = program.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
            Self::of(ours, Some(holder))
        };
        start().map_err(DebuggerError::Start)
    }

    pub(super) fn of(link: UnixStream, holder: Option<Child>) -> io::Result<Self> {
        link.set_read_timeout(Some(ANSWER))?;
        link.set_write_timeout(Some(ANSWER))?;
        Ok(Self { link, holder, ram: RefCell::default(), blocks: RefCell::default() })
    }

    /// Makes it stand still, and tells the registers of its CPUs.
    ///
    /// # Errors
    ///
    /// When it does not run, or cannot be attached to. It is as it was then.
    pub fn hold(&self) -> Result<Vec<(u32, Registers)>, DebuggerError> {
        match self.ask(Question::Hold)? {
            Said::Answer(Answer::Held(Standing { registers, ram })) => {
                *self.ram.borrow_mut() = ram;
                Ok(Registers::read(&registers))
            }
            said @ (Said::Memory(_) | Said::Answer(_)) => Err(said.refused()),
        }
    }

    /// Lets it go on, and tells how long it stood still.
    ///
    /// # Errors
    ///
    /// When it was not held, or not seen to run afterwards. That its time was over is none.
    pub fn release(&self) -> Result<Duration, DebuggerError> {
        self.blocks.borrow_mut().clear();
        match self.ask(Question::Release)? {
            Said::Answer(Answer::Released(ms)) => Ok(Duration::from_millis(ms)),
            said @ (Said::Memory(_) | Said::Answer(_)) => Err(said.refused()),
        }
    }

    fn ask(&self, question: Question) -> Result<Said, DebuggerError> {
        let asked = || {
            let mut link = &self.link;
            link.write_all(&wire::spoken(&question))?;
            let mut head = [0; wire::HEAD];
            link.read_exact(&mut head)?;
            let rubbish = || io::Error::from(io::ErrorKind::InvalidData);
            let (is_memory, length) = wire::announced(head).ok_or_else(rubbish)?;
            let mut body = vec![0; length];
            link.read_exact(&mut body)?;
            match is_memory {
                true => Ok(Said::Memory(body)),
                false => Ok(Said::Answer(serde_json::from_slice(&body)?)),
            }
        };
        asked().map_err(DebuggerError::Gone)
    }

    fn fetch(&self, at: u64, into: &mut [u8]) -> Result<(), Fault> {
        for (number, piece) in into.chunks_mut(READ_BYTES).enumerate() {
            let at = at + (number * READ_BYTES) as u64;
            match self.ask(Question::Read { at, bytes: piece.len() }) {
                Ok(Said::Memory(read)) if read.len() == piece.len() => piece.copy_from_slice(&read),
                Ok(Said::Answer(Answer::Late)) => return Err(Fault::Spent),
                Ok(_) => return Err(Fault::Source(io::ErrorKind::InvalidData)),
                Err(_) => return Err(Fault::Source(io::ErrorKind::BrokenPipe)),
            }
        }
        Ok(())
    }

    /// As much as one block has of it.
    fn take(&self, at: u64, into: &mut [u8]) -> Result<usize, Fault> {
        let block = self.block(at).ok_or(Fault::NoRam(at))?;
        let mut blocks = self.blocks.borrow_mut();
        if !blocks.contains_key(&block.start) {
            let mut bytes = vec![0; usize::try_from(block.end - block.start).unwrap_or_default()];
            self.fetch(block.start, &mut bytes)?;
            if blocks.len() == BLOCKS {
                blocks.clear();
            }
            blocks.insert(block.start, bytes);
        }
        let from = usize::try_from(at - block.start).unwrap_or_default();
        let there = &blocks[&block.start][from..];
        let bytes = there.len().min(into.len());
        into[..bytes].copy_from_slice(&there[..bytes]);
        Ok(bytes)
    }

    /// The block in which this stands, as far as it is RAM.
    fn block(&self, at: u64) -> Option<Range<u64>> {
        let ram = self.ram.borrow();
        let ram = ram.iter().find(|range| range.contains(&at))?;
        let start = at & !(BLOCK - 1);
        Some(start.max(ram.start)..start.saturating_add(BLOCK).min(ram.end))
    }

    /// Where the first of these bytes is that is no RAM: a device may stand there, which is not to be read.
    fn no_ram(&self, at: u64, bytes: usize) -> Option<u64> {
        let (mut from, end) = (at, at.saturating_add(bytes as u64));
        while from < end {
            match self.block(from) {
                Some(block) => from = block.end,
                None => return Some(from),
            }
        }
        None
    }
}

impl Memory for Debugger {
    fn read(&self, mut at: u64, mut into: &mut [u8]) -> Result<(), Fault> {
        if let Some(hole) = self.no_ram(at, into.len()) {
            return Err(Fault::NoRam(hole));
        }
        if into.len() as u64 > BLOCK {
            return self.fetch(at, into);
        }
        while !into.is_empty() {
            let taken = self.take(at, into)?;
            at += taken as u64;
            into = &mut into[taken..];
        }
        Ok(())
    }

    fn ranges(&self) -> Vec<Range<u64>> {
        self.ram.borrow().clone()
    }
}

impl Drop for Debugger {
    /// The holder sees that we are gone, lets the guest go, and ends.
    fn drop(&mut self) {
        self.link.shutdown(Shutdown::Both).ok();
        let Some(holder) = &mut self.holder else { return };
        let begun = Clock::now();
        while matches!(holder.try_wait(), Ok(None)) {
            if Clock::now().since(begun) > ANSWER {
                holder.kill().ok();
            }
            sleep(ENDING);
        }
    }
}

/// What the holder said.
enum Said {
    Memory(Vec<u8>),
    Answer(Answer),
}

impl Said {
    fn refused(self) -> DebuggerError {
        match self {
            Self::Answer(Answer::Late) => DebuggerError::Late,
            Self::Answer(Answer::No(why)) => DebuggerError::No(why),
            Self::Answer(Answer::Held(_) | Answer::Released(_)) | Self::Memory(_) => {
                DebuggerError::No("the process that holds the guest says what was not asked".into())
            }
        }
    }
}
