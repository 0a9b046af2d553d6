//! Guests of another architecture, read as those of x86-64 are in [`super::inspect`]. They boot slowly
//! where no CPU of theirs is at hand: `hack/arm64` runs these tests, one guest at a time.

use super::inspect::{agrees_with_itself, is, verdict};
use lifesign::diagnosis::Class;

const ARM64: &[&str] = &["--arch", "arm64"];

#[test]
#[ignore = "boots guests of another architecture: hack/arm64 runs it"]
fn a_healthy_arm64_guest_is_read_as_it_reads_itself() {
    agrees_with_itself("arm64-well", ARM64);
}

#[test]
#[ignore = "boots guests of another architecture: hack/arm64 runs it"]
fn a_deadlock_on_arm64_shows_both_owners() {
    let inspection = verdict("arm64-lock", ARM64, "mutex-deadlock");
    is(&inspection, Class::Deadlock, &["lab_order_ab (", "lab_order_ba (", "wait for each other"]);
    let memory = &inspection.memory;
    assert_eq!(memory.rings().len(), 1);
    assert!(memory.waits.iter().all(|wait| wait.owner.is_some()), "{:?}", memory.waits);
    for lock in ["lab_mutex_a", "lab_mutex_b"] {
        assert!(memory.waits.iter().any(|wait| wait.lock.starts_with(lock)), "{:?}", memory.waits);
    }
}

#[test]
#[ignore = "boots guests of another architecture: hack/arm64 runs it"]
fn a_panic_on_arm64_shows_its_reason() {
    is(&verdict("arm64-panic", ARM64, "panic"), Class::Panic, &["asked to panic"]);
}

#[test]
#[ignore = "boots guests of another architecture: hack/arm64 runs it"]
fn a_cpu_of_arm64_that_spins_shows_where() {
    let inspection = verdict("arm64-irq", ARM64, "irq-off");
    is(&inspection, Class::HardLockup, &["CPU 1 spins with interrupts off", "lab_"]);
    let inspection = verdict("arm64-soft", ARM64, "soft-lockup");
    is(&inspection, Class::SoftLockup, &["CPU 1 spins with interrupts on", "lab_"]);
}

#[test]
#[ignore = "boots guests of another architecture: hack/arm64 runs it"]
fn processes_of_arm64_that_take_everything_or_wait_for_a_disk_are_seen() {
    let inspection = verdict("arm64-busy", ARM64, "userspace-spin");
    is(&inspection, Class::UserspaceDead, &["processes take all CPUs for themselves"]);
    let inspection = verdict("arm64-freeze", &[ARM64, &["--disk"]].concat(), "fs-freeze");
    is(&inspection, Class::HungTask, &["the file system ext4 on vda is frozen"]);
}
