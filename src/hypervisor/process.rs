//! The hypervisor's process, as far as its life and death go.

use super::stores::Stores;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

/// The state letter of a process (`R`, `S`, `D`, `T`, `Z`, ..); `None`: there is no such process.
#[must_use]
pub fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(PathBuf::from(format!("/proc/{pid}/stat"))).ok()?;
    state_of(&stat)
}

/// One life of a process, told from a later one of the same number.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Run {
    /// Its number.
    pub pid: u32,
    /// When it was started, in ticks after boot.
    started: u64,
}

impl Run {
    /// Of the process that has this number now; nothing if there is none.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        Some(Self { pid, started: started(pid)? })
    }

    /// Whether it lives still.
    #[must_use]
    pub fn lasts(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Of a process that was given the same number.
    #[cfg(test)]
    pub(crate) fn later(self) -> Self {
        Self { started: self.started + 1, ..self }
    }
}

fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(PathBuf::from(format!("/proc/{pid}/stat"))).ok()?;
    named(&stat)?.1.split_whitespace().nth(19)?.parse().ok()
}

/// The process that listens on a unix socket. Connecting tells that as well and costs less, but a
/// process that is stopped accepts nobody, and after a few tries takes no more connections.
#[must_use]
pub fn listening_on(socket: &Path) -> Option<u32> {
    let sockets = fs::read_to_string("/proc/thread-self/net/unix").ok()?;
    let link = PathBuf::from(format!("socket:[{}]", listener(&sockets, socket.to_str()?)?));
    let holds = |process: &Path| {
        let descriptors = fs::read_dir(process.join("fd"));
        descriptors.is_ok_and(|all| {
            all.flatten().any(|fd| fs::read_link(fd.path()).is_ok_and(|target| target == link))
        })
    };
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let mut processes = processes.filter_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        holds(&entry.path()).then_some(pid)
    });
    processes.next()
}

/// Where a QEMU keeps what its guest's kernel leaves behind, by its arguments. Nothing, if it is none or
/// may not be looked at.
#[must_use]
pub fn stores(pid: u32) -> Stores {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let arguments = fs::read(process.join("cmdline")).unwrap_or_default();
    let arguments = String::from_utf8_lossy(&arguments);
    let arguments: Vec<&str> = arguments.split('\0').collect();
    let config = |path: &str| {
        let path = seen_by(&process, Path::new(path));
        path.is_file().then(|| fs::read_to_string(path).ok()).flatten()
    };
    let Stores { erst, flash } = Stores::read(&arguments, config);
    let seen = |path: Option<PathBuf>| path.map(|path| seen_by(&process, &path));
    Stores { erst: seen(erst), flash: seen(flash) }
}

/// A file by the name that a process knows it by, which may live in a container of its own.
fn seen_by(process: &Path, path: &Path) -> PathBuf {
    let path = match fs::read_link(process.join("cwd")) {
        Ok(directory) => directory.join(path),
        Err(_) => path.to_owned(),
    };
    let inside = process.join("root").join(path.strip_prefix("/").unwrap_or(&path));
    if inside.exists() { inside } else { path }
}

/// The inode of the socket that was bound to this path and takes connections: `Num: RefCount
/// Protocol Flags Type St Inode Path`, with the flag SO_ACCEPTCON.
fn listener<'a>(sockets: &'a str, path: &str) -> Option<&'a str> {
    sockets.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [_, _, _, "00010000", _, _, inode, bound] = fields[..] else { return None };
        (bound == path).then_some(inode)
    })
}

/// The name in `/proc/PID/stat`, and what stands behind it, from the letter of the state on. The name
/// is in parentheses and may hold anything, even parentheses.
#[must_use]
pub fn named(stat: &str) -> Option<(&str, &str)> {
    let (head, rest) = stat.rsplit_once(')')?;
    Some((head.split_once('(')?.1, rest.trim_start()))
}

fn state_of(stat: &str) -> Option<char> {
    named(stat)?.1.chars().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_fake_a_state() {
        assert_eq!(state_of("77 (a) S b) T 1 77 77 0"), Some('T'));
        assert_eq!(state_of("77"), None);
    }

    #[test]
    fn we_are_found_by_what_we_listen_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert_eq!(listening_on(&path), Some(std::process::id()));
        assert_eq!(listening_on(&directory.path().join("other")), None);
    }

    #[test]
    fn we_run() {
        assert!(state(std::process::id()).is_some());
        assert_eq!(state(u32::MAX), None);
        assert!(started(std::process::id()) > started(1));
        assert_eq!(started(u32::MAX), None);
    }
}
