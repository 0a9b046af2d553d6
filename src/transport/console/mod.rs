//! A guest's console: QEMU's unix socket, a pseudo-terminal, or a serial line of the host. Which of
//! them it is, the path decides.
//!
//! One client at a time: a second one connects and hears nothing until the first leaves, so silence
//! alone never says that a guest is dead. A client that does not read stops the guest's serial
//! writes: whoever holds a [`Console`] reads it or drops it.
//!
//! To ask something and to know what came of it is a conversation: [`converse`], with a [`Script`].

mod converse;
mod line;
mod plain;
mod question;
mod report;
mod script;
pub mod talk;
#[cfg(test)]
mod tests;

pub use converse::{Focus, converse};
pub use report::{Outcome, Report};
pub use script::{Exchange, Login, Script};

use super::mux::{Keys, Wiring};
use crate::base::limits;
use line::Line;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

/// An open console.
#[derive(Debug)]
pub struct Console {
    line: Line,
    wiring: Wiring,
    path: PathBuf,
}

/// Why a console cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No socket, no permission, nobody listening.
    #[error("failed to open the console {path}")]
    Open {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Too many wait for the socket already.
    #[error("the console {path} has too many clients waiting")]
    Crowded {
        /// The socket.
        path: PathBuf,
    },
    /// Another program has the line for itself.
    #[error("another program holds the line {path}")]
    Held {
        /// The device.
        path: PathBuf,
    },
    /// It broke while it was used.
    #[error("failed to use the console {path}")]
    Broken {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The other end closed it.
    #[error("the console {path} was closed by the hypervisor")]
    Closed {
        /// The socket.
        path: PathBuf,
    },
    /// Nobody took what was written: another client holds the console, or the guest is stuck.
    #[error("nobody takes what is typed on the console {path}")]
    NotTaken {
        /// The socket.
        path: PathBuf,
    },
}

/// What was heard.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Heard {
    /// What was waited for came.
    Wanted(Vec<u8>),
    /// Time was up.
    Other(Vec<u8>),
}

impl Console {
    /// Connects to a socket, or opens a line.
    ///
    /// # Errors
    ///
    /// When there is none, or somebody else has it.
    pub async fn open(path: &Path, wiring: Wiring) -> Result<Self, Error> {
        let path = path.to_owned();
        match Line::open(&path).await {
            Ok(line) => Ok(Self { line, wiring, path }),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(Error::Crowded { path }),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Err(Error::Held { path }),
            Err(source) => Err(Error::Open { path, source }),
        }
    }

    /// Listens to what a console is logged to, from now on. What is typed is refused.
    ///
    /// # Errors
    ///
    /// When there is no such file.
    pub async fn open_log(path: &Path) -> Result<Self, Error> {
        let path = path.to_owned();
        match Line::open_log(&path).await {
            Ok(line) => Ok(Self { line, wiring: Wiring::Plain, path }),
            Err(source) => Err(Error::Open { path, source }),
        }
    }

    /// Whether it is only listened to.
    #[must_use]
    pub fn is_log(&self) -> bool {
        matches!(self.line, Line::Log(_))
    }

    /// What is at the other end.
    #[must_use]
    pub fn wiring(&self) -> Wiring {
        self.wiring
    }

    /// Types.
    ///
    /// # Errors
    ///
    /// When nobody takes it within a second, or the socket breaks.
    pub async fn write(&mut self, keys: &Keys) -> Result<(), Error> {
        let written = timeout(Duration::from_secs(1), self.line.write_all(keys.as_bytes())).await;
        match written {
            Ok(Ok(())) => Ok(()),
            Ok(Err(source)) => Err(Error::Broken { path: self.path.clone(), source }),
            Err(_) => Err(Error::NotTaken { path: self.path.clone() }),
        }
    }

    /// Types text, whatever bytes it has.
    ///
    /// # Errors
    ///
    /// As [`Console::write`].
    pub async fn type_text(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let keys = self.wiring.text(bytes);
        self.write(&keys).await
    }

    /// Listens until `done` says of all that was heard that it is enough, or until `deadline`.
    ///
    /// # Errors
    ///
    /// When the socket breaks or is closed.
    pub async fn listen(
        &mut self,
        deadline: Instant,
        mut done: impl FnMut(&[u8]) -> bool,
    ) -> Result<Heard, Error> {
        let mut heard = Vec::new();
        while self.read(&mut heard, deadline).await? {
            if done(&heard) {
                return Ok(Heard::Wanted(heard));
            }
        }
        Ok(Heard::Other(heard))
    }

    /// Listens until nothing came for `quiet`, or until `deadline`; adds what came to `heard`, and
    /// says whether anything did.
    ///
    /// # Errors
    ///
    /// When the socket breaks or is closed.
    pub async fn listen_until_quiet(
        &mut self,
        heard: &mut Vec<u8>,
        quiet: Duration,
        deadline: Instant,
    ) -> Result<bool, Error> {
        let before = heard.len();
        while self.read(heard, deadline.min(Instant::now() + quiet)).await? {}
        Ok(heard.len() > before)
    }

    /// Leaves once the other end has taken all that was typed. To drop the console instead may lose
    /// the last keys: QEMU does not read what came before a hang-up that it sees at the same time.
    pub async fn close(mut self) {
        let taken = async {
            if self.line.hang_up().await? {
                while self.line.read(&mut [0; 4096]).await? > 0 {}
            }
            Ok::<(), io::Error>(())
        };
        match timeout(Duration::from_secs(1), taken).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "the console broke when it was left"),
            Err(_) => tracing::debug!("nobody takes leave of us on the console"),
        }
    }

    /// Reads once. False: time is up, or as much was heard as is ever kept.
    async fn read(&mut self, heard: &mut Vec<u8>, deadline: Instant) -> Result<bool, Error> {
        let mut chunk = [0; 4096];
        let room = limits::STEP_BYTES.saturating_sub(heard.len()).min(chunk.len());
        if room == 0 {
            return Ok(false);
        }
        let count = self.read_some(&mut chunk[..room], deadline).await?;
        heard.extend_from_slice(&chunk[..count]);
        Ok(count > 0)
    }

    /// Reads what is there, or waits for it. Nothing: time is up.
    async fn read_some(&mut self, chunk: &mut [u8], deadline: Instant) -> Result<usize, Error> {
        match timeout_at(deadline, self.line.read(chunk)).await {
            Ok(Ok(0)) => Err(Error::Closed { path: self.path.clone() }),
            Ok(Ok(count)) => Ok(count),
            Ok(Err(source)) => Err(Error::Broken { path: self.path.clone(), source }),
            Err(_) => Ok(0),
        }
    }
}

impl Heard {
    /// The bytes, wanted or not.
    #[must_use]
    pub fn bytes(self) -> Vec<u8> {
        match self {
            Self::Wanted(bytes) | Self::Other(bytes) => bytes,
        }
    }
}

/// Types a line into whatever shell is there and waits for `expect`. The line before is wiped first,
/// for somebody may have left a word half typed.
///
/// # Errors
///
/// When the console cannot be used.
pub async fn ask(
    console: &mut Console,
    send: &str,
    expect: &str,
    deadline: Instant,
) -> Result<Heard, Error> {
    const KILL_LINE: u8 = 0x15;
    let mut line = vec![KILL_LINE];
    line.extend_from_slice(send.as_bytes());
    line.push(b'\r');
    console.type_text(&line).await?;
    console.listen(deadline, |heard| contains(heard, expect.as_bytes())).await
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    needle.is_empty() || haystack.windows(needle.len()).any(|window| window == needle)
}
