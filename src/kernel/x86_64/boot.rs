//! Where the kernel is: by the registers of a CPU, or by what the kernel left for its own crash dump.
//!
//! A CPU's interrupt descriptors lead to the kernel's text even while it runs a process, with the page
//! tables of that process. What such an address is in RAM tells how far the image was moved, whatever
//! KASLR did, and nothing need be searched.

use super::paging;
use super::registers::Registers;
use crate::kernel::boot::{Found, Note};
use crate::kernel::machine::Architecture;
use crate::kernel::memory::{Fault, Reader};
use crate::kernel::paging::Paging;
use crate::kernel::space::Image;
use std::ops::Range;

/// Where images are linked to run; what KASLR moves stays within 1 GiB.
const IMAGES: Range<u64> = 0xffff_ffff_8000_0000..0xffff_ffff_c000_0000;

/// The descriptor of page faults, which every kernel has.
const PAGE_FAULT: u64 = 14;
const DESCRIPTOR: u64 = 16;

/// By the registers of a CPU.
pub(in crate::kernel) fn by_cpu(
    reader: &Reader<'_>,
    cpu: &Registers,
) -> Result<Option<Found>, Fault> {
    let paging = Paging::new(cpu.cr3, paging::form(cpu.cr4));
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
    Ok(Some(Found { architecture: Architecture::X86_64, paging, image, text, known }))
}

/// The address is in three pieces: bits 0-15, 16-31 behind selector and flags, then 32-63.
fn handler(descriptor: [u8; 16]) -> u64 {
    let word = u128::from_le_bytes(descriptor);
    let piece = |from: u32, bits: u32| (word >> from) as u64 & ((1 << bits) - 1);
    piece(0, 16) | piece(48, 16) << 16 | piece(64, 32) << 32
}

/// By the note that the kernel left.
pub(in crate::kernel) fn of_note(reader: &Reader<'_>, note: &Note<'_>) -> Option<Found> {
    let symbol = |name: &str| note.hex(&format!("SYMBOL({name})"));
    let base: i64 = note.value("NUMBER(phys_base)")?.parse().ok()?;
    let image = Image { at: IMAGES, to_physical: (base as u64).wrapping_sub(IMAGES.start) };
    let (tables, start, names) =
        (symbol("swapper_pg_dir")?, symbol("_stext")?, symbol("init_uts_ns")?);
    let is_inside = |at: u64| IMAGES.contains(&at).then_some(at.wrapping_add(image.to_physical));
    if !note.is_of(reader, is_inside(names)?) {
        return None;
    }
    is_inside(start)?;
    let five = note.value("NUMBER(pgtable_l5_enabled)").is_some_and(|value| value == "1");
    let paging = Paging::new(is_inside(tables)?, paging::form(if five { 1 << 12 } else { 0 }));
    let known = vec![("_stext", start), ("init_uts_ns", names)];
    Some(Found { architecture: Architecture::X86_64, paging, image, text: start, known })
}

#[cfg(test)]
mod tests {
    use super::super::paging::tests::Tables;
    use super::*;
    use crate::kernel::boot::{by_note, by_registers, of_note};
    use crate::kernel::faulty::{Rubbish, Sparse};
    use crate::kernel::machine;
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
        let firmware = machine::Registers::X86_64(Registers { idt: 0x6000, ..cpu });
        let found = by_registers(&reader, &[firmware, machine::Registers::X86_64(cpu)]).unwrap();
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
            let cpu = Registers { cr3, cr4, idt, ..Registers::default() };
            by_registers(&reader, &[machine::Registers::X86_64(cpu)]);
            by_note(&reader);
        }

        #[test]
        fn any_note_is_taken(text in "(\n|=|[0-9a-f]{16}|NUMBER\\(phys_base\\)|SYMBOL\\((_stext|init_uts_ns|swapper_pg_dir)\\)|-?[0-9]{1,20}){0,30}") {
            let memory = Rubbish(vec![1]);
            of_note(&Reader::new(&memory, PLENTY), format!("OSRELEASE={text}").as_bytes());
        }
    }
}
