//! Captures that are killed at any moment. Whatever they were at, the guest runs on, and nobody who looks
//! every second ever sees it otherwise, unless it stands still for its dump; the keyboard's focus is where it
//! was; what was raised is put back by the next agent at the latest, and what was dumped in part is gone.
//!
//! `hack/test` kills a few, `hack/kills` hundreds.

use super::faults::has_focus;
use super::keys::{level, without};
use super::lab::{Guest, root};
use super::programs::{Place, eventually};
use lifesign::base::time::Clock;
use lifesign::hypervisor::qmp::Monitor;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

/// By the console and through the agent; one dump is killed in any case.
const KILLS: u32 = 2;

/// A scenario that ends with one step.
const LAST: &str = "scenario: NAME\nsummary: s\nprobe: [ { console: { send: \"uptime\", expect: \"load average\" } } ]\n\
                    diagnose: [memory, NAME]\n";

/// A way to capture, and for how long it takes all of it.
struct Way {
    name: &'static str,
    /// All of the agent's config.
    config: String,
    lasts: Duration,
}

/// What a monitor says.
fn ask(monitor: &Path, command: &str) -> Value {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut monitor = Monitor::connect(monitor).await.unwrap();
        monitor.ask(command, json!({})).await.unwrap()
    })
}

fn state(monitor: &Path) -> String {
    ask(monitor, "query-status")["status"].as_str().unwrap().to_owned()
}

/// Looks at the guest as EVE's manager does, every second, until `over`; gives what it saw on which way.
fn states(
    monitor: &Path,
    way: &Mutex<&'static str>,
    over: &AtomicBool,
) -> BTreeSet<(String, String)> {
    let mut seen = BTreeSet::new();
    while !over.load(Relaxed) {
        // A way is left only when the guest runs.
        let way = way.lock().unwrap();
        seen.insert(((*way).to_owned(), state(monitor)));
        drop(way);
        std::thread::sleep(Duration::from_secs(1));
    }
    seen
}

fn files(place: &Place, directory: &str) -> Vec<PathBuf> {
    let files = std::fs::read_dir(place.path(directory)).into_iter().flatten();
    files.map(|file| file.unwrap().path()).collect()
}

fn parts_of_dumps(place: &Place) -> Vec<PathBuf> {
    let mut files = files(place, "state/dumps");
    files.retain(|file| file.extension().is_some_and(|ending| ending == "part"));
    files
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
    let monitor = guest.file("listener.qmp");
    eventually("the guest runs on", 30, || (state(&monitor) == "running").then_some(()));
    if !files(place, "state/undo").is_empty() {
        let agent = place.agent();
        eventually("what was raised is put back", 30, || {
            files(place, "state/undo").is_empty().then_some(())
        });
        drop(agent);
    }
    // Whoever opens the store next removes what nobody writes any more.
    let dumps = place.lifesign(&["dumps", "--config", "agent.yaml"]);
    assert!(dumps.status.success(), "{}", String::from_utf8_lossy(&dumps.stderr));
    assert_eq!(parts_of_dumps(place), Vec::<PathBuf>::new());
    assert_eq!(level(guest), "4");
    assert!(has_focus(guest, "/dev/hvc0"), "the shell has the focus, and nothing half typed");
}

/// All ways: by its console, through its agent, by both; and with what takes more consent.
fn ways(place: &Place, guest: &Guest) -> Vec<Way> {
    let own = place.path("own");
    std::fs::create_dir(&own).unwrap();
    for name in ["dump", "nmi"] {
        let path = own.join(name).with_extension("yaml");
        std::fs::write(path, LAST.replace("NAME", name)).unwrap();
    }
    let shipped = root().join("scenarios");
    std::fs::copy(shipped.join("linux-console.yaml"), own.join("linux-console.yaml")).unwrap();
    let by_console = place.binding(guest);
    let agent = format!("    guest-agent: {}\n", guest.file("qga").display());
    let more = by_console.replace("consent: input", "consent: nmi");
    let ways = [
        ("console", by_console.clone()),
        ("agent", without(&["console", "console-log"], &by_console) + &agent),
        ("both", by_console.clone() + &agent),
        ("dump", more.replace("linux-console", "dump")),
        ("nmi", more.replace("linux-console", "nmi")),
    ];
    let whole = |(name, binding): (&'static str, String)| {
        place.write_agent_config(&binding);
        let config = std::fs::read_to_string(place.path("agent.yaml")).unwrap();
        let config = config.replace(&shipped.display().to_string(), "own");
        std::fs::write(place.path("agent.yaml"), &config).unwrap();
        let begun = Clock::now();
        let captured = place.lifesign(&["capture", "--config", "agent.yaml", "web"]);
        let lasts = Clock::now().since(begun);
        let said = String::from_utf8_lossy(&captured.stdout).into_owned();
        let failed = String::from_utf8_lossy(&captured.stderr);
        assert!(captured.status.success(), "{failed}");
        let of_more = said.lines().find(|line| line.starts_with(&format!("{name} ")));
        assert!(of_more.is_none_or(|line| line.contains(" done ")), "{said}");
        Way { name, config, lasts }
    };
    ways.map(whole).into()
}

/// A capture is killed while its guest stands still.
fn kill_while_it_stands_still(place: &Place, guest: &Guest) {
    let monitor = guest.file("listener.qmp");
    let capturing = place.begin(&["capture", "--config", "agent.yaml", "web"]);
    let deadline = Clock::now() + Duration::from_secs(30);
    while state(&monitor) != "save-vm" {
        assert!(Clock::now() < deadline, "the guest never stood still");
    }
    capturing.kill();
    assert_eq!(state(&monitor), "save-vm", "the hypervisor is not done yet");
    eventually("the guest runs on", 30, || (state(&monitor) == "running").then_some(()));
    assert_eq!(ask(&monitor, "query-dump")["status"], "completed", "it came to its end by itself");
    assert_eq!(parts_of_dumps(place).len(), 1);
}

#[test]
fn a_capture_that_is_killed_leaves_the_guest_as_it_was() {
    let kills = std::env::var("LIFESIGN_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    let options = ["--console", "ttyS0", "--quiet", "--sysrq", "all", "--agent"];
    let guest = Guest::up("killed", &options);
    let place = Place::new(&guest);
    let ways = ways(&place, &guest);
    let (monitor, over) = (guest.file("qmp"), AtomicBool::new(false));
    let current = Mutex::new("none");
    let take = |taken: &Way| {
        *current.lock().unwrap() = taken.name;
        std::fs::write(place.path("agent.yaml"), &taken.config).unwrap();
    };
    std::thread::scope(|scope| {
        let watching = scope.spawn(|| states(&monitor, &current, &over));
        let killed = std::panic::catch_unwind(|| {
            take(ways.iter().find(|way| way.name == "dump").unwrap());
            kill_while_it_stands_still(&place, &guest);
            is_well(&guest, &place);
            for (kill, part) in (0..kills).zip(parts()) {
                let way = &ways[usize::try_from(kill).unwrap() % ways.len()];
                eprintln!("kill {kill}: {}, at {part} millionths of {:?}", way.name, way.lasts);
                take(way);
                kill_one(&place, way.lasts, part);
                is_well(&guest, &place);
            }
        });
        over.store(true, Relaxed);
        let mut seen = watching.join().unwrap();
        seen.remove(&("dump".to_owned(), "save-vm".to_owned()));
        seen.retain(|(_, state)| state != "running");
        assert_eq!(seen, BTreeSet::new());
        killed.unwrap();
    });
}
