//! That a guest may stand still because of us, remembered on disk.
//!
//! The note is there before the stub is, and goes when the guest was seen to run. Whoever writes it keeps
//! it locked as long as he lives: a note without a lock was left by somebody who was killed. It need not
//! outlive a loss of power, for no guest does.

use crate::hypervisor::process::Run;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Which guest, and how to let it go.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Note {
    /// Of this hypervisor.
    #[serde(flatten)]
    run: Run,
    /// Its monitor.
    pub(super) qmp: PathBuf,
    /// The socket of its debugger stub.
    pub(super) stub: PathBuf,
    /// Whether we opened the stub.
    pub(super) is_ours: bool,
}

/// A note that is ours to act on.
#[derive(Debug)]
pub(super) struct Noted {
    pub(super) note: Note,
    path: PathBuf,
    file: File,
}

/// What is found of a note.
#[derive(Debug)]
pub(super) enum Left {
    Nothing,
    Note(Noted),
    /// Its writer lives and sees to the guest, or is still about to die.
    Locked,
}

impl Note {
    /// Of the guest of this process; nothing if there is none.
    pub(super) fn new(pid: u32, qmp: &Path, stub: PathBuf, is_ours: bool) -> Option<Self> {
        Some(Self { run: Run::of(pid)?, qmp: qmp.to_owned(), stub, is_ours })
    }

    /// Whether that run of the guest is over.
    pub(super) fn is_void(&self) -> bool {
        !self.run.lasts()
    }
}

impl Noted {
    /// Writes it down.
    pub(super) fn write(path: &Path, note: Note) -> io::Result<Self> {
        fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
        let mut options = File::options();
        let mut file = options.read(true).write(true).create(true).truncate(false).open(path)?;
        file.try_lock()?;
        if file.metadata()?.len() > 0 {
            let reason = "an earlier debugger has not let the guest go yet";
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, reason));
        }
        file.write_all(&serde_json::to_vec(&note)?)?;
        Ok(Self { note, path: path.to_owned(), file })
    }

    /// What somebody left who was killed.
    pub(super) fn left(path: &Path) -> Left {
        let Ok(mut file) = File::options().read(true).write(true).open(path) else {
            return Left::Nothing;
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Left::Locked,
            Err(TryLockError::Error(_)) => return Left::Nothing,
        }
        let mut text = Vec::new();
        file.read_to_end(&mut text).ok();
        match serde_json::from_slice(&text) {
            Ok(note) => Left::Note(Self { note, path: path.to_owned(), file }),
            Err(_) => {
                // It was not written to its end, so nothing was done.
                forget(path, &file);
                Left::Nothing
            }
        }
    }

    /// The guest was let go.
    pub(super) fn forget(self) {
        forget(&self.path, &self.file);
    }
}

/// Emptied first: somebody may have opened it already, and wait for the lock.
fn forget(path: &Path, file: &File) {
    if let Err(error) = file.set_len(0).and_then(|()| fs::remove_file(path)) {
        tracing::warn!(%error, path = %path.display(), "a note of a guest that was let go stays");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread::sleep;
    use std::time::Duration;

    /// Who is begun by another test has our locks, too, until he runs his own program.
    fn in_the_end<T>(mut of: impl FnMut() -> Option<T>) -> T {
        for _ in 0..1000 {
            if let Some(it) = of() {
                return it;
            }
            sleep(Duration::from_millis(5));
        }
        panic!("not within 5 s");
    }

    #[test]
    fn a_note_is_left_when_its_writer_is_gone() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("undo/app.stop");
        let note = Note::new(std::process::id(), Path::new("qmp"), "gdb".into(), true).unwrap();
        assert!(!note.is_void() && Note { run: note.run.later(), ..note.clone() }.is_void());
        assert!(matches!(Noted::left(&path), Left::Nothing));
        let noted = Noted::write(&path, note.clone()).unwrap();
        assert!(matches!(Noted::left(&path), Left::Locked), "its writer lives");
        drop(noted);
        in_the_end(|| {
            let busy = Noted::write(&path, note.clone()).unwrap_err().to_string();
            (busy == "an earlier debugger has not let the guest go yet").then_some(())
        });
        let left = in_the_end(|| match Noted::left(&path) {
            Left::Note(left) => Some(left),
            Left::Nothing => panic!("nobody has removed it"),
            Left::Locked => None,
        });
        assert_eq!(left.note, note);
        left.forget();
        assert!(!path.exists());
        fs::write(&path, b"{\"pid\":\0").unwrap();
        assert!(matches!(Noted::left(&path), Left::Nothing) && !path.exists());
    }
}
