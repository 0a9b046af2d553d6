//! An open kernel: found, and with all that its own descriptions tell.

use super::machine::Registers;
use super::memory::{Allowance, Fault, Memory, Reader, Spent};
use super::modules::{self, Module};
use super::requests;
use super::space::Space;
use super::symbols::{Symbol, Symbols, SymbolsError};
use super::types::layout::{self, Field};
use super::types::{Types, TypesError};
use super::x86_64::boot;
use super::x86_64::orc::{Orc, Table};
use super::x86_64::unwind::Call;
use crate::base::limits;
use crate::evidence::trace::{Context, Frame};
use std::ops::Range;

/// Symbols that are asked for by name.
const SYMBOLS: [&str; 25] = [
    "__cpu_online_mask",
    "__per_cpu_offset",
    "__start_BTF",
    "__start_orc_unwind",
    "__start_orc_unwind_ip",
    "__stop_BTF",
    "__stop_orc_unwind_ip",
    "__switch_to_asm",
    "_einittext",
    "_end",
    "_etext",
    "_sinittext",
    "_stext",
    "_text",
    "console_printk",
    "init_task",
    "init_top_pgt",
    "init_uts_ns",
    "modules",
    "nr_cpu_ids",
    "prb",
    "runqueues",
    "super_blocks",
    "sysrq_always_enabled",
    "sysrq_enabled",
];

const UTS_BYTES: usize = 64;

/// A guest's kernel.
pub struct Kernel<'m> {
    pub(super) space: Space<'m>,
    pub(super) symbols: Symbols,
    pub(super) layouts: Layouts,
    pub(super) sizes: Sizes,
    pub(super) modules: Vec<Module>,
    pub(super) orc: Option<Orc>,
    pub(super) text: Vec<Range<u64>>,
}

/// All structures that are read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layouts {
    pub(super) task: layout::Task,
    pub(super) signal: layout::Signal,
    pub(super) frame: layout::InactiveFrame,
    pub(super) queue: layout::RunQueue,
    pub(super) ring: layout::Ring,
    pub(super) descriptor: layout::Descriptor,
    pub(super) record: layout::RecordInfo,
    pub(super) mutex: layout::Mutex,
    pub(super) mutex_waiter: layout::MutexWaiter,
    pub(super) rwsem: layout::Rwsem,
    pub(super) rwsem_waiter: layout::RwsemWaiter,
    pub(super) wait_entry: layout::WaitEntry,
    pub(super) percpu_rwsem: layout::PercpuRwsem,
    pub(super) super_block: layout::SuperBlock,
    pub(super) file_system: layout::FileSystem,
    pub(super) uts: layout::Uts,
    /// Nothing where the kernel has its disks otherwise.
    pub(super) requests: Option<requests::Layouts>,
}

/// How long the elements of arrays are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) descriptor: u64,
    pub(super) info: u64,
    pub(super) super_block: u64,
}

/// Why a kernel cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Neither registers nor RAM lead to one.
    #[error(
        "no Linux kernel is found in the guest's memory: it may not have booted yet, or runs something else"
    )]
    NotFound,
    /// Its functions have no names.
    #[error("failed to read the guest's kernel")]
    Symbols(#[source] SymbolsError),
    /// Its structures are not known.
    #[error("failed to read the guest's kernel")]
    Types(#[source] TypesError),
    /// Something that every kernel has cannot be read.
    #[error("failed to read the guest's kernel")]
    Fault(#[source] Fault),
}

impl<'m> Kernel<'m> {
    /// Finds the kernel, by the registers of any CPU if there are, else by searching all RAM.
    ///
    /// # Errors
    ///
    /// When there is none, or it does not describe itself.
    pub fn open(memory: &'m dyn Memory, cpus: &[Registers]) -> Result<Self, OpenError> {
        let allowance = Allowance { reads: limits::LOOK_READS, bytes: limits::LOOK_BYTES };
        let reader = Reader::new(memory, allowance);
        let found = boot::by_registers(&reader, cpus).or_else(|| {
            // A search reads all RAM once, which the look itself never does.
            let bytes = memory.ranges().iter().map(|range| range.end - range.start).sum();
            boot::by_note(&Reader::new(memory, Allowance { reads: limits::LOOK_READS, bytes }))
        });
        let found = found.ok_or(OpenError::NotFound)?;
        let space = Space::new(reader, found.paging, found.image);
        let symbols = Symbols::find(&space, found.text, &found.known, &SYMBOLS)
            .map_err(OpenError::Symbols)?;
        let must = |name| symbols.must(name).map_err(OpenError::Symbols);
        let image = must("_text")?..must("_end")?;
        let root = must("init_top_pgt")?.wrapping_add(space.image().to_physical);
        let space = space.settle(root, image);
        let text = vec![
            must("_stext")?..must("_etext")?,
            symbols.maybe("_sinittext").unwrap_or_default()
                ..symbols.maybe("_einittext").unwrap_or_default(),
        ];
        let described = must("__start_BTF")?..must("__stop_BTF")?;
        let types = Types::read(&space, described, &layout::words()).map_err(OpenError::Types)?;
        let (layouts, sizes) = (Layouts::of(&types, &space), Sizes::of(&types, &space));
        let (layouts, sizes) =
            (layouts.map_err(OpenError::Types)?, sizes.map_err(OpenError::Types)?);
        let modules = modules(&types, &space, must("modules")?)?;
        let mut kernel = Self { space, symbols, layouts, sizes, modules, orc: None, text };
        kernel.orc = kernel.tables(&types)?;
        Ok(kernel)
    }

    /// The kernel's version, as `uname -r` has it.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn release(&self) -> Result<String, Fault> {
        let Some(at) = self.symbols.maybe("init_uts_ns") else { return Ok(String::new()) };
        let release = self.layouts.uts.release;
        let text = self.space.text(at.wrapping_add(u64::from(release.offset)), UTS_BYTES)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// What was read so far.
    #[must_use]
    pub fn spent(&self) -> Spent {
        self.space.reader().spent()
    }

    /// Whether there may be code.
    pub(super) fn is_text(&self, address: u64) -> bool {
        self.text.iter().any(|text| text.contains(&address))
            || self.modules.iter().any(|module| module.runs(address))
    }

    /// What a place is called, and the module that it belongs to.
    pub(super) fn symbol(&self, address: u64) -> Result<Option<(Symbol, Option<&str>)>, Fault> {
        if let Some(module) = self.modules.iter().find(|module| module.holds(address)) {
            let symbol = module.at(&self.space, address)?;
            return Ok(symbol.map(|symbol| (symbol, Some(module.name.as_str()))));
        }
        if !self.space.image().at.contains(&address) {
            return Ok(None);
        }
        Ok(self.symbols.at(&self.space, address)?.map(|symbol| (symbol, None)))
    }

    /// A call as the kernel itself prints it.
    pub(super) fn frame(&self, call: Call) -> Result<Option<Frame>, Fault> {
        // A call at the very end of a function returns to the next one.
        let within = if call.is_exact { call.at } else { call.at.wrapping_sub(1) };
        let found = self.symbol(within)?;
        Ok(found.map(|(symbol, module)| Frame {
            offset: call.at.wrapping_sub(symbol.start),
            size: symbol.end.wrapping_sub(symbol.start),
            function: symbol.name,
            module: module.map(str::to_owned),
            certain: true,
            context: Context::Task,
        }))
    }

    fn tables(&self, types: &Types) -> Result<Option<Orc>, OpenError> {
        let symbol = |name| self.symbols.maybe(name);
        let (Some(places), Some(end), Some(entries), Some(first)) = (
            symbol("__start_orc_unwind_ip"),
            symbol("__stop_orc_unwind_ip"),
            symbol("__start_orc_unwind"),
            symbol("__switch_to_asm"),
        ) else {
            return Ok(None);
        };
        let count = end.saturating_sub(places) / 4;
        let mut tables = vec![Table { code: self.text.clone(), places, entries, count }];
        tables.extend(self.modules.iter().filter_map(|module| module.orc.clone()));
        let layout = layout::OrcEntry::of(types, &self.space).map_err(OpenError::Types)?;
        Orc::new(&self.space, layout, tables, first).map_err(OpenError::Fault)
    }
}

fn modules(types: &Types, space: &Space<'_>, head: u64) -> Result<Vec<Module>, OpenError> {
    let layout = || {
        Ok(modules::Layout {
            module: layout::Module::of(types, space)?,
            memory: layout::ModuleMemory::of(types, space)?,
            memory_bytes: types.bytes_of(space, "module_memory")?.unwrap_or_default(),
            names: layout::ModuleNames::of(types, space)?,
        })
    };
    Module::all(space, &layout().map_err(OpenError::Types)?, head).map_err(OpenError::Fault)
}

impl Layouts {
    pub(super) fn of(types: &Types, space: &Space<'_>) -> Result<Self, TypesError> {
        Ok(Self {
            task: layout::Task::of(types, space)?,
            signal: layout::Signal::of(types, space)?,
            frame: layout::InactiveFrame::of(types, space)?,
            queue: layout::RunQueue::of(types, space)?,
            ring: layout::Ring::of(types, space)?,
            descriptor: layout::Descriptor::of(types, space)?,
            record: layout::RecordInfo::of(types, space)?,
            mutex: layout::Mutex::of(types, space)?,
            mutex_waiter: layout::MutexWaiter::of(types, space)?,
            rwsem: layout::Rwsem::of(types, space)?,
            rwsem_waiter: layout::RwsemWaiter::of(types, space)?,
            wait_entry: layout::WaitEntry::of(types, space)?,
            percpu_rwsem: layout::PercpuRwsem::of(types, space)?,
            super_block: layout::SuperBlock::of(types, space)?,
            file_system: layout::FileSystem::of(types, space)?,
            uts: layout::Uts::of(types, space)?,
            requests: requests::Layouts::of(types, space).ok(),
        })
    }
}

impl Sizes {
    /// Elements of arrays that are read by the block must have a size that makes sense.
    fn of(types: &Types, space: &Space<'_>) -> Result<Self, TypesError> {
        let bytes = |name: &'static str| {
            let bytes = types.bytes_of(space, name)?.filter(|bytes| (8..=4096).contains(bytes));
            bytes.ok_or(TypesError::Missing(name))
        };
        Ok(Self {
            descriptor: bytes("prb_desc")?,
            info: bytes("printk_info")?,
            super_block: bytes("super_block")?,
        })
    }
}

/// Where a member of a structure at `at` is.
pub(super) fn place(at: u64, field: Field) -> u64 {
    at.wrapping_add(u64::from(field.offset))
}
