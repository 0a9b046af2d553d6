//! What a node may be read as.

use super::node::{Node, Value};
use super::notes::Notes;
use std::path::PathBuf;
use std::time::Duration;

/// What can be read from a node.
pub trait FromNode: Sized {
    /// What a person should have written there.
    const EXPECTED: &'static str;

    /// Reads it, or notes why not.
    fn from_node(node: &Node, notes: &Notes) -> Option<Self>;
}

// === impl FromNode ===

impl FromNode for String {
    const EXPECTED: &'static str = "text";

    fn from_node(node: &Node, notes: &Notes) -> Option<Self> {
        let Value::Text(text) = &node.value else {
            notes.expected(node, "text (in quotes, if it looks like something else)");
            return None;
        };
        Some(text.clone())
    }
}

impl FromNode for PathBuf {
    const EXPECTED: &'static str = "a path";

    fn from_node(node: &Node, notes: &Notes) -> Option<Self> {
        String::from_node(node, notes).map(|path| notes.directory().join(path))
    }
}

impl FromNode for u32 {
    const EXPECTED: &'static str = "a whole number";

    fn from_node(node: &Node, notes: &Notes) -> Option<Self> {
        let number =
            if let Value::Int(number) = &node.value { Self::try_from(*number).ok() } else { None };
        if number.is_none() {
            notes.expected(node, "a whole number, not negative,");
        }
        number
    }
}

impl FromNode for Duration {
    const EXPECTED: &'static str = "a time such as 30s, 5m, 1h30m or 500ms";

    fn from_node(node: &Node, notes: &Notes) -> Option<Self> {
        parsed(node, notes, parse_duration)
    }
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Bytes(pub u64);

impl FromNode for Bytes {
    const EXPECTED: &'static str = "a size such as 64KiB or 4MiB";

    fn from_node(node: &Node, notes: &Notes) -> Option<Self> {
        parsed(node, notes, parse_bytes)
    }
}

impl<T: FromNode> FromNode for Vec<T> {
    const EXPECTED: &'static str = "a list";

    fn from_node(node: &Node, notes: &Notes) -> Option<Self> {
        // Every item is read, so that every mistake is told.
        let items: Vec<Option<T>> =
            node.list(notes)?.iter().map(|item| T::from_node(item, notes)).collect();
        items.into_iter().collect()
    }
}

/// Reads text that has a grammar of its own.
pub fn parsed<T: FromNode>(
    node: &Node,
    notes: &Notes,
    parse: impl Fn(&str) -> Option<T>,
) -> Option<T> {
    let value = if let Value::Text(text) = &node.value { parse(text) } else { None };
    if value.is_none() {
        notes.expected(node, T::EXPECTED);
    }
    value
}

/// Reads a time such as `30s` or `1h30m`.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text.trim();
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u32 = rest.get(..digits)?.parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let unit = match &rest[..letters] {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(3600),
            "d" => Duration::from_secs(86400),
            _ => return None,
        };
        total = total.checked_add(unit.checked_mul(number)?)?;
        rest = &rest[letters..];
    }
    (!text.trim().is_empty()).then_some(total)
}

fn parse_bytes(text: &str) -> Option<Bytes> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = text.get(..digits)?.parse().ok()?;
    let unit: u64 = match text[digits..].trim() {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(unit).map(Bytes)
}
