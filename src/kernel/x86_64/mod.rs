//! What holds on x86-64 alone: page tables, how a CPU's registers lead to the kernel, and how stacks are
//! unwound.

pub(super) mod boot;
pub(super) mod orc;
pub(super) mod paging;
pub(super) mod registers;
pub(super) mod unwind;

#[cfg(test)]
mod tests;
