//! A YAML text as a tree in which every node knows its place.
//!
//! Scenarios and config files are all read the same way: [`Document::parse`] gives the tree, a
//! [`Map`] hands out its values one by one as typed things, and what is wrong is noted in a
//! [`Notes`] instead of ending the reading. A key that nobody asked for is a mistake, too.
//!
//! ```text
//! text --parse--> Document --Map::required, optional, finish--> typed values
//!                                  |
//!                                  +--> Notes --into Problems--> shown to the person
//! ```

use super::limits;
use super::problem::{Problem, Problems, Source};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;
use std::cell::RefCell;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

/// A parsed text.
#[derive(Clone, Debug)]
pub struct Document {
    source: Source,
    root: Node,
}

/// A value and its place.
#[derive(Clone, Debug)]
pub struct Node {
    /// Where it stands. Of a list or a map only the beginning is known.
    pub span: Range<usize>,
    /// What stands there.
    pub value: Value,
}

/// What YAML can say.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the names are YAML's")]
pub enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Node, Node)>),
}

/// Where mistakes are noted while reading goes on.
#[derive(Debug, Default)]
pub struct Notes(RefCell<Vec<Problem>>);

/// A map whose keys are asked for by name.
pub struct Map<'a> {
    span: Range<usize>,
    entries: &'a [(Node, Node)],
    asked: Vec<&'static str>,
    notes: &'a Notes,
}

/// What can be read from a node.
pub trait FromNode: Sized {
    /// What a person should have written there.
    const EXPECTED: &'static str;

    /// Reads it, or notes why not.
    fn from_node(node: &Node, notes: &Notes) -> Option<Self>;
}

// === impl Document ===

impl Document {
    /// Parses a text. Broken YAML is one problem, for its reader cannot go on after the first.
    ///
    /// # Errors
    ///
    /// When the text is no YAML, or is too large to have been written by a person.
    pub fn parse(source: Source) -> Result<Self, Problems> {
        if source.text.len() > limits::DOCUMENT_BYTES {
            let label = format!("more than {} bytes", limits::DOCUMENT_BYTES);
            let problem = Problem::new(0..0, "the file is too large", label);
            let name = source.name;
            return Err(Problems::new(Source { name, text: String::new() }, vec![problem]));
        }
        match serde_saphyr::from_str_with_options(&source.text, options()) {
            Ok(root) => Ok(Self { source, root }),
            Err(error) => {
                let problem = syntax_problem(&source.text, &error);
                Err(Problems::new(source, vec![problem]))
            }
        }
    }

    /// Reads the whole document with `read`, and shows every mistake that it noted.
    ///
    /// # Errors
    ///
    /// When anything was noted.
    pub fn read<T>(&self, read: impl FnOnce(&Node, &Notes) -> Option<T>) -> Result<T, Problems> {
        let notes = Notes::default();
        let value = read(&self.root, &notes);
        let problems = notes.0.into_inner();
        match value {
            Some(value) if problems.is_empty() => Ok(value),
            _ => Err(Problems::new(self.source.clone(), problems)),
        }
    }
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! { strict_booleans: true, with_snippet: false }
}

fn syntax_problem(text: &str, error: &serde_saphyr::Error) -> Problem {
    let start = error.location().map_or(0, |at| {
        let before = text
            .split_inclusive('\n')
            .take(usize::try_from(at.line()).unwrap_or(1).saturating_sub(1));
        let line: usize = before.map(str::len).sum();
        line + usize::try_from(at.column()).unwrap_or(1).saturating_sub(1)
    });
    let start = start.min(text.len());
    let end = text
        .get(start..)
        .and_then(|rest| rest.chars().next())
        .map_or(start, |c| start + c.len_utf8());
    let message = error.to_string();
    let message = message.split(", set DuplicateKeyPolicy").next().unwrap_or(&message);
    let message = message
        .split_once(": ")
        .filter(|(head, _)| head.starts_with("line "))
        .map_or(message, |(_, rest)| rest);
    Problem::new(start..end, "this is not YAML that can be read", message)
}

// === impl Node ===

impl Node {
    /// The node as a map.
    pub fn map<'a>(&'a self, notes: &'a Notes) -> Option<Map<'a>> {
        let Value::Map(entries) = &self.value else {
            notes.expected(self, "a map of keys and values");
            return None;
        };
        Some(Map { span: self.span.clone(), entries, asked: Vec::new(), notes })
    }

    /// The node as a list.
    pub fn list<'a>(&'a self, notes: &Notes) -> Option<&'a [Node]> {
        let Value::List(items) = &self.value else {
            notes.expected(self, "a list");
            return None;
        };
        Some(items)
    }

    /// The node as a word out of a closed list.
    pub fn word<T: Copy>(&self, notes: &Notes, what: &str, words: &[(&str, T)]) -> Option<T> {
        let text = String::from_node(self, notes)?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let allowed: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        notes.unknown(self.span.clone(), what, &text, &allowed);
        None
    }

    fn describe(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "a truth value",
            Value::Int(_) | Value::Float(_) => "a number",
            Value::Text(_) => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }
}

// === impl Map ===

impl<'a> Map<'a> {
    /// Where the map begins.
    #[must_use]
    pub fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// The node under a key, if it is there.
    pub fn node(&mut self, key: &'static str) -> Option<&'a Node> {
        if !self.asked.contains(&key) {
            self.asked.push(key);
        }
        self.entries.iter().find(|(k, _)| k.is(key)).map(|(_, value)| value)
    }

    /// The value of a key that may be missing.
    pub fn optional<T: FromNode>(&mut self, key: &'static str) -> Option<T> {
        self.node(key).and_then(|node| T::from_node(node, self.notes))
    }

    /// The value of a key, or what holds when it is missing.
    pub fn or<T: FromNode>(&mut self, key: &'static str, default: T) -> Option<T> {
        match self.node(key) {
            Some(node) => T::from_node(node, self.notes),
            None => Some(default),
        }
    }

    /// The value of a key that must be there.
    pub fn required<T: FromNode>(&mut self, key: &'static str) -> Option<T> {
        self.required_node(key).and_then(|node| T::from_node(node, self.notes))
    }

    /// The node under a key that must be there.
    pub fn required_node(&mut self, key: &'static str) -> Option<&'a Node> {
        let node = self.node(key);
        if node.is_none() {
            let message = format!("`{key}` is missing");
            self.notes.note(Problem::new(self.span.clone(), message, "in this map"));
        }
        node
    }

    /// The single entry of a map that names one thing out of several, such as `console: {..}`.
    pub fn only(mut self, what: &str, words: &[&'static str]) -> Option<(&'static str, &'a Node)> {
        if let [(_, _)] = self.entries {
            for word in words {
                if let Some(node) = self.node(word) {
                    return Some((word, node));
                }
            }
            self.finish_as(what);
        } else {
            let message = format!("one {what} is expected here");
            let label = format!("{} keys", self.entries.len());
            let help = format!("allowed: {}", words.join(", "));
            self.notes.note(Problem::new(self.span.clone(), message, label).help(help));
        }
        None
    }

    /// Says that all keys were asked for: the others are mistakes.
    pub fn finish(self) {
        self.finish_as("key");
    }

    fn finish_as(self, what: &str) {
        for (key, _) in self.entries {
            if !self.asked.iter().any(|asked| key.is(asked)) {
                let text = String::from_node(key, &Notes::default()).unwrap_or_default();
                self.notes.unknown(key.span.clone(), what, &text, &self.asked);
            }
        }
    }
}

impl Node {
    fn is(&self, word: &str) -> bool {
        matches!(&self.value, Value::Text(text) if text == word)
    }
}

// === impl Notes ===

impl Notes {
    /// Notes a mistake.
    pub fn note(&self, problem: Problem) {
        self.0.borrow_mut().push(problem);
    }

    /// Notes that something else should stand here.
    pub fn expected(&self, node: &Node, expected: &str) {
        let label = format!("this is {}", node.describe());
        self.note(Problem::new(node.span.clone(), format!("{expected} is expected here"), label));
    }

    /// Notes a word that is not known here, with those that are and a guess at what was meant.
    pub fn unknown(&self, span: Range<usize>, what: &str, word: &str, allowed: &[&str]) {
        let guess = allowed.iter().map(|a| (distance(word, a), a)).min();
        let label = match guess {
            Some((far, a)) if far <= 2 || far * 3 <= a.len() => format!("did you mean `{a}`?"),
            _ => format!("not a {what} that is known here"),
        };
        let help = format!("allowed: {}", allowed.join(", "));
        self.note(Problem::new(span, format!("unknown {what} `{word}`"), label).help(help));
    }
}

/// Edits between two words.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substitution = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substitution.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
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
        String::from_node(node, notes).map(Self::from)
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
        node.list(notes)?.iter().map(|item| T::from_node(item, notes)).collect()
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

fn parse_duration(text: &str) -> Option<Duration> {
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

// === impl Deserialize ===

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned: Spanned<Value> = Spanned::deserialize(deserializer)?;
        let span = spanned.referenced.span();
        let start = span.byte_offset().and_then(|at| usize::try_from(at).ok()).unwrap_or(0);
        let length = span.byte_len().and_then(|len| usize::try_from(len).ok()).unwrap_or(0);
        Ok(Self { span: start..start.saturating_add(length), value: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("YAML")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Int(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Int(i64::try_from(value).unwrap_or(i64::MAX)))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = access.next_entry()? {
            entries.push(entry);
        }
        Ok(Value::Map(entries))
    }
}
