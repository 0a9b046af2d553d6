//! Tables of all granules, notes of several kernels, and stacks that are right, damaged, or rubbish.

use super::paging::form;
use super::registers::Registers;
use crate::kernel::boot::{by_note, of_note};
use crate::kernel::faulty::{Rubbish, Sparse};
use crate::kernel::machine::{self, Architecture};
use crate::kernel::memory::{Allowance, Fault, Reader};
use crate::kernel::open::place;
use crate::kernel::paging::Paging;
use crate::kernel::tests::{arm64, layouts, unwinding};
use crate::kernel::types::layout::Field;
use crate::kernel::unwind::{Call, End, Stack};
use proptest::prelude::*;

const PLENTY: Allowance = Allowance { reads: 10_000, bytes: 1 << 30 };
const ROOT: u64 = 0x10_0000;

// === page tables ===

/// Writes the entries that lead from the root to a page (level 1) or a larger piece.
fn map(memory: &mut Sparse, page_bytes: u64, bits: u32, (at, level): (u64, u32), entry: u64) {
    let form = form(page_bytes, bits, bits).unwrap();
    let mut table = ROOT;
    for upper in (level + 1..=form.levels).rev() {
        let next = ROOT + 0x10_0000 * u64::from(form.levels - upper + 1);
        memory.write(table + form.index(at, upper) * 8, &(next | 3).to_le_bytes());
        table = next;
    }
    memory.write(table + form.index(at, level) * 8, &entry.to_le_bytes());
}

fn physical(memory: &Sparse, page_bytes: u64, bits: u32, at: u64) -> Result<(u64, u64), Fault> {
    let form = form(page_bytes, bits, bits).unwrap();
    Paging::new(ROOT, form).physical(&Reader::new(memory, PLENTY), at)
}

#[test]
fn pages_of_all_granules_are_found() {
    let attributes = 0x0068_0000_0000_0700;
    for (page_bytes, bits, levels) in [
        (0x1000, 39, 3),
        (0x1000, 48, 4),
        (0x1000, 52, 5),
        (0x4000, 36, 2),
        (0x4000, 47, 3),
        (0x4000, 48, 4),
        (0x4000, 52, 4),
        (0x1_0000, 42, 2),
        (0x1_0000, 48, 3),
        (0x1_0000, 52, 3),
    ] {
        assert_eq!(form(page_bytes, bits, bits).unwrap().levels, levels);
        // Where two bits of an address lie in those that otherwise say who shares the page.
        let shared = if bits == 52 && page_bytes < 0x1_0000 { 0 } else { 0x300 };
        let page = (u64::MAX << bits) + 0x3_4567_0000;
        let mut memory = Sparse::default();
        map(&mut memory, page_bytes, bits, (page, 1), 0x4_5672_0003 | attributes & !0x300 | shared);
        assert_eq!(
            physical(&memory, page_bytes, bits, page + 0x18),
            Ok((0x4_5672_0018, page_bytes - 0x18)),
            "{page_bytes:#x} {bits}"
        );
        let user = page & !(u64::MAX << bits);
        assert_eq!(physical(&memory, page_bytes, bits, user), Err(Fault::NotMapped(user)));
        let piece = form(page_bytes, bits, bits).unwrap().piece(2);
        let mut memory = Sparse::default();
        map(&mut memory, page_bytes, bits, (page, 2), 0x4_6000_0001 | attributes & !0x300 | shared);
        let within = page % piece;
        assert_eq!(
            physical(&memory, page_bytes, bits, page),
            Ok(((0x4_6000_0000 & !(piece - 1)) + within, piece - within))
        );
    }
    assert!(form(0x2000, 48, 48).is_none());
    assert!(form(0x1000, 53, 53).is_none());
    assert!(form(0x1000, 12, 12).is_none());
}

#[test]
fn the_highest_bits_of_an_address_are_where_each_form_has_them() {
    let page = u64::MAX << 48;
    for (page_bytes, bits, entry, expected) in [
        (0x1000, 48, 0x0000_8000_0000_1303, 0x0000_8000_0000_1000),
        (0x1000, 52, 0x0002_8000_0000_1203, 0x000a_8000_0000_1000),
        (0x1_0000, 48, 0x0000_8000_0001_a303, 0x000a_8000_0001_0000),
    ] {
        let mut memory = Sparse::default();
        map(&mut memory, page_bytes, bits, (page, 1), entry);
        assert_eq!(physical(&memory, page_bytes, bits, page), Ok((expected, page_bytes)));
    }
}

#[test]
fn what_is_built_for_52_bits_uses_the_end_of_its_root_for_48() {
    let form = form(0x1_0000, 48, 52).unwrap();
    assert_eq!(form.index(u64::MAX << 48, 3), 0x3c0);
    assert_eq!(super::paging::form(0x1000, 48, 52).unwrap().levels, 4);
}

// === where the kernel is ===

fn note(release: &str, page_bytes: u64, unused: &str) -> String {
    format!(
        "OSRELEASE={release}\nPAGESIZE={page_bytes}\nSYMBOL(init_uts_ns)=ffff9c11540ed698\n\
         SYMBOL(swapper_pg_dir)=ffff9c1153879000\nSYMBOL(_stext)=ffff9c1152010000\n\
         NUMBER(VA_BITS)=52\nNUMBER(kimage_voffset)=0xffff9c1111e00000\n\
         NUMBER(PHYS_OFFSET)=0x40000000\n{unused}KERNELOFFSET=1c10d2000000\n"
    )
}

#[test]
fn the_note_leads_to_the_kernel_unless_it_is_of_an_earlier_one() {
    let mut memory = Sparse::default();
    let unused = "NUMBER(TCR_EL1_T1SZ)=0xc\n";
    memory.write(0x4400_3000, note("6.12.1-arm64", 4096, unused).as_bytes());
    memory.write(0x4400_8000, note("6.12.2-arm64", 4096, unused).as_bytes());
    let names = 0x422e_d698;
    memory.write(names + 65, b"6.12.2-arm64\0");
    memory.write(names + 4096, &[0]);
    let found = by_note(&Reader::new(&memory, PLENTY)).unwrap();
    let expected = Architecture::Arm64 { address_bits: 52, page_bytes: 4096 };
    assert_eq!(found.architecture, expected);
    assert_eq!(found.text, 0xffff_9c11_5201_0000);
    assert_eq!(found.text.wrapping_add(found.image.to_physical), 0x4021_0000);
    memory.write(names + 65, b"overwritten\0\0");
    assert!(by_note(&Reader::new(&memory, PLENTY)).is_none());
}

#[test]
fn what_the_note_leaves_out_is_what_the_kernel_was_built_for() {
    let mut memory = Sparse::default();
    memory.write(0x422e_d698, b"5.4.0\0");
    memory.write(0x422e_e698, &[0]);
    let address_bits = |page_bytes, unused| {
        let note = note("5.4.0", page_bytes, unused);
        let found = of_note(&Reader::new(&memory, PLENTY), note.as_bytes())?;
        match found.architecture {
            Architecture::Arm64 { address_bits, .. } => Some(address_bits),
            Architecture::X86_64 => None,
        }
    };
    assert_eq!(address_bits(0x1_0000, ""), Some(52));
    assert_eq!(address_bits(0x1000, "NUMBER(TCR_EL1_T1SZ)=0x10\n"), Some(48));
    assert_eq!(address_bits(0x1000, "NUMBER(TCR_EL1_T1SZ)=0x41\n"), None);
    assert_eq!(address_bits(0x2000, ""), None);
}

// === stacks ===

const CODE: u64 = 0xffff_8000_8000_0000;
const STACK: u64 = 0xffff_8000_9000_0000;
const OTHER: u64 = 0xffff_8000_a000_0000;
const TASK: u64 = 0xffff_0000_0000_1000;

/// Memory in which addresses of the kernel are RAM, as [`arm64`] has it.
fn put(memory: &mut Sparse, at: u64, words: &[u64]) {
    for (number, word) in (0..).zip(words) {
        memory.write(at + number * 8, &word.to_le_bytes());
    }
}

fn put_field(memory: &mut Sparse, at: u64, field: Field, word: u64) {
    put(memory, place(at, field), &[word]);
}

fn guest() -> Sparse {
    let mut memory = Sparse::default();
    for at in [STACK, OTHER, TASK] {
        memory.write(at, &[0; 16 * 1024]);
    }
    memory
}

/// Registers as they are stored where the kernel is entered; gives their record.
fn enter(memory: &mut Sparse, at: u64, [pc, fp, lr, pstate]: [u64; 4]) -> u64 {
    let layout = unwinding().exception;
    put_field(memory, at, layout.pc, pc);
    put_field(memory, at, layout.pstate, pstate);
    put(memory, place(at, layout.registers) + 29 * 8, &[fp, lr]);
    let record = place(at, layout.frame);
    // There was no kernel below a process.
    put(memory, record, &if pstate & 0xc == 0 { [0, 0] } else { [fp, pc] });
    record
}

fn asleep(memory: &Sparse, pc: u64, fp: u64) -> (Vec<(u64, bool)>, End) {
    let mut memory = memory.clone();
    let sp = layouts().task.sp;
    let context = unwinding().context;
    let at = place(TASK, sp) - u64::from(context.sp.offset);
    put_field(&mut memory, at, context.pc, pc);
    put_field(&mut memory, at, context.fp, fp);
    let kernel = arm64(&memory, 1000, &[]);
    let stack = Stack { space: &kernel.space, at: STACK, bytes: Vec::new() };
    let (calls, end) = kernel.unwinder.asleep(&kernel, &stack, place(TASK, sp)).unwrap();
    (places(calls), end)
}

fn places(calls: Vec<Call>) -> Vec<(u64, bool)> {
    calls.into_iter().map(|call| (call.at.wrapping_sub(CODE), call.is_exact)).collect()
}

fn running(memory: &Sparse, cpu: Registers) -> Option<(Vec<(u64, bool)>, End)> {
    let kernel = arm64(memory, 1000, &[]);
    let trail = kernel.running(&machine::Registers::Arm64(cpu))?;
    Some((places(trail.calls), trail.end))
}

#[test]
fn records_are_followed_to_where_a_process_entered() {
    let mut memory = guest();
    let record = enter(&mut memory, STACK + 0x3e00, [0x40_1000, 7, 8, 0x6000_1000]);
    // A signed address, and one that is not.
    let signed = ((CODE + 0x210) & 0x0000_ffff_ffff_ffff) | 0x5abc_0000_0000_0000;
    put(&mut memory, STACK + 0x100, &[STACK + 0x140, signed]);
    put(&mut memory, STACK + 0x140, &[record, CODE + 0x310]);
    let expected = vec![(0x110, false), (0x210, false), (0x310, false)];
    assert_eq!(asleep(&memory, CODE + 0x110, STACK + 0x100), (expected.clone(), End::User));
    // A thread of the kernel began there.
    enter(&mut memory, STACK + 0x3e00, [0; 4]);
    let layout = unwinding().exception;
    put_field(&mut memory, STACK + 0x3e00, layout.pstate, 5);
    assert_eq!(asleep(&memory, CODE + 0x110, STACK + 0x100), (expected, End::Start));
}

#[test]
fn an_interrupt_and_its_stack_are_gone_through() {
    let mut memory = guest();
    let last = enter(&mut memory, STACK + 0x3e00, [0x40_1000, 7, 8, 0]);
    put(&mut memory, STACK + 0x1000, &[last, CODE + 0x310]);
    let record =
        enter(&mut memory, STACK + 0x800, [CODE + 0x208, STACK + 0x1000, CODE + 0x20c, 0x3c5]);
    put(&mut memory, OTHER + 0x100, &[OTHER + 0x140, CODE + 0x410]);
    put(&mut memory, OTHER + 0x140, &[record, CODE + 0x510]);
    let cpu = Registers {
        pc: CODE + 0x104,
        sp: OTHER + 0x100,
        fp: OTHER + 0x100,
        lr: CODE + 0x410,
        pstate: 0x3c5,
    };
    let expected =
        vec![(0x104, true), (0x410, false), (0x510, false), (0x208, true), (0x310, false)];
    assert_eq!(running(&memory, cpu), Some((expected, End::User)));
    assert_eq!(running(&memory, Registers { pstate: 0, ..cpu }), None);
    assert_eq!(running(&memory, Registers { pc: 0x40_1000, ..cpu }), None);
}

#[test]
fn an_interrupt_that_is_marked_is_gone_through() {
    let mut memory = guest();
    let last = enter(&mut memory, STACK + 0x3e00, [0x40_1000, 7, 8, 0]);
    put(&mut memory, STACK + 0x1000, &[last, CODE + 0x310]);
    let record =
        enter(&mut memory, STACK + 0x800, [CODE + 0x208, STACK + 0x1000, CODE + 0x20c, 0x3c5]);
    put(&mut memory, record, &[0, 0]);
    put(&mut memory, STACK + 0x100, &[record, CODE + 0x510]);
    // Without a mark, that is where it begins.
    let expected = vec![(0x110, false), (0x510, false)];
    let asleep = |memory: &Sparse| asleep(memory, CODE + 0x110, STACK + 0x100);
    assert_eq!(asleep(&memory), (expected.clone(), End::Start));
    put_field(&mut memory, record, unwinding().mark.kind.unwrap(), 2);
    let expected = [expected, vec![(0x208, true), (0x310, false)]].concat();
    assert_eq!(asleep(&memory), (expected, End::User));
}

#[test]
fn a_stack_that_leads_nowhere_is_lost() {
    let mut memory = guest();
    put(&mut memory, STACK + 0x100, &[STACK + 0x100, CODE + 0x210]);
    let lost = (vec![(0x110, false)], End::Lost);
    assert_eq!(asleep(&memory, CODE + 0x110, STACK + 0x100), lost);
    put(&mut memory, STACK + 0x100, &[STACK + 0x140, 0x1234]);
    assert_eq!(asleep(&memory, CODE + 0x110, STACK + 0x100), lost);
    // Two stacks that lead to each other.
    put(&mut memory, STACK + 0x100, &[OTHER + 0x100, CODE + 0x210]);
    put(&mut memory, OTHER + 0x100, &[STACK + 0x100, CODE + 0x310]);
    let (calls, end) = asleep(&memory, CODE + 0x110, STACK + 0x100);
    assert_eq!((calls.len(), end), (5, End::Lost));
}

#[test]
fn a_cpu_that_waits_is_seen_by_its_code() {
    let mut memory = guest();
    memory.write(CODE + 0x100, &[0xd503_3f9f_u32, 0xd503_207f].map(u32::to_le_bytes).concat());
    let kernel = arm64(&memory, 1000, &[]);
    let told = |pc, pstate| {
        let cpu = Registers { pc, pstate, ..Registers::default() };
        let told = machine::Registers::Arm64(cpu).told(&kernel.space);
        (told.user, told.interrupts_on, told.halted)
    };
    assert_eq!(told(CODE + 0x108, 0xc5), (false, true, true));
    assert_eq!(told(CODE + 0x104, 0xc5), (false, false, false));
    assert_eq!(told(CODE + 0x104, 0x45), (false, true, false));
    assert_eq!(told(CODE + 0x108, 0), (true, true, false));
}

proptest! {
    #[test]
    fn tables_of_any_bytes_end(bytes in proptest::collection::vec(any::<u8>(), 1..64), at: u64, root: u64, which in 0_usize..3, bits in 30_u32..60) {
        let memory = Rubbish(bytes);
        let reader = Reader::new(&memory, PLENTY);
        let Some(form) = form([0x1000, 0x4000, 0x1_0000][which], bits, bits) else { return Ok(()) };
        for at in [at, at | u64::MAX << bits] {
            if let Ok((physical, left)) = Paging::new(root, form).physical(&reader, at) {
                prop_assert!(physical < 1 << 53 && left > 0 && left <= form.piece(2));
            }
        }
        prop_assert!(reader.spent().reads <= 10);
    }

    #[test]
    fn any_note_is_taken(text in "(\n|=|0x|[0-9a-f]{16}|4096|52|NUMBER\\((kimage_voffset|VA_BITS|TCR_EL1_T1SZ)\\)|PAGESIZE|SYMBOL\\((_stext|init_uts_ns|swapper_pg_dir)\\)|-?[0-9]{1,20}){0,40}") {
        let memory = Rubbish(vec![1]);
        of_note(&Reader::new(&memory, PLENTY), format!("OSRELEASE={text}").as_bytes());
    }

    #[test]
    fn any_stack_ends(bytes in proptest::collection::vec(any::<u8>(), 1..64), fp: u64, lr: u64, near in 0_u64..0x4000) {
        let memory = Rubbish(bytes);
        let kernel = arm64(&memory, 10_000, &[]);
        for fp in [fp, STACK + near] {
            let cpu = Registers { pc: CODE + 0x100, fp, lr, pstate: 5, ..Registers::default() };
            let trail = kernel.running(&machine::Registers::Arm64(cpu)).unwrap();
            prop_assert!(trail.calls.len() <= 96);
        }
    }

    #[test]
    fn a_damaged_stack_ends(damage in proptest::collection::vec((0_u64..0x800, 0_u64..0x4000), 1..20)) {
        let mut memory = guest();
        for (number, (place, word)) in (0..).zip(damage) {
            let word = if number % 2 == 0 { STACK + word } else { CODE + word };
            put(&mut memory, STACK + place * 8, &[word]);
        }
        let (calls, _) = asleep(&memory, CODE + 0x110, STACK + 0x100);
        prop_assert!(!calls.is_empty() && calls.len() <= 96);
    }
}
