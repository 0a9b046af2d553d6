//! Page tables of the kernel's half of addresses, with pages of 4, 16 or 64 KiB.
//!
//! ```text
//!   pages     bits of an address       levels
//!    4 KiB    39, 48, 52 (LPA2)        3, 4, 5
//!   16 KiB    36, 47, 48, 52 (LPA2)    2, 3, 4, 4
//!   64 KiB    42, 48, 52 (LVA)         2, 3, 3
//! ```

use crate::kernel::paging::{Entry, Form};

/// Bits of addresses that Linux can be built for.
const ADDRESS_BITS: std::ops::RangeInclusive<u32> = 36..=52;

const LARGEST: u32 = 52;

/// Lowest bits of an entry: that it means something, and that it is a table or a page.
const VALID: u64 = 1;
const TABLE_OR_PAGE: u64 = 2;

/// Pieces of RAM of more than one page are led to from these levels.
const PIECES: std::ops::RangeInclusive<u32> = 2..=4;

/// The form of the kernel's tables where it uses so many bits of an address, and was built for so many.
pub(super) fn form(page_bytes: u64, bits: u32, built_for: u32) -> Option<Form> {
    let page_bits = match page_bytes {
        0x1000 => 12,
        0x4000 => 14,
        0x1_0000 => 16,
        _ => return None,
    };
    // With 64 KiB a kernel that is built for 52 bits uses the end of the same tables for 48.
    let address_bits = if page_bits == 16 { built_for } else { bits };
    if !ADDRESS_BITS.contains(&address_bits) || !ADDRESS_BITS.contains(&bits) {
        return None;
    }
    let entry = match page_bits {
        16 => entry_64k,
        _ if bits == LARGEST => entry_lpa2,
        _ => entry,
    };
    let levels = (address_bits - page_bits).div_ceil(page_bits - 3);
    Some(Form { page_bits, levels, address_bits, has_low_half: false, entry })
}

/// Addresses of up to 48 bits.
fn entry(word: u64, level: u32) -> Entry {
    lead(word, level, word & 0x0000_ffff_ffff_f000)
}

/// Where addresses have 52 bits, the last two lie in bits that otherwise say who shares a page.
fn entry_lpa2(word: u64, level: u32) -> Entry {
    lead(word, level, word & 0x0003_ffff_ffff_f000 | (word >> 8 & 3) << 50)
}

/// Addresses of 64 KiB leave four bits for the last ones.
fn entry_64k(word: u64, level: u32) -> Entry {
    lead(word, level, word & 0x0000_ffff_ffff_0000 | (word >> 12 & 0xf) << 48)
}

fn lead(word: u64, level: u32, address: u64) -> Entry {
    match (word & VALID != 0, word & TABLE_OR_PAGE != 0) {
        (true, true) if level == 1 => Entry::Piece(address),
        (true, true) => Entry::Table(address),
        (true, false) if PIECES.contains(&level) => Entry::Piece(address),
        _ => Entry::Nothing,
    }
}
