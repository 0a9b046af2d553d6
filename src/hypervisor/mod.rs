//! What the hypervisor tells of a guest, and the guest's RAM.
//!
//! Asks and leaves: never holds a monitor longer than a second, never sends `quit`, never brings a
//! guest into a run state that its manager does not know. What the answers mean is for others. The one
//! thing of a guest that it ever changes is [`channel`]; [`dump`] stops it for a while.

pub mod blocks;
pub mod boot;
pub mod channel;
pub mod chardev;
pub mod events;
pub mod dump;
pub mod process;
pub mod qmp;
pub mod ram;
pub mod screen;
pub mod stores;
pub mod vcpu;
