//! What was learnt of a kernel, so that the next look at the same build need not learn it again.
//!
//! ```text
//!   a first look goes through    names (kallsyms)         types (BTF)
//!   and learns                   where every 256th is     what was asked of them, and the answers
//!   the next one reads           what it asks for         nothing
//! ```
//!
//! All places are counted from the kernel's start, which is another one at every boot. What was learnt
//! is taken only if the kernel says of itself, then as now, that it is this build, and if its table of
//! names still has what is asked for where it was. That is against mix-ups and not against lies: what a
//! guest has taught is true of that guest alone, and whoever keeps it must keep it so.

use super::space::Space;
use super::symbols::Places;
use super::types::Answers;
use crate::base::id::Digest;
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::ops::Range;

/// The last character is the version.
const MAGIC: &str = "lifesign kernel 1";

/// Notes of a kernel: those of x86-64 have some 500 bytes.
const NOTES_BYTES: u64 = 4096;

/// `NT_GNU_BUILD_ID`.
const BUILD_ID: u32 = 3;

/// A SHA-1 has 20 bytes; linkers can be told to take any.
const ID_BYTES: usize = 64;

/// What is the same in all guests that run this build of a kernel.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Learnt {
    pub(super) build: Build,
    pub(super) symbols: Places,
    pub(super) types: Answers,
}

/// Which build a kernel says it is.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Build {
    /// What its linker named it by, in hexadecimal digits.
    id: String,
    release: String,
}

impl Learnt {
    /// As a file has it: a line with the digest of what follows, which is JSON.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let body = serde_json::to_vec(self).expect("texts, numbers and maps with texts for keys");
        [format!("{MAGIC} {}\n", Digest::of(&body)).into_bytes(), body].concat()
    }

    /// Reads it; nothing if it is cut, damaged, of another version, or something else.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let end = bytes.iter().position(|byte| *byte == b'\n')?;
        let (line, body) = (&bytes[..end], &bytes[end + 1..]);
        let expected = format!("{MAGIC} {}", Digest::of(body));
        if line != expected.as_bytes() {
            return None;
        }
        serde_json::from_slice(body).ok()
    }
}

impl Build {
    /// Reads it out of the kernel's own notes.
    pub(super) fn read(space: &Space<'_>, notes: Range<u64>, release: String) -> Option<Self> {
        let bytes = notes.end.checked_sub(notes.start)?.min(NOTES_BYTES);
        let notes = space.bytes(notes.start, usize::try_from(bytes).ok()?).ok()?;
        let mut id = String::new();
        for byte in build_id(&notes)? {
            write!(id, "{byte:02x}").ok()?;
        }
        Some(Self { id, release })
    }
}

/// The build id among notes: sizes of name and description, a type, both padded to words.
fn build_id(mut notes: &[u8]) -> Option<&[u8]> {
    loop {
        let word = |at: usize| notes.get(at..)?.first_chunk().copied().map(u32::from_le_bytes);
        let (named, described, kind) = (word(0)?, word(4)?, word(8)?);
        let (named, described) = (usize::try_from(named).ok()?, usize::try_from(described).ok()?);
        let body = notes.get(12..)?;
        let rest = body.get(named.checked_next_multiple_of(4)?..)?;
        if kind == BUILD_ID && body.get(..named)? == b"GNU\0" {
            return rest.get(..described).filter(|id| (1..=ID_BYTES).contains(&id.len()));
        }
        notes = rest.get(described.checked_next_multiple_of(4)?..)?;
    }
}

#[cfg(test)]
pub(crate) mod tests;
