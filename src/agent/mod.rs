//! The device: watches the apps that it is bound to, and has the evidence ready when one fails.
//!
//! ```text
//!   config --> Watch, one task an app -----------------------------------+
//!                | round: ask the probes, move the ladder                |
//!                | failed: Incident -> headline -> capture -> bundle ----+--> Depot --> upload
//!                +-- ledger: which incidents are open, over restarts
//! ```
//!
//! This is a shell: it spawns, selects and listens for signals. What it decides with is in the pure
//! rooms, and what it does with is in the rooms of IO. One task owns each app, so that no two rounds
//! of an app run at once and its console is never asked for twice.

mod arm;
pub mod assignment;
pub mod board;
pub mod bundle_cli;
pub mod bundle_file;
pub mod capture_cli;
pub mod config;
pub mod dumps;
pub mod identity;
pub mod incident;
pub mod inspect;
pub mod keeper;
pub mod ledger;
mod lend;
pub mod pages;
pub mod parcels;
pub mod pauses;
pub mod probe;
pub mod purse;
pub mod repeats;
mod replace;
pub mod run;
pub mod scenario_cli;
pub mod spool_cli;
pub mod status;
pub mod survey;
pub mod turn;
pub mod watch;
