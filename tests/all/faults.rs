//! What a capture makes of a guest that was broken in each way. `docs/faults.md` tells it of all faults
//! and kernels; here is one of each kind.

use super::lab::Guest;
use super::programs::Place;
use lifesign::transport::console::{self, Console, Heard};
use lifesign::transport::mux::Wiring;
use std::time::Duration;
use tokio::time::Instant;

/// Breaks a guest and gives what `probe` and `capture` print.
fn look_at(options: &[&str], fault: &str) -> (String, String) {
    let guest = Guest::up("fault", options);
    let place = Place::new(&guest);
    guest.break_it(fault);
    let print = |command| {
        let output = place.lifesign(&[command, "--config", "agent.yaml", "web"]);
        String::from_utf8(output.stdout).unwrap()
    };
    (print("probe"), print("capture"))
}

#[test]
fn a_soft_lockup_on_the_older_kernel() {
    let (_, capture) = look_at(&["--kernel", "6.1", "--sysrq", "all"], "soft-lockup");
    assert!(capture.contains("soft-lockup"), "{capture}");
}

#[test]
fn a_stopped_hypervisor() {
    let (probe, capture) = look_at(&[], "vmm-stopped");
    assert!(probe.contains("dead") && probe.contains("process is stopped"), "{probe}");
    assert!(capture.contains("vmm-stopped"), "{capture}");
}

#[test]
fn a_dead_userspace_on_a_plain_serial_line() {
    let (probe, capture) = look_at(&["--wiring", "plain", "--sysrq", "all"], "userspace-stopped");
    assert!(probe.contains("dead"), "{probe}");
    assert!(capture.contains("userspace-dead"), "{capture}");
    assert!(capture.contains("sysrq task-states                  done"), "{capture}");
}

#[test]
fn a_kernel_that_refuses_sysrq_is_a_kernel_that_lives() {
    let (_, capture) = look_at(&[], "userspace-stopped");
    assert!(capture.contains("refused"), "{capture}");
    assert!(capture.contains("userspace-dead"), "{capture}");
}

#[test]
fn keys_reach_a_serial_console_behind_eves_multiplexer_and_the_focus_is_turned_back() {
    let guest = Guest::up("focus", &["--console", "ttyS0", "--sysrq", "all"]);
    let place = Place::new(&guest);
    let captured = place.lifesign(&["capture", "--config", "agent.yaml", "web"]);
    let said = String::from_utf8(captured.stdout).unwrap();
    assert!(said.contains("sysrq backtrace-all-active-cpus    done"), "{said}");
    // The shell on hvc0 has the focus again, and nothing half typed.
    assert!(has_focus(&guest, "/dev/hvc0"));
    let probed = place.lifesign(&["probe", "--config", "agent.yaml", "web"]);
    assert_eq!(probed.status.code(), Some(0), "{}", String::from_utf8_lossy(&probed.stdout));
}

/// Whether the shell on this terminal gets what is typed.
pub(super) fn has_focus(guest: &Guest, terminal: &str) -> bool {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut console = Console::open(&guest.file("cons"), Wiring::Mux).await.unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        let expect = format!("the={terminal}");
        let heard = console::ask(&mut console, "echo the=$(tty)", &expect, deadline).await.unwrap();
        matches!(heard, Heard::Wanted(_))
    })
}
