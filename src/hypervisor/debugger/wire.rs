//! What the agent and the process that holds a guest say to each other.
//!
//! Pure. `length word`, and as many bytes: four for the length, one for the word.

use serde::{Deserialize, Serialize};
use std::ops::Range;

/// What one question may read: a window of the stub's own.
pub(super) const READ_BYTES: usize = 32 * 1024;

/// The longest: the registers of all CPUs, in words for people.
const LONGEST: u32 = 1024 * 1024;

/// How many bytes stand before what is said.
pub(super) const HEAD: usize = 5;

/// What the agent asks for.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) enum Question {
    /// That the guest stands still.
    Hold,
    /// What stands in its memory.
    Read {
        /// From here.
        at: u64,
        /// So much.
        bytes: usize,
    },
    /// That it goes on.
    Release,
}

/// What the holder says.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) enum Answer {
    /// It stands still.
    Held(Standing),
    /// It goes on, and stood still for so many milliseconds.
    Released(u64),
    /// No, and why.
    No(String),
    /// No: it may not stand still for longer.
    Late,
}

/// A guest that stands still.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Standing {
    /// The registers of its CPUs, as the monitor prints them.
    pub(super) registers: String,
    /// Where it has RAM.
    pub(super) ram: Vec<Range<u64>>,
}

/// What is said, as it goes over the line.
pub(super) fn spoken(said: &impl Serialize) -> Vec<u8> {
    let body = serde_json::to_vec(said).unwrap_or_default();
    with_head(b'{', &body)
}

/// Memory, as it goes over the line.
pub(super) fn memory(bytes: &[u8]) -> Vec<u8> {
    with_head(b'm', bytes)
}

/// Whether memory follows, and how long what follows is.
pub(super) fn announced(head: [u8; HEAD]) -> Option<(bool, usize)> {
    let [length @ .., word] = head;
    let length = u32::from_le_bytes(length);
    let length = usize::try_from(length).ok().filter(|_| length <= LONGEST)?;
    Some((word == b'm', length))
}

fn with_head(word: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes();
    [&length[..], &[word], body].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_said_is_heard(at: u64, bytes: usize, ram in proptest::collection::vec(any::<std::ops::Range<u64>>(), 0..4)) {
            let question = Question::Read { at, bytes };
            let answer = Answer::Held(Standing { registers: "CPU#0".to_owned(), ram });
            let told = [spoken(&question), spoken(&answer)];
            let bodies = told.each_ref().map(|said| {
                let (head, body) = said.split_first_chunk().unwrap();
                assert_eq!(announced(*head), Some((false, body.len())));
                body
            });
            prop_assert_eq!(serde_json::from_slice::<Question>(bodies[0]).unwrap(), question);
            prop_assert_eq!(serde_json::from_slice::<Answer>(bodies[1]).unwrap(), answer);
        }

        #[test]
        fn nothing_is_longer_than_anything_that_is_said(head: [u8; HEAD]) {
            prop_assert!(announced(head).is_none_or(|(_, length)| length <= 1 << 20));
            let said = memory(b"bytes");
            let (head, body) = said.split_first_chunk().unwrap();
            prop_assert_eq!((announced(*head), body), (Some((true, 5)), &b"bytes"[..]));
        }
    }
}
