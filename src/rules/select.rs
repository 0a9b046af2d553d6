//! Which apps a binding means, and how precisely it says so.

use super::App;
use crate::base::document::{FromNode, Node, Notes, Value, parsed};
use crate::base::id::AppId;
use crate::base::problem::Problem;
use std::fmt;

/// Selects apps. All that it says must hold.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Selector {
    uuid: Option<AppId>,
    name: Option<Glob>,
    labels: Vec<Label>,
}

/// How precise a selector is: a key before a name, a name before a pattern, a pattern before labels.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Rank {
    uuid: bool,
    exact: bool,
    /// Letters of a pattern that stand for themselves, and one.
    pattern: usize,
    labels: usize,
}

/// A name in which `*` is any text and `?` any letter.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Glob(String);

/// `key=value`
#[derive(Clone, Debug, Eq, PartialEq)]
struct Label {
    key: String,
    value: String,
}

// === impl Selector ===

impl Selector {
    /// Selects one app.
    #[must_use]
    pub fn app(id: AppId) -> Self {
        Self { uuid: Some(id), name: None, labels: Vec::new() }
    }

    /// Selects one app by its key, or all whose names match; as a person names them in a command.
    #[must_use]
    pub fn named(text: &str) -> Self {
        match text.parse() {
            Ok(id) => Self::app(id),
            Err(_) => Self { uuid: None, name: Some(Glob(text.to_owned())), labels: Vec::new() },
        }
    }

    /// Reads `{ uuid: .., name: .., label: .. }`.
    pub(super) fn read(node: &Node, notes: &Notes) -> Option<Self> {
        let mut map = node.map(notes)?;
        let uuid = map.node("uuid");
        let name = map.node("name");
        let label = map.node("label");
        map.finish();
        if uuid.is_none() && name.is_none() && label.is_none() {
            let problem = Problem::new(node.span.clone(), "nothing is selected", "says nothing");
            notes.note(problem.help("say uuid, name or label; `name: \"*\"` means every app"));
            return None;
        }
        let uuid = uuid.map(|node| AppId::from_node(node, notes));
        let name = name.map(|node| Glob::from_node(node, notes));
        let labels = label.map(|node| read_labels(node, notes));
        Some(Self {
            uuid: transposed(uuid)?,
            name: transposed(name)?,
            labels: transposed(labels)?.unwrap_or_default(),
        })
    }

    /// Whether it means this app.
    #[must_use]
    pub fn selects(&self, app: &App) -> bool {
        self.uuid.is_none_or(|id| id == app.id)
            && self.name.as_ref().is_none_or(|glob| glob.matches(&app.name))
            && self.labels.iter().all(|label| app.labels.get(&label.key) == Some(&label.value))
    }

    /// How precise it is.
    #[must_use]
    pub fn rank(&self) -> Rank {
        let exact = self.name.as_ref().is_some_and(Glob::is_exact);
        let pattern = self.name.as_ref().map_or(0, |glob| 1 + glob.letters());
        Rank { uuid: self.uuid.is_some(), exact, pattern, labels: self.labels.len() }
    }
}

/// `None` within: it was there and wrong, which was noted.
#[expect(clippy::option_option, reason = "whether it was said, and whether it was right")]
fn transposed<T>(read: Option<Option<T>>) -> Option<Option<T>> {
    match read {
        None => Some(None),
        Some(value) => value.map(Some),
    }
}

fn read_labels(node: &Node, notes: &Notes) -> Option<Vec<Label>> {
    match &node.value {
        Value::List(items) => items.iter().map(|item| Label::from_node(item, notes)).collect(),
        Value::Text(_)
        | Value::Null
        | Value::Bool(_)
        | Value::Int(_)
        | Value::Float(_)
        | Value::Map(_) => Label::from_node(node, notes).map(|label| vec![label]),
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = Vec::new();
        said.extend(self.uuid.map(|id| format!("uuid {id}")));
        said.extend(self.name.as_ref().map(|Glob(name)| format!("name `{name}`")));
        said.extend(self.labels.iter().map(|label| format!("label {}={}", label.key, label.value)));
        f.write_str(&said.join(" and "))
    }
}

// === impl Glob ===

impl Glob {
    fn is_exact(&self) -> bool {
        !self.0.contains(['*', '?'])
    }

    fn letters(&self) -> usize {
        self.0.chars().filter(|c| !matches!(c, '*' | '?')).count()
    }

    /// Goes back to the last `*` alone, so its time is at worst pattern times name.
    fn matches(&self, name: &str) -> bool {
        let pattern: Vec<char> = self.0.chars().collect();
        let name: Vec<char> = name.chars().collect();
        let (mut at, mut of) = (0, 0);
        let mut star = None;
        while of < name.len() {
            match pattern.get(at) {
                Some('*') => {
                    star = Some((at, of));
                    at += 1;
                }
                Some(c) if *c == '?' || *c == name[of] => {
                    at += 1;
                    of += 1;
                }
                Some(_) | None => {
                    let Some((star_at, taken)) = star else { return false };
                    star = Some((star_at, taken + 1));
                    at = star_at + 1;
                    of = taken + 1;
                }
            }
        }
        pattern[at..].iter().all(|c| *c == '*')
    }
}

impl FromNode for Glob {
    const EXPECTED: &'static str = "a name of 1 to 256 letters, in which `*` is any text,";

    fn from_node(node: &Node, notes: &Notes) -> Option<Self> {
        parsed(node, notes, |text| (1..=256).contains(&text.len()).then(|| Self(text.to_owned())))
    }
}

// === impl Label ===

impl FromNode for Label {
    const EXPECTED: &'static str = "a label such as tier=gold";

    fn from_node(node: &Node, notes: &Notes) -> Option<Self> {
        parsed(node, notes, |text| {
            let (key, value) = text.split_once('=')?;
            (!key.is_empty()).then(|| Self { key: key.to_owned(), value: value.to_owned() })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn glob(pattern: &str, name: &str) -> bool {
        Glob(pattern.to_owned()).matches(name)
    }

    #[test]
    fn a_star_is_any_text() {
        for (pattern, name) in [
            ("*", ""),
            ("*", "web"),
            ("web-*", "web-"),
            ("*-1", "a-b-1"),
            ("w?b", "web"),
            ("a*b*c", "abbc"),
        ] {
            assert!(glob(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in
            [("web", "web-1"), ("web-*", "web"), ("?", ""), ("a*b", "abc"), ("Web", "web")]
        {
            assert!(!glob(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn a_key_is_more_precise_than_a_name_than_a_pattern_than_labels() {
        let label = Label { key: "tier".to_owned(), value: "gold".to_owned() };
        let named = |name: &str| Selector {
            uuid: None,
            name: Some(Glob(name.to_owned())),
            labels: Vec::new(),
        };
        let labels = Selector { uuid: None, name: None, labels: vec![label; 3] };
        let ranks: Vec<Rank> =
            [Selector::app(AppId::new([1; 16])), named("web"), named("we*"), named("*"), labels]
                .iter()
                .map(Selector::rank)
                .collect();
        assert!(ranks.is_sorted_by(|a, b| a > b), "{ranks:?}");
    }

    proptest! {
        #[test]
        fn a_name_matches_itself_and_any_of_its_ends(name in "[a-z?*]{0,12}", at in 0_usize..12) {
            prop_assert!(glob(&name, &name));
            let at = at.min(name.len());
            let pattern = format!("{}*", &name[..at]);
            prop_assert!(glob(&pattern, &name));
        }

        #[test]
        fn many_stars_end(name in "a{0,300}") {
            prop_assert!(!glob("*a*a*a*a*a*a*a*a*a*a*b", &name));
        }
    }
}
