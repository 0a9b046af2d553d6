//! A guest whose console nobody may hold is heard by EVE's log daemon. The daemon is a stand-in that
//! speaks as the real one is documented to, for that one runs on EVE alone.

use super::lab::root;
use super::programs::{Place, eventually};
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

const DOMAIN: &str = "0f8fad5b-d9cb-469f-a165-70867728950e.3.1";

/// Says the label of the guest every half second, until it is told to be silent.
fn daemon(run: &Path) -> Arc<AtomicBool> {
    let listener = UnixListener::bind(run.join("memlogdq.sock")).unwrap();
    let talks = Arc::new(AtomicBool::new(true));
    let goes_on = Arc::clone(&talks);
    std::thread::spawn(move || {
        while let Ok((client, _)) = listener.accept() {
            let goes_on = Arc::clone(&goes_on);
            std::thread::spawn(move || talk(client, &goes_on));
        }
    });
    talks
}

fn talk(mut client: UnixStream, goes_on: &AtomicBool) {
    let mut mode = [0];
    client.read_exact(&mut mode).unwrap();
    assert_eq!(mode, [2], "the past, and then what comes");
    while goes_on.load(Relaxed) {
        let line =
            format!("{{\"source\":\"guest_vm-{DOMAIN}\",\"msg\":\"root: lifesign-alive\"}}\n");
        if client.write_all(line.as_bytes()).is_err() {
            return;
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

#[test]
fn a_label_is_heard_through_eves_log_daemon() {
    let place = Place::empty();
    let run = place.path("run");
    let copied =
        Command::new("cp").arg("-r").arg(root().join("tests/data/eve-run")).arg(&run).status();
    assert!(copied.unwrap().success());
    let talks = daemon(&run);
    let scenarios = place.path("heard");
    std::fs::create_dir(&scenarios).unwrap();
    let heard = "scenario: heard\nperiod: 1s\ntimeout: 1s\ninitialDelay: 0s\nprobe:\n  \
                 - log: { label: \"lifesign-alive\", within: 5s }\ndiagnose: [host, console]\n";
    std::fs::write(scenarios.join("heard.yaml"), heard).unwrap();
    std::fs::write(
        place.path("bindings.yaml"),
        "bindings: [{ select: { name: \"*\" }, scenarios: [heard] }]\n",
    )
    .unwrap();
    place.write_agent_config("");
    let config = std::fs::read_to_string(place.path("agent.yaml")).unwrap();
    let shipped = format!("scenarios: {}\napps: []\n", root().join("scenarios").display());
    let found = "scenarios: heard\nbindings: bindings.yaml\ndiscover: [eve: run]\n";
    std::fs::write(place.path("agent.yaml"), config.replace(&shipped, found)).unwrap();
    let agent = place.agent();
    let state = |wanted: &str| {
        let output = place.lifesign(&["status", "--config", "agent.yaml"]);
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().any(|line| line.starts_with("web") && line.contains(wanted)).then_some(text)
    };
    eventually("the label is heard", 15, || state("healthy"));
    let output = place.lifesign(&["capture", "--config", "agent.yaml", "web"]);
    let said = String::from_utf8(output.stdout).unwrap();
    let console = said.lines().find(|line| line.starts_with("console ")).unwrap_or(&said);
    assert!(console.contains(" done ") && console.contains("bytes 0 to "), "{said}");
    talks.store(false, Relaxed);
    // What cannot be heard is not silent.
    eventually("the daemon is gone", 15, || state("unknown"));
    drop(agent);
}
