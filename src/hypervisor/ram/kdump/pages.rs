//! Pages of a compressed dump: which are there, how each is packed, and those that were unpacked last.

use crate::kernel::memory::Fault;
use miniz_oxide::inflate::decompress_slice_iter_to_slice;

/// What a descriptor takes.
pub(super) const DESCRIPTOR: u64 = 24;

/// What the unpacked pages may take that are kept. The tables of a kernel that are read again and again,
/// and the tasks and stacks of a page that hold several, fit in well.
const KEPT_BYTES: u64 = 4 << 20;

const ZLIB: u32 = 0x1;
const ZSTD: u32 = 0x20;

/// How many bytes of the map are counted together.
const COUNTED: usize = 512;

/// Which pages are in the file, and how many are before each.
#[derive(Debug, Default)]
pub(super) struct Here {
    map: Vec<u8>,
    /// How many are before each [`COUNTED`] bytes of the map.
    before: Vec<u64>,
    count: u64,
}

impl Here {
    /// The next bytes of the map, all but the last a multiple of [`COUNTED`].
    pub(super) fn add(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(COUNTED) {
            self.before.push(self.count);
            self.count += ones(piece);
        }
        self.map.extend_from_slice(bytes);
    }

    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// How many are before this one, if it is here.
    pub(super) fn place(&self, page: u64) -> Option<u64> {
        let (byte, bit) = (usize::try_from(page / 8).ok()?, page % 8);
        let here = *self.map.get(byte)?;
        if here >> bit & 1 == 0 {
            return None;
        }
        let start = byte / COUNTED * COUNTED;
        let in_byte = here & ((1 << bit) - 1);
        Some(self.before[byte / COUNTED] + ones(&self.map[start..byte]) + ones(&[in_byte]))
    }
}

fn ones(bytes: &[u8]) -> u64 {
    bytes.iter().map(|byte| u64::from(byte.count_ones())).sum()
}

/// How a page is packed, and where.
#[derive(Clone, Copy, Debug)]
pub(super) struct Descriptor {
    pub(super) offset: u64,
    bytes: u32,
    method: u32,
}

impl Descriptor {
    pub(super) fn read(bytes: [u8; DESCRIPTOR as usize]) -> Self {
        let word =
            |at: usize| u64::from_le_bytes(bytes[at..].first_chunk().copied().unwrap_or_default());
        Self { offset: word(0), bytes: word(8) as u32, method: (word(8) >> 32) as u32 }
    }

    /// Where its bytes end.
    pub(super) fn end(self) -> Option<u64> {
        self.offset.checked_add(u64::from(self.bytes))
    }

    /// How many bytes it has; what does not get smaller is not packed.
    pub(super) fn bytes(self, page: u64) -> Option<usize> {
        usize::try_from(self.bytes).ok().filter(|_| u64::from(self.bytes) <= page)
    }

    /// Fills a page, if exactly that comes out.
    pub(super) fn unpack(self, packed: &[u8], into: &mut [u8]) -> Option<()> {
        let unpacked = match self.method {
            0 if packed.len() == into.len() => {
                into.copy_from_slice(packed);
                packed.len()
            }
            ZLIB => {
                decompress_slice_iter_to_slice(into, std::iter::once(packed), true, false).ok()?
            }
            ZSTD => zstd::bulk::decompress_to_buffer(packed, into).ok()?,
            _ => return None,
        };
        (unpacked == into.len()).then_some(())
    }
}

/// Unpacked pages, each at a place that its number gives.
#[derive(Debug)]
pub(super) struct Pages {
    bytes: usize,
    kept: Vec<Option<(u64, Box<[u8]>)>>,
}

impl Pages {
    pub(super) fn new(page: u64) -> Self {
        let places = usize::try_from(KEPT_BYTES / page).unwrap_or_default();
        Self { bytes: usize::try_from(page).unwrap_or_default(), kept: vec![None; places] }
    }

    /// A page, which `unpack` fills if it is not kept.
    pub(super) fn get(
        &mut self,
        number: u64,
        unpack: impl FnOnce(&mut [u8]) -> Result<(), Fault>,
    ) -> Result<&[u8], Fault> {
        let places = self.kept.len() as u64;
        let kept = &mut self.kept[usize::try_from(number % places).unwrap_or_default()];
        if kept.as_ref().is_none_or(|(of, _)| *of != number) {
            // What is unpacked in vain is not kept, nor what stood there.
            let mut page = match kept.take() {
                Some((_, page)) => page,
                None => vec![0; self.bytes].into_boxed_slice(),
            };
            unpack(&mut page)?;
            *kept = Some((number, page));
        }
        Ok(kept.as_ref().map(|(_, page)| &**page).unwrap_or_default())
    }
}
