//! The kernel's log, out of the ring that it is kept in since 5.10.
//!
//! ```text
//!   descriptors[id % n]  state (id and phase)  begin, next in data    infos[id % n]  when, how long
//!   data                 .. id text.. id text ..
//! ```
//!
//! Records are added while it is read. A record is believed when its descriptor says that it is whole,
//! its text is marked with its own number, and the descriptor still says the same afterwards.

use super::Kernel;
use super::memory::Fault;
use super::types::layout::{Layout, View};

/// The phase of a record is in the two highest bits of its state.
const ID: u64 = (1 << 62) - 1;
const COMMITTED: u64 = 1;
const FINALIZED: u64 = 2;

/// The number before each text.
const MARK: u64 = 8;

/// `CONFIG_LOG_BUF_SHIFT` is 25 at most, and a record takes 32 bytes of it at least.
const BITS: std::ops::RangeInclusive<u32> = 5..=25;

/// Descriptors that are read, and read again, at once.
const BLOCK: u64 = 128;

/// What a record has at most: the kernel takes 1 KiB (`PRINTKRB_RECORD_MAX`), patched ones more.
const TEXT: u64 = 8 * 1024;

/// What stands before each line, at most: `[18446744073.709551] `.
const STAMP: usize = 21;

/// One record.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Record {
    /// Its number.
    pub seq: u64,
    /// When, by the clock that starts at boot.
    pub ns: u64,
    /// 0 is an emergency, 7 is for debugging.
    pub level: u8,
    /// As the guest wrote it; may have several lines.
    pub text: Vec<u8>,
}

/// What was read.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Log {
    /// The latest records, in order.
    pub records: Vec<Record>,
    /// Records that changed while they were read.
    pub dropped: usize,
}

impl Record {
    /// What its lines take, each with a stamp of its own: a text may be many lines and nothing else.
    fn printed_bytes(&self) -> usize {
        let lines = 1 + self.text.iter().filter(|byte| **byte == b'\n').count();
        lines * (STAMP + 1) + self.text.len()
    }
}

/// The ring, checked.
struct Ring {
    count: u64,
    descriptors: u64,
    infos: u64,
    head: u64,
    tail: u64,
    data: u64,
    size: u64,
}

impl Log {
    /// Reads the latest records, of which [`Log::to_bytes`] makes `most` bytes at most.
    pub(super) fn read(kernel: &Kernel<'_>, most: usize) -> Result<Self, Fault> {
        let mut log = Self::default();
        let Some(ring) = Ring::read(kernel)? else { return Ok(log) };
        let mut left = ring.head.wrapping_sub(ring.tail) & ID;
        let mut last = ring.head;
        let mut bytes = 0;
        // No more than there is room for, whatever head and tail say.
        left = left.saturating_add(1).min(ring.count);
        while left > 0 && bytes < most {
            // A block ends where the array does.
            let count = BLOCK.min(left).min(last % ring.count + 1);
            let first = last.wrapping_sub(count - 1) & ID;
            for record in log.block(kernel, &ring, first, count)?.into_iter().rev() {
                bytes += record.printed_bytes();
                if bytes > most {
                    break;
                }
                log.records.push(record);
            }
            last = first.wrapping_sub(1) & ID;
            left -= count;
        }
        log.records.reverse();
        Ok(log)
    }

    /// The log as the kernel prints it.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for record in &self.records {
            let us = record.ns / 1000;
            let stamp = format!("[{:5}.{:06}] ", us / 1_000_000, us % 1_000_000);
            for line in record.text.split(|byte| *byte == b'\n') {
                bytes.extend_from_slice(stamp.as_bytes());
                bytes.extend_from_slice(line);
                bytes.push(b'\n');
            }
        }
        bytes
    }

    fn block(
        &mut self,
        kernel: &Kernel<'_>,
        ring: &Ring,
        first: u64,
        count: u64,
    ) -> Result<Vec<Record>, Fault> {
        let states = |kernel: &Kernel<'_>| {
            let at = ring.descriptors.wrapping_add(first % ring.count * kernel.sizes.descriptor);
            kernel.space.bytes(at, (count * kernel.sizes.descriptor) as usize)
        };
        let descriptors = states(kernel)?;
        let at = ring.infos.wrapping_add(first % ring.count * kernel.sizes.info);
        let infos = kernel.space.bytes(at, (count * kernel.sizes.info) as usize)?;
        let (descriptor_bytes, info_bytes) =
            (kernel.sizes.descriptor as usize, kernel.sizes.info as usize);
        let mut records = Vec::new();
        let each = descriptors.chunks_exact(descriptor_bytes).zip(infos.chunks_exact(info_bytes));
        for (number, (descriptor, info)) in each.enumerate() {
            let id = first.wrapping_add(number as u64) & ID;
            let (descriptor, info) = (View::of(descriptor), View::of(info));
            let record = ring.record(kernel, id, &descriptor, &info)?;
            records.extend(record.map(|record| (number, record)));
        }
        let again = states(kernel)?;
        let state = |bytes: &[u8], number: usize| {
            View::of(&bytes[number * descriptor_bytes..]).word(kernel.layouts.descriptor.state) & ID
        };
        let before = records.len();
        records.retain(|(number, _)| state(&descriptors, *number) == state(&again, *number));
        self.dropped += before - records.len();
        Ok(records.into_iter().map(|(_, record)| record).collect())
    }
}

impl Ring {
    fn read(kernel: &Kernel<'_>) -> Result<Option<Self>, Fault> {
        let layout = &kernel.layouts.ring;
        let Some(prb) = kernel.symbols.maybe("prb") else { return Ok(None) };
        let ring = layout.read(&kernel.space, kernel.space.u64(prb)?)?;
        let (count_bits, size_bits) = (ring.u32(layout.count_bits), ring.u32(layout.size_bits));
        if !BITS.contains(&count_bits) || !BITS.contains(&size_bits) {
            return Ok(None);
        }
        Ok(Some(Self {
            count: 1 << count_bits,
            descriptors: ring.word(layout.descriptors),
            infos: ring.word(layout.infos),
            head: ring.word(layout.head) & ID,
            tail: ring.word(layout.tail) & ID,
            data: ring.word(layout.data),
            size: 1 << size_bits,
        }))
    }

    /// The record with this number, if it is whole.
    fn record(
        &self,
        kernel: &Kernel<'_>,
        id: u64,
        descriptor: &View<'_>,
        info: &View<'_>,
    ) -> Result<Option<Record>, Fault> {
        let (place, known) = (&kernel.layouts.descriptor, &kernel.layouts.record);
        let state = descriptor.word(place.state);
        if state & ID != id || !matches!(state >> 62, COMMITTED | FINALIZED) {
            return Ok(None);
        }
        let (begin, next) = (descriptor.word(place.begin), descriptor.word(place.next));
        let length = info.word(known.length);
        let Some(text) = self.text(kernel, id, (begin, next), length)? else { return Ok(None) };
        Ok(Some(Record {
            seq: info.word(known.seq),
            ns: info.word(known.ns),
            level: info.word(known.level) as u8,
            text,
        }))
    }

    /// An odd position means that there is no text. A text that would not fit before the end of the
    /// ring stands at its start.
    fn text(
        &self,
        kernel: &Kernel<'_>,
        id: u64,
        (begin, next): (u64, u64),
        length: u64,
    ) -> Result<Option<Vec<u8>>, Fault> {
        if begin & 1 == 1 {
            return Ok(Some(Vec::new()));
        }
        let (mut from, to) = (begin % self.size, next % self.size);
        let to = if to == 0 { self.size } else { to };
        if from > to {
            from = 0;
        }
        let Some(room) = (to - from).checked_sub(MARK) else { return Ok(None) };
        let at = self.data.wrapping_add(from);
        let bytes = kernel.space.bytes(at, (MARK + room.min(length).min(TEXT)) as usize)?;
        let (mark, text) = bytes.split_at(MARK as usize);
        let is_ours = mark == id.to_le_bytes();
        Ok(is_ours.then(|| text.to_vec()))
    }
}
