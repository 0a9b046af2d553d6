//! What the hypervisor tells besides its CPUs: the machine, its disks and lines, what happened.

use super::{safe, table};
use crate::base::time::{Spoken, Timestamp};
use crate::evidence::qmp::Qmp;
use crate::evidence::qmp::disks::{Disk, Drive, short};
use crate::evidence::qmp::machine::{Balloon, Channel, Event, Machine, Virtio, What};
use std::collections::BTreeMap;

/// Devices that tell of a failure, or keep what the kernel says of it, by how their kinds begin.
const WATCHERS: [&str; 6] = ["pvpanic", "i6300esb", "ib700", "diag288", "acpi-erst", "vmcoreinfo"];

/// Lines of a kind; the others are counted.
const LINES: usize = 32;

/// Nothing, if no more than the CPUs was asked for.
pub(super) fn text(qmp: &Qmp) -> String {
    let mut rows: Vec<(&str, String)> = Vec::new();
    let state = qmp.status.iter().map(|status| ("run state", safe(status)));
    rows.extend(machine(&qmp.machine).map(|said| ("machine", said)));
    rows.extend(qmp.migration.iter().map(|status| ("migration", safe(status))));
    rows.extend(qmp.balloon.as_ref().map(|it| ("balloon", balloon(it))));
    rows.extend(watchers(&qmp.devices).map(|said| ("watchers", said)));
    rows.extend(qmp.channels.iter().map(|it| ("line", channel(it))).take(LINES));
    rows.extend(qmp.virtio.iter().filter_map(|(path, it)| Some(("virtio", virtio(path, it)?))));
    rows.extend(qmp.events.iter().map(|it| ("event", event(it))));
    if rows.is_empty() && qmp.disks.is_empty() {
        return String::new();
    }
    let rows = state.chain(rows);
    let lines: String = rows.map(|(name, said)| format!("{name:<10} {said}\n")).collect();
    let disks = disks(&qmp.disks, &qmp.drives);
    if lines.is_empty() || disks.is_empty() { lines + &disks } else { format!("{lines}\n{disks}") }
}

fn machine(machine: &Machine) -> Option<String> {
    let Machine { version, kind, kvm, name, memory_bytes } = machine;
    let kvm = kvm.map(|kvm| if kvm { "with KVM" } else { "without KVM" }.to_owned());
    let words = [
        name.as_deref().map(safe),
        kind.as_deref().map(safe),
        memory_bytes.map(mebibytes),
        version.as_deref().map(|version| format!("QEMU {}", safe(version))),
        kvm,
    ];
    let words: Vec<String> = words.into_iter().flatten().collect();
    (!words.is_empty()).then(|| words.join(", "))
}

fn balloon(balloon: &Balloon) -> String {
    let Balloon { actual_bytes, told_at_s, stats } = balloon;
    let leaves = actual_bytes.map_or(String::new(), |it| format!("leaves {}; ", mebibytes(it)));
    let Some(at) = told_at_s else { return format!("{leaves}the guest was never asked for more") };
    let said = |(name, value): (&String, &u64)| {
        let name = safe(name.strip_prefix("stat-").unwrap_or(name));
        let is_size = name.ends_with("memory") || name.ends_with("caches");
        format!("{name} {}", if is_size { mebibytes(*value) } else { value.to_string() })
    };
    let stats: Vec<String> = stats.iter().map(said).collect();
    format!("{leaves}{}: {}", at_time(*at), stats.join(", "))
}

/// Whether the VM has what would have told of a panic or a hang by itself.
fn watchers(devices: &[(String, String)]) -> Option<String> {
    let watches = |kind: &str| WATCHERS.iter().any(|begin| kind.starts_with(begin));
    let found = devices.iter().map(|(_, kind)| safe(kind)).filter(|kind| watches(kind));
    let found: Vec<String> = found.collect();
    let none = || "none: neither pvpanic nor a watchdog nor acpi-erst".to_owned();
    (!devices.is_empty()).then(|| if found.is_empty() { none() } else { found.join(", ") })
}

fn channel(channel: &Channel) -> String {
    let open = if channel.open { "open" } else { "not opened by the guest" };
    format!("{}: {open}, {}", safe(&channel.label), safe(&channel.to))
}

/// A device that is well and has completed all is not worth a line.
fn virtio(path: &str, device: &Virtio) -> Option<String> {
    let mut said = Vec::new();
    if device.started == Some(false) {
        said.push("no driver runs it".to_owned());
    }
    if device.broken == Some(true) {
        said.push("the guest broke its protocol".to_owned());
    }
    let busy = device.queues.iter().filter(|(_, queue)| queue.in_use > 0);
    said.extend(busy.map(|(index, queue)| format!("queue {index} holds {}", queue.in_use)));
    let name = safe(short(path));
    (!said.is_empty()).then(|| format!("{name} ({}): {}", safe(&device.kind), said.join(", ")))
}

fn event(event: &Event) -> String {
    let at = event.at_s.map_or(String::new(), |at| format!("{} ", at_time(at)));
    let name = safe(&event.name);
    let said = match &event.what {
        What::DiskError { disk, operation, action, reason } => {
            let [disk, operation] = [safe(disk), safe(operation)];
            format!("the disk {disk} failed a {operation} ({}): {}", safe(action), safe(reason))
        }
        What::Watchdog(then) | What::Panicked(then) => format!("then: {}", safe(then)),
        What::Reset(why) | What::Shutdown(why) => format!("why: {}", safe(why)),
        What::Stop | What::Resume => String::new(),
        What::Other(data) => safe(&data.to_string()),
    };
    format!("{at}{name} {said}").trim_end().to_owned()
}

fn disks(disks: &BTreeMap<String, Vec<Disk>>, drives: &BTreeMap<String, Drive>) -> String {
    let row = |(name, looks): (&String, &Vec<Disk>)| {
        let last = looks.last()?;
        Some([
            safe(name),
            last.reads.to_string(),
            last.writes.to_string(),
            last.failed.to_string(),
            last.in_flight.map_or("not known".to_owned(), |count| count.to_string()),
            last.idle.map_or("never used".to_owned(), |idle| Spoken(idle).to_string()),
            remarks(last, drives.get(name)),
        ])
    };
    let rows: Vec<[String; 7]> = disks.iter().filter_map(row).collect();
    if rows.is_empty() {
        return String::new();
    }
    table(["DISK", "READS", "WRITES", "FAILED", "IN FLIGHT", "IDLE", "REMARKS"], &rows)
}

fn remarks(disk: &Disk, drive: Option<&Drive>) -> String {
    let mut said = Vec::new();
    if let Some(drive) = drive {
        said.extend(drive.status.iter().filter(|status| *status != "ok").map(|it| safe(it)));
        said.extend(
            drive.limits.iter().map(|(name, limit)| format!("limit {}={limit}", safe(name))),
        );
    }
    let slowest = disk.slowest.map(|slow| format!("a request took {} or more", Spoken(slow)));
    said.extend(slowest);
    said.join(", ")
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

fn at_time(seconds: u64) -> String {
    let ms = i64::try_from(seconds.saturating_mul(1000)).unwrap_or(i64::MAX);
    Timestamp::from_millis(ms).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::qmp::machine::Queue;
    use crate::evidence::recorded::MONITOR;
    use std::time::Duration;

    #[test]
    fn a_machine_with_one_of_everything() {
        let mut qmp = Qmp::read(MONITOR).unwrap();
        let serial = qmp.virtio.values_mut().find(|device| device.kind == "virtio-serial").unwrap();
        serial.started = Some(true);
        serial.queues.insert(3, Queue { in_use: 128, not_taken: 0 });
        let disk = qmp.disks.get_mut("drive0").unwrap().last_mut().unwrap();
        (disk.in_flight, disk.idle) = (Some(4), Some(Duration::from_secs(99)));
        let what = What::DiskError {
            disk: "vdb\u{1b}[2J".to_owned(),
            operation: "write".to_owned(),
            action: "report".to_owned(),
            reason: "Input/output error".to_owned(),
        };
        let name = "BLOCK_IO_ERROR".to_owned();
        qmp.events.push(Event { name, at_s: Some(1_700_000_000), what });
        insta::assert_snapshot!(text(&qmp));
    }

    #[test]
    fn who_was_asked_for_nothing_but_cpus_says_nothing() {
        let status = Some("running".to_owned());
        assert_eq!(text(&Qmp { status, ..Qmp::default() }), "");
    }
}
