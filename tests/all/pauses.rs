//! An operator leaves an app alone, and the agent heeds it without being told.

use super::programs::{Place, eventually};

#[test]
fn a_paused_app_is_not_judged_until_it_is_resumed() {
    let place = Place::empty();
    // Nobody is there: the app would be reported after three rounds.
    place.write_agent_config(
        "  - name: web-1\n    uuid: 0f8fad5b-d9cb-469f-a165-70867728950e\n    addresses: [127.0.0.1]\n    \
         scenarios: [tcp-service: { period: 1s, timeout: 400ms, initialDelay: 0s }]\n",
    );
    let lifesign = |arguments: &[&str]| {
        let output = place.lifesign(&[arguments, &["--config", "agent.yaml"]].concat());
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    };
    let paused = lifesign(&["pause", "web-*", "--why", "a new disk", "--for", "1h"]);
    assert_eq!(paused, (Some(0), String::new()));
    let agent = place.agent();
    let line = eventually("it is paused", 10, || {
        let (_, status) = lifesign(&["status"]);
        status.lines().find(|line| line.contains("paused")).map(str::to_owned)
    });
    assert!(line.contains("by the operator until 20") && line.ends_with("a new disk"), "{line}");
    assert!(lifesign(&["pauses"]).1.contains("web-*"));
    let (code, said) = lifesign(&["resume", "web-1"]);
    assert_eq!(
        (code, said.as_str()),
        (Some(2), "`web-1` is not paused; there are pauses of `web-*`\n")
    );
    assert_eq!(lifesign(&["resume", "web-*"]).0, Some(0));
    eventually("it is asked again", 10, || {
        let (_, status) = lifesign(&["status"]);
        (!status.contains("paused")).then_some(())
    });
    drop(agent);
}
