//! Disks that the host does not serve: replies of a real monitor, with the numbers of a guest that waits.

use super::*;
use crate::evidence::qmp::disks::Disk;
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

fn without_limits(mut evidence: Evidence) -> Evidence {
    evidence.qmp.as_mut().unwrap().drives.clear();
    evidence
}

#[test]
fn a_disk_that_the_host_does_not_serve() {
    let stalled = evidence([(3, 70, 400, 0), (7, 70, 31_400, 0), (7, 70, 32_300, 0)]);
    insta::assert_snapshot!(prose(&diagnose(&without_limits(stalled))));
}

#[test]
fn a_disk_that_the_host_strangles() {
    let strangled = evidence([(0, 60, 100, 0), (2, 70, 100, 0), (2, 70, 1_000, 0)]);
    insta::assert_snapshot!(prose(&diagnose(&strangled)));
}

#[test]
fn tasks_that_wait_for_it_are_told_with_it() {
    let stalled =
        without_limits(evidence([(3, 70, 400, 0), (7, 70, 31_400, 0), (7, 70, 32_300, 0)]));
    let mut waiting = Evidence::read(&case!("disk-stall-6.12": "sysrq-blocked-tasks"));
    let before = diagnose(&waiting);
    assert_eq!((before.subject.as_str(), before.blame), ("disk-io", Blame::Unknown));
    waiting.qmp = stalled.qmp;
    let diagnosis = diagnose(&waiting);
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
fn a_disk_that_the_host_fails() {
    let failing = evidence([(0, 70, 400, 9), (1, 90, 10, 21), (1, 92, 10, 23)]);
    insta::assert_snapshot!(prose(&diagnose(&failing)));
}

#[test]
fn why_the_hypervisor_stopped_the_guest() {
    let mut evidence = evidence([(0, 70, 400, 9); 3]);
    let qmp = evidence.qmp.as_mut().unwrap();
    qmp.status = Some("io-error".to_owned());
    qmp.drives.get_mut("drive0").unwrap().status = Some("nospace".to_owned());
    insta::assert_snapshot!(prose(&diagnose(&evidence)));
}

#[test]
fn a_guest_that_was_never_started_did_not_panic() {
    let diagnosis = diagnose(&Evidence { qmp: Qmp::read(MONITOR), ..Evidence::default() });
    assert_eq!((diagnosis.class, diagnosis.subject.as_str()), (Class::Paused, "prelaunch"));
}
