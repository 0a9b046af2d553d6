//! What is wrong with a document, noted while reading goes on.

use super::node::Node;
use crate::base::problem::{Problem, Source};
use std::cell::RefCell;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Where mistakes are noted while reading goes on.
#[derive(Debug, Default)]
pub struct Notes {
    problems: RefCell<Vec<Problem>>,
    /// The document's own directory: where paths in it start.
    directory: PathBuf,
    /// The document's name, for people.
    name: String,
    /// Where its lines begin, but the first.
    lines: Vec<usize>,
}

// === impl Notes ===

impl Notes {
    /// None yet, in this document.
    pub(super) fn new(source: &Source) -> Self {
        let directory = Path::new(&source.name).parent().unwrap_or(Path::new(""));
        let lines = source.text.match_indices('\n').map(|(at, _)| at + 1);
        Self {
            problems: RefCell::default(),
            directory: directory.to_owned(),
            name: source.name.clone(),
            lines: lines.collect(),
        }
    }

    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems.into_inner()
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where a node stands, for a person who shall find it later: file and line.
    #[must_use]
    pub fn place(&self, node: &Node) -> String {
        let line = 1 + self.lines.partition_point(|start| *start <= node.span.start);
        format!("{}:{line}", self.name)
    }

    /// Notes a mistake.
    pub fn note(&self, problem: Problem) {
        self.problems.borrow_mut().push(problem);
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
        let help = match allowed {
            [] => format!("no {what} is known here"),
            _ => format!("allowed: {}", allowed.join(", ")),
        };
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
