//! A dump in a file: `dump-guest-memory` without compression, or bare RAM as `pmemsave` writes it.

use super::elf::{self, ElfError};
use super::{Piece, Ram};
use crate::kernel::machine::Registers;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// What `dump-guest-memory` writes when it compresses begins so.
const COMPRESSED: [&[u8]; 2] = [b"makedumpfile", b"KDUMP   "];

/// An open dump.
#[derive(Debug)]
pub struct Dump {
    /// The RAM in it.
    pub ram: Ram,
    /// Its CPUs, in order. Bare RAM has none.
    pub cpus: Vec<Registers>,
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
    /// It is one, but packed.
    #[error(
        "{path} is a compressed dump, which is not read yet: write it with `dump-guest-memory` and no `format`"
    )]
    Compressed {
        /// The file.
        path: PathBuf,
    },
    /// It is something else.
    #[error("{path} is no dump of a guest")]
    Elf {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: ElfError,
    },
}

impl Dump {
    /// Opens a dump.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or is none.
    pub fn open(path: &Path) -> Result<Self, DumpError> {
        let failed = |source| DumpError::Read { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len();
        let head = read(&file, 0, elf::HEAD_BYTES as u64).map_err(failed)?;
        if COMPRESSED.iter().any(|begin| head.starts_with(begin)) {
            return Err(DumpError::Compressed { path: path.to_owned() });
        }
        let file = Rc::new(file);
        if !elf::is_elf(&head) {
            let piece = Piece { guest: 0..bytes, file, offset: 0 };
            return Ok(Self { ram: Ram::of_pieces(vec![piece]), cpus: Vec::new() });
        }
        let wrong = |source| DumpError::Elf { path: path.to_owned(), source };
        let layout = elf::layout(&head).map_err(wrong)?;
        let mut cpus = Vec::new();
        for notes in layout.notes {
            let most = (notes.end - notes.start).min(elf::NOTES_BYTES);
            let notes = read(&file, notes.start, most).map_err(failed)?;
            cpus.extend(elf::registers(layout.machine, &notes));
        }
        let loads = layout.loads.into_iter();
        let pieces = loads.map(|(guest, offset)| Piece { guest, file: Rc::clone(&file), offset });
        Ok(Self { ram: Ram::of_pieces(pieces.collect()), cpus })
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
    use super::*;
    use crate::base::chain::Chain;
    use crate::kernel::memory::Memory;

    fn write(bytes: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        file
    }

    #[test]
    fn dumps_of_both_kinds_are_read() {
        let file = write(&elf::tests::sample(b"the guest's bytes"));
        let dump = Dump::open(file.path()).unwrap();
        let mut read = [0; 5];
        dump.ram.read((1 << 20) + 4, &mut read).unwrap();
        assert_eq!(&read, b"guest");
        assert_eq!(dump.cpus.len(), 1);

        let file = write(b"bare bytes");
        let dump = Dump::open(file.path()).unwrap();
        dump.ram.read(5, &mut read).unwrap();
        assert_eq!((&read, dump.cpus.len()), (b"bytes", 0));
    }

    #[test]
    fn what_is_none_is_told() {
        let told = |bytes: &[u8]| {
            let file = write(bytes);
            let error = Dump::open(file.path()).unwrap_err();
            Chain(&error).to_string().replace(file.path().to_str().unwrap(), "FILE")
        };
        let all = [told(b"KDUMP   .."), told(b"\x7fELF\x01"), told(&elf::tests::sample(b"")[..90])];
        insta::assert_snapshot!(all.join("\n"));
        let error = Dump::open(Path::new("/nowhere")).unwrap_err();
        assert_eq!(error.to_string(), "failed to read /nowhere");
    }
}
