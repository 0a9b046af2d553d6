//! An open kernel: found, and with all that its own descriptions tell.

use super::boot::{self, Found};
use super::learnt::{Build, Learnt};
use super::machine::{Architecture, Registers};
use super::memory::{Allowance, Fault, Memory, Reader, Spent};
use super::modules::{self, Module};
use super::space::Space;
use super::symbols::{Symbol, Symbols, SymbolsError};
use super::types::layout::{self, Field};
use super::types::{Types, TypesError};
use super::unwind::{self, Call, Unwinder};
use super::{locks, requests};
use crate::base::limits;
use crate::evidence::trace::{Context, Frame};
use std::ops::Range;

/// Symbols that are asked for by name.
pub(super) const SYMBOLS: [&str; 31] = [
    "__cpu_online_mask",
    "__per_cpu_offset",
    "__start_BTF",
    "__start_notes",
    "__start_orc_unwind",
    "__start_orc_unwind_ip",
    "__stop_BTF",
    "__stop_notes",
    "__stop_orc_unwind_ip",
    "__switch_to_asm",
    "_einittext",
    "_end",
    "_etext",
    "_sinittext",
    "_stext",
    "_text",
    "asm_exc_page_fault",
    "console_printk",
    "init_task",
    "init_top_pgt",
    "init_uts_ns",
    "modules",
    "nr_cpu_ids",
    "page_fault",
    "prb",
    "runqueues",
    "hrtimer_bases",
    "super_blocks",
    "swapper_pg_dir",
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
    pub(super) unwinder: Unwinder,
    pub(super) text: Vec<Range<u64>>,
    pub(super) stack_bytes: u64,
    pub(super) learnt: Option<Learnt>,
}

/// What a kernel's own descriptions say of it.
struct Described {
    symbols: Symbols,
    layouts: Layouts,
    sizes: Sizes,
    modules: modules::Layout,
    unwinding: unwind::Layouts,
}

/// All structures that are read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layouts {
    pub(super) task: layout::Task,
    pub(super) signal: layout::Signal,
    pub(super) queue: layout::RunQueue,
    pub(super) timers: layout::Timers,
    pub(super) ring: layout::Ring,
    pub(super) descriptor: layout::Descriptor,
    pub(super) record: layout::RecordInfo,
    pub(super) super_block: layout::SuperBlock,
    pub(super) file_system: layout::FileSystem,
    pub(super) uts: layout::Uts,
    /// Nothing where the kernel has its locks otherwise, as a real-time kernel.
    pub(super) locks: Option<locks::Layouts>,
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
        Self::find(memory, cpus, None)
    }

    /// The same of a guest whose kernel may be of the build of which this was learnt. If it is not, all
    /// is learnt anew.
    ///
    /// # Errors
    ///
    /// As [`Kernel::open`].
    pub fn open_again(
        memory: &'m dyn Memory,
        cpus: &[Registers],
        learnt: &Learnt,
    ) -> Result<Self, OpenError> {
        Self::find(memory, cpus, Some(learnt))
    }

    fn find(
        memory: &'m dyn Memory,
        cpus: &[Registers],
        learnt: Option<&Learnt>,
    ) -> Result<Self, OpenError> {
        let allowance = Allowance { reads: limits::LOOK_READS, bytes: limits::LOOK_BYTES };
        let reader = Reader::new(memory, allowance);
        let found = boot::by_registers(&reader, cpus).or_else(|| {
            // A search reads all RAM once, which the look itself never does.
            let ram: u64 = memory.ranges().iter().map(|range| range.end - range.start).sum();
            let bytes = ram.saturating_add(boot::NOTES_BYTES);
            boot::by_note(&Reader::new(memory, Allowance { reads: limits::LOOK_READS, bytes }))
        });
        let Found { architecture, paging, image, text, known } =
            found.ok_or(OpenError::NotFound)?;
        let space = Space::new(reader, paging, image);
        let again =
            learnt.and_then(|learnt| Described::again(&space, architecture, &known, learnt));
        let (described, learnt) = match again {
            Some(described) => (described, None),
            None => Described::first(&space, architecture, text, &known)?,
        };
        Self::of(space, architecture, described, learnt)
    }

    fn of(
        space: Space<'m>,
        architecture: Architecture,
        described: Described,
        learnt: Option<Learnt>,
    ) -> Result<Self, OpenError> {
        let Described { symbols, layouts, sizes, modules, unwinding } = described;
        let must = |name| symbols.must(name).map_err(OpenError::Symbols);
        let image = must("_text")?..must("_end")?;
        let root = must(architecture.root())?.wrapping_add(space.image().to_physical);
        let space = space.settle(root, image);
        let text = vec![
            must("_stext")?..must("_etext")?,
            symbols.maybe("_sinittext").unwrap_or_default()
                ..symbols.maybe("_einittext").unwrap_or_default(),
        ];
        let modules = Module::all(&space, &modules, must("modules")?).map_err(OpenError::Fault)?;
        let unwinder = Unwinder::new(unwinding, &space, &symbols, &text, &modules)
            .map_err(OpenError::Fault)?;
        let stack_bytes = architecture.stack_bytes();
        Ok(Self { space, symbols, layouts, sizes, modules, unwinder, text, stack_bytes, learnt })
    }

    /// What was learnt of its build, if that was not known before.
    #[must_use]
    pub fn learnt(&self) -> Option<&Learnt> {
        self.learnt.as_ref()
    }

    /// The kernel's version, as `uname -r` has it.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn release(&self) -> Result<String, Fault> {
        release(&self.space, &self.symbols, self.layouts.uts)
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
}

impl Described {
    /// Goes through all descriptions, and tells what was learnt if the kernel says which build it is.
    fn first(
        space: &Space<'_>,
        architecture: Architecture,
        text: u64,
        known: &[(&'static str, u64)],
    ) -> Result<(Self, Option<Learnt>), OpenError> {
        let symbols = Symbols::find(space, text, known, &SYMBOLS).map_err(OpenError::Symbols)?;
        let must = |name| symbols.must(name).map_err(OpenError::Symbols);
        let types = must("__start_BTF")?..must("__stop_BTF")?;
        let types = Types::read(space, types).map_err(OpenError::Types)?;
        let start = must("_text")?;
        let described = Self::of(symbols, architecture, &types, space).map_err(OpenError::Types)?;
        let learnt = described.build(space).map(|build| {
            let symbols = described.symbols.places(start, &boot::KNOWN, &SYMBOLS);
            Learnt { build, symbols, types: types.answers() }
        });
        Ok((described, learnt))
    }

    /// Takes what was learnt; nothing if this is another build, or anything in it does not fit.
    fn again(
        space: &Space<'_>,
        architecture: Architecture,
        known: &[(&'static str, u64)],
        learnt: &Learnt,
    ) -> Option<Self> {
        let symbols = Symbols::again(space, &learnt.symbols, known, &SYMBOLS)?;
        let types = Types::remembered(learnt.types.clone()).ok()?;
        let described = Self::of(symbols, architecture, &types, space).ok()?;
        (described.build(space)? == learnt.build).then_some(described)
    }

    fn of(
        symbols: Symbols,
        architecture: Architecture,
        types: &Types,
        space: &Space<'_>,
    ) -> Result<Self, TypesError> {
        let memory_bytes = types.bytes_of(space, "module_memory")?.unwrap_or_default();
        let modules = modules::Layout {
            module: layout::Module::of(types, space)?,
            memory: layout::ModuleMemory::of(types, space)?,
            memory_bytes: u64::from(memory_bytes),
            names: layout::ModuleNames::of(types, space)?,
        };
        Ok(Self {
            symbols,
            layouts: Layouts::of(types, space)?,
            sizes: Sizes::of(types, space)?,
            modules,
            unwinding: unwind::Layouts::of(architecture, types, space)?,
        })
    }

    /// Which build it is; nothing where it does not say.
    fn build(&self, space: &Space<'_>) -> Option<Build> {
        let notes = self.symbols.maybe("__start_notes")?..self.symbols.maybe("__stop_notes")?;
        let release = release(space, &self.symbols, self.layouts.uts).ok()?;
        Build::read(space, notes, release)
    }
}

/// The kernel's version.
fn release(space: &Space<'_>, symbols: &Symbols, uts: layout::Uts) -> Result<String, Fault> {
    let Some(at) = symbols.maybe("init_uts_ns") else { return Ok(String::new()) };
    let text = space.text(place(at, uts.release), UTS_BYTES)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Nothing where the kernel has no such thing.
fn if_any<L>(layouts: Result<L, TypesError>) -> Result<Option<L>, TypesError> {
    match layouts {
        Err(TypesError::Missing(_)) => Ok(None),
        layouts => layouts.map(Some),
    }
}

impl Layouts {
    pub(super) fn of(types: &Types, space: &Space<'_>) -> Result<Self, TypesError> {
        Ok(Self {
            task: layout::Task::of(types, space)?,
            signal: layout::Signal::of(types, space)?,
            queue: layout::RunQueue::of(types, space)?,
            timers: layout::Timers::of(types, space)?,
            ring: layout::Ring::of(types, space)?,
            descriptor: layout::Descriptor::of(types, space)?,
            record: layout::RecordInfo::of(types, space)?,
            super_block: layout::SuperBlock::of(types, space)?,
            file_system: layout::FileSystem::of(types, space)?,
            uts: layout::Uts::of(types, space)?,
            locks: if_any(locks::Layouts::of(types, space))?,
            requests: if_any(requests::Layouts::of(types, space))?,
        })
    }
}

impl Sizes {
    /// Elements of arrays that are read by the block must have a size that makes sense.
    fn of(types: &Types, space: &Space<'_>) -> Result<Self, TypesError> {
        let bytes = |name: &'static str| {
            let bytes = types.bytes_of(space, name)?.filter(|bytes| (8..=4096).contains(bytes));
            bytes.map(u64::from).ok_or(TypesError::Missing(name))
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
