//! EVE's log daemon, which hears everything that runs on the device, guests included.
//!
//! Its query socket takes one byte and then writes JSON lines. It has many clients; who reads too
//! slowly misses messages and is not told. So one connection serves all guests of a device, and is
//! read always. Lines come when they are complete: a prompt never does.

use serde::Deserialize;
use std::io;
use std::path::{Path, PathBuf};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout_at};

/// A connection that follows the log.
#[derive(Debug)]
pub struct Memlogd {
    stream: UnixStream,
    path: PathBuf,
    buffer: Vec<u8>,
    /// So much of it holds no end of a line.
    searched: usize,
    /// How many lines made no sense.
    rubbish: u64,
}

/// What somebody logged.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub struct Entry {
    /// When, as RFC 3339 has it.
    #[serde(default)]
    pub time: String,
    /// Who; see [`guest_source`].
    pub source: String,
    /// One line, without its end.
    #[serde(rename = "msg")]
    pub message: String,
}

/// Why the log cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No socket, no permission, nobody listening.
    #[error("failed to open the log {path}")]
    Open {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The connection broke.
    #[error("the log {path} broke off")]
    Broken {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Where the daemon answers, below `/run`.
pub const SOCKET: &str = "memlogdq.sock";

/// Sends what it still knows of the past, and then what comes.
const FOLLOW: u8 = 2;

/// The daemon's own bound is 8 KiB a message; JSON may make six bytes of one.
const LINE_BYTES: usize = 64 * 1024;

/// Before the name of a domain.
const GUEST: &str = "guest_vm-";

/// The source under which the console of a domain is logged.
#[must_use]
pub fn guest_source(domain: &str) -> String {
    format!("{GUEST}{domain}")
}

/// Whether a source is the console of a guest.
pub(super) fn is_guest(source: &str) -> bool {
    source.starts_with(GUEST)
}

impl Entry {
    /// The message as the line that it was, for a [`Watcher`](super::Watcher).
    #[must_use]
    pub fn line(&self) -> Vec<u8> {
        let mut line = self.message.clone().into_bytes();
        line.push(b'\n');
        line
    }
}

impl Memlogd {
    /// Connects, and follows.
    ///
    /// # Errors
    ///
    /// When there is nobody to connect to.
    pub async fn follow(path: &Path) -> Result<Self, Error> {
        let open = |source| Error::Open { path: path.to_owned(), source };
        let mut stream = UnixStream::connect(path).await.map_err(open)?;
        stream.write_all(&[FOLLOW]).await.map_err(open)?;
        let path = path.to_owned();
        Ok(Self { stream, path, buffer: Vec::new(), searched: 0, rubbish: 0 })
    }

    /// The next entry of any source, or none until `deadline`. Safe to cancel: no entry is lost.
    ///
    /// # Errors
    ///
    /// When the connection breaks: follow anew, and take what was said meanwhile for missed.
    pub async fn next(&mut self, deadline: Instant) -> Result<Option<Entry>, Error> {
        let mut chunk = [0; 8192];
        loop {
            if let Some(entry) = self.take_entry() {
                return Ok(Some(entry));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            let broken = |source| Error::Broken { path: self.path.clone(), source };
            match timeout_at(deadline, self.stream.read(&mut chunk)).await {
                Ok(Ok(0)) => return Err(broken(io::ErrorKind::UnexpectedEof.into())),
                Ok(Ok(count)) => self.buffer.extend_from_slice(&chunk[..count]),
                Ok(Err(error)) => return Err(broken(error)),
                Err(_) => return Ok(None),
            }
        }
    }

    /// How many lines made no sense so far.
    #[must_use]
    pub fn rubbish(&self) -> u64 {
        self.rubbish
    }

    fn take_entry(&mut self) -> Option<Entry> {
        loop {
            let fresh = &self.buffer[self.searched..];
            let Some(end) = fresh.iter().position(|byte| *byte == b'\n') else {
                self.searched = self.buffer.len();
                if self.searched > LINE_BYTES {
                    self.forget(self.searched);
                    self.rubbish += 1;
                }
                return None;
            };
            let line = self.searched + end + 1;
            let entry = serde_json::from_slice(&self.buffer[..line]).ok();
            self.forget(line);
            if entry.is_some() {
                return entry;
            }
            self.rubbish += 1;
        }
    }

    fn forget(&mut self, bytes: usize) {
        self.buffer.drain(..bytes);
        self.searched = 0;
    }
}

/// Against a stand-in that speaks as the daemon is documented to; the daemon itself was not there.
#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;
    use std::time::Duration;

    /// Serves one client with these bytes, and leaves.
    fn stand_in(path: &Path, says: Vec<u8>) -> std::thread::JoinHandle<u8> {
        let listener = UnixListener::bind(path).unwrap();
        std::thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            let mut mode = [0];
            client.read_exact(&mut mode).unwrap();
            client.write_all(&says).unwrap();
            mode[0]
        })
    }

    fn follow(says: &[u8]) -> (Vec<Entry>, u64) {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("memlogdq.sock");
        let daemon = stand_in(&path, says.to_vec());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let heard = runtime.block_on(async {
            let mut log = Memlogd::follow(&path).await.unwrap();
            let deadline = Instant::now() + Duration::from_secs(10);
            let mut entries = Vec::new();
            while let Ok(Some(entry)) = log.next(deadline).await {
                entries.push(entry);
            }
            (entries, log.rubbish())
        });
        assert_eq!(daemon.join().unwrap(), FOLLOW);
        heard
    }

    #[test]
    fn entries_bear_their_source() {
        let says = br#"{"time":"2026-08-22T10:00:00.123456789Z","source":"zedbox","msg":"{\"level\":\"info\"}"}
{"time":"2026-08-22T10:00:00.2Z","source":"guest_vm-0b0b.1.2","msg":"[    1.5] Linux \u001b[0m"}
"#;
        let (entries, rubbish) = follow(says);
        let ours: Vec<_> =
            entries.iter().filter(|entry| entry.source == guest_source("0b0b.1.2")).collect();
        assert_eq!((entries.len(), rubbish), (2, 0));
        assert_eq!(ours[0].line(), b"[    1.5] Linux \x1b[0m\n");
    }

    #[test]
    fn rubbish_is_passed_over_within_bounds() {
        let mut says = b"no json\n\n{\"source\": 1}\n".to_vec();
        says.extend(vec![b'x'; 3 * LINE_BYTES]);
        says.extend_from_slice(b"\n{\"source\":\"a\",\"msg\":\"b\",\"new\":{}}\n");
        let (entries, rubbish) = follow(&says);
        assert_eq!(
            entries,
            [Entry { time: String::new(), source: "a".to_owned(), message: "b".to_owned() }]
        );
        assert!(rubbish >= 4, "{rubbish}");
    }
}
