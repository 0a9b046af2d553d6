//! The words that every room speaks: names, ids, time, limits, and how a person's text is read.
//!
//! Imports no other room, does no IO, and knows nothing of how a word is used. The one exception to
//! purity is [`time::Clock`], through which the clock is let into the program.

pub mod base64;
pub mod chain;
pub mod consent;
pub mod document;
pub mod endpoint;
pub mod id;
pub mod limits;
pub mod pattern;
pub mod problem;
pub mod rung;
pub mod step;
pub mod text;
pub mod time;
pub mod topic;
