//! A dump of a guest's memory that the device keeps comes to the controller when it is asked for.

use super::programs::{DEVICE, Place, bytes, eventually};
use lifesign::base::limits;
use lifesign::base::time::{Clock, Timestamp};
use lifesign::spool::kept::{Facts, Kept, Quota};
use std::io::Write;
use std::path::PathBuf;

const MIB: usize = 1 << 20;

/// An app that nobody can reach, and a controller that may have dumps or not.
fn bindings(dumps: &str) -> String {
    format!(
        "  - name: web\n    uuid: 0f8fad5b-d9cb-469f-a165-70867728950e\n    qmp: nowhere\n    \
         scenarios: []\ncontroller: {{ certificate: controller.pem, dumps: {dumps} }}\n"
    )
}

/// A dump in the store of a device, as a capture leaves it there.
fn keep(place: &Place, content: &[u8]) {
    let quota = Quota { bytes: Some(1 << 30), dumps: limits::KEPT_DUMPS };
    let kept = Kept::open(&place.path("state/dumps"), quota, 0).unwrap();
    let begun = kept.begin("web-1".parse().unwrap(), content.len() as u64).unwrap();
    begun.file().write_all(content).unwrap();
    let format = "kdump-zlib".to_owned();
    let taken = Timestamp::from_millis(1_780_272_000_000);
    begun.finish(Facts { app: "web".to_owned(), taken, format, ram: 1 << 28 }).unwrap();
}

/// `dumps WORDS`: what it printed, and whether all was well.
fn dumps(place: &Place, words: &[&str]) -> (bool, String) {
    let words = [&["dumps"], words, &["--config", "controller.yaml"]].concat();
    let output = place.ask_controller(&words);
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

fn lists(place: &Place, what: &str) {
    eventually(what, 60, || dumps(place, &["list"]).1.contains(what).then_some(()));
}

/// Waits until so much of the one dump is here.
fn has_come(place: &Place, least: usize) {
    eventually("a part of the dump", 60, || {
        let home = std::fs::read_dir(place.path("data/dumps").join(DEVICE)).ok()?;
        let files: Vec<PathBuf> = home.map(|entry| entry.unwrap().path()).collect();
        let part = files.iter().find(|path| path.extension().is_some_and(|end| end == "part"))?;
        (std::fs::metadata(part).ok()?.len() >= least as u64).then_some(())
    });
}

#[test]
fn a_dump_comes_on_request_and_survives_the_death_of_both_sides() {
    let place = Place::empty();
    place.write_agent_config(&bindings("deny"));
    // Nothing in it repeats within a slice, so that no byte is taken for another.
    let content: Vec<u8> =
        (0..24 * MIB as u64 / 8).flat_map(|n| (n ^ n << 40).to_le_bytes()).collect();
    keep(&place, &content);
    let controller = place.controller();
    let agent = place.agent();
    lists(
        &place,
        "web-1  web  2026-06-01T00:00:00Z  24 MiB  on the device, whose config denies it",
    );
    let (well, said) = dumps(&place, &["request", DEVICE, "web-1"]);
    assert!(!well && said.contains("dumps: allow"), "{said}");
    agent.kill();

    place.write_agent_config(&bindings("allow"));
    let agent = place.agent();
    lists(&place, "on the device\n");
    let (well, said) = dumps(&place, &["request", DEVICE, "web-2"]);
    assert!(!well && said.contains("it tells of: web-1"), "{said}");
    let begun = Clock::now();
    assert!(dumps(&place, &["request", DEVICE, "web-1"]).0);
    has_come(&place, 6 * MIB);
    agent.kill();
    let agent = place.agent();
    has_come(&place, 12 * MIB);
    controller.kill();
    let _controller = place.controller();
    lists(&place, "here since");
    eprintln!("asked for, twice killed and here after {:?}", Clock::now().since(begun));

    let (well, said) = dumps(&place, &["save", DEVICE, "web-1", "saved"]);
    assert!(well, "{said}");
    assert!(bytes(&place.path("saved")) == content, "it came byte for byte");
    // What was here when the agent was killed was not sent again.
    let page = place.agent_page("/metrics").unwrap();
    let line = page.lines().find(|line| line.starts_with("lifesign_upload_sent_bytes_total"));
    let sent: usize = line.unwrap().rsplit_once(' ').unwrap().1.parse().unwrap();
    assert!((10 * MIB..20 * MIB).contains(&sent), "{sent} bytes were sent after the kill");
    let (well, said) = dumps(&place, &["cancel", DEVICE, "web-1"]);
    assert!(well, "{said}");
    lists(&place, "on the device\n");

    // Asked for again, and taken back while it comes.
    assert!(dumps(&place, &["request", DEVICE, "web-1"]).0);
    has_come(&place, 2 * MIB);
    assert!(dumps(&place, &["cancel", DEVICE, "web-1"]).0);
    lists(&place, "on the device\n");
    let home = place.path("data/dumps").join(DEVICE);
    eventually("nothing of it is here", 20, || {
        std::fs::read_dir(&home).unwrap().next().is_none().then_some(())
    });
    assert_eq!(agent.stop().0, Some(0));
}
