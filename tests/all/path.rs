//! The whole path: a guest hangs, an operator reads why.

use super::lab::Guest;
use super::programs::{Place, eventually, only};
use lifesign::hypervisor::qmp::Monitor;
use serde_json::json;

/// Breaks a guest and gives what `show` prints of the incident once its evidence is stored.
fn incident_of(guest: &Guest, fault: &str) -> (String, serde_json::Value) {
    let place = Place::new(guest);
    let _controller = place.controller();
    let _agent = place.agent();
    eventually("the app is healthy", 20, || {
        place.agent_page("/metrics")?.contains("answer=\"alive\"").then_some(())
    });
    guest.break_it(fault);
    let incident = eventually("an incident with its evidence", 60, || place.diagnosed());
    only(place.incidents());
    let id = incident["incident"].as_str().unwrap();
    let shown = place.ask_controller(&["show", id, "--config", "controller.yaml"]);
    (String::from_utf8(shown.stdout).unwrap(), incident)
}

#[test]
fn a_deadlock_is_named() {
    let guest = Guest::up("deadlock", &["--sysrq", "all"]);
    let (shown, incident) = incident_of(&guest, "mutex-deadlock");
    assert_eq!(incident["diagnosis"]["class"], "deadlock", "{shown}");
    assert!(shown.contains("lab_order_ab") && shown.contains("lab_order_ba"), "{shown}");
}

#[test]
fn a_panic_is_named() {
    let guest = Guest::up("panic", &["--kernel", "6.1"]);
    let (shown, incident) = incident_of(&guest, "panic");
    assert_eq!(incident["diagnosis"]["class"], "panic", "{shown}");
    assert!(shown.contains("lab_panic"), "{shown}");
}

#[test]
fn a_guest_that_takes_no_interrupts_is_named_without_a_word_from_it() {
    let guest = Guest::up("irqs", &[]);
    let (shown, incident) = incident_of(&guest, "irq-off-all");
    assert_eq!(incident["diagnosis"]["class"], "hard-lockup", "{shown}");
}

#[test]
fn a_guest_that_answers_again_ends_its_incident() {
    let guest = Guest::up("resumed", &[]);
    let place = Place::new(&guest);
    let _controller = place.controller();
    let agent = place.agent();
    guest.break_it("vmm-stopped");
    let incident = eventually("an incident", 60, || place.diagnosed());
    assert_eq!(incident["diagnosis"]["class"], "vmm-stopped");
    guest.go_on();
    eventually("the incident ends", 20, || only(place.incidents())["ended_unix_ms"].as_i64());
    let (code, took) = agent.stop();
    assert_eq!(code, Some(0));
    assert!(took.as_secs() < 6, "stopping took {took:?}");
}

#[test]
fn both_programs_tell_how_they_do() {
    let place = Place::empty();
    let controller = place.controller();
    let _agent = place.agent();
    eventually("both are healthy", 20, || {
        let pages = [place.agent_page("/health")?, place.controller_page("/health")?];
        pages.iter().all(|page| page.contains("200 OK") && page.contains("healthy")).then_some(())
    });
    for page in [place.agent_page("/metrics").unwrap(), place.controller_page("/metrics").unwrap()]
    {
        assert!(page.contains("dependencies_up{dependency=\"broker\"} 1"), "{page}");
        assert!(page.contains("build_info{version="), "{page}");
    }
    for path in ["/healthz", "/livez"] {
        assert!(place.agent_page(path).unwrap().contains("200 OK"));
        assert!(place.controller_page(path).unwrap().contains("200 OK"));
    }
    let (code, _) = controller.stop();
    assert_eq!(code, Some(0));
    eventually("the agent misses its broker", 20, || {
        place.agent_page("/health").filter(|page| page.contains("503") && page.contains("broker:"))
    });
}

#[test]
fn a_guest_that_somebody_paused_is_no_incident() {
    let guest = Guest::up("paused", &[]);
    let place = Place::new(&guest);
    let _controller = place.controller();
    let agent = place.agent();
    eventually("the app is healthy", 20, || {
        place.agent_page("/metrics")?.contains("answer=\"alive\"").then_some(())
    });
    guest.break_it("paused");
    eventually("the app is paused", 20, || {
        let status = place.lifesign(&["status", "--config", "agent.yaml"]);
        String::from_utf8(status.stdout).unwrap().contains("paused").then_some(())
    });
    std::thread::sleep(std::time::Duration::from_secs(8));
    assert!(place.incidents().is_empty() && !agent.log().contains("has failed"));
}

#[test]
fn what_the_hypervisor_told_by_itself_is_in_the_evidence() {
    let guest = Guest::up("events", &[]);
    let place = Place::new(&guest);
    let kept = format!("    events: {}\n", guest.file("listener.qmp").display());
    place.write_agent_config(&(place.binding(&guest) + &kept));
    let _controller = place.controller();
    let _agent = place.agent();
    eventually("the app is healthy", 20, || {
        place.agent_page("/metrics")?.contains("answer=\"alive\"").then_some(())
    });
    guest.break_it("userspace-stopped");
    // Nobody who asks now and then could tell of such a moment.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut monitor = Monitor::connect(&guest.file("lab.qmp")).await.unwrap();
        for command in ["stop", "cont"] {
            monitor.ask(command, json!({})).await.unwrap();
        }
    });
    let incident = eventually("an incident with its evidence", 60, || place.diagnosed());
    let id = incident["incident"].as_str().unwrap();
    let shown = place.ask_controller(&["show", id, "--config", "controller.yaml"]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    let said = |words: &str| shown.lines().any(|it| it.contains("event") && it.contains(words));
    assert!(said("STOP") && said("RESUME"), "{shown}");
}
