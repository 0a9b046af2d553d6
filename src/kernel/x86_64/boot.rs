//! Where the kernel is: by the registers of a CPU, or by what the kernel left for its own crash dump.
//!
//! A CPU's interrupt descriptors lead to the kernel's text even while it runs a process, with the page
//! tables of that process. What such an address is in RAM tells how far the image was moved, whatever
//! KASLR did, and nothing need be searched.

use super::paging::Paging;
use crate::kernel::machine::Registers;
use crate::kernel::memory::{Fault, Reader};
use crate::kernel::space::Image;
use std::ops::Range;

/// Where images are linked to run; what KASLR moves stays within 1 GiB.
const IMAGES: Range<u64> = 0xffff_ffff_8000_0000..0xffff_ffff_c000_0000;

/// The descriptor of page faults, which every kernel has.
const PAGE_FAULT: u64 = 14;
const DESCRIPTOR: u64 = 16;

/// Symbols that one of both ways leads to.
pub(crate) const KNOWN: [&str; 4] = ["_stext", "asm_exc_page_fault", "init_uts_ns", "page_fault"];

/// How the note begins that the kernel keeps in a page of its own for `kexec`.
const NOTE: &[u8] = b"OSRELEASE=";

const PAGE: usize = 4096;
const SCANNED_AT_ONCE: u64 = 1 << 20;

/// Where the kernel is, and how that can be checked.
pub(crate) struct Found {
    pub(crate) paging: Paging,
    pub(crate) image: Image,
    /// An address in its text.
    pub(crate) text: u64,
    /// Symbols that must be at these addresses, as far as the kernel has them.
    pub(crate) known: Vec<(&'static str, u64)>,
}

/// By the registers of any of the CPUs.
pub(crate) fn by_registers(reader: &Reader<'_>, cpus: &[Registers]) -> Option<Found> {
    cpus.iter().find_map(|cpu| by_cpu(reader, cpu).ok().flatten())
}

fn by_cpu(reader: &Reader<'_>, cpu: &Registers) -> Result<Option<Found>, Fault> {
    let paging = Paging::new(cpu.cr3, cpu.cr4);
    let descriptor = cpu.idt.wrapping_add(PAGE_FAULT * DESCRIPTOR);
    let mut bytes = [0; DESCRIPTOR as usize];
    let (physical, left) = paging.physical(reader, descriptor)?;
    if left < DESCRIPTOR {
        return Ok(None);
    }
    reader.read(physical, &mut bytes)?;
    let text = handler(bytes);
    if !IMAGES.contains(&text) {
        return Ok(None);
    }
    let (physical, _) = paging.physical(reader, text)?;
    let image = Image { at: IMAGES, to_physical: physical.wrapping_sub(text) };
    let known = vec![("asm_exc_page_fault", text), ("page_fault", text)];
    Ok(Some(Found { paging, image, text, known }))
}

/// The address is in three pieces: bits 0-15, 16-31 behind selector and flags, then 32-63.
fn handler(descriptor: [u8; 16]) -> u64 {
    let word = u128::from_le_bytes(descriptor);
    let piece = |from: u32, bits: u32| (word >> from) as u64 & ((1 << bits) - 1);
    piece(0, 16) | piece(48, 16) << 16 | piece(64, 32) << 32
}

/// By the note, which is searched in all of RAM.
pub(crate) fn by_note(reader: &Reader<'_>) -> Option<Found> {
    let mut buffer = vec![0; SCANNED_AT_ONCE as usize];
    for range in reader.ranges() {
        let mut at = range.start.next_multiple_of(PAGE as u64);
        while at < range.end {
            let piece = (range.end - at).min(SCANNED_AT_ONCE);
            let piece = &mut buffer[..usize::try_from(piece).unwrap_or_default()];
            match reader.read(at, piece) {
                Ok(()) => {
                    let mut pages = piece.chunks(PAGE).filter(|page| page.starts_with(NOTE));
                    if let Some(found) = pages.find_map(|page| of_note(reader, page)) {
                        return Some(found);
                    }
                }
                Err(Fault::Spent) => return None,
                // A hole: what lies behind it is looked at.
                Err(_) => {}
            }
            at += SCANNED_AT_ONCE;
        }
    }
    None
}

/// A page that an earlier kernel left behind does not lead to its own release any more.
fn of_note(reader: &Reader<'_>, page: &[u8]) -> Option<Found> {
    let text = page.split(|byte| *byte == 0).next()?;
    let text = std::str::from_utf8(text).ok()?;
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let symbol = |name: &str| {
        let value = value(&format!("SYMBOL({name})"))?;
        u64::from_str_radix(value, 16).ok()
    };
    let base: i64 = value("NUMBER(phys_base)")?.parse().ok()?;
    let image = Image { at: IMAGES, to_physical: (base as u64).wrapping_sub(IMAGES.start) };
    let (tables, start, names) =
        (symbol("swapper_pg_dir")?, symbol("_stext")?, symbol("init_uts_ns")?);
    let is_inside = |at: u64| IMAGES.contains(&at).then_some(at.wrapping_add(image.to_physical));
    let mut uts = [0; 512];
    reader.read(is_inside(names)?, &mut uts).ok()?;
    let release = value("OSRELEASE")?.as_bytes();
    if release.is_empty() || !uts.windows(release.len()).any(|window| window == release) {
        return None;
    }
    is_inside(start)?;
    let five = value("NUMBER(pgtable_l5_enabled)").is_some_and(|value| value == "1");
    let paging = Paging::new(is_inside(tables)?, if five { 1 << 12 } else { 0 });
    let known = vec![("_stext", start), ("init_uts_ns", names)];
    Some(Found { paging, image, text: start, known })
}

#[cfg(test)]
mod tests {
    use super::super::paging::tests::Tables;
    use super::*;
    use crate::kernel::faulty::{Rubbish, Sparse};
    use crate::kernel::memory::Allowance;
    use proptest::prelude::*;

    const PLENTY: Allowance = Allowance { reads: 10_000, bytes: 1 << 30 };
    const TEXT: u64 = 0xffff_ffff_9260_0b10;

    /// A guest whose CPU has its descriptors and the kernel's text mapped, and not much more.
    fn guest() -> (Sparse, Registers) {
        let mut memory = Sparse::default();
        let mut tables = Tables::new(&mut memory, 0x10_0000, 5);
        let idt = 0xffff_fe00_0000_0000;
        tables.map(&mut memory, idt, 0x5000, 1);
        tables.map(&mut memory, 0xffff_ffff_9260_0000, 0x1a60_0000, 2);
        let text = TEXT.to_le_bytes();
        let pieces: [&[u8]; 5] =
            [&text[..2], &[0x10, 0, 0, 0x8e], &text[2..4], &text[4..], &[0; 4]];
        memory.write(0x5000 + 14 * 16, &pieces.concat());
        let cpu = Registers { cr3: 0x10_0000, cr4: 1 << 12, idt, ..Registers::default() };
        (memory, cpu)
    }

    #[test]
    fn registers_lead_to_the_kernel() {
        let (memory, cpu) = guest();
        let reader = Reader::new(&memory, PLENTY);
        let firmware = Registers { idt: 0x6000, ..cpu };
        let found = by_registers(&reader, &[firmware, cpu]).unwrap();
        assert_eq!(found.text, TEXT);
        assert_eq!(TEXT.wrapping_add(found.image.to_physical), 0x1a60_0b10);
        assert!(reader.spent().bytes < 200);
        assert!(by_registers(&reader, &[firmware]).is_none());
    }

    #[test]
    fn the_note_leads_to_the_kernel_unless_it_is_of_an_earlier_one() {
        let note = |release: &str| {
            format!(
                "OSRELEASE={release}\nPAGESIZE=4096\nSYMBOL(init_uts_ns)=ffffffff92001000\n\
                 SYMBOL(_stext)=ffffffff91000000\nSYMBOL(swapper_pg_dir)=ffffffff92000000\n\
                 NUMBER(phys_base)=-268435456\nNUMBER(pgtable_l5_enabled)=1\n"
            )
        };
        let mut memory = Sparse::default();
        memory.write(0x3000, note("6.1.0-1").as_bytes());
        memory.write(0x8000, note("6.1.0-2").as_bytes());
        memory.write(0x200_1008, b"Linux\x006.1.0-2\0");
        memory.write(0x200_1fff, &[0]);
        let found = by_note(&Reader::new(&memory, PLENTY)).unwrap();
        assert_eq!(found.text, 0xffff_ffff_9100_0000);
        assert_eq!(found.text.wrapping_add(found.image.to_physical), 0x100_0000);
        memory.write(0x200_1008, b"Linux\0overwritten");
        assert!(by_note(&Reader::new(&memory, PLENTY)).is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_memory_is_taken(bytes in proptest::collection::vec(any::<u8>(), 1..64), cr3: u64, cr4: u64, idt: u64) {
            let memory = Rubbish(bytes);
            let reader = Reader::new(&memory, Allowance { reads: 100, bytes: 1 << 22 });
            by_registers(&reader, &[Registers { cr3, cr4, idt, ..Registers::default() }]);
            by_note(&reader);
        }

        #[test]
        fn any_note_is_taken(text in "(\n|=|[0-9a-f]{16}|NUMBER\\(phys_base\\)|SYMBOL\\((_stext|init_uts_ns|swapper_pg_dir)\\)|-?[0-9]{1,20}){0,30}") {
            let memory = Rubbish(vec![1]);
            of_note(&Reader::new(&memory, PLENTY), format!("OSRELEASE={text}").as_bytes());
        }
    }
}
