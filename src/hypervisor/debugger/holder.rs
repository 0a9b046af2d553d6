//! The process that holds a guest: it does nothing else, so that little can happen to it.
//!
//! It is our own program under another word, in a session of its own. The agent asks, it answers; when the
//! agent is gone, when it says something else, or when the time is over, the guest goes on.

use super::note::{Note, Noted};
use super::resume::{self, Fate, run_again};
use super::stub::{Stub, StubError};
use super::wire::{self, Answer, Question, READ_BYTES, Standing};
use crate::base::chain::Chain;
use crate::base::limits;
use crate::hypervisor::qmp::Monitor;
use crate::hypervisor::ram;
use serde_json::{Value, json};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout_at};

/// How long an agent may be silent that holds nothing.
const SILENCE: Duration = Duration::from_secs(10);

/// How long it is tried to see a guest run that we have stopped.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// The socket of our stub, beside the monitor's: where the hypervisor made one it can make another.
const NAME: &str = "lifesign.gdb";

/// The kernel's `sun_path`, with the zero at its end.
const PATH_BYTES: usize = 107;

/// Holds a guest for whoever is at the other end of our standard input.
///
/// # Errors
///
/// When that is no socket.
pub async fn hold_for_stdin(qmp: &Path, note: &Path) -> io::Result<()> {
    outlive_the_agent();
    let link = net::UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    hold(link, qmp, note).await
}

/// What ends the agent in order, as a terminal or a service manager does it, does not end us.
fn outlive_the_agent() {
    nix::sys::signal::SigSet::all().thread_block().ok();
    nix::unistd::setsid().ok();
    // Who has no right to it is as likely to be chosen as before, and small.
    std::fs::write("/proc/self/oom_score_adj", "-1000").ok();
}

/// Holds a guest for whoever is at the other end of `link`.
pub(super) async fn hold(link: net::UnixStream, qmp: &Path, note: &Path) -> io::Result<()> {
    link.set_nonblocking(true)?;
    let link = UnixStream::from_std(link)?;
    let (qmp, path) = (qmp.to_owned(), note.to_owned());
    let mut holder = Holder { link, qmp, path, held: None, let_go: None };
    holder.serve().await;
    holder.release().await;
    Ok(())
}

struct Holder {
    link: UnixStream,
    qmp: PathBuf,
    path: PathBuf,
    held: Option<Held>,
    /// What came of the last time that it was let go because its time was over.
    let_go: Option<Answer>,
}

/// A guest that stands still, or may.
struct Held {
    noted: Noted,
    since: Instant,
    stub: Option<Stub>,
}

impl Holder {
    /// Until the agent leaves.
    async fn serve(&mut self) {
        loop {
            let until = match &self.held {
                Some(held) => held.since + limits::STANDSTILL,
                None => Instant::now() + SILENCE,
            };
            let said = match timeout_at(until, hear(&mut self.link)).await {
                Ok(Some(question)) => self.answer(question).await,
                Err(_) if self.held.is_some() => {
                    self.let_go = self.release().await;
                    continue;
                }
                Ok(None) | Err(_) => return,
            };
            // What is said fits into the socket, so this does not wait for anybody.
            let until = Instant::now() + limits::STANDSTILL;
            if !matches!(timeout_at(until, self.link.write_all(&said)).await, Ok(Ok(()))) {
                return;
            }
        }
    }

    async fn answer(&mut self, question: Question) -> Vec<u8> {
        let answer = match question {
            Question::Hold => match self.hold().await {
                Ok(standing) => Answer::Held(standing),
                Err(why) => {
                    self.release().await;
                    Answer::No(why)
                }
            },
            Question::Release => {
                let now = self.release().await;
                now.or_else(|| self.let_go.take()).unwrap_or(Answer::Late)
            }
            Question::Read { at, bytes } => match self.read(at, bytes).await {
                Ok(read) => return wire::memory(&read),
                Err(StubError::Late) => {
                    self.let_go = self.release().await.or(self.let_go.take());
                    Answer::Late
                }
                Err(error) => Answer::No(Chain(&error).to_string()),
            },
        };
        wire::spoken(&answer)
    }

    async fn read(&mut self, at: u64, bytes: usize) -> Result<Vec<u8>, StubError> {
        let stub = self.held.as_mut().and_then(|held| held.stub.as_mut());
        stub.ok_or(StubError::Late)?.read(at, bytes.min(READ_BYTES)).await
    }

    /// Stops a guest that runs, and no other.
    async fn hold(&mut self) -> Result<Standing, String> {
        if self.held.is_some() {
            return Err("the guest is held already".to_owned());
        }
        let mut monitor =
            Monitor::connect(&self.qmp).await.map_err(|error| Chain(&error).to_string())?;
        let (path, ram) = self.open(&mut monitor).await?;
        drop(monitor);
        let Some(held) = &mut self.held else { return Err("the guest is not held".to_owned()) };
        held.since = Instant::now();
        let deadline = held.since + limits::STANDSTILL;
        let told = |error: StubError| Chain(&error).to_string();
        let stub = held.stub.insert(Stub::attach(&path, deadline).await.map_err(told)?);
        stub.physical().await.map_err(told)?;
        let registers = stub.ask_human("info registers -a").await.map_err(told)?;
        Ok(Standing { registers, ram })
    }

    /// The socket of a stub that nobody has attached to, and where the guest has RAM.
    async fn open(
        &mut self,
        monitor: &mut Monitor,
    ) -> Result<(PathBuf, Vec<std::ops::Range<u64>>), String> {
        let told = |error| Chain(&error).to_string();
        let status = resume::status(monitor).await.map_err(told)?;
        if status != "running" {
            return Err(format!("the guest does not run (`{status}`), and is left as it is"));
        }
        let tree = monitor.ask_human("info mtree -f").await.map_err(told)?;
        let slots = ram::slots(tree.as_str().unwrap_or_default());
        let chardevs = monitor.ask("query-chardev", json!({})).await.map_err(told)?;
        let (path, is_ours) = match resume::stub(&chardevs) {
            Some(stub) if stub.is_taken => {
                return Err("somebody else has attached a debugger to the guest".to_owned());
            }
            Some(stub) if stub.path.as_os_str().is_empty() => {
                return Err("the guest's debugger stub is on no unix socket".to_owned());
            }
            Some(stub) => (stub.path, false),
            None => (self.qmp.with_file_name(NAME), true),
        };
        let pid = monitor.pid().unwrap_or_default();
        let note = Note::new(pid, &self.qmp, path.clone(), is_ours)
            .ok_or("the hypervisor's process is not known, as of another PID namespace")?;
        let noted = Noted::write(&self.path, note)
            .map_err(|error| format!("the guest is not stopped without a note of it: {error}"))?;
        self.held = Some(Held { noted, since: Instant::now(), stub: None });
        if is_ours {
            make_stub(monitor, &path).await?;
        }
        Ok((path, slots.into_iter().map(|slot| slot.guest).collect()))
    }

    /// Lets the guest go, sees it run, and says how long it stood still.
    async fn release(&mut self) -> Option<Answer> {
        let Held { noted, since, stub } = self.held.take()?;
        let is_let_go = match stub {
            Some(stub) => stub.detach().await.is_ok(),
            None => false,
        };
        let stood = since.elapsed();
        let fate = run_again(&noted.note, is_let_go, PATIENCE).await;
        let stood = if is_let_go { stood } else { since.elapsed() };
        if fate != Fate::Unknown {
            noted.forget();
        }
        Some(match fate {
            Fate::Runs => Answer::Released(u64::try_from(stood.as_millis()).unwrap_or(u64::MAX)),
            Fate::Gone => Answer::No("the hypervisor ended while its guest stood still".to_owned()),
            Fate::Other(status) => {
                Answer::No(format!("somebody else brought the guest into the state `{status}`"))
            }
            Fate::Unknown => Answer::No("the guest was not seen to run again".to_owned()),
        })
    }
}

/// Has QEMU open a stub.
async fn make_stub(monitor: &mut Monitor, path: &Path) -> Result<(), String> {
    let shown = path.display().to_string();
    if shown.len() > PATH_BYTES || shown.contains(['"', '\\']) {
        return Err(format!("a debugger stub cannot be made at {shown}"));
    }
    let line = format!("gdbserver \"unix:{},server=on,wait=off\"", shown.replace(',', ",,"));
    let said = monitor.ask_human(&line).await.map_err(|error| Chain(&error).to_string())?;
    let said = said.as_str().map(str::trim).unwrap_or_default().to_owned();
    let known = monitor.ask("query-chardev", json!({})).await;
    match resume::stub(&known.unwrap_or(Value::Null)) {
        Some(_) => Ok(()),
        None => Err(format!("the hypervisor opens no debugger stub: {said}")),
    }
}

/// The next question; nothing when the agent is gone, or says what is none.
async fn hear(link: &mut UnixStream) -> Option<Question> {
    let mut head = [0; wire::HEAD];
    link.read_exact(&mut head).await.ok()?;
    let (_, length) = wire::announced(head)?;
    let mut body = vec![0; length];
    link.read_exact(&mut body).await.ok()?;
    serde_json::from_slice(&body).ok()
}
