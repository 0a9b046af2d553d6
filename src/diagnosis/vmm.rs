//! The hypervisor's process and its run state: what the guest has no part in.

use super::say::quoted;
use super::{Blame, Class, Confidence, Finding, disk, host, log};
use crate::evidence::Evidence;
use crate::evidence::qmp::machine::{Event, What};

/// The process ended.
pub(super) fn gone(evidence: &Evidence) -> Option<Finding> {
    let host =
        evidence.host.as_ref().filter(|host| matches!(host.state.as_str(), "" | "Z" | "X"))?;
    let mut finding = Finding::new(Class::VmmGone, Blame::Vmm, Confidence::High);
    finding.title = "the hypervisor's process is gone".to_owned();
    finding.facts_for.push(match host.pid {
        0 => "the host has no process for this app".to_owned(),
        pid => format!("the host has no live process {pid} any more"),
    });
    host::ended(host, &mut finding);
    Some(finding)
}

/// The process was stopped by a signal or a debugger.
pub(super) fn stopped(evidence: &Evidence) -> Option<Finding> {
    let host = evidence.host.as_ref().filter(|host| matches!(host.state.as_str(), "T" | "t"))?;
    let mut finding = Finding::new(Class::VmmStopped, Blame::Vmm, Confidence::High);
    let by = if host.state == "t" { "by a debugger" } else { "by a signal" };
    finding.title = format!("the hypervisor's process is stopped {by}");
    finding.facts_for.push(format!("process {} is in state {} on the host", host.pid, host.state));
    Some(finding)
}

/// The hypervisor does not run the guest. What it says when the guest panicked is no judgement of
/// this kind: the panic is.
pub(super) fn paused(evidence: &Evidence) -> Option<Finding> {
    let qmp = evidence.qmp.as_ref()?;
    let status = qmp.status.as_deref()?;
    let title = match status {
        "paused" => "the guest is paused",
        "suspended" => "the guest sleeps: it suspended itself",
        "prelaunch" | "preconfig" => "the guest was not started yet",
        "debug" => "the guest is stopped by a debugger",
        "io-error" => "the guest is paused, because its disk failed on the host",
        "internal-error" => "the guest is stopped, because the hypervisor failed",
        // It stands still as its kernel left it, and memory has what that said last.
        "shutdown" if log::of_memory(evidence).and_then(log::last_words).is_some() => return None,
        "shutdown" => "the guest has shut down",
        "inmigrate" => "the guest is on its way from another host",
        "postmigrate" => "the guest has moved to another host",
        _ => return None,
    };
    let blame =
        if matches!(status, "suspended" | "shutdown") { Blame::Unknown } else { Blame::Vmm };
    let mut finding = Finding::new(Class::Paused, blame, Confidence::High);
    finding.subject = status.to_owned();
    finding.title = title.to_owned();
    finding.facts_for.push(format!("the run state in the hypervisor is {status}"));
    finding.facts_for.extend(disk::stopped_for(qmp));
    if let Some(host) = evidence.host.as_ref().filter(|_| status == "io-error") {
        host::disk_failed(host, &mut finding);
    }
    Some(finding)
}

/// That the guest stopped to feed its watchdog.
pub(super) fn watchdog(evidence: &Evidence) -> Option<String> {
    let ran_out = |event: &&Event| matches!(&event.what, What::Watchdog(_));
    let last = evidence.qmp.as_ref()?.events.iter().rfind(ran_out)?;
    let What::Watchdog(action) = &last.what else { return None };
    let action = quoted(action);
    Some(format!("the guest's watchdog ran out, and the hypervisor's answer was: {action}"))
}

#[cfg(test)]
mod tests {
    use super::super::{Class, diagnose};
    use crate::evidence::Evidence;
    use crate::evidence::qmp::machine::{Event, What};
    use crate::evidence::qmp::{Apic, Cpu, Qmp, Registers};

    #[test]
    fn a_machine_that_was_not_started_is_no_panic() {
        let apic = Some(Apic { enabled: false, timer_pending: false });
        let cpu = Cpu { samples: vec![Registers::default(); 2], apic, ..Cpu::default() };
        let judged = |status: &str| {
            let qmp =
                Qmp { status: Some(status.to_owned()), cpus: vec![cpu.clone()], ..Qmp::default() };
            diagnose(&Evidence { qmp: Some(qmp), ..Evidence::default() })
        };
        assert_eq!(judged("running").class, Class::Panic);
        let unstarted = judged("prelaunch");
        assert_eq!((unstarted.class, &unstarted.subject[..]), (Class::Paused, "prelaunch"));
    }

    fn after(events: Vec<What>) -> Evidence {
        let event = |what| Event { name: "EVENT".to_owned(), at_s: None, what };
        let events = events.into_iter().map(event).collect();
        let qmp = Qmp { status: Some("running".to_owned()), events, ..Qmp::default() };
        Evidence { qmp: Some(qmp), ..Evidence::default() }
    }

    #[test]
    fn a_guest_that_told_of_its_panic_has_panicked_until_it_begins_anew() {
        let told = || What::Panicked("run".to_owned());
        let panicked = diagnose(&after(vec![told()]));
        assert_eq!(panicked.class, Class::Panic);
        assert_eq!(panicked.facts_for, ["the guest told the hypervisor that it panicked"]);
        let booted = vec![told(), What::Reset("guest-reset".to_owned())];
        assert_eq!(diagnose(&after(booted)).class, Class::Silent);
    }

    #[test]
    fn a_watchdog_that_ran_out_is_told() {
        let diagnosis = diagnose(&after(vec![What::Watchdog("none".to_owned()), What::Stop]));
        let said = "the guest's watchdog ran out, and the hypervisor's answer was: none";
        assert_eq!(
            (diagnosis.class, &diagnosis.facts_for[..]),
            (Class::Silent, &[said.to_owned()][..])
        );
    }
}
