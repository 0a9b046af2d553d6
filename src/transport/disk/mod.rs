//! A guest by its disk: a record that a process in it writes again and again.
//!
//! The guest writes to a small raw disk of its own (`docs/heartbeat.md`), the host reads the same
//! bytes. No lock is taken, nothing is written, and the guest does not notice. That the record goes
//! on proves a process, a kernel and the way to the disk at once.

pub mod heartbeat;
mod pulse;
mod record;
