//! ELF as `dump-guest-memory` writes it: where RAM lies in the file, and QEMU's notes with the
//! registers of every CPU.

use crate::kernel::machine::{Arm64, Registers, X86_64};
use std::ops::Range;

/// Segments of a dump: one a piece of RAM, some more where the guest's page tables were followed.
const SEGMENTS: usize = 4096;

/// Notes of 1,024 CPUs, at less than 1 KiB each.
pub(super) const NOTES_BYTES: u64 = 1024 * 1024;

/// An ELF header and the program headers behind it must lie this near to the start of the file.
pub(super) const HEAD_BYTES: usize = 64 + SEGMENTS * PROGRAM_HEADER;

const PROGRAM_HEADER: usize = 56;

const MACHINE_X86_64: u16 = 62;
const MACHINE_ARM64: u16 = 183;
const TYPE_CORE: u16 = 4;
const LOAD: u32 = 1;
const NOTE: u32 = 4;

/// `NT_PRSTATUS`.
const STATUS: u32 = 1;

/// Whose registers notes have.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Machine {
    #[default]
    X86_64,
    Arm64,
}

/// What the headers say.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Layout {
    pub(super) machine: Machine,
    /// RAM: physical addresses, and where the first of them is in the file.
    pub(super) loads: Vec<(Range<u64>, u64)>,
    /// Where notes are in the file.
    pub(super) notes: Vec<Range<u64>>,
}

/// Why it is no dump of a guest.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ElfError {
    /// The headers end too early.
    #[error("its ELF headers are cut short")]
    Short,
    /// It is an ELF file of another kind.
    #[error("it is an ELF file, but no 64-bit little-endian dump of an x86-64 or arm64 machine")]
    OtherKind,
}

/// Whether a file that begins so is an ELF file.
pub(super) fn is_elf(head: &[u8]) -> bool {
    head.starts_with(b"\x7fELF")
}

/// Reads the headers at the start of a file.
pub(super) fn layout(head: &[u8]) -> Result<Layout, ElfError> {
    let half = |at: usize| array(head, at).map(u16::from_le_bytes).ok_or(ElfError::Short);
    let is_64_little = head.get(4..6).ok_or(ElfError::Short)? == [2, 1];
    let machine = match half(18)? {
        MACHINE_X86_64 => Machine::X86_64,
        MACHINE_ARM64 => Machine::Arm64,
        _ => return Err(ElfError::OtherKind),
    };
    if !is_64_little || half(16)? != TYPE_CORE {
        return Err(ElfError::OtherKind);
    }
    let at = array(head, 32).map(u64::from_le_bytes).ok_or(ElfError::Short)?;
    let at = usize::try_from(at).map_err(|_| ElfError::Short)?;
    let count = usize::from(half(56)?).min(SEGMENTS);
    let mut layout = Layout { machine, ..Layout::default() };
    for number in 0..count {
        let start = at.checked_add(number * PROGRAM_HEADER).ok_or(ElfError::Short)?;
        let header = head.get(start..).and_then(|rest| rest.get(..PROGRAM_HEADER));
        layout.take(header.ok_or(ElfError::Short)?);
    }
    Ok(layout)
}

impl Layout {
    fn take(&mut self, header: &[u8]) {
        let word = |at| array(header, at).map(u64::from_le_bytes).unwrap_or_default();
        let kind = array(header, 0).map(u32::from_le_bytes);
        let (offset, physical, bytes) = (word(8), word(24), word(32));
        let (Some(guest), Some(file)) = (physical.checked_add(bytes), offset.checked_add(bytes))
        else {
            return;
        };
        match kind {
            Some(LOAD) if bytes > 0 => self.loads.push((physical..guest, offset)),
            Some(NOTE) => self.notes.push(offset..file),
            _ => {}
        }
    }
}

/// The registers in notes, a CPU each, in order: QEMU's own where there are such, else those that every
/// dump has.
pub(super) fn registers(machine: Machine, mut notes: &[u8]) -> Vec<Registers> {
    let mut cpus = Vec::new();
    while let Some((name, description, rest)) = note(notes) {
        let kind = array(notes, 8).map(u32::from_le_bytes);
        cpus.extend(match (machine, name) {
            (Machine::X86_64, b"QEMU\0") => state(description).map(Registers::X86_64),
            (Machine::Arm64, b"CORE\0") if kind == Some(STATUS) => {
                status(description).map(Registers::Arm64)
            }
            _ => None,
        });
        notes = rest;
    }
    cpus
}

/// Name, description, and what follows. Both are padded to whole words.
fn note(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let size =
        |at| array(bytes, at).map(u32::from_le_bytes).and_then(|size| usize::try_from(size).ok());
    let (name, description) = (size(0)?, size(4)?);
    let body = bytes.get(12..)?;
    let named = body.get(..name)?;
    let body = body.get(name.checked_next_multiple_of(4)?..)?;
    let described = body.get(..description)?;
    let rest = body.get(description.checked_next_multiple_of(4)?..).unwrap_or_default();
    Some((named, described, rest))
}

/// QEMU's `QEMUCPUState`: version and size, 18 general registers, ten segments of 24 bytes (base at
/// 16), five control registers, and the kernel's GS base where the version has it.
fn state(bytes: &[u8]) -> Option<X86_64> {
    let word = |at| array(bytes, at).map(u64::from_le_bytes);
    let general = |number: usize| word(8 + 8 * number);
    let segment = |number: usize| 152 + 24 * number;
    let control = |number: usize| word(segment(10) + 8 * number);
    let selector = array(bytes, segment(0)).map(u32::from_le_bytes)?;
    Some(X86_64 {
        rdx: general(3)?,
        rdi: general(5)?,
        rsp: general(6)?,
        rbp: general(7)?,
        r10: general(10)?,
        r13: general(13)?,
        rip: general(16)?,
        flags: general(17)?,
        cpl: (selector & 3) as u8,
        idt: word(segment(9) + 16)?,
        cr3: control(3)?,
        cr4: control(4)?,
        halted: false,
    })
}

/// `elf_prstatus` of arm64: 112 bytes of a process, then X0 to X30, SP, PC and PSTATE.
fn status(bytes: &[u8]) -> Option<Arm64> {
    let register = |number: usize| array(bytes, 112 + 8 * number).map(u64::from_le_bytes);
    Some(Arm64 {
        fp: register(29)?,
        lr: register(30)?,
        sp: register(31)?,
        pc: register(32)?,
        pstate: register(33)?,
    })
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The notes of a dump with one CPU.
    pub(crate) fn notes() -> Vec<u8> {
        let mut state = vec![0; 440];
        let mut put = |at: usize, word: u64| state[at..at + 8].copy_from_slice(&word.to_le_bytes());
        put(8 + 8 * 6, 0xffff_c900_0000_0100);
        put(8 + 8 * 16, 0xffff_ffff_8100_0000);
        put(152 + 24 * 9 + 16, 0xffff_fe00_0000_0000);
        put(392 + 8 * 3, 0x1000);
        put(392 + 8 * 4, 1 << 12);
        let words =
            |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
        let mut notes = [words(&[5, 4, 1]), b"CORE\0\0\0\0abcd".to_vec()].concat();
        notes
            .extend([words(&[5, state.len() as u32, 0]), b"QEMU\0\0\0\0".to_vec(), state].concat());
        notes
    }

    /// A dump with one piece of RAM at 1 MiB and one CPU.
    pub(crate) fn sample(ram: &[u8]) -> Vec<u8> {
        let notes = notes();
        let header = |kind: u32, offset: usize, physical: u64, bytes: usize| {
            let fields = [offset as u64, 0, physical, bytes as u64, bytes as u64, 0];
            let fields = fields.iter().flat_map(|word| word.to_le_bytes());
            [kind.to_le_bytes(), [0; 4]].concat().into_iter().chain(fields).collect::<Vec<u8>>()
        };
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(16, 0);
        file.extend([4, 0, 62, 0]);
        file.resize(32, 0);
        file.extend(64_u64.to_le_bytes());
        file.resize(56, 0);
        file.extend([2, 0]);
        file.resize(64, 0);
        let start = 64 + 2 * PROGRAM_HEADER;
        file.extend(header(NOTE, start, 0, notes.len()));
        file.extend(header(LOAD, start + notes.len(), 1 << 20, ram.len()));
        file.extend(notes);
        file.extend(ram);
        file
    }

    #[test]
    fn a_dump_is_read() {
        let file = sample(b"RAM");
        let layout = layout(&file).unwrap();
        let [(guest, offset)] = &layout.loads[..] else { panic!("{layout:?}") };
        assert_eq!(*guest, 1 << 20..(1 << 20) + 3);
        assert_eq!(&file[*offset as usize..], b"RAM");
        let notes = layout.notes[0].start as usize..layout.notes[0].end as usize;
        let [Registers::X86_64(cpu)] = registers(layout.machine, &file[notes])[..] else {
            panic!("{layout:?}")
        };
        assert_eq!((cpu.cr3, cpu.cr4, cpu.idt), (0x1000, 1 << 12, 0xffff_fe00_0000_0000));
        assert_eq!((cpu.rsp, cpu.rip), (0xffff_c900_0000_0100, 0xffff_ffff_8100_0000));
    }

    #[test]
    fn the_registers_of_an_arm64_machine_are_read() {
        let mut status = vec![0; 392];
        for number in 0..34_u8 {
            status[112 + 8 * usize::from(number)] = number;
        }
        let words = |words: [u32; 3]| words.map(u32::to_le_bytes).concat();
        let mut notes = [words([5, 4, 2]), b"CORE\0\0\0\0abcd".to_vec()].concat();
        notes.extend([words([5, 392, STATUS]), b"CORE\0\0\0\0".to_vec(), status].concat());
        let expected = Arm64 { fp: 29, lr: 30, sp: 31, pc: 32, pstate: 33 };
        assert_eq!(registers(Machine::Arm64, &notes), [Registers::Arm64(expected)]);
        assert_eq!(registers(Machine::X86_64, &notes), []);
        let mut file = sample(b"RAM");
        file[18] = 183;
        assert_eq!(layout(&file).unwrap().machine, Machine::Arm64);
    }

    #[test]
    fn what_is_none_is_refused() {
        let file = sample(b"RAM");
        assert_eq!(layout(&file[..100]), Err(ElfError::Short));
        let mut program = file;
        program[16] = 2;
        assert_eq!(layout(&program), Err(ElfError::OtherKind));
        assert_eq!(layout(b"\x7fELF"), Err(ElfError::Short));
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(bytes: Vec<u8>, at in 0_usize..600, garbage: [u8; 8]) {
            _ = layout(&bytes);
            for machine in [Machine::X86_64, Machine::Arm64] {
                registers(machine, &bytes);
            }
            let mut file = sample(b"RAM");
            for (byte, value) in file[at..].iter_mut().zip(garbage) {
                *byte = value;
            }
            if let Ok(layout) = layout(&file) {
                for range in layout.notes {
                    let clip = |at: u64| (at as usize).min(file.len());
                    registers(layout.machine, &file[clip(range.start)..clip(range.end)]);
                }
            }
        }
    }
}
