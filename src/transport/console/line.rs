//! The byte stream under a console: a unix socket, a terminal device of the host, or only its log.
//!
//! A terminal device is a serial line or a pseudo-terminal. It is made raw, so that nothing on the
//! way acts on the bytes or echoes them, and locked, so that two programs do not read each half.

use nix::fcntl::OFlag;
use nix::sys::termios::{self, BaudRate, ControlFlags, SetArg};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, SeekFrom, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::sleep;

/// An open line.
#[derive(Debug)]
pub(super) enum Line {
    /// To QEMU.
    Socket(UnixStream),
    /// A terminal of the host.
    Terminal(AsyncFd<File>),
    /// The file that a console is logged to, from its end on. Nobody can type there.
    Log(tokio::fs::File),
}

/// How often a log is looked at: an answer has many lines.
const LOOK: Duration = Duration::from_millis(20);

/// What serial consoles are set to nearly everywhere. A pseudo-terminal does not mind.
const SPEED: BaudRate = BaudRate::B115200;

impl Line {
    /// Opens whatever the path is.
    pub(super) async fn open(path: &Path) -> io::Result<Self> {
        let kind = tokio::fs::metadata(path).await?.file_type();
        if kind.is_char_device() {
            return watched(open_terminal(path)?).map(Self::Terminal);
        }
        UnixStream::connect(path).await.map(Self::Socket)
    }

    /// Opens what a console is logged to.
    pub(super) async fn open_log(path: &Path) -> io::Result<Self> {
        if !tokio::fs::metadata(path).await?.is_file() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut log = tokio::fs::File::open(path).await?;
        log.seek(SeekFrom::End(0)).await?;
        Ok(Self::Log(log))
    }

    pub(super) async fn read(&mut self, chunk: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Socket(stream) => stream.read(chunk).await,
            Self::Terminal(terminal) => loop {
                let mut ready = terminal.readable_mut().await?;
                match ready.try_io(|file| Read::read(&mut file.get_ref(), chunk)) {
                    // The other side of a pseudo-terminal is gone.
                    Ok(Err(error)) if error.raw_os_error() == Some(nix::libc::EIO) => return Ok(0),
                    Ok(read) => return read,
                    Err(_not_ready) => {}
                }
            },
            Self::Log(log) => loop {
                match log.read(chunk).await? {
                    0 => sleep(LOOK).await,
                    count => return Ok(count),
                }
            },
        }
    }

    pub(super) async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Socket(stream) => stream.write_all(bytes).await,
            Self::Terminal(terminal) => {
                while !bytes.is_empty() {
                    let mut ready = terminal.writable_mut().await?;
                    match ready.try_io(|file| Write::write(&mut file.get_ref(), bytes)) {
                        Ok(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                        Ok(written) => bytes = &bytes[written?..],
                        Err(_not_ready) => {}
                    }
                }
                Ok(())
            }
            Self::Log(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Says that nothing more is typed. Whether the other end will say that it understood.
    pub(super) async fn hang_up(&mut self) -> io::Result<bool> {
        match self {
            Self::Socket(stream) => stream.shutdown().await.map(|()| true),
            Self::Terminal(_) | Self::Log(_) => Ok(false),
        }
    }
}

#[expect(
    deprecated,
    reason = "its successor is unsafe, for what may change its descriptor; a File never does"
)]
fn watched(file: File) -> io::Result<AsyncFd<File>> {
    AsyncFd::new(file)
}

fn open_terminal(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
    let file = OpenOptions::new().read(true).write(true).custom_flags(flags.bits()).open(path)?;
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => io::ErrorKind::ResourceBusy.into(),
        TryLockError::Error(error) => error,
    })?;
    let mut settings = termios::tcgetattr(&file)?;
    termios::cfmakeraw(&mut settings);
    termios::cfsetspeed(&mut settings, SPEED)?;
    // A line without modem signals, as three wires have it.
    settings.control_flags |= ControlFlags::CLOCAL | ControlFlags::CREAD;
    settings.control_flags -= ControlFlags::CRTSCTS;
    termios::tcsetattr(&file, SetArg::TCSANOW, &settings)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_log_is_heard_from_now_on_and_takes_no_keys() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("console.log");
        assert_eq!(Line::open_log(&path).await.unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(Line::open_log(place.path()).await.is_err());
        std::fs::write(&path, b"before\n").unwrap();
        let mut log = Line::open_log(&path).await.unwrap();
        let mut appended = OpenOptions::new().append(true).open(&path).unwrap();
        let (mut chunk, mut heard) = ([0; 4], Vec::new());
        for word in [&b"now\n"[..], b"and later\n"] {
            appended.write_all(word).unwrap();
            let end = heard.len() + word.len();
            while heard.len() < end {
                let count = log.read(&mut chunk).await.unwrap();
                heard.extend_from_slice(&chunk[..count]);
            }
        }
        assert_eq!(heard, b"now\nand later\n");
        assert!(log.write_all(b"key").await.is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"before\nnow\nand later\n");
    }
}
