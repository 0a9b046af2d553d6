//! What a person would read on a console: its text without escape sequences, and without the
//! kernel's own messages.
//!
//! The kernel writes whenever it likes, even into the middle of a word. Its records bear a time,
//! `[   12.345678] `, and end with the line, so they can be cut out and what they tore apart joins
//! again. A kernel that prints no times cannot be told from anybody else.
//!
//! Pure: bytes in, bytes out, in pieces of any size, with a bounded memory of what is not decided.

/// A filter that remembers where in a sequence or a record it is.
#[derive(Clone, Debug, Default)]
pub(super) struct Plain {
    escape: Escape,
    record: Record,
}

/// Where in an escape sequence.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Escape {
    #[default]
    No,
    /// After ESC.
    Begun,
    /// After `ESC [`: parameters until a final byte.
    Control,
    /// After `ESC ]` and its like: anything until BEL or ESC, but never over the end of a line.
    Text,
    /// After `ESC (` and its like: one more byte.
    OneMore,
}

/// Where in a record of the kernel.
#[derive(Clone, Debug, Default)]
enum Record {
    #[default]
    No,
    /// What may be the time at its beginning.
    Time(Vec<u8>),
    /// In its text, which ends with the line.
    Message,
}

const ESC: u8 = 0x1b;
const BEL: u8 = 0x07;

/// `[99999999999.123456] ` has 21; nothing longer is a time.
const TIME_BYTES: usize = 24;

impl Plain {
    /// Adds the text that is in `bytes` to `text`.
    pub(super) fn feed(&mut self, bytes: &[u8], text: &mut Vec<u8>) {
        for byte in bytes {
            if let Some(byte) = self.escape.pass(*byte) {
                self.record.pass(byte, text);
            }
        }
    }

    /// Nothing more comes for now: what looked like the beginning of a record is text.
    pub(super) fn settle(&mut self, text: &mut Vec<u8>) {
        if let Record::Time(held) = &mut self.record {
            text.append(held);
            self.record = Record::No;
        }
    }
}

impl Escape {
    /// The byte, if it is text.
    fn pass(&mut self, byte: u8) -> Option<u8> {
        let (next, passed) = match (*self, byte) {
            (_, ESC) => (Self::Begun, None),
            (Self::Begun, b'[') => (Self::Control, None),
            (Self::Begun, b']' | b'P' | b'X' | b'^' | b'_') => (Self::Text, None),
            (Self::Begun, b' '..=b'/') => (Self::OneMore, None),
            (Self::Control, 0x20..=0x3f) => (Self::Control, None),
            (Self::Begun | Self::Control | Self::OneMore, 0x20..=0x7e)
            | (Self::Text, BEL | 0x9c) => (Self::No, None),
            (Self::Text, b'\n') => (Self::No, Some(byte)),
            (Self::Text, _) => (Self::Text, None),
            // What cannot belong to a sequence ends it.
            (Self::No | Self::Begun | Self::Control | Self::OneMore, _) => {
                (Self::No, is_text(byte).then_some(byte))
            }
        };
        *self = next;
        passed
    }
}

fn is_text(byte: u8) -> bool {
    matches!(byte, b'\n' | b'\t' | 0x20..=0x7e | 0x80..)
}

impl Record {
    fn pass(&mut self, byte: u8, text: &mut Vec<u8>) {
        match self {
            Self::No if byte == b'[' => *self = Self::Time(vec![byte]),
            Self::No => text.push(byte),
            Self::Time(held) => {
                held.push(byte);
                if is_time(held) {
                    *self = Self::Message;
                } else if held.len() >= TIME_BYTES || !may_become_time(held) {
                    let held = std::mem::take(held);
                    *self = Self::No;
                    // A bracket may begin right after one that came to nothing.
                    if byte == b'[' {
                        text.extend_from_slice(&held[..held.len() - 1]);
                        *self = Self::Time(vec![byte]);
                    } else {
                        text.extend_from_slice(&held);
                    }
                }
            }
            Self::Message if byte == b'\n' => *self = Self::No,
            Self::Message => {}
        }
    }
}

/// `[   12.345678]`
fn is_time(held: &[u8]) -> bool {
    let inside = held.strip_prefix(b"[").and_then(|rest| rest.strip_suffix(b"]"));
    let Some((seconds, fraction)) = inside.and_then(split_at_point) else { return false };
    let seconds = seconds.trim_ascii_start();
    !seconds.is_empty()
        && seconds.iter().all(u8::is_ascii_digit)
        && fraction.len() == 6
        && fraction.iter().all(u8::is_ascii_digit)
}

fn may_become_time(held: &[u8]) -> bool {
    held.iter().skip(1).all(|byte| matches!(byte, b' ' | b'.' | b'0'..=b'9'))
}

fn split_at_point(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let point = text.iter().position(|byte| *byte == b'.')?;
    Some((&text[..point], &text[point + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plain(bytes: &[u8]) -> String {
        let (mut filter, mut text) = (Plain::default(), Vec::new());
        filter.feed(bytes, &mut text);
        filter.settle(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    }

    #[test]
    fn what_a_terminal_would_obey_is_gone() {
        assert_eq!(plain(b"/dev/hvc0# \x1b[6n"), "/dev/hvc0# ");
        assert_eq!(plain(b"\x1b[1;31mred\x1b[0m\r\n\x1b(Bx\x1b]0;title\x07y"), "red\nxy");
        assert_eq!(plain(b"\x1b]never ended\nnext"), "\nnext");
        assert_eq!(plain(b"a\x1b[\x1b[2Jb\x08c\x00"), "abc");
    }

    #[test]
    fn what_the_kernel_tore_apart_joins_again() {
        assert_eq!(plain(b"upti[   12.345678] usb 1-1: new\r\nme\r\n"), "uptime\n");
        assert_eq!(plain(b"# [    1.000000] a\r\n[    1.000001][    T1] b\r\n"), "# ");
        for text in ["[root@web ~]# ", "[1.5]", "x[[  3", "[12.3456789]", "[ ok ] [12]"] {
            assert_eq!(plain(text.as_bytes()), text);
        }
        assert_eq!(plain(b"[[   12.345678] x\n"), "[");
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(bytes: Vec<u8>, cut in 0usize..64) {
            let whole = plain(&bytes);
            let (mut filter, mut text) = (Plain::default(), Vec::new());
            for piece in bytes.chunks(cut + 1) {
                filter.feed(piece, &mut text);
            }
            filter.settle(&mut text);
            prop_assert_eq!(String::from_utf8_lossy(&text), whole);
        }

        #[test]
        fn nothing_is_left_that_a_terminal_obeys(bytes: Vec<u8>) {
            let (mut filter, mut text) = (Plain::default(), Vec::new());
            filter.feed(&bytes, &mut text);
            filter.settle(&mut text);
            prop_assert!(text.iter().all(|byte| is_text(*byte)));
        }
    }
}
