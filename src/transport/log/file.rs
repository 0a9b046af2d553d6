//! Follows a log file, as `tail -F` does: from its end, over rotation and truncation.

use super::Tap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A file that is followed.
#[derive(Debug)]
pub struct FileTap {
    path: PathBuf,
    /// The file that was last found there, and how far it was read.
    file: Option<(File, u64)>,
}

/// At most so much is read at once; of what a flood brought more, only the end.
const READ_BYTES: u64 = 256 * 1024;

/// What was read.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Piece {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// How many were passed over before them.
    pub missed: u64,
}

impl FileTap {
    /// Follows a file from its end; one that is not there yet, from its beginning.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        let mut tap = Self { path: path.to_owned(), file: None };
        if let Ok(mut file) = File::open(path)
            && let Ok(end) = file.seek(SeekFrom::End(0))
        {
            tap.file = Some((file, end));
        }
        tap
    }
}

impl Tap for FileTap {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn read(&mut self) -> io::Result<Piece> {
        let mut piece = Piece::default();
        if let Some((file, place)) = &mut self.file {
            piece.read_on(file, place)?;
        }
        let there = match std::fs::metadata(&self.path) {
            Ok(there) => there,
            // What is still written to a file without a name is heard as well.
            Err(_) if !piece.bytes.is_empty() => return Ok(piece),
            Err(error) => return Err(error),
        };
        let same = self
            .file
            .as_ref()
            .map(|(file, _)| file.metadata())
            .transpose()?
            .is_some_and(|ours| (ours.dev(), ours.ino()) == (there.dev(), there.ino()));
        if !same {
            // It was rotated, and what was written to the old one meanwhile is read by now.
            let mut file = File::open(&self.path)?;
            let mut place = 0;
            piece.read_on(&mut file, &mut place)?;
            self.file = Some((file, place));
        }
        Ok(piece)
    }
}

impl Piece {
    fn read_on(&mut self, file: &mut File, place: &mut u64) -> io::Result<()> {
        let length = file.metadata()?.len();
        if length < *place {
            // It was truncated and begins anew.
            *place = 0;
        }
        let excess = (length - *place).saturating_sub(READ_BYTES);
        self.missed += excess;
        file.seek(SeekFrom::Start(*place + excess))?;
        let read = file.take(READ_BYTES).read_to_end(&mut self.bytes)?;
        *place += excess + read as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn append(path: &Path, text: &str) {
        let mut file = File::options().create(true).append(true).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn read(tap: &mut FileTap) -> String {
        let piece = tap.read().unwrap();
        assert_eq!(piece.missed, 0);
        String::from_utf8(piece.bytes).unwrap()
    }

    #[test]
    fn it_begins_at_the_end_and_follows() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("console.log");
        append(&path, "old\n");
        let mut tap = FileTap::new(&path);
        assert_eq!(read(&mut tap), "");
        append(&path, "new");
        assert_eq!(read(&mut tap), "new");
        append(&path, "er\n");
        assert_eq!(read(&mut tap), "er\n");
    }

    #[test]
    fn rotation_loses_nothing() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("console.log");
        append(&path, "old\n");
        let mut tap = FileTap::new(&path);
        append(&path, "last\n");
        std::fs::rename(&path, place.path().join("console.log.1")).unwrap();
        append(&path, "first\n");
        assert_eq!(read(&mut tap), "last\nfirst\n");
        append(&path, "second\n");
        assert_eq!(read(&mut tap), "second\n");
    }

    #[test]
    fn a_truncated_file_begins_anew() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("console.log");
        append(&path, "a long line of the past\n");
        let mut tap = FileTap::new(&path);
        File::create(&path).unwrap();
        append(&path, "new\n");
        assert_eq!(read(&mut tap), "new\n");
    }

    #[test]
    fn a_file_may_come_later_and_go() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("console.log");
        let mut tap = FileTap::new(&path);
        assert_eq!(tap.read().unwrap_err().kind(), io::ErrorKind::NotFound);
        append(&path, "hello\n");
        assert_eq!(read(&mut tap), "hello\n");
        append(&path, "bye\n");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(read(&mut tap), "bye\n");
        assert_eq!(tap.read().unwrap_err().kind(), io::ErrorKind::NotFound);
        append(&path, "again\n");
        assert_eq!(read(&mut tap), "again\n");
    }

    #[test]
    fn of_a_flood_only_the_end_is_read() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("console.log");
        append(&path, "");
        let mut tap = FileTap::new(&path);
        append(&path, &"x".repeat(300 * 1024));
        append(&path, "end\n");
        let piece = tap.read().unwrap();
        assert_eq!(piece.bytes.len() as u64, READ_BYTES);
        assert_eq!(piece.missed, 300 * 1024 + 4 - READ_BYTES);
        assert!(piece.bytes.ends_with(b"end\n"));
    }
}
