//! What was learnt of guests' kernels, kept on disk between looks: a file for each guest.
//!
//! Losing one costs no more than another first look. So nothing is synced, whatever cannot be read is
//! as good as not there, and what is too much is removed, the oldest first.

use crate::base::limits;
use crate::kernel::learnt::Learnt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What was kept of a guest's kernel, if it is whole and of this version.
pub(super) fn read(path: &Path) -> Option<Learnt> {
    let mut bytes = Vec::new();
    let most = limits::LEARNT_BYTES as u64 + 1;
    File::open(path).ok()?.take(most).read_to_end(&mut bytes).ok()?;
    (bytes.len() <= limits::LEARNT_BYTES).then(|| Learnt::read(&bytes))?
}

/// Keeps it, in place of what was kept before.
pub(super) fn keep(path: &Path, learnt: &Learnt) {
    if let Err(error) = write(path, &learnt.to_bytes()) {
        tracing::debug!(%error, path = %path.display(), "what was learnt of a kernel is not kept");
    }
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if bytes.len() > limits::LEARNT_BYTES {
        return Err(io::Error::other("it is larger than that of any known kernel"));
    }
    let directory = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(directory)?;
    // Whoever reads it meanwhile sees the old one or the new one.
    let beside = path.with_extension("new");
    fs::write(&beside, bytes)?;
    fs::rename(&beside, path)?;
    forget_oldest(directory)
}

fn forget_oldest(directory: &Path) -> io::Result<()> {
    let mut files: Vec<(SystemTime, PathBuf)> = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        files.push((entry.metadata()?.modified()?, entry.path()));
    }
    files.sort();
    let excess = files.len().saturating_sub(limits::LEARNT_KERNELS);
    files.iter().take(excess).try_for_each(|(_, path)| fs::remove_file(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::learnt::tests::sample;
    use std::time::Duration;

    #[test]
    fn what_is_kept_is_read_until_it_is_damaged() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("kernels/web");
        assert_eq!(read(&path), None);
        keep(&path, sample());
        assert_eq!(read(&path).as_ref(), Some(sample()));
        let whole = fs::read(&path).unwrap();
        assert!(whole.len() < limits::LEARNT_BYTES / 2);
        fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        assert_eq!(read(&path), None);
        fs::write(&path, vec![b'x'; limits::LEARNT_BYTES + 1]).unwrap();
        assert_eq!(read(&path), None);
        keep(&path, sample());
        assert_eq!(read(&path).as_ref(), Some(sample()));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn where_nothing_can_be_kept_nothing_is() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().join("web");
        keep(&path, sample());
        assert_eq!(read(&path), None);
        let large = vec![b'x'; limits::LEARNT_BYTES + 1];
        assert!(write(&file.path().with_extension("large"), &large).is_err());
        assert!(!file.path().with_extension("large").exists());
    }

    #[test]
    fn the_oldest_goes_when_there_are_too_many() {
        let place = tempfile::tempdir().unwrap();
        let path = |number: usize| place.path().join(format!("app-{number}"));
        for number in 0..limits::LEARNT_KERNELS + 2 {
            let file = File::create(path(number)).unwrap();
            let age = Duration::from_secs(if number == 7 { 9000 } else { 1000 + number as u64 });
            file.set_modified(file.metadata().unwrap().modified().unwrap() - age).unwrap();
        }
        keep(&place.path().join("web"), sample());
        let left = fs::read_dir(place.path()).unwrap().count();
        assert_eq!(left, limits::LEARNT_KERNELS);
        assert!(!path(7).exists() && !path(limits::LEARNT_KERNELS + 1).exists());
        assert!(path(0).exists() && place.path().join("web").exists());
    }
}
