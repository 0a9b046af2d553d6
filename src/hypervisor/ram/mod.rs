//! A guest's RAM from outside: out of the hypervisor's process, or out of a dump.
//!
//! Reading the process neither pauses the guest nor is noticed by it. RAM that is backed by a file is
//! read from the file and not through the process: touching a hole of a mapping would make the host
//! allocate it, a hole of a file is only zeros.

mod dump;
mod elf;
mod flat;
mod kdump;
mod maps;
mod tree;

pub use dump::{Dump, DumpError};
pub use tree::{Slot, extent, slots, virtual_address};

use crate::kernel::memory::{Fault, Memory};
use maps::Mapping;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// RAM as pieces of files.
#[derive(Debug)]
pub struct Ram {
    /// Ascending by guest address, without overlaps.
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug)]
struct Piece {
    guest: Range<u64>,
    file: Rc<File>,
    offset: u64,
}

/// A piece of guest RAM and where it lies in the hypervisor's own memory.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Placed {
    /// Physical addresses in the guest.
    pub guest: Range<u64>,
    /// Where the first of them is in the process.
    pub host: u64,
}

/// Why a process cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RamError {
    /// It is gone, or we may not look at it.
    #[error(
        "failed to read {path}: it takes root, or the hypervisor's own user with ptrace allowed"
    )]
    Process {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What the monitor says does not fit what the process has.
    #[error("process {pid} has nothing mapped at {host:#x}, where the guest's RAM should be")]
    NotThere {
        /// The process.
        pid: u32,
        /// Where.
        host: u64,
    },
    /// Nothing looks like RAM.
    #[error("process {pid} has no mapping that could be a guest's RAM")]
    NoRam {
        /// The process.
        pid: u32,
    },
    /// Reading through the process would allocate what the guest never touched.
    #[error("the guest's RAM is the file {file}, which process {pid} no longer has open")]
    FileGone {
        /// The process.
        pid: u32,
        /// Its name in `/proc/PID/maps`.
        file: String,
    },
}

impl Ram {
    /// The RAM that a process has at these places.
    ///
    /// # Errors
    ///
    /// When the process cannot be read, or has nothing there.
    pub fn of_process(pid: u32, placed: &[Placed]) -> Result<Self, RamError> {
        Self::placed(Process::open(pid, false)?, placed)
    }

    /// The same, for whoever lends the guest something: it can be written as well.
    ///
    /// # Errors
    ///
    /// As [`Ram::of_process`].
    pub fn of_process_to_lend(pid: u32, placed: &[Placed]) -> Result<Self, RamError> {
        Self::placed(Process::open(pid, true)?, placed)
    }

    /// Sets a word of a guest that lends itself to it.
    ///
    /// # Errors
    ///
    /// When there is no RAM, or it was not opened for that.
    pub fn set(&self, at: u64, word: u32) -> Result<(), Fault> {
        let piece = self.piece(at).filter(|piece| piece.guest.end - at >= 4);
        let piece = piece.ok_or(Fault::NoRam(at))?;
        let offset = piece.offset + (at - piece.guest.start);
        let set = piece.file.write_all_at(&word.to_le_bytes(), offset);
        set.map_err(|error| Fault::Source(error.kind()))
    }

    fn placed(process: Process, placed: &[Placed]) -> Result<Self, RamError> {
        let mut pieces = Vec::new();
        for place in placed {
            pieces.extend(process.pieces(place)?);
        }
        Ok(Self::of_pieces(pieces))
    }

    /// The RAM of a process whose monitor cannot be asked, in all the ways in which it may be laid
    /// out, the likeliest first.
    ///
    /// # Errors
    ///
    /// When the process cannot be read, or has nothing that looks like RAM.
    pub fn guesses(pid: u32) -> Result<Vec<Self>, RamError> {
        let process = Process::open(pid, false)?;
        let largest = maps::largest(&process.mappings).ok_or(RamError::NoRam { pid })?;
        let guesses = maps::layouts(largest).into_iter().map(|placed| {
            let pieces: Result<Vec<Vec<Piece>>, RamError> =
                placed.iter().map(|place| process.pieces(place)).collect();
            Ok(Self::of_pieces(pieces?.concat()))
        });
        guesses.collect()
    }

    fn of_pieces(mut pieces: Vec<Piece>) -> Self {
        pieces.sort_by_key(|piece| piece.guest.start);
        // What overlaps is left to the first: a source may lie about its size, but not twice.
        let mut end = 0;
        pieces.retain(|piece| {
            let fits = piece.guest.start >= end && piece.guest.end > piece.guest.start;
            end = if fits { piece.guest.end } else { end };
            fits
        });
        Self { pieces }
    }

    fn piece(&self, at: u64) -> Option<&Piece> {
        let after = self.pieces.partition_point(|piece| piece.guest.start <= at);
        self.pieces[..after].last().filter(|piece| piece.guest.contains(&at))
    }
}

impl Memory for Ram {
    fn read(&self, mut at: u64, mut into: &mut [u8]) -> Result<(), Fault> {
        while !into.is_empty() {
            let piece = self.piece(at).ok_or(Fault::NoRam(at))?;
            let left = usize::try_from(piece.guest.end - at).unwrap_or(usize::MAX);
            let (now, later) = into.split_at_mut(left.min(into.len()));
            let failed = |error: io::Error| Fault::Source(error.kind());
            piece
                .file
                .read_exact_at(now, piece.offset + (at - piece.guest.start))
                .map_err(failed)?;
            at += now.len() as u64;
            into = later;
        }
        Ok(())
    }

    fn ranges(&self) -> Vec<Range<u64>> {
        self.pieces.iter().map(|piece| piece.guest.clone()).collect()
    }
}

/// A process whose memory is open.
struct Process {
    pid: u32,
    is_writable: bool,
    memory: Rc<File>,
    mappings: Vec<Mapping>,
}

impl Process {
    fn open(pid: u32, is_writable: bool) -> Result<Self, RamError> {
        let at = |name: &str| PathBuf::from(format!("/proc/{pid}/{name}"));
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| RamError::Process { path, source }
        };
        let maps = fs::read_to_string(at("maps")).map_err(failed(&at("maps")))?;
        let memory = File::options().read(true).write(is_writable).open(at("mem"));
        let memory = Rc::new(memory.map_err(failed(&at("mem")))?);
        Ok(Self { pid, is_writable, memory, mappings: maps::read(&maps) })
    }

    /// A place may span mappings: a kernel splits them where their flags differ.
    fn pieces(&self, placed: &Placed) -> Result<Vec<Piece>, RamError> {
        let (mut guest, mut host) = (placed.guest.start, placed.host);
        let mut pieces = Vec::new();
        while guest < placed.guest.end {
            let mapping = self.mappings.iter().find(|mapping| mapping.host.contains(&host));
            let mapping = mapping.ok_or(RamError::NotThere { pid: self.pid, host })?;
            let bytes = (mapping.host.end - host).min(placed.guest.end - guest);
            let (file, offset) = match mapping.is_shared {
                true => (self.file(mapping)?, mapping.offset + (host - mapping.host.start)),
                false => (Rc::clone(&self.memory), host),
            };
            pieces.push(Piece { guest: guest..guest + bytes, file, offset });
            (guest, host) = (guest + bytes, host + bytes);
        }
        Ok(pieces)
    }

    /// The file behind a shared mapping, by the descriptor that the process has.
    fn file(&self, mapping: &Mapping) -> Result<Rc<File>, RamError> {
        let descriptors = fs::read_dir(format!("/proc/{}/fd", self.pid)).into_iter().flatten();
        // Inodes of two file systems may have one number, but not one name as well.
        let is_it = |path: &PathBuf| {
            fs::metadata(path).is_ok_and(|file| file.is_file() && file.ino() == mapping.inode)
                && fs::read_link(path).is_ok_and(|target| target == Path::new(&mapping.name))
        };
        let mut files = descriptors.flatten().map(|entry| entry.path()).filter(is_it);
        let open = |path| File::options().read(true).write(self.is_writable).open(path);
        let opened = files.find_map(|path| open(path).ok());
        let gone = || RamError::FileGone { pid: self.pid, file: mapping.name.clone() };
        opened.map(Rc::new).ok_or_else(gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file(bytes: &[u8]) -> Rc<File> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Rc::new(file)
    }

    #[test]
    fn a_read_goes_over_pieces_and_not_over_holes() {
        let piece =
            |guest: Range<u64>, bytes: &[u8], offset| Piece { guest, file: file(bytes), offset };
        let ram = Ram::of_pieces(vec![
            piece(0x3000..0x3004, b"xxCDEF", 2),
            piece(0x1000..0x1004, b"0123", 0),
            piece(0x1004..0x1008, b"4567", 0),
            piece(0x1006..0x2000, b"overlaps", 0),
            piece(0x5000..0x6000, b"shorter than it says", 0),
        ]);
        let read = |at, bytes| {
            let mut into = vec![0; bytes];
            ram.read(at, &mut into).map(|()| String::from_utf8(into).unwrap())
        };
        assert_eq!(read(0x1002, 4), Ok("2345".to_owned()));
        assert_eq!(read(0x3001, 3), Ok("DEF".to_owned()));
        assert_eq!(read(0x1006, 4), Err(Fault::NoRam(0x1008)));
        assert_eq!(read(0x5010, 8), Err(Fault::Source(io::ErrorKind::UnexpectedEof)));
        assert_eq!(ram.ranges(), [0x1000..0x1004, 0x1004..0x1008, 0x3000..0x3004, 0x5000..0x6000]);
    }

    #[test]
    fn a_word_is_set_only_where_ram_is_open_for_it() {
        let words = vec![7_u32; 1024];
        let host = words.as_ptr().addr() as u64;
        let placed = [Placed { guest: 0x1000..0x1000 + 4096, host }];
        let read = |ram: &Ram, at| {
            let mut word = [0; 4];
            ram.read(at, &mut word).map(|()| u32::from_le_bytes(word))
        };
        let ram = Ram::of_process(std::process::id(), &placed).unwrap();
        assert!(matches!(ram.set(0x1008, 9), Err(Fault::Source(_))));
        let ram = Ram::of_process_to_lend(std::process::id(), &placed).unwrap();
        assert_eq!((ram.set(0x1008, 9), read(&ram, 0x1008)), (Ok(()), Ok(9)));
        assert_eq!((read(&ram, 0x1004), read(&ram, 0x100c)), (Ok(7), Ok(7)));
        assert_eq!(ram.set(0x1ffe, 9), Err(Fault::NoRam(0x1ffe)));
        assert_eq!(ram.set(0x2000, 9), Err(Fault::NoRam(0x2000)));
        assert_eq!(std::hint::black_box(&words)[2], 9);
    }

    #[test]
    fn our_own_process_is_read() {
        let words = b"bytes that stand in this test".to_vec();
        let host = words.as_ptr().addr() as u64;
        let placed = Placed { guest: 0x1000..0x1000 + words.len() as u64, host };
        let ram = Ram::of_process(std::process::id(), std::slice::from_ref(&placed)).unwrap();
        let mut read = vec![0; words.len()];
        ram.read(0x1000, &mut read).unwrap();
        assert_eq!(read, words);
        let nowhere = Placed { host: 0x10, ..placed };
        let refused = Ram::of_process(std::process::id(), &[nowhere]).unwrap_err();
        assert!(
            refused
                .to_string()
                .ends_with("has nothing mapped at 0x10, where the guest's RAM should be")
        );
        assert!(matches!(Ram::of_process(u32::MAX, &[]), Err(RamError::Process { .. })));
    }
}
