//! A guest that records while it is well, so that its end tells what led to it.

use super::lab::Guest;
use super::programs::{Place, eventually};

const SCENARIO: &str = "scenario: armed\nperiod: 3s\ntimeout: 3s\ninitialDelay: 0s\nprobe:\n  \
    - console: { send: \"uptime\", expect: \"load average\" }\n\
    arm: { events: [\"sched:sched_switch\", workqueue], buffer: 32KiB }\n\
    diagnose:\n  - qmp: [status, cpus, registers]\n  - sysrq: [backtrace-all-active-cpus, dump-ftrace-buffer]\n";

/// What the guest's kernel says of it.
fn tracing(guest: &Guest) -> Option<String> {
    let files = "current_tracer tracing_on events/workqueue/enable \
                 events/sched/sched_switch/enable events/irq/enable";
    guest.ask(&format!("cd /sys/kernel/debug/tracing; cat {files}"))
}

#[test]
fn a_guest_records_what_led_to_its_end() {
    let guest = Guest::up("armed", &["--sysrq", "all", "--kernel", "6.1"]);
    let place = Place::new(&guest);
    let binding = place.binding(&guest);
    let (app, _) = binding.split_once("scenarios:").unwrap();
    place.write_agent_config(&format!("{app}scenarios: [armed]\n"));
    place.write_scenario("armed", SCENARIO);

    let agent = place.agent();
    let is_armed = || tracing(&guest).filter(|told| told == "nop\n1\n1\n1\n0\n");
    eventually("the guest records", 20, is_armed);
    let boot = || guest.ask("cat /proc/sys/kernel/random/boot_id");
    let first = boot().unwrap();
    guest.sh("(sleep 1; reboot -f) >/dev/null 2>&1 &");
    eventually("it has booted again", 60, || boot().filter(|boot| *boot != first));
    eventually("it records again", 60, is_armed);
    drop(agent);

    // It takes interrupts, so that its kernel still answers; but it switches to no task any more.
    guest.break_it("soft-lockup");
    let output = place.lifesign(&["capture", "--config", "agent.yaml", "web"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("sysrq dump-ftrace-buffer           done"), "{said}");
    let last = said.lines().find(|line| line.contains("the last that CPU 1 recorded is"));
    assert!(last.is_some_and(|line| line.contains("before the last of the others")), "{said}");
}
