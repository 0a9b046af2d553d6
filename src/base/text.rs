//! Guest text made harmless where it is shown.
//!
//! Evidence is never altered: this is for the edge where a person's terminal, log or page would
//! interpret it.

use std::fmt;

/// Shows bytes from a guest on a terminal or in a log: text as it is, everything that a terminal or
/// a reader's eye could be deceived by as an escape.
pub struct Harmless<'a>(pub &'a [u8]);

impl fmt::Display for Harmless<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                if c == '\n' || c == '\t' || !deceives(c) {
                    write!(f, "{c}")?;
                } else {
                    write!(f, "{}", c.escape_unicode())?;
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

/// Guest text as a sentence of ours can carry it: harmless and on one line.
#[must_use]
pub fn harmless_line(bytes: &[u8]) -> String {
    Harmless(bytes).to_string().replace(['\n', '\t'], " ").trim().to_owned()
}

/// Control characters, and those that reorder or hide text.
fn deceives(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_and_bidi_are_shown_not_obeyed() {
        let shown = Harmless(b"a\x1b[2Jb\xff\xe2\x80\xaec\r\n").to_string();
        assert_eq!(shown, "a\\u{1b}[2Jb\\xff\\u{202e}c\\u{d}\n");
    }
}
