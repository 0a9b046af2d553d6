//! Packing: zstd, with a dictionary that both sides have, within bounds on both.
//!
//! Whoever packs streams: a message goes through the compressor a part at a time, so that there is never a
//! second copy of all evidence. Whoever unpacks trusts no number: what is declared is a bound, what is allowed
//! is another, and memory grows with what really comes.

mod dictionary;

pub(super) use dictionary::{Dictionary, LATEST};

use super::open::OpenError;
use super::seal::{SealError, within};
use crate::pb::v1;
use prost::Message;
use std::io::{self, Read, Write};
use zstd::{Decoder, Encoder};

/// What a frame may ask a reader to remember: as much as the largest message has.
const WINDOW_LOG: u32 = 26;

/// Memory is taken in such steps, not at once for whatever somebody declares.
const STEP_BYTES: u64 = 1024 * 1024;

/// Packs the message that these parts are when they are encoded one after the other.
pub(super) fn pack<M: Message>(
    parts: impl Iterator<Item = M> + Clone,
    limit: u64,
    dictionary: Option<&Dictionary>,
) -> Result<v1::Packed, SealError> {
    let size = parts.clone().map(|part| part.encoded_len() as u64).sum();
    within(size, limit)?;
    let zstd = compress(parts, size, dictionary).map_err(SealError::Compress)?;
    Ok(v1::Packed { size, zstd, dictionary: dictionary.map_or(0, |dictionary| dictionary.id) })
}

/// Unpacks a message, no further than it declares and `limit` allows.
pub(super) fn unpack(packed: &v1::Packed, limit: u64) -> Result<Vec<u8>, OpenError> {
    let declared = packed.size;
    if declared > limit {
        return Err(OpenError::Bomb(declared));
    }
    let dictionary = match packed.dictionary {
        0 => &[],
        id => Dictionary::find(id).ok_or(OpenError::Dictionary(id))?.bytes,
    };
    match decompress(&packed.zstd, dictionary, declared) {
        Ok(body) if body.len() as u64 == declared => Ok(body),
        Ok(_) | Err(_) => Err(OpenError::Decompress { declared }),
    }
}

fn compress<M: Message>(
    parts: impl Iterator<Item = M>,
    size: u64,
    dictionary: Option<&Dictionary>,
) -> io::Result<Vec<u8>> {
    let dictionary = dictionary.map_or(&[][..], |dictionary| dictionary.bytes);
    let mut encoder = Encoder::with_dictionary(Vec::new(), level(size), dictionary)?;
    encoder.set_pledged_src_size(Some(size))?;
    for part in parts {
        encoder.write_all(&part.encode_to_vec())?;
    }
    encoder.finish()
}

/// How hard it tries: so that no message takes a device longer than a second or two. The largest that captures
/// make is the first kind; `hack/bench bundle` has the seconds and the memory.
fn level(size: u64) -> i32 {
    const USUAL: u64 = 1024 * 1024;
    const LARGE: u64 = 4 * USUAL;
    if size <= USUAL {
        19
    } else if size <= LARGE {
        15
    } else {
        9
    }
}

/// One frame, and nothing behind it. Of one that goes on beyond what it declares a byte more comes back.
fn decompress(zstd: &[u8], dictionary: &[u8], declared: u64) -> io::Result<Vec<u8>> {
    let mut decoder = Decoder::with_dictionary(zstd, dictionary)?.single_frame();
    decoder.window_log_max(WINDOW_LOG)?;
    let mut body = Vec::with_capacity(declared.min(STEP_BYTES) as usize);
    decoder.by_ref().take(declared + 1).read_to_end(&mut body)?;
    decoder.finish_frame()?;
    if !decoder.get_ref().is_empty() {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    }
    Ok(body)
}

#[cfg(test)]
mod tests;
