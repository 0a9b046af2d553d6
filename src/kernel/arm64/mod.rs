//! What holds on arm64 alone: page tables of three granules, how the note that the kernel keeps for its
//! crash dump leads to it, and how stacks are unwound by the records of their frames.
//!
//! Kernels that keep return addresses on a shadow stack have them in their frame records as well.

pub(super) mod boot;
pub(super) mod paging;
pub(super) mod registers;
pub(super) mod unwind;

#[cfg(test)]
mod tests;
