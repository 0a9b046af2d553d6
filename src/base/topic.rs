//! Topics: `<prefix>/<device>/<what>`.

use super::document::{FromNode, Node, Notes, parsed};
use super::id::DeviceId;
use std::fmt;
use std::str::FromStr;

/// Brokers of cloud services take few levels; two are ours.
const PREFIX_LEVELS: usize = 3;

/// What every topic begins with: one to three levels.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Prefix(String);

/// What a device publishes.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    /// What there is to say before anything else.
    Headline,
    /// Chunks of bundles.
    Bundle,
    /// Up or down.
    Status,
}

/// Why a prefix is refused.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no prefix: 1 to 3 words of a-z, A-Z, 0-9, `-`, `_`, `.` between `/`")]
pub struct InvalidPrefix(String);

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Headline, Self::Bundle, Self::Status];

    /// The last level of its topic.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Headline => "headline",
            Self::Bundle => "bundle",
            Self::Status => "status",
        }
    }
}

impl Prefix {
    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What to subscribe to for hearing every device.
    #[must_use]
    pub fn filter(&self, kind: Kind) -> String {
        format!("{}/+/{}", self.0, kind.word())
    }

    /// Where a device publishes.
    #[must_use]
    pub fn topic(&self, device: &DeviceId, kind: Kind) -> String {
        format!("{}/{device}/{}", self.0, kind.word())
    }

    /// Where a device listens for receipts.
    #[must_use]
    pub fn receipt(&self, device: &DeviceId) -> String {
        format!("{}/{device}/receipt", self.0)
    }

    /// Where a device finds what the controller binds.
    #[must_use]
    pub fn bindings(&self, device: &DeviceId) -> String {
        format!("{}/{device}/bindings", self.0)
    }

    /// Who speaks on a topic, and of what. `None`: it is not for us.
    #[must_use]
    pub fn parse(&self, topic: &str) -> Option<(DeviceId, Kind)> {
        let rest = topic.strip_prefix(self.as_str())?.strip_prefix('/')?;
        let (device, word) = rest.split_once('/')?;
        let kind = Kind::ALL.into_iter().find(|kind| kind.word() == word)?;
        Some((device.parse().ok()?, kind))
    }
}

impl Default for Prefix {
    fn default() -> Self {
        Self("lifesign".to_owned())
    }
}

impl FromStr for Prefix {
    type Err = InvalidPrefix;

    fn from_str(text: &str) -> Result<Self, InvalidPrefix> {
        // A level of a topic is held to what a device's name is held to: no wildcard, no slash.
        let is_level = |level: &str| level.parse::<DeviceId>().is_ok();
        let levels = text.split('/').count();
        if levels <= PREFIX_LEVELS && text.split('/').all(is_level) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidPrefix(text.to_owned()))
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromNode for Prefix {
    const EXPECTED: &'static str = "1 to 3 levels of a topic (letters, digits, `-`, `_` and `.`)";

    fn from_node(node: &Node, notes: &Notes) -> Option<Self> {
        parsed(node, notes, |text| text.parse().ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_words_and_no_wildcard() {
        let prefix: Prefix = "fleet/site-7".parse().unwrap();
        let device = "device-1".parse().unwrap();
        assert_eq!(prefix.topic(&device, Kind::Status), "fleet/site-7/device-1/status");
        assert_eq!(prefix.parse("fleet/site-7/device-1/status"), Some((device, Kind::Status)));
        for prefix in ["", "/", "a/", "a//b", "#", "+/a", "a/b/c/d", "a b"] {
            assert!(prefix.parse::<Prefix>().is_err(), "{prefix}");
        }
    }

    #[test]
    fn a_topic_names_a_device_and_a_kind() {
        let prefix = Prefix::default();
        let (device, kind) = prefix.parse("lifesign/d-1/headline").unwrap();
        assert_eq!((device.as_str(), kind), ("d-1", Kind::Headline));
        assert_eq!(prefix.filter(Kind::Bundle), "lifesign/+/bundle");
        assert_eq!(prefix.receipt(&device), "lifesign/d-1/receipt");
        assert_eq!(prefix.bindings(&device), "lifesign/d-1/bindings");
        for other in
            ["lifesign/d-1", "lifesign/../headline", "other/d/status", "lifesign/d/bundle/x"]
        {
            assert!(prefix.parse(other).is_none(), "{other}");
        }
    }
}
