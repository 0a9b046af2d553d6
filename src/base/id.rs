//! Names that are proven when they exist.
//!
//! A name from outside (a config file, a topic, a message) becomes one of these or is refused, so
//! nothing downstream can be led out of a directory or a topic by it.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;
use std::str::FromStr;

/// Why a name was refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Invalid {
    /// Not a UUID.
    #[error("`{0}` is no UUID: 32 hexadecimal digits, as in 0f8fad5b-d9cb-469f-a165-70867728950e")]
    Uuid(String),
    /// Not a plain word.
    #[error("`{0}` is no name: 1 to 64 of a-z, A-Z, 0-9, `-`, `_` and `.`, not starting with `.`")]
    Word(String),
    /// Not 32 hexadecimal digits.
    #[error("`{0}` is no incident: 32 hexadecimal digits")]
    Incident(String),
    /// Not 64 hexadecimal digits.
    #[error("`{0}` is no SHA-256: 64 hexadecimal digits")]
    Digest(String),
    /// Bytes of the wrong length.
    #[error("{is} bytes where {must} make an id")]
    Length {
        /// How many there are.
        is: usize,
        /// How many there must be.
        must: usize,
    },
}

/// The stable key of an app: its UUID, never its domain name, which changes over restarts.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct AppId([u8; 16]);

/// One stay of an app in `failed`.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct IncidentId([u8; 16]);

/// The name of a device: a UUID on EVE, anything harmless elsewhere.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct DeviceId(String);

/// The name of a scenario.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ScenarioName(String);

/// The name of a dump of a guest's memory, which is that of its file, too.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct DumpName(String);

/// SHA-256 of something sealed: its name on the wire and on disk.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

// === impl AppId, IncidentId, Digest ===

macro_rules! bytes {
    ($name:ident, $length:literal) => {
        impl $name {
            /// From its bytes.
            #[must_use]
            pub fn new(bytes: [u8; $length]) -> Self {
                Self(bytes)
            }

            /// Its bytes.
            #[must_use]
            pub fn as_bytes(&self) -> &[u8; $length] {
                &self.0
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = Invalid;

            fn try_from(bytes: &[u8]) -> Result<Self, Invalid> {
                let wrong = Invalid::Length { is: bytes.len(), must: $length };
                bytes.try_into().map(Self).map_err(|_| wrong)
            }
        }
    };
}

bytes!(AppId, 16);
bytes!(IncidentId, 16);
bytes!(Digest, 32);

impl FromStr for AppId {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let digits: String = text.chars().filter(|c| *c != '-').collect();
        from_hex(&digits).map(Self).ok_or_else(|| Invalid::Uuid(text.to_owned()))
    }
}

impl fmt::Display for AppId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl FromStr for IncidentId {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        from_hex(text).map(Self).ok_or_else(|| Invalid::Incident(text.to_owned()))
    }
}

impl fmt::Display for IncidentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(f, &self.0)
    }
}

// === impl DeviceId, ScenarioName, DumpName ===

macro_rules! word {
    ($name:ident) => {
        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Invalid;

            fn from_str(text: &str) -> Result<Self, Invalid> {
                if is_word(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(Invalid::Word(text.to_owned()))
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

word!(DeviceId);
word!(ScenarioName);
word!(DumpName);

impl TryFrom<String> for DumpName {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl From<DumpName> for String {
    fn from(name: DumpName) -> Self {
        name.0
    }
}

fn is_word(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && !text.starts_with('.')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

// === impl Digest ===

impl Digest {
    /// Of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
        Self(digest.as_ref().try_into().expect("a SHA-256 has 32 bytes"))
    }

    /// Of all that can be read, piece by piece.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn of_reader(reader: &mut impl io::Read) -> io::Result<Self> {
        let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
        let mut piece = vec![0; 256 * 1024];
        loop {
            match reader.read(&mut piece) {
                Ok(0) => break,
                Ok(count) => digest.update(&piece[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self(digest.finish().as_ref().try_into().expect("a SHA-256 has 32 bytes")))
    }
}

impl FromStr for Digest {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        from_hex(text).map(Self).ok_or_else(|| Invalid::Digest(text.to_owned()))
    }
}

impl TryFrom<String> for Digest {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(f, &self.0)
    }
}

fn hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

fn from_hex<const BYTES: usize>(digits: &str) -> Option<[u8; BYTES]> {
    if digits.len() != 2 * BYTES || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; BYTES];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(index * 2..index * 2 + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_print_as_they_are_read() {
        let text = "0f8fad5b-d9cb-469f-a165-70867728950e";
        assert_eq!(text.parse::<AppId>().unwrap().to_string(), text);
        let text = "0f8fad5bd9cb469fa16570867728950e";
        assert_eq!(text.parse::<IncidentId>().unwrap().to_string(), text);
        let digest = Digest::of(b"abc");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert_eq!(Digest::of_reader(&mut &b"abc"[..]).unwrap(), digest);
        assert!("ab".parse::<Digest>().is_err());
    }

    #[test]
    fn a_name_never_becomes_a_path_or_a_topic() {
        for bad in ["", ".", "..", "a/b", "a+", "#", "a b", "é", "a\0", &"x".repeat(65)] {
            assert!(bad.parse::<DeviceId>().is_err(), "{bad:?}");
            assert!(bad.parse::<ScenarioName>().is_err(), "{bad:?}");
            assert!(bad.parse::<DumpName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn rubbish_is_no_uuid() {
        for bad in [
            "",
            "+1",
            "0f8fad5b",
            "zf8fad5bd9cb469fa16570867728950e",
            "+f+f+f+f+f+f+f+f+f+f+f+f+f+f+f+f",
        ] {
            assert!(bad.parse::<AppId>().is_err(), "{bad:?}");
        }
    }
}
