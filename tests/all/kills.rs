//! Captures that are killed at any moment. Whatever they were at, the guest runs on, and nobody who looks
//! every second ever sees it otherwise; the keyboard's focus is where it was; what was raised is put back
//! by the next agent at the latest.
//!
//! `hack/test` kills a few, `hack/kills` hundreds.

use super::faults::has_focus;
use super::keys::{level, without};
use super::lab::Guest;
use super::programs::{Place, eventually};
use lifesign::base::time::Clock;
use lifesign::hypervisor::qmp::Monitor;
use serde_json::json;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

/// One on each way that a capture takes.
const KILLS: u32 = 3;

/// Looks at the guest as EVE's manager does, every second, until `over`; gives what it saw.
fn states(monitor: &Path, over: &AtomicBool) -> BTreeSet<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut seen = BTreeSet::new();
    while !over.load(Relaxed) {
        let status = runtime.block_on(async {
            let mut monitor = Monitor::connect(monitor).await.unwrap();
            monitor.ask("query-status", json!({})).await.unwrap()
        });
        seen.insert(status["status"].as_str().unwrap().to_owned());
        std::thread::sleep(Duration::from_secs(1));
    }
    seen
}

fn notes(place: &Place) -> Vec<PathBuf> {
    let notes = std::fs::read_dir(place.path("state/undo")).into_iter().flatten();
    notes.map(|note| note.unwrap().path()).collect()
}

/// Kills a capture after a part of the time that it takes, in millionths.
fn kill_one(place: &Place, whole: Duration, part: u32) {
    let capturing = place.begin(&["capture", "--config", "agent.yaml", "web"]);
    std::thread::sleep(whole * part / 1_000_000);
    capturing.kill();
}

/// The same numbers every time, in millionths.
fn parts() -> impl Iterator<Item = u32> {
    let next = |seed: &u64| Some(seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
    std::iter::successors(Some(7), next)
        .map(|seed| u32::try_from((seed >> 33) % 1_000_000).unwrap())
}

fn is_well(guest: &Guest, place: &Place) {
    if !notes(place).is_empty() {
        let agent = place.agent();
        eventually("what was raised is put back", 30, || notes(place).is_empty().then_some(()));
        drop(agent);
    }
    assert_eq!(level(guest), "4");
    assert!(has_focus(guest, "/dev/hvc0"), "the shell has the focus, and nothing half typed");
}

#[test]
fn a_capture_that_is_killed_leaves_the_guest_as_it_was() {
    let kills = std::env::var("LIFESIGN_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    let options = ["--console", "ttyS0", "--quiet", "--sysrq", "all", "--agent"];
    let guest = Guest::up("killed", &options);
    let place = Place::new(&guest);
    let by_console = place.binding(&guest);
    let agent = format!("    guest-agent: {}\n", guest.file("qga").display());
    // By its console, through its agent, and by both.
    let ways = [
        by_console.clone(),
        without(&["console", "console-log"], &by_console) + &agent,
        by_console.clone() + &agent,
    ];
    let lasts = ways.each_ref().map(|way| {
        place.write_agent_config(way);
        let begun = Clock::now();
        let captured = place.lifesign(&["capture", "--config", "agent.yaml", "web"]);
        assert!(captured.status.success(), "{}", String::from_utf8_lossy(&captured.stderr));
        Clock::now().since(begun)
    });
    let (monitor, over) = (guest.file("qmp"), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let watching = scope.spawn(|| states(&monitor, &over));
        let killed = std::panic::catch_unwind(|| {
            for (kill, part) in (0..kills).zip(parts()) {
                let way = usize::try_from(kill).unwrap() % ways.len();
                eprintln!("kill {kill}: way {way}, at {part} millionths of {:?}", lasts[way]);
                place.write_agent_config(&ways[way]);
                kill_one(&place, lasts[way], part);
                is_well(&guest, &place);
            }
        });
        over.store(true, Relaxed);
        assert_eq!(watching.join().unwrap(), BTreeSet::from(["running".to_owned()]));
        killed.unwrap();
    });
}
