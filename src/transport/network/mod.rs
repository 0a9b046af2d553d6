//! A guest over the network: does its kernel answer, does its service?
//!
//! What an answer proves differs, and every reason says it:
//!
//! ```text
//!   ARP, ping, a reset, a completed connect      the kernel: it does this for dead servers, too
//!   a banner, a page                             the service
//!   any other byte on a connection               a process ran
//! ```
//!
//! QEMU's user-mode network completes connects for a guest that is paused. Who asks through it says
//! so ([`Target::nat`]), and then only bytes count.
//!
//! Silence is *dead* here for what was asked, though a guest that is paused is silent, too, and so is
//! one whose bridge this host took down: who acts on it looks at the hypervisor first.
//!
//! What a server sends is hostile: it is read up to a bound and never beyond the deadline, which is
//! one for everything that a question needs. What this host cannot do (no route, no permission, no
//! descriptors) is *unknown*.

pub mod arp;
mod certificate;
mod dial;
pub mod http;
pub mod ping;
pub mod tcp;
mod tls;
pub mod uplink;

use crate::base::rung::Finding;
use std::net::SocketAddr;

pub use tls::{Tls, Trust};

/// Whom to ask, and by which way.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// The guest's address; the port matters to TCP alone.
    pub address: SocketAddr,
    /// The interface to ask from, such as the app's own bridge; else as this host routes.
    pub interface: Option<&'a str>,
    /// Whether something answers in the guest's place, such as QEMU's user-mode network.
    pub nat: bool,
}

/// What bytes are wanted.
#[derive(Clone, Copy)]
pub struct Expect<'a> {
    /// How a person would say it: `SSH-`.
    pub said: &'a str,
    /// Whether these are they. Called again and again on what has come so far.
    pub matches: &'a (dyn Fn(&[u8]) -> bool + Sync),
}

/// The answer to a question, and what was learnt of a lower rung on the way.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Asked {
    /// The answer.
    pub finding: Finding,
    /// A connect that was completed before the server kept silent still proves a kernel.
    pub beside: Option<Finding>,
}

impl From<Finding> for Asked {
    fn from(finding: Finding) -> Self {
        Self { finding, beside: None }
    }
}

#[cfg(test)]
mod tests;
