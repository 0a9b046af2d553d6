//! The dumps of guests' memory that this device keeps: where, and `lifesign dumps`.

use crate::base::document::{Bytes, Node, Notes};
use crate::base::id::{Digest, DumpName};
use crate::base::limits;
use crate::report;
use crate::spool::kept::{Item, Kept, Quota};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// Where they are kept, and how many.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Dumps {
    /// A directory of their own.
    pub directory: PathBuf,
    /// What it may hold.
    pub quota: Quota,
}

/// Why a dump was not copied.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// None of that name.
    #[error("no dump `{0}` is kept; `lifesign dumps` lists them")]
    Unknown(DumpName),
    /// The file is there, or a disk fails.
    #[error("failed to {doing}")]
    File {
        /// The operation.
        doing: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A disk does not give back what it was given.
    #[error("{0} is not what was dumped: its SHA-256 is another one")]
    Damaged(PathBuf),
}

impl Dumps {
    /// Reads the key `dumps` of a config, which may be missing.
    pub(super) fn read(node: Option<&Node>, notes: &Notes, state: &Path) -> Option<Self> {
        let (directory, quota) = (state.join("dumps"), Quota::STANDARD);
        let Some(node) = node else { return Some(Self { directory, quota }) };
        let mut map = node.map(notes)?;
        let directory = map.or("directory", directory);
        let bytes = map.optional::<Bytes>("quota").map(|bytes| bytes.0);
        let count = map.optional::<u32>("count");
        map.finish();
        let count = count.map_or(quota.dumps, |count| usize::try_from(count).unwrap_or(usize::MAX));
        Some(Self { directory: directory?, quota: Quota { bytes, dumps: count } })
    }

    /// Opens the store.
    ///
    /// # Errors
    ///
    /// When its directory cannot be had.
    pub fn open(&self) -> io::Result<Kept> {
        Kept::open(&self.directory, self.quota, limits::DISK_FREE_PERCENT)
    }

    /// Opens the store for captures, which go on without it.
    #[must_use]
    pub fn kept(&self) -> Option<Kept> {
        match self.open() {
            Ok(kept) => Some(kept),
            Err(error) => {
                let directory = self.directory.display();
                tracing::warn!(%error, "dumps cannot be kept in {directory}");
                None
            }
        }
    }
}

/// A line for each dump that is kept.
///
/// # Errors
///
/// When the directory cannot be read.
pub fn lines(kept: &Kept) -> io::Result<Vec<String>> {
    let items = kept.list()?;
    if items.is_empty() {
        return Ok(vec!["no dump is kept".to_owned()]);
    }
    let row = |item: &Item| {
        let mib = |bytes: u64| format!("{} MiB", bytes.div_ceil(1 << 20));
        let Item { name, app, taken, bytes, sha256, format, ram } = item;
        [
            name.to_string(),
            app.clone(),
            taken.to_string(),
            mib(*bytes),
            mib(*ram),
            format.clone(),
            sha256.to_string(),
        ]
    };
    let rows: Vec<[String; 7]> = items.iter().map(row).collect();
    let table =
        report::table(["NAME", "APP", "TAKEN", "SIZE", "OF RAM", "FORMAT", "SHA-256"], &rows);
    Ok(table.lines().map(str::to_owned).collect())
}

/// Copies a dump into a new file, and makes sure that it is the same.
///
/// # Errors
///
/// When there is no such dump, the file exists, or a disk fails.
pub fn copy(kept: &Kept, name: &DumpName, to: &Path) -> Result<u64, Error> {
    let failed = |doing: &str, path: &Path| {
        let doing = format!("{doing} {}", path.display());
        move |source| Error::File { doing, source }
    };
    let listed = kept.list().map_err(failed("list the dumps for", to))?;
    let item = listed.into_iter().find(|item| item.name == *name);
    let item = item.ok_or_else(|| Error::Unknown(name.clone()))?;
    let mut from = kept.reader(name).map_err(failed("open the dump for", to))?;
    let mut file = File::create_new(to).map_err(failed("make", to))?;
    let bytes = io::copy(&mut from, &mut file).map_err(failed("write", to))?;
    file.sync_all().map_err(failed("write", to))?;
    let mut written = File::open(to).map_err(failed("read", to))?;
    match Digest::of_reader(&mut written).map_err(failed("read", to))? == item.sha256 {
        true => Ok(bytes),
        false => Err(Error::Damaged(to.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::Timestamp;
    use crate::spool::kept::Facts;
    use std::io::Write;

    #[test]
    fn dumps_are_listed_and_copied() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("dumps");
        let kept = Dumps { directory, quota: Quota::STANDARD }.open().unwrap();
        assert_eq!(lines(&kept).unwrap(), ["no dump is kept"]);
        let name: DumpName = "web-20231114T221320Z".parse().unwrap();
        let begun = kept.begin(name.clone(), 1 << 20).unwrap();
        begun.file().write_all(b"the memory").unwrap();
        let taken = Timestamp::from_millis(1_700_000_000_000);
        let facts = Facts { app: "web".to_owned(), taken, format: "elf".to_owned(), ram: 1 << 29 };
        begun.finish(facts).unwrap();
        insta::assert_snapshot!(lines(&kept).unwrap().join("\n"));

        let to = place.path().join("copy");
        assert_eq!(copy(&kept, &name, &to).unwrap(), 10);
        assert_eq!(std::fs::read(&to).unwrap(), b"the memory");
        let again = copy(&kept, &name, &to).unwrap_err();
        assert!(again.to_string().starts_with("failed to make"), "{again}");
        let other = copy(&kept, &"db-1".parse().unwrap(), &to).unwrap_err();
        assert_eq!(other.to_string(), "no dump `db-1` is kept; `lifesign dumps` lists them");
        let path = place.path().join("dumps/web-20231114T221320Z.dump");
        std::fs::write(path, b"the m3mory").unwrap();
        let damaged = copy(&kept, &name, &place.path().join("another")).unwrap_err();
        assert!(matches!(damaged, Error::Damaged(_)));
    }
}
