//! Which apps there are, which of them gets which scenarios, and what may be done to it.
//!
//! ```text
//!   Source::next ----> Registry ----> apps ---+
//!   (EVE, libvirt,     (merges,               |
//!    monitors, list)    tells changes)        +--> resolve ----> Bound, warnings
//!                                             |
//!   Files::next -----> Rules -----------------+
//!   (config, bindings,   ^                    |
//!    scenarios)          |                    |
//!   Assigned ------------+            Vault --+
//!   (the controller's)                (secrets)
//! ```
//!
//! Apps come, go and restart under other names; rules change while the program runs. Whatever is
//! found wrong is told in full and changes nothing: the last rules that were right stay in force. A
//! scenario exists for an app only if its consent suffices and its secrets are there; whether its
//! sockets are there is asked at every round.
//!
//! `resolve` and `registry` are pure; `source`, `watch`, `files`, `secret` and `assigned` do IO. The
//! language itself, and what an app is, are in [`crate::rules`].

mod assigned;
mod files;
mod registry;
mod resolve;
mod secret;
mod setup;
pub mod source;
mod watch;

pub use assigned::{Assigned, Authority, KeyError, Refusal, Taken, key_of};
pub use files::{Files, Loaded, Wrong, load};
pub use registry::{Change, Registry};
pub use resolve::{Bound, Hindered, Resolved, Warning, resolve};
pub use secret::{Missing, Secret, Vault};
pub use setup::{Controller, Setup};

pub use crate::rules::{
    Agent, App, Birth, Disk, Interface, Life, Mac, Rank, Reference, Rule, Rules, Scenarios,
    Selector, read_rules,
};

#[cfg(test)]
mod tests;
