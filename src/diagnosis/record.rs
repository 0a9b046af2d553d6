//! What the kernel wrote outside of the guest when it died. That outlives the guest, so most of what is
//! found has nothing to do with what is wrong now: time decides ([`Age`]).

use super::{Blame, Class, Confidence, Finding, life, log};
use crate::evidence::Evidence;
use crate::evidence::pstore::{Age, Record};

/// The kernel gave up, and wrote so.
pub(super) fn panic(evidence: &Evidence) -> Option<Finding> {
    let record = latest(evidence, "Panic")?;
    let log = record.log();
    let mut finding = match log::last_words(&log) {
        Some(report) => {
            let mut finding = log::gave_up(&log, report);
            finding.facts_for.insert(0, log::said(&source(record), report));
            finding
        }
        None => unreadable(record),
    };
    let died = log::died(evidence);
    let is_of_now = record.age(&evidence.rounds) == Age::Now;
    finding.confidence = match (is_of_now, died.is_empty()) {
        (true, false) => Confidence::High,
        // A machine that is about to boot looks as one whose kernel died.
        (true, true) | (false, false) => Confidence::Medium,
        (false, true) => Confidence::Low,
    };
    finding.facts_for.extend(died);
    if !is_of_now {
        finding.facts_against.push(unknown());
    }
    if let Some(life) = life::kernel(evidence) {
        finding.facts_for.push(format!("the guest has booted since: {life}"));
    }
    Some(finding)
}

/// The kernel killed a task for a mistake of its own, and wrote so.
pub(super) fn oops(evidence: &Evidence) -> Option<Finding> {
    if life::went_on(evidence) {
        return None;
    }
    let record = latest(evidence, "Oops")?;
    let mut finding = log::oopsed(evidence, &record.log(), &source(record))?;
    if record.age(&evidence.rounds) == Age::Unknown {
        finding.facts_against.push(unknown());
        finding.confidence = Confidence::Low;
    }
    Some(finding)
}

/// That the kernel wrote of the panic which another source tells of, too.
pub(super) fn confirms_panic(evidence: &Evidence) -> Option<String> {
    let record = latest(evidence, "Panic")?;
    let now = record.age(&evidence.rounds) == Age::Now;
    now.then(|| format!("the kernel left a record of it: {}", place(record)))
}

/// The latest record that is not of what is wrong now, lest anybody takes it for that.
pub(super) fn history(evidence: &Evidence) -> Option<String> {
    let answer = evidence.rounds.last_answer()?;
    let mut records = evidence.records.records.iter().rev();
    let record = records.find(|record| record.age(&evidence.rounds) == Age::Earlier)?;
    let what = record.reason.to_lowercase();
    // After an oops a kernel may go on; after all else only another boot answers.
    let boot = if record.reason == "Oops" { "" } else { " of an earlier boot" };
    let place = place(record);
    Some(format!(
        "not of this incident: a record{boot} ({what}, {place}), for the guest answered at {answer}"
    ))
}

/// The latest record of a reason that may be of what is wrong now. A kernel that answers, and was not
/// heard before, has long forgotten what it died of.
fn latest<'a>(evidence: &'a Evidence, reason: &str) -> Option<&'a Record> {
    let may_be = |record: &&Record| match record.age(&evidence.rounds) {
        Age::Now => true,
        Age::Unknown => life::kernel(evidence).is_none(),
        Age::Earlier => false,
    };
    let of_reason = |record: &&Record| record.reason == reason;
    evidence.records.records.iter().rev().filter(of_reason).find(may_be)
}

fn unreadable(record: &Record) -> Finding {
    let mut finding = Finding::new(Class::Panic, Blame::GuestKernel, Confidence::Medium);
    finding.title = "kernel panic: what the kernel said of it is lost".to_owned();
    finding.facts_for.push(format!("the kernel left a record of a panic: {}", place(record)));
    finding
}

fn unknown() -> String {
    "whether the guest has booted since that record is not known".to_owned()
}

fn source(record: &Record) -> String {
    format!("the kernel's record in {}", place(record))
}

/// `acpi-erst of 2026-01-01T00:16:40Z`, and what became of it.
fn place(record: &Record) -> String {
    let cleared = if record.cleared { ", cleared since" } else { "" };
    let torn = if record.whole { "" } else { ", torn" };
    format!("{} of {}{cleared}{torn}", record.store.word(), record.at)
}
