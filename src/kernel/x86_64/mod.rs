//! What holds on x86-64 alone: page tables, how a CPU's registers lead to the kernel, and how stacks are
//! unwound.
//!
//! Another architecture has a directory beside this one that answers the same: [`paging`] turns an
//! address into a physical one, [`boot`] finds the kernel image, [`unwind`] says who called whom.

pub(super) mod boot;
pub(super) mod orc;
pub(super) mod paging;
pub(super) mod unwind;

#[cfg(test)]
mod tests;
