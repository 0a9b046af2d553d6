//! The file of a dump: it grows from its beginning, and gets its name when it is whole.
//!
//! What is behind the last byte that the index knows to be on the disk is not believed after a restart,
//! for a power cut may have left anything there. Its digest is computed as it grows; after a restart
//! what is here is read again, a part with each message, so that no device waits long for another's dump.

use super::{StoreError, Wanted};
use crate::base::id::{DeviceId, Digest};
use crate::base::limits;
use crate::base::time::Timestamp;
use crate::controller::transfer::{Piece, continues};
use ring::digest::{Context, SHA256};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// What is read at once.
const PIECE: usize = 256 * 1024;

/// A dump that comes in.
pub struct Growing {
    part: PathBuf,
    whole: PathBuf,
    /// When it was asked for. What was asked for anew begins anew.
    asked: Timestamp,
    len: u64,
    hashed: u64,
    hash: Context,
}

impl Growing {
    /// What is here of a dump: as much of the file as the index knows of.
    ///
    /// # Errors
    ///
    /// When the file cannot be had.
    pub fn open(directory: &Path, wanted: &Wanted) -> io::Result<Self> {
        let home = directory.join(wanted.device.as_str());
        DirBuilder::new().recursive(true).mode(0o700).create(&home)?;
        let (part, whole) = paths(directory, &wanted.device, wanted.digest);
        // One that was finished, but nobody has noted it.
        let is_whole = whole.exists();
        if is_whole {
            fs::rename(&whole, &part)?;
        }
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).mode(0o600).open(&part)?;
        let there = file.metadata()?.len();
        let len = there.min(if is_whole { wanted.bytes } else { wanted.held });
        file.set_len(len)?;
        File::open(&home)?.sync_all()?;
        let asked = wanted.asked_at;
        Ok(Self { part, whole, asked, len, hashed: 0, hash: Context::new(&SHA256) })
    }

    /// Whether it is what came of this wish.
    #[must_use]
    pub fn is_of(&self, wanted: &Wanted) -> bool {
        self.asked == wanted.asked_at
    }

    /// How much is here.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "nobody asks whether a file is empty")]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Takes of a piece what continues it. After an error it is as before.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn append(&mut self, piece: &Piece) -> io::Result<()> {
        let data = continues(self.len, piece);
        if data.is_empty() {
            return Ok(());
        }
        OpenOptions::new().write(true).open(&self.part)?.write_all_at(data, self.len)?;
        if self.hashed == self.len {
            self.hash.update(data);
            self.hashed += data.len() as u64;
        }
        self.len += data.len() as u64;
        Ok(())
    }

    /// Reads more of what was here when it was opened.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn read_again(&mut self) -> io::Result<()> {
        let end = self.len.min(self.hashed + limits::DUMP_REREAD_BYTES);
        if self.hashed == end {
            return Ok(());
        }
        let file = File::open(&self.part)?;
        let mut piece = vec![0; PIECE];
        while self.hashed < end {
            let most = usize::try_from(end - self.hashed).map_or(PIECE, |left| left.min(PIECE));
            file.read_exact_at(&mut piece[..most], self.hashed)?;
            self.hash.update(&piece[..most]);
            self.hashed += most as u64;
        }
        Ok(())
    }

    /// Its digest, once all that is here was read.
    #[must_use]
    pub fn digest(&self) -> Option<Digest> {
        let digest = self.hash.clone().finish();
        (self.hashed == self.len).then_some(())?;
        Digest::try_from(digest.as_ref()).ok()
    }

    /// Brings what is here to the disk.
    ///
    /// # Errors
    ///
    /// When the disk fails.
    pub fn sync(&self) -> io::Result<()> {
        File::open(&self.part)?.sync_all()
    }

    /// Gives it its name. It is on the disk when this returns.
    ///
    /// # Errors
    ///
    /// When the disk fails.
    pub fn finish(&self) -> io::Result<()> {
        self.sync()?;
        fs::rename(&self.part, &self.whole)?;
        File::open(self.whole.parent().unwrap_or(Path::new(".")))?.sync_all()
    }
}

/// Where the dumps are.
pub(super) fn directory(data: &Path) -> PathBuf {
    data.join("dumps")
}

/// A device's name is a word, so it leads nowhere else.
fn paths(directory: &Path, device: &DeviceId, digest: Digest) -> (PathBuf, PathBuf) {
    let home = directory.join(device.as_str());
    (home.join(format!("{digest}.part")), home.join(digest.to_string()))
}

/// Removes what is here of a dump; that nothing is here is no error.
///
/// # Errors
///
/// When a file cannot be removed.
pub fn remove(data: &Path, device: &DeviceId, digest: Digest) -> Result<(), StoreError> {
    let (part, whole) = paths(&directory(data), device, digest);
    for path in [part, whole] {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(StoreError::file("remove", &path)(error));
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// Copies a dump into a new file, and says what was copied.
///
/// # Errors
///
/// When it cannot be read or written.
pub fn save(data: &Path, wanted: &Wanted, to: &Path) -> Result<Digest, StoreError> {
    let (_, whole) = paths(&directory(data), &wanted.device, wanted.digest);
    let mut from = File::open(&whole).map_err(StoreError::file("open", &whole))?;
    let failed = StoreError::file("write", to);
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(to).map_err(&failed)?;
    let (mut hash, mut piece) = (Context::new(&SHA256), vec![0; PIECE]);
    loop {
        let count = from.read(&mut piece).map_err(StoreError::file("read", &whole))?;
        if count == 0 {
            break;
        }
        hash.update(&piece[..count]);
        file.write_all(&piece[..count]).map_err(&failed)?;
    }
    file.sync_all().map_err(&failed)?;
    Digest::try_from(hash.finish().as_ref()).map_err(|_| StoreError::Corrupt("digest"))
}

/// The files below a directory that are dumps, or parts of some: whose, and which.
pub(super) fn list(directory: &Path) -> io::Result<Vec<(DeviceId, Digest)>> {
    let mut found = Vec::new();
    let homes = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        homes => homes?,
    };
    for home in homes {
        let home = home?;
        let Some(Ok(device)) = home.file_name().to_str().map(str::parse::<DeviceId>) else {
            continue;
        };
        for file in fs::read_dir(home.path())? {
            let name = file?.file_name();
            let name = name.to_str().map(|name| name.strip_suffix(".part").unwrap_or(name));
            found.extend(
                name.and_then(|name| name.parse().ok()).map(|digest| (device.clone(), digest)),
            );
        }
    }
    Ok(found)
}
