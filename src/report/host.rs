//! The host in that second, in a dozen lines.

use super::{safe, table};
use crate::base::time::Spoken;
use crate::evidence::Evidence;
use crate::evidence::host::{Cgroup, Disk, Host, Image, Memory, Pressure, Tap, Thread, Zone};
use std::time::Duration;

/// Threads that are shown: those that run the guest's CPUs, and whoever did or wanted something.
const THREADS: usize = 12;

/// Lines of a kind.
const LINES: usize = 8;

/// Nothing, if the host was not looked at.
pub(super) fn text(evidence: &Evidence) -> String {
    let Some(host) = &evidence.host else { return String::new() };
    if host.state.is_empty() {
        return format!("process {} is gone\n", host.pid) + &around(host);
    }
    let mut text = format!(
        "process {} is in state {}, with {} of memory; in {} its threads did:\n",
        host.pid,
        safe(&host.state),
        bytes(host.rss_bytes),
        Spoken(Duration::from_millis(host.sampled_ms))
    );
    text.push_str(&threads(evidence, host));
    text + &around(host)
}

fn threads(evidence: &Evidence, host: &Host) -> String {
    let vcpu = |thread: &Thread| {
        let cpus = evidence.qmp.iter().flat_map(|qmp| &qmp.cpus);
        let mut cpus = cpus.filter(|cpu| cpu.tid == Some(thread.tid));
        cpus.next().map(|cpu| cpu.index.to_string())
    };
    let mut shown: Vec<&Thread> = host.threads.iter().collect();
    // What sleeps as it should is told last.
    shown.sort_by_key(|thread| {
        let sleeps = matches!(thread.state.as_str(), "S" | "I");
        let wanted_ms = std::cmp::Reverse(host.wanted_ms(thread));
        (vcpu(thread).is_none(), sleeps, wanted_ms, thread.tid)
    });
    let row = |thread: &&Thread| {
        let took = |ms| Spoken(Duration::from_millis(ms)).to_string();
        [
            thread.tid.to_string(),
            vcpu(thread).unwrap_or_default(),
            safe(&thread.name),
            safe(&thread.state),
            took(thread.cpu_ms),
            took(host.wanted_ms(thread).saturating_sub(thread.cpu_ms)),
            thread.cpu.map(|cpu| cpu.to_string()).unwrap_or_default(),
            safe(&thread.affinity),
            safe(&thread.waits_in),
        ]
    };
    let rows: Vec<[String; 9]> = shown.iter().take(THREADS).map(row).collect();
    let head =
        ["THREAD", "VCPU", "NAME", "STATE", "RAN", "WAITED", "ON CPU", "ALLOWED", "WAITS IN"];
    let mut text = if rows.is_empty() { String::new() } else { table(head, &rows) };
    if shown.len() > THREADS {
        text.push_str(&format!("and {} more\n", shown.len() - THREADS));
    }
    text
}

/// What is around the process, a line each.
fn around(host: &Host) -> String {
    let mut lines: Vec<String> = Vec::new();
    lines.extend(host.cgroups.iter().take(LINES).map(group));
    lines.extend(host.images.iter().take(LINES).map(image));
    lines.extend(host.disks.iter().take(LINES).map(disk));
    lines.extend(host.taps.iter().take(LINES).map(tap));
    lines.extend(host.memory.as_ref().map(memory));
    lines.extend(load(host));
    lines.extend(host.zones.iter().max_by_key(|zone| zone.celsius).map(zone));
    lines.extend(host.slowed.iter().take(LINES).map(|slowed| {
        let (allowed, highest) = (slowed.allowed_khz / 1000, slowed.highest_khz / 1000);
        format!("CPUs {} are held at {allowed} of {highest} MHz", safe(&slowed.cpus))
    }));
    lines.extend(host.told().iter().map(|told| format!("kernel log {}", safe(&told.line))));
    lines.extend(
        host.missing.iter().take(LINES).map(|missing| format!("not had: {}", safe(missing))),
    );
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn group(group: &Cgroup) -> String {
    let mut parts = Vec::new();
    if let Some(percent) = group.cpu_percent {
        parts.push(format!(
            "{percent} % of a CPU, used up in {} of {} periods",
            group.throttled_periods, group.periods
        ));
    }
    let of = |limit: Option<String>| limit.map(|limit| format!(" of {limit}")).unwrap_or_default();
    if let Some(used) = group.memory_bytes {
        let limit = of(group.memory_limit_bytes.map(bytes));
        parts.push(format!("{}{limit} of memory", bytes(used)));
    }
    if group.oom_kills > 0 {
        parts.push(format!("{} killed for memory", group.oom_kills));
    }
    if let Some(tasks) = group.tasks {
        parts
            .push(format!("{tasks}{} tasks", of(group.tasks_limit.map(|limit| limit.to_string()))));
    }
    parts.extend(group.frozen.then(|| "frozen".to_owned()));
    parts.extend(pressure(group.pressure));
    if parts.is_empty() {
        parts.push("without limits that we see".to_owned());
    }
    format!("control group {}: {}", safe(&group.path), parts.join("; "))
}

fn image(image: &Image) -> String {
    let mut line = format!("image {}", safe(&image.path));
    if !image.disk.is_empty() {
        line.push_str(&format!(" on {}", safe(&image.disk)));
    }
    if !image.file_system.is_empty() {
        line.push_str(&format!(" ({})", safe(&image.file_system)));
    }
    if let Some(left) = image.available_bytes {
        line.push_str(&format!(", {} left", bytes(left)));
    }
    line
}

fn disk(disk: &Disk) -> String {
    let took = disk.latency_us.map(|us| format!(" of {}.{} ms", us / 1000, us % 1000 / 100));
    format!(
        "disk {}: {} requests completed{}, {} then {} in flight",
        safe(&disk.name),
        disk.completed,
        took.unwrap_or_default(),
        disk.in_flight_before,
        disk.in_flight
    )
}

fn tap(tap: &Tap) -> String {
    let mut place = vec![safe(&tap.state)];
    place.push(if tap.bridge.is_empty() {
        String::new()
    } else {
        format!("in {}", safe(&tap.bridge))
    });
    place.retain(|word| !word.is_empty());
    let place = if place.is_empty() { String::new() } else { format!(" ({})", place.join(", ")) };
    let (between, total) = (tap.between, tap.total);
    format!(
        "network {}{place}: packets from the guest {} ({} in all), to it {} ({}), not taken {} ({})",
        safe(&tap.name),
        between.from_guest,
        total.from_guest,
        between.to_guest,
        total.to_guest,
        between.dropped,
        total.dropped
    )
}

fn memory(memory: &Memory) -> String {
    let (left, all) = (bytes(memory.available_bytes), bytes(memory.total_bytes));
    let swap = match memory.swap_bytes {
        0 => String::new(),
        swap => format!(", {} of {} swap", bytes(memory.swap_free_bytes), bytes(swap)),
    };
    format!("memory {left} of {all} available{swap}")
}

fn load(host: &Host) -> Option<String> {
    let mut parts = Vec::new();
    if !host.load.is_empty() {
        let cpus =
            if host.cpus.is_empty() { String::new() } else { format!(" on CPUs {}", host.cpus) };
        parts.push(safe(&format!("load {}{cpus}", host.load)));
    }
    parts.extend(pressure(host.pressure));
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// The part of the last ten seconds in which tasks waited.
fn pressure(pressure: Pressure) -> Option<String> {
    let percent = |permille: Option<u32>, what: &str| {
        permille.map(|permille| format!("{what} {}.{} %", permille / 10, permille % 10))
    };
    let all = [
        percent(pressure.cpu_permille, "CPU"),
        percent(pressure.io_permille, "I/O"),
        percent(pressure.memory_permille, "memory"),
    ];
    let known: Vec<String> = all.into_iter().flatten().collect();
    (!known.is_empty()).then(|| format!("pressure: {}", known.join(", ")))
}

fn zone(zone: &Zone) -> String {
    let limit = zone.limit_celsius.map(|limit| format!(", limit {limit}")).unwrap_or_default();
    format!("heat {} {} °C{limit}", safe(&zone.name), zone.celsius)
}

/// `12.3 GiB`
fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["GiB", "MiB", "KiB", "B"];
    let unit = UNITS.iter().enumerate().map(|(at, unit)| (1 << (30 - 10 * at), *unit));
    let (size, unit) = unit.clone().find(|(size, _)| bytes >= *size).unwrap_or((1_u64, "B"));
    match (bytes % size).saturating_mul(10) / size {
        0 => format!("{} {unit}", bytes / size),
        tenths => format!("{}.{tenths} {unit}", bytes / size),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::host::{Packets, Slowed};
    use crate::evidence::qmp::{Cpu, Qmp};

    fn host() -> Host {
        let thread = |tid, state: &str, cpu_ms| Thread {
            tid,
            name: "qemu-system-x86".to_owned(),
            state: state.to_owned(),
            before: state.to_owned(),
            cpu_ms,
            wait_ms: 10,
            cpu: Some(1),
            affinity: "0-1".to_owned(),
            waits_in: if state == "S" { "futex_do_wait" } else { "" }.to_owned(),
            ..Thread::default()
        };
        Host {
            pid: 3116,
            state: "S".to_owned(),
            rss_bytes: 38_682_624,
            sampled_ms: 1000,
            threads: vec![thread(3116, "S", 0), thread(3120, "R", 300), thread(3121, "D", 0)],
            ..Host::default()
        }
    }

    fn surrounded() -> Host {
        Host {
            cgroups: vec![
                Cgroup {
                    path: "/eve-user-apps/web".to_owned(),
                    cpu_percent: Some(200),
                    periods: 10,
                    throttled_periods: 3,
                    memory_bytes: Some(500 << 20),
                    memory_limit_bytes: Some(512 << 20),
                    oom_kills: 1,
                    tasks: Some(4),
                    ..Cgroup::default()
                },
                Cgroup { path: "/\x1b[2J".to_owned(), ..Cgroup::default() },
            ],
            images: vec![Image {
                path: "/persist/web.qcow2".to_owned(),
                file_system: "ext4".to_owned(),
                disk: "sda9".to_owned(),
                available_bytes: Some(1 << 20),
            }],
            disks: vec![Disk {
                name: "sda9".to_owned(),
                completed: 10,
                latency_us: Some(3456),
                in_flight_before: 1,
                in_flight: 3,
            }],
            taps: vec![Tap {
                name: "nbu1x1".to_owned(),
                state: "up".to_owned(),
                bridge: "bn1".to_owned(),
                total: Packets { from_guest: 900, to_guest: 800, dropped: 7 },
                between: Packets { from_guest: 0, to_guest: 2, dropped: 7 },
            }],
            memory: Some(Memory {
                total_bytes: 4 << 30,
                available_bytes: 3 << 29,
                ..Memory::default()
            }),
            load: "4.78 3.12 2.06".to_owned(),
            cpus: "0-1".to_owned(),
            pressure: Pressure {
                cpu_permille: Some(907),
                io_permille: Some(3),
                ..Pressure::default()
            },
            zones: vec![Zone {
                name: "x86_pkg_temp".to_owned(),
                celsius: 91,
                limit_celsius: Some(100),
            }],
            slowed: vec![Slowed {
                cpus: "0 1".to_owned(),
                allowed_khz: 800_000,
                highest_khz: 2_400_000,
            }],
            log: vec![
                "[   12.000000] eth0: link is up".to_owned(),
                "[   13.000000] I/O error, dev sda, sector 7".to_owned(),
            ],
            missing: vec!["stacks in the host's kernel: not permitted".to_owned()],
            ..host()
        }
    }

    #[test]
    fn the_host_is_told_in_a_dozen_lines() {
        let cpu = Cpu { index: 0, tid: Some(3120), ..Cpu::default() };
        let qmp = Some(Qmp { cpus: vec![cpu], ..Qmp::default() });
        let evidence = Evidence { host: Some(surrounded()), qmp, ..Evidence::default() };
        insta::assert_snapshot!(text(&evidence));
    }

    #[test]
    fn what_is_not_known_takes_no_line() {
        let of = |host| text(&Evidence { host: Some(host), ..Evidence::default() });
        assert_eq!(of(host()).lines().count(), 5);
        assert_eq!(of(Host { pid: 7, ..Host::default() }), "process 7 is gone\n");
        assert_eq!(text(&Evidence::default()), "");
        let mut many = host();
        many.threads = (0..40).map(|tid| Thread { tid, ..Thread::default() }).collect();
        assert!(of(many).ends_with("and 28 more\n"));
    }

    #[test]
    fn sizes_are_spoken() {
        let all = [0, 1023, 1024, 1536, 5 << 20, (5 << 30) + (1 << 29)].map(bytes);
        assert_eq!(all, ["0 B", "1023 B", "1 KiB", "1.5 KiB", "5 MiB", "5.5 GiB"]);
    }
}
