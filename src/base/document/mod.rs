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
pub use value::{Bytes, FromNode, parsed};

use super::limits;
use super::problem::{Problem, Problems, Source};
use std::path::Path;

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
        let directory = Path::new(&self.source.name).parent().unwrap_or(Path::new(""));
        let notes = Notes::new(directory);
        let value = read(&self.root, &notes);
        let problems = notes.into_problems();
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
