//! A guest whose console says nothing panics, and its kernel leaves a record of it with the host.

use super::lab::Guest;
use super::programs::Place;
use serde_json::Value;

/// Nor does anybody read its memory, which would tell as well.
const UNSEEN: &str = "scenario: unseen\nprobe: [disk: { written-within: 10m }]\n\
    diagnose: [host, qmp: [status, cpus, registers], records]\n";

#[test]
fn a_panic_that_no_console_tells_of_is_found_in_the_hosts_file() {
    // Kernels since 6.6 pack their log in parts of another size.
    for kernel in ["6.1", "6.12"] {
        let guest = Guest::up("records", &["--erst", "--kernel", kernel]);
        panics(&guest, "erst", "acpi-erst");
    }
}

#[test]
fn without_that_file_it_is_found_among_the_firmwares_variables() {
    panics(&Guest::up("variables", &["--uefi"]), "VARS.fd", "the firmware's variables");
}

/// `file` has what the kernel left, which is called `store`.
fn panics(guest: &Guest, file: &str, store: &str) {
    let place = Place::empty();
    let binding = place.binding(guest);
    // No file of it is named: it is found by what the hypervisor was started with. And no console.
    let unseen = binding
        .lines()
        .filter(|line| !line.contains("console"))
        .map(|line| format!("{line}\n"))
        .collect::<String>();
    place.write_agent_config(&format!("{unseen}    scenarios: [unseen]\n"));
    place.write_scenario("unseen", UNSEEN);
    let capture = |name: &str| {
        let out = place.lifesign(&["capture", "web", "--out", name, "--config", "agent.yaml"]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let shown = place.lifesign(&["show", name, "--json", "--config", "agent.yaml"]);
        serde_json::from_slice::<Value>(&shown.stdout).unwrap()
    };
    let step = |bundle: &Value| {
        let steps = bundle["bundle"]["steps"].as_array().unwrap().clone();
        steps.into_iter().find(|step| step["name"] == "records").unwrap()
    };
    let before = capture("before");
    assert_eq!(step(&before)["outcome"], "done", "{before:#}");
    assert_eq!(step(&before)["reason"], "the kernel left no record");

    guest.break_it("panic");
    let left = std::fs::read(guest.file(file)).unwrap();
    let after = capture("after");
    assert_eq!(step(&after)["outcome"], "done", "{after:#}");
    assert_eq!(after["diagnosis"]["class"], "panic", "{after:#}");
    // Nobody saw the guest well before, so only what its CPUs show speaks for its being of now.
    assert_eq!(after["diagnosis"]["confidence"], "medium", "{after:#}");
    let facts = after["diagnosis"]["facts_for"].as_array().unwrap();
    let first = facts[0].as_str().unwrap();
    assert!(first.starts_with(&format!("the kernel's record in {store} of 20")), "{first}");
    assert!(first.contains("reports a panic"), "{first}");
    let shown = place.lifesign(&["show", "after", "--config", "agent.yaml"]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("From the record of 20") && shown.contains("] Kernel panic"), "{shown}");
    assert!(guest.lives());
    assert_eq!(std::fs::read(guest.file(file)).unwrap(), left, "it was only read");
}
