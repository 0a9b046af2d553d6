//! Where a binding says that a secret is. The secret itself is the device's affair.
//!
//! It is a file of the device's secrets directory, or a variable of its environment whose name
//! begins with `LIFESIGN_SECRET_`: a binding may come from the controller, and shall not be able to
//! type any other variable on a guest's console.

use crate::base::document::{FromNode, Node, Notes, Value};
use crate::base::id::ScenarioName;
use crate::base::problem::Problem;
use std::collections::BTreeMap;
use std::fmt;

/// What the names of variables begin with.
const VARIABLE: &str = "LIFESIGN_SECRET_";

/// Where a secret is.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Reference {
    /// In a file of the secrets directory.
    File(String),
    /// In a variable of the environment.
    Variable(String),
}

impl FromNode for Reference {
    const EXPECTED: &'static str = "`file: NAME` or `env: LIFESIGN_SECRET_NAME`";

    fn from_node(node: &Node, notes: &Notes) -> Option<Self> {
        let (kind, value) = node.map(notes)?.only("place of a secret", &["file", "env"])?;
        let name = String::from_node(value, notes)?;
        let wrong = |message: String, help: &str| {
            let problem = Problem::new(value.span.clone(), message, "not this");
            notes.note(problem.help(help));
            None
        };
        if kind == "file" {
            // A scenario's name is held to what a plain file name is held to: no slash, no dots first.
            if name.parse::<ScenarioName>().is_err() {
                let message = format!("`{name}` is no name of a file in the secrets directory");
                return wrong(message, "1 to 64 of a-z, A-Z, 0-9, `-`, `_` and `.`");
            }
            Some(Self::File(name))
        } else {
            let plain = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
            if !name.starts_with(VARIABLE) || !name.bytes().all(plain) {
                let message = format!("`{name}` is no variable for a secret");
                return wrong(message, "its name begins with LIFESIGN_SECRET_");
            }
            Some(Self::Variable(name))
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(name) => write!(f, "the file `{name}`"),
            Self::Variable(name) => write!(f, "the variable {name}"),
        }
    }
}

/// Reads `secrets: { password: { file: web } }`.
pub(super) fn read_references(node: &Node, notes: &Notes) -> Option<BTreeMap<String, Reference>> {
    let Value::Map(entries) = &node.value else {
        notes.expected(node, "a map of names to places of secrets");
        return None;
    };
    let read: Vec<Option<(String, Reference)>> = entries
        .iter()
        .map(|(key, place)| {
            let (key, place) = (String::from_node(key, notes), Reference::from_node(place, notes));
            Some((key?, place?))
        })
        .collect();
    read.into_iter().collect()
}
