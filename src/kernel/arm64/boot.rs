//! Where the kernel is: by what it left for its own crash dump.
//!
//! KASLR moves the image by any number of 64 KiB within half of all addresses, and where it is in RAM has
//! nothing to do with that. The note tells both, how many bits of an address are in use, and the root of
//! the kernel's own page tables, which are the same with KPTI and without.

use super::paging;
use crate::kernel::boot::{Found, Note};
use crate::kernel::machine::Architecture;
use crate::kernel::memory::Reader;
use crate::kernel::paging::Paging;
use crate::kernel::space::Image;

/// How far an image reaches before its text and behind: its header is 64 KiB before, and the largest
/// have some 50 MB.
const BEFORE: u64 = 2 << 20;
const BEHIND: u64 = 256 << 20;

pub(in crate::kernel) fn of_note(reader: &Reader<'_>, note: &Note<'_>) -> Option<Found> {
    let to_physical = note.hex("NUMBER(kimage_voffset)")?.wrapping_neg();
    let text = note.hex("SYMBOL(_stext)")?;
    let names = note.hex("SYMBOL(init_uts_ns)")?;
    let root = note.hex("SYMBOL(swapper_pg_dir)")?;
    let at = text.checked_sub(BEFORE)?..text.checked_add(BEHIND)?;
    if !at.contains(&names) || !at.contains(&root) {
        return None;
    }
    let page_bytes = note.value("PAGESIZE")?.parse().ok()?;
    let built_for: u32 = note.value("NUMBER(VA_BITS)")?.parse().ok()?;
    // What is built for 52 bits uses 48 where the CPU has no more. Before 5.5 nothing was.
    let unused =
        note.hex("NUMBER(TCR_EL1_T1SZ)").unwrap_or(64_u64.wrapping_sub(u64::from(built_for)));
    let address_bits = u32::try_from(64_u64.checked_sub(unused)?).ok()?;
    let form = paging::form(page_bytes, address_bits, built_for)?;
    if !note.is_of(reader, names.wrapping_add(to_physical)) {
        return None;
    }
    Some(Found {
        architecture: Architecture::Arm64 { address_bits, page_bytes },
        paging: Paging::new(root.wrapping_add(to_physical), form),
        image: Image { at, to_physical },
        text,
        known: vec![("_stext", text), ("init_uts_ns", names)],
    })
}
