//! The kernel's own address space.

use super::memory::{Fault, Reader};
use super::paging::Paging;
use std::ops::Range;

/// What is read at once where a table is gone through; RAM and kernel images begin and end at
/// multiples of it, so that no piece lies half in a hole.
const CHUNK: u64 = 64 * 1024;

/// The kernel image: contiguous in both address spaces, so that no page table need be asked. Pieces of
/// it that the kernel no longer maps are read just as well.
#[derive(Clone, Debug)]
pub(super) struct Image {
    /// Where it is.
    pub(super) at: Range<u64>,
    /// What has to be added to a virtual address to get the physical one, modulo 2^64.
    pub(super) to_physical: u64,
}

/// Virtual reads.
pub(super) struct Space<'m> {
    reader: Reader<'m>,
    paging: Paging,
    image: Image,
}

/// Bytes one after the other, read in larger pieces.
pub(super) struct Stream<'s, 'm> {
    space: &'s Space<'m>,
    /// Where the buffer ends.
    at: u64,
    end: u64,
    buffer: Vec<u8>,
    used: usize,
}

impl<'m> Space<'m> {
    pub(super) fn new(reader: Reader<'m>, paging: Paging, image: Image) -> Self {
        Self { reader, paging, image }
    }

    pub(super) fn reader(&self) -> &Reader<'m> {
        &self.reader
    }

    pub(super) fn image(&self) -> &Image {
        &self.image
    }

    /// The same RAM through the kernel's own page tables, now that they and the image's bounds are
    /// known.
    pub(super) fn settle(self, root: u64, image: Range<u64>) -> Self {
        let paging = self.paging.with_root(root);
        Self { paging, image: Image { at: image, ..self.image }, ..self }
    }

    /// Fills `into` with what stands at `at`.
    pub(super) fn read(&self, mut at: u64, mut into: &mut [u8]) -> Result<(), Fault> {
        while !into.is_empty() {
            let (physical, left) = self.physical(at)?;
            let left = usize::try_from(left).unwrap_or(usize::MAX);
            let (now, later) = into.split_at_mut(left.min(into.len()));
            self.reader.read(physical, now)?;
            at = at.wrapping_add(now.len() as u64);
            into = later;
        }
        Ok(())
    }

    /// Where it is in RAM, and how much follows in one piece.
    fn physical(&self, at: u64) -> Result<(u64, u64), Fault> {
        if self.image.at.contains(&at) {
            return Ok((at.wrapping_add(self.image.to_physical), self.image.at.end - at));
        }
        self.paging.physical(&self.reader, at)
    }

    pub(super) fn array<const N: usize>(&self, at: u64) -> Result<[u8; N], Fault> {
        let mut bytes = [0; N];
        self.read(at, &mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn u64(&self, at: u64) -> Result<u64, Fault> {
        self.array(at).map(u64::from_le_bytes)
    }

    pub(super) fn u32(&self, at: u64) -> Result<u32, Fault> {
        self.array(at).map(u32::from_le_bytes)
    }

    /// So many bytes. The caller bounds them.
    pub(super) fn bytes(&self, at: u64, count: usize) -> Result<Vec<u8>, Fault> {
        let mut bytes = vec![0; count];
        self.read(at, &mut bytes)?;
        Ok(bytes)
    }

    /// A string of C, without its end; what is longer than `most` is cut. Read by pages, for the next
    /// one may not be there.
    pub(super) fn text(&self, mut at: u64, most: usize) -> Result<Vec<u8>, Fault> {
        const PAGE: u64 = 4096;
        let mut text = Vec::new();
        while text.len() < most {
            let left = usize::try_from(PAGE - at % PAGE).unwrap_or_default();
            let piece = self.bytes(at, left.min(64).min(most - text.len()))?;
            if let Some(end) = piece.iter().position(|byte| *byte == 0) {
                text.extend_from_slice(&piece[..end]);
                break;
            }
            at = at.wrapping_add(piece.len() as u64);
            text.extend(piece);
        }
        Ok(text)
    }

    pub(super) fn stream(&self, range: Range<u64>) -> Stream<'_, 'm> {
        Stream { space: self, at: range.start, end: range.end, buffer: Vec::new(), used: 0 }
    }
}

impl Stream<'_, '_> {
    /// Where the next byte is.
    pub(super) fn at(&self) -> u64 {
        self.at - (self.buffer.len() - self.used) as u64
    }

    /// The next bytes, less than a chunk; at the end there is nothing mapped.
    pub(super) fn take(&mut self, count: usize) -> Result<&[u8], Fault> {
        while self.buffer.len() - self.used < count {
            self.fill()?;
        }
        let taken = &self.buffer[self.used..self.used + count];
        self.used += count;
        Ok(taken)
    }

    pub(super) fn byte(&mut self) -> Result<u8, Fault> {
        self.take(1).map(|bytes| bytes[0])
    }

    pub(super) fn skip(&mut self, mut count: usize) -> Result<(), Fault> {
        const PIECE: usize = 4096;
        while count > 0 {
            let piece = count.min(PIECE);
            self.take(piece)?;
            count -= piece;
        }
        Ok(())
    }

    fn fill(&mut self) -> Result<(), Fault> {
        if self.at >= self.end {
            return Err(Fault::NotMapped(self.at));
        }
        let most = (CHUNK - self.at % CHUNK).min(self.end - self.at);
        self.buffer.drain(..self.used);
        self.used = 0;
        let before = self.buffer.len();
        self.buffer.resize(before + usize::try_from(most).unwrap_or_default(), 0);
        if let Err(fault) = self.space.read(self.at, &mut self.buffer[before..]) {
            self.buffer.truncate(before);
            return Err(fault);
        }
        self.at += most;
        Ok(())
    }
}
