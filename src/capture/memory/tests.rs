//! Looks that bring something, and looks that bring none, each as its step reports it.

use super::*;
use crate::base::consent::Consent;
use crate::base::step::Step;
use crate::capture::{Budget, capture};
use crate::evidence::memory::Memory;
use crate::kernel::OpenError;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

fn target(qmp: Option<std::path::PathBuf>) -> Target {
    Target { qmp, consent: Consent::Query, ..Target::default() }
}

async fn captured(target: &Target) -> (Outcome, String) {
    let budget = Budget { time: Duration::from_secs(10), bytes: 1 << 20 };
    let captured = capture(target, &[Step::Memory], Vec::new(), budget, &|_| {}).await;
    let [step] = &captured.steps[..] else { panic!("{:?}", captured.steps) };
    assert_eq!((&step.name[..], captured.artifacts.len()), ("memory", 0));
    (step.outcome, step.reason.clone())
}

/// A monitor of this process, which is no hypervisor: its memory has words, but no kernel.
async fn monitor(stream: UnixStream, ram: &[u8], registers: &str) {
    let (mut read, mut write) = stream.into_split();
    let greeting = "{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n";
    write.write_all(greeting.as_bytes()).await.unwrap();
    let mut heard = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(count @ 1..) = read.read(&mut chunk).await {
        heard.extend_from_slice(&chunk[..count]);
        while let Some(end) = heard.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = heard.drain(..=end).collect();
            let command: serde_json::Value = serde_json::from_slice(&line).unwrap();
            let value = answer(&command, ram, registers);
            let reply = serde_json::json!({ "return": value, "id": command["id"] });
            if write.write_all(format!("{reply}\r\n").as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

fn answer(command: &serde_json::Value, ram: &[u8], registers: &str) -> serde_json::Value {
    let line = command["arguments"]["command-line"].as_str().unwrap_or_default();
    match line.split(' ').next().unwrap_or_default() {
        "gpa2hva" => {
            format!("Host virtual address for 0x0 (ram) is {:#x}", ram.as_ptr().addr()).into()
        }
        "info" if line.contains("mtree") => format!(
            "FlatView #0\n AS \"memory\", root: system\n Root memory region: system\n  \
             {:016x}-{:016x} (prio 0, ram): ram KVM\n",
            0,
            ram.len() - 1
        )
        .into(),
        "info" => registers.into(),
        _ if command["execute"] == "query-status" => {
            serde_json::json!({ "running": false, "status": "prelaunch" })
        }
        _ => serde_json::json!({}),
    }
}

#[tokio::test]
async fn nothing_to_ask_is_skipped() {
    let (outcome, reason) = captured(&target(None)).await;
    assert_eq!(outcome, Outcome::Skipped);
    assert!(reason.contains("the binding names no `qmp` socket"), "{reason}");
}

#[tokio::test]
async fn a_monitor_that_is_not_there_is_told() {
    let (outcome, reason) = captured(&target(Some("/nowhere/qmp".into()))).await;
    assert_eq!(outcome, Outcome::Failed);
    assert!(reason.contains("failed to open the monitor /nowhere/qmp"), "{reason}");
}

/// What is told of a guest without a kernel whose CPUs have these registers.
async fn without_kernel(registers: &str) -> (Outcome, String) {
    let place = TempDir::new().unwrap();
    let path = place.path().join("qmp");
    let listener = UnixListener::bind(&path).unwrap();
    let ram = vec![7; 1 << 20];
    let serve = async {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            monitor(stream, &ram, registers).await;
        }
    };
    let target = target(Some(path));
    tokio::select! {
        told = captured(&target) => told,
        () = serve => unreachable!(),
    }
}

#[tokio::test]
async fn a_guest_without_a_kernel_that_is_known_is_told() {
    let (outcome, reason) = without_kernel("").await;
    assert_eq!(outcome, Outcome::Failed);
    assert!(reason.contains("no Linux kernel is found in the guest's memory"), "{reason}");
    let (outcome, reason) = without_kernel("CPU#0\r\nSMM=0 \r\nEFER=0000000000000000\r\n").await;
    assert_eq!(outcome, Outcome::Failed);
    assert!(reason.contains("still in the firmware or a boot loader"), "{reason}");
}

#[test]
fn what_is_not_permitted_is_refused_and_who_is_busy_is_silent() {
    let source = io::ErrorKind::PermissionDenied.into();
    let process = RamError::Process { path: "/proc/1/mem".into(), source };
    assert_eq!(outcome(&GazeError::Ram(process)), Outcome::Refused);
    let gone =
        RamError::Process { path: "/proc/1/maps".into(), source: io::ErrorKind::NotFound.into() };
    assert_eq!(outcome(&GazeError::Ram(gone)), Outcome::Failed);
    let busy = ConnectError::Busy { path: "/qmp".into(), pid: None };
    assert_eq!(outcome(&GazeError::Connect(busy)), Outcome::Silent);
    assert_eq!(outcome(&GazeError::Open(OpenError::NotFound)), Outcome::Failed);
}

#[test]
fn what_was_seen_is_an_artifact_and_doubts_are_told() {
    let brought = |memory, is_whole| brought(Step::Memory, memory, is_whole);
    let small = Memory { release: "6.1".to_owned(), ..Memory::default() };
    let Capture { artifacts, steps } = brought(small.clone(), true);
    assert_eq!(Memory::read(&artifacts[0].data), Some(small));
    assert_eq!((steps[0].outcome, &steps[0].reason[..]), (Outcome::Done, ""));

    let doubt = Memory { doubts: vec!["there was no time".to_owned()], ..Memory::default() };
    let Capture { steps, .. } = brought(doubt, false);
    assert_eq!((steps[0].outcome, &steps[0].reason[..]), (Outcome::Partial, "there was no time"));

    let long = Memory { log: "a line\n".repeat(limits::STEP_BYTES / 7), ..Memory::default() };
    let Capture { artifacts, steps } = brought(long, true);
    assert!(artifacts[0].data.len() <= limits::STEP_BYTES);
    assert_eq!(steps[0].outcome, Outcome::Partial);
    assert!(steps[0].reason.contains("bytes of the log were left out"), "{}", steps[0].reason);
}

#[test]
fn a_budget_of_bytes_leaves_what_memory_tells_best() {
    let memory = Memory { log: "[    1.000000] a line\n".repeat(5_000), ..Memory::default() };
    let artifact = |kind, data| Artifact { kind, name: String::new(), data };
    let mut capture = Capture {
        artifacts: vec![
            artifact(Kind::Memory, memory.to_bytes()),
            artifact(Kind::Sysrq, vec![b'x'; 10_000]),
        ],
        steps: Vec::new(),
    };
    capture.hold_to(40_000);
    let [memory, sysrq] = &capture.artifacts[..] else { panic!() };
    assert!(memory.data.len() + sysrq.data.len() <= 40_000);
    let kept = Memory::read(&memory.data).unwrap();
    assert!(kept.log.len() > 16_000 && kept.log.starts_with("[ "), "{}", kept.log.len());
    assert_eq!(capture.steps.len(), 2);
    let cut = capture.steps.iter().find(|step| step.name == "memory (cut)").unwrap();
    assert_eq!((cut.outcome, cut.bytes), (Outcome::Partial, memory.data.len() as u64));
}
