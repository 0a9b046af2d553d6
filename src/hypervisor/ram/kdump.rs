//! Dumps that are compressed page by page, as `dump-guest-memory` writes them with the format `kdump-zlib`,
//! and `makedumpfile` of what a guest's own kdump has kept.
//!
//! ```text
//!   header | second header, notes | which pages are RAM | which are here | their descriptors | their bytes
//! ```
//!
//! A page that is RAM and not here is one that the writer left out, as of zeros, of a process or free. It
//! reads as zeros, as it does in `crash`.

mod head;
mod pages;

use super::elf::{self, Machine};
use super::flat::Flat;
use crate::kernel::machine::Registers;
use crate::kernel::memory::{Fault, Memory};
use head::Head;
use pages::{Descriptor, Here, Pages};
use std::cell::RefCell;
use std::io::{self, ErrorKind};
use std::ops::Range;

/// More than any machine has in one piece after the other, as of program headers in an ELF file.
const PIECES: usize = 4096;

/// What is read at once of the maps of pages.
const MAP_PIECE: u64 = 64 * 1024;

/// RAM in compressed pages.
#[derive(Debug)]
pub(super) struct Kdump {
    file: Flat,
    /// The size of a page.
    page: u64,
    /// Physical addresses.
    ram: Vec<Range<u64>>,
    here: Here,
    /// Where the descriptors are.
    descriptors: u64,
    pages: RefCell<Pages>,
}

/// Why a compressed dump cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum KdumpError {
    /// It is something else in the same wrapping.
    #[error("what is flattened in it is no compressed dump")]
    Other,
    /// The file ends too early, or the disk fails.
    #[error("its headers cannot be read")]
    Read(#[source] io::Error),
    /// A number makes no sense.
    #[error("its headers say that {0}")]
    Odd(&'static str),
    /// It is packed by a method that is not known here.
    #[error(
        "its pages are compressed by {0}, which is not read: write it with `dump-guest-memory` as \
         kdump-zlib, or rewrite it with `makedumpfile -c`"
    )]
    Method(&'static str),
    /// The rest is in other files.
    #[error("it is one of several parts: put them together with `makedumpfile --reassemble`")]
    Part,
}

/// How a compressed dump begins.
pub(super) fn is_kdump(head: &[u8]) -> bool {
    head.starts_with(head::SIGNATURE)
}

impl Kdump {
    /// Reads the headers and the maps of pages, and the registers in the notes.
    pub(super) fn open(file: Flat) -> Result<(Self, Vec<Registers>), KdumpError> {
        let read = |at, most| file.read_most_at(at, most).map_err(KdumpError::Read);
        let head = Head::read(&read(0, head::BYTES)?, |at| read(at, head::SECOND_BYTES))?;
        let notes =
            read(head.notes.start, (head.notes.end - head.notes.start).min(elf::NOTES_BYTES))?;
        let map = |at: u64| Map { file: &file, at, end: at + head.pages.div_ceil(8) };
        let ram = pieces(map(head.ram_map), &head)?;
        let mut here = Here::default();
        map(head.here_map).go_through(|bytes| {
            here.add(bytes);
            Ok(())
        })?;
        let Head { page, descriptors, .. } = head;
        let pages = RefCell::new(Pages::new(page));
        // The header's word for the machine is not to be relied on; its notes differ in name and length.
        let machines = [Machine::X86_64, Machine::Arm64];
        let registers = machines.map(|machine| elf::registers(machine, &notes)).into_iter();
        let registers = registers.max_by_key(Vec::len).unwrap_or_default();
        Ok((Self { file, page, ram, here, descriptors, pages }, registers))
    }

    /// Whether the file ends where its writer ended it, as far as that shows.
    pub(super) fn is_whole(&self) -> bool {
        let Some(last) = self.here.count().checked_sub(1) else { return self.file.is_whole };
        let end = self.descriptor(last).ok().and_then(Descriptor::end);
        self.file.is_whole && end.is_some_and(|end| end <= self.file.end())
    }

    fn descriptor(&self, number: u64) -> Result<Descriptor, Fault> {
        let mut bytes = [0; pages::DESCRIPTOR as usize];
        let at = self.descriptors + number * pages::DESCRIPTOR;
        self.file.read_exact_at(at, &mut bytes).map_err(failed)?;
        Ok(Descriptor::read(bytes))
    }

    /// Unpacks a page, if it is here.
    fn unpack(&self, number: u64, into: &mut [u8]) -> Result<(), Fault> {
        let Some(place) = self.here.place(number) else {
            into.fill(0);
            return Ok(());
        };
        let descriptor = self.descriptor(place)?;
        let mut packed = vec![0; descriptor.bytes(self.page).ok_or(DAMAGED)?];
        self.file.read_exact_at(descriptor.offset, &mut packed).map_err(failed)?;
        descriptor.unpack(&packed, into).ok_or(DAMAGED)
    }

    /// How much RAM there is from here on in one piece.
    fn left(&self, at: u64) -> Option<u64> {
        let after = self.ram.partition_point(|piece| piece.start <= at);
        let piece = self.ram[..after].last().filter(|piece| piece.contains(&at))?;
        Some(piece.end - at)
    }
}

/// A page that is not as its descriptor has it.
const DAMAGED: Fault = Fault::Source(ErrorKind::InvalidData);

fn failed(error: io::Error) -> Fault {
    Fault::Source(error.kind())
}

impl Memory for Kdump {
    fn read(&self, mut at: u64, mut into: &mut [u8]) -> Result<(), Fault> {
        let mut pages = self.pages.borrow_mut();
        while !into.is_empty() {
            let left = self.left(at).ok_or(Fault::NoRam(at))?;
            let place = at % self.page;
            let left = usize::try_from(left.min(self.page - place)).unwrap_or(usize::MAX);
            let (now, later) = into.split_at_mut(left.min(into.len()));
            let number = at / self.page;
            let page = pages.get(number, |page| self.unpack(number, page))?;
            let place = usize::try_from(place).unwrap_or_default();
            now.copy_from_slice(&page[place..place + now.len()]);
            at += now.len() as u64;
            into = later;
        }
        Ok(())
    }

    fn ranges(&self) -> Vec<Range<u64>> {
        self.ram.clone()
    }
}

/// A bit for each page.
struct Map<'f> {
    file: &'f Flat,
    at: u64,
    end: u64,
}

impl Map<'_> {
    fn go_through(
        self,
        mut take: impl FnMut(&[u8]) -> Result<(), KdumpError>,
    ) -> Result<(), KdumpError> {
        let mut at = self.at;
        while at < self.end {
            let mut bytes =
                vec![0; usize::try_from((self.end - at).min(MAP_PIECE)).unwrap_or_default()];
            self.file.read_exact_at(at, &mut bytes).map_err(KdumpError::Read)?;
            take(&bytes)?;
            at += bytes.len() as u64;
        }
        Ok(())
    }
}

/// Where a map has RAM.
fn pieces(map: Map<'_>, head: &Head) -> Result<Vec<Range<u64>>, KdumpError> {
    let mut pieces: Vec<Range<u64>> = Vec::new();
    let mut number = 0;
    map.go_through(|bytes| {
        for byte in bytes {
            let pages = number..head.pages.min(number + 8);
            for page in pages.filter(|page| byte >> (page % 8) & 1 == 1) {
                let start = page * head.page;
                let follows = pieces.last_mut().filter(|last| last.end == start);
                if let Some(last) = follows {
                    last.end += head.page;
                } else if pieces.len() < PIECES {
                    pieces.push(start..start + head.page);
                } else {
                    return Err(KdumpError::Odd("RAM is in more pieces than any machine has"));
                }
            }
            number += 8;
        }
        Ok(())
    })?;
    Ok(pieces)
}

#[cfg(test)]
pub(super) mod tests;
