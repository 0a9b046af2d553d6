//! The lines that somebody who knows kernels wants to see first. Works on bytes as they came, so
//! that it shows something even where no parser understood them.

use crate::base::text::Harmless;
use crate::evidence::pstore::Record;
use crate::evidence::qmp::Replies;
use crate::evidence::{Artifact, CONSOLE_FIRST, Kind};

/// Lines that are shown; the rest is one command away.
const LINES: usize = 40;

/// Longer lines are no log.
const COLUMNS: usize = 200;

/// Where a report of the kernel begins, the worst first.
const BEGINNINGS: [&str; 10] = [
    "Kernel panic - not syncing",
    "BUG: ",
    "Oops: ",
    "watchdog: BUG: soft lockup",
    "hard LOCKUP",
    "rcu: INFO: ",
    "blocked for more than",
    "general protection fault",
    "sysrq: Show Blocked State",
    "sysrq: Show backtrace of all active CPUs",
];

/// What tells where a register dump begins.
const REGISTERS: &str = "info registers";

/// Some lines and where they are from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Excerpt {
    /// The artifact.
    pub(super) from: String,
    /// Harmless.
    pub(super) lines: Vec<String>,
    /// Lines of the artifact that follow.
    pub(super) more: usize,
}

/// The best that these artifacts have of `subject`, if they have any; `record` is of now.
pub(super) fn excerpt(
    artifacts: &[Artifact],
    record: Option<&Record>,
    subject: &str,
) -> Option<Excerpt> {
    // What was wrong when a guest began is over.
    let spoken = artifacts
        .iter()
        .filter(|a| matches!(a.kind, Kind::Console | Kind::Sysrq) && a.name != CONSOLE_FIRST);
    let mut texts: Vec<(String, &[u8])> =
        spoken.map(|artifact| (artifact.label(), artifact.data.as_slice())).collect();
    texts.extend(record.map(|record| {
        (format!("the record of {} in {}", record.at, record.store.word()), record.text.as_bytes())
    }));
    let report = |beginning: &&str| {
        texts.iter().find_map(|(from, text)| report(from, text, beginning, subject))
    };
    // What an NMI made of a guest is no cause, but shows where a CPU was.
    let after_nmi = || {
        let nmi = artifacts.iter().find(|artifact| artifact.kind == Kind::Nmi)?;
        self::report(&nmi.label(), &nmi.data, BEGINNINGS[0], subject)
    };
    BEGINNINGS
        .iter()
        .find_map(report)
        .or_else(after_nmi)
        .or_else(|| artifacts.iter().find_map(answer))
        .or_else(|| artifacts.iter().find_map(registers))
}

/// From the line where the kernel's report begins, or in a list of tasks the one that is meant.
fn report(from: &str, text: &[u8], beginning: &str, subject: &str) -> Option<Excerpt> {
    let lines = lines(text);
    let start = lines.iter().position(|line| line.contains(beginning))?;
    // What stands right before a panic says why: an oops, a watchdog.
    let start = start.saturating_sub(if beginning.starts_with("Kernel panic") { 4 } else { 0 });
    let report = lines.get(start..).unwrap_or_default();
    let task = task_in(report, subject).unwrap_or(0);
    Some(cut(from.to_owned(), report.get(task..).unwrap_or_default()))
}

/// Where the task begins whose stack has this function, or one of several: `f+g`.
fn task_in(lines: &[String], subject: &str) -> Option<usize> {
    let functions = subject.split('+').filter(|function| !function.is_empty());
    let frames: Vec<String> = functions.map(|function| format!(" {function}+0x")).collect();
    let at = lines.iter().position(|line| frames.iter().any(|frame| line.contains(frame)))?;
    lines.get(..at)?.iter().rposition(|line| line.contains("task:"))
}

/// An answer to SysRq, whatever it says.
fn answer(artifact: &Artifact) -> Option<Excerpt> {
    let lines = lines(&artifact.data);
    (artifact.kind == Kind::Sysrq && lines.len() > 2).then(|| cut(artifact.label(), &lines))
}

/// The registers as the hypervisor printed them.
fn registers(artifact: &Artifact) -> Option<Excerpt> {
    if artifact.kind != Kind::Qmp {
        return None;
    }
    let Replies(replies) = serde_json::from_slice(&artifact.data).ok()?;
    let reply = replies.iter().find(|reply| reply.command.contains(REGISTERS))?;
    let text = reply.value.as_str()?;
    Some(cut(artifact.label(), &lines(text.as_bytes())))
}

fn lines(bytes: &[u8]) -> Vec<String> {
    let lines = bytes.split(|byte| *byte == b'\n');
    lines.map(|line| Harmless(line.trim_ascii_end()).to_string()).collect()
}

fn cut(from: String, lines: &[String]) -> Excerpt {
    let filled = lines.iter().rposition(|line| !line.is_empty()).map_or(0, |last| last + 1);
    let shown = filled.min(LINES);
    let short = |line: &String| line.chars().take(COLUMNS).collect();
    Excerpt { from, lines: lines.iter().take(shown).map(short).collect(), more: filled - shown }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::Timestamp;
    use crate::evidence::pstore::Store;

    fn artifact(kind: Kind, data: &[u8]) -> Artifact {
        Artifact { kind, name: String::new(), data: data.to_vec() }
    }

    #[test]
    fn a_panic_that_we_made_comes_after_what_the_guest_did_by_itself() {
        let nmi = artifact(Kind::Nmi, b"Kernel panic - not syncing: NMI\n");
        let console = artifact(Kind::Console, b"rcu: INFO: rcu_preempt detected stalls\n");
        let found = excerpt(&[nmi.clone(), console], None, "").unwrap();
        assert_eq!(found.from, "console");
        assert_eq!(excerpt(&[nmi], None, "").unwrap().from, "nmi");
    }

    #[test]
    fn a_panic_goes_before_all_else() {
        let sysrq = artifact(Kind::Sysrq, b"sysrq: Show Blocked State\ntask:sh\n");
        let console =
            artifact(Kind::Console, b"boot\n\n\n\n\nwhy\nKernel panic - not syncing: x\r\n\n");
        let found = excerpt(&[sysrq.clone(), console], None, "").unwrap();
        assert_eq!(found.lines, ["", "", "", "why", "Kernel panic - not syncing: x"]);
        assert_eq!(
            excerpt(&[sysrq], None, "").unwrap().lines,
            ["sysrq: Show Blocked State", "task:sh"]
        );
    }

    #[test]
    fn of_many_tasks_the_one_that_is_meant_is_shown() {
        let text = b"sysrq: Show Blocked State\ntask:sh\n n_tty_write+0x9e\ntask:ab\n lab_ab+0x1\n";
        let found = excerpt(&[artifact(Kind::Sysrq, text)], None, "lab_ab").unwrap();
        assert_eq!(found.lines, ["task:ab", " lab_ab+0x1"]);
    }

    #[test]
    fn where_the_console_was_silent_the_record_is_shown() {
        let record = Record {
            store: Store::Erst,
            at: Timestamp::from_millis(0),
            reason: "Panic".to_owned(),
            count: 1,
            cleared: false,
            whole: true,
            text: "<0>[    1.0] Kernel panic - not syncing: x\n".to_owned(),
        };
        let found = excerpt(&[artifact(Kind::Console, b"login:")], Some(&record), "").unwrap();
        assert_eq!(found.from, "the record of 1970-01-01T00:00:00Z in acpi-erst");
        assert_eq!(found.lines, ["<0>[    1.0] Kernel panic - not syncing: x"]);
    }

    #[test]
    fn without_a_report_there_are_registers() {
        let replies = br#"[{"command":"human-monitor-command info registers -a","after_ms":1,
            "value":"CPU#0\r\nRIP=ffffffff81000000\r\n"}]"#;
        let found =
            excerpt(&[artifact(Kind::Console, b"login:"), artifact(Kind::Qmp, replies)], None, "");
        assert_eq!(found.unwrap().lines, ["CPU#0", "RIP=ffffffff81000000"]);
        assert_eq!(excerpt(&[artifact(Kind::Qmp, b"rubbish")], None, ""), None);
    }

    #[test]
    fn an_excerpt_has_bounds_and_no_escapes() {
        let mut data = b"BUG: \x1b[2J".to_vec();
        data.extend(std::iter::repeat_n(b"x\n".to_vec(), 100).flatten());
        let found = excerpt(&[artifact(Kind::Console, &data)], None, "").unwrap();
        assert_eq!((found.lines.len(), found.more), (LINES, 60));
        assert_eq!(found.lines[0], "BUG: \\u{1b}[2Jx");
    }
}
