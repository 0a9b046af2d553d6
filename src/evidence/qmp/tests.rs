//! Replies of a real monitor, and rubbish.

use super::*;
use crate::evidence::recorded::{MONITOR, bytes};
use proptest::prelude::*;

use disks::{add_queue, disks, queued};
use serde_json::json;
use std::time::Duration;

fn reply(command: &str, value: Value) -> Reply {
    Reply { command: command.to_owned(), after_ms: 0, value, error: None }
}

#[test]
fn a_spinning_cpu_is_seen() {
    let qmp = Qmp::read(bytes!("irq-off-6.1", "qmp.json")).unwrap();
    assert_eq!(qmp.status.as_deref(), Some("running"));
    let [_, cpu] = qmp.cpus.as_slice() else { panic!("{:?}", qmp.cpus) };
    assert_eq!((cpu.index, cpu.samples.len(), cpu.tid.is_some()), (1, 2, true));
    assert!(cpu.samples.iter().all(|it| it.cpl == 0 && !it.halted && !it.interrupts_on()));
    assert_eq!(cpu.apic, Some(Apic { enabled: true, timer_pending: true }));
}

#[test]
fn a_panic_switches_the_apics_off() {
    let qmp = Qmp::read(bytes!("panic-6.12", "qmp.json")).unwrap();
    assert!(qmp.cpus.iter().all(|cpu| cpu.apic.is_some_and(|apic| !apic.enabled)));
}

#[test]
fn an_idle_guest_rests() {
    let qmp = Qmp::read(bytes!("refused-6.12", "qmp.json")).unwrap();
    for cpu in &qmp.cpus {
        assert!(cpu.samples.iter().all(|it| it.halted && it.interrupts_on() && it.rip != 0));
        assert_eq!(cpu.apic, Some(Apic { enabled: true, timer_pending: false }));
    }
}

#[test]
fn what_is_not_understood_is_left_out() {
    let replies = Replies(vec![
        reply("query-status", Value::Null),
        reply("query-cpus-fast", json!([{"cpu-index": 3}, {"cpu-index": -1}, 7])),
        reply("human-monitor-command info registers -a", "CPU#x\nRIP=1\nCPU#0\nPC=1".into()),
        reply(
            "human-monitor-command info lapic 3",
            "SPIV\t 0x1ff APIC enabled\nIRR\t 36(level) 2361".into(),
        ),
        reply("of-a-later-version", Value::Bool(true)),
    ]);
    let qmp = Qmp::read(&replies.to_bytes()).unwrap();
    assert_eq!(qmp.status, None);
    let [cpu] = qmp.cpus.as_slice() else { panic!("{:?}", qmp.cpus) };
    assert_eq!((cpu.index, cpu.tid, cpu.samples.len()), (3, None, 0));
    assert_eq!(cpu.apic, Some(Apic { enabled: true, timer_pending: false }));
    assert_eq!(Qmp::read(b"{}"), None);
}

/// As QEMU 7.2 has it.
#[test]
fn replies_become_counters() {
    let stats = json!([
        {"device": "drive-vda", "qdev": "/machine/peripheral/vda/virtio-backend", "node-name": "#block1",
         "stats": {"rd_operations": 13, "wr_operations": 5, "flush_operations": 3, "failed_wr_operations": 1,
                   "failed_unmap_operations": 9, "idle_time_ns": 269_036_786}},
        {"device": "", "qdev": "/machine/peripheral/vdb/virtio-backend", "stats": {"wr_operations": 1}},
        {"device": "", "node-name": "cd", "stats": {}},
        {"device": "", "stats": {}}, {"device": "x"}, 7
    ]);
    let mut disks = disks(&stats);
    assert_eq!(disks.keys().collect::<Vec<_>>(), ["cd", "drive-vda", "vdb"]);
    let virtio = json!([{"name": "virtio-net", "path": "/net"}, {"name": "virtio-blk", "path": "/machine/peripheral/vda/virtio-backend"},
        {"name": "virtio-blk", "path": "/machine/peripheral/served-by-another-process/virtio-backend"}]);
    let queued = queued(&virtio, &disks);
    assert_eq!(queued.len(), 1);
    for _ in 0..2 {
        add_queue(
            disks.values_mut(),
            &queued[0],
            &json!({"inuse": 2, "queue-index": 0, "vring-num": 256}),
        );
    }
    let path = Some(queued[0].clone());
    let idle = Some(Duration::from_nanos(269_036_786));
    let vda = Disk {
        path,
        reads: 13,
        writes: 8,
        failed: 1,
        ended: 31,
        idle,
        in_flight: Some(4),
        slowest: None,
    };
    assert_eq!(disks["drive-vda"], vda);
    assert_eq!(disks["vdb"].in_flight, None);
}

#[test]
fn a_machine_with_one_of_everything_is_read() {
    let qmp = Qmp::read(MONITOR).unwrap();
    let Qmp {
        disks, drives, machine, channels, migration, balloon, devices, virtio, events, ..
    } = qmp;
    insta::assert_debug_snapshot!((disks, drives));
    insta::assert_debug_snapshot!((machine, channels, migration, balloon, devices));
    insta::assert_debug_snapshot!((virtio, events));
}

#[test]
fn a_disk_stalls_only_between_looks_that_both_saw_requests() {
    let look = |ended, in_flight, idle_s| Disk {
        ended,
        in_flight,
        idle: Some(Duration::from_secs(idle_s)),
        ..Disk::default()
    };
    let first = look(7, Some(2), 1);
    assert_eq!(look(7, Some(3), 31).stalled_since(&first), Some(Duration::from_secs(30)));
    for other in
        [look(8, Some(3), 31), look(7, Some(0), 31), look(7, None, 31), look(7, Some(3), 0)]
    {
        assert_eq!(other.stalled_since(&first), None, "{other:?}");
    }
    assert_eq!(look(7, Some(3), 31).stalled_since(&look(7, Some(0), 1)), None);
}

/// As `block-latency-histogram-set` with these boundaries makes QEMU tell it.
#[test]
fn the_slowest_request_is_read_from_histograms() {
    let histogram = |bins| json!({"boundaries": [1_000, 1_000_000_000_u64], "bins": bins});
    let of = |rd, wr| {
        let stats =
            json!({"rd_latency_histogram": histogram(rd), "wr_latency_histogram": histogram(wr)});
        disks(&json!([{"qdev": "/vda", "stats": stats}]))["vda"].slowest
    };
    assert_eq!(of(json!([7, 1, 0]), json!([7, 0, 2])), Some(Duration::from_secs(1)));
    assert_eq!(of(json!([7, 0, 0]), json!([0, 0, 0])), None);
    assert_eq!(of(json!([7, 0, 0, 9]), json!("rubbish")), None);
}

#[test]
fn what_runs_round_or_below_zero_is_no_number_of_requests() {
    let status = |in_use: u64| {
        json!({"queue-index": 0, "inuse": in_use, "vring-num": 256,
        "last-avail-idx": 65_530, "shadow-avail-idx": 4})
    };
    let mut disks = disks(&json!([{"qdev": "/vda", "stats": {}}]));
    add_queue(disks.values_mut(), "/vda", &status(u64::from(u32::MAX)));
    assert_eq!(disks["vda"].in_flight, None);
    let replies = Replies(vec![reply("x-query-virtio-queue-status /vda 0", status(3))]);
    let qmp = Qmp::read(&replies.to_bytes()).unwrap();
    assert_eq!(qmp.virtio["/vda"].queues[&0].not_taken, 10);
}

#[test]
fn events_are_typed_where_they_are_known() {
    let event = |name: &str, data| {
        reply(
            &format!("event {name}"),
            json!({"event": name, "data": data,
        "timestamp": {"seconds": 1_700_000_000, "microseconds": 1}}),
        )
    };
    let error = json!({"device": "", "qom-path": "/machine/peripheral/vdb/virtio-backend",
        "operation": "write", "action": "stop", "nospace": true, "reason": "No space left on device"});
    let replies = Replies(vec![
        event("BLOCK_IO_ERROR", error),
        event("WATCHDOG", json!({"action": "none"})),
        event("RESUME", Value::Null),
        event("NEW_IN_11", json!([1])),
        reply("event", Value::Null),
    ]);
    insta::assert_debug_snapshot!(Qmp::read(&replies.to_bytes()).unwrap().events);
}

/// Some value at most so deep in another one.
fn inside(value: &mut Value, key: usize, depth: usize) -> &mut Value {
    let length = value.as_array().map_or(0, Vec::len) + value.as_object().map_or(0, |it| it.len());
    if depth == 0 || length == 0 {
        return value;
    }
    let within = match value {
        Value::Array(all) => all.get_mut(key % length),
        Value::Object(all) => all.values_mut().nth(key % length),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    };
    inside(within.unwrap(), key, depth - 1)
}

proptest! {
    #[test]
    fn any_monitor_text_is_read(text in "(CPU#|RIP=|RFL=|CPL=|HLT=|[0-9a-f]{1,20}| |\n|SPIV|IRR\t|236|APIC enabled|for CPU |é){0,60}") {
        let replies = Replies(vec![
            reply("human-monitor-command info registers -a", text.clone().into()),
            reply("human-monitor-command info lapic 1", text.into()),
        ]);
        prop_assert!(Qmp::read(&replies.to_bytes()).is_some());
    }

    /// Whatever takes the place of a value, the rest is read.
    #[test]
    fn any_reply_is_read(at in 0_usize..60, key in 0_usize..40, text in "[0-9a-z<>/ ]{0,20}", number: u64) {
        let Replies(mut replies) = serde_json::from_slice(MONITOR).unwrap();
        let count = replies.len();
        let value = inside(&mut replies[at % count].value, key, key % 4);
        *value = [Value::Null, json!(text), json!(number), json!([{}, 1]), json!({"stats": []})][key % 5].clone();
        prop_assert!(Qmp::read(&Replies(replies).to_bytes()).is_some());
    }

    #[test]
    fn any_bytes_are_no_replies_or_some(bytes: Vec<u8>) {
        let replies = serde_json::from_slice::<Replies>(&bytes);
        prop_assert_eq!(Qmp::read(&bytes).is_some(), replies.is_ok());
    }
}
