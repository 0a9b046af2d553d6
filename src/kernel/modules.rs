//! Modules: where their code is, how it is unwound, and what its functions are called.

use super::memory::Fault;
use super::space::Space;
use super::symbols::{Seen, Symbol};
use super::types::layout::{self, Layout as _, View};
use super::walk::List;
use super::x86_64::orc::Table;
use std::ops::Range;

/// A full distribution loads some 300.
const MODULES: usize = 4096;

/// The largest have some 10,000 symbols.
const SYMBOLS: u64 = 1 << 17;

/// The largest module has 16 MB.
const BYTES: u64 = 64 << 20;

/// An entry of an ELF symbol table: name, info, place and section, value, size.
const SYMBOL: usize = 24;

const NAME_BYTES: usize = 512;

/// Kinds of memory that a module has; the first one is code.
const PARTS: u64 = 8;

/// A loaded module.
#[derive(Clone, Debug)]
pub(super) struct Module {
    pub(super) name: String,
    /// Its memory, the code first.
    pub(super) parts: Vec<Range<u64>>,
    pub(super) orc: Option<Table>,
    symbols: u64,
    symbol_count: u64,
    strings: u64,
    seen: Seen,
}

/// How modules are laid out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) module: layout::Module,
    pub(super) memory: layout::ModuleMemory,
    pub(super) memory_bytes: u64,
    pub(super) names: layout::ModuleNames,
}

impl Module {
    /// All that are loaded.
    pub(super) fn all(space: &Space<'_>, layout: &Layout, head: u64) -> Result<Vec<Self>, Fault> {
        let offset = layout.module.list.offset;
        let mut modules = Vec::new();
        for at in
            List::read(space, head, MODULES)?.at.iter().map(|at| at.wrapping_sub(u64::from(offset)))
        {
            match Self::read(space, layout, at) {
                Ok(module) => modules.push(module),
                Err(Fault::Spent) => return Err(Fault::Spent),
                // It was unloaded this moment.
                Err(_) => {}
            }
        }
        Ok(modules)
    }

    fn read(space: &Space<'_>, layout: &Layout, at: u64) -> Result<Self, Fault> {
        let module = layout.module.read(space, at)?;
        let parts = parts(&module, space, layout, at)?;
        let word = |field: Option<layout::Field>| field.map_or(0, |field| module.word(field));
        let code = parts.first().cloned().unwrap_or_default();
        let orc = Table {
            code: vec![code],
            places: word(layout.module.orc_ip),
            entries: word(layout.module.orc),
            count: word(layout.module.orc_count),
        };
        let names = layout.names.read(space, module.word(layout.module.kallsyms))?;
        Ok(Self {
            name: String::from_utf8_lossy(module.text(layout.module.name)).into_owned(),
            parts,
            orc: (orc.count > 0).then_some(orc),
            symbols: names.word(layout.names.symbols),
            symbol_count: u64::from(names.u32(layout.names.count)).min(SYMBOLS),
            strings: names.word(layout.names.strings),
            seen: Seen::default(),
        })
    }

    pub(super) fn holds(&self, address: u64) -> bool {
        self.parts.iter().any(|part| part.contains(&address))
    }

    /// Whether it is in the module's code.
    pub(super) fn runs(&self, address: u64) -> bool {
        self.parts.first().is_some_and(|code| code.contains(&address))
    }

    /// The symbol that an address belongs to.
    pub(super) fn at(&self, space: &Space<'_>, address: u64) -> Result<Option<Symbol>, Fault> {
        self.seen.or(address, || self.search(space, address))
    }

    /// The last symbol before an address, in a table that is not sorted.
    fn search(&self, space: &Space<'_>, address: u64) -> Result<Option<Symbol>, Fault> {
        let Some(part) = self.parts.iter().find(|part| part.contains(&address)) else {
            return Ok(None);
        };
        let mut stream = space
            .stream(self.symbols..self.symbols.saturating_add(self.symbol_count * SYMBOL as u64));
        let (mut best, mut end) = (None::<(u64, u32)>, part.end);
        for _ in 0..self.symbol_count {
            let bytes = stream.take(SYMBOL)?;
            let name = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            let section = u16::from_le_bytes([bytes[6], bytes[7]]);
            let value = u64::from_le_bytes(bytes[8..16].first_chunk().copied().unwrap_or_default());
            let has_type = bytes[4] & 0xf != 0;
            if section == 0 || name == 0 || !part.contains(&value) {
                continue;
            }
            if !has_type && self.marks(space, name)? {
                continue;
            }
            if value > address {
                end = end.min(value);
            } else if best.is_none_or(|(start, _)| start < value) {
                best = Some((value, name));
            }
        }
        let Some((start, name)) = best else { return Ok(None) };
        let name = space.text(self.strings.wrapping_add(u64::from(name)), NAME_BYTES)?;
        Ok(String::from_utf8(name).ok().map(|name| Symbol { name, start, end }))
    }

    /// Whether it is no name, but says whether code or data follows, as `$x` and `$d` on arm64.
    fn marks(&self, space: &Space<'_>, name: u32) -> Result<bool, Fault> {
        let first: [u8; 1] = space.array(self.strings.wrapping_add(u64::from(name)))?;
        Ok(first == *b"$")
    }
}

fn parts(
    module: &View<'_>,
    space: &Space<'_>,
    layout: &Layout,
    at: u64,
) -> Result<Vec<Range<u64>>, Fault> {
    let range = |base: u64, bytes: u64| base..base.saturating_add(bytes.min(BYTES));
    if let (Some(base), Some(size)) = (layout.module.core_base, layout.module.core_size) {
        let core = range(module.word(base), module.word(size));
        return Ok(vec![core]);
    }
    let (Some(parts), Some(base), Some(size)) =
        (layout.module.parts, layout.memory.base, layout.memory.size)
    else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    let count =
        u64::from(parts.bytes).checked_div(layout.memory_bytes).unwrap_or_default().min(PARTS);
    for number in 0..count {
        let at = at.wrapping_add(u64::from(parts.offset) + number * layout.memory_bytes);
        let part = layout.memory.read(space, at)?;
        found.push(range(part.word(base), part.word(size)));
    }
    Ok(found)
}
