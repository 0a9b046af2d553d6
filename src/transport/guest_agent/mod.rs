//! The QEMU guest agent: a process in the guest that answers on a channel of its own.
//!
//! Its words are QMP's, its channel is not: nothing says whether anybody is at the other end, and
//! what was asked of a stopped guest is answered when it goes on, to whoever listens then. So every
//! connection gets in step first ([`session`]), and [`probe`] is told by its caller, who can ask the
//! monitor (`query-chardev`), whether somebody in the guest has the channel open.
//!
//! Only a process of the guest can answer: *alive* proves userspace.

mod probe;
mod session;
#[cfg(test)]
mod tests;

pub use probe::{Channel, Question, probe};

use crate::base::base64;
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::{Value, json};
use session::{Reply, Session, command};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep_until, timeout_at};

/// A channel that is in step. After an error other than [`Error::Refused`] it is of no use.
#[derive(Debug)]
pub struct GuestAgent {
    stream: UnixStream,
    session: Session,
    deadline: Instant,
    path: PathBuf,
}

/// Why the agent does not answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No socket, no permission, nobody listening.
    #[error("failed to open the guest agent's channel {path}")]
    Open {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Nobody answered.
    #[error("the guest agent did not answer `{command}` in time")]
    Late {
        /// What was asked.
        command: String,
    },
    /// The agent says no.
    #[error("the guest agent refuses `{command}`: {reason}")]
    Refused {
        /// What was asked.
        command: String,
        /// In its words, made harmless.
        reason: String,
    },
    /// The channel broke.
    #[error("the guest agent's channel broke during `{command}`")]
    Gone {
        /// What was asked.
        command: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What came is no reply, or too large.
    #[error("the guest agent's reply to `{command}` is too large or makes no sense")]
    Rubbish {
        /// What was asked.
        command: String,
    },
}

/// A program to be run in the guest.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Program {
    /// Its path; without a slash, where the guest looks for programs.
    pub path: String,
    /// Its arguments.
    pub arguments: Vec<String>,
}

/// What came of a program.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Ended {
    /// Its exit code, unless a signal ended it.
    pub code: Option<i64>,
    /// The signal that ended it.
    pub signal: Option<i64>,
    /// What it wrote to its output, at most 1 MiB.
    pub output: Vec<u8>,
    /// What it wrote to its error output, at most as much.
    pub errors: Vec<u8>,
    /// Whether there was more.
    pub cut: bool,
}

/// What the agent is.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Info {
    /// Its version.
    pub version: String,
    /// The commands that it carries out.
    pub commands: Vec<String>,
}

/// What the guest is, in its own words, made harmless.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct OsInfo {
    /// `Debian GNU/Linux 12 (bookworm)`
    pub name: String,
    /// `6.1.0-56-amd64`
    pub kernel: String,
    /// `x86_64`
    pub machine: String,
}

const OUTPUT_BYTES: usize = crate::base::limits::STEP_BYTES;

/// How often a program that runs is looked after: often at first, for most are short.
const LOOKS: [Duration; 3] =
    [Duration::from_millis(20), Duration::from_millis(50), Duration::from_millis(200)];

impl GuestAgent {
    /// Connects and gets in step. Everything that is asked then shares the time until `deadline`.
    ///
    /// # Errors
    ///
    /// [`Error::Open`] when there is no channel, [`Error::Late`] when nobody answers on it.
    pub async fn connect(path: &Path, deadline: Instant) -> Result<Self, Error> {
        let path = path.to_owned();
        let stream = match UnixStream::connect(&path).await {
            Ok(stream) => stream,
            Err(source) => return Err(Error::Open { path, source }),
        };
        let mut agent = Self { stream, session: Session::default(), deadline, path };
        let hello = agent.session.begin(number());
        match agent.exchange("guest-sync-delimited", &hello).await? {
            Reply::InStep => Ok(agent),
            Reply::Return(_) | Reply::Refused(_) => {
                Err(Error::Rubbish { command: "guest-sync-delimited".to_owned() })
            }
        }
    }

    /// The channel's socket.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Asks anything.
    ///
    /// # Errors
    ///
    /// When the agent refuses, is late, or goes away.
    pub async fn ask(&mut self, name: &str, arguments: Value) -> Result<Value, Error> {
        match self.exchange(name, &command(name, &arguments)).await? {
            Reply::Return(value) => Ok(value),
            Reply::Refused(reason) => Err(Error::Refused {
                command: name.to_owned(),
                reason: crate::base::text::harmless_line(reason.as_bytes()),
            }),
            Reply::InStep => Err(Error::Rubbish { command: name.to_owned() }),
        }
    }

    /// Asks for nothing but an answer.
    ///
    /// # Errors
    ///
    /// As [`GuestAgent::ask`].
    pub async fn ping(&mut self) -> Result<(), Error> {
        self.ask("guest-ping", json!({})).await.map(|_nothing| ())
    }

    /// Asks what the agent is.
    ///
    /// # Errors
    ///
    /// As [`GuestAgent::ask`].
    pub async fn info(&mut self) -> Result<Info, Error> {
        let reply = self.ask("guest-info", json!({})).await?;
        let commands = reply["supported_commands"].as_array().into_iter().flatten();
        let enabled = commands.filter(|command| command["enabled"] != false);
        Ok(Info {
            version: text(&reply["version"]),
            commands: enabled.map(|command| text(&command["name"])).collect(),
        })
    }

    /// Asks what the guest is.
    ///
    /// # Errors
    ///
    /// As [`GuestAgent::ask`].
    pub async fn os_info(&mut self) -> Result<OsInfo, Error> {
        let reply = self.ask("guest-get-osinfo", json!({})).await?;
        Ok(OsInfo {
            name: text(&reply["pretty-name"]),
            kernel: text(&reply["kernel-release"]),
            machine: text(&reply["machine"]),
        })
    }

    /// Runs a program and waits for its end. One that does not end in time goes on in the guest.
    ///
    /// # Errors
    ///
    /// As [`GuestAgent::ask`]; [`Error::Late`] names `guest-exec-status` when the agent lives and
    /// the program does not end.
    pub async fn run(&mut self, program: &Program) -> Result<Ended, Error> {
        let begin =
            json!({ "path": program.path, "arg": program.arguments, "capture-output": true });
        let begun = self.ask("guest-exec", begin).await?;
        let Some(pid) = begun["pid"].as_i64() else {
            return Err(Error::Rubbish { command: "guest-exec".to_owned() });
        };
        let name = "guest-exec-status";
        for look in 0.. {
            let status = self.ask(name, json!({ "pid": pid })).await?;
            if status["exited"] == true {
                return Ok(Ended::of(&status));
            }
            let again = Instant::now() + LOOKS[LOOKS.len().min(look + 1) - 1];
            if again >= self.deadline {
                break;
            }
            sleep_until(again).await;
        }
        Err(Error::Late { command: name.to_owned() })
    }

    async fn exchange(&mut self, name: &str, line: &[u8]) -> Result<Reply, Error> {
        let gone = |source| Error::Gone { command: name.to_owned(), source };
        let late = || Error::Late { command: name.to_owned() };
        timeout_at(self.deadline, self.stream.write_all(line))
            .await
            .map_err(|_| late())?
            .map_err(gone)?;
        let mut chunk = [0; 8192];
        loop {
            match self.session.next_reply() {
                Ok(Some(reply)) => return Ok(reply),
                Ok(None) => {}
                Err(_) => return Err(Error::Rubbish { command: name.to_owned() }),
            }
            // A channel that never stops talking does not keep us.
            if Instant::now() >= self.deadline {
                return Err(late());
            }
            match timeout_at(self.deadline, self.stream.read(&mut chunk)).await {
                Ok(Ok(0)) => return Err(gone(io::ErrorKind::UnexpectedEof.into())),
                Ok(Ok(count)) => self.session.feed(&chunk[..count]),
                Ok(Err(error)) => return Err(gone(error)),
                Err(_) => return Err(late()),
            }
        }
    }
}

impl Ended {
    fn of(status: &Value) -> Self {
        let mut cut = status["out-truncated"] == true || status["err-truncated"] == true;
        let mut output = |key: &str| {
            let mut bytes = status[key].as_str().and_then(base64::decode).unwrap_or_default();
            cut |= bytes.len() > OUTPUT_BYTES;
            bytes.truncate(OUTPUT_BYTES);
            bytes
        };
        let (output, errors) = (output("out-data"), output("err-data"));
        let (code, signal) = (status["exitcode"].as_i64(), status["signal"].as_i64());
        Self { code, signal, output, errors, cut }
    }
}

fn text(value: &Value) -> String {
    crate::base::text::harmless_line(value.as_str().unwrap_or_default().as_bytes())
}

/// A number that no earlier session is likely to have used. It fits the numbers of any JSON.
fn number() -> u64 {
    let mut random = [0; 4];
    if SystemRandom::new().fill(&mut random).is_err() {
        tracing::debug!("no randomness: a reply of an earlier session may be taken for ours");
    }
    u64::from(u32::from_be_bytes(random))
}
