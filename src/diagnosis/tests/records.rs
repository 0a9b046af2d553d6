//! Records that kernels leave behind outside of their guests, of now and of before.

use super::*;
use crate::evidence::pstore::written::{Dump, LAST_WORDS, erst, panic};
use crate::evidence::pstore::{Records, Store};

/// When [`panic`] says that it was.
const PANIC_S: i64 = 1_767_226_600;

const OOPS: [&str; 1] = ["<1>[    3.000000] BUG: kernel NULL pointer dereference, address: 0\n\
    <4>[    3.000001] Oops: 0002 [#1] PREEMPT SMP\n\
    <4>[    3.000002] CPU: 0 PID: 9 Comm: cat Not tainted 6.1.0-56-amd64 #1\n\
    <4>[    3.000003] RIP: 0010:lab_oops+0x7/0x10 [labfail]\n\
    <4>[    3.000004] Call Trace:\n<4>[    3.000005]  <TASK>\n<4>[    3.000006]  kthread+0x1/0x2\n\
    <4>[    3.000007]  </TASK>\n"];

/// Rounds at these seconds after the panic, each with one answer to a question on the console.
fn rounds(all: &[(i64, Answer)]) -> Rounds {
    let round = |(at, answer): &(i64, Answer)| {
        let mut round = asked("console", Rung::Userspace, *answer).rounds.remove(0);
        round.at = Timestamp::from_millis((PANIC_S + at) * 1000);
        round
    };
    Rounds { rounds: all.iter().map(round).collect() }
}

fn evidence(dumps: &[Dump<'_>], rounds: Rounds) -> Evidence {
    let records = Records::of_file(Store::Erst, &erst(dumps)).unwrap();
    Evidence { records, rounds, ..Evidence::default() }
}

#[test]
fn a_panic_that_only_its_record_tells_of_is_told() {
    let diagnosis = diagnose(&evidence(
        &[panic(&LAST_WORDS)],
        rounds(&[(-20, Answer::Alive), (10, Answer::Dead)]),
    ));
    insta::assert_snapshot!(prose(&diagnosis), @r"
    kernel panic: sysrq triggered crash (in sysrq_handle_crash)

    class:      panic
    subject:    sysrq_handle_crash
    signature:  v1:panic:sysrq_handle_crash:f6797ffb
    fault of:   unknown
    confidence: medium

    + the kernel's record in acpi-erst of 2026-01-01T00:16:40Z reports a panic 12 s after boot: sysrq triggered crash
    + probe console: dead, no answer within 5.0 s
    ");
}

#[test]
fn a_guest_that_booted_meanwhile_has_panicked_all_the_same() {
    let dump = Dump { cleared: true, ..panic(&LAST_WORDS) };
    let mut evidence =
        evidence(&[dump], rounds(&[(-20, Answer::Alive), (10, Answer::Dead), (40, Answer::Dead)]));
    evidence.sysrq.read("blocked-tasks", b"sysrq: Show Blocked State\n");
    assert!(evidence.sysrq.any());
    let diagnosis = diagnose(&evidence);
    assert_eq!((diagnosis.class, diagnosis.confidence), (Class::Panic, Confidence::Medium));
    let facts = diagnosis.facts_for.join("\n");
    assert!(facts.contains("the guest has booted since: the kernel answered SysRq"), "{facts}");
    assert!(facts.contains("cleared since"), "{facts}");
}

#[test]
fn what_the_guest_survived_is_history() {
    let dumps = [Dump { parts: &OOPS, reason: "Oops", ..panic(&[]) }, panic(&LAST_WORDS)];
    for dump in dumps {
        let rounds = rounds(&[(3600, Answer::Alive), (3630, Answer::Dead)]);
        let diagnosis = diagnose(&evidence(&[dump], rounds));
        assert_eq!(diagnosis.class, Class::Silent, "{diagnosis:?}");
        let last = diagnosis.facts_for.last().unwrap();
        assert!(last.starts_with("not of this incident: a record"), "{last}");
        assert!(last.ends_with("for the guest answered at 2026-01-01T01:16:40Z"), "{last}");
    }
}

#[test]
fn of_several_boots_the_last_panic_counts() {
    let old = Dump { seconds: panic(&[]).seconds - 86_400, ..panic(&OOPS) };
    let rounds = rounds(&[(-20, Answer::Alive), (10, Answer::Dead)]);
    let diagnosis = diagnose(&evidence(&[old, panic(&LAST_WORDS)], rounds));
    assert!(diagnosis.title.contains("sysrq triggered crash"), "{}", diagnosis.title);
    let history = diagnosis.facts_for.last().unwrap();
    assert!(history.contains("2025-12-31T00:16:40Z"), "{history}");
}

#[test]
fn without_rounds_to_go_by_a_record_is_a_guess_that_the_machine_may_confirm() {
    let mut evidence = evidence(&[panic(&LAST_WORDS)], rounds(&[(86_400, Answer::Dead)]));
    let guess = diagnose(&evidence);
    assert_eq!((guess.class, guess.confidence), (Class::Panic, Confidence::Low));
    assert!(guess.facts_against[0].contains("whether the guest has booted since"));
    let qmp = Qmp { status: Some("guest-panicked".to_owned()), ..Qmp::default() };
    evidence.qmp = Some(qmp);
    assert_eq!(diagnose(&evidence).confidence, Confidence::Medium);
    evidence.qmp = None;
    // A guest that lives, and of which no more is known.
    evidence.sysrq.read("blocked-tasks", b"sysrq: Show Blocked State\n");
    assert_ne!(diagnose(&evidence).class, Class::Panic);
}

#[test]
fn a_clock_that_is_ahead_is_not_gone_by() {
    let rounds = rounds(&[(-7220, Answer::Alive), (-7190, Answer::Dead)]);
    let diagnosis = diagnose(&evidence(&[panic(&LAST_WORDS)], rounds));
    assert_eq!((diagnosis.class, diagnosis.confidence), (Class::Panic, Confidence::Low));
}

#[test]
fn a_question_that_looks_back_proves_nothing_of_its_moment() {
    for name in ["written", "heartbeat", "label", "silence"] {
        let mut rounds = rounds(&[(10, Answer::Alive), (60, Answer::Dead)]);
        rounds.rounds[0].probes[0].name = name.to_owned();
        assert_eq!(rounds.last_answer(), None);
    }
}

#[test]
fn a_record_confirms_what_the_console_says() {
    let mut evidence =
        evidence(&[panic(&LAST_WORDS)], rounds(&[(-20, Answer::Alive), (10, Answer::Dead)]));
    evidence.console = KernelLog::read(LAST_WORDS[0].as_bytes());
    let diagnosis = diagnose(&evidence);
    assert_eq!(diagnosis.confidence, Confidence::High);
    let facts = diagnosis.facts_for.join("\n");
    assert!(facts.contains("the kernel left a record of it: acpi-erst of 2026-"), "{facts}");
}

#[test]
fn an_oops_of_now_is_told() {
    let oops = Dump { parts: &OOPS, reason: "Oops", ..panic(&[]) };
    let diagnosis =
        diagnose(&evidence(&[oops], rounds(&[(-20, Answer::Alive), (10, Answer::Dead)])));
    assert_eq!((diagnosis.class, diagnosis.subject.as_str()), (Class::Oops, "lab_oops"));
    assert!(diagnosis.facts_for[0].starts_with("the kernel's record in acpi-erst of 2026-"));
}

#[test]
fn a_panic_whose_words_are_lost_is_a_panic() {
    let parts = ["<6>[    1.000000] fine\n"];
    let rounds = rounds(&[(-20, Answer::Alive), (10, Answer::Dead)]);
    let diagnosis = diagnose(&evidence(&[panic(&parts)], rounds));
    assert_eq!(diagnosis.title, "kernel panic: what the kernel said of it is lost");
}
