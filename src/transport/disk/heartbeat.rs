//! The shell around a heartbeat: reads the two places of a raw disk, without locks.
//!
//! The host's own storage may hang. A read is never waited for beyond the deadline, there is one at
//! a time, and while it hangs nothing is said of the guest.

use super::pulse::Pulse;
use super::record::{PLACES, Place, RECORD, read};
use crate::base::chain::Chain;
use crate::base::rung::{Finding, Rung};
use crate::base::time::Clock;
use nix::fcntl::{OFlag, PosixFadviseAdvice, posix_fadvise};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

/// A guest's heartbeat on a disk.
#[derive(Debug)]
pub struct Heartbeat {
    path: PathBuf,
    offset: u64,
    pulse: Pulse,
    reads: JoinSet<Result<[Place; 2], ReadError>>,
}

/// Why a heartbeat cannot be read.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("failed to open the heartbeat disk {path}")]
    Open {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("failed to read the heartbeat disk {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{0} is neither a disk nor a file")]
    Kind(PathBuf),
    #[error("{path} is {format}, and a heartbeat is read from raw disks alone")]
    Format { path: PathBuf, format: &'static str },
    #[error("{path} is too small: a heartbeat takes 8 KiB from byte {offset}")]
    Small { path: PathBuf, offset: u64 },
}

impl Heartbeat {
    /// Of the disk or file at `path`, where it begins `offset` bytes from the start: 0, or where the
    /// partition is.
    #[must_use]
    pub fn new(path: &Path, offset: u64) -> Self {
        Self { path: path.to_owned(), offset, pulse: Pulse::default(), reads: JoinSet::new() }
    }

    /// Looks whether it went on within this time. May be dropped midway.
    pub async fn ask(&mut self, within: Duration, deadline: Instant) -> Finding {
        match timeout_at(deadline, self.look()).await {
            Ok(Ok(places)) => self.pulse.judge(places, within, Clock::now()),
            Ok(Err(why)) => Finding::unknown(Rung::Storage, why),
            Err(_) => {
                let reason = format!("this host does not read {} in time", self.path.display());
                Finding::unknown(Rung::Storage, reason)
            }
        }
    }

    async fn look(&mut self) -> Result<[Place; 2], String> {
        // What came too late for the last look would be old news in this one.
        while self.reads.join_next().await.is_some() {}
        let (path, offset) = (self.path.clone(), self.offset);
        self.reads.spawn_blocking(move || places(&path, offset));
        match self.reads.join_next().await {
            Some(Ok(Ok(places))) => Ok(places),
            Some(Ok(Err(error))) => Err(Chain(&error).to_string()),
            Some(Err(_)) | None => Err("the read was given up".to_owned()),
        }
    }
}

fn places(path: &Path, offset: u64) -> Result<[Place; 2], ReadError> {
    let failed = |source| ReadError::Read { path: path.to_owned(), source };
    let file = open(path)?;
    // What a hypervisor writes past the page cache of another device node is not in ours.
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)
        .map_err(|errno| failed(errno.into()))?;
    let mut magic = [0; 8];
    let small = || ReadError::Small { path: path.to_owned(), offset };
    whole(&file, &mut magic, 0, failed)?.ok_or_else(small)?;
    if let Some(format) = format(magic) {
        return Err(ReadError::Format { path: path.to_owned(), format });
    }
    let mut found = [Place::Blank; 2];
    for (place, at) in found.iter_mut().zip(PLACES) {
        let mut record = [0; RECORD];
        let at =
            offset.checked_add(at).filter(|at| i64::try_from(*at).is_ok()).ok_or_else(small)?;
        whole(&file, &mut record, at, failed)?.ok_or_else(small)?;
        *place = read(&record);
    }
    Ok(found)
}

fn open(path: &Path) -> Result<File, ReadError> {
    let failed = |source| ReadError::Open { path: path.to_owned(), source };
    // Not blocking, for at the path there may be a pipe.
    let flags = OFlag::O_NONBLOCK.bits();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(failed)?;
    let kind = file.metadata().map_err(failed)?.file_type();
    if kind.is_file() || kind.is_block_device() {
        return Ok(file);
    }
    Err(ReadError::Kind(path.to_owned()))
}

/// Reads all of `bytes`; none: the file ends before.
fn whole(
    file: &File,
    bytes: &mut [u8],
    at: u64,
    failed: impl Fn(io::Error) -> ReadError,
) -> Result<Option<()>, ReadError> {
    match file.read_exact_at(bytes, at) {
        Ok(()) => Ok(Some(())),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// An image that is not the disk itself.
fn format(magic: [u8; 8]) -> Option<&'static str> {
    match &magic {
        [b'Q', b'F', b'I', 0xfb, ..] => Some("a qcow2 image"),
        b"vhdxfile" => Some("a VHDX image"),
        [b'K', b'D', b'M', b'V', ..] => Some("a VMDK image"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::sealed;
    use super::*;
    use crate::base::rung::Answer;
    use std::process::{Child, Command, Stdio};

    const SOON: Duration = Duration::from_secs(5);

    /// The script that guests get, under busybox and with nothing but its tools.
    struct Guest {
        writer: Child,
    }

    impl Guest {
        fn start(directory: &Path, disk: &Path) -> Self {
            let tools = directory.join("tools");
            if !tools.exists() {
                std::fs::create_dir(&tools).unwrap();
                let installed =
                    Command::new("busybox").args(["--install", "-s"]).arg(&tools).status();
                assert!(installed.unwrap().success());
            }
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("pkg/guest/lifesign-heartbeat");
            let writer = Command::new(tools.join("sh"))
                .args([script.as_os_str(), disk.as_os_str(), "0.05".as_ref()])
                .env("PATH", &tools)
                .stdin(Stdio::null())
                .spawn();
            Self { writer: writer.unwrap() }
        }
    }

    impl Drop for Guest {
        fn drop(&mut self) {
            let _ = self.writer.kill();
            let _ = self.writer.wait();
        }
    }

    fn blank(directory: &Path, bytes: u64) -> PathBuf {
        let path = directory.join("disk.raw");
        File::create(&path).unwrap().set_len(bytes).unwrap();
        path
    }

    async fn answer_becomes(heartbeat: &mut Heartbeat, within: Duration, wanted: Answer) -> String {
        for _ in 0..100 {
            let found = heartbeat.ask(within, Instant::now() + SOON).await;
            if found.answer == wanted {
                return found.reason;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("never {wanted}");
    }

    #[tokio::test]
    async fn the_script_of_guests_is_seen_to_live_to_die_and_to_come_back() {
        let directory = tempfile::tempdir().unwrap();
        let disk = blank(directory.path(), 8192);
        let mut heartbeat = Heartbeat::new(&disk, 0);
        let nothing = heartbeat.ask(SOON, Instant::now() + SOON).await;
        assert_eq!(nothing.answer, Answer::Unknown);
        assert!(nothing.reason.contains("no heartbeat was ever written"), "{}", nothing.reason);
        let guest = Guest::start(directory.path(), &disk);
        let alive = answer_becomes(&mut heartbeat, SOON, Answer::Alive).await;
        assert!(alive.starts_with("its heartbeat reached number "), "{alive}");
        drop(guest);
        let dead = answer_becomes(&mut heartbeat, Duration::from_millis(400), Answer::Dead).await;
        assert!(dead.starts_with("its heartbeat stands at number "), "{dead}");
        let _again = Guest::start(directory.path(), &disk);
        answer_becomes(&mut heartbeat, SOON, Answer::Alive).await;
        assert_eq!(std::fs::metadata(&disk).unwrap().len(), 8192);
    }

    #[test]
    fn the_script_keeps_two_good_records_in_a_partition() {
        let directory = tempfile::tempdir().unwrap();
        let disk = blank(directory.path(), 1 << 20);
        let guest = Guest::start(directory.path(), &disk);
        let mut records = [Place::Blank; 2];
        for _ in 0..100 {
            std::thread::sleep(Duration::from_millis(50));
            records = places(&disk, 0).unwrap();
            if records.iter().all(|place| matches!(place, Place::Beat(_))) {
                break;
            }
        }
        drop(guest);
        let [Place::Beat(even), Place::Beat(odd)] = records else { panic!("{records:?}") };
        assert_eq!((even.sequence % 2, odd.sequence % 2, even.boot), (0, 1, odd.boot));
        assert!(even.uptime_ms > 0 && even.time_s > 1_700_000_000);
    }

    #[tokio::test]
    async fn a_partition_begins_further_on() {
        let directory = tempfile::tempdir().unwrap();
        let disk = blank(directory.path(), 1 << 20);
        let text = "lifesign-heartbeat 1 7 1.00 1700000000 0f7c1a52-8f5e-4b0a-9d53-2f1f5a3f8c11";
        let file = OpenOptions::new().write(true).open(&disk).unwrap();
        file.write_all_at(&sealed(text), (512 << 10) + 4096).unwrap();
        let [first, second] = places(&disk, 512 << 10).unwrap();
        assert!(matches!((first, second), (Place::Blank, Place::Beat(_))), "{first:?} {second:?}");
    }

    #[tokio::test]
    async fn what_is_no_raw_disk_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::write(at("image.qcow2"), [b"QFI\xfb\0\0\0\x03".as_slice(), &[0; 9000]].concat())
            .unwrap();
        std::fs::write(at("small"), [0; 4607]).unwrap();
        nix::unistd::mkfifo(&at("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut all = Vec::new();
        for (name, offset) in [
            ("image.qcow2", 0),
            ("small", 0),
            ("small", u64::MAX),
            ("pipe", 0),
            (".", 0),
            ("none", 0),
        ] {
            let found = Heartbeat::new(&at(name), offset).ask(SOON, Instant::now() + SOON).await;
            all.push(format!("{}: {}", found.answer, found.reason));
        }
        let all = all.join("\n").replace(directory.path().to_str().unwrap(), "");
        insta::assert_snapshot!(all, @"
        unknown: /image.qcow2 is a qcow2 image, and a heartbeat is read from raw disks alone
        unknown: /small is too small: a heartbeat takes 8 KiB from byte 0
        unknown: /small is too small: a heartbeat takes 8 KiB from byte 18446744073709551615
        unknown: /pipe is neither a disk nor a file
        unknown: /. is neither a disk nor a file
        unknown: failed to open the heartbeat disk /none: No such file or directory (os error 2)
        ");
    }
}
