//! The ways into a guest.
//!
//! Knows sockets and bytes; what an answer means is for others to say.

pub mod console;
pub mod mux;
