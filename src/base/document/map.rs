//! A map whose values are taken out by name, so that what nobody asked for shows.

use super::node::Node;
use super::notes::Notes;
use super::value::FromNode;
use crate::base::problem::Problem;
use std::ops::Range;

/// A map whose keys are asked for by name.
pub struct Map<'a> {
    span: Range<usize>,
    entries: &'a [(Node, Node)],
    asked: Vec<&'static str>,
    notes: &'a Notes,
}

// === impl Map ===

impl<'a> Map<'a> {
    pub(super) fn new(span: Range<usize>, entries: &'a [(Node, Node)], notes: &'a Notes) -> Self {
        Self { span, entries, asked: Vec::new(), notes }
    }

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
