//! Where `/proc`, `/sys` and `/dev` are read: at `/`, and in tests in a recorded tree.

use crate::base::limits;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::PathBuf;

/// The directory that stands for `/`.
#[derive(Clone, Debug)]
pub(super) struct Root(PathBuf);

impl Root {
    pub(super) fn new(directory: impl Into<PathBuf>) -> Self {
        Self(directory.into())
    }

    /// An absolute path in this tree.
    pub(super) fn path(&self, absolute: &str) -> PathBuf {
        self.0.join(absolute.trim_start_matches('/'))
    }

    /// A file, so far as any is read.
    pub(super) fn text(&self, absolute: &str) -> io::Result<String> {
        let mut bytes = Vec::new();
        let file = File::open(self.path(absolute))?;
        file.take(limits::HOST_FILE_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The line of a file that has one.
    pub(super) fn line(&self, absolute: &str) -> Option<String> {
        Some(self.text(absolute).ok()?.trim().to_owned())
    }

    /// The number that a file consists of.
    pub(super) fn number<T: std::str::FromStr>(&self, absolute: &str) -> Option<T> {
        self.line(absolute)?.parse().ok()
    }

    /// The last part of what a link leads to.
    pub(super) fn link_name(&self, absolute: &str) -> Option<String> {
        let target = fs::read_link(self.path(absolute)).ok()?;
        Some(target.file_name()?.to_str()?.to_owned())
    }

    /// Names in a directory, in order; no more than `limit`.
    pub(super) fn names(&self, absolute: &str, limit: usize) -> io::Result<Vec<String>> {
        let entries = fs::read_dir(self.path(absolute))?;
        let mut names: Vec<String> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .take(limit)
            .collect();
        names.sort_unstable();
        Ok(names)
    }
}

/// The number behind a word at the start of a line: `nr_throttled 12`, `MemTotal:  7 kB`.
pub(super) fn field(text: &str, word: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| {
        line.strip_prefix(word).filter(|rest| rest.starts_with(char::is_whitespace))
    })?;
    rest.split_whitespace().next()?.parse().ok()
}
