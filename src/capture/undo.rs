//! What has to be put back in a guest, remembered on disk while it is changed.
//!
//! What a capture changes and might outlive it: the log level of the guest's console, raised so that a
//! dump is seen, and what its SysRq was lent ([`super::memory`]). It is noted before it is raised and forgotten when it is put back, so an agent
//! that is killed in between finds the note when it starts again. A note of another run of the app is
//! void: a kernel that booted anew has its own level.

use crate::hypervisor::process::Run;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// What has to be put back.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Undo {
    /// The log level of the console.
    pub(super) level: u8,
    /// In the guest of this hypervisor.
    #[serde(flatten)]
    run: Run,
}

impl Undo {
    /// Of the guest of this process; nothing if there is none.
    pub(super) fn new(level: u8, pid: u32) -> Option<Self> {
        Some(Self { level, run: Run::of(pid)? })
    }

    /// Remembers it, over a loss of power.
    pub(super) fn note(&self, path: &Path) -> io::Result<()> {
        note(path, self)
    }

    /// What was noted of the guest as it runs now. Anything else is forgotten.
    pub(super) fn read(path: &Path) -> Option<Self> {
        let undo: Option<Self> = serde_json::from_slice(&fs::read(path).ok()?).ok();
        let ours = undo.filter(|undo| undo.run.lasts() && undo.level <= 9);
        if ours.is_none() {
            forget(path);
        }
        ours
    }
}

/// Remembers anything of a guest, over a loss of power.
pub(super) fn note(path: &Path, what: &impl Serialize) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(directory)?;
    let mut file = File::create(path)?;
    file.write_all(&serde_json::to_vec(what)?)?;
    file.sync_all()?;
    File::open(directory)?.sync_all()
}

/// It was put back.
pub(super) fn forget(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(%error, path = %path.display(), "a note of what was put back stays");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_of_one_run_alone() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("undo/app");
        let undo = Undo::new(4, std::process::id()).unwrap();
        assert_eq!(Undo::read(&path), None);
        undo.note(&path).unwrap();
        assert_eq!(Undo::read(&path), Some(undo));
        Undo { run: undo.run.later(), ..undo }.note(&path).unwrap();
        assert_eq!(Undo::read(&path), None);
        assert!(!path.exists());
        fs::write(&path, b"{\"level\":\0").unwrap();
        assert_eq!(Undo::read(&path), None);
        assert_eq!(Undo::new(4, u32::MAX), None);
    }
}
