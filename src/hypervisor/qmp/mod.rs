//! QEMU's monitor: connect, ask, leave.
//!
//! On EVE the socket serves one client and its manager waits behind us without a deadline, so a
//! [`Monitor`] lives for [`limits::QMP_HOLD`] at most, and everything that is asked of it shares
//! that time. A monitor that does not greet is *busy* (or its process is stopped), which says nothing
//! of the guest.
//!
//! Every message is a value first: unknown fields, events and errors are kept or passed over, never
//! a reason to fail.

mod session;

use super::process;
use crate::base::limits;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde_json::{Value, json};
use session::{Message, Session};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout_at};

/// How often it is waited anew for a monitor that has nothing to tell.
const QUIET: Duration = Duration::from_secs(3600);

/// A connection to a monitor, for a second.
#[derive(Debug)]
pub struct Monitor {
    stream: UnixStream,
    session: Session,
    deadline: Instant,
    pid: Option<u32>,
    path: PathBuf,
    events: Vec<(String, Value)>,
}

/// Why a monitor cannot be asked at all.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No socket, no permission, nobody listening.
    #[error("failed to open the monitor {path}")]
    Open {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It takes connections, but does not greet.
    #[error(
        "the monitor {path} does not greet: another client holds it, or its process is stopped"
    )]
    Busy {
        /// The socket.
        path: PathBuf,
        /// The process that listens there.
        pid: Option<u32>,
    },
    /// Something answers, but not a monitor.
    #[error("{path} is not a QMP monitor")]
    NotQmp {
        /// The socket.
        path: PathBuf,
    },
    /// It greeted, and then something went wrong.
    #[error("failed to start talking with the monitor")]
    Start(#[source] AskError),
}

/// Why a question has no answer. After all but [`AskError::Refused`] the connection is of no use.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The monitor says no.
    #[error("the monitor refuses `{command}`: {reason}")]
    Refused {
        /// What was asked.
        command: String,
        /// In QEMU's words.
        reason: String,
    },
    /// It took too long.
    #[error("the monitor did not answer `{command}` in time")]
    Late {
        /// What was asked.
        command: String,
    },
    /// The connection broke.
    #[error("the monitor went away during `{command}`")]
    Gone {
        /// What was asked.
        command: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The reply is larger than anything we ask for.
    #[error("the monitor's reply to `{command}` is too large or no JSON")]
    Rubbish {
        /// What was asked.
        command: String,
    },
}

impl Monitor {
    /// Connects, is greeted, and may ask from then on.
    ///
    /// # Errors
    ///
    /// When nobody greets in time, or it is no monitor.
    pub async fn connect(path: &Path) -> Result<Self, ConnectError> {
        let open = |source| ConnectError::Open { path: path.to_owned(), source };
        let deadline = Instant::now() + limits::QMP_HOLD;
        let busy = |pid| ConnectError::Busy { path: path.to_owned(), pid };
        let stream = match UnixStream::connect(path).await {
            Ok(stream) => stream,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(busy(process::listening_on(path)));
            }
            Err(error) => return Err(open(error)),
        };
        let pid = stream.peer_cred().ok().and_then(|cred| u32::try_from(cred.pid()?).ok());
        let path = path.to_owned();
        let (session, events) = (Session::default(), Vec::new());
        let mut monitor = Self { stream, session, deadline, pid, path, events };
        loop {
            match monitor.next("greeting").await {
                Ok(Message::Greeting) => break,
                // It was on its way to whoever asked before us.
                Ok(Message::Event { name, value }) => monitor.note(name, value),
                Ok(_) | Err(AskError::Rubbish { .. }) => {
                    return Err(ConnectError::NotQmp { path: monitor.path });
                }
                Err(AskError::Late { .. } | AskError::Refused { .. }) => return Err(busy(pid)),
                Err(AskError::Gone { source, .. }) => {
                    return Err(ConnectError::Open { path: monitor.path, source });
                }
            }
        }
        monitor.ask("qmp_capabilities", json!({})).await.map_err(ConnectError::Start)?;
        Ok(monitor)
    }

    /// The process at the other end.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    ///
    /// When the monitor refuses, is late, or goes away.
    pub async fn ask(&mut self, command: &str, arguments: Value) -> Result<Value, AskError> {
        let (id, line) = self.session.command(command, &arguments);
        let gone = |source| AskError::Gone { command: command.to_owned(), source };
        let late = || AskError::Late { command: command.to_owned() };
        timeout_at(self.deadline, self.stream.write_all(&line))
            .await
            .map_err(|_| late())?
            .map_err(gone)?;
        self.answer(command, id).await
    }

    /// Lends it a file, which it knows as `/dev/fdset/SET` from then on, until it is told `remove-fd`.
    ///
    /// # Errors
    ///
    /// As [`Monitor::ask`].
    pub async fn lend(&mut self, file: &impl AsFd, set: u32) -> Result<(), AskError> {
        self.ask_with("add-fd", json!({ "fdset-id": set }), file).await
    }

    /// Hands it a file, which one command of this connection may take by `name`.
    ///
    /// # Errors
    ///
    /// As [`Monitor::ask`].
    pub async fn hand(&mut self, file: &impl AsFd, name: &str) -> Result<(), AskError> {
        self.ask_with("getfd", json!({ "fdname": name }), file).await
    }

    /// Asks, and sends a file along.
    async fn ask_with(
        &mut self,
        command: &str,
        arguments: Value,
        file: &impl AsFd,
    ) -> Result<(), AskError> {
        let (id, line) = self.session.command(command, &arguments);
        let gone = |source| AskError::Gone { command: command.to_owned(), source };
        let (socket, file) = (self.stream.as_raw_fd(), [file.as_fd().as_raw_fd()]);
        let with_file = [ControlMessage::ScmRights(&file)];
        let send = || {
            let line = [IoSlice::new(&line)];
            Ok(sendmsg::<()>(socket, &line, &with_file, MsgFlags::MSG_NOSIGNAL, None)?)
        };
        let sent = timeout_at(self.deadline, self.stream.async_io(Interest::WRITABLE, send)).await;
        match sent {
            Ok(Ok(count)) if count == line.len() => self.answer(command, id).await.map(drop),
            Ok(Ok(_)) => Err(gone(io::ErrorKind::WriteZero.into())),
            Ok(Err(error)) => Err(gone(error)),
            Err(_) => Err(AskError::Late { command: command.to_owned() }),
        }
    }

    async fn answer(&mut self, command: &str, id: u64) -> Result<Value, AskError> {
        loop {
            match self.next(command).await? {
                Message::Return { id: of, value } if of == id => return Ok(value),
                Message::Error { id: of, reason } if of == id => {
                    return Err(AskError::Refused { command: command.to_owned(), reason });
                }
                Message::Event { name, value } => self.note(name, value),
                Message::Return { .. }
                | Message::Error { .. }
                | Message::Greeting
                | Message::Other => {}
            }
        }
    }

    /// Asks the monitor for people, which answers in text.
    ///
    /// # Errors
    ///
    /// As [`Monitor::ask`].
    pub async fn ask_human(&mut self, line: &str) -> Result<Value, AskError> {
        self.ask("human-monitor-command", json!({ "command-line": line })).await
    }

    /// What happened while it was asked: the names of the events and the whole messages, the first ones.
    #[must_use]
    pub fn into_events(self) -> Vec<(String, Value)> {
        self.events
    }

    /// Waits for what it tells by itself, for as long as it takes. Only a monitor for which nobody waits
    /// behind us may be kept so ([`crate::hypervisor::events`]).
    ///
    /// # Errors
    ///
    /// When it goes away, or tells what is no event.
    pub(super) async fn event(&mut self) -> Result<(String, Value), AskError> {
        loop {
            self.deadline = Instant::now() + QUIET;
            match self.next("events").await {
                Ok(Message::Event { name, value }) => return Ok(bounded(name, value)),
                Ok(_) | Err(AskError::Late { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn note(&mut self, name: String, value: Value) {
        if self.events.len() < limits::QMP_EVENTS {
            self.events.push(bounded(name, value));
        }
    }

    async fn next(&mut self, command: &str) -> Result<Message, AskError> {
        let mut chunk = [0; 8192];
        loop {
            match self.session.next_message() {
                Ok(Some(message)) => return Ok(message),
                Ok(None) => {}
                Err(_) => return Err(AskError::Rubbish { command: command.to_owned() }),
            }
            let gone = |source| AskError::Gone { command: command.to_owned(), source };
            match timeout_at(self.deadline, self.stream.read(&mut chunk)).await {
                Ok(Ok(0)) => return Err(gone(io::ErrorKind::UnexpectedEof.into())),
                Ok(Ok(count)) => self.session.feed(&chunk[..count]),
                Ok(Err(error)) => return Err(gone(error)),
                Err(_) => return Err(AskError::Late { command: command.to_owned() }),
            }
        }
    }
}

/// An event whose name is a word, and which is not too large to be kept.
fn bounded(mut name: String, value: Value) -> (String, Value) {
    name.retain(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-'));
    name.truncate(limits::QMP_EVENT_BYTES);
    if value.to_string().len() <= limits::QMP_EVENT_BYTES {
        return (name, value);
    }
    (name, json!({ "timestamp": value.get("timestamp") }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixListener;

    #[tokio::test]
    async fn an_event_may_come_before_the_greeting_and_nothing_else_may() {
        let event = r#"{"event":"RESUME","timestamp":{}}"#;
        for (before, is_monitor) in [(event, true), (r#"{"return":{},"id":1}"#, false)] {
            let place = tempfile::tempdir().unwrap();
            let path = place.path().join("qmp");
            let listener = UnixListener::bind(&path).unwrap();
            let serving = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                writeln!(stream, "{before}\n{{\"QMP\":{{}}}}\n{{\"return\":{{}},\"id\":1}}")
                    .unwrap();
                stream
            });
            let monitor = Monitor::connect(&path).await;
            assert_eq!(matches!(monitor, Err(ConnectError::NotQmp { .. })), !is_monitor);
            if is_monitor {
                assert_eq!(monitor.unwrap().into_events()[0].0, "RESUME");
            }
            drop(serving.join().unwrap());
        }
    }
}
