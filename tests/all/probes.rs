//! Disk, network and vCPU of real guests, whole and broken.

use super::lab::{Guest, root};
use lifesign::base::rung::{Answer, Finding, Rung};
use lifesign::base::time::Clock;
use lifesign::evidence::qmp::disks::{self, Disks};
use lifesign::evidence::qmp::{Qmp, Replies, Reply};
use lifesign::hypervisor::blocks::{Demand, Progress};
use lifesign::hypervisor::qmp::Monitor;
use lifesign::hypervisor::vcpu;
use lifesign::transport::disk::heartbeat::Heartbeat;
use lifesign::transport::network::{Expect, Target, http, tcp};
use serde_json::{Value, json};
use std::process::Command;
use std::time::Duration;
use tokio::time::{Instant, sleep};

const WITHIN: Duration = Duration::from_secs(5);

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn said(finding: &Finding) -> (Answer, Rung) {
    (finding.answer, finding.rung)
}

// === network, through QEMU's user-mode network ===

fn target(guest: &Guest) -> Target<'static> {
    let address = std::fs::read_to_string(guest.file("net")).unwrap();
    Target { address: address.trim().parse().unwrap(), interface: None, nat: true }
}

async fn page(guest: &Guest) -> Finding {
    let question =
        http::Question { path: "/", host: None, tls: None, status: &[200..=499], body: None };
    http::ask(&target(guest), &question, Instant::now() + WITHIN).await.finding
}

async fn port(guest: &Guest) -> Finding {
    tcp::ask(&target(guest), &tcp::Question::Open, Instant::now() + WITHIN).await.finding
}

async fn banner(guest: &Guest) -> Finding {
    let matches = |heard: &[u8]| heard.starts_with(b"HTTP/1.");
    let expect = Expect { said: "HTTP/1.", matches: &matches };
    let question = tcp::Question::Banner { send: b"GET / HTTP/1.0\r\n\r\n", expect };
    tcp::ask(&target(guest), &question, Instant::now() + WITHIN).await.finding
}

// === disk and vCPU, through the monitor ===

async fn disks(guest: &Guest) -> Disks {
    let mut monitor = Monitor::connect(&guest.file("qmp")).await.unwrap();
    let mut disks = disks::disks(&monitor.ask("query-blockstats", json!({})).await.unwrap());
    let virtio = monitor.ask("x-query-virtio", json!({})).await.unwrap();
    for path in disks::queued(&virtio, &disks) {
        for queue in 0.. {
            let which = json!({"path": path, "queue": queue});
            let Ok(status) = monitor.ask("x-query-virtio-queue-status", which).await else { break };
            disks::add_queue(disks.values_mut(), &path, &status);
        }
    }
    disks
}

/// Looks every second until it says so.
async fn disk_becomes(guest: &Guest, writes: bool, wanted: Answer) -> String {
    let mut progress = Progress::default();
    let demand = Demand { disk: Some("virtio-disk0"), within: WITHIN, writes };
    let mut last = String::new();
    for _ in 0..60 {
        let found = progress.judge(&disks(guest).await, &demand, Clock::now());
        assert_eq!(found.rung, Rung::Storage);
        if found.answer == wanted {
            return found.reason;
        }
        last = found.reason;
        sleep(Duration::from_secs(1)).await;
    }
    panic!("its disk is never {wanted}: {last}");
}

async fn sample(guest: &Guest) -> vcpu::Sample {
    let mut monitor = Monitor::connect(&guest.file("qmp")).await.unwrap();
    let pid = monitor.pid().unwrap();
    let mut replies = Replies::default();
    let mut keep = |command: &str, value: Value| {
        replies.0.push(Reply { command: command.to_owned(), after_ms: 0, value, error: None });
    };
    for command in ["query-status", "query-cpus-fast"] {
        keep(command, monitor.ask(command, json!({})).await.unwrap());
    }
    let registers = monitor.ask_human("info registers -a").await.unwrap();
    keep("human-monitor-command info registers -a", registers);
    let qmp = Qmp::read(&replies.to_bytes()).unwrap();
    let cpu = |cpu: &lifesign::evidence::qmp::Cpu| {
        let seen = cpu.samples.last().unwrap();
        let schedstat = format!("/proc/{pid}/task/{}/schedstat", cpu.tid.unwrap());
        vcpu::Cpu {
            index: cpu.index,
            at: seen.rip,
            interrupts_on: seen.interrupts_on(),
            halted: seen.halted,
            busy: vcpu::cpu_time(&std::fs::read_to_string(schedstat).unwrap()),
        }
    };
    let cpus = qmp.cpus.iter().map(cpu).collect();
    vcpu::Sample { at: Clock::now(), status: qmp.status.unwrap(), cpus }
}

async fn samples(guest: &Guest) -> Vec<vcpu::Sample> {
    let mut samples = Vec::new();
    for wait in [0, 2_600, 2_600] {
        sleep(Duration::from_millis(wait)).await;
        samples.push(sample(guest).await);
    }
    samples
}

async fn vcpus(guest: &Guest) -> Finding {
    vcpu::judge(&samples(guest).await)
}

// === the guests ===

#[test]
fn a_healthy_guest_lives_by_every_way_until_its_processes_stop() {
    let guest = Guest::up("probes", &["--disk", "--net"]);
    block_on(async {
        assert_eq!(said(&page(&guest).await), (Answer::Alive, Rung::Service));
        assert_eq!(said(&banner(&guest).await), (Answer::Alive, Rung::Service));
        assert_eq!(said(&port(&guest).await), (Answer::Unknown, Rung::Kernel));
        disk_becomes(&guest, false, Answer::Alive).await;
        assert_eq!(said(&vcpus(&guest).await), (Answer::Alive, Rung::Vcpu));

        guest.break_it("userspace-stopped");
        assert_eq!(said(&page(&guest).await), (Answer::Dead, Rung::Service));
        assert_eq!(said(&banner(&guest).await), (Answer::Dead, Rung::Service));
        assert_eq!(said(&port(&guest).await), (Answer::Unknown, Rung::Kernel));
        // The kernel writes on its own for half a minute.
        let reason = disk_becomes(&guest, true, Answer::Dead).await;
        assert!(reason.starts_with("no disk completed a write for "), "{reason}");
        let idle = disk_becomes(&guest, false, Answer::Unknown).await;
        assert_eq!(idle, "its disks are idle: no write was asked of them");
        assert_eq!(said(&vcpus(&guest).await), (Answer::Alive, Rung::Vcpu));
    });
}

#[test]
fn a_disk_that_hangs_is_told_from_one_that_fails() {
    let guest = Guest::up("probes", &["--disk", "--net"]);
    block_on(async {
        guest.break_it("disk-stall");
        let reason = disk_becomes(&guest, false, Answer::Dead).await;
        assert!(reason.contains("in flight"), "{reason}");
        assert_eq!(said(&page(&guest).await), (Answer::Alive, Rung::Service));
    });
    drop(guest);
    let guest = Guest::up("probes", &["--disk"]);
    block_on(async {
        let mut progress = Progress::default();
        let demand = Demand { disk: None, within: Duration::from_secs(60), writes: false };
        progress.judge(&disks(&guest).await, &demand, Clock::now());
        guest.break_it("io-error");
        let found = progress.judge(&disks(&guest).await, &demand, Clock::now());
        assert_eq!(found.answer, Answer::Dead, "{}", found.reason);
        assert!(found.reason.contains("failed a request"), "{}", found.reason);
    });
}

#[test]
fn cpus_that_take_no_interrupts_are_told_from_a_guest_that_is_paused() {
    let guest = Guest::up("probes", &["--net"]);
    block_on(async {
        guest.break_it("irq-off");
        let seen = samples(&guest).await;
        assert_eq!(vcpu::spinning(&seen), [1], "{seen:?}");
        assert_eq!(vcpu::judge(&seen).answer, Answer::Alive);
    });
    drop(guest);
    let guest = Guest::up("probes", &["--net"]);
    block_on(async {
        guest.break_it("irq-off-all");
        let seen = samples(&guest).await;
        assert_eq!(vcpu::spinning(&seen), [0, 1], "{seen:?}");
        assert_eq!(vcpu::judge(&seen).answer, Answer::Dead, "{seen:?}");
        assert_eq!(said(&banner(&guest).await), (Answer::Dead, Rung::Service));
    });
    drop(guest);
    let guest = Guest::up("probes", &["--net"]);
    block_on(async {
        guest.break_it("paused");
        assert_eq!(said(&vcpus(&guest).await), (Answer::Unknown, Rung::Vcpu));
        assert_eq!(said(&port(&guest).await), (Answer::Unknown, Rung::Kernel));
        assert_eq!(said(&banner(&guest).await), (Answer::Dead, Rung::Service));
    });
}

/// The disk of the lab carries a file system; here the whole of it becomes a heartbeat.
#[test]
fn a_guests_heartbeat_is_seen_to_stop() {
    let guest = Guest::up("probes", &["--disk"]);
    let script = root().join("pkg/guest/lifesign-heartbeat");
    let script = Command::new("base64").arg("-w0").arg(script).output().unwrap().stdout;
    let inside = format!(
        "killall lab-heartbeat; umount /data; echo {} | base64 -d >/tmp/hb; \
         setsid sh /tmp/hb /dev/vda 1 </dev/null >/dev/null 2>&1 &",
        String::from_utf8(script).unwrap()
    );
    let done = Command::new(root().join("hack/lab")).args(["sh", "probes", &inside]).status();
    assert!(done.unwrap().success());
    block_on(async {
        let mut heartbeat = Heartbeat::new(&guest.file("disk.img"), 0);
        for wanted in [Answer::Alive, Answer::Dead] {
            let mut found = heartbeat.ask(WITHIN, Instant::now() + WITHIN).await;
            for _ in 0..30 {
                if found.answer == wanted {
                    break;
                }
                sleep(Duration::from_secs(1)).await;
                found = heartbeat.ask(WITHIN, Instant::now() + WITHIN).await;
            }
            assert_eq!(said(&found), (wanted, Rung::Storage), "{}", found.reason);
            if wanted == Answer::Alive {
                guest.break_it("userspace-stopped");
            }
        }
    });
}
