//! Unwinding by both ways, over stacks that are right, damaged, or rubbish.

use super::orc::{Orc, Table};
use super::registers::Registers;
use super::unwind::Cursor;
use crate::kernel::faulty::{Rubbish, Sparse};
use crate::kernel::types::Types;
use crate::kernel::types::layout::OrcEntry;
use crate::kernel::types::tests::{Writer, space};
use crate::kernel::unwind::{Call, End, Stack};
use proptest::prelude::*;
use std::sync::OnceLock;

const CODE: u64 = 0x40_0000;
const PLACES: u64 = 0x1_0000;
const ENTRIES: u64 = 0x2_0000;
const STACK: u64 = 0x3_0000;

/// Entries in the form since 6.4, or the one before.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    Early,
    Since6_4,
}

fn layout(form: Form) -> OrcEntry {
    static KNOWN: OnceLock<[OrcEntry; 2]> = OnceLock::new();
    KNOWN.get_or_init(|| [described(Form::Early), described(Form::Since6_4)])[form as usize]
}

fn described(form: Form) -> OrcEntry {
    let mut writer = Writer::new();
    let mut members = vec![
        ("sp_offset", 2, 0, 16),
        ("bp_offset", 2, 16, 16),
        ("sp_reg", 2, 32, 4),
        ("bp_reg", 2, 36, 4),
    ];
    match form {
        Form::Early => members.extend([("type", 2, 40, 2), ("end", 2, 42, 1)]),
        Form::Since6_4 => members.extend([("type", 2, 40, 3), ("signal", 2, 43, 1)]),
    }
    writer.structure("orc_entry", 6, &members);
    let bytes = writer.done();
    let mut memory = Sparse::default();
    memory.write(0x1000, &bytes);
    let space = space(&memory);
    let types = Types::read(&space, 0x1000..0x1000 + bytes.len() as u64).unwrap();
    OrcEntry::of(&types, &space).unwrap()
}

/// Function `number` is the 256 bytes at `CODE + number * 256`, with one entry each.
fn memory(entries: &[(i16, i16, u16)]) -> Sparse {
    let mut memory = Sparse::default();
    for (number, (sp, bp, flags)) in (0_u64..).zip(entries) {
        let at = PLACES + number * 4;
        let place = (CODE + number * 256).wrapping_sub(at) as i64 as i32;
        memory.write(at, &place.to_le_bytes());
        memory.write(
            ENTRIES + number * 6,
            &[sp.to_le_bytes(), bp.to_le_bytes(), flags.to_le_bytes()].concat(),
        );
    }
    memory.write(STACK, &[0; 4096]);
    memory
}

fn unwind(
    memory: &dyn crate::kernel::memory::Memory,
    form: Form,
    cursor: Cursor,
) -> (Vec<Call>, End) {
    let space = space(memory);
    let code = std::iter::once(CODE..CODE + 0x1_0000).collect();
    let table = Table { code, places: PLACES, entries: ENTRIES, count: 6 };
    let orc = Orc::new(&space, layout(form), vec![table], CODE).unwrap();
    let stack = Stack { space: &space, at: STACK, bytes: space.bytes(STACK, 256).unwrap() };
    cursor.unwind(&stack, orc.as_ref(), &|at| (CODE..CODE + 0x1_0000).contains(&at))
}

fn put(memory: &mut Sparse, at: u64, words: &[u64]) {
    words
        .iter()
        .zip(0..)
        .for_each(|(word, number)| memory.write(at + number * 8, &word.to_le_bytes()));
}

/// `__switch_to_asm`, one that keeps its frame, one without, one behind an interrupt, the first one, and
/// where a process enters.
fn program(form: Form) -> Sparse {
    let (kind, call, registers, end) = match form {
        Form::Early => (8, 0, 1, 1 << 10),
        Form::Since6_4 => (8, 2, 3, 1 << 8),
    };
    let (sp, bp, saved) = (5, 4, 1 << 4);
    let signal = if form == Form::Since6_4 { 1 << 11 } else { 0 };
    let mut memory = memory(&[
        (8, 0, sp | call << kind),
        (16, -16, bp | saved | call << kind),
        (24, 0, sp | call << kind),
        (8, 0, sp | registers << kind | signal),
        (0, 0, end),
        (0, 0, sp | registers << kind | signal),
    ]);
    // Function 2, called by 1, called by what was interrupted in 2, called by the first one.
    put(&mut memory, STACK + 16, &[CODE + 0x110]);
    put(&mut memory, STACK + 32, &[STACK + 0x1f0, CODE + 0x310]);
    let mut stored = [0; 21];
    (stored[16], stored[17], stored[19], stored[4]) = (CODE + 0x200, 0x10, STACK + 0xf0, 7);
    put(&mut memory, STACK + 56, &stored);
    put(&mut memory, STACK + 0x100, &[CODE + 0x410]);
    memory
}

#[test]
fn calls_are_followed_through_frames_and_interrupts() {
    for form in [Form::Early, Form::Since6_4] {
        let (calls, end) =
            unwind(&program(form), form, Cursor::asleep(CODE + 0x220, STACK, STACK + 32));
        let at: Vec<(u64, bool)> =
            calls.iter().map(|call| (call.at - CODE, call.is_exact)).collect();
        assert_eq!(
            at,
            [(0x220, false), (0x110, false), (0x310, false), (0x200, true), (0x410, false)]
        );
        assert_eq!(end, End::Start);
    }
}

#[test]
fn the_stack_ends_where_a_process_entered() {
    let mut memory = program(Form::Since6_4);
    let mut stored = [0; 21];
    (stored[16], stored[17]) = (0x1234, 0x33);
    put(&mut memory, STACK + 8, &stored);
    let cpu = Registers { rip: CODE + 0x510, rsp: STACK + 8, ..Registers::default() };
    let (calls, end) = unwind(&memory, Form::Since6_4, Cursor::running(&cpu));
    assert_eq!((calls, end), (vec![Call { at: CODE + 0x510, is_exact: true }], End::User));
}

#[test]
fn a_stack_that_leads_nowhere_is_lost() {
    let mut memory = program(Form::Early);
    put(&mut memory, STACK + 16, &[0x1234]);
    let (calls, end) =
        unwind(&memory, Form::Early, Cursor::asleep(CODE + 0x220, STACK, STACK + 32));
    assert_eq!((calls.len(), end), (1, End::Lost));
    // A frame that is its own caller.
    let mut memory = program(Form::Early);
    put(&mut memory, STACK + 32, &[STACK + 32, CODE + 0x110]);
    let (calls, end) =
        unwind(&memory, Form::Early, Cursor::asleep(CODE + 0x110, STACK, STACK + 32));
    assert_eq!((calls.len(), end), (2, End::Lost));
}

#[test]
fn without_a_table_frames_are_followed() {
    let mut memory = Sparse::default();
    memory.write(STACK, &[0; 4096]);
    put(&mut memory, STACK + 0x10, &[STACK + 0x40, CODE + 0x110]);
    put(&mut memory, STACK + 0x40, &[(STACK + 0x60) | 1, CODE + 0x210]);
    let mut stored = [0; 21];
    stored[17] = 0x33;
    put(&mut memory, STACK + 0x60, &stored);
    let space = space(&memory);
    let stack = Stack { space: &space, at: STACK, bytes: Vec::new() };
    let cursor = Cursor::asleep(CODE + 0x10, STACK, STACK + 0x10);
    let (calls, end) = cursor.unwind(&stack, None, &|_| true);
    let at: Vec<u64> = calls.iter().map(|call| call.at - CODE).collect();
    assert_eq!((at, end), (vec![0x10, 0x110, 0x210], End::User));
}

proptest! {
    #[test]
    fn any_stack_ends(bytes in proptest::collection::vec(any::<u8>(), 1..64), ip in 0_u64..0x600, sp: u64, bp: u64, frames: bool) {
        let memory = Rubbish(bytes);
        let space = space(&memory);
        let code = std::iter::once(CODE..CODE + 0x1_0000).collect();
        let table = Table { code, places: PLACES, entries: ENTRIES, count: u64::MAX };
        let orc = Orc::new(&space, layout(Form::Early), vec![table], CODE).unwrap();
        let stack = Stack { space: &space, at: STACK, bytes: vec![7; 64] };
        let orc = orc.as_ref().filter(|_| !frames);
        let (calls, _) = Cursor::asleep(CODE + ip, sp, bp).unwrap_all(&stack, orc);
        prop_assert!(calls <= 96);
    }

    #[test]
    fn a_damaged_stack_ends(damage in proptest::collection::vec((0_u64..80, any::<u64>()), 1..10), near in proptest::collection::vec((0_u64..80, 0_u64..0x700), 0..10)) {
        let mut memory = program(Form::Since6_4);
        for (place, word) in damage {
            put(&mut memory, STACK + place * 8, &[word]);
        }
        for (place, word) in near {
            put(&mut memory, STACK + place * 8, &[if word % 2 == 0 { CODE + word } else { STACK + word }]);
        }
        let (calls, _) = unwind(&memory, Form::Since6_4, Cursor::asleep(CODE + 0x220, STACK, STACK + 32));
        prop_assert!(!calls.is_empty() && calls.len() <= 96);
    }
}

impl Cursor {
    /// How many calls there are, wherever they lead.
    fn unwrap_all(self, stack: &Stack<'_, '_>, orc: Option<&Orc>) -> (usize, End) {
        let (calls, end) = self.unwind(stack, orc, &|_| true);
        (calls.len(), end)
    }
}
