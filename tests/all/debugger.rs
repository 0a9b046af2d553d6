//! Guests that stand still for a debugger: what is read of them is what is read of one that runs, and they
//! go on whoever is killed meanwhile.
//!
//! `hack/test` kills a few, `hack/kills` hundreds.

use super::lab::Guest;
use super::programs::{Place, eventually};
use lifesign::base::time::Clock;
use lifesign::hypervisor::qmp::Monitor;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::sleep;
use std::time::Duration;

/// Of the agent, and of all.
const KILLS: usize = 2;

/// Longer than a stop may last, on a host that is busy as well.
const AT_MOST: Duration = Duration::from_secs(5);

const SCENARIO: &str = "scenario: NAME
summary: Reads the guest's kernel.
period: 1h
probe:
  - vcpu: {}
diagnose:
  - NAME
";

/// Who is killed.
#[derive(Clone, Copy, Debug)]
enum Killed {
    Agent,
    Holder,
    Both,
    /// While somebody else has the monitor.
    HolderUnseen,
}

/// The guest's run state, by a monitor that nobody else uses.
fn status(guest: &Guest) -> String {
    let asked = async {
        let mut monitor = Monitor::connect(&guest.file("lab.qmp")).await.unwrap();
        monitor.ask("query-status", json!({})).await.unwrap()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(asked)["status"].as_str().unwrap().to_owned()
}

fn bind(place: &Place, guest: &Guest, scenario: &str) {
    let binding = place.binding(guest).replace("consent: input", "consent: pause");
    let (head, _) = binding.split_once("    scenarios:").unwrap();
    place.write_agent_config(&format!("{head}    scenarios: [{scenario}]\n"));
    std::fs::remove_dir_all(place.path("own")).ok();
    place.write_scenario(scenario, &SCENARIO.replace("NAME", scenario));
}

/// Captures by one step; the step, and the verdict.
fn captured(place: &Place, guest: &Guest, step: &str) -> (Value, Value) {
    bind(place, guest, step);
    let out = place.lifesign(&["capture", "web", "--out", step, "--config", "agent.yaml"]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let shown = place.lifesign(&["show", step, "--json", "--config", "agent.yaml"]);
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    let (step, verdict) = (&shown["bundle"]["steps"][0], &shown["diagnosis"]);
    eprintln!("{step}\n{}", verdict["title"]);
    (step.clone(), verdict.clone())
}

/// The process that holds the guest of this place.
fn holder(place: &Place) -> Option<Pid> {
    let own = place.path("").display().to_string();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let mut processes = processes.filter_map(|process| {
        let line = std::fs::read_to_string(process.path().join("cmdline")).ok()?;
        let words: Vec<&str> = line.split('\0').collect();
        let is_it = words.get(1) == Some(&"hold");
        // It has the directory of the agent that started it.
        let cwd = std::fs::read_link(process.path().join("cwd")).ok()?;
        let pid = process.file_name().to_str()?.parse().ok()?;
        (is_it && cwd == Path::new(&own)).then(|| Pid::from_raw(pid))
    });
    processes.next()
}

/// Kills while the guest stands still, so long after it was stopped for the first time or a little later, and
/// tells how long the guest took to run again.
fn kill_one(place: &Place, guest: &Guest, killed: Killed, after: Duration) -> Duration {
    let capturing = place.begin(&["capture", "web", "--config", "agent.yaml"]);
    let note = place.path("state/undo");
    eventually("it is stopped", 30, || {
        let noted = std::fs::read_dir(&note).ok()?.next().is_some();
        (noted || status(guest) == "paused").then_some(())
    });
    sleep(after);
    let stands = || (status(guest) == "paused").then_some(());
    (0..1_000).find_map(|_| stands()).expect("it stands still every quarter of a second");
    sleep(after / 8);
    let stolen = match killed {
        Killed::HolderUnseen => Some(UnixStream::connect(guest.file("qmp")).unwrap()),
        Killed::Agent | Killed::Holder | Killed::Both => None,
    };
    if !matches!(killed, Killed::Agent) {
        // First, so that nobody lets the guest go in order.
        kill(holder(place).unwrap(), Signal::SIGKILL).unwrap();
    }
    let begun = Clock::now();
    let mut capturing = Some(capturing);
    if matches!(killed, Killed::Agent | Killed::Both) {
        capturing.take().unwrap().kill();
    }
    let agent = matches!(killed, Killed::Both).then(|| place.agent());
    eventually("it runs", 30, || (status(guest) == "running").then_some(()));
    let took = Clock::now().since(begun);
    drop(stolen);
    eventually("all is as it was", 30, || {
        let is_noted = std::fs::read_dir(&note).is_ok_and(|notes| notes.count() > 0);
        let has_stub = guest.file("lifesign.gdb").exists();
        (!is_noted && !has_stub && self::holder(place).is_none()).then_some(())
    });
    assert_eq!(status(guest), "running");
    drop((capturing, agent));
    took
}

/// The same numbers every time, in milliseconds, over all of a capture.
fn moments() -> impl Iterator<Item = u64> {
    let next = |seed: &u64| Some(seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
    std::iter::successors(Some(7), next).map(|seed| (seed >> 33) % 800)
}

/// Looks at the guest far more often than any manager does, until `over`.
fn states(guest: &Guest, over: &AtomicBool) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    while !over.load(Relaxed) {
        seen.insert(status(guest));
        sleep(Duration::from_millis(20));
    }
    seen
}

#[test]
fn a_guest_that_stands_still_shows_what_it_shows_while_it_runs_and_goes_on() {
    let kills = std::env::var("LIFESIGN_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    let guest = Guest::up("debugged", &[]);
    let place = Place::new(&guest);
    guest.break_it("mutex-deadlock");
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watching = scope.spawn(|| states(&guest, &over));
        let tested = std::panic::catch_unwind(|| {
            let (_, running) = captured(&place, &guest, "memory");
            let (step, standing) = captured(&place, &guest, "debugger");
            // On a host that is busy the last look may be cut short.
            assert!(["done", "partial"].map(Value::from).contains(&step["outcome"]), "{step}");
            assert_eq!(running["class"], "deadlock", "{running}");
            for key in ["class", "title", "signature"] {
                assert_eq!(standing[key], running[key], "{standing:#}");
            }
            let kinds = [Killed::Agent, Killed::Both, Killed::HolderUnseen, Killed::Holder];
            for ((number, killed), after) in (0..kills).zip(kinds.iter().cycle()).zip(moments()) {
                let took = kill_one(&place, &guest, *killed, Duration::from_millis(after));
                eprintln!(
                    "kill {number}: {killed:?} after {after} ms, it ran again after {took:?}"
                );
                assert!(took < AT_MOST, "{took:?}");
            }
        });
        over.store(true, Relaxed);
        let known = ["paused", "running"].map(str::to_owned);
        assert_eq!(watching.join().unwrap(), BTreeSet::from(known));
        tested.unwrap();
    });
}
