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

mod map;
mod node;
mod notes;
mod value;

pub use map::Map;
pub use node::{Node, Value};
pub use notes::Notes;
pub use value::{Bytes, FromNode, parse_duration, parsed};

use super::limits;
use super::problem::{Problem, Problems, Source};

/// A parsed text.
#[derive(Clone, Debug)]
pub struct Document {
    source: Source,
    root: Node,
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
        let notes = Notes::new(&self.source);
        let value = read(&self.root, &notes);
        let problems = notes.into_problems();
        match value {
            Some(value) if problems.is_empty() => Ok(value),
            _ => Err(Problems::new(self.source.clone(), problems)),
        }
    }
}

/// Bounded, so that neither a stack nor a memory overflows: a person nests some eight deep, and
/// aliases unfold to what could have been written.
fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        strict_booleans: true,
        with_snippet: false,
        budget: serde_saphyr::budget! {
            max_depth: limits::DOCUMENT_DEPTH,
            flow_nesting_limit: limits::DOCUMENT_DEPTH,
            max_nodes: limits::DOCUMENT_NODES,
        },
    }
}

fn syntax_problem(text: &str, error: &serde_saphyr::Error) -> Problem {
    let start = error.location().map_or(0, |at| {
        let number = |at: u64| usize::try_from(at).unwrap_or(1).saturating_sub(1);
        let mut lines = text.split_inclusive('\n');
        let before: usize = lines.by_ref().take(number(at.line())).map(str::len).sum();
        // Columns are counted in characters.
        let line = lines.next().unwrap_or("");
        before + line.chars().take(number(at.column())).map(char::len_utf8).sum::<usize>()
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
    if message.starts_with("budget breached") || message.starts_with("recursion limit") {
        let label = format!(
            "it is nested more than {} deep, or unfolds to more than {} values",
            limits::DOCUMENT_DEPTH,
            limits::DOCUMENT_NODES
        );
        return Problem::new(start..end, "nobody wrote this by hand", label);
    }
    Problem::new(start..end, "this is not YAML that can be read", message)
}
