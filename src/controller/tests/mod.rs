//! What more than one test of this room needs, and the tests of the room as a whole.

mod broker;
pub(crate) mod device;
mod dumps;
mod receive;
mod show;
