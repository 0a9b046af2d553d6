//! Guests with one kernel or another, which lies elsewhere each time: what one look taught the next.

use super::*;
use crate::kernel::Kernel;
use crate::kernel::faulty::Sparse;
use crate::kernel::machine::{Registers, X86_64};
use crate::kernel::memory::{Memory, Spent};
use crate::kernel::open::SYMBOLS;
use crate::kernel::symbols::tests::early_table;
use crate::kernel::tests::description;
use crate::kernel::x86_64::paging::tests::Tables;
use proptest::prelude::*;
use std::sync::OnceLock;

const FUNCTIONS: u64 = 10_200;
const TEXT_BYTES: u64 = 0x4_0000;
const NAMES: u64 = 0x8_0000;
const DESCRIPTION: u64 = 0x20_0000;
const NOTES: u64 = 0x2f_0000;
const DATA: u64 = 0x30_0000;
const END: u64 = 0x40_0000;

const IDT: u64 = 0xffff_fe00_0000_0000;

/// A guest's kernel.
#[derive(Clone, Copy)]
struct Boot {
    /// Where it starts.
    start: u64,
    /// Where that is in RAM.
    physical: u64,
    /// The last byte of its build id.
    build: u8,
    release: &'static str,
    /// What stands before the names of its functions.
    prefix: &'static str,
    /// What its variables are moved by.
    moved: u64,
}

const FIRST: Boot = Boot {
    start: 0xffff_ffff_8100_0000,
    physical: 0x100_0000,
    build: 1,
    release: "6.1.0-9-amd64",
    prefix: "function",
    moved: 0,
};

/// The same after a reboot.
const AGAIN: Boot = Boot { start: 0xffff_ffff_9b60_0000, physical: 0x1fe0_0000, ..FIRST };

impl Boot {
    /// The 16 bytes of each function, then a page of each variable; what is per CPU comes first.
    fn symbols(self) -> Vec<(String, u64)> {
        let mut symbols = vec![("Arunqueues".to_owned(), 0x1c0)];
        symbols.push(("T_text".to_owned(), self.start));
        for number in 0..FUNCTIONS {
            let at = self.start + number * 16;
            match number {
                0 => symbols.push(("T_stext".to_owned(), at)),
                5000 => symbols.push(("Tasm_exc_page_fault".to_owned(), at)),
                _ => symbols.push((format!("t{}_{number}", self.prefix), at)),
            }
        }
        let described = DESCRIPTION + description().len() as u64;
        let placed = [
            ("_etext", TEXT_BYTES),
            ("__start_BTF", DESCRIPTION),
            ("__stop_BTF", described),
            ("__start_notes", NOTES),
            ("__stop_notes", NOTES + 256),
            ("linux_banner", DATA - 0x1000),
        ];
        symbols.extend(placed.map(|(name, at)| (format!("D{name}"), self.start + at)));
        let absent =
            ["_text", "_stext", "asm_exc_page_fault", "page_fault", "runqueues", "_end", "prb"];
        let named: Vec<&str> = absent.into_iter().chain(placed.map(|(name, _)| name)).collect();
        let rest = SYMBOLS.iter().filter(|name| !named.contains(name) && !name.contains("orc"));
        for (number, name) in (0_u64..).zip(rest) {
            symbols.push((format!("D{name}"), self.variable(number)));
        }
        symbols.push(("B_end".to_owned(), self.start + END));
        symbols
    }

    fn variable(self, number: u64) -> u64 {
        self.start + DATA + number * 0x1000 + self.moved
    }

    fn at(self, symbol: &str) -> u64 {
        let symbols = self.symbols();
        symbols.iter().find(|(name, _)| &name[1..] == symbol).unwrap().1
    }

    /// Its RAM, and the registers of its CPU.
    fn up(self) -> (Sparse, Registers) {
        let mut memory = Sparse::default();
        for page in (0..END + 0x1_0000).step_by(4096) {
            memory.write(self.physical + page, &[0x90]);
        }
        let mut put = |at: u64, bytes: &[u8]| {
            memory.write(at.wrapping_sub(self.start) + self.physical, bytes);
        };
        put(self.start + NAMES, &early_table(self.start + NAMES, self.start, &self.symbols()));
        put(self.start + DESCRIPTION, &description());
        let note = |name: &[u8], kind: u32, id: &[u8]| {
            let sizes = [name.len() as u32, id.len() as u32, kind];
            [&sizes.map(u32::to_le_bytes).concat(), name, id].concat()
        };
        let notes = [note(b"Xen\0", 3, &[7; 8]), note(b"GNU\0", 3, &[9, 9, 9, self.build])];
        put(self.start + NOTES, &notes.concat());
        put(self.at("linux_banner"), format!("Linux version {}", self.release).as_bytes());
        let head = self.at("modules");
        put(head, &[head.to_le_bytes(), head.to_le_bytes()].concat());
        // The one member of its structure that the description has.
        put(self.at("init_uts_ns"), format!("{}\0", self.release).as_bytes());
        let mut tables = Tables::new(&mut memory, 0x10_0000, 4);
        tables.map(&mut memory, IDT, 0x5000, 1);
        tables.map(&mut memory, self.start, self.physical, 2);
        let text = self.at("asm_exc_page_fault").to_le_bytes();
        let pieces: [&[u8]; 5] =
            [&text[..2], &[0x10, 0, 0, 0x8e], &text[2..4], &text[4..], &[0; 4]];
        memory.write(0x5000 + 14 * 16, &pieces.concat());
        let cpu = X86_64 { cr3: 0x10_0000, idt: IDT, ..X86_64::default() };
        (memory, Registers::X86_64(cpu))
    }

    /// The page that a crash dump goes by.
    fn leave_note(self, memory: &mut Sparse, at: u64) {
        let (tables, names) = (self.at("init_top_pgt"), self.at("init_uts_ns"));
        let base = self.physical.wrapping_sub(self.start.wrapping_sub(0xffff_ffff_8000_0000));
        let note = format!(
            "OSRELEASE={}\nSYMBOL(init_uts_ns)={names:x}\nSYMBOL(_stext)={:x}\n\
             SYMBOL(swapper_pg_dir)={tables:x}\nNUMBER(phys_base)={}\n",
            self.release,
            self.start,
            base.cast_signed(),
        );
        memory.write(at, note.as_bytes());
    }
}

/// All that a kernel is known by, but for what it cost.
fn told(kernel: &Kernel<'_>, boot: Boot) -> String {
    let name = |offset: u64| {
        let symbol = kernel.symbol(boot.start + offset).unwrap();
        symbol.map(|(symbol, _)| (symbol.name, symbol.start - boot.start))
    };
    let variables: Vec<Option<u64>> = SYMBOLS
        .iter()
        .map(|name| kernel.symbols.maybe(name).map(|at| at.wrapping_sub(boot.start)))
        .collect();
    let percpu = kernel.symbols.maybe("runqueues");
    format!(
        "{:?} {:?} {variables:?} {percpu:?} {:?} {:?}",
        kernel.release().unwrap(),
        [0x1234, 0x7fff, DATA + 0x1010].map(name),
        kernel.layouts,
        kernel.sizes,
    )
    .replace(&format!("Some({})", 0x1c0_u64.wrapping_sub(boot.start)), "per CPU")
}

fn learnt() -> &'static (Learnt, String, Spent) {
    static LEARNT: OnceLock<(Learnt, String, Spent)> = OnceLock::new();
    LEARNT.get_or_init(|| {
        let (memory, cpu) = FIRST.up();
        let kernel = Kernel::open(&memory, &[cpu]).unwrap();
        let spent = kernel.spent();
        (kernel.learnt().unwrap().clone(), told(&kernel, FIRST), spent)
    })
}

/// What one look at such a kernel taught.
pub(crate) fn sample() -> &'static Learnt {
    &learnt().0
}

#[test]
fn the_same_build_is_known_again_wherever_it_lies() {
    let (learnt, first, cost) = learnt();
    assert!(first.contains("function_291") && first.contains("6.1.0-9-amd64"), "{first}");
    let (mut memory, cpu) = AGAIN.up();
    let kernel = Kernel::open_again(&memory, &[cpu], learnt).unwrap();
    assert!(kernel.learnt().is_none());
    let spent = kernel.spent();
    assert!(spent.bytes * 4 < cost.bytes, "{spent:?} {cost:?}");
    assert_eq!(told(&kernel, AGAIN), *first);
    drop(kernel);
    // By another way than it was learnt.
    AGAIN.leave_note(&mut memory, 0x8000);
    let kernel = Kernel::open_again(&memory, &[], learnt).unwrap();
    assert!(kernel.learnt().is_none());
    assert_eq!(told(&kernel, AGAIN), *first);
}

#[test]
fn a_note_at_the_very_end_of_ram_leads_to_the_kernel() {
    let (mut memory, _) = FIRST.up();
    let end = FIRST.physical + END + 0x1_0000;
    FIRST.leave_note(&mut memory, end);
    assert_eq!(memory.ranges().last().unwrap().start, end);
    let kernel = Kernel::open(&memory, &[]).unwrap();
    assert_eq!(kernel.release().unwrap(), FIRST.release);
}

#[test]
fn another_build_is_learnt_anew() {
    let (learnt, ..) = learnt();
    let others = [
        Boot { build: 2, ..AGAIN },
        Boot { release: "6.1.0-8-amd64", ..AGAIN },
        // Both claim to be the build that was learnt, but have their names elsewhere.
        Boot { prefix: "another_function", ..AGAIN },
        Boot { prefix: "functiom", moved: 0x8000, ..AGAIN },
    ];
    for (number, other) in (0..).zip(others) {
        let (memory, cpu) = other.up();
        let expected = told(&Kernel::open(&memory, &[cpu]).unwrap(), other);
        let kernel = Kernel::open_again(&memory, &[cpu], learnt).unwrap();
        assert_eq!(told(&kernel, other), expected, "{number}");
        // Where all names have their numbers, that what they name lies elsewhere is no matter.
        assert_eq!(kernel.learnt().is_some(), number != 3, "{number}");
    }
}

#[test]
fn a_kernel_that_does_not_say_what_it_is_teaches_nothing() {
    let (mut memory, cpu) = FIRST.up();
    memory.write(FIRST.physical + NOTES, &[0; 256]);
    assert!(Kernel::open(&memory, &[cpu]).unwrap().learnt().is_none());
}

#[test]
fn what_is_written_is_read_and_nothing_else_is() {
    let learnt = sample();
    let bytes = learnt.to_bytes();
    assert_eq!(Learnt::read(&bytes).as_ref(), Some(learnt));
    assert!(bytes.starts_with(b"lifesign kernel 1 "));
    let foreign = String::from_utf8(bytes.clone()).unwrap().replacen("kernel 1", "kernel 2", 1);
    assert_eq!(Learnt::read(foreign.as_bytes()), None);
    for end in (0..bytes.len()).step_by(97) {
        assert_eq!(Learnt::read(&bytes[..end]), None, "cut to {end}");
    }
    for place in (0..bytes.len()).step_by(53) {
        let mut flipped = bytes.clone();
        flipped[place] ^= 1 << (place % 8);
        assert_eq!(Learnt::read(&flipped), None, "byte {place}");
    }
}

/// Numbers of a JSON value, in order.
fn numbers<'v>(value: &'v mut serde_json::Value, into: &mut Vec<&'v mut serde_json::Value>) {
    match value {
        serde_json::Value::Number(_) => into.push(value),
        serde_json::Value::Array(values) => values.iter_mut().for_each(|it| numbers(it, into)),
        serde_json::Value::Object(values) => values.values_mut().for_each(|it| numbers(it, into)),
        serde_json::Value::Null | serde_json::Value::Bool(_) | serde_json::Value::String(_) => {}
    }
}

proptest! {
    #[test]
    fn any_bytes_are_taken(bytes: Vec<u8>) {
        prop_assert_eq!(Learnt::read(&bytes), None);
        let body = [format!("{MAGIC} {}\n", Digest::of(&bytes)).into_bytes(), bytes.clone()].concat();
        prop_assert_eq!(Learnt::read(&body), None);
        _ = build_id(&bytes);
    }

    #[test]
    fn any_notes_are_taken(words in proptest::collection::vec(0_u32..24, 0..64)) {
        let bytes: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
        if let Some(id) = build_id(&bytes) {
            prop_assert!((1..=ID_BYTES).contains(&id.len()));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// What a file says that somebody made with care: the kernel opens, within its allowance.
    #[test]
    fn what_was_learnt_wrongly_harms_nothing(lies in proptest::collection::vec((any::<usize>(), prop_oneof![any::<u64>(), 0_u64..70_000]), 1..6)) {
        static UP: OnceLock<(Sparse, Registers)> = OnceLock::new();
        let (memory, cpu) = UP.get_or_init(|| AGAIN.up());
        let mut value = serde_json::to_value(sample()).unwrap();
        let mut all = Vec::new();
        numbers(&mut value, &mut all);
        for (place, lie) in lies {
            let place = place % all.len();
            *all[place] = lie.into();
        }
        let Ok(lying) = serde_json::from_value::<Learnt>(value) else { return Ok(()) };
        let kernel = Kernel::open_again(memory, &[*cpu], &lying).unwrap();
        prop_assert_eq!(kernel.release().unwrap(), AGAIN.release);
        for offset in (0..END).step_by(0x1_0001) {
            if let Ok(Some((symbol, _))) = kernel.symbol(AGAIN.start + offset) {
                prop_assert!(symbol.name.len() <= 512);
            }
        }
    }
}
