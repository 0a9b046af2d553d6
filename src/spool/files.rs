//! The file operations that the spool is made of: few, so that a test can let each of them fail.

use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The directories of a spool.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Shelf {
    /// What is to be sent.
    Waiting,
    /// What was found damaged.
    Corrupt,
    /// What the controller will never take.
    Refused,
}

/// Room on the disk, in bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Room {
    /// What may still be written.
    pub free: u64,
    /// What the disk holds in all.
    pub total: u64,
}

/// A disk, or a faulty one in tests. Names are plain file names, made by the spool itself.
pub trait Files {
    /// The names of the files on a shelf, in no order.
    fn names(&self, shelf: Shelf) -> io::Result<Vec<String>>;
    /// The size of a file.
    fn size(&self, shelf: Shelf, name: &str) -> io::Result<u64>;
    /// The first bytes of a file, at most `limit`.
    fn read(&self, shelf: Shelf, name: &str, limit: u64) -> io::Result<Vec<u8>>;
    /// Creates or replaces a waiting file. It is safe only once synced.
    fn write(&mut self, name: &str, header: &[u8], content: &[u8]) -> io::Result<()>;
    /// Brings the content of a waiting file to the disk.
    fn sync_file(&mut self, name: &str) -> io::Result<()>;
    /// Moves a waiting file, in one step, to another name or shelf.
    fn rename(&mut self, name: &str, shelf: Shelf, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&mut self, shelf: Shelf, name: &str) -> io::Result<()>;
    /// Brings the names on the waiting shelf to the disk.
    fn sync_names(&mut self) -> io::Result<()>;
    /// How much room the disk has.
    fn room(&self) -> io::Result<Room>;
}

/// A directory, held by this process alone.
#[derive(Debug)]
pub struct Disk {
    dir: PathBuf,
    _lock: Flock<File>,
}

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// Not there and not to be made, or not ours to write.
    #[error("cannot use {path} as the spool; it must be a directory that only lifesign writes")]
    Unusable {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody else has it.
    #[error(
        "the spool {path} is in use by another lifesign; stop that one, or give this one its own"
    )]
    InUse {
        /// Which.
        path: PathBuf,
    },
}

// === impl Disk ===

impl Disk {
    /// Makes the directories where they are missing, and locks them.
    ///
    /// # Errors
    ///
    /// When that is not possible, or another process has done so.
    pub fn open(dir: &Path) -> Result<Self, DiskError> {
        let unusable = |source| DiskError::Unusable { path: dir.to_owned(), source };
        for shelf in [Shelf::Waiting, Shelf::Corrupt, Shelf::Refused] {
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(within(dir, shelf));
            made.map_err(unusable)?;
        }
        let lock = writable(&dir.join("lock"), false).map_err(unusable)?;
        match Flock::lock(lock, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self { dir: dir.to_owned(), _lock: lock }),
            Err((_, nix::Error::EWOULDBLOCK)) => Err(DiskError::InUse { path: dir.to_owned() }),
            Err((_, errno)) => Err(unusable(errno.into())),
        }
    }

    fn path(&self, shelf: Shelf, name: &str) -> PathBuf {
        within(&self.dir, shelf).join(name)
    }
}

impl Files for Disk {
    fn names(&self, shelf: Shelf) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(within(&self.dir, shelf))? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                names.extend(entry.file_name().into_string());
            }
        }
        Ok(names)
    }

    fn size(&self, shelf: Shelf, name: &str) -> io::Result<u64> {
        Ok(fs::symlink_metadata(self.path(shelf, name))?.len())
    }

    fn read(&self, shelf: Shelf, name: &str, limit: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(self.path(shelf, name))?.take(limit).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn write(&mut self, name: &str, header: &[u8], content: &[u8]) -> io::Result<()> {
        let mut file = writable(&self.path(Shelf::Waiting, name), true)?;
        file.write_all(header)?;
        file.write_all(content)
    }

    fn sync_file(&mut self, name: &str) -> io::Result<()> {
        File::open(self.path(Shelf::Waiting, name))?.sync_all()
    }

    fn rename(&mut self, name: &str, shelf: Shelf, to: &str) -> io::Result<()> {
        fs::rename(self.path(Shelf::Waiting, name), self.path(shelf, to))
    }

    fn remove(&mut self, shelf: Shelf, name: &str) -> io::Result<()> {
        fs::remove_file(self.path(shelf, name))
    }

    fn sync_names(&mut self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }

    fn room(&self) -> io::Result<Room> {
        room(&self.dir)
    }
}

/// How much room the disk of a directory has.
pub(super) fn room(directory: &Path) -> io::Result<Room> {
    let disk = nix::sys::statvfs::statvfs(directory)?;
    let unit = disk.fragment_size();
    let bytes = |blocks| u64::saturating_mul(blocks, unit);
    Ok(Room { free: bytes(disk.blocks_available()), total: bytes(disk.blocks()) })
}

fn within(dir: &Path, shelf: Shelf) -> PathBuf {
    match shelf {
        Shelf::Waiting => dir.to_owned(),
        Shelf::Corrupt => dir.join("corrupt"),
        Shelf::Refused => dir.join("refused"),
    }
}

/// What is sealed is not secret from root, but nobody else has business with it.
fn writable(path: &Path, truncate: bool) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(truncate).mode(0o600).open(path)
}
