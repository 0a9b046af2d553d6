//! A node of the tree, and how it comes out of the YAML reader.

use super::map::Map;
use super::notes::Notes;
use super::value::FromNode;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;
use std::fmt;
use std::ops::Range;

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

impl Node {
    /// The node as a map.
    pub fn map<'a>(&'a self, notes: &'a Notes) -> Option<Map<'a>> {
        let Value::Map(entries) = &self.value else {
            notes.expected(self, "a map of keys and values");
            return None;
        };
        Some(Map::new(self.span.clone(), entries, notes))
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

    pub(super) fn describe(&self) -> &'static str {
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

impl Node {
    pub(super) fn is(&self, word: &str) -> bool {
        matches!(&self.value, Value::Text(text) if text == word)
    }
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
