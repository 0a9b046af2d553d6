//! The ways into real guests, sound and broken: what each of them proves.

use super::lab::Guest;
use lifesign::base::rung::{Answer, Finding, Rung};
use lifesign::base::time::Clock;
use lifesign::hypervisor::qmp::Monitor;
use lifesign::transport::console::{
    Console, Exchange, Focus, Login, Outcome, Report, Script, converse,
};
use lifesign::transport::guest_agent::{self, Channel, Program, Question};
use lifesign::transport::log::{self, BAD_LINES, BadLine, FileTap, Label, Watch, Watcher};
use lifesign::transport::mux::Wiring;
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn talk(guest: &Guest, wiring: Wiring, focus: Focus, script: &Script) -> Report {
    block_on(async {
        let console = Console::open(&guest.file("cons"), wiring).await.unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        converse(console, script, focus, deadline).await.unwrap()
    })
}

fn ask(guest: &Guest, script: &Script) -> Report {
    talk(guest, Wiring::Mux, Focus::AS_FOUND, script)
}

fn script(shell: bool, send: &str, expect: &str) -> Script {
    let exchange = Exchange { send: send.to_owned(), expect: expect.into() };
    Script { login: None, exchanges: vec![exchange], shell }
}

fn with_login(password: &str, send: &str, expect: &str) -> Script {
    let login = Login { user: "lab".to_owned(), password: password.to_owned() };
    Script { login: Some(login), ..script(true, send, expect) }
}

fn answers(findings: &[Finding]) -> Vec<(Rung, Answer)> {
    findings.iter().map(|finding| (finding.rung, finding.answer)).collect()
}

#[test]
fn who_logs_in_on_a_console_logs_out_and_turns_the_focus_back() {
    let guest = Guest::up("login", &["--login"]);
    let good = with_login("open-sesame", "tty", "/dev/hvc0");
    assert_eq!(ask(&guest, &good).outcome, Outcome::Answered);
    // Out again, so that whoever brings no login does not get in.
    assert_eq!(ask(&guest, &script(true, "tty", "/dev")).outcome, Outcome::LoginAsked);
    let refused = ask(&guest, &with_login("sesame", "tty", "/dev"));
    assert_eq!(refused.outcome, Outcome::Refused);
    let other = with_login("open-sesame", "tty", "/dev/ttyS0");
    let report = talk(&guest, Wiring::Mux, Focus::OTHER_OF_TWO, &other);
    assert_eq!(report.outcome, Outcome::Answered);
    assert_eq!(ask(&guest, &good).outcome, Outcome::Answered);
    // Typed a moment too early, it would have been echoed.
    let log = std::fs::read(guest.file("console.log")).unwrap();
    assert!(!log.windows(11).any(|window| window == b"open-sesame"));
}

#[test]
fn a_dead_userspace_behind_an_echo_proves_the_kernel_on_either_wiring() {
    for (wiring, name) in [(Wiring::Mux, "eve"), (Wiring::Plain, "plain")] {
        let guest = Guest::up("echo", &["--wiring", name]);
        let ask = |script: &Script| talk(&guest, wiring, Focus::AS_FOUND, script);
        assert_eq!(ask(&script(true, "uptime", "load average")).outcome, Outcome::Answered);
        assert_eq!(ask(&script(false, "echo hello", "hello")).outcome, Outcome::Answered);
        // A shell that waits for a line lets nothing be echoed but by itself.
        ask(&script(false, "sleep 1000", "never"));
        guest.break_it("userspace-stopped");
        let report = ask(&script(true, "uptime", "load average"));
        let expected = [(Rung::Userspace, Answer::Dead), (Rung::Kernel, Answer::Alive)];
        assert_eq!(answers(&report.findings()), expected, "{report:?}");
    }
}

#[test]
fn a_flood_on_the_console_is_no_death() {
    let guest = Guest::up("flood", &[]);
    guest.break_it("console-flood");
    let report = ask(&guest, &script(true, "uptime", "load average"));
    assert_eq!(report.outcome, Outcome::Answered, "{report:?}");
    let report = ask(&guest, &script(false, "uptime", "never"));
    assert_eq!(report.outcome, Outcome::Flooded, "{report:?}");
}

#[test]
fn a_deadlock_silences_the_console() {
    let guest = Guest::up("locked", &[]);
    guest.break_it("mutex-deadlock");
    let report = ask(&guest, &script(true, "uptime", "load average"));
    assert_eq!(answers(&report.findings())[0], (Rung::Userspace, Answer::Dead), "{report:?}");
}

#[test]
fn what_was_asked_of_a_paused_guest_is_not_answered_to_whoever_asks_next() {
    let guest = Guest::up("late", &[]);
    guest.break_it("paused");
    let report = ask(&guest, &script(true, "echo first", "first"));
    assert_eq!(report.outcome, Outcome::Silent);
    block_on(async {
        let mut monitor = Monitor::connect(&guest.file("qmp")).await.unwrap();
        monitor.ask("cont", json!({})).await.unwrap();
    });
    let report = ask(&guest, &script(true, "echo second", "first"));
    assert_eq!(report.outcome, Outcome::Other { said: "second".to_owned() });
}

#[test]
fn a_guest_agent_answers_until_userspace_is_stopped() {
    let guest = Guest::up("agent", &["--agent"]);
    let ask = |question: &Question| {
        block_on(async {
            let channel = channel(&guest).await;
            let deadline = Instant::now() + Duration::from_secs(3);
            guest_agent::probe(Some(&guest.file("qga")), channel, question, deadline).await
        })
    };
    let run = |path: &str, argument: &str, expect: &str| {
        let arguments = vec!["-c".to_owned(), argument.to_owned()];
        let program = Program { path: path.to_owned(), arguments };
        Question::Run { program, expect: expect.into() }
    };
    let alive = [(Rung::Userspace, Answer::Alive)];
    let service_dead = [(Rung::Service, Answer::Dead), (Rung::Userspace, Answer::Alive)];
    let unknown = [(Rung::Service, Answer::Unknown), (Rung::Userspace, Answer::Alive)];
    assert_eq!(answers(&ask(&Question::Ping)), alive);
    assert_eq!(answers(&ask(&run("sh", "uptime", "load average"))), alive);
    assert_eq!(answers(&ask(&run("sh", "exit 3", ""))), service_dead);
    assert_eq!(answers(&ask(&run("sh", "sleep 20", ""))), service_dead);
    assert_eq!(answers(&ask(&run("/no/such/program", "", ""))), unknown);
    assert_eq!(answers(&ask(&Question::Ping)), alive);
    guest.break_it("userspace-stopped");
    // Twice: what the first one asked is waiting for the second.
    for _ in 0..2 {
        assert_eq!(answers(&ask(&Question::Ping)), [(Rung::Userspace, Answer::Dead)]);
    }
}

/// What the monitor says of the agent's channel.
async fn channel(guest: &Guest) -> Channel {
    let mut monitor = Monitor::connect(&guest.file("qmp")).await.unwrap();
    let devices = monitor.ask("query-chardev", json!({})).await.unwrap();
    let is_ours = |device: &&serde_json::Value| device["label"] == "charagent";
    let device = devices.as_array().unwrap().iter().find(is_ours).unwrap();
    if device["frontend-open"] == true { Channel::Open } else { Channel::Closed }
}

#[test]
fn a_log_tells_of_a_label_and_of_a_panic_without_a_byte_to_the_guest() {
    let guest = Guest::up("told", &[]);
    let mut tap = FileTap::new(&guest.file("console.log"));
    let bad_lines = BAD_LINES.map(|(text, rung)| BadLine { text: text.into(), rung }).to_vec();
    let label = Label { text: "the label".to_owned(), within: Duration::from_secs(60) };
    let watch = Watch { label: Some(label), silence: None, bad_lines };
    let mut watcher = Watcher::new(watch, Clock::now());
    let mut findings = || {
        log::read(&mut tap, &mut watcher, Clock::now());
        watcher.findings(Clock::now())
    };
    // What was logged before says nothing of now.
    assert_eq!(answers(&findings()), [(Rung::Userspace, Answer::Unknown)]);
    ask(&guest, &script(true, "echo the label", "the label"));
    assert_eq!(answers(&findings()), [(Rung::Userspace, Answer::Alive)]);
    guest.break_it("panic");
    let told = findings();
    assert_eq!(answers(&told)[0], (Rung::Kernel, Answer::Dead), "{told:?}");
    assert!(told[0].reason.contains("Kernel panic - not syncing"), "{told:?}");
}
