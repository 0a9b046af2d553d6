//! Disks that the host does not serve: what monitors told of requests that were made by hand, for CPUs that
//! never ran, and the same with other numbers.

use super::*;
use crate::evidence::qmp::disks::Disk;
use crate::evidence::qmp::machine::{Event, What};
use crate::evidence::recorded::MONITOR;
use std::time::Duration;

/// The disk `drive0` at three looks: `in_flight`, `ended`, `idle`, `failed`.
fn evidence(looks: [(u64, u64, u64, u64); 3]) -> Evidence {
    let mut qmp = Qmp::read(MONITOR).unwrap();
    qmp.status = Some("running".to_owned());
    qmp.cpus.clear();
    let disk = |(in_flight, ended, idle_ms, failed)| Disk {
        ended,
        failed,
        in_flight: Some(in_flight),
        idle: Some(Duration::from_millis(idle_ms)),
        ..Disk::default()
    };
    qmp.disks.insert("drive0".to_owned(), looks.map(disk).to_vec());
    Evidence { qmp: Some(qmp), ..Evidence::default() }
}

macro_rules! recorded {
    ($name:literal) => {
        Evidence {
            qmp: Qmp::read(include_bytes!(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/tests/data/qmp/",
                $name
            ))),
            ..Evidence::default()
        }
    };
}

#[test]
fn a_limit_of_one_byte_as_qemu_tells_it() {
    let strangled = recorded!("disk-stall-7.2.json");
    insta::assert_snapshot!(prose(&diagnose(&strangled)));
    insta::assert_snapshot!(prose(&diagnose(&without_limits(strangled))));
}

#[test]
fn failing_writes_as_qemu_tells_them() {
    insta::assert_snapshot!(prose(&diagnose(&recorded!("disk-fail-7.2.json"))));
}

#[test]
fn a_full_disk_of_the_host_as_qemu_tells_it() {
    let mut full = recorded!("disk-nospace-7.2.json");
    full.qmp.as_mut().unwrap().status = Some("io-error".to_owned());
    insta::assert_snapshot!(prose(&diagnose(&full)));
}

fn without_limits(mut evidence: Evidence) -> Evidence {
    evidence.qmp.as_mut().unwrap().drives.clear();
    evidence
}

#[test]
fn tasks_that_wait_for_it_are_told_with_it() {
    let stalled =
        without_limits(evidence([(3, 70, 400, 0), (7, 70, 31_400, 0), (7, 70, 32_300, 0)]));
    let mut waiting = Evidence::read(&case!("disk-stall-6.12": "sysrq-blocked-tasks"));
    let before = diagnose(&waiting);
    assert_eq!((before.subject.as_str(), before.blame), ("disk-io", Blame::Unknown));
    // What proves nothing yet is told, and each fact once.
    let held = |fact: &&String| fact.starts_with("the hypervisor has ");
    for (looks, said) in [
        ([(0, 70, 400, 0); 3], "the hypervisor has no unanswered request of any disk"),
        (
            [(0, 70, 400, 0), (3, 70, 8_000, 0), (3, 70, 8_900, 0)],
            "the hypervisor has 3 requests of the disk drive0 and completed none for 0.9 s",
        ),
    ] {
        waiting.qmp = without_limits(evidence(looks)).qmp;
        let diagnosis = diagnose(&waiting);
        assert_eq!(diagnosis.blame, Blame::Unknown);
        assert_eq!(diagnosis.facts_for.iter().filter(held).collect::<Vec<_>>(), [said]);
    }
    waiting.qmp = stalled.qmp;
    let diagnosis = diagnose(&waiting);
    assert_eq!(diagnosis.facts_for.iter().filter(held).count(), 1);
    assert_eq!((diagnosis.blame, diagnosis.confidence), (Blame::Vmm, Confidence::High));
    assert_eq!(diagnosis.signature, before.signature, "one cause, one signature");
    assert!(diagnosis.facts_for.iter().any(|fact| fact.starts_with("process ")), "{diagnosis:?}");
    assert!(!diagnosis.facts_against.iter().any(|fact| fact.contains("the host fails")));
}

#[test]
fn what_may_be_a_slow_disk_or_a_guest_at_rest_is_not_held_against_the_host() {
    for (looks, why) in [
        ([(3, 70, 400, 0), (3, 70, 8_000, 0), (3, 70, 8_900, 0)], "8.5 s are no proof"),
        (
            [(3, 70, 400, 0), (3, 71, 29_000, 0), (3, 71, 29_900, 0)],
            "one was completed after the first look",
        ),
        (
            [(0, 70, 400, 0), (3, 70, 31_400, 0), (3, 70, 32_300, 0)],
            "it was idle at the first look",
        ),
        (
            [(3, 70, 400, 0), (0, 70, 31_400, 0), (0, 70, 32_300, 0)],
            "the guest gave up or was reset",
        ),
        ([(3, 70, 400, 9), (3, 90, 10, 9), (3, 95, 10, 9)], "it failed long ago"),
        ([(3, 70, 400, 9), (3, 9, 31_400, 0), (3, 9, 32_300, 0)], "another process counts"),
    ] {
        let diagnosis = diagnose(&without_limits(evidence(looks)));
        assert_eq!(diagnosis.class, Class::Silent, "{why}: {}", diagnosis.title);
    }
}

#[test]
fn a_limit_that_lets_programs_live_is_no_cause() {
    let mut limited = evidence([(0, 60, 100, 0), (2, 70, 100, 0), (2, 70, 1_000, 0)]);
    let drive = limited.qmp.as_mut().unwrap().drives.get_mut("drive0").unwrap();
    drive.limits = [("bps_wr".to_owned(), 1 << 20), ("iops".to_owned(), 1)].into();
    assert_eq!(diagnose(&limited).class, Class::Silent);
}

#[test]
fn a_request_that_failed_while_somebody_listened() {
    let mut evidence = evidence([(0, 70, 400, 9); 3]);
    let what = What::DiskError {
        disk: "vdb".to_owned(),
        operation: "write".to_owned(),
        action: "report".to_owned(),
        reason: "Input/output error".to_owned(),
    };
    let name = "BLOCK_IO_ERROR".to_owned();
    evidence.qmp.as_mut().unwrap().events.push(Event { name, at_s: None, what });
    let diagnosis = diagnose(&evidence);
    assert_eq!((diagnosis.subject.as_str(), diagnosis.blame), ("disk-error", Blame::Vmm));
    let said = "the hypervisor told that a write of the disk vdb failed: Input/output error";
    assert_eq!(diagnosis.facts_for, [said]);
}

#[test]
fn a_guest_that_was_never_started_did_not_panic() {
    let diagnosis = diagnose(&Evidence { qmp: Qmp::read(MONITOR), ..Evidence::default() });
    assert_eq!((diagnosis.class, diagnosis.subject.as_str()), (Class::Paused, "prelaunch"));
}
