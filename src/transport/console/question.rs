//! One question on a console: whether what comes back is its answer, its echo, or something else.
//!
//! Whoever reads a terminal sees what was typed twice: once as the echo, once in effect. The echo is
//! the work of the terminal's driver, and of a kernel whose processes are all dead. So it is told
//! apart with care: when in doubt, text is no answer.
//!
//! Pure.

use super::plain::Plain;
use super::script::{Exchange, Marks};
use crate::base::pattern::Pattern;

/// A question that was typed.
#[derive(Debug)]
pub(super) struct Question {
    /// What was typed, without the keys around it.
    line: Vec<u8>,
    expect: Pattern,
    marks: Option<Marks>,
    echo: Echo,
    /// Up to where the text was searched.
    searched: usize,
    /// Where the answer begins, by its mark.
    begun: Option<usize>,
    /// Where it ends, by its mark.
    ended: Option<usize>,
    /// What is expected came, in neither mark nor echo.
    came: bool,
    /// It came after the mark.
    answered: bool,
}

/// How far what was typed has come back.
#[derive(Debug, Default)]
struct Echo {
    /// In one piece: the terminal echoes.
    whole: bool,
    /// So many bytes in their order, with whatever between them.
    matched: usize,
    /// Where the last of them was.
    complete_at: Option<usize>,
}

/// What is known of an answer so far.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Sofar {
    /// It is the expected one.
    Answered,
    /// It is complete, and is not the expected one.
    Other,
    /// Nothing can be said yet.
    Open,
}

/// What was heard since something was last typed.
#[derive(Debug, Default)]
pub(super) struct Ear {
    plain: Plain,
    text: Vec<u8>,
    /// How much text was forgotten before that.
    base: usize,
    /// How much came, of any kind.
    pub(super) bytes: u64,
    /// How often there was a pause since the last byte.
    pub(super) pauses: u32,
    /// Whether there was a pause at all.
    pub(super) paused: bool,
}

/// So much text is remembered at least, and twice as much at most.
const KEPT: usize = 16 * 1024;

/// A console that says so much without a pause is flooded.
const FLOOD: u64 = 64 * 1024;

impl Ear {
    /// Takes what came.
    pub(super) fn hear(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.pauses = 0;
        self.plain.feed(bytes, &mut self.text);
    }

    /// Nothing came for a moment.
    pub(super) fn pause(&mut self) {
        self.pauses += 1;
        self.paused = true;
        self.plain.settle(&mut self.text);
    }

    /// Something is typed: what came before is of no interest any more.
    pub(super) fn forget(&mut self) {
        *self = Self { plain: std::mem::take(&mut self.plain), ..Self::default() };
    }

    /// Keeps the memory bounded. What was not searched by now is never searched.
    pub(super) fn trim(&mut self) {
        if self.text.len() > 2 * KEPT {
            let excess = self.text.len() - KEPT;
            self.text.drain(..excess);
            self.base += excess;
        }
    }

    /// Whether it never fell silent.
    pub(super) fn is_flooded(&self) -> bool {
        self.bytes >= FLOOD && !self.paused
    }

    /// What came, line by line.
    pub(super) fn lines(&self) -> impl Iterator<Item = &[u8]> {
        self.text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii)
    }

    /// The line on which the cursor stands.
    pub(super) fn last_line(&self) -> &[u8] {
        self.text.rsplit(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii()
    }

    /// Whether this text came, in letters of any size.
    pub(super) fn says(&self, words: &str) -> bool {
        self.text.windows(words.len()).any(|window| window.eq_ignore_ascii_case(words.as_bytes()))
    }

    /// The text between two places, as much as is remembered.
    fn between(&self, from: usize, to: usize) -> &[u8] {
        let place = |at: usize| at.saturating_sub(self.base).min(self.text.len());
        &self.text[place(from)..place(to).max(place(from))]
    }

    /// How many bytes are kept.
    #[cfg(test)]
    pub(super) fn remembers(&self) -> usize {
        self.text.capacity()
    }

    fn end(&self) -> usize {
        self.base + self.text.len()
    }
}

impl Question {
    /// A question, marked if there is a shell to print marks.
    pub(super) fn new(exchange: &Exchange, marks: Option<Marks>) -> Self {
        let line = match &marks {
            Some(marks) => marks.around(&exchange.send),
            None => exchange.send.trim().as_bytes().to_vec(),
        };
        Self {
            line,
            expect: exchange.expect.clone(),
            marks,
            echo: Echo::default(),
            searched: 0,
            begun: None,
            ended: None,
            came: false,
            answered: false,
        }
    }

    /// What is to be typed.
    pub(super) fn line(&self) -> &[u8] {
        &self.line
    }

    /// Whether the terminal gave back what was typed.
    pub(super) fn is_echoed(&self) -> bool {
        self.echo.whole
    }

    /// Whether a shell began to carry it out.
    pub(super) fn is_begun(&self) -> bool {
        self.begun.is_some()
    }

    /// Whether what is expected came.
    pub(super) fn is_answered(&self) -> bool {
        self.answered
    }

    /// Whether nothing more is to come.
    pub(super) fn is_over(&self) -> bool {
        self.ended.is_some()
    }

    /// What was answered, if it is marked.
    pub(super) fn said<'a>(&self, ear: &'a Ear) -> &'a [u8] {
        let marks = self.marks.as_ref().map_or(0, |marks| marks.close.len());
        match (self.begun, self.ended) {
            (Some(begun), Some(ended)) => ear.between(begun, ended - marks).trim_ascii(),
            _ => &[],
        }
    }

    /// Reads on in what was heard.
    pub(super) fn read(&mut self, ear: &Ear) -> Sofar {
        self.follow_echo(ear);
        // What was cut by the end of the text is looked at again with more of it.
        let longest = self.line.len().max(self.expect.length()) + 1;
        let from = self.searched.saturating_sub(longest).max(ear.base);
        self.find_marks(ear, from);
        self.find_expected(ear, from);
        self.searched = ear.end();
        self.answered |= self.ended.is_some() && self.came;
        match (self.answered, self.ended) {
            (true, _) => Sofar::Answered,
            (false, Some(_)) => Sofar::Other,
            (false, None) => Sofar::Open,
        }
    }

    fn follow_echo(&mut self, ear: &Ear) {
        for (at, byte) in (self.searched..).zip(ear.between(self.searched, ear.end())) {
            if self.line.get(self.echo.matched) == Some(byte) {
                self.echo.matched += 1;
                if self.echo.matched == self.line.len() {
                    self.echo.complete_at = Some(at + 1);
                }
            }
        }
    }

    fn find_marks(&mut self, ear: &Ear, from: usize) {
        let text = ear.between(from, ear.end());
        self.echo.whole |= !self.line.is_empty() && places(text, &self.line).next().is_some();
        let Some(marks) = &self.marks else { return };
        let place = |mark: &[u8]| Some(from + places(text, mark).next()? + mark.len());
        self.begun = self.begun.or_else(|| place(&marks.open));
        self.ended = self.ended.or_else(|| place(&marks.close));
    }

    fn find_expected(&mut self, ear: &Ear, from: usize) {
        let text = ear.between(from, ear.end());
        if self.expect.length() == 0 {
            // Anything will do, but only a mark says that there was anything.
            self.came = self.ended.is_some();
            return;
        }
        for place in self.expect.starts(text) {
            let at = from + place;
            if self.begun.is_some_and(|begun| at >= begun) {
                self.answered = true;
            } else if !self.may_be_echo(ear, at) {
                self.came = true;
            }
        }
        // Without marks there is no better proof.
        self.answered |= self.came && self.marks.is_none();
    }

    /// Whether the expected text at this place may be part of what was typed.
    fn may_be_echo(&self, ear: &Ear, at: usize) -> bool {
        let mut line = self.line.clone();
        line.push(b'\n');
        let mut in_line = self.expect.starts(&line).peekable();
        if in_line.peek().is_none() {
            return false;
        }
        // Torn apart by what the kernel or others said meanwhile.
        if self.echo.complete_at.is_none_or(|complete| at < complete) {
            return true;
        }
        // In one piece, perhaps a second time: a shell shows again what was typed ahead of it.
        in_line.any(|offset| {
            let Some(start) = at.checked_sub(offset).filter(|start| *start >= ear.base) else {
                return false;
            };
            let there = ear.between(start, start + self.line.len());
            self.line.starts_with(there)
        })
    }
}

/// Where `needle` is in `text`.
fn places<'a>(text: &'a [u8], needle: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    let first = needle.first().copied();
    text.iter()
        .enumerate()
        .filter(move |(_, byte)| Some(**byte) == first)
        .map(|(place, _)| place)
        .filter(move |place| text[*place..].starts_with(needle))
}
