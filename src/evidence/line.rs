//! Lines of a console: what a serial line, a terminal and printk put around the text is taken off.
//!
//! ```text
//! / # w\x1b[6n<6>[   12.345678][    T1] sysrq: Show Blocked State\r\n
//! -----------   ---------------------- ++++++++++++++++++++++++++
//! ```
//!
//! A kernel message may begin behind a shell's prompt and its echo, so a time stamp is looked for
//! everywhere near the start of a line. Total on any bytes, linear, and a line is read only so far
//! as a kernel would write one.

use std::borrow::Cow;
use std::ops::Range;

/// printk cuts its lines at 1 KiB; twice that leaves room for escapes and a prompt in front.
const LINE_BYTES: usize = 2048;

/// How far behind a prompt and its echo a kernel message may begin.
const PROMPT_BYTES: usize = 256;

/// The longest stamp: `[`, 10 digits, `.`, 6 digits, `]`, with padding.
const STAMP_BYTES: usize = 24;

/// One line without what was put around it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Line<'a> {
    /// Its text; spaces in front are kept, because call traces are indented.
    pub text: Cow<'a, str>,
    /// Its time stamp, in microseconds after boot.
    pub time_us: Option<u64>,
    /// Who printed it, where the kernel is built to say so.
    pub caller: Option<Caller>,
    /// Where it stands in the bytes, its end of line included.
    pub span: Range<usize>,
    /// Whether its end of line was there.
    pub ended: bool,
}

/// Who printed a line: what tells lines apart that several CPUs print at once.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Caller {
    /// A task, by its id.
    Task(u32),
    /// A CPU that served an interrupt.
    Cpu(u32),
}

/// The lines of these bytes; empty ones are left out.
pub fn lines(bytes: &[u8]) -> impl Iterator<Item = Line<'_>> {
    let mut start = 0;
    bytes.split_inclusive(|&byte| byte == b'\n').filter_map(move |raw| {
        #[cfg(test)]
        work::count(raw.len());
        let span = start..start + raw.len();
        start = span.end;
        let text = clean(raw.get(..LINE_BYTES).unwrap_or(raw));
        let (text, time_us, caller) = strip(text);
        let ended = raw.ends_with(b"\n");
        (!text.is_empty()).then_some(Line { text, time_us, caller, span, ended })
    })
}

/// The lines of a dump. One that was cut short by another is two: the time stamp in its midst tells.
pub fn messages(bytes: &[u8]) -> impl Iterator<Item = Line<'_>> {
    lines(bytes)
        .flat_map(|line| {
            let torn = line.time_us.and_then(|_| find_stamp(&line.text));
            let Some((at, _)) = torn else { return [Some(line), None] };
            let open = line.text[..at].rfind('[').unwrap_or(at);
            let (rest, time_us, caller) = strip(Cow::Owned(line.text[open..].to_owned()));
            let second = Line { text: rest, time_us, caller, ..line.clone() };
            let first = Line { text: Cow::Owned(line.text[..open].to_owned()), ..line };
            [Some(first), Some(second)]
        })
        .flatten()
}

fn clean(raw: &[u8]) -> Cow<'_, str> {
    let raw = raw.strip_suffix(b"\n").unwrap_or(raw);
    let raw = raw.strip_suffix(b"\r").unwrap_or(raw);
    if !raw.iter().any(|&byte| is_control(byte)) {
        return String::from_utf8_lossy(raw);
    }
    let mut kept = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first == 0x1b {
            rest = after_escape(tail);
        } else if !is_control(*first) {
            kept.push(*first);
        }
    }
    Cow::Owned(String::from_utf8_lossy(&kept).into_owned())
}

fn is_control(byte: u8) -> bool {
    byte < 0x20 && byte != b'\t' || byte == 0x7f
}

/// What follows a terminal's escape: `[ .. letter`, `] .. BEL`, or one character.
fn after_escape(tail: &[u8]) -> &[u8] {
    let (opens, ends): (_, fn(u8) -> bool) = match tail.first() {
        Some(b'[') => (1, |byte| (0x40..=0x7e).contains(&byte)),
        Some(b']') => (1, |byte| byte == 0x07),
        Some(_) => return &tail[1..],
        None => return tail,
    };
    let body = &tail[opens..];
    body.iter().position(|&byte| ends(byte)).map_or(&[], |end| &body[end + 1..])
}

fn strip(text: Cow<'_, str>) -> (Cow<'_, str>, Option<u64>, Option<Caller>) {
    let (at, time_us) = match find_stamp(&text) {
        Some((at, time_us)) => (at, Some(time_us)),
        None => (after_level(&text), None),
    };
    match caller(&text[at..]) {
        Some((caller, length)) => (cut(text, at + length), time_us, Some(caller)),
        None => (cut(text, at), time_us, None),
    }
}

fn cut(text: Cow<'_, str>, at: usize) -> Cow<'_, str> {
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(&text[at..]),
        Cow::Owned(text) => Cow::Owned(text[at..].to_owned()),
    }
}

/// Where the text behind the first time stamp begins, and the time.
fn find_stamp(text: &str) -> Option<(usize, u64)> {
    let near = text.as_bytes().iter().take(PROMPT_BYTES).enumerate();
    near.filter(|(_, byte)| **byte == b'[').find_map(|(open, _)| {
        let (length, time_us) = stamp(&text.as_bytes()[open + 1..])?;
        let after = open + 1 + length;
        let space = usize::from(text.as_bytes().get(after) == Some(&b' '));
        Some((after + space, time_us))
    })
}

/// Length and time of `   12.345678]`.
fn stamp(bytes: &[u8]) -> Option<(usize, u64)> {
    let bytes = bytes.get(..STAMP_BYTES).unwrap_or(bytes);
    let end = bytes.iter().position(|&byte| byte == b']')?;
    let inside = std::str::from_utf8(&bytes[..end]).ok()?;
    let (seconds, micros) = inside.trim_start_matches(' ').split_once('.')?;
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if micros.len() != 6 || !digits(seconds) || !digits(micros) {
        return None;
    }
    let seconds: u64 = seconds.parse().ok()?;
    let micros: u64 = micros.parse().ok()?;
    Some((end + 1, seconds.checked_mul(1_000_000)?.checked_add(micros)?))
}

/// A `[ T123] ` or `[    C1] ` in front of the text, and its length.
fn caller(text: &str) -> Option<(Caller, usize)> {
    let inside = text.strip_prefix('[')?.trim_start_matches(' ');
    let (kind, rest): (fn(u32) -> Caller, _) = match inside.strip_prefix('T') {
        Some(rest) => (Caller::Task, rest),
        None => (Caller::Cpu, inside.strip_prefix('C')?),
    };
    let (number, after) = rest.split_once(']')?;
    let caller = kind(number.parse().ok()?);
    Some((caller, text.len() - after.strip_prefix(' ').unwrap_or(after).len()))
}

/// Length of a `<6>` in front of the text.
fn after_level(text: &str) -> usize {
    match text.as_bytes() {
        [b'<', b'0'..=b'7', b'>', ..] => 3,
        _ => 0,
    }
}

/// Counts the bytes that were read as lines, so that tests can tell one pass from two.
#[cfg(test)]
pub(crate) mod work {
    use std::cell::Cell;

    thread_local!(static BYTES: Cell<usize> = const { Cell::new(0) });

    pub(super) fn count(bytes: usize) {
        BYTES.set(BYTES.get() + bytes);
    }

    /// How many bytes are read as lines in here.
    pub(crate) fn of(work: impl FnOnce()) -> usize {
        let before = BYTES.get();
        work();
        BYTES.get() - before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(bytes: &[u8]) -> Vec<(String, Option<u64>)> {
        lines(bytes).map(|line| (line.text.into_owned(), line.time_us)).collect()
    }

    #[test]
    fn what_stands_around_the_text_is_taken_off() {
        for (raw, text, time) in [
            (&b"plain\r\n"[..], "plain", None),
            (b"<4>level", "level", None),
            (b"[    0.000000] Linux", "Linux", Some(0)),
            (b"<6>[   12.345678]  indented\n", " indented", Some(12_345_678)),
            (b"[   12.345678][    C1] rcu: x", "rcu: x", Some(12_345_678)),
            (b"[   12.345678] [T123] x", "x", Some(12_345_678)),
            (b"/ # t[  112.000001] sysrq: Show State", "sysrq: Show State", Some(112_000_001)),
            (b"\0\x1b[1;31mred\x1b[0m\x1b]0;title\x07\x1b7!", "red!", None),
            (b"[12.34] no stamp", "[12.34] no stamp", None),
            (b"[99999999999999999999.000000]", "[99999999999999999999.000000]", None),
            (b"\xff\xfe", "\u{fffd}\u{fffd}", None),
        ] {
            assert_eq!(texts(raw), [(text.to_owned(), time)], "{raw:?}");
        }
    }

    #[test]
    fn who_printed_a_line_is_known() {
        let callers = |raw| lines(raw).map(|line| line.caller).collect::<Vec<_>>();
        assert_eq!(callers(b"[   12.345678][ T1234] x"), [Some(Caller::Task(1234))]);
        assert_eq!(callers(b"<6>[    C1] x\n[C] y\n[ T9x] z"), [Some(Caller::Cpu(1)), None, None]);
    }

    #[test]
    fn a_torn_line_is_two_messages() {
        let torn =
            b"[   12.000001][    C1]  schedule+0x2[   12.000002][   T77] sysrq: x\r\nplain [m]\n";
        let messages: Vec<_> = messages(torn).map(|it| (it.text.into_owned(), it.caller)).collect();
        assert_eq!(
            messages,
            [
                (" schedule+0x2".to_owned(), Some(Caller::Cpu(1))),
                ("sysrq: x".to_owned(), Some(Caller::Task(77))),
                ("plain [m]".to_owned(), None),
            ]
        );
    }

    #[test]
    fn spans_cover_the_bytes() {
        let spans: Vec<_> = lines(b"a\n\r\nbc").map(|line| (line.span, line.ended)).collect();
        assert_eq!(spans, [(0..2, true), (4..6, false)]);
    }

    #[test]
    fn only_the_start_of_an_endless_line_is_read() {
        assert_eq!(texts(&[b'x'; 9000])[0].0.len(), LINE_BYTES);
    }
}
