//! A dump in a file, of whichever kind its first bytes say: what `dump-guest-memory` writes, compressed or
//! not, what `makedumpfile` writes, or bare RAM as of `pmemsave`.

use super::elf::{self, ElfError};
use super::flat::{self, Flat};
use super::kdump::{self, Kdump, KdumpError};
use super::{Piece, Ram};
use crate::kernel::machine::Registers;
use crate::kernel::memory::Memory;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Bare RAM is whole pages.
const PAGE: u64 = 4096;

/// An open dump.
pub struct Dump {
    /// The RAM in it.
    pub ram: Box<dyn Memory>,
    /// Its CPUs, in order. Bare RAM has none.
    pub cpus: Vec<Registers>,
    /// Whether it is seen to be all there.
    pub is_whole: bool,
}

/// Why a dump cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// The disk says no.
    #[error("failed to read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It says that it is one, and is not quite.
    #[error("{path} is no dump of a guest")]
    Elf {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: ElfError,
    },
    /// It is one that cannot be unpacked.
    #[error("{path} is a compressed dump that cannot be read")]
    Kdump {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: KdumpError,
    },
    /// It is something else.
    #[error(
        "{path} is no dump of a guest: it is neither ELF nor compressed, and bare RAM is whole pages of 4 KiB"
    )]
    Other {
        /// The file.
        path: PathBuf,
    },
}

impl Dump {
    /// Opens a dump.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or is none.
    pub fn open(path: &Path) -> Result<Self, DumpError> {
        let owned = || path.to_owned();
        let failed = |source| DumpError::Read { path: owned(), source };
        let file = File::open(path).map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len();
        let head = read(&file, 0, elf::HEAD_BYTES as u64).map_err(failed)?;
        if flat::is_flattened(&head) || kdump::is_kdump(&head) {
            let flat = Flat::open(file, &head).map_err(failed)?;
            let opened = Kdump::open(flat);
            let (ram, cpus) =
                opened.map_err(|source| DumpError::Kdump { path: owned(), source })?;
            let is_whole = ram.is_whole();
            return Ok(Self { ram: Box::new(ram), cpus, is_whole });
        }
        if elf::is_elf(&head) {
            return Self::of_elf(path, file, &head);
        }
        if bytes == 0 || bytes % PAGE != 0 {
            return Err(DumpError::Other { path: owned() });
        }
        let piece = Piece { guest: 0..bytes, file: Rc::new(file), offset: 0 };
        let ram = Box::new(Ram::of_pieces(vec![piece]));
        Ok(Self { ram, cpus: Vec::new(), is_whole: true })
    }

    fn of_elf(path: &Path, file: File, head: &[u8]) -> Result<Self, DumpError> {
        let failed = |source| DumpError::Read { path: path.to_owned(), source };
        let wrong = |source| DumpError::Elf { path: path.to_owned(), source };
        let bytes = file.metadata().map_err(failed)?.len();
        let layout = elf::layout(head).map_err(wrong)?;
        let mut cpus = Vec::new();
        for notes in layout.notes {
            let most = (notes.end - notes.start).min(elf::NOTES_BYTES);
            let notes = read(&file, notes.start, most).map_err(failed)?;
            cpus.extend(elf::registers(layout.machine, &notes));
        }
        let is_there = |(guest, offset): &(Range<u64>, u64)| {
            guest.end - guest.start <= bytes.saturating_sub(*offset)
        };
        let is_whole = layout.loads.iter().all(is_there);
        let file = Rc::new(file);
        let loads = layout.loads.into_iter();
        let pieces = loads.map(|(guest, offset)| Piece { guest, file: Rc::clone(&file), offset });
        Ok(Self { ram: Box::new(Ram::of_pieces(pieces.collect())), cpus, is_whole })
    }
}

/// As much of it as there is.
fn read(file: &File, at: u64, bytes: u64) -> io::Result<Vec<u8>> {
    let there = file.metadata()?.len().saturating_sub(at).min(bytes);
    let mut into = vec![0; usize::try_from(there).unwrap_or_default()];
    file.read_exact_at(&mut into, at)?;
    Ok(into)
}

#[cfg(test)]
mod tests {
    use super::super::flat::tests::flattened;
    use super::super::kdump::tests as images;
    use super::*;
    use crate::base::chain::Chain;

    fn write(bytes: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        file
    }

    /// What a dump has behind 1 MiB, its CPUs, and whether it is whole.
    fn seen(bytes: &[u8]) -> (String, usize, bool) {
        let dump = Dump::open(write(bytes).path()).unwrap();
        let mut read = [0; 5];
        dump.ram.read((1 << 20) + 4, &mut read).unwrap();
        (String::from_utf8(read.to_vec()).unwrap(), dump.cpus.len(), dump.is_whole)
    }

    #[test]
    fn dumps_of_all_kinds_are_read() {
        let text = b"the guest's bytes";
        let guest = "guest".to_owned();
        let elf = elf::tests::sample(text);
        assert_eq!(seen(&elf), (guest.clone(), 1, true));
        assert_eq!(seen(&elf[..elf.len() - 1]), (guest.clone(), 1, false));
        let compressed = images::sample(text);
        assert_eq!(seen(&compressed), (guest.clone(), 1, true));
        let cut = Dump::open(write(&compressed[..compressed.len() - 1]).path()).unwrap();
        assert!(!cut.is_whole);
        let (first, rest) = compressed.split_at(5000);
        let flat = flattened(&[(0, first), (5000, rest)]);
        assert_eq!(seen(&flat), (guest.clone(), 1, true));
        assert_eq!(seen(&flat[..flat.len() - 1]), (guest.clone(), 1, false));
        let mut bare = vec![0; 1 << 20];
        bare.extend(text);
        bare.resize((1 << 20) + 4096, 0);
        assert_eq!(seen(&bare), (guest, 0, true));
    }

    #[test]
    fn what_is_none_is_told() {
        let told = |bytes: &[u8]| {
            let file = write(bytes);
            let error = Dump::open(file.path()).err().unwrap();
            Chain(&error).to_string().replace(file.path().to_str().unwrap(), "FILE")
        };
        let all = [
            told(b""),
            told(b"text of somebody's"),
            told(b"\x7fELF\x01"),
            told(&elf::tests::sample(b"")[..90]),
            told(b"KDUMP   .."),
            told(&images::refused(2, 0)),
            told(&images::refused(4, 0)),
            told(&images::refused(1, 1)),
            told(&images::sample(b"")[..9000]),
            told(&flattened(&[(0, b"\x7fELF")])),
        ];
        insta::assert_snapshot!(all.join("\n"));
        let error = Dump::open(Path::new("/nowhere")).err().unwrap();
        assert_eq!(error.to_string(), "failed to read /nowhere");
    }
}
