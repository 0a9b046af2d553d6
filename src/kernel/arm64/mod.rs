//! What holds on arm64 alone: page tables of three granules, how the note that the kernel keeps for its
//! crash dump leads to it, and how stacks are unwound by the records of their frames.
//!
//! What is not there, because no stock kernel has been seen with it: kernels that keep return addresses
//! on a shadow stack, and such that mark exceptions in their frame records (6.13 and later), whose stacks
//! end where the kernel was entered.

pub(super) mod boot;
pub(super) mod paging;
pub(super) mod registers;
pub(super) mod unwind;

#[cfg(test)]
mod tests;
