//! The ways into a guest.
//!
//! Knows sockets and bytes. What an answer proves of the guest is said as
//! [findings](crate::base::rung::Finding); what they mean for the app is for others to say.

pub mod console;
pub mod disk;
pub mod guest_agent;
pub mod log;
pub mod mux;
pub mod network;
