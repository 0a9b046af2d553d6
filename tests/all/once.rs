//! `lifesign probe`: a guest asked by every way, as a program reads it.

use super::lab::Guest;
use super::programs::Place;
use serde_json::Value;

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
    place.write_agent_config(&format!("{app}    scenarios: []\n"));
    place
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
