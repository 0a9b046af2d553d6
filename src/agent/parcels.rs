//! The spool of this device: where it is and what it may hold, as its config says.

use crate::base::document::{Bytes, Node, Notes};
use crate::spool::{Limits, Usage};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where what is sealed waits to be sent, and how much of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Place {
    /// A directory of its own.
    pub directory: PathBuf,
    /// What it may hold.
    pub limits: Limits,
}

impl Place {
    /// Reads the key `spool` of a config, which may be missing.
    pub(super) fn read(node: Option<&Node>, notes: &Notes, state: &Path) -> Option<Self> {
        let (directory, limits) = (state.join("spool"), Limits::STANDARD);
        let Some(node) = node else { return Some(Self { directory, limits }) };
        let mut map = node.map(notes)?;
        let directory = map.or("directory", directory);
        let bytes = map.or("quota", Bytes(limits.bytes)).map(|bytes| bytes.0);
        let count = map.optional::<u32>("count");
        let age: Option<Duration> = map.or("age", limits.age);
        map.finish();
        let parcels =
            count.map_or(limits.parcels, |count| usize::try_from(count).unwrap_or(usize::MAX));
        let limits = Limits { bytes: bytes?, parcels, age: age?, ..limits };
        Some(Self { directory: directory?, limits })
    }
}

/// What a person should know of the spool, if there is anything.
#[must_use]
pub fn trouble(usage: &Usage) -> Option<String> {
    let Usage { evicted_lately, parcels, held, .. } = usage;
    (*evicted_lately > 0).then(|| {
        let bundles = if *evicted_lately == 1 { "bundle was" } else { "bundles were" };
        format!(
            "{evicted_lately} {bundles} dropped to make room, and {} parcels wait to be sent; \
             `lifesign spool ls` shows them",
            parcels + held
        )
    })
}
