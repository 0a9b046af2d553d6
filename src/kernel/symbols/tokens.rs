//! How kallsyms packs names: a table of 256 pieces of text, of which each name is a sequence.
//!
//! ```text
//!   token_table  "pack"\0"_\0".."0"\0"1"\0 .. "9"\0 ..     the digits stand for themselves
//!   token_index  u16[256]: where each piece begins
//!   names        length, pieces; the first letter of a name is its type
//! ```

use crate::kernel::memory::Fault;
use crate::kernel::space::Space;
use std::ops::Range;

/// The pieces `0` to `9`, which no other data looks like.
const DIGITS: &[u8] = b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\x00";

/// The piece that is `0`.
const FIRST_DIGIT: usize = 0x30;

/// More than 48 pieces before the digits, and more than 256 pieces with their index, ever take:
/// pieces are some five letters long.
const BEFORE: u64 = 4 * 1024;
const WHOLE: u64 = 32 * 1024;

/// How far behind the text it may be: text and read-only data of the largest kernels.
const SEARCHED: u64 = 48 << 20;

const CHUNK: u64 = 64 * 1024;

/// What tables and their indices are aligned to, or to twice as much.
const ALIGNED: u64 = 4;

/// `KSYM_NAME_LEN` and the letter of the type.
const NAME_BYTES: usize = 513;

/// The letters that `nm` has.
const KINDS: &[u8] = b"AaBbCcDdGgIiNnRrSsTtUuVvWw?";

/// The pieces.
pub(super) struct Tokens {
    /// Where they are in the kernel.
    pub(super) at: Range<u64>,
    text: Vec<u8>,
    starts: [u16; 256],
}

impl Tokens {
    /// Searches behind an address in the kernel's text.
    pub(super) fn find(space: &Space<'_>, text: u64) -> Result<Option<Self>, Fault> {
        let mut at = text / CHUNK * CHUNK;
        let last = at.saturating_add(SEARCHED).min(space.image().at.end);
        let mut window = Vec::new();
        while at < last {
            let kept = window.len().min(DIGITS.len());
            window.drain(..window.len() - kept);
            // Past the end of RAM there is no kernel.
            match space.bytes(at, CHUNK as usize) {
                Ok(chunk) => window.extend(chunk),
                Err(Fault::Spent) => return Err(Fault::Spent),
                Err(_) => return Ok(None),
            }
            let mut from = 0;
            while let Some(found) = find(&window[from..], DIGITS) {
                let digits = at - kept as u64 + (from + found) as u64;
                if let Some(tokens) = Self::around(space, digits)? {
                    return Ok(Some(tokens));
                }
                from += found + 1;
            }
            at += CHUNK;
        }
        Ok(None)
    }

    /// The table in which the digits are at this address, if it is one: then its index agrees.
    fn around(space: &Space<'_>, digits: u64) -> Result<Option<Self>, Fault> {
        let Ok(before) = space.bytes(digits.saturating_sub(BEFORE), BEFORE as usize) else {
            return Ok(None);
        };
        let mut starts = before.len();
        for _ in 1..FIRST_DIGIT {
            // Steps over the end of the piece before to the end of the one before that.
            match before[..starts.saturating_sub(1)].iter().rposition(|byte| *byte == 0) {
                Some(end) => starts = end + 1,
                None => return Ok(None),
            }
        }
        // What stands before the first piece need not end with a zero, but the table is aligned.
        let first = digits - (before.len() - starts) as u64;
        for step in 1..16 {
            let at = (first - 1) / ALIGNED * ALIGNED - ALIGNED * (step - 1);
            if let Some(tokens) = Self::at(space, at)? {
                return Ok(Some(tokens));
            }
        }
        Ok(None)
    }

    /// The table that begins at this address, if it is one.
    pub(super) fn at(space: &Space<'_>, at: u64) -> Result<Option<Self>, Fault> {
        let Ok(bytes) = space.bytes(at, WHOLE as usize) else { return Ok(None) };
        let mut starts = [0; 256];
        let mut end = 0;
        for start in &mut starts {
            let Some(length) = bytes[end..].iter().position(|byte| *byte == 0) else {
                return Ok(None);
            };
            let Ok(begins) = u16::try_from(end) else { return Ok(None) };
            *start = begins;
            end += length + 1;
        }
        let agrees = |index: &usize| {
            let told = bytes[(*index).min(bytes.len())..].chunks_exact(2).take(256);
            told.map(|start| u16::from_le_bytes([start[0], start[1]])).eq(starts)
        };
        let aligned = [ALIGNED, 2 * ALIGNED].map(|to| end.next_multiple_of(to as usize));
        Ok(aligned.into_iter().find(agrees).map(|index| {
            let at = at..at.saturating_add((index + 512) as u64);
            Self { at, text: bytes[..end].to_vec(), starts }
        }))
    }

    /// Whether a name may begin with this piece.
    pub(super) fn begins(&self, token: u8) -> bool {
        self.token(token).first().is_some_and(|kind| KINDS.contains(kind))
    }

    /// Unpacks a name, without the letter of its type.
    pub(super) fn unpack(&self, packed: &[u8], into: &mut Vec<u8>) {
        into.clear();
        for token in packed {
            into.extend_from_slice(self.token(*token));
            if into.len() > NAME_BYTES {
                break;
            }
        }
        into.truncate(NAME_BYTES);
        if !into.is_empty() {
            into.remove(0);
        }
    }

    #[cfg(test)]
    pub(super) fn none() -> Self {
        Self { at: 0..0, text: Vec::new(), starts: [0; 256] }
    }

    fn token(&self, token: u8) -> &[u8] {
        let from = &self.text[usize::from(self.starts[usize::from(token)])..];
        from.split(|byte| *byte == 0).next().unwrap_or_default()
    }
}

/// Where `wanted` begins, by Horspool's rule: most bytes are stepped over.
fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    let last = wanted.len() - 1;
    let mut steps = [wanted.len(); 256];
    for (place, byte) in wanted[..last].iter().enumerate() {
        steps[usize::from(*byte)] = last - place;
    }
    let mut at = 0;
    while let Some(window) = bytes.get(at..at + wanted.len()) {
        if window == wanted {
            return Some(at);
        }
        at += steps[usize::from(window[last])];
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_searched_is_found(before in "[0-9a\0]{0,60}", after in "[0-9a\0]{0,60}") {
            let bytes = [before.as_bytes(), DIGITS, after.as_bytes()].concat();
            let first = bytes.windows(DIGITS.len()).position(|window| window == DIGITS);
            prop_assert_eq!(find(&bytes, DIGITS), first);
            let none = before.as_bytes();
            prop_assert_eq!(find(none, DIGITS), none.windows(DIGITS.len()).position(|window| window == DIGITS));
        }
    }
}
