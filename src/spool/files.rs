//! The file operations that the spool is made of: few, so that a test can let each of them fail.

use crate::base::time::{Clock, Timestamp};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
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

/// Room on the disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Room {
    /// Bytes that may still be written.
    pub free: u64,
    /// Bytes that the disk holds in all.
    pub total: u64,
    /// Files that may still be made.
    pub inodes_free: u64,
    /// Files that there may be in all; 0 where nobody counts them.
    pub inodes: u64,
}

/// What is known of a file without reading it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Facts {
    /// How many bytes it has.
    pub size: u64,
    /// When it was written, by a clock that anybody may set.
    pub written: Timestamp,
}

/// A disk, or a faulty one in tests. Names are plain file names, made by the spool itself.
pub trait Files {
    /// Takes hold of the directory. Everything else fails before.
    fn open(&mut self) -> Result<(), DiskError>;
    /// The names of the files on a shelf, in no order.
    fn names(&self, shelf: Shelf) -> io::Result<Vec<String>>;
    /// What is known of a file.
    fn facts(&self, shelf: Shelf, name: &str) -> io::Result<Facts>;
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
    /// Now, by the clock that dates the files.
    fn now(&self) -> Timestamp;
}

/// A directory, held by this process alone.
#[derive(Debug)]
pub struct Disk {
    dir: PathBuf,
    lock: Option<Flock<File>>,
}

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// What it is to be made in is not there, or locked.
    #[error(
        "the spool {path} is not to be had yet: the directory above it must be there, mounted and \
         unlocked"
    )]
    Absent {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
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
    /// A directory that nobody has looked at yet.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), lock: None }
    }

    fn unusable(&self, source: io::Error) -> DiskError {
        let path = self.dir.clone();
        // A directory of a locked vault can be seen, but nothing can be made in it.
        let is_locked = source.raw_os_error() == Some(Errno::ENOKEY as i32);
        match is_locked || source.kind() == io::ErrorKind::NotFound {
            true => DiskError::Absent { path, source },
            false => DiskError::Unusable { path, source },
        }
    }

    fn path(&self, shelf: Shelf, name: &str) -> PathBuf {
        within(&self.dir, shelf).join(name)
    }
}

impl Files for Disk {
    fn open(&mut self) -> Result<(), DiskError> {
        for shelf in [Shelf::Waiting, Shelf::Corrupt, Shelf::Refused] {
            // Never what is above it: that may be where a disk is yet to be mounted.
            let made = fs::DirBuilder::new().mode(0o700).create(within(&self.dir, shelf));
            match made {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(self.unusable(error));
                }
                _ => {}
            }
        }
        let lock = writable(&self.dir.join("lock"), false);
        let lock = lock.map_err(|source| self.unusable(source))?;
        match Flock::lock(lock, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => {
                self.lock = Some(lock);
                Ok(())
            }
            Err((_, Errno::EWOULDBLOCK)) => Err(DiskError::InUse { path: self.dir.clone() }),
            Err((_, errno)) => Err(self.unusable(errno.into())),
        }
    }

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

    fn facts(&self, shelf: Shelf, name: &str) -> io::Result<Facts> {
        let known = fs::symlink_metadata(self.path(shelf, name))?;
        let ms = known.mtime().saturating_mul(1000).saturating_add(known.mtime_nsec() / 1_000_000);
        Ok(Facts { size: known.len(), written: Timestamp::from_millis(ms) })
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

    fn now(&self) -> Timestamp {
        Clock::wall()
    }
}

/// How much room the disk of a directory has.
pub(super) fn room(directory: &Path) -> io::Result<Room> {
    let disk = nix::sys::statvfs::statvfs(directory)?;
    let unit = disk.fragment_size();
    let bytes = |blocks| u64::saturating_mul(blocks, unit);
    Ok(Room {
        free: bytes(disk.blocks_available()),
        total: bytes(disk.blocks()),
        inodes_free: disk.files_available(),
        inodes: disk.files(),
    })
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
