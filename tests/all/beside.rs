//! EVE's own manager asks the same monitor every second, and must not notice us.

use super::lab::Guest;
use super::programs::{Place, eventually};
use lifesign::base::time::{Clock, Spoken};
use lifesign::hypervisor::qmp::Monitor;
use serde_json::json;
use std::time::Duration;

/// Rounds of a manager that asks for the run state, as EVE's does: connect, ask, leave.
const ROUNDS: u32 = 40;

#[test]
fn a_manager_that_asks_every_second_is_never_kept_waiting() {
    let guest = Guest::up("beside", &["--sysrq", "all", "--disk"]);
    let place = Place::new(&guest);
    let _controller = place.controller();
    let _agent = place.agent();
    eventually("the app is healthy", 20, || {
        place.agent_page("/metrics")?.contains("answer=\"alive\"").then_some(())
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut longest = Duration::ZERO;
    for round in 0..ROUNDS {
        if round == ROUNDS / 4 {
            // From here on there are looks at a silent guest, and a capture.
            guest.break_it("mutex-deadlock");
        }
        let begun = Clock::now();
        runtime.block_on(async {
            // A monitor of ours gives up after a second, so that to be answered is to be in time.
            let mut monitor = Monitor::connect(&guest.file("qmp")).await.unwrap();
            let status = monitor.ask("query-status", json!({})).await.unwrap();
            assert_eq!(status["status"], "running");
        });
        longest = longest.max(Clock::now().since(begun));
        std::thread::sleep(Duration::from_secs(1));
    }
    eprintln!("{ROUNDS} calls, the longest took {}", Spoken(longest));
    eventually("the incident was captured meanwhile", 60, || place.diagnosed());
}
