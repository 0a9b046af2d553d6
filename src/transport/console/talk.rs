//! A conversation on a console: what came goes in, what to type next comes out.
//!
//! ```text
//!             a shell or a login                 a prompt        the last answer
//!   begin ----------------------> Waking ------------------> Asking ---------> Over
//!     |                             | login:                  ^   ^
//!     |                             v          password:      |   |
//!     |                           Naming ------> Proving -----+   |
//!     |                             |               | refused     |
//!     |                             +---------------+---> Over    |
//!     +---------------------------> Settling ---------------------+
//!       anything else                         a pause
//! ```
//!
//! Where a shell or a login is expected, an empty line finds out what sits there before anything
//! else is typed: a command typed at a login prompt would be taken for a user. Elsewhere an empty
//! line could mean anything, so the console is only listened to until it falls silent, which lets
//! the answers to earlier questions pass. Whatever is typed is a whole line. Who logged in logs out,
//! and a session that was open stays open.
//!
//! Pure: time comes as events, a pause or a second gone by.

use super::question::{Ear, Question, Sofar};
use super::report::{Outcome, Report};
use super::script::{Exchange, Marks, Script, entry, line};
use crate::base::pattern::Pattern;
use crate::base::text::harmless_line;

/// A conversation under way.
#[derive(Debug)]
pub struct Talk<'a> {
    script: &'a Script,
    nonce: String,
    ear: Ear,
    phase: Phase,
    /// How many seconds passed since something was typed.
    seconds: u32,
    logged_in: bool,
    password_shown: bool,
}

/// What is to be done next.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Next {
    /// Listen.
    Listen,
    /// Type this, and listen.
    Type(Vec<u8>),
    /// There is nothing more to say or to hear.
    End,
}

/// How far it is.
#[derive(Debug)]
enum Phase {
    /// Lets what others asked for pass.
    Settling,
    /// An empty line was typed to see what is there.
    Waking { echo: Question },
    /// The user's name was typed; `asked` for the password, a second ago or more.
    Naming { asked: bool },
    /// The password was typed; `again`, and after it an empty line.
    Proving { again: bool },
    /// A question was typed.
    Asking { step: usize, question: Question },
    /// It is decided.
    Over { outcome: Outcome },
}

/// A prompt is believed after this many pauses, for it may come in pieces.
const PAUSES: u32 = 2;

/// A password is typed only after this many, half a second: programs ask first and switch the echo
/// off then, and what comes between the two is on the console, in its log, and wherever that goes.
const PAUSES_BEFORE_PASSWORD: u32 = 5;

/// After so many seconds without a prompt, whoever needs no login asks nevertheless.
const UNPROMPTED: u32 = 2;

/// What programs say who do not let us in.
const REFUSALS: [&str; 4] =
    ["login incorrect", "authentication failure", "login failed", "access denied"];

/// End of input: it leaves a shell and any password prompt.
const END_OF_INPUT: u8 = 0x04;

impl<'a> Talk<'a> {
    /// Begins. The nonce marks this conversation's questions: nobody should have used it before.
    #[must_use]
    pub fn new(script: &'a Script, nonce: impl Into<String>) -> (Self, Next) {
        let mut talk = Self {
            script,
            nonce: nonce.into(),
            ear: Ear::default(),
            phase: Phase::Settling,
            seconds: 0,
            logged_in: false,
            password_shown: false,
        };
        let next = if script.shell || script.login.is_some() { talk.wake() } else { Next::Listen };
        (talk, next)
    }

    /// Something came.
    pub fn hear(&mut self, bytes: &[u8]) -> Next {
        self.ear.hear(bytes);
        let next = self.consider();
        self.ear.trim();
        next
    }

    /// Nothing came for a moment.
    pub fn pause(&mut self) -> Next {
        self.ear.pause();
        self.password_shown |= self.shows_password();
        match &self.phase {
            Phase::Settling => self.ask(0),
            Phase::Waking { .. } if self.at_prompt() => self.greet(),
            Phase::Naming { .. } | Phase::Proving { .. }
                if self.at_prompt() && !self.at_own_name() =>
            {
                self.enter()
            }
            Phase::Waking { .. }
            | Phase::Naming { .. }
            | Phase::Proving { .. }
            | Phase::Asking { .. } => self.consider(),
            Phase::Over { .. } => Next::End,
        }
    }

    /// A second passed since something was typed, or another one.
    pub fn second(&mut self) -> Next {
        self.seconds += 1;
        let prompted = self.ear.last_line();
        match &self.phase {
            // On a console that never falls silent for long, a second has to do.
            Phase::Naming { asked: true } => self.prove(),
            Phase::Naming { asked: false } => {
                self.phase = Phase::Naming { asked: is_asked_password(&self.ear) };
                self.consider()
            }
            // Somebody talked over the prompt: an empty line brings it up again.
            Phase::Proving { .. } if prompted.is_empty() && self.seconds >= UNPROMPTED => {
                Next::Type(line(b""))
            }
            Phase::Settling => self.ask(0),
            Phase::Waking { .. } if is_login(prompted) => self.greet(),
            Phase::Waking { .. } if self.seconds < UNPROMPTED => Next::Type(self.nudge()),
            Phase::Waking { .. } if self.script.login.is_none() => self.ask(0),
            Phase::Waking { .. } | Phase::Proving { .. } | Phase::Asking { .. } => self.consider(),
            Phase::Over { .. } => Next::End,
        }
    }

    /// Ends it, because it is over or because there is no more time: what was found out, and what
    /// must be typed to leave the console as it was found.
    #[must_use]
    pub fn finish(self) -> (Report, Option<Vec<u8>>) {
        let last_words = self.last_words();
        let asked = match &self.phase {
            Phase::Asking { step, .. } => *step,
            Phase::Over { .. } => self.script.exchanges.len().saturating_sub(1),
            Phase::Settling
            | Phase::Waking { .. }
            | Phase::Naming { .. }
            | Phase::Proving { .. } => 0,
        };
        let exchange = self.script.exchanges.get(asked);
        let report = Report {
            asked: exchange.map_or_else(String::new, |exchange| exchange.send.clone()),
            expected: exchange
                .map_or_else(String::new, |exchange| exchange.expect.as_str().to_owned()),
            bytes: self.ear.bytes,
            password_shown: self.password_shown,
            outcome: self.outcome(),
        };
        (report, last_words)
    }

    /// How many bytes of what was heard are kept.
    #[cfg(test)]
    pub(super) fn remembers(&self) -> usize {
        self.ear.remembers()
    }

    // === what comes next ===

    fn wake(&mut self) -> Next {
        self.forget();
        let comment =
            Exchange { send: format!("#{}", self.nonce), expect: Pattern::Text(String::new()) };
        self.phase = Phase::Waking { echo: Question::new(&comment, None) };
        Next::Type(line(b""))
    }

    /// An empty line again, and before it a word that is wiped away: whether it comes back tells a
    /// terminal that echoes from one that is dead.
    fn nudge(&self) -> Vec<u8> {
        let mut keys = line(format!("#{}", self.nonce).as_bytes());
        keys.pop();
        keys.extend(line(b""));
        keys
    }

    /// Looks at what was heard so far, without waiting for a pause.
    fn consider(&mut self) -> Next {
        match &mut self.phase {
            Phase::Naming { .. }
                if is_asked_password(&self.ear) && self.ear.pauses >= PAUSES_BEFORE_PASSWORD =>
            {
                self.prove()
            }
            Phase::Naming { .. } | Phase::Proving { .. }
                if REFUSALS.iter().any(|no| self.ear.says(no)) =>
            {
                self.end(Outcome::Refused)
            }
            Phase::Waking { echo } => {
                echo.read(&self.ear);
                Next::Listen
            }
            Phase::Asking { step, question } => match question.read(&self.ear) {
                // The rest of the answer should not come into the next question.
                Sofar::Answered
                    if question.is_over() || self.ear.pauses > 0 || self.seconds > 0 =>
                {
                    let next = *step + 1;
                    self.ask(next)
                }
                Sofar::Other => {
                    let said = harmless_line(question.said(&self.ear));
                    self.end(Outcome::Other { said: shortened(&said) })
                }
                Sofar::Answered | Sofar::Open => Next::Listen,
            },
            Phase::Settling | Phase::Naming { .. } | Phase::Proving { .. } => Next::Listen,
            Phase::Over { .. } => Next::End,
        }
    }

    /// At whatever prompt the empty line brought up.
    fn greet(&mut self) -> Next {
        let prompt = self.ear.last_line();
        if asks_password(prompt) {
            // Somebody began to log in and left: an empty password ends that.
            self.forget();
            return Next::Type(b"\r".to_vec());
        }
        if !is_login(prompt) {
            return self.ask(0);
        }
        let Some(login) = &self.script.login else {
            return self.end(Outcome::LoginAsked);
        };
        let keys = entry(&login.user);
        self.forget();
        self.phase = Phase::Naming { asked: false };
        Next::Type(keys)
    }

    fn prove(&mut self) -> Next {
        let password = self.script.login.as_ref().map_or("", |login| &login.password);
        let keys = entry(password);
        self.forget();
        self.phase = Phase::Proving { again: false };
        Next::Type(keys)
    }

    /// At a prompt after the name or the password: inside, if it is not the same door again.
    fn enter(&mut self) -> Next {
        if is_login(self.ear.last_line()) {
            return self.knock_again();
        }
        if is_asked_password(&self.ear) {
            return self.consider();
        }
        self.logged_in = true;
        self.ask(0)
    }

    /// A login prompt without a word of refusal may be another front end's: behind a multiplexer all
    /// of them are heard. An empty line is answered by ours.
    fn knock_again(&mut self) -> Next {
        match self.phase {
            Phase::Proving { again: false } => {
                self.forget();
                self.phase = Phase::Proving { again: true };
                Next::Type(line(b""))
            }
            Phase::Proving { again: true } => self.end(Outcome::Refused),
            Phase::Settling
            | Phase::Waking { .. }
            | Phase::Naming { .. }
            | Phase::Asking { .. }
            | Phase::Over { .. } => Next::Listen,
        }
    }

    fn ask(&mut self, step: usize) -> Next {
        let Some(exchange) = self.script.exchanges.get(step) else {
            return self.end(Outcome::Answered);
        };
        let marks = self.script.shell.then(|| Marks::new(&self.nonce, step));
        let question = Question::new(exchange, marks);
        let keys = line(question.line());
        self.forget();
        self.phase = Phase::Asking { step, question };
        Next::Type(keys)
    }

    fn end(&mut self, outcome: Outcome) -> Next {
        self.phase = Phase::Over { outcome };
        Next::End
    }

    fn forget(&mut self) {
        self.ear.forget();
        self.seconds = 0;
    }

    /// Whether the cursor waits behind something, and has for a while.
    fn at_prompt(&self) -> bool {
        self.ear.pauses >= PAUSES && !self.ear.last_line().is_empty()
    }

    /// Whether the password came back, which the half second should have prevented.
    fn shows_password(&self) -> bool {
        let login = self.script.login.as_ref().filter(|login| !login.password.is_empty());
        matches!(self.phase, Phase::Proving { .. })
            && login.is_some_and(|login| self.ear.says(&login.password))
    }

    /// Whether that is only the echo of the user's name.
    fn at_own_name(&self) -> bool {
        self.script
            .login
            .as_ref()
            .is_some_and(|login| self.ear.last_line() == login.user.as_bytes())
    }

    // === what came of it ===

    fn last_words(&self) -> Option<Vec<u8>> {
        match &self.phase {
            _ if self.logged_in && self.script.shell => Some(line(b"exit")),
            _ if self.logged_in => {
                let mut keys = line(b"");
                keys.push(END_OF_INPUT);
                Some(keys)
            }
            Phase::Proving { .. } => Some(vec![END_OF_INPUT]),
            Phase::Naming { .. } => Some(b"\r".to_vec()),
            // Our question was taken for a user.
            Phase::Asking { .. } if asks_password(self.ear.last_line()) => Some(b"\r".to_vec()),
            Phase::Settling | Phase::Waking { .. } | Phase::Asking { .. } | Phase::Over { .. } => {
                None
            }
        }
    }

    fn outcome(self) -> Outcome {
        let prompted = self.ear.last_line();
        match self.phase {
            Phase::Over { outcome } => outcome,
            // Only the rest of it is missing.
            Phase::Asking { step, question }
                if question.is_answered() && step + 1 == self.script.exchanges.len() =>
            {
                Outcome::Answered
            }
            Phase::Asking { question, .. } if question.is_begun() => Outcome::Unfinished,
            _ if self.ear.is_flooded() => Outcome::Flooded,
            Phase::Naming { .. } | Phase::Proving { .. } => Outcome::LoginHangs,
            _ if self.ear.bytes == 0 => Outcome::Silent,
            _ if is_login(prompted) || asks_password(prompted) => Outcome::LoginAsked,
            Phase::Asking { question, .. } if question.is_echoed() => Outcome::Echoed,
            Phase::Waking { echo } if echo.is_echoed() => Outcome::Echoed,
            Phase::Settling | Phase::Waking { .. } | Phase::Asking { .. } => Outcome::Babbled,
        }
    }
}

/// Whether a password is asked for, even if somebody talked over the prompt since.
fn is_asked_password(ear: &Ear) -> bool {
    asks_password(ear.last_line()) || ear.lines().any(begins_asking_password)
}

/// Whether it asks at its beginning, whatever a kernel or somebody else said behind the cursor since.
fn begins_asking_password(line: &[u8]) -> bool {
    let colon = line.iter().position(|byte| *byte == b':');
    colon.is_some_and(|colon| asks_password(&line[..=colon]))
}

/// `Last login: Friday` is none: a prompt is where the cursor is.
fn is_login(last_line: &[u8]) -> bool {
    ends_with(last_line, b"login:") || ends_with(last_line, b"username:")
}

fn asks_password(last_line: &[u8]) -> bool {
    last_line.ends_with(b":")
        && last_line.windows(8).any(|word| word.eq_ignore_ascii_case(b"password"))
}

fn ends_with(text: &[u8], end: &[u8]) -> bool {
    text.len() >= end.len() && text[text.len() - end.len()..].eq_ignore_ascii_case(end)
}

/// Enough to recognise it.
fn shortened(text: &str) -> String {
    const CHARS: usize = 120;
    if text.chars().count() <= CHARS {
        return text.to_owned();
    }
    text.chars().take(CHARS).chain(['.', '.', '.']).collect()
}
