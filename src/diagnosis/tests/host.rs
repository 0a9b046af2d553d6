//! What the host did to a guest, and what of it is believed.

use super::*;
use crate::evidence::host::{Cgroup, Disk, Image, Thread};

/// A QEMU with one vCPU, both in this state all the second.
fn host(state: &str) -> Host {
    let thread = |tid, name: &str| Thread {
        tid,
        name: name.to_owned(),
        state: state.to_owned(),
        before: state.to_owned(),
        ..Thread::default()
    };
    Host {
        pid: 70,
        state: state.to_owned(),
        sampled_ms: 1000,
        threads: vec![thread(70, "qemu-system-x86"), thread(73, "CPU 0/KVM")],
        ..Host::default()
    }
}

fn of(host: Host) -> Diagnosis {
    diagnose(&Evidence { host: Some(host), ..Evidence::default() })
}

fn stalled() -> Disk {
    Disk { name: "sda".into(), in_flight_before: 2, in_flight: 3, ..Disk::default() }
}

fn worth(diagnosis: &Diagnosis) -> (Class, &str, Blame, Confidence) {
    (diagnosis.class, &diagnosis.subject, diagnosis.blame, diagnosis.confidence)
}

/// Recorded from a QEMU.
macro_rules! recorded {
    ($file:literal) => {
        Host::read(include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/host/", $file)))
            .unwrap()
    };
}

/// It wrote to an image on a loop device whose own file lay on a file system that was frozen; and it was
/// in a control group with less memory than its guest.
#[test]
fn what_real_hosts_did() {
    let all = [recorded!("disk-stall.json"), recorded!("oom-kill.json")].map(of);
    insta::assert_snapshot!(all.map(|diagnosis| prose(&diagnosis)).join("\n"));
}

#[test]
fn the_hosts_kernel_tells_why_a_hypervisor_ended() {
    let gone = |line: &str| of(Host { pid: 70, log: vec![line.to_owned()], ..Host::default() });
    let memory =
        gone("[  700.000001] Out of memory: Killed process 70 (qemu-system-x86) total-vm:1kB");
    insta::assert_snapshot!(prose(&memory));
    let limit =
        gone("[  700.000001] Memory cgroup out of memory: Killed process 70 (qemu-system-x86)");
    assert_eq!(
        limit.title,
        "the host killed the hypervisor: it came to the memory limit of its control group"
    );
    let crash = gone("[  700.000001] qemu-system-x86[70]: segfault at 0 ip 0055 sp 007f error 4");
    assert_eq!(worth(&crash), (Class::VmmGone, "crash", Blame::Vmm, Confidence::High));
    let other = gone("[  700.000001] Out of memory: Killed process 71 (firefox) total-vm:1kB");
    assert_eq!(worth(&other), (Class::VmmGone, "", Blame::Vmm, Confidence::High));
}

#[test]
fn a_vcpu_that_does_not_get_to_run_is_told_with_the_limit_that_holds_it() {
    let mut starved = host("R");
    starved.threads[0].state = "S".to_owned();
    starved.threads[1].cpu_ms = 50;
    assert_eq!(
        worth(&of(starved.clone())),
        (Class::VmmStopped, "cpu", Blame::Host, Confidence::Medium)
    );
    starved.cgroups = vec![Cgroup {
        path: "/eve-user-apps/web".to_owned(),
        cpu_percent: Some(5),
        periods: 10,
        throttled_periods: 10,
        throttled_ms: 950,
        ..Cgroup::default()
    }];
    insta::assert_snapshot!(prose(&of(starved.clone())));
    // Half of what it wants is slow, but no hang.
    starved.threads[1].cpu_ms = 400;
    insta::assert_snapshot!(prose(&of(starved.clone())));
    // It slept for a while: then only what the kernel counted is known.
    starved.threads[1].cpu_ms = 0;
    starved.threads[1].slept = 1;
    assert_eq!(of(starved).class, Class::Silent);
}

#[test]
fn a_panic_is_no_fault_of_a_host_that_starves_its_guest_later() {
    let mut evidence = Evidence::read(&case!("panic-6.12":));
    evidence.qmp = None;
    evidence.host = Some(host("R"));
    assert_eq!(diagnose(&evidence).class, Class::Panic);
    evidence.console = KernelLog::default();
    assert_eq!(diagnose(&evidence).subject, "cpu");
}

#[test]
fn a_hypervisor_that_waits_for_the_hosts_disk_is_believed_if_the_disk_stalls() {
    let mut stuck = host("D");
    assert_eq!(
        worth(&of(stuck.clone())),
        (Class::VmmStopped, "host-wait", Blame::Host, Confidence::Low)
    );
    stuck.disks = vec![stalled()];
    stuck.threads[0].stack = vec!["io_schedule+0x46/0x70".into(), "folio_wait_bit+0x1/0x2".into()];
    stuck.log = vec![
        "[  700.000001] INFO: task qemu-system-x86:70 blocked for more than 120 seconds.".into(),
    ];
    insta::assert_snapshot!(prose(&of(stuck.clone())));
    // It was another wait at the second look.
    for thread in &mut stuck.threads {
        thread.slept = 1;
    }
    let disk = of(stuck);
    assert_eq!(worth(&disk), (Class::HungTask, "disk-io", Blame::Host, Confidence::Low));
}

#[test]
fn a_disk_that_stalls_below_a_guest_is_the_hosts() {
    let mut worker = host("S");
    worker.disks = vec![stalled()];
    let thread = Thread { tid: 80, state: "D".into(), before: "D".into(), ..Thread::default() };
    worker.threads.push(thread);
    worker.log = vec!["[  700.000001] I/O error, dev sda, sector 7 op 0x1:(WRITE)".into()];
    insta::assert_snapshot!(prose(&of(worker)));
}

#[test]
fn a_disk_that_stalls_on_the_host_answers_whose_fault_a_hung_task_is() {
    let mut evidence = Evidence::read(&case!("disk-stall-6.12":
        "sysrq-backtrace-all-active-cpus" "sysrq-blocked-tasks"));
    evidence.host = Some(Host { disks: vec![stalled()], ..host("S") });
    let stalls = diagnose(&evidence);
    assert_eq!(worth(&stalls), (Class::HungTask, "disk-io", Blame::Host, Confidence::High));
    assert!(stalls.facts_against.is_empty(), "{:?}", stalls.facts_against);
    // A deadlock is none of the host's, however slow its disks are.
    let mut evidence = Evidence::read(&case!("mutex-deadlock-6.12": "sysrq-blocked-tasks"));
    let disk = recorded!("disk-stall.json");
    evidence.host = Some(Host { disks: disk.disks, threads: disk.threads, ..host("S") });
    assert_eq!(diagnose(&evidence).class, Class::Deadlock);
}

#[test]
fn a_disk_that_failed_is_told_with_the_reason() {
    let qmp = Qmp { status: Some("io-error".to_owned()), ..Qmp::default() };
    let mut host = host("S");
    host.images = vec![Image {
        path: "/persist/vault/web.qcow2".to_owned(),
        file_system: "ext4".to_owned(),
        disk: "sda9".to_owned(),
        available_bytes: Some(4096),
    }];
    let mut evidence = Evidence { qmp: Some(qmp), host: Some(host), ..Evidence::default() };
    insta::assert_snapshot!(prose(&diagnose(&evidence)));
    evidence.host.as_mut().unwrap().images[0].available_bytes = Some(1 << 30);
    assert_eq!(
        worth(&diagnose(&evidence)),
        (Class::Paused, "io-error", Blame::Vmm, Confidence::High)
    );
}

#[test]
fn a_frozen_group_is_a_stopped_hypervisor() {
    let mut frozen = host("D");
    frozen.cgroups = vec![Cgroup { path: "/web".to_owned(), frozen: true, ..Cgroup::default() }];
    assert_eq!(worth(&of(frozen)), (Class::VmmStopped, "frozen", Blame::Vmm, Confidence::High));
}

#[test]
fn a_host_that_is_well_is_not_mentioned() {
    let quiet = of(host("S"));
    assert_eq!((quiet.class, quiet.facts_for.len()), (Class::Silent, 0));
}
