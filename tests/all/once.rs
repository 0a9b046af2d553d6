//! `lifesign probe`: a guest asked by every way, as a program reads it.

use super::lab::Guest;
use super::programs::{Place, eventually};
use lifesign::hypervisor::qmp::Monitor;
use serde_json::{Value, json};

/// What `probe --json` says, and its exit code.
fn probed(place: &Place) -> (Value, Option<i32>) {
    let output = place.lifesign(&["probe", "--json", "--config", "agent.yaml", "web"]);
    (serde_json::from_slice(&output.stdout).unwrap(), output.status.code())
}

/// A guest that no scenario is bound to.
fn unbound(guest: &Guest) -> Place {
    let place = Place::empty();
    let binding = place.binding(guest);
    let (app, _) = binding.split_once("    scenarios: ").unwrap();
    place.write_agent_config(&format!("{app}    agent: add\n    scenarios: []\n"));
    place
}

/// Asks the monitor, as anybody may.
fn monitor(guest: &Guest, command: &str) -> Value {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut monitor = Monitor::connect(&guest.file("qmp")).await.unwrap();
        monitor.ask(command, json!({})).await.unwrap()
    })
}

/// How many channels of ours it has.
fn added(guest: &Guest) -> usize {
    let chardevs = monitor(guest, "query-chardev");
    let all = chardevs.as_array().unwrap().iter();
    all.filter(|device| device["label"].as_str().unwrap().starts_with("lifesign")).count()
}

fn answer<'a>(survey: &'a Value, transport: &str) -> &'a str {
    let findings = survey["findings"].as_array().unwrap();
    let of_it = findings.iter().find(|finding| finding["transport"] == transport).unwrap();
    of_it["answer"].as_str().unwrap()
}

#[test]
fn what_no_scenario_asks_is_asked_and_its_silence_is_no_death() {
    let guest = Guest::up("once", &["--disk"]);
    let place = unbound(&guest);
    let (survey, code) = probed(&place);
    assert_eq!(
        (code, survey["verdict"]["answer"].as_str()),
        (Some(0), Some("alive")),
        "{survey:#}"
    );
    for transport in ["monitor", "vcpu", "console", "disk"] {
        assert_eq!(answer(&survey, transport), "alive", "{transport}: {survey:#}");
    }
    assert_eq!(answer(&survey, "log"), "unknown");
    // It was given a channel, and nobody in it answers.
    assert_eq!((answer(&survey, "agent"), added(&guest)), ("unknown", 1), "{survey:#}");

    guest.break_it("userspace-stopped");
    let (survey, _) = probed(&place);
    assert_eq!(answer(&survey, "console"), "unknown", "{survey:#}");
    assert_eq!(answer(&survey, "vcpu"), "alive", "{survey:#}");
    assert_eq!(survey["verdict"]["refuted"], Value::Null, "{survey:#}");

    // A scenario says that somebody answers there.
    place.write_agent_config(&place.binding(&guest));
    let (survey, code) = probed(&place);
    assert_eq!((code, answer(&survey, "console")), (Some(1), "dead"), "{survey:#}");
}

#[test]
fn an_agent_without_a_channel_answers_on_one_that_is_added_while_a_binding_consents() {
    let guest = Guest::up("once", &["--qga"]);
    let place = unbound(&guest);
    // A busy guest may take longer than one probe to find its channel.
    assert!((0..4).any(|_| answer(&probed(&place).0, "agent") == "alive"));
    for _ in 0..2 {
        let (survey, _) = probed(&place);
        assert_eq!((answer(&survey, "agent"), added(&guest)), ("alive", 1), "{survey:#}");
        assert_eq!(monitor(&guest, "query-status")["status"], "running");
    }
    // The agent finds what the probe has added, and keeps it when it is started again.
    let binding = std::fs::read_to_string(place.path("agent.yaml")).unwrap();
    let period = "scenarios: [linux-agent: { period: 1s, timeout: 1s, initialDelay: 0s }]";
    let bound = binding.replace("scenarios: []", period);
    std::fs::write(place.path("agent.yaml"), &bound).unwrap();
    let healthy = || {
        let status = place.lifesign(&["status", "--config", "agent.yaml"]);
        String::from_utf8(status.stdout).unwrap().contains("healthy").then_some(())
    };
    for _ in 0..2 {
        let agent = place.agent();
        eventually("the app is healthy", 20, healthy);
        assert!(!agent.log().contains("was given a channel"));
        agent.kill();
    }
    let agent = place.agent();
    eventually("the app is healthy", 20, healthy);
    std::fs::write(place.path("agent.yaml"), bound.replace("agent: add", "agent: as-found"))
        .unwrap();
    eventually("the channel is taken away", 20, || (added(&guest) == 0).then_some(()));
    assert!(agent.log().contains("was taken away"), "{}", agent.log());
    assert_eq!(monitor(&guest, "query-status")["status"], "running");
}
