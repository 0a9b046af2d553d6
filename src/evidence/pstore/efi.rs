//! The variables of a UEFI firmware, in the raw image of its flash memory, as EDK II keeps them.
//!
//! ```text
//!   volume:    16 what it is for   40 _FVH   48 length of this header
//!   store:      0 which format     16 size   then variables, each at a multiple of 4
//!   variable:   0 55aa   2 state   .. 4 length of name   4 length of data   16 vendor, name, data
//! ```
//!
//! Flash loses bits and gains none until all of it is erased, so what happens to a variable clears one
//! bit of its state after the other, and one that was deleted stays until the store is full. The
//! kernel's records are called `dump-type0-PART-COUNT-TIME-C`, where C says compressed.
//!
//! EDK II's Include/Guid/VariableFormat.h, Linux's drivers/firmware/efi/efi-pstore.c.

use super::StoreError;
use super::bytes::{Guid, array, guid, most, size, u16};
use super::part::Raw;

/// Volumes begin where flash can be erased from.
const BLOCK: usize = 4096;

const VOLUME: Guid = guid(0xfff12b8d_7696_4c8b_a985_2747075b4f50);
const AUTHENTICATED: Guid = guid(0xaaf32c78_947b_439a_a180_2e144ec37792);
const PLAIN: Guid = guid(0xddcf3616_3275_4164_98b6_fe85707ffe7d);
const STORE_HEADER: usize = 28;

/// Linux's records of its end.
const VENDOR: Guid = guid(0xcfc8fc79_be2e_4ddc_97f0_9f98bfe298a0);
const VARIABLE: u16 = 0x55aa;

/// A bit of the state that is gone from a deleted one.
const NOT_DELETED: u8 = 0x02;

/// The kernel's own limit.
const NAME_BYTES: usize = 2 * 52;

/// Where the lengths are in the header of a variable; the vendor follows them.
struct Format {
    lengths: usize,
}

/// The parts in the image.
pub(super) fn parts(image: &[u8]) -> Result<Vec<Raw<'_>>, StoreError> {
    if image.starts_with(b"QFI\xfb") {
        return Err(StoreError::Qcow2);
    }
    let mut blocks = (0..image.len()).step_by(BLOCK).filter_map(|at| image.get(at..));
    let (store, format) = blocks.find_map(store).ok_or(StoreError::NoVariables)?;
    let mut parts = Vec::new();
    let mut at = STORE_HEADER;
    while let Some((part, next)) = variable(store, at, &format) {
        parts.extend(part);
        at = next;
    }
    Ok(parts)
}

/// The store of variables in the volume that may begin here.
fn store(volume: &[u8]) -> Option<(&[u8], Format)> {
    let is_volume = array(volume, 40)? == *b"_FVH" && array(volume, 16)? == VOLUME;
    let store = is_volume.then(|| volume.get(u16(volume, 48)?.into()..)).flatten()?;
    let lengths = match array::<16>(store, 0)? {
        AUTHENTICATED => 36,
        PLAIN => 8,
        _ => return None,
    };
    Some((most(store, 0, size(store, 16)?), Format { lengths }))
}

/// The variable there, if it is a part, and where the next one is.
fn variable<'a>(store: &'a [u8], at: usize, format: &Format) -> Option<(Option<Raw<'a>>, usize)> {
    let header = store.get(at..).filter(|header| u16(header, 0) == Some(VARIABLE))?;
    let state = *header.get(2)?;
    let vendor = format.lengths + 8;
    // Lengths that were not written yet are all ones, and count as none.
    let length = |at| size(header, at).map(|length| if length == 0xffff_ffff { 0 } else { length });
    let (name, data) = (length(format.lengths)?, length(format.lengths + 4)?);
    let begin = vendor + 16;
    let next = at.checked_add(begin)?.checked_add(name)?.checked_add(data)?;
    let next = next.checked_next_multiple_of(4)?;
    let is_kernels = array(header, vendor)? == VENDOR && name <= NAME_BYTES;
    let named = is_kernels.then(|| parse(most(header, begin, name))).flatten();
    let part = named.map(|(seconds, deflated)| Raw {
        at: seconds,
        cleared: state & NOT_DELETED == 0,
        deflated,
        data: most(header, begin + name, data),
    });
    Some((part, next))
}

/// When, and whether it is compressed: `dump-type0-1-1-1700000000-C`.
fn parse(name: &[u8]) -> Option<(crate::base::time::Timestamp, bool)> {
    let letters = name.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    let letters = letters.take_while(|letter| *letter != 0);
    let name: String = char::decode_utf16(letters).collect::<Result<_, _>>().ok()?;
    let mut words = name.strip_prefix("dump-type0-")?.split('-').skip(2);
    let at = Raw::time(words.next()?.parse().ok()?)?;
    match (words.next(), words.next()) {
        (Some("C"), None) => Some((at, true)),
        (Some("D") | None, None) => Some((at, false)),
        _ => None,
    }
}
