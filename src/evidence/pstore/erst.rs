//! The file behind QEMU's device `acpi-erst`: a header with the name of the record in each slot, and
//! then the slots, which all have one size.
//!
//! ```text
//!    0  ERSTSTOR   8 size of a slot   12 where slots begin   16 version   24 name of slot 0, 1, ..
//!       slot: 0 CPER   6 ffffffff   16 what is valid   24 time   64 creator   96 name
//!             128 its one section: 0 where   4 length   16 type
//! ```
//!
//! QEMU's docs/specs/acpi_erst, UEFI's appendix N (CPER), Linux's drivers/acpi/apei/erst.c.

use super::StoreError;
use super::bytes::{Guid, array, guid, most, size, u16, u32, u64};
use super::part::Raw;

const MAGIC: &[u8; 8] = b"ERSTSTOR";
const VERSION: u16 = 0x0100;
const NAMES: usize = 24;

/// QEMU takes powers of two from a page on.
const SMALLEST_SLOT: usize = 4096;

const SECTION: usize = 128;
const TIME_IS_VALID: u32 = 2;

/// Linux's pstore, and no hardware.
const CREATOR: Guid = guid(0x75a574e3_5052_4b29_8a8e_be2c6490b89d);
const LOG: Guid = guid(0xc197e04e_d545_4a70_9c17_a5549419eb12);
const LOG_DEFLATED: Guid = guid(0x4f118707_04dd_4055_b5dd_956d34ddfac6);

/// The parts in the file.
pub(super) fn parts(file: &[u8]) -> Result<Vec<Raw<'_>>, StoreError> {
    let magic: [u8; 8] = array(file, 0).ok_or(StoreError::NotErst)?;
    // A file that QEMU has made and not yet begun to use.
    if magic == [0; 8] {
        return Ok(Vec::new());
    }
    if magic != *MAGIC {
        return Err(StoreError::NotErst);
    }
    let (slot, begin, version) = header(file).ok_or(StoreError::NotErst)?;
    let fits = slot >= SMALLEST_SLOT && slot.is_power_of_two() && begin.is_multiple_of(slot);
    if !fits || version != VERSION || begin == 0 {
        let size = u32::try_from(slot).unwrap_or(u32::MAX);
        return Err(StoreError::Header { version, size });
    }
    let slots = file.chunks(slot).enumerate().skip(begin / slot);
    Ok(slots.filter_map(|(index, slot)| part(slot, u64(file, NAMES + 8 * index))).collect())
}

/// Whether every slot of a store has a name, so that nothing more can be written.
pub(super) fn is_full(file: &[u8]) -> bool {
    let Some((slot, begin, _)) = header(file).filter(|(slot, ..)| *slot > 0) else { return false };
    let mut slots = begin / slot..file.len() / slot;
    !slots.is_empty()
        && slots.all(|index| u64(file, NAMES + 8 * index).is_some_and(|name| name != 0))
}

fn header(file: &[u8]) -> Option<(usize, usize, u16)> {
    Some((size(file, 8)?, size(file, 12)?, u16(file, 16)?))
}

/// The part in a slot, which has this name while it counts.
fn part(slot: &[u8], name: Option<u64>) -> Option<Raw<'_>> {
    let is_record = slot.starts_with(b"CPER") && u32(slot, 6)? == u32::MAX;
    let is_kernels = array(slot, 64)? == CREATOR && u32(slot, 16)? & TIME_IS_VALID != 0;
    (is_record && is_kernels).then_some(())?;
    let deflated = match array::<16>(slot, SECTION + 16)? {
        LOG => false,
        LOG_DEFLATED => true,
        _ => return None,
    };
    Some(Raw {
        at: Raw::time(u64(slot, 24)?)?,
        cleared: name != u64(slot, 96),
        deflated,
        data: most(slot, size(slot, SECTION)?, size(slot, SECTION + 4)?),
    })
}
