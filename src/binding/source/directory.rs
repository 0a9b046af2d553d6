//! A directory of small files that others replace: read when they are new, kept when they are torn.

use crate::base::limits;
use crate::base::time::{Clock, Timestamp};
use crate::rules::Birth;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A state file of one machine is some 10 KiB; libvirt's, with all capabilities, some 30.
const FILE_BYTES: u64 = 1024 * 1024;

/// Files that are read in one directory: every app, and as many that are none or that left.
const NAMES_MAX: usize = 4 * limits::APPS;

/// The files of a directory, and what they mean.
pub(super) struct Directory<T> {
    path: PathBuf,
    suffix: &'static str,
    parse: fn(&[u8]) -> Result<T, String>,
    files: BTreeMap<OsString, Known<T>>,
}

/// One file.
struct Known<T> {
    birth: Birth,
    size: u64,
    /// It was read so long after it was written that another writing would show.
    settled: bool,
    /// What it meant when it could last be understood.
    value: Option<T>,
    /// Why it cannot be understood now.
    problem: Option<String>,
}

impl<T> Directory<T> {
    /// The files whose name ends like this. `parse` says why it does not understand one, in words
    /// that hold nothing of its content, which may be secret.
    pub(super) fn new(
        path: PathBuf,
        suffix: &'static str,
        parse: fn(&[u8]) -> Result<T, String>,
    ) -> Self {
        Self { path, suffix, parse, files: BTreeMap::new() }
    }

    /// The directory.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Looks again. Files that are the same are not read again.
    pub(super) fn look(&mut self, problems: &mut Vec<String>) {
        let names = match self.names() {
            Ok(names) => names,
            // A service that has not published anything yet has no directory.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                problems.push(format!("{} cannot be read: {error}", self.path.display()));
                return;
            }
        };
        if names.len() >= NAMES_MAX {
            let path = self.path.display();
            problems
                .push(format!("{path} has more than {NAMES_MAX} files; the others are not read"));
        }
        let mut before = std::mem::take(&mut self.files);
        for name in names {
            let known = before.remove(&name);
            if let Some(known) = self.read(&self.path.join(&name), known) {
                self.files.insert(name, known);
            }
        }
        let told = self.files.iter().filter_map(|(name, known)| {
            let problem = known.problem.as_ref()?;
            Some(format!("{}: {problem}", self.path.join(name).display()))
        });
        problems.extend(told);
    }

    fn names(&self) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            let fits = name.to_str().is_some_and(|name| name.ends_with(self.suffix));
            if fits {
                names.push(name);
            }
            if names.len() >= NAMES_MAX {
                break;
            }
        }
        names.sort();
        Ok(names)
    }

    /// `None`: it is gone.
    fn read(&self, path: &Path, known: Option<Known<T>>) -> Option<Known<T>> {
        let about = fs::metadata(path).ok()?;
        let (birth, size) = (Birth::of(&about), about.size());
        let before = match known {
            Some(known)
                if known.settled
                    && known.problem.is_none()
                    && (known.birth, known.size) == (birth, size) =>
            {
                return Some(known);
            }
            known => known.and_then(|known| known.value),
        };
        let settled = is_settled(birth, Clock::wall());
        match read_file(path).and_then(|bytes| (self.parse)(&bytes)) {
            Ok(value) => Some(Known { birth, size, settled, value: Some(value), problem: None }),
            Err(problem) => {
                Some(Known { birth, size, settled, value: before, problem: Some(problem) })
            }
        }
    }

    /// What the files mean, as far as they could ever be understood.
    pub(super) fn values(&self) -> impl Iterator<Item = (&OsString, &T)> {
        self.files.iter().filter_map(|(name, known)| Some((name, known.value.as_ref()?)))
    }
}

/// The time of a file goes in steps of some milliseconds, and two writings within one step look the
/// same. A clock that was set back makes files look young, and they are read more often: no harm.
fn is_settled(birth: Birth, now: Timestamp) -> bool {
    const STEP_NS: i128 = 100_000_000;
    i128::from(now.as_millis()) * 1_000_000 - birth.modified_ns > STEP_NS
}

/// Reads one file whole, within bounds.
pub(super) fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    let unread = |error: io::Error| format!("cannot be read: {error}");
    // Looked at before it is opened: a pipe would hold us up.
    if !fs::metadata(path).map_err(unread)?.is_file() {
        return Err("is no plain file".to_owned());
    }
    let file = File::open(path).map_err(unread)?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES + 1).read_to_end(&mut bytes).map_err(unread)?;
    if bytes.len() as u64 > FILE_BYTES { Err("is too large".to_owned()) } else { Ok(bytes) }
}

/// Which file or socket stands under this name.
pub(super) fn birth(path: &Path) -> Option<Birth> {
    fs::metadata(path).ok().map(|about| Birth::of(&about))
}

impl Birth {
    fn of(about: &fs::Metadata) -> Self {
        let modified_ns =
            i128::from(about.mtime()) * 1_000_000_000 + i128::from(about.mtime_nsec());
        Self { inode: about.ino(), modified_ns }
    }
}
