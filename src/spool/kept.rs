//! Dumps of guests' memory, kept on the device until somebody asks for one.
//!
//! A dump is as large as its guest and never sent by itself, so it is no parcel: it has a directory, a
//! quota and a floor of free space of its own. It is written by the hypervisor, into a file that we
//! open and hand over.
//!
//! ```text
//!   begin --> NAME.part --the hypervisor writes--> finish --> NAME.json, NAME.part --> NAME.dump
//!               |                                                 (each synced, in that order)
//!               +--> gone, if it is not finished
//! ```
//!
//! What holds after a crash at any point: a `.dump` is whole, and beside it stands what is known of it.
//! A `.part` is locked by whoever has it open. The hypervisor has the same open file, so the lock
//! outlives an agent that is killed until the hypervisor has come to its end; whoever opens the store
//! after that removes what is not locked.
//!
//! Several processes may have a store open: the agent, and a person who captures by hand.

mod room;

use super::files::{self, Room};
use crate::base::id::{Digest, DumpName};
use crate::base::limits;
use crate::base::time::Timestamp;
use room::{Bounds, Held};
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use tracing::warn;

const PART: &str = "part";
const WHOLE: &str = "dump";
const KNOWN: &str = "json";

/// How much of what is known of a dump is read: it is written with a tenth of that.
const KNOWN_BYTES: u64 = 4096;

/// What a store may hold.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Quota {
    /// Bytes; if nobody says: [`limits::KEPT_BYTES`], or a tenth of the disk where that is less.
    pub bytes: Option<u64>,
    /// Dumps.
    pub dumps: usize,
}

/// A store. It remembers nothing: what is on the disk is looked up each time.
#[derive(Clone, Debug)]
pub struct Kept {
    directory: PathBuf,
    quota: Quota,
    free_percent: u8,
}

/// What is known of a dump.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Item {
    /// Its name.
    pub name: DumpName,
    /// Whose memory it is, as people call the app.
    pub app: String,
    /// When it was begun.
    pub taken: Timestamp,
    /// How large it is.
    pub bytes: u64,
    /// Its SHA-256.
    pub sha256: Digest,
    /// The hypervisor's word for how it is written.
    pub format: String,
    /// How much RAM the guest has.
    pub ram: u64,
}

/// What only whoever took a dump can tell of it.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Whose memory it is.
    pub app: String,
    /// When it was begun.
    pub taken: Timestamp,
    /// The hypervisor's word for how it is written.
    pub format: String,
    /// How much RAM the guest has.
    pub ram: u64,
}

/// A dump that is being written. Whoever drops it gives it up.
#[derive(Debug)]
pub struct Begun {
    file: File,
    store: PathBuf,
    name: DumpName,
    is_whole: bool,
}

/// Why no dump is begun. No guest was stopped yet.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// It may not fit, however empty the store is.
    #[error(
        "the dump may have {}, and {} are set apart for dumps; raise `quota` of `dumps` in the \
         agent's config", Mib(*.worst), Mib(*.quota)
    )]
    Large {
        /// What it may have.
        worst: u64,
        /// What all may have.
        quota: u64,
    },
    /// Others are being written, and will need the room.
    #[error(
        "the dump may have {}, and {} of the {} that are set apart are being written; capture again \
         later", Mib(*.worst), Mib(*.begun), Mib(*.quota)
    )]
    Busy {
        /// What it may have.
        worst: u64,
        /// What others have.
        begun: u64,
        /// What all may have.
        quota: u64,
    },
    /// The disk has no room.
    #[error(
        "the dump may have {}; the disk has {} free, of which {} must stay free; remove what fills it",
        Mib(*.worst), Mib(*.free), Mib(*.floor)
    )]
    Disk {
        /// What it may have.
        worst: u64,
        /// What is free.
        free: u64,
        /// What must stay free.
        floor: u64,
    },
    /// The disk fails, or there is one of that name.
    #[error("failed to make the file {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Bytes as people read them, rounded up: what is short of a MiB is not "0 MiB".
struct Mib(u64);

impl std::fmt::Display for Mib {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} MiB", self.0.div_ceil(1 << 20))
    }
}

// === impl Quota, Kept ===

impl Quota {
    /// What a device gives by default.
    pub const STANDARD: Self = Self { bytes: None, dumps: limits::KEPT_DUMPS };
}

impl Kept {
    /// Opens a directory, makes it if need be, and removes what an earlier run did not finish.
    ///
    /// # Errors
    ///
    /// When the directory cannot be had.
    pub fn open(directory: &Path, quota: Quota, free_percent: u8) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let kept = Self { directory: directory.to_owned(), quota, free_percent };
        kept.clear()?;
        Ok(kept)
    }

    /// The dumps, oldest first. One of which nothing is known any more is passed over.
    ///
    /// # Errors
    ///
    /// When the directory cannot be read.
    pub fn list(&self) -> io::Result<Vec<Item>> {
        let mut items = Vec::new();
        for name in self.names(WHOLE)? {
            match self.item(&name) {
                Ok(item) => items.push(item),
                Err(error) => {
                    warn!(%name, %error, "a dump is not listed: what is known of it cannot be read");
                }
            }
        }
        items.sort_by(|a, b| (a.taken, &a.name).cmp(&(b.taken, &b.name)));
        Ok(items)
    }

    /// Opens a dump to read it.
    ///
    /// # Errors
    ///
    /// When there is none of that name.
    pub fn reader(&self, name: &DumpName) -> io::Result<File> {
        File::open(self.path(name, WHOLE))
    }

    /// Removes a dump.
    ///
    /// # Errors
    ///
    /// When there is none of that name, or the disk fails.
    pub fn remove(&self, name: &DumpName) -> io::Result<()> {
        // What stays without it is a file of some hundred bytes that nobody looks at.
        fs::remove_file(self.path(name, WHOLE))?;
        fs::remove_file(self.path(name, KNOWN))
    }

    /// Makes room for a dump of at most `worst` bytes, and a file for it.
    ///
    /// # Errors
    ///
    /// When there is no room, whoever goes.
    pub fn begin(&self, name: DumpName, worst: u64) -> Result<Begun, Refused> {
        let path = self.path(&name, PART);
        let failed = |source| Refused::File { path: path.clone(), source };
        self.clear().map_err(failed)?;
        let gone = self.who_must_go(worst).map_err(failed)??;
        for name in gone {
            warn!(%name, "a dump is removed to make room for another one");
            self.remove(&name).map_err(failed)?;
        }
        if self.path(&name, WHOLE).exists() {
            return Err(failed(io::ErrorKind::AlreadyExists.into()));
        }
        let file = create(&path).map_err(failed)?;
        let store = self.directory.clone();
        let begun = Begun { file, store, name, is_whole: false };
        begun.lock().map_err(failed)?;
        begun.reserve(worst).map_err(failed)?;
        Ok(begun)
    }

    fn who_must_go(&self, worst: u64) -> io::Result<Result<Vec<DumpName>, Refused>> {
        let room = files::room(&self.directory)?;
        let items = self.list()?;
        let dumps: Vec<u64> = items.iter().map(|item| item.bytes).collect();
        // Whatever else is there takes room as well, and is nobody's to remove.
        let others = self.usage()?.saturating_sub(dumps.iter().sum());
        let held = Held { dumps, begun: others };
        let gone = room::make_room(&held, worst, room, self.bounds(room));
        Ok(gone.map(|count| items.into_iter().take(count).map(|item| item.name).collect()))
    }

    fn bounds(&self, room: Room) -> Bounds {
        let standard = limits::KEPT_BYTES.min(room.total / 10);
        Bounds {
            bytes: self.quota.bytes.unwrap_or(standard),
            dumps: self.quota.dumps,
            floor: room.total / 100 * u64::from(self.free_percent),
        }
    }

    /// Bytes of all dumps. One that is being written has already taken all that it may need.
    fn usage(&self) -> io::Result<u64> {
        let mut bytes = 0;
        for ending in [PART, WHOLE] {
            for name in self.names(ending)? {
                let size = fs::metadata(self.path(&name, ending));
                bytes += size.map_or(0, |size| match ending {
                    PART => size.len().max(size.blocks() * 512),
                    _ => size.len(),
                });
            }
        }
        Ok(bytes)
    }

    /// Removes what was begun and nobody writes any more.
    fn clear(&self) -> io::Result<()> {
        self.names(PART)?.iter().try_for_each(|name| self.give_up(name))
    }

    /// Removes what was begun, if nobody writes it any more.
    fn give_up(&self, name: &DumpName) -> io::Result<()> {
        let path = self.path(name, PART);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        if file.try_lock().is_err() {
            return Ok(());
        }
        warn!(%name, "a dump that was not finished is removed");
        fs::remove_file(path)?;
        match fs::remove_file(self.path(name, KNOWN)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn item(&self, name: &DumpName) -> io::Result<Item> {
        let mut known = Vec::new();
        File::open(self.path(name, KNOWN))?.take(KNOWN_BYTES).read_to_end(&mut known)?;
        let item: Item = serde_json::from_slice(&known)?;
        let size = fs::metadata(self.path(name, WHOLE))?.len();
        match item.name == *name && item.bytes == size {
            true => Ok(item),
            false => Err(io::Error::new(io::ErrorKind::InvalidData, "it is of another dump")),
        }
    }

    fn names(&self, ending: &str) -> io::Result<Vec<DumpName>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let name = entry?.file_name();
            let split = name.to_str().and_then(|name| name.rsplit_once('.'));
            let ours = split.filter(|(_, of)| *of == ending);
            names.extend(ours.and_then(|(name, _)| name.parse::<DumpName>().ok()));
        }
        Ok(names)
    }

    fn path(&self, name: &DumpName, ending: &str) -> PathBuf {
        path(&self.directory, name, ending)
    }
}

// === impl Begun ===

impl Begun {
    /// The file, for whoever writes the dump.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The dump is whole: brings it to the disk with what is known of it. Reads all of it once.
    ///
    /// # Errors
    ///
    /// When the disk fails. The dump is gone then.
    pub fn finish(mut self, facts: Facts) -> io::Result<Item> {
        let bytes = self.file.metadata()?.len();
        // What was reserved and not used is given back.
        self.file.set_len(bytes)?;
        self.file.sync_all()?;
        self.file.rewind()?;
        let sha256 = Digest::of_reader(&mut self.file)?;
        let Facts { app, taken, format, ram } = facts;
        let item = Item { name: self.name.clone(), app, taken, bytes, sha256, format, ram };
        let mut known = create(&self.path(KNOWN))?;
        known.write_all(&serde_json::to_vec(&item)?)?;
        known.sync_all()?;
        let directory = File::open(&self.store)?;
        directory.sync_all()?;
        fs::rename(self.path(PART), self.path(WHOLE))?;
        self.is_whole = true;
        directory.sync_all()?;
        Ok(item)
    }

    /// Makes it known that it is being written.
    fn lock(&self) -> io::Result<()> {
        self.file.try_lock()?;
        match self.file.metadata()?.nlink() {
            0 => Err(io::Error::other("another lifesign took it for one that nobody writes")),
            _ => Ok(()),
        }
    }

    /// Takes the room at once, so that nobody else can while the guest stands still. Where the file
    /// system knows no such thing, that there was room has to do.
    fn reserve(&self, bytes: u64) -> io::Result<()> {
        use nix::fcntl::{FallocateFlags, fallocate};
        let bytes = i64::try_from(bytes).map_err(io::Error::other)?;
        match fallocate(&self.file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, bytes) {
            Ok(()) | Err(nix::Error::EOPNOTSUPP) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn path(&self, ending: &str) -> PathBuf {
        path(&self.store, &self.name, ending)
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if !self.is_whole {
            // Whoever still writes it writes into a file that is gone when it is closed.
            for ending in [PART, KNOWN] {
                fs::remove_file(self.path(ending)).ok();
            }
        }
    }
}

/// A dump has whatever the guest had in its memory: it is for nobody else.
fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}

fn path(directory: &Path, name: &DumpName, ending: &str) -> PathBuf {
    directory.join(format!("{name}.{ending}"))
}

#[cfg(test)]
mod tests;
