//! A guest's kernel, read from outside and without its help.
//!
//! ```text
//!   Registers of a CPU --> where the kernel is
//!   Memory (physical)  --> Space (virtual) --> Symbols, Types --> Log, tasks, CPUs, locks
//! ```
//!
//! Nothing is needed but the guest's RAM and, on x86-64, the registers of one CPU: kernels carry the names of their
//! functions, the layout of their structures and the tables that unwind their stacks with them.
//!
//! The guest runs on while it is read, and may be hostile. Every pointer is checked by what it must
//! lead to, every list has a length that it may have at most, every read is counted against an
//! allowance, and no arithmetic on what the guest says can overflow. A guest that lies can only make
//! its own report wrong.

mod arm64;
mod boot;
mod cpus;
#[cfg(test)]
pub(crate) mod faulty;
mod files;
mod keys;
pub mod learnt;
mod locks;
pub mod log;
pub mod look;
pub mod machine;
pub mod memory;
mod modules;
mod open;
mod paging;
mod requests;
mod space;
mod symbols;
mod tasks;
mod types;
mod unwind;
mod walk;
mod x86_64;

pub use cpus::{Cpu, Sample};
pub use keys::{Knob, Knobs};
pub use open::{Kernel, OpenError};
pub use symbols::SymbolsError;
pub use types::TypesError;

#[cfg(test)]
pub(crate) mod tests;
