//! What is wrong with a text that a person wrote, shown as a compiler shows it.
//!
//! Reading never stops at the first mistake: problems are collected and shown together, each with
//! the place, the words underlined, and the way out.

use super::limits;
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use std::fmt;
use std::ops::Range;

/// A text and where it came from.
#[derive(Clone, Debug)]
pub struct Source {
    /// File name, as a person would type it.
    pub name: String,
    /// All of it.
    pub text: String,
}

/// One mistake.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    /// The words that are wrong, as bytes of the text.
    pub span: Range<usize>,
    /// What is wrong.
    pub message: String,
    /// What is said under the words.
    pub label: String,
    /// The way out.
    pub help: Option<String>,
}

/// All mistakes of one text.
#[derive(Clone, Debug)]
pub struct Problems {
    source: Source,
    list: Vec<Problem>,
}

impl Problem {
    /// A mistake at `span`.
    #[must_use]
    pub fn new(span: Range<usize>, message: impl Into<String>, label: impl Into<String>) -> Self {
        Self { span, message: message.into(), label: label.into(), help: None }
    }

    /// The same with a way out.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl Problems {
    /// Mistakes in `source`, in the order of the text.
    #[must_use]
    pub fn new(source: Source, mut list: Vec<Problem>) -> Self {
        list.sort_by_key(|problem| problem.span.start);
        Self { source, list }
    }

    /// The mistakes.
    #[must_use]
    pub fn list(&self) -> &[Problem] {
        &self.list
    }

    /// As text, with colours for a terminal.
    #[must_use]
    pub fn coloured(&self) -> String {
        self.render(&Renderer::styled())
    }

    fn render(&self, renderer: &Renderer) -> String {
        let first = self.list.iter().take(limits::PROBLEMS_SHOWN);
        let mut shown: Vec<String> =
            first.map(|problem| self.render_one(renderer, problem)).collect();
        let more = self.list.len().saturating_sub(limits::PROBLEMS_SHOWN);
        if more > 0 {
            shown.push(format!("and {more} more mistakes in {}", self.source.name));
        }
        shown.join("\n\n")
    }

    fn render_one(&self, renderer: &Renderer, problem: &Problem) -> String {
        let span = within(&self.source.text, &problem.span);
        let snippet = Snippet::source(&self.source.text)
            .path(&self.source.name)
            .annotation(AnnotationKind::Primary.span(span).label(&problem.label));
        let title = Level::ERROR.primary_title(&problem.message);
        let mut report = vec![Group::with_title(title).element(snippet)];
        if let Some(help) = &problem.help {
            report.push(Group::with_title(Level::HELP.secondary_title(help)));
        }
        renderer.render(&report)
    }
}

/// The whole characters of a text that a span touches: the renderer panics at half of one.
fn within(text: &str, span: &Range<usize>) -> Range<usize> {
    let start = text.floor_char_boundary(span.start);
    start..text.ceil_char_boundary(span.end).max(start)
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(&Renderer::plain()))
    }
}

impl std::error::Error for Problems {}
