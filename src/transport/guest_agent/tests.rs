//! The probe against made-up agents on real sockets. `tests/all` has a real one.

use super::{Channel, Program, Question, probe};
use crate::base::rung::{Answer, Finding, Rung};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;
use tokio::time::Instant;

/// An agent for one connection: what it writes before anything, and what it says to each command.
fn agent(
    path: &Path,
    before: &'static [u8],
    mut reply: impl FnMut(&str, &Value) -> Option<Value> + Send + 'static,
) -> std::thread::JoinHandle<()> {
    let listener = UnixListener::bind(path).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(before).unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap());
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
            let line = std::mem::take(&mut line);
            let json = line.strip_prefix(b"\xff").unwrap_or(&line);
            let request: Value = serde_json::from_slice(json).unwrap();
            let name = request["execute"].as_str().unwrap();
            answer(&mut stream, name, &request, &mut reply);
        }
    })
}

fn answer(
    stream: &mut UnixStream,
    name: &str,
    request: &Value,
    reply: &mut impl FnMut(&str, &Value) -> Option<Value>,
) {
    let Some(value) = reply(name, &request["arguments"]) else { return };
    if name == "guest-sync-delimited" {
        stream.write_all(b"\xff").unwrap();
    }
    // The probe may have left.
    let _ = writeln!(stream, "{value}");
}

fn greets(name: &str, arguments: &Value) -> Option<Value> {
    (name == "guest-sync-delimited").then(|| json!({ "return": arguments["id"] }))
}

fn ask(path: Option<&Path>, channel: Channel, question: &Question) -> Vec<Finding> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let deadline = Instant::now() + Duration::from_millis(400);
        probe(path, channel, question, deadline).await
    })
}

fn uptime() -> Question {
    let program = Program { path: "uptime".to_owned(), arguments: Vec::new() };
    Question::Run { program, expect: "load average".to_owned() }
}

fn answers(findings: &[Finding]) -> Vec<(Rung, Answer)> {
    findings.iter().map(|finding| (finding.rung, finding.answer)).collect()
}

#[test]
fn stale_replies_do_not_confuse_it() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("qga");
    let stale = b"turn\": {}}\n{\"return\": {\"pid\": 3}}\n\xff{\"return\": 1}\n";
    let agent = agent(&path, stale, |name, arguments| {
        greets(name, arguments).or_else(|| Some(json!({ "return": {} })))
    });
    let findings = ask(Some(&path), Channel::Open, &Question::Ping);
    assert_eq!(answers(&findings), [(Rung::Userspace, Answer::Alive)], "{findings:?}");
    agent.join().unwrap();
}

#[test]
fn silence_refutes_only_who_has_the_channel_open() {
    for (channel, expected) in [
        (Channel::Open, Answer::Dead),
        (Channel::Closed, Answer::Unknown),
        (Channel::Held, Answer::Unknown),
        (Channel::Unknown, Answer::Unknown),
    ] {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("qga");
        let _listener = UnixListener::bind(&path).unwrap();
        let findings = ask(Some(&path), channel, &Question::Ping);
        assert_eq!(answers(&findings), [(Rung::Userspace, expected)], "{channel:?}");
    }
}

#[test]
fn a_channel_that_is_not_there_says_nothing() {
    let findings = ask(None, Channel::Unknown, &Question::Ping);
    assert_eq!(answers(&findings), [(Rung::Userspace, Answer::Unknown)]);
    assert!(findings[0].reason.contains("org.qemu.guest_agent.0"), "{findings:?}");
    let findings = ask(Some(Path::new("/nowhere")), Channel::Open, &Question::Ping);
    assert_eq!(answers(&findings), [(Rung::Userspace, Answer::Unknown)]);
}

#[test]
fn what_a_program_says_is_judged() {
    let expected = [(Rung::Service, Answer::Dead), (Rung::Userspace, Answer::Alive)];
    let cases = [
        // "load average: 0.1\n"
        (
            json!({"exited": true, "exitcode": 0, "out-data": "bG9hZCBhdmVyYWdlOiAwLjEK"}),
            &expected[1..],
        ),
        (json!({"exited": true, "exitcode": 0, "out-data": "bm8K"}), &expected[..]),
        (json!({"exited": true, "exitcode": 1, "err-data": "bm8K"}), &expected[..]),
        (json!({"exited": true, "signal": 9}), &expected[..]),
        (json!({"exited": true, "exitcode": "many", "out-data": {}}), &expected[..]),
        (json!({"exited": false}), &expected[..]),
    ];
    for (status, expected) in cases {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("qga");
        let shown = status.to_string();
        let agent = agent(&path, b"", move |name, arguments| match name {
            "guest-exec" => Some(json!({ "return": { "pid": 7 } })),
            "guest-exec-status" => Some(json!({ "return": status })),
            _ => greets(name, arguments),
        });
        let findings = ask(Some(&path), Channel::Open, &uptime());
        assert_eq!(answers(&findings), expected, "{shown}: {findings:?}");
        agent.join().unwrap();
    }
}

#[test]
fn a_command_that_is_switched_off_is_not_a_dead_guest() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("qga");
    let agent = agent(&path, b"", |name, arguments| {
        let error =
            json!({ "error": { "class": "CommandNotFound", "desc": "it is\x1b[2J disabled" } });
        greets(name, arguments).or(Some(error))
    });
    let findings = ask(Some(&path), Channel::Open, &uptime());
    let expected = [(Rung::Service, Answer::Unknown), (Rung::Userspace, Answer::Alive)];
    assert_eq!(answers(&findings), expected);
    assert!(findings[0].reason.ends_with("it is\\u{1b}[2J disabled"), "{findings:?}");
    agent.join().unwrap();
}
