//! Replies of a real monitor, and rubbish.

use super::*;
use crate::evidence::recorded::bytes;
use proptest::prelude::*;

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
        reply("query-cpus-fast", serde_json::json!([{"cpu-index": 3}, {"cpu-index": -1}, 7])),
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

proptest! {
    #[test]
    fn any_monitor_text_is_read(text in "(CPU#|RIP=|RFL=|CPL=|HLT=|[0-9a-f]{1,20}| |\n|SPIV|IRR\t|236|APIC enabled|for CPU |é){0,60}") {
        let replies = Replies(vec![
            reply("human-monitor-command info registers -a", text.clone().into()),
            reply("human-monitor-command info lapic 1", text.into()),
        ]);
        prop_assert!(Qmp::read(&replies.to_bytes()).is_some());
    }
}
