//! What a kernel says to a non-maskable interrupt that nobody in it expected.
//!
//! Linux has a line for it that names the CPU, and either goes on or, where it was told to
//! (`unknown_nmi_panic`), panics. Either way that CPU carried out instructions, whatever else it does.

use serde::Serialize;

/// The line of a CPU that took one.
const TAKEN: &str = "NMI received for unknown reason";

/// What follows it where the kernel goes on, and where it does not.
const GOES_ON: &str = "Dazed and confused";
const PANIC: &str = "Kernel panic - not syncing";
const PANIC_END: &str = "end Kernel panic";

/// Any of a kernel's words for one.
const WORD: &str = "NMI";

/// What it said.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct Nmi {
    /// The CPU that took it, if it says so.
    pub cpu: Option<u32>,
    /// Whether the kernel panicked over it.
    pub panicked: bool,
}

impl Nmi {
    /// Reads what came after one was sent; nothing if there is no word of it.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(bytes);
        if !text.contains(WORD) {
            return None;
        }
        let taken = text.split_once(TAKEN).map(|(_, rest)| rest.lines().next().unwrap_or_default());
        let number = taken.and_then(|line| line.split_once("CPU "));
        let digits = number.map(|(_, rest)| rest.split(|c: char| !c.is_ascii_digit()));
        let cpu = digits.and_then(|mut digits| digits.next()?.parse().ok());
        Some(Self { cpu, panicked: text.contains(PANIC) })
    }

    /// What it tells, as a sentence.
    #[must_use]
    pub fn said(self) -> String {
        let who = self.cpu.map_or("a CPU".to_owned(), |cpu| format!("CPU {cpu}"));
        match self.panicked {
            true => format!("{who} executes and took it, and the kernel panicked over it"),
            false => format!("{who} executes and took it"),
        }
    }
}

/// Whether more is not to be expected.
#[must_use]
pub fn is_whole(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let ended = |mark: &str| text.rsplit_once(mark).is_some_and(|(_, rest)| rest.contains('\n'));
    ended(PANIC_END) || ended(GOES_ON) && !text.contains(PANIC)
}

/// What a kernel's log has of it that it had not before: from the first line with a word of it on.
#[must_use]
pub fn since<'a>(before: &str, after: &'a str) -> Option<&'a str> {
    let is_new = |line: &str| line.contains(WORD) && !before.contains(line);
    let mut start = 0;
    for line in after.split_inclusive('\n') {
        if is_new(line) {
            return after.get(start..);
        }
        start += line.len();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DEFAULT: &str = "\
[   12.3] Uhhuh. NMI received for unknown reason 21 on CPU 0.\r\n\
[   12.4] Dazed and confused, but trying to continue\r\n";

    const TOLD_TO_PANIC: &str = "\
[   12.3] Uhhuh. NMI received for unknown reason 31 on CPU 11.\n\
[   12.4] Kernel panic - not syncing: NMI: Not continuing\n\
[   12.5] CPU: 11 PID: 0 Comm: swapper/11\n\
[   12.6] ---[ end Kernel panic - not syncing: NMI: Not continuing ]---\n";

    #[test]
    fn a_kernel_that_goes_on_and_one_that_panics() {
        assert_eq!(Nmi::read(DEFAULT.as_bytes()), Some(Nmi { cpu: Some(0), panicked: false }));
        let panic = Nmi::read(TOLD_TO_PANIC.as_bytes()).unwrap();
        assert_eq!(panic, Nmi { cpu: Some(11), panicked: true });
        assert!(panic.said().starts_with("CPU 11 executes and took it, and the kernel"));
        assert_eq!(Nmi::read(b"login: "), None);
        let strange = Nmi::read(b"NMI: IOCK error (debug interrupt?)\n");
        assert_eq!(strange, Some(Nmi { cpu: None, panicked: false }));
    }

    #[test]
    fn the_end_is_known_by_its_shape() {
        for (text, end) in [(DEFAULT, "continue\r"), (TOLD_TO_PANIC, "continuing ]---")] {
            let before = text.rfind(end).unwrap() + end.len();
            assert!(!is_whole(&text.as_bytes()[..before]), "{text}");
            assert!(is_whole(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn only_what_is_new_in_a_log_counts() {
        let before = "[    1.0] NMI watchdog: Enabled.\n[    2.0] x\n";
        assert_eq!(since(before, before), None);
        let after = format!("{before}{DEFAULT}");
        assert_eq!(since(before, &after), Some(DEFAULT));
        assert_eq!(since("", "x\ny"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(bytes: Vec<u8>, text in "(NMI received for unknown reason|CPU |[0-9]{0,12}|\n|é){0,12}") {
            prop_assert!(!is_whole(&bytes) || bytes.contains(&b'\n'));
            prop_assert_eq!(Nmi::read(text.as_bytes()).is_some(), text.contains("NMI"));
            prop_assert!(since("", &text).is_none_or(|said| text.ends_with(said)));
        }
    }
}
