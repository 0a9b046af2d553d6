//! A survey as a person reads it: the ladder from its top down, the verdict, and what is missing.
//!
//! ```text
//!   userspace  |-x-|  dead     console, 3.0 s: `uptime` was typed and nothing came back
//!   kernel     |===|  alive    ping, 2 ms: 10.1.0.7 answers a ping in 2 ms
//! ```
//!
//! Pure.

use super::{Covered, Heard, Survey};
use crate::base::rung::{Answer, Rung};
use crate::base::time::Spoken;
use std::fmt::Write;
use std::time::Duration;

/// A terminal that is narrower wraps by itself.
const COLUMNS: usize = 100;

const RUNGS: [Rung; 6] =
    [Rung::Service, Rung::Storage, Rung::Userspace, Rung::Kernel, Rung::Vcpu, Rung::Vmm];

/// Whether a terminal will show it that knows colours.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Paint {
    /// Text alone.
    Plain,
    /// With colours.
    Coloured,
}

impl Survey {
    /// As text for a person.
    #[must_use]
    pub fn text(&self, paint: Paint) -> String {
        let mut text = String::new();
        let (name, id, consent) = (&self.app.name, &self.app.id, self.app.consent);
        fill(&mut text, "", &format!("{name} ({id}, consent `{consent}`)"));
        text.push('\n');
        for rung in RUNGS {
            self.rung(&mut text, rung, paint);
        }
        text.push('\n');
        let answer = match self.verdict.answer {
            Answer::Alive => "alive",
            Answer::Dead => "dead",
            Answer::Unknown => "cannot be told",
        };
        fill(&mut text, "", &format!("{answer}: {}", self.verdict.text));
        self.missing(&mut text);
        text
    }

    /// Who says what of a rung. Who could not ask at all is told below the ladder.
    fn rung(&self, text: &mut String, rung: Rung, paint: Paint) {
        let is_of_use = |heard: &Heard| {
            let way = self.coverage.iter().find(|covered| covered.transport == heard.transport);
            way.is_none_or(|covered| covered.askable)
        };
        let mut heard: Vec<&Heard> =
            self.findings.iter().filter(|heard| heard.rung == rung && is_of_use(heard)).collect();
        heard.sort_by_key(|heard| heard.answer == Answer::Unknown);
        let has = |answer| heard.iter().any(|heard| heard.answer == answer);
        let mut head = match (has(Answer::Alive), has(Answer::Dead)) {
            (true, true) => format!("  {rung:<9}  |=x=|  "),
            (true, false) => format!("  {rung:<9}  |===|  "),
            (false, true) => format!("  {rung:<9}  |-x-|  "),
            (false, false) => format!("  {rung:<9}  |   |  "),
        };
        if heard.is_empty() {
            let _ = writeln!(text, "{}", head.trim_end());
        }
        for heard in heard {
            let Heard { name, reason, .. } = heard;
            let took = Spoken(Duration::from_millis(heard.took_ms));
            let answer = format!("{:<9}", heard.answer);
            let mut line = String::new();
            fill(&mut line, &format!("{head}{answer}"), &format!("{name}, {took}: {reason}"));
            *text += &line.replacen(&answer, &paint.answer(heard.answer, &answer), 1);
            head = format!("  {:<9}  |   |  ", "");
        }
    }

    fn missing(&self, text: &mut String) {
        let missing: Vec<&Covered> =
            self.coverage.iter().filter(|covered| !covered.askable).collect();
        if !missing.is_empty() || !self.hindered.is_empty() {
            text.push_str("\ncannot be asked:\n");
        }
        for covered in missing {
            let Covered { transport, why, remedy, .. } = covered;
            fill(text, &format!("  {:<11}", transport.word()), why);
            if let Some(remedy) = remedy {
                fill(text, &format!("{:<13}-> ", ""), remedy);
            }
        }
        for hindered in &self.hindered {
            fill(text, "  ", &hindered.reason);
        }
    }
}

impl Paint {
    fn answer(self, answer: Answer, word: &str) -> String {
        let colour = match answer {
            Answer::Alive => 32,
            Answer::Dead => 31,
            Answer::Unknown => 33,
        };
        match self {
            Self::Plain => word.to_owned(),
            Self::Coloured => format!("\u{1b}[{colour}m{word}\u{1b}[0m"),
        }
    }
}

/// Adds lines that begin with `head`, and go on below the text behind it.
fn fill(text: &mut String, head: &str, said: &str) {
    let width = COLUMNS - head.chars().count();
    let mut begin = head.to_owned();
    for line in wrapped(said, width) {
        let _ = writeln!(text, "{}", format!("{begin}{line}").trim_end());
        begin = " ".repeat(head.chars().count());
    }
}

/// Lines of `width` characters at most. A word that is longer is cut.
fn wrapped(said: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in said.split(' ') {
        let mut word: Vec<char> = word.chars().collect();
        loop {
            let line = lines.last_mut().expect("it begins with one");
            let used = line.chars().count();
            let gap = usize::from(used > 0);
            if used + gap + word.len() <= width {
                line.extend(std::iter::repeat_n(' ', gap).chain(word));
                break;
            }
            if used > 0 {
                lines.push(String::new());
            } else {
                line.extend(word.drain(..width));
            }
        }
    }
    lines
}
