//! A file by its own offsets, also where it was flattened: written into a pipe, which cannot be sought in,
//! as records that say where their bytes belong. QEMU writes its compressed dumps so.
//!
//! ```text
//!   "makedumpfile" padded to 4 KiB | offset, size, bytes | offset, size, bytes | .. | -1, -1
//! ```

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;

/// How a flattened file begins.
const SIGNATURE: &[u8] = b"makedumpfile\0\0\0\0";

const HEAD: u64 = 4096;
const RECORD_HEAD: u64 = 16;

/// QEMU's records have 16 KiB, so these are 8 GiB of compressed memory; to know them takes 12 MiB.
const RECORDS: usize = 512 * 1024;

const TOO_MANY: &str = "it has more than 524288 records: put it in order with `makedumpfile -R`";

/// A file as it would be had it been written in place.
#[derive(Debug)]
pub(super) struct Flat {
    file: File,
    /// Ascending; of those at one offset the last one holds.
    records: Vec<Record>,
    /// Whether the file ends where its writer ended it.
    pub(super) is_whole: bool,
}

#[derive(Clone, Copy, Debug)]
struct Record {
    /// Where it belongs.
    at: u64,
    bytes: u64,
    /// Where it is.
    offset: u64,
}

/// Whether a file that begins so is flattened.
pub(super) fn is_flattened(head: &[u8]) -> bool {
    head.starts_with(SIGNATURE) && head.len() as u64 >= HEAD
}

impl Flat {
    /// Looks for all records, if `head` is how the file begins and says that there are any.
    pub(super) fn open(file: File, head: &[u8]) -> io::Result<Self> {
        let bytes = file.metadata()?.len();
        if !is_flattened(head) {
            return Ok(Self {
                file,
                records: vec![Record { at: 0, bytes, offset: 0 }],
                is_whole: true,
            });
        }
        let mut flat = Self { file, records: Vec::new(), is_whole: false };
        flat.find(bytes)?;
        flat.records.sort_by_key(|record| record.at);
        Ok(flat)
    }

    /// Up to the mark of the end, or to the first record that is not whole.
    fn find(&mut self, bytes: u64) -> io::Result<()> {
        let mut offset = HEAD;
        while bytes - offset >= RECORD_HEAD {
            let mut head = [0; RECORD_HEAD as usize];
            self.file.read_exact_at(&mut head, offset)?;
            let head = u128::from_be_bytes(head);
            let (at, size) = ((head >> 64) as u64, head as u64);
            offset += RECORD_HEAD;
            if (at, size) == (u64::MAX, u64::MAX) {
                self.is_whole = true;
                break;
            }
            if size > bytes - offset || at.checked_add(size).is_none() {
                break;
            }
            if self.records.len() == RECORDS {
                return Err(io::Error::new(ErrorKind::FileTooLarge, TOO_MANY));
            }
            self.records.push(Record { at, bytes: size, offset });
            offset += size;
        }
        Ok(())
    }

    /// Where it ends.
    pub(super) fn end(&self) -> u64 {
        self.records.iter().map(|record| record.at + record.bytes).max().unwrap_or_default()
    }

    /// Fills `into` with what belongs at `at`.
    pub(super) fn read_exact_at(&self, mut at: u64, mut into: &mut [u8]) -> io::Result<()> {
        while !into.is_empty() {
            let after = self.records.partition_point(|record| record.at <= at);
            let record = self.records[..after].last();
            let record = record.filter(|record| at - record.at < record.bytes);
            let record = record.ok_or(ErrorKind::UnexpectedEof)?;
            let from = at - record.at;
            let next = self.records.get(after).map_or(u64::MAX, |next| next.at - at);
            let left = usize::try_from(next.min(record.bytes - from)).unwrap_or(usize::MAX);
            let (now, later) = into.split_at_mut(left.min(into.len()));
            self.file.read_exact_at(now, record.offset + from)?;
            at += now.len() as u64;
            into = later;
        }
        Ok(())
    }

    /// As much of it as there is, at most so many bytes.
    pub(super) fn read_most_at(&self, at: u64, most: u64) -> io::Result<Vec<u8>> {
        let bytes = self.end().saturating_sub(at).min(most);
        let mut into = vec![0; usize::try_from(bytes).unwrap_or_default()];
        self.read_exact_at(at, &mut into)?;
        Ok(into)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    /// A file, flattened into these records.
    pub(crate) fn flattened(records: &[(u64, &[u8])]) -> Vec<u8> {
        let mut file = SIGNATURE.to_vec();
        file.resize(HEAD as usize, 0);
        for (at, bytes) in records {
            file.extend([at.to_be_bytes(), (bytes.len() as u64).to_be_bytes()].concat());
            file.extend(*bytes);
        }
        file.extend([0xff; 16]);
        file
    }

    fn open(bytes: &[u8]) -> Flat {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Flat::open(file, bytes).unwrap()
    }

    fn read(flat: &Flat, at: u64, bytes: usize) -> Result<String, ErrorKind> {
        let mut into = vec![0; bytes];
        let read = flat.read_exact_at(at, &mut into);
        read.map(|()| String::from_utf8(into).unwrap()).map_err(|error| error.kind())
    }

    #[test]
    fn records_are_where_they_belong() {
        let file = flattened(&[(4, b"later"), (0, b"once"), (20, b"far"), (0, b"ONCE")]);
        let flat = open(&file);
        assert_eq!(read(&flat, 0, 9), Ok("ONCElater".to_owned()));
        assert_eq!(read(&flat, 21, 2), Ok("ar".to_owned()));
        assert_eq!(read(&flat, 8, 2), Err(ErrorKind::UnexpectedEof));
        assert_eq!(read(&flat, 22, 2), Err(ErrorKind::UnexpectedEof));
        assert_eq!((flat.end(), flat.is_whole), (23, true));
        let plain = open(b"makedumpfile, but short");
        assert_eq!(read(&plain, 14, 3), Ok("but".to_owned()));
        assert_eq!((plain.end(), plain.is_whole), (23, true));
    }

    #[test]
    fn a_file_that_is_cut_keeps_its_whole_records() {
        let file = flattened(&[(0, b"here"), (4, b"gone")]);
        for cut in file.len() - 19..file.len() {
            let flat = open(&file[..cut]);
            assert_eq!(read(&flat, 0, 4), Ok("here".to_owned()));
            assert_eq!(
                (flat.records.len(), flat.is_whole),
                (1 + usize::from(cut + 16 >= file.len()), false)
            );
        }
    }

    proptest! {
        #[test]
        fn any_records_are_taken(
            heads in proptest::collection::vec((any::<u64>(), 0_u64..40), 0..8),
            at: u64,
            cut in 0_usize..300,
        ) {
            let mut file = flattened(&[]);
            for (place, size) in &heads {
                file.extend([place.to_be_bytes(), size.to_be_bytes()].concat());
                file.resize(file.len() + 20, 7);
            }
            file.drain(HEAD as usize..HEAD as usize + 16);
            file.truncate(file.len().saturating_sub(cut).max(HEAD as usize));
            let flat = open(&file);
            prop_assert!(flat.records.is_sorted_by_key(|record| record.at));
            _ = flat.read_exact_at(at, &mut [0; 50]);
            prop_assert!(flat.read_most_at(at, 100).is_ok_and(|read| read.len() <= 100) || at < flat.end());
        }
    }
}
