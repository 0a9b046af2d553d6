//! Nothing that was announced is lost.

use super::lab::Guest;
use super::programs::{Place, bytes, eventually, only};
use lifesign::base::id::Digest;
use std::path::PathBuf;

/// The bundles that wait in the spool. How a file begins is told in `src/spool/mod.rs`.
fn bundles(place: &Place) -> Vec<PathBuf> {
    const BUNDLE: u8 = 2;
    let Ok(entries) = std::fs::read_dir(place.path("state/spool")) else { return Vec::new() };
    let files = entries.map(|entry| entry.unwrap().path());
    let parcels = files.filter(|path| path.extension().is_some_and(|ending| ending == "parcel"));
    parcels
        .filter(|path| std::fs::read(path).is_ok_and(|file| file.get(8) == Some(&BUNDLE)))
        .collect()
}

const HEADER: usize = 88;

#[test]
fn a_bundle_survives_the_death_of_both_sides() {
    let guest = Guest::up("survive", &["--sysrq", "all"]);
    let place = Place::new(&guest);
    // No controller: the evidence is sealed and finds nobody.
    let agent = place.agent();
    eventually("the app is healthy", 20, || {
        place.agent_page("/metrics")?.contains("answer=\"alive\"").then_some(())
    });
    guest.break_it("mutex-deadlock");
    let bundle = eventually("a sealed bundle in the spool", 60, || bundles(&place).pop());
    agent.kill();
    let spooled = bytes(&bundle).split_off(HEADER);

    // The agent comes back while the guest still hangs, and the controller comes up for the first time,
    // is killed as soon as anything may have reached it, and comes back.
    let agent = place.agent();
    let controller = place.controller();
    eventually("the headline has arrived", 30, || (!place.incidents().is_empty()).then_some(()));
    controller.kill();
    agent.kill();
    let _agent = place.agent();
    let _controller = place.controller();

    let incident = eventually("the evidence is stored", 60, || place.diagnosed());
    let id = incident["incident"].as_str().unwrap();
    let exported = place.path("exported");
    let export = place.ask_controller(&[
        "export",
        id,
        exported.to_str().unwrap(),
        "--config",
        "controller.yaml",
    ]);
    assert!(export.status.success(), "{}", String::from_utf8_lossy(&export.stderr));
    let received = bytes(&exported);
    assert_eq!(Digest::of(&received), Digest::of(&spooled), "stored is what was sealed");
    eprintln!("sealed and stored: {} bytes, SHA-256 {}", received.len(), Digest::of(&received));

    eventually("the spool is empty", 60, || bundles(&place).is_empty().then_some(()));
    std::thread::sleep(std::time::Duration::from_secs(5));
    only(place.incidents());
}

#[test]
fn an_agent_killed_while_it_collects_says_so() {
    let guest = Guest::up("midway", &["--sysrq", "all"]);
    let place = Place::new(&guest);
    let _controller = place.controller();
    let agent = place.agent();
    eventually("the app is healthy", 20, || {
        place.agent_page("/metrics")?.contains("answer=\"alive\"").then_some(())
    });
    guest.break_it("mutex-deadlock");
    eventually("the headline", 60, || (!place.incidents().is_empty()).then_some(()));
    agent.kill();
    let _agent = place.agent();
    let incident = eventually("what there is", 60, || place.diagnosed());
    let id = incident["incident"].as_str().unwrap();
    let shown = place.ask_controller(&["show", id, "--config", "controller.yaml"]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    // The kill may have come a moment too late to interrupt anything.
    let interrupted = shown.contains("the agent was stopped before the evidence was sealed");
    assert!(interrupted || shown.contains("lab_order_ab"), "{shown}");
    only(place.incidents());
}

#[test]
fn an_app_that_was_restarted_while_nobody_watched_is_not_the_one_that_hung() {
    let mut guest = Guest::up("meantime", &[]);
    let place = Place::new(&guest);
    let _controller = place.controller();
    let agent = place.agent();
    guest.break_it("vmm-stopped");
    eventually("an incident", 60, || place.diagnosed());
    agent.kill();
    guest.restart(&[]);
    let agent = place.agent();
    eventually("it ends by the restart", 20, || {
        agent.log().contains("the incident is over").then_some(())
    });
    assert!(agent.log().contains(": it was restarted"), "{}", agent.log());
    eventually("the controller knows", 20, || only(place.incidents())["ended_unix_ms"].as_i64());
}
