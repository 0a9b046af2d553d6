//! What an answer must contain: a text, or a regular expression that cannot explode.
//!
//! Matching is linear in the bytes of the guest, and a compiled expression is bounded, so a guest
//! can neither slow an agent down nor make it grow.

use regex::bytes::{Regex, RegexBuilder};
use std::fmt;
use std::ops::Range;

/// A compiled expression may take this much memory: thousands of characters of the usual kind.
const COMPILED_BYTES: usize = 256 * 1024;

/// Groups within groups.
const NESTING: u32 = 32;

/// What must be found.
#[derive(Clone, Debug)]
pub enum Pattern {
    /// These characters, in this case.
    Text(String),
    /// What this matches. `^` and `$` stand for the ends of a line; classes are those of ASCII.
    Regex(Regex),
}

/// Why an expression is refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refused {
    /// It is no expression.
    #[error("{0}")]
    Syntax(String),
    /// It would take too much memory.
    #[error("it would take more than {COMPILED_BYTES} bytes")]
    Size,
    /// It matches nothing at all.
    #[error("it matches the empty text, which is everywhere")]
    Empty,
}

// === impl Pattern ===

impl Pattern {
    /// Compiles an expression.
    ///
    /// # Errors
    ///
    /// When it is none, when it would explode, or when it would match any answer.
    pub fn regex(text: &str) -> Result<Self, Refused> {
        let regex = RegexBuilder::new(text)
            .unicode(false)
            .multi_line(true)
            .size_limit(COMPILED_BYTES)
            .dfa_size_limit(COMPILED_BYTES)
            .nest_limit(NESTING)
            .build()
            .map_err(|error| {
                let size = matches!(error, regex::Error::CompiledTooBig(_));
                if size { Refused::Size } else { Refused::Syntax(reason(&error.to_string())) }
            })?;
        if regex.is_match(b"") {
            return Err(Refused::Empty);
        }
        Ok(Self::Regex(regex))
    }

    /// Where it stands first in what a guest said.
    #[must_use]
    pub fn find(&self, bytes: &[u8]) -> Option<Range<usize>> {
        match self {
            Self::Text(text) if text.is_empty() => None,
            Self::Text(text) => {
                let wanted = text.as_bytes();
                let start = bytes.windows(wanted.len()).position(|window| window == wanted)?;
                Some(start..start + wanted.len())
            }
            Self::Regex(regex) => regex.find(bytes).map(|found| found.range()),
        }
    }

    /// Every place where it begins.
    pub fn starts<'a>(&'a self, bytes: &'a [u8]) -> Box<dyn Iterator<Item = usize> + 'a> {
        match self {
            Self::Regex(regex) => Box::new(regex.find_iter(bytes).map(|found| found.start())),
            Self::Text(text) if text.is_empty() => Box::new(std::iter::empty()),
            Self::Text(text) => {
                let wanted = text.as_bytes();
                let windows = bytes.windows(wanted.len()).enumerate();
                Box::new(windows.filter(move |(_, window)| *window == wanted).map(|(at, _)| at))
            }
        }
    }

    /// How long what it finds may be, as far as that is known.
    #[must_use]
    pub fn length(&self) -> usize {
        /// More of one line nobody looks for.
        const LINE: usize = 1024;
        match self {
            Self::Text(text) => text.len(),
            Self::Regex(_) => LINE,
        }
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Text(text) => text,
            Self::Regex(regex) => regex.as_str(),
        }
    }
}

/// The last line of what the compiler of expressions says; the lines before it draw a picture.
fn reason(message: &str) -> String {
    let last = message.lines().last().unwrap_or(message);
    last.strip_prefix("error: ").unwrap_or(last).to_owned()
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        let kind = |pattern: &Self| matches!(pattern, Self::Text(_));
        kind(self) == kind(other) && self.as_str() == other.as_str()
    }
}

impl Eq for Pattern {}

impl From<&str> for Pattern {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "`{text}`"),
            Self::Regex(regex) => write!(f, "what matches `{}`", regex.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_found_and_an_expression_too() {
        let text = Pattern::Text("load average".to_owned());
        assert_eq!(text.find(b" up 3 min, load average: 0.1"), Some(11..23));
        assert_eq!(text.find(b"load"), None);
        let regex = Pattern::regex(r"^load: \d+$").unwrap();
        assert_eq!(regex.find(b"x\nload: 17\n\xff"), Some(2..10));
        assert_eq!(regex.find(b"load: \xc2\xb2"), None);
    }

    #[test]
    fn what_explodes_or_says_nothing_is_refused() {
        assert_eq!(Pattern::regex("(a{1000}){1000}").unwrap_err(), Refused::Size);
        assert_eq!(Pattern::regex(".*").unwrap_err(), Refused::Empty);
        assert_eq!(Pattern::regex("a(").unwrap_err(), Refused::Syntax("unclosed group".to_owned()));
        let deep = format!("{}a{}", "(".repeat(100), ")".repeat(100));
        assert!(matches!(Pattern::regex(&deep).unwrap_err(), Refused::Syntax(_)));
    }

    #[test]
    fn no_input_takes_long() {
        let slow_elsewhere = Pattern::regex("(a+)+$").unwrap();
        let mut bytes = vec![b'a'; 100_000];
        bytes.push(b'!');
        assert_eq!(slow_elsewhere.find(&bytes), None);
    }
}
