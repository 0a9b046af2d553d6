//! Tables as the kernel's build makes them, in all orders and rules, and what is no table.

use super::*;
use crate::kernel::faulty::{Rubbish, Sparse};
use crate::kernel::memory::{Allowance, Reader};
use crate::kernel::paging::Paging;
use crate::kernel::space::Image;
use crate::kernel::x86_64;
use locate::Rule;
use proptest::prelude::*;

const BASE: u64 = 0xffff_ffff_8100_0000;
const TABLES: u64 = BASE + 0x20_0000;
const COUNT: u32 = 10_300;
const BANNER: u64 = BASE + 0x9_0000;
const PLENTY: Allowance = Allowance { reads: 100_000, bytes: 256 << 20 };

fn space(memory: &dyn crate::kernel::memory::Memory, allowance: Allowance) -> Space<'_> {
    let image = Image {
        at: BASE - (16 << 20)..BASE + (64 << 20),
        to_physical: 0x100_0000_u64.wrapping_sub(BASE),
    };
    Space::new(Reader::new(memory, allowance), Paging::new(0, x86_64::paging::form(0)), image)
}

/// Symbol `number`: some are per CPU, two have one address, one has a long name.
fn symbol(number: u32) -> (String, u64) {
    let address = match number {
        0..20 => u64::from(number) * 64,
        // The same as the one before it.
        300 => BASE + 299 * 16,
        _ => BASE + u64::from(number) * 16,
    };
    match number {
        7 => ("Arunqueues".to_owned(), address),
        255 => (format!("t{}", "x".repeat(200)), address),
        5000 => ("Tasm_exc_page_fault".to_owned(), address),
        // Looks like a count, and names do follow.
        8000..8400 => ("t\u{3}\u{1}\0".to_owned(), address),
        9000 => ("Dlinux_banner".to_owned(), BANNER),
        _ => (format!("tfunction_{number}"), address),
    }
}

fn packed_names(symbols: &[(String, u64)]) -> Vec<u8> {
    let mut names = Vec::new();
    for (name, _) in symbols {
        match u8::try_from(name.len()).ok().filter(|length| *length < 0x80) {
            Some(length) => names.push(length),
            None => names.extend([name.len() as u8 | 0x80, (name.len() >> 7) as u8]),
        }
        names.extend(name.bytes());
    }
    names
}

fn markers(symbols: &[(String, u64)]) -> Vec<u8> {
    let before = |number: usize| packed_names(&symbols[..number]).len() as u32;
    (0..symbols.len())
        .step_by(STEP as usize)
        .flat_map(|number| before(number).to_le_bytes())
        .collect()
}

/// Letters stand for themselves, all other bytes for something longer.
fn token_table() -> (Vec<u8>, Vec<u8>) {
    let (mut table, mut index) = (Vec::new(), Vec::new());
    for token in 0..=255_u8 {
        index.extend((table.len() as u16).to_le_bytes());
        match token.is_ascii_graphic() {
            true => table.push(token),
            false => table.extend(b"pack_"),
        }
        table.push(0);
    }
    (table, index)
}

/// The table as it lies from `at` on; `modern` is the order since 6.4.
fn table(at: u64, symbols: &[(String, u64)], rule: Rule, modern: bool) -> Vec<u8> {
    let mut table = Vec::new();
    let aligned = if rule == Rule::FromItself { 4 } else { 8 };
    let put = |table: &mut Vec<u8>, bytes: &[u8]| {
        table.extend(bytes);
        table.resize(table.len().next_multiple_of(aligned), 0);
    };
    let put_offsets = |table: &mut Vec<u8>| {
        let places = (at + table.len() as u64..).step_by(4);
        let offset = |(place, (_, address)): (u64, &(String, u64))| match rule {
            // What is per CPU is near zero.
            Rule::PercpuAbsolute(_) if *address < 1 << 16 => *address as i32,
            Rule::PercpuAbsolute(base) => (base - 1).wrapping_sub(*address) as i64 as i32,
            Rule::Relative(base) => address.wrapping_sub(base) as u32 as i32,
            Rule::FromItself => address.wrapping_sub(place) as i64 as i32,
        };
        let offsets = places.zip(symbols).map(offset);
        put(table, &offsets.flat_map(i32::to_le_bytes).collect::<Vec<u8>>());
        if let Rule::PercpuAbsolute(base) | Rule::Relative(base) = rule {
            put(table, &base.to_le_bytes());
        }
    };
    put(&mut table, b"something else in read-only data");
    if aligned == 4 {
        put(&mut table, b"more");
    }
    if !modern {
        put_offsets(&mut table);
    }
    put(&mut table, &(symbols.len() as u32).to_le_bytes());
    put(&mut table, &packed_names(symbols));
    put(&mut table, &markers(symbols));
    let (tokens, index) = token_table();
    put(&mut table, &tokens);
    put(&mut table, &index);
    if modern {
        put_offsets(&mut table);
    }
    table
}

/// A table in the order until 6.3, of a kernel that starts at `base`.
pub(in crate::kernel) fn early_table(at: u64, base: u64, symbols: &[(String, u64)]) -> Vec<u8> {
    table(at, symbols, Rule::PercpuAbsolute(base), false)
}

/// Lays out a kernel.
fn kernel(rule: Rule, modern: bool) -> Sparse {
    let mut memory = Sparse::default();
    let physical = |at: u64| at.wrapping_sub(BASE) + 0x100_0000;
    let symbols: Vec<(String, u64)> = (0..COUNT).map(symbol).collect();
    let table = table(TABLES, &symbols, rule, modern);
    memory.write(physical(TABLES), &table);
    memory.write(physical(TABLES) + table.len() as u64, &[0; 256 * 1024]);
    // The text before.
    for page in (0x100_0000 - 0x1_0000..0x120_0000).step_by(4096) {
        memory.write(page + 8, &[0x90]);
    }
    memory.write(physical(BANNER), b"Linux version 6.1.0");
    memory
}

impl Symbols {
    /// Those alone, and no table.
    pub(in crate::kernel) fn of(wanted: &[(&'static str, u64)]) -> Self {
        Self {
            tokens: Tokens::none(),
            names: Names { count: 0, marks: Vec::new(), wanted: BTreeMap::new() },
            offsets: Offsets { at: 0, rule: Rule::FromItself },
            firsts: Vec::new(),
            wanted: wanted.iter().copied().collect(),
            seen: Seen::default(),
        }
    }
}

fn find(memory: &Sparse) -> Result<Symbols, SymbolsError> {
    let known = [("page_fault", 1), ("asm_exc_page_fault", BASE + 80_000)];
    Symbols::find(&space(memory, PLENTY), BASE + 0x1234, &known, &["runqueues", "absent"])
}

#[test]
fn every_layout_is_found() {
    let relative = BASE - 0x100;
    let layouts = [
        (Rule::PercpuAbsolute(BASE), false),
        (Rule::PercpuAbsolute(BASE), true),
        (Rule::FromItself, true),
    ];
    for (rule, modern) in layouts {
        let memory = kernel(rule, modern);
        let symbols = find(&memory).unwrap();
        assert_eq!((symbols.names.count, symbols.offsets.rule), (COUNT, rule), "{modern}");
        assert_eq!(symbols.maybe("linux_banner"), Some(BANNER));
        if rule != Rule::FromItself {
            assert_eq!(symbols.maybe("runqueues"), Some(7 * 64));
        }
        assert_eq!(symbols.must("absent"), Err(SymbolsError::Missing("absent")));
    }
    // Nothing per CPU is below such a base.
    assert_ne!(
        Rule::Relative(relative).address(0, 16),
        Rule::PercpuAbsolute(relative).address(0, 16)
    );
}

#[test]
fn an_address_has_the_name_that_the_kernel_gives_it() {
    let memory = kernel(Rule::PercpuAbsolute(BASE), false);
    let symbols = find(&memory).unwrap();
    let space = space(&memory, PLENTY);
    let at = |address: u64| {
        let symbol = symbols.at(&space, address).unwrap()?;
        Some((symbol.name, address - symbol.start, symbol.end - symbol.start))
    };
    assert_eq!(at(BASE + 16 * 256 + 3), Some(("function_256".to_owned(), 3, 16)));
    assert_eq!(at(BASE + 16 * 256 + 15), Some(("function_256".to_owned(), 15, 16)));
    assert_eq!(at(BASE + 16 * 255), Some(("x".repeat(200), 0, 16)));
    assert_eq!(at(BASE + 16 * 299), Some(("function_299".to_owned(), 0, 32)));
    assert_eq!(at(BASE + 16 * 512), Some(("function_512".to_owned(), 0, 16)));
    assert_eq!(at(64 * 7 + 1), Some(("runqueues".to_owned(), 1, 64)));
    assert_eq!(at(BASE + 16 * 20_000), None);
}

#[test]
fn what_gives_known_symbols_other_addresses_is_not_believed() {
    let memory = kernel(Rule::PercpuAbsolute(BASE), true);
    let space = space(&memory, PLENTY);
    let wrong = [("asm_exc_page_fault", BASE + 80_016)];
    let found = Symbols::find(&space, BASE, &wrong, &[]);
    assert_eq!(found.err(), Some(SymbolsError::Unknown));
    let unknown = [("page_fault", BASE)];
    assert_eq!(Symbols::find(&space, BASE, &unknown, &[]).err(), Some(SymbolsError::Unknown));
    // One whose variables have no names.
    let mut functions = memory.clone();
    let symbols = (0..COUNT).map(symbol).map(|(name, at)| (name.replace("linux_banner", "it"), at));
    let table = table(TABLES, &symbols.collect::<Vec<_>>(), Rule::Relative(BASE), true);
    functions.write(TABLES.wrapping_sub(BASE) + 0x100_0000, &table);
    let functions = Symbols::find(&self::space(&functions, PLENTY), BASE, &wrong, &[]);
    assert_eq!(functions.err(), Some(SymbolsError::Missing("linux_banner")));
    let behind = Symbols::find(&space, TABLES + (1 << 20), &wrong, &[]);
    assert_eq!(behind.err(), Some(SymbolsError::NoTokens));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// A kernel with pieces overwritten: bounded, no panic, and never an answer outside of the table.
    #[test]
    fn a_damaged_table_is_taken(damage in proptest::collection::vec((0_u64..400_000, any::<[u8; 16]>()), 1..12), address in 0_u64..0x5_0000) {
        static KERNEL: std::sync::OnceLock<Sparse> = std::sync::OnceLock::new();
        let mut memory = KERNEL.get_or_init(|| kernel(Rule::PercpuAbsolute(BASE), false)).clone();
        for (place, bytes) in damage {
            memory.write(TABLES - BASE + 0x100_0000 + place, &bytes);
        }
        let space = space(&memory, Allowance { reads: 20_000, bytes: 64 << 20 });
        let known = [("asm_exc_page_fault", BASE + 80_000)];
        if let Ok(symbols) = Symbols::find(&space, BASE, &known, &["runqueues"])
            && let Ok(Some(symbol)) = symbols.at(&space, BASE + address)
        {
            prop_assert!((symbol.start..symbol.end).contains(&(BASE + address)));
            prop_assert!(symbol.name.len() <= 512);
        }
    }

    #[test]
    fn any_memory_is_taken(bytes in proptest::collection::vec(any::<u8>(), 1..2000), text: u64) {
        let memory = Rubbish(bytes);
        let space = space(&memory, Allowance { reads: 1000, bytes: 1 << 22 });
        prop_assert!(Symbols::find(&space, text, &[("page_fault", text)], &[]).is_err());
    }
}
