//! What a guest's log, as it goes by, tells of the guest.
//!
//! Three questions: did the label come in time; is it silent for longer than it ever was; did the
//! kernel say that something is wrong. Each says *unknown* until it can know: a label that was not
//! waited for long enough, a habit that was not observed yet, a log that cannot be read.
//!
//! Pure: time is an argument.

use crate::base::pattern::Pattern;
use crate::base::rung::{Finding, Rung};
use crate::base::text::harmless_line;
use crate::base::time::{Instant, Spoken};
use std::time::Duration;

/// What to watch for.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Watch {
    /// A text that has to come every so often.
    pub label: Option<Label>,
    /// Silence that is shorter is no silence, whatever the habit. None: silence says nothing.
    pub silence: Option<Duration>,
    /// Lines that say that something is wrong.
    pub bad_lines: Vec<BadLine>,
}

/// A text that has to come every so often.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Label {
    /// The text.
    pub text: String,
    /// How often.
    pub within: Duration,
}

/// A text in a line that says that something is wrong.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BadLine {
    /// The text.
    pub text: Pattern,
    /// What it refutes.
    pub rung: Rung,
}

/// Words of the kernel after which nobody need ask.
pub const BAD_LINES: [(&str, Rung); 9] = [
    ("Kernel panic - not syncing", Rung::Kernel),
    ("BUG: soft lockup", Rung::Kernel),
    ("Watchdog detected hard LOCKUP", Rung::Kernel),
    ("detected stalls on CPUs/tasks", Rung::Kernel),
    ("self-detected stall on CPU", Rung::Kernel),
    ("BUG: unable to handle", Rung::Userspace),
    (" blocked for more than ", Rung::Userspace),
    ("Out of memory: Killed process", Rung::Service),
    ("I/O error, dev ", Rung::Storage),
];

/// Watches one guest's log.
#[derive(Debug)]
pub struct Watcher {
    watch: Watch,
    /// Since when nothing was missed.
    since: Instant,
    /// Why nothing can be heard.
    lost: Option<String>,
    /// The line that is not complete yet.
    line: Vec<u8>,
    /// When anything was last heard.
    heard: Option<Instant>,
    label_seen: Option<Instant>,
    habit: Habit,
    /// Of each bad line the last one, and how often it came since it was told.
    bad: Vec<Option<(Vec<u8>, u32)>>,
}

/// How long this log is usually silent.
#[derive(Debug, Default)]
struct Habit {
    first: Option<Instant>,
    last: Option<Instant>,
    /// The longest pause of each chapter that is remembered, the current one last.
    chapters: Vec<Duration>,
    /// How many pauses the current chapter has.
    pauses: usize,
}

/// Longer lines are cut, as EVE's log cuts them.
const LINE_BYTES: usize = 8192;

/// A chapter is so many pauses; so many chapters make the habit. An unusual pause is forgotten
/// after 256 usual ones.
const PAUSES: usize = 32;
const CHAPTERS: usize = 8;

/// Bursts are no pauses: a habit is of pauses that are longer.
const BURST: Duration = Duration::from_millis(500);

/// A habit is known after it was observed for so many of its longest pauses, and so long at least.
const LONGEST_PAUSES: u32 = 8;
const OBSERVED: Duration = Duration::from_secs(300);

/// Silence for so many of the longest pauses is unusual.
const UNUSUAL: u32 = 3;

impl Watcher {
    /// Watches from now on.
    #[must_use]
    pub fn new(watch: Watch, now: Instant) -> Self {
        let bad = vec![None; watch.bad_lines.len()];
        let (line, habit) = (Vec::new(), Habit::default());
        Self { watch, since: now, lost: None, line, heard: None, label_seen: None, habit, bad }
    }

    /// Something was said.
    pub fn hear(&mut self, bytes: &[u8], now: Instant) {
        if self.lost.take().is_some() {
            self.begin_anew(now);
        }
        if bytes.is_empty() {
            return;
        }
        self.heard = Some(now);
        self.habit.hear(now);
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let room = LINE_BYTES.saturating_sub(self.line.len()).min(piece.len());
            self.line.extend_from_slice(&piece[..room]);
            if piece.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                self.read(&line, now);
            }
        }
    }

    /// The log cannot be read, or part of it was missed.
    pub fn lose(&mut self, reason: impl Into<String>) {
        self.lost = Some(reason.into());
    }

    /// Part of the log was missed, and it goes on.
    pub fn miss(&mut self, now: Instant) {
        self.begin_anew(now);
    }

    /// The guest booted or was held: what it said before tells nothing of what it is now.
    pub fn forget(&mut self, now: Instant) {
        self.begin_anew(now);
        self.heard = None;
        self.label_seen = None;
    }

    /// What is known now. Each bad line is told once.
    pub fn findings(&mut self, now: Instant) -> Vec<Finding> {
        let mut findings: Vec<Finding> =
            self.bad.iter_mut().zip(&self.watch.bad_lines).filter_map(tell).collect();
        if let Some(reason) = &self.lost {
            let reason = format!("the log cannot be read: {reason}");
            findings.push(Finding::unknown(Rung::Userspace, reason));
            return findings;
        }
        findings.extend(self.watch.label.as_ref().map(|label| self.judge_label(label, now)));
        findings.extend(self.watch.silence.map(|floor| self.judge_silence(floor, now)));
        findings
    }

    fn begin_anew(&mut self, now: Instant) {
        self.since = now;
        self.line.clear();
        self.habit.last = None;
    }

    fn read(&mut self, line: &[u8], now: Instant) {
        let contains = |text: &str| !text.is_empty() && find(line, text.as_bytes());
        if self.watch.label.as_ref().is_some_and(|label| contains(&label.text)) {
            self.label_seen = Some(now);
        }
        for (bad, told) in self.watch.bad_lines.iter().zip(&mut self.bad) {
            if bad.text.find(line).is_some() {
                let before = told.take().map_or(0, |(_, count)| count);
                *told = Some((line.to_vec(), before.saturating_add(1)));
            }
        }
    }

    fn judge_label(&self, label: &Label, now: Instant) -> Finding {
        let text = harmless_line(label.text.as_bytes());
        let within = Spoken(label.within);
        if let Some(seen) = self.label_seen.filter(|seen| now.since(*seen) <= label.within) {
            let ago = Spoken(now.since(seen));
            return Finding::alive(Rung::Userspace, format!("`{text}` was logged {ago} ago"));
        }
        let listened = now.since(self.since);
        if listened <= label.within {
            let listened = Spoken(listened);
            let reason =
                format!("`{text}` is due every {within}, and the log is followed for {listened}");
            return Finding::unknown(Rung::Userspace, reason);
        }
        let last = self.label_seen.map_or_else(
            || "was not logged since the log is followed".to_owned(),
            |seen| format!("was last logged {} ago", Spoken(now.since(seen))),
        );
        let reason = format!("`{text}` {last}, and is due every {within}");
        Finding::dead(Rung::Userspace, reason)
    }

    fn judge_silence(&self, floor: Duration, now: Instant) -> Finding {
        let unknown = |reason: String| Finding::unknown(Rung::Userspace, reason);
        let Some(longest) = self.habit.longest() else {
            return unknown("how often this guest logs is not learnt yet".to_owned());
        };
        let bound = floor.max(longest * UNUSUAL);
        // What was said while we did not listen would have ended the silence.
        let last = self.heard.map_or(self.since, |heard| heard.max(self.since));
        let silent = now.since(last);
        let usual = format!("at most {} is usual", Spoken(longest));
        match (silent <= bound, self.heard.is_some_and(|heard| heard >= self.since)) {
            (true, true) => {
                let reason = format!("the last line was logged {} ago; {usual}", Spoken(silent));
                Finding::alive(Rung::Userspace, reason)
            }
            (true, false) => unknown(format!(
                "nothing was logged for the {} that the log is followed again; {usual}",
                Spoken(silent)
            )),
            (false, _) => {
                let reason = format!("nothing was logged for {}; {usual}", Spoken(silent));
                Finding::dead(Rung::Userspace, reason)
            }
        }
    }
}

impl Habit {
    fn hear(&mut self, now: Instant) {
        let pause = self.last.map_or(Duration::ZERO, |last| now.since(last));
        self.first.get_or_insert(now);
        self.last = Some(now);
        if pause < BURST {
            return;
        }
        if self.chapters.is_empty() || self.pauses >= PAUSES {
            self.pauses = 0;
            self.chapters.push(Duration::ZERO);
            if self.chapters.len() > CHAPTERS {
                self.chapters.remove(0);
            }
        }
        self.pauses += 1;
        if let Some(longest) = self.chapters.last_mut() {
            *longest = pause.max(*longest);
        }
    }

    /// The longest pause that is usual, if that is known.
    fn longest(&self) -> Option<Duration> {
        let longest = self.chapters.iter().max().copied().unwrap_or_default().max(BURST);
        let observed = self.last?.since(self.first?);
        (observed >= OBSERVED.max(longest * LONGEST_PAUSES)).then_some(longest)
    }
}

/// Tells a bad line, once.
fn tell((told, bad): (&mut Option<(Vec<u8>, u32)>, &BadLine)) -> Option<Finding> {
    const BYTES: usize = 200;
    let (line, count) = told.take()?;
    let shown = harmless_line(line[..line.len().min(BYTES)].trim_ascii());
    let often = if count > 1 { format!(" ({count} times)") } else { String::new() };
    Some(Finding::dead(bad.rung, format!("the log says: {shown}{often}")))
}

fn find(text: &[u8], needle: &[u8]) -> bool {
    text.windows(needle.len()).any(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rung::Answer;
    use proptest::prelude::*;

    fn at(seconds: u64) -> Instant {
        Instant::from_millis(1_000_000 + seconds * 1000)
    }

    fn watcher(label: Option<u64>, silence: Option<u64>) -> Watcher {
        let label = label.map(|seconds| Label {
            text: "lifesign: alive".to_owned(),
            within: Duration::from_secs(seconds),
        });
        let bad_lines = BAD_LINES.map(|(text, rung)| BadLine { text: text.into(), rung }).to_vec();
        let silence = silence.map(Duration::from_secs);
        Watcher::new(Watch { label, silence, bad_lines }, at(0))
    }

    #[track_caller]
    fn check(watcher: &mut Watcher, seconds: u64, answer: Answer, reason: &str) {
        let findings = watcher.findings(at(seconds));
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert_eq!((findings[0].answer, findings[0].reason.as_str()), (answer, reason));
    }

    #[test]
    fn a_label_is_waited_for_before_it_is_missed() {
        let mut log = watcher(Some(120), None);
        let due = "`lifesign: alive` is due every 2 min 0 s, and the log is followed for 1 min 0 s";
        check(&mut log, 60, Answer::Unknown, due);
        let never = "`lifesign: alive` was not logged since the log is followed, and is due every 2 min 0 s";
        check(&mut log, 121, Answer::Dead, never);
        log.hear(b"cron: lifesign: al", at(130));
        log.hear(b"ive\n", at(130));
        check(&mut log, 150, Answer::Alive, "`lifesign: alive` was logged 20.0 s ago");
        let late = "`lifesign: alive` was last logged 2 min 10 s ago, and is due every 2 min 0 s";
        check(&mut log, 260, Answer::Dead, late);
    }

    #[test]
    fn a_log_that_was_lost_is_followed_anew() {
        let mut log = watcher(Some(120), None);
        log.lose("no such file");
        check(&mut log, 500, Answer::Unknown, "the log cannot be read: no such file");
        log.hear(b"x\n", at(600));
        let due = "`lifesign: alive` is due every 2 min 0 s, and the log is followed for 10.0 s";
        check(&mut log, 610, Answer::Unknown, due);
    }

    #[test]
    fn what_was_logged_before_a_boot_proves_nothing_after_it() {
        let mut log = watcher(Some(120), None);
        log.hear(b"lifesign: alive\nKernel panic - not syncing: oh\n", at(100));
        log.forget(at(110));
        let [panic, label] = &log.findings(at(130))[..] else { panic!("two findings") };
        assert_eq!(panic.answer, Answer::Dead, "it was not told yet");
        let due = "`lifesign: alive` is due every 2 min 0 s, and the log is followed for 20.0 s";
        assert_eq!((label.answer, label.reason.as_str()), (Answer::Unknown, due));
        log.hear(b"lifesign: alive\n", at(140));
        check(&mut log, 150, Answer::Alive, "`lifesign: alive` was logged 10.0 s ago");
    }

    #[test]
    fn silence_is_judged_by_habit() {
        let mut log = watcher(None, Some(30));
        // A boot, and then a line every ten seconds or so.
        for second in 0..5 {
            log.hear(b"booting\n", at(second));
        }
        check(&mut log, 200, Answer::Unknown, "how often this guest logs is not learnt yet");
        for line in 1..=40u64 {
            log.hear(b"working\n", at(200 + line * 10 + line % 3));
        }
        // The long pause after the boot is still remembered.
        check(&mut log, 700, Answer::Unknown, "how often this guest logs is not learnt yet");
        for line in 41..=400u64 {
            log.hear(b"working\n", at(200 + line * 10 + line % 3));
        }
        let usual = "the last line was logged 9.0 s ago; at most 11.0 s is usual";
        check(&mut log, 4210, Answer::Alive, usual);
        check(
            &mut log,
            4230,
            Answer::Alive,
            "the last line was logged 29.0 s ago; at most 11.0 s is usual",
        );
        check(
            &mut log,
            4241,
            Answer::Dead,
            "nothing was logged for 40.0 s; at most 11.0 s is usual",
        );
    }

    #[test]
    fn bad_lines_are_told_once_and_harmlessly() {
        let mut log = watcher(None, None);
        log.hear(b"[ 1.0] Kernel panic - not syncing: \x1b[2Jfatal\r\n", at(1));
        for _ in 0..3 {
            log.hear(b"watchdog: BUG: soft lockup - CPU#1 stuck for 23s!\n", at(2));
        }
        let findings = log.findings(at(3));
        let shown: Vec<_> = findings.iter().map(|finding| finding.reason.as_str()).collect();
        assert_eq!(
            shown,
            [
                "the log says: [ 1.0] Kernel panic - not syncing: \\u{1b}[2Jfatal",
                "the log says: watchdog: BUG: soft lockup - CPU#1 stuck for 23s! (3 times)",
            ]
        );
        assert_eq!(log.findings(at(4)), []);
    }

    proptest! {
        #[test]
        fn any_bytes_are_heard_within_bounds(pieces: Vec<(Vec<u8>, u16)>) {
            let mut log = watcher(Some(10), Some(10));
            let mut seconds = 0;
            for (bytes, later) in pieces {
                seconds += u64::from(later);
                log.hear(&bytes, at(seconds));
                prop_assert!(log.line.len() <= LINE_BYTES && log.habit.chapters.len() <= CHAPTERS);
                log.findings(at(seconds));
            }
        }
    }
}
