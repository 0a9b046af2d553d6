//! What the hypervisor tells of a guest, and the guest's RAM.
//!
//! Asks and leaves: never holds a monitor longer than a second, never sends `quit`, never brings a
//! guest into a run state that its manager does not know. What the answers mean is for others. What it ever
//! changes is the guest's hardware, in [`channel`], and that it runs, in [`debugger`] and [`dump`].

pub mod blocks;
pub mod boot;
pub mod channel;
pub mod chardev;
pub mod debugger;
pub mod dump;
pub mod events;
pub mod process;
pub mod qmp;
pub mod ram;
pub mod screen;
pub mod stage;
pub mod stores;
pub mod vcpu;
