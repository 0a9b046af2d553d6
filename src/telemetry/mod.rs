//! How a program of ours tells about itself: logs, health, metrics, and the page that serves them.
//!
//! Knows nothing of guests, incidents or brokers; whoever has something to tell registers it here.

pub mod health;
pub mod http;
pub mod logs;
pub mod metrics;
pub mod signal;
