//! Evidence as a file: sealed by one command, shown by another, whoever it came from.

use super::programs::Place;
use serde_json::Value;

#[test]
fn what_was_sealed_into_a_file_is_shown_to_whoever_has_the_certificate() {
    let place = Place::empty();
    place.write_agent_config(
        "  - name: web\n    uuid: 0f8fad5b-d9cb-469f-a165-70867728950e\n    addresses: [127.0.0.1]\n    \
         scenarios: [tcp-service]\n",
    );
    let lifesign = |arguments: &[&str]| {
        let output = place.lifesign(arguments);
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    };
    let ours = ["--config", "agent.yaml"];
    let (code, said) = lifesign(&[&["capture", "web", "--out", "web.bundle"], &ours[..]].concat());
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("bytes sealed into web.bundle"), "{said}");

    let (code, said) = lifesign(&[&["show", "web.bundle"], &ours[..]].concat());
    assert_eq!(code, Some(0), "{said}");
    for part in [
        "app        web (0f8fad5b",
        "Rounds that led here",
        "What is missing\n- ",
        "`lifesign show web.bundle --artifact NAME` gives its bytes.",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let (_, json) = lifesign(&[&["show", "web.bundle", "--json"], &ours[..]].concat());
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["app_name"], "web");
    let (_, rounds) =
        lifesign(&[&["show", "web.bundle", "--artifact", "rounds"], &ours[..]].concat());
    let rounds: Value = serde_json::from_str(&rounds).unwrap();
    assert_eq!(rounds["rounds"], json["bundle"]["rounds"]);
    let (code, said) =
        lifesign(&[&["show", "web.bundle", "--artifact", "roun"], &ours[..]].concat());
    assert_eq!(code, Some(2));
    assert!(said.contains("no artifact `roun`; it has:"), "{said}");

    // Who has no agent needs no config, only the certificate.
    assert_eq!(lifesign(&["show", "web.bundle", "--certificate", "edge-1.pem"]).0, Some(0));
    let (code, said) = lifesign(&["show", "web.bundle", "--certificate", "controller.pem"]);
    assert_eq!(code, Some(2));
    assert!(said.contains("give the one of the device that sealed it"), "{said}");
    let (code, said) = lifesign(&["bundle", "verify", "web.bundle", "--certificate", "edge-1.pem"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.starts_with("web.bundle: right, sealed by edge-1.pem\n  sha256"), "{said}");
    let redact = ["bundle", "redact", "web.bundle", "--out", "copy"];
    assert_eq!(lifesign(&[&redact, &ours[..]].concat()).0, Some(0));
    let (code, said) = lifesign(&[&["show", "copy"], &ours[..]].concat());
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("What was taken out of it\nmade of the bundle "), "{said}");
    let mut altered = std::fs::read(place.path("web.bundle")).unwrap();
    let middle = altered.len() / 2;
    altered[middle] ^= 1;
    std::fs::write(place.path("web.bundle"), altered).unwrap();
    let (code, said) = lifesign(&[&["show", "web.bundle"], &ours[..]].concat());
    assert_eq!(code, Some(2), "{said}");
    assert_eq!(lifesign(&[&["show", "agent.yaml"], &ours[..]].concat()).0, Some(2));
    assert_eq!(lifesign(&[&["bundle", "verify", "web.bundle"], &ours[..]].concat()).0, Some(1));
}

#[test]
fn nobody_collects_twice_at_once() {
    let place = Place::empty();
    let app = "0f8fad5b-d9cb-469f-a165-70867728950e";
    place.write_agent_config(&format!(
        "  - name: web\n    uuid: {app}\n    addresses: [127.0.0.1]\n    scenarios: [tcp-service]\n"
    ));
    let state = place.path("state");
    let turn = lifesign::agent::turn::Turn::take(&state, app.parse().unwrap()).unwrap();
    let capture = || place.lifesign(&["capture", "web", "--config", "agent.yaml"]);
    let refused = capture();
    assert_eq!(refused.status.code(), Some(2));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("is being collected already"), "{said}");
    drop(turn);
    assert_eq!(capture().status.code(), Some(0));
}
