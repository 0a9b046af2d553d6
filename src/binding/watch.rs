//! Wakes when something in a few directories may be different.
//!
//! A wake says no more than "look again", so nothing is lost when the kernel drops events, and
//! whoever wakes reads the whole. Every [`RESCAN`] it wakes in any case. Order matters: [`Watcher::arm`],
//! then look, then [`Watcher::changed`]; what happens while one looks wakes.

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::unix::pipe;
use tokio::time::{Instant, sleep_until};

/// How often one looks even if nothing was heard.
pub(super) const RESCAN: Duration = Duration::from_secs(30);

/// From the first thing heard until one looks: what belongs together has happened by then, and a
/// storm costs five looks a second.
const SETTLE: Duration = Duration::from_millis(200);

/// Reads of the kernel's queue in one go. Each brings some hundred events; the rest can wait.
const READS_MAX: usize = 64;

/// Where the parts of an event stand: the watch, the mask, and the length of the name that follows.
const HEADER_BYTES: usize = 16;

/// Watches files and directories, whether they exist or not.
pub(super) struct Watcher {
    inotify: Option<Queue>,
    wanted: Vec<Wanted>,
    /// Which names in a directory wake, by the number of its watch; `None`: all.
    names: BTreeMap<i32, Vec<Option<OsString>>>,
    heard: Option<Instant>,
    rescan: Instant,
}

/// What may be different.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Wanted {
    /// The names in a directory, and the files behind them.
    Directory(PathBuf),
    /// One file.
    File(PathBuf),
}

/// The kernel's queue of events.
struct Queue {
    inotify: Inotify,
    /// The same queue as the runtime can wait for it. It is read like a pipe.
    events: pipe::Receiver,
}

impl Queue {
    fn open() -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let events = inotify.as_fd().try_clone_to_owned()?;
        Ok(Self { inotify, events: pipe::Receiver::from_owned_fd_unchecked(events)? })
    }
}

impl Watcher {
    /// Watches these. Where the kernel gives no watch, only [`RESCAN`] wakes. Belongs into a
    /// runtime.
    #[must_use]
    pub(super) fn new(wanted: Vec<Wanted>) -> Self {
        let inotify = Queue::open().map_err(|error| {
            tracing::warn!(%error, "the kernel gives no inotify; changes are seen after {RESCAN:?} only");
        });
        let rescan = Instant::now() + RESCAN;
        Self { inotify: inotify.ok(), wanted, names: BTreeMap::new(), heard: None, rescan }
    }

    /// Watches these from the next [`Watcher::arm`] on. Tells whether they are others than before.
    pub(super) fn want(&mut self, wanted: Vec<Wanted>) -> bool {
        let others = self.wanted != wanted;
        self.wanted = wanted;
        others
    }

    /// Sets a watch on everything that exists by now, and on the nearest parent of what does not.
    /// Doing it again is cheap, and finds what was replaced.
    pub(super) fn arm(&mut self) {
        let Some(queue) = &self.inotify else { return };
        self.names.clear();
        for wanted in &self.wanted {
            let armed = match wanted {
                Wanted::Directory(path) => arm(&queue.inotify, path, None),
                Wanted::File(path) => match (path.parent(), path.file_name()) {
                    (Some(parent), Some(name)) => arm(&queue.inotify, parent, Some(name)),
                    _ => None,
                },
            };
            if let Some((watch, name)) = armed {
                self.names.entry(watch).or_default().push(name);
            }
        }
    }

    /// Waits until it is worth a look. May be dropped midway; what was heard is remembered.
    pub(super) async fn changed(&mut self) {
        loop {
            if let Some(heard) = self.heard {
                sleep_until(heard + SETTLE).await;
                self.drain();
                self.heard = None;
                return;
            }
            tokio::select! {
                () = readable(self.inotify.as_ref()) => self.drain(),
                () = sleep_until(self.rescan) => {
                    self.rescan = Instant::now() + RESCAN;
                    return;
                }
            }
        }
    }

    /// Reads what the kernel has queued.
    fn drain(&mut self) {
        let Some(queue) = &self.inotify else { return };
        let mut chunk = [0; 8192];
        for _ in 0..READS_MAX {
            match queue.events.try_read(&mut chunk) {
                Ok(count) => {
                    if wakes(&chunk[..count], &self.names) && self.heard.is_none() {
                        self.heard = Some(Instant::now());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }
}

async fn readable(queue: Option<&Queue>) {
    match queue {
        // It fails only where the runtime ends.
        Some(queue) => drop(queue.events.readable().await),
        None => std::future::pending().await,
    }
}

/// Whether any of these events is about what is watched. Total: what is no event wakes nobody.
fn wakes(mut events: &[u8], names: &BTreeMap<i32, Vec<Option<OsString>>>) -> bool {
    while let Some((header, rest)) = events.split_at_checked(HEADER_BYTES) {
        let word = |at: usize| [header[at], header[at + 1], header[at + 2], header[at + 3]];
        let watch = i32::from_ne_bytes(word(0));
        let mask = AddWatchFlags::from_bits_retain(u32::from_ne_bytes(word(4)));
        let length = usize::try_from(u32::from_ne_bytes(word(12))).unwrap_or(usize::MAX);
        let Some((name, others)) = rest.split_at_checked(length) else { return false };
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        let name = OsString::from_vec(name[..end].to_vec());
        let about = |wanted: &Option<OsString>| wanted.as_ref().is_none_or(|w| *w == name);
        if mask.contains(AddWatchFlags::IN_Q_OVERFLOW)
            || names.get(&watch).is_some_and(|wanted| wanted.iter().any(about))
        {
            return true;
        }
        events = others;
    }
    false
}

/// Watches a directory, or the nearest parent that exists for the name that leads there.
fn arm(
    inotify: &Inotify,
    directory: &Path,
    name: Option<&OsStr>,
) -> Option<(i32, Option<OsString>)> {
    let mask = AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_ATTRIB
        | AddWatchFlags::IN_ONLYDIR;
    let mut name = name.map(OsStr::to_owned);
    for place in directory.ancestors() {
        let place = if place.as_os_str().is_empty() { Path::new(".") } else { place };
        if let Ok(watch) = inotify.add_watch(place, mask) {
            return Some((watch.as_raw(), name));
        }
        name = place.file_name().map(OsStr::to_owned);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use tokio::time::timeout;

    const SOON: Duration = Duration::from_secs(5);
    const NOT: Duration = Duration::from_millis(600);

    fn run<T>(test: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
    }

    #[test]
    fn a_directory_that_comes_later_wakes_and_is_watched() {
        run(async {
            let base = tempfile::tempdir().unwrap();
            let directory = base.path().join("run/domainmgr");
            let mut watcher = Watcher::new(vec![Wanted::Directory(directory.clone())]);
            watcher.arm();
            fs::write(base.path().join("other"), "").unwrap();
            timeout(NOT, watcher.changed()).await.unwrap_err();
            fs::create_dir_all(&directory).unwrap();
            timeout(SOON, watcher.changed()).await.unwrap();
            watcher.arm();
            fs::write(directory.join("a.json"), "{}").unwrap();
            timeout(SOON, watcher.changed()).await.unwrap();
            watcher.arm();
            fs::remove_dir_all(base.path().join("run")).unwrap();
            timeout(SOON, watcher.changed()).await.unwrap();
        });
    }

    #[test]
    fn a_file_wakes_and_its_neighbours_do_not() {
        run(async {
            let base = tempfile::tempdir().unwrap();
            let file = base.path().join("bindings.yaml");
            let mut watcher = Watcher::new(vec![Wanted::File(file.clone())]);
            watcher.arm();
            fs::write(base.path().join("neighbour"), "").unwrap();
            timeout(NOT, watcher.changed()).await.unwrap_err();
            fs::write(base.path().join("new"), "x").unwrap();
            fs::rename(base.path().join("new"), &file).unwrap();
            timeout(SOON, watcher.changed()).await.unwrap();
        });
    }

    #[test]
    fn rubbish_wakes_nobody() {
        let names = BTreeMap::from([(1, vec![None])]);
        for length in 0..64 {
            assert!(!wakes(&vec![0xff; length], &names) || length >= HEADER_BYTES);
        }
        assert!(!wakes(&[1, 0, 0, 0], &names));
    }

    #[test]
    fn what_was_heard_survives_a_wait_that_is_dropped() {
        run(async {
            let base = tempfile::tempdir().unwrap();
            let mut watcher = Watcher::new(vec![Wanted::Directory(base.path().to_owned())]);
            watcher.arm();
            fs::write(base.path().join("a"), "").unwrap();
            timeout(Duration::from_millis(50), watcher.changed()).await.unwrap_err();
            timeout(SOON, watcher.changed()).await.unwrap();
        });
    }
}
