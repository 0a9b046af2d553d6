//! Sealed bytes as files, named by a digest.
//!
//! A file is written beside its place, brought to the disk, and moved; then the directory is
//! brought to the disk. So a name that exists holds all its bytes, also after a power cut.

use super::StoreError;
use crate::base::id::Digest;
use crate::base::limits;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// A directory of such files.
pub(super) struct Objects {
    directory: PathBuf,
    temporary: PathBuf,
}

impl Objects {
    /// The directory `name` in `data`, made if it is missing.
    pub(super) fn open(data: &Path, name: &str) -> Result<Self, StoreError> {
        let directory = data.join(name);
        fs::create_dir_all(&directory).map_err(StoreError::file("make", &directory))?;
        let temporary = directory.join("incomplete");
        Ok(Self { directory, temporary })
    }

    /// Keeps these bytes under this name; they are on the disk when it returns.
    pub(super) fn put(&self, name: Digest, bytes: &[u8]) -> Result<(), StoreError> {
        let path = path(&self.directory, name);
        let written = File::create(&self.temporary)
            .and_then(|mut file| {
                file.write_all(bytes)?;
                file.sync_all()
            })
            .and_then(|()| fs::rename(&self.temporary, &path))
            .and_then(|()| File::open(&self.directory)?.sync_all());
        written.map_err(StoreError::file("write", &path))
    }

    /// The bytes under this name, if they are there.
    pub(super) fn get(&self, name: Digest) -> Result<Option<Vec<u8>>, StoreError> {
        get(&self.directory, name)
    }

    /// Forgets a name; that it is not there is no error.
    pub(super) fn remove(&self, name: Digest) -> Result<(), StoreError> {
        let path = path(&self.directory, name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(StoreError::file("remove", &path)(error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// The bytes of a file in `directory`, if it is there.
pub(super) fn get(directory: &Path, name: Digest) -> Result<Option<Vec<u8>>, StoreError> {
    let path = path(directory, name);
    let failed = StoreError::file("read", &path);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Vec::new();
    file.take(limits::BUNDLE_BYTES).read_to_end(&mut bytes).map_err(failed)?;
    Ok(Some(bytes))
}

fn path(directory: &Path, name: Digest) -> PathBuf {
    directory.join(name.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_is_there_until_it_is_removed() {
        let data = tempfile::tempdir().unwrap();
        let objects = Objects::open(data.path(), "objects").unwrap();
        let name = Digest::of(b"bytes");
        assert_eq!(objects.get(name).unwrap(), None);
        for _ in 0..2 {
            objects.put(name, b"bytes").unwrap();
        }
        assert_eq!(objects.get(name).unwrap().unwrap(), b"bytes");
        assert_eq!(fs::read_dir(data.path().join("objects")).unwrap().count(), 1);
        for _ in 0..2 {
            objects.remove(name).unwrap();
        }
        assert_eq!(objects.get(name).unwrap(), None);
    }
}
