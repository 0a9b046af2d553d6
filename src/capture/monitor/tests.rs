//! Against monitors that answer from a table: old ones, slow ones, and those to which things happen.

use super::*;
use crate::base::limits;
use crate::evidence::qmp::Qmp;
use serde_json::{Value, json};
use std::path::PathBuf;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixListener;

/// What a monitor answers; nothing is a command that it does not know.
type Answers = fn(&str, &Value) -> Option<Value>;

/// Serves one client after the other, taking `pause` for each answer.
async fn serve(listener: UnixListener, answers: Answers, pause: Duration) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (read, mut write) = stream.into_split();
        let mut lines = BufReader::new(read).lines();
        write.write_all(b"{\"QMP\": {}}\r\n").await.unwrap();
        while let Ok(Some(line)) = lines.next_line().await {
            let asked: Value = serde_json::from_str(&line).unwrap();
            let name = asked["execute"].as_str().unwrap();
            sleep(pause).await;
            let event =
                json!({ "event": "RESET", "data": { "guest": true, "reason": "guest-reset" } });
            let mut reply = json!({ "id": asked["id"] });
            match (name, answers(name, &asked["arguments"])) {
                ("qmp_capabilities", _) => reply["return"] = json!({}),
                (_, Some(value)) => reply["return"] = value,
                (_, None) => {
                    reply["error"] =
                        json!({ "desc": format!("The command {name} has not been found") })
                }
            }
            let text = match name {
                "query-status" => format!("{event}\r\n{reply}\r\n"),
                _ => format!("{reply}\r\n"),
            };
            if write.write_all(text.as_bytes()).await.is_err() {
                break;
            }
        }
    }
}

async fn asked(
    queries: &[Query],
    answers: Answers,
    pause: Duration,
) -> (Vec<String>, Qmp, Vec<String>) {
    let directory = tempfile::tempdir().unwrap();
    let path: PathBuf = directory.path().join("qmp");
    let server = serve(UnixListener::bind(&path).unwrap(), answers, pause);
    let Capture { artifacts, steps } = tokio::select! {
        capture = ask(Some(&path), queries, Vec::new()) => capture,
        () = server => unreachable!("it serves for ever"),
    };
    let told = |step: &StepReport| format!("{}: {} {}", step.name, step.outcome, step.reason);
    let data = &artifacts[0].data;
    let Replies(replies) = serde_json::from_slice(data).unwrap();
    let commands = replies.into_iter().map(|reply| reply.command).collect();
    (steps.iter().map(told).collect(), Qmp::read(data).unwrap(), commands)
}

/// QEMU 5, without a balloon, with one disk.
fn old(command: &str, _: &Value) -> Option<Value> {
    match command {
        "query-status" => Some(json!({ "status": "running", "running": true })),
        "query-block" => {
            Some(json!([{ "device": "vda", "io-status": "ok", "inserted": { "iops": 5 } }]))
        }
        "query-blockstats" => Some(json!([{ "device": "vda", "stats": { "rd_operations": 7 } }])),
        "query-chardev" | "query-cpus-fast" | "qom-list" => Some(json!([])),
        "query-migrate" | "query-version" | "query-kvm" | "query-name" => Some(json!({})),
        "query-memory-size-summary" => Some(json!({ "base-memory": 1 << 28 })),
        "qom-get" => Some("pc-i440fx-5.0-machine".into()),
        "human-monitor-command" => Some("".into()),
        _ => None,
    }
}

#[tokio::test]
async fn an_old_one_has_less_to_tell_and_that_is_no_failure() {
    let (steps, qmp, _) = asked(&Query::ALL, old, Duration::ZERO).await;
    insta::assert_snapshot!(steps.join("\n"));
    assert_eq!((qmp.disks["vda"].len(), qmp.disks["vda"][0].in_flight), (2, None));
    assert_eq!(qmp.drives["vda"].limits["iops"], 5);
    assert_eq!((qmp.machine.memory_bytes, qmp.balloon), (Some(1 << 28), None));
}

#[tokio::test]
async fn what_happens_meanwhile_is_kept() {
    let (_, qmp, commands) = asked(&[Query::Status], old, Duration::ZERO).await;
    assert_eq!(commands, ["query-status", "event RESET"]);
    assert_eq!(qmp.events.len(), 1);
}

/// As many disks as anybody has, with as many queues.
fn large(command: &str, arguments: &Value) -> Option<Value> {
    let path = |n: usize| format!("/machine/peripheral/vd{n}/virtio-backend");
    match command {
        "query-blockstats" => {
            Some((0..200).map(|n| json!({ "qdev": path(n), "stats": {} })).collect())
        }
        "x-query-virtio" => {
            Some((0..200).map(|n| json!({ "name": "virtio-blk", "path": path(n) })).collect())
        }
        "x-query-virtio-queue-status" => {
            Some(json!({ "inuse": 1, "queue-index": arguments["queue"], "vring-num": 256 }))
        }
        _ => old(command, arguments),
    }
}

#[tokio::test]
async fn no_list_is_asked_through_to_its_end() {
    let (_, qmp, commands) = asked(&[Query::Blocks, Query::Virtio], large, Duration::ZERO).await;
    let queues = commands.iter().filter(|command| command.contains("queue-status")).count();
    assert!((1..=2 * limits::QMP_QUEUES).contains(&queues), "{queues}");
    assert_eq!((qmp.disks.len(), qmp.disks["vd0"][0].in_flight), (limits::DISKS, Some(16)));
}

/// A disk of its own, one of another process, a network card, a balloon.
fn shared(command: &str, arguments: &Value) -> Option<Value> {
    match command {
        "query-blockstats" => Some(json!([{ "qdev": "/own", "stats": {} }])),
        "x-query-virtio" => Some(json!([
            { "name": "virtio-blk", "path": "/own" },
            { "name": "virtio-blk", "path": "/elsewhere" },
            { "name": "virtio-net", "path": "/net" },
            { "name": "virtio-balloon", "path": "/balloon" },
        ])),
        "x-query-virtio-status" | "x-query-virtio-queue-status" => Some(json!({})),
        _ => old(command, arguments),
    }
}

#[tokio::test]
async fn what_another_process_serves_is_not_asked() {
    let (_, _, commands) = asked(&[Query::Blocks, Query::Virtio], shared, Duration::ZERO).await;
    let about = |path: &str| commands.iter().filter(|command| command.contains(path)).count();
    assert_eq!((about("/elsewhere"), about("/net")), (0, 0), "{commands:?}");
    assert!(about("/own") > 0 && about("/balloon") > 0, "{commands:?}");
}

#[tokio::test]
async fn a_slow_one_is_left_in_time_with_what_it_told() {
    let begun = tokio::time::Instant::now();
    let (steps, qmp, _) = asked(&Query::ALL, large, Duration::from_millis(100)).await;
    // Two connections of a second each, and the pause between them.
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert_eq!(qmp.status.as_deref(), Some("running"));
    assert_eq!(steps.len(), Query::ALL.len());
    let last = steps.last().unwrap();
    assert!(last.starts_with("qmp screenshot: silent"), "{last}");
}
