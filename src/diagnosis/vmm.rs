//! The hypervisor's process and its run state: what the guest has no part in.

use super::{Blame, Class, Confidence, Finding, disk, host};
use crate::evidence::Evidence;

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

#[cfg(test)]
mod tests {
    use super::super::{Class, diagnose};
    use crate::evidence::Evidence;
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
}
