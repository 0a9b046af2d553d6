//! The two headers of a compressed dump, in the order and the words of `makedumpfile`.

use super::KdumpError;
use std::ops::Range;

/// How a header begins.
pub(super) const SIGNATURE: &[u8] = b"KDUMP   ";

/// The header up to the last of its fields that is read, and the second one.
pub(super) const BYTES: u64 = 464;
pub(super) const SECOND_BYTES: u64 = 104;

/// What pages of x86-64 and arm64 may have.
const PAGES: [u64; 3] = [4096, 16 * 1024, 64 * 1024];

/// 256 GiB of the smallest pages, whose map takes 8 MiB: more than any device has for its guests.
const MOST_PAGES: u64 = 1 << 26;

/// Compression by the bits in which a header names it, where it is not read.
const METHODS: [(u32, &str); 2] = [(0x2, "lzo"), (0x4, "snappy")];

/// Where everything is in the file, in bytes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Head {
    /// The size of a page.
    pub(super) page: u64,
    /// One more than the number of the last page.
    pub(super) pages: u64,
    /// The map of what is RAM.
    pub(super) ram_map: u64,
    /// The map of what is in the file.
    pub(super) here_map: u64,
    pub(super) descriptors: u64,
    pub(super) notes: Range<u64>,
}

impl Head {
    /// From the first header, and the second one as it is at an offset.
    pub(super) fn read(
        first: &[u8],
        second: impl FnOnce(u64) -> Result<Vec<u8>, KdumpError>,
    ) -> Result<Self, KdumpError> {
        if !first.starts_with(SIGNATURE) {
            return Err(KdumpError::Other);
        }
        let half = |at: usize| array(first, at).map(u32::from_le_bytes);
        let [version, status] = [half(8)?, half(424)?];
        let [page, second_blocks, map_blocks, pages] =
            [428, 432, 436, 440].map(|at| half(at).map(u64::from));
        let (page, second_blocks, map_blocks, pages) = (page?, second_blocks?, map_blocks?, pages?);
        if let Some((_, method)) = METHODS.iter().find(|(bit, _)| status & bit != 0) {
            return Err(KdumpError::Method(method));
        }
        if !PAGES.contains(&page) {
            return Err(KdumpError::Odd("pages have a size that no machine has"));
        }
        let second = second(page)?;
        let word = |at: usize| array(&second, at).map(u64::from_le_bytes);
        // Each field came with a version of the format.
        let since = |first: u32, at| if version >= first { word(at) } else { Ok(0) };
        if since(2, 8)? >> 32 != 0 {
            return Err(KdumpError::Part);
        }
        let pages = if version >= 6 { word(96)? } else { pages };
        if pages == 0 || pages > MOST_PAGES {
            return Err(KdumpError::Odd("there is no RAM, or more than is read here"));
        }
        let half_map = map_blocks / 2 * page;
        if half_map < pages.div_ceil(8) {
            return Err(KdumpError::Odd("the maps are shorter than RAM"));
        }
        let (notes, notes_bytes) = (since(4, 48)?, since(4, 56)?);
        let ram_map = (1 + second_blocks) * page;
        Ok(Self {
            page,
            pages,
            ram_map,
            here_map: ram_map + half_map,
            descriptors: ram_map + map_blocks * page,
            notes: notes..notes.saturating_add(notes_bytes),
        })
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], KdumpError> {
    let short = || KdumpError::Read(std::io::ErrorKind::UnexpectedEof.into());
    bytes.get(at..).and_then(|rest| rest.first_chunk().copied()).ok_or_else(short)
}
