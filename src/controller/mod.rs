//! The other side: receives what devices seal, keeps it, says what happened, and shows it.
//!
//! ```text
//!   broker <--MQTT--> link --Job--> worker: Receiver --> Store
//!                       ^              |    (one thread owns both)
//!                       +---- Done ----+
//!
//!   incidents, show, export --> Reader --> the same files, never written
//!
//!   bindings publish, dumps request --> a row a device --> announce --MQTT, retained--> broker
//! ```
//!
//! A message is acknowledged to the broker, and a device is answered, after what it says is on the
//! disk; so whatever dies in between, it is said again, and [`receive`] takes it as said once. A
//! bundle is verified before a byte of it is parsed, and never stands in the way of another.

pub mod admission;
pub mod announce;
pub mod broker;
pub mod config;
pub mod dumps;
pub mod identity;
pub mod link;
pub mod metrics;
pub mod publish;
pub mod receive;
pub mod run;
pub mod show;
pub mod store;
pub mod tls;
pub mod transfer;
pub mod verify;
pub mod worker;

#[cfg(test)]
pub(crate) mod tests;
