//! What is to be said on a console, and what is to be heard.
//!
//! Pure.

use crate::base::pattern::Pattern;
use std::fmt;

/// A conversation to be had.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Script {
    /// Who logs in when the console asks for it. An open session is used as it is found.
    pub login: Option<Login>,
    /// What is said and heard then, in this order.
    pub exchanges: Vec<Exchange>,
    /// Whether a shell listens. Then every question is marked, so that no answer to an earlier one
    /// and no echo is taken for the answer to this one.
    pub shell: bool,
}

/// One thing to say, and what has to come back.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Exchange {
    /// One line.
    pub send: String,
    /// What the answer holds.
    pub expect: Pattern,
}

/// How to log in.
#[derive(Clone, Eq, PartialEq)]
pub struct Login {
    /// The user.
    pub user: String,
    /// The password; never shown, and typed only where one is asked for.
    pub password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

const KILL_LINE: u8 = 0x15;

/// Text as a line to be typed. The line before is wiped first, for somebody may have left a word
/// half typed; nothing in the text acts as a key.
pub(super) fn line(text: &[u8]) -> Vec<u8> {
    let mut keys = vec![KILL_LINE];
    keys.extend(printable(text));
    keys.push(b'\r');
    keys
}

/// Text as the answer to a prompt, behind which nothing can have been typed yet.
pub(super) fn entry(text: &str) -> Vec<u8> {
    let mut keys: Vec<u8> = printable(text.as_bytes()).collect();
    keys.push(b'\r');
    keys
}

fn printable(text: &[u8]) -> impl Iterator<Item = u8> {
    text.iter().copied().filter(|byte| !byte.is_ascii_control())
}

/// The marks around an answer. They are typed with quotes inside, so that their echo is not what
/// the shell makes of them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Marks {
    /// Comes before the answer.
    pub(super) open: Vec<u8>,
    /// Comes after it.
    pub(super) close: Vec<u8>,
}

impl Marks {
    /// Marks that nobody made before, if nobody knew the nonce.
    pub(super) fn new(nonce: &str, step: usize) -> Self {
        let mark = |end: char| format!("{nonce}{step}{end}").into_bytes();
        Self { open: mark('a'), close: mark('z') }
    }

    /// The command with its marks, as it is typed.
    pub(super) fn around(&self, send: &str) -> Vec<u8> {
        let send = send.trim();
        // `sleep 1 &;` is no command, `sleep 1 & echo` is two.
        let between = if send.ends_with(['&', ';']) { " " } else { "; " };
        let mut line = b"echo ".to_vec();
        line.extend(quoted(&self.open));
        line.extend_from_slice(b"; ");
        line.extend_from_slice(send.as_bytes());
        line.extend_from_slice(between.as_bytes());
        line.extend_from_slice(b"echo ");
        line.extend(quoted(&self.close));
        line
    }
}

fn quoted(mark: &[u8]) -> Vec<u8> {
    let (first, rest) = mark.split_at(mark.len() / 2);
    [first, b"''", rest].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_not_in_what_is_typed() {
        let marks = Marks::new("5eed", 0);
        let typed = String::from_utf8(marks.around("uptime")).unwrap();
        assert_eq!(typed, "echo 5ee''d0a; uptime; echo 5ee''d0z");
        assert!(marks.around("true &").ends_with(b"true & echo 5ee''d0z"));
    }

    #[test]
    fn no_text_is_a_key() {
        assert_eq!(line(b"a\x04\r\nb\x1b\x7f"), b"\x15ab\r");
        assert_eq!(entry("ro\not"), b"root\r");
    }

    #[test]
    fn a_password_is_not_shown() {
        let login = Login { user: "lab".to_owned(), password: "open-sesame".to_owned() };
        assert_eq!(format!("{login:?}"), "Login { user: \"lab\", .. }");
    }
}
