//! The bytes of a parcel on disk. No IO: see the parent for the drawing.

use super::{Kind, Mark, Waiting};
use crate::base::id::{Digest, IncidentId};
use crate::base::limits;

/// Bytes before the parcel's own.
pub(super) const HEADER_BYTES: usize = 88;

/// The last character is the version: a reader refuses any other.
const MAGIC: [u8; 8] = *b"lfspool1";

/// How much of the header its own checksum covers.
const COVERED: usize = 80;

/// What a file says of its parcel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) sequence: u64,
    pub(super) length: u64,
    pub(super) incident: IncidentId,
    pub(super) mark: Mark,
    pub(super) digest: Digest,
}

/// Why the bytes of a file are no parcel.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Flaw {
    /// Cut off within the header.
    #[error("only {0} bytes, too few for a header")]
    Short(u64),
    /// Something else, or another version.
    #[error("does not begin as a parcel of this version does")]
    Magic,
    /// The header's own checksum.
    #[error("the header does not match its checksum")]
    Header,
    /// A header that is whole, but says what cannot be.
    #[error("the header is whole but makes no sense: {0}")]
    Nonsense(&'static str),
    /// Cut off, or grown.
    #[error("{found} bytes where the header promises {promised}")]
    Length {
        /// Size of the file after the header.
        found: u64,
        /// Size that the header tells.
        promised: u64,
    },
    /// The content's checksum.
    #[error("the content does not match its checksum")]
    Content,
    /// It is where the spool tells what it has dropped.
    #[error("it is no list of what was dropped, so that is counted from nothing again")]
    Tally,
}

/// What stands before the content of a parcel's file.
pub(super) fn encode(sequence: u64, parcel: &Waiting) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&MAGIC);
    header[8] = parcel.kind.code();
    header[9..16].copy_from_slice(&parcel.mark.0);
    header[16..24].copy_from_slice(&sequence.to_le_bytes());
    header[24..32].copy_from_slice(&parcel.size.to_le_bytes());
    header[32..48].copy_from_slice(parcel.incident.as_bytes());
    header[48..80].copy_from_slice(parcel.digest.as_bytes());
    let check = check(&header[..COVERED]);
    header[COVERED..].copy_from_slice(&check);
    header
}

/// The header of a file that has `size` bytes and begins with `start`.
pub(super) fn header(start: &[u8], size: u64) -> Result<Header, Flaw> {
    let Some(start) = start.get(..HEADER_BYTES) else {
        return Err(Flaw::Short(start.len() as u64));
    };
    if start[..8] != MAGIC {
        return Err(Flaw::Magic);
    }
    if start[COVERED..] != check(&start[..COVERED]) {
        return Err(Flaw::Header);
    }
    let kind = Kind::from_code(start[8]).ok_or(Flaw::Nonsense("unknown kind"))?;
    let length = number(&start[24..32]);
    if length > kind.bytes_max() {
        return Err(Flaw::Nonsense("larger than any parcel"));
    }
    let found = size.saturating_sub(HEADER_BYTES as u64);
    if found != length {
        return Err(Flaw::Length { found, promised: length });
    }
    Ok(Header {
        kind,
        sequence: number(&start[16..24]),
        length,
        incident: IncidentId::new(array(&start[32..48])),
        mark: Mark(array(&start[9..16])),
        digest: Digest::new(array(&start[48..80])),
    })
}

/// The parcel's own bytes, out of the whole file.
pub(super) fn content(file: Vec<u8>) -> Result<(Header, Vec<u8>), Flaw> {
    let header = header(&file, file.len() as u64)?;
    let mut bytes = file;
    bytes.drain(..HEADER_BYTES);
    if Digest::of(&bytes) != header.digest {
        return Err(Flaw::Content);
    }
    Ok((header, bytes))
}

/// The name of a parcel's file.
pub(super) fn name(sequence: u64) -> String {
    format!("{sequence:016x}.parcel")
}

/// The name under which a parcel's file is written.
pub(super) fn name_unfinished(sequence: u64) -> String {
    format!("{sequence:016x}.new")
}

/// Whether a file was being written when the program ended.
pub(super) fn is_unfinished(name: &str) -> bool {
    name.strip_suffix(".new").and_then(digits).is_some()
}

/// The sequence number in the name of a parcel's file.
pub(super) fn sequence(name: &str) -> Option<u64> {
    name.strip_suffix(".parcel").and_then(digits)
}

fn digits(text: &str) -> Option<u64> {
    let plain = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    plain.then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

pub(super) fn check(covered: &[u8]) -> [u8; 8] {
    array(&Digest::of(covered).as_bytes()[..8])
}

pub(super) fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(array(bytes))
}

pub(super) fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().expect("every caller cuts exactly N bytes out of a checked length")
}

// === impl Kind ===

impl Kind {
    /// The largest parcel of this kind.
    #[must_use]
    pub fn bytes_max(self) -> u64 {
        match self {
            Self::Headline => limits::HEADLINE_BYTES as u64,
            Self::Bundle => limits::BUNDLE_BYTES,
        }
    }

    fn code(self) -> u8 {
        match self {
            Self::Headline => 1,
            Self::Bundle => 2,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Headline),
            2 => Some(Self::Bundle),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file() -> Vec<u8> {
        let incident = IncidentId::new([7; 16]);
        let digest = Digest::of(b"sealed");
        let mark = Mark::of("hung-task");
        let header = encode(3, &Waiting { digest, kind: Kind::Bundle, incident, mark, size: 6 });
        [header.as_slice(), b"sealed"].concat()
    }

    #[test]
    fn what_is_written_is_read() {
        let (header, bytes) = content(file()).unwrap();
        assert_eq!(bytes, b"sealed");
        assert_eq!((header.kind, header.sequence), (Kind::Bundle, 3));
        assert_eq!(header.incident, IncidentId::new([7; 16]));
        assert_eq!(header.mark, Mark::of("hung-task"));
        assert!(!Mark::of("").is_known());
        assert_eq!(sequence(&name(3)), Some(3));
        assert!(is_unfinished(&name_unfinished(3)));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        for bit in 0..file().len() * 8 {
            let mut flipped = file();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(content(flipped).is_err(), "bit {bit}");
        }
        for length in 0..file().len() {
            assert!(content(file()[..length].to_vec()).is_err(), "cut to {length}");
        }
    }

    #[test]
    fn a_name_that_is_not_ours_is_no_sequence() {
        for name in ["", ".parcel", "1.parcel", "+000000000000001.parcel", "lock", "a/b.parcel"] {
            assert_eq!(sequence(name), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn rubbish_never_panics(bytes: Vec<u8>) {
            let _ = content(bytes);
        }
    }
}
