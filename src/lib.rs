//! Tells why an application on an edge device stopped answering.
//!
//! The rooms of this house, and who may import whom, are in `docs/ARCHITECTURE.md`; `tests/tidy`
//! holds the code to it. The two programs share the words and the pure rooms; what only one of
//! them needs stands behind its feature, here and nowhere else.

pub mod base;
pub mod bundle;
pub mod diagnosis;
pub mod evidence;
pub mod kernel;
pub mod ladder;
pub mod pb;
pub mod report;
pub mod rules;
pub mod scenario;

#[cfg(any(feature = "agent", feature = "controller"))]
pub mod telemetry;

#[cfg(feature = "agent")]
pub mod agent;
#[cfg(feature = "agent")]
pub mod binding;
#[cfg(feature = "agent")]
pub mod capture;
#[cfg(feature = "agent")]
pub mod hypervisor;
#[cfg(feature = "agent")]
pub mod spool;
#[cfg(feature = "agent")]
pub mod transport;
#[cfg(feature = "agent")]
pub mod upload;

#[cfg(feature = "controller")]
pub mod controller;
