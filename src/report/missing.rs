//! What a capture did not bring, and what would make it possible the next time.

use crate::base::text::harmless_line;
use crate::evidence::report::{Outcome, StepReport};
use std::collections::BTreeMap;

/// A remedy a line, with the steps that it would help.
pub(super) fn text(steps: &[StepReport]) -> String {
    let mut remedies: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let is_read = steps.iter().any(|step| step.name == "memory" && step.outcome == Outcome::Done);
    for step in steps {
        // What its memory shows, a kernel need not be asked for.
        if is_read && step.outcome == Outcome::Silent {
            continue;
        }
        if let Some(remedy) = remedy(step) {
            remedies.entry(remedy).or_default().push(harmless_line(step.name.as_bytes()));
        }
    }
    remedies.iter().map(|(remedy, steps)| format!("- {}: {remedy}\n", steps.join(", "))).collect()
}

/// What would bring it, if anything is known to.
fn remedy(step: &StepReport) -> Option<String> {
    let said = |words: &str| step.reason.contains(words);
    let kind = step.name.split(' ').next().unwrap_or_default();
    if let Some((_, consent)) = step.reason.split_once("needs the consent `") {
        let consent = harmless_line(consent.trim_end_matches('`').as_bytes());
        return Some(format!("say `consent: {consent}` in the app's binding"));
    }
    let remedy = match (kind, step.outcome) {
        (_, Outcome::Done) => return None,
        ("console", Outcome::Skipped) => {
            "bind the file to which the hypervisor copies the console, as `console-log`"
        }
        ("records", Outcome::Skipped) => {
            "start the VM with the device `acpi-erst`, whose file its kernel writes to when it dies"
        }
        ("host" | "memory" | "qmp", Outcome::Skipped) if said("names no") => {
            "bind the monitor's socket, as `qmp`"
        }
        ("memory", Outcome::Refused) => {
            "run the agent as root, or as the hypervisor's own user where that may trace its processes"
        }
        ("qmp", Outcome::Skipped) if said("has not been found") => "it takes a later QEMU",
        ("sysrq", Outcome::Refused) if said("mask") => {
            "in the guest, say `kernel.sysrq = 1` in /etc/sysctl.d, or give the VM a guest agent"
        }
        ("sysrq", Outcome::Refused) => "it takes a kernel that is built for it",
        ("sysrq", Outcome::Silent) => {
            "a kernel that takes no key tells nothing by itself; let the scenario collect `memory`"
        }
        ("sysrq", Outcome::Partial) if said("log level") => {
            "boot the guest without `quiet`, or give the VM a guest agent"
        }
        ("sysrq", Outcome::Skipped) if said("names no") => {
            "bind the console's socket, as `console`, or give the VM a guest agent"
        }
        ("sysrq", Outcome::Failed) if said("somebody else") => {
            "end the session that holds the console"
        }
        ("dump" | "nmi", Outcome::Skipped) if said("names no") => {
            "bind the monitor's socket, as `qmp`"
        }
        ("dump", Outcome::Refused) if said("`quota`") => {
            "raise `quota` of `dumps` in the agent's config"
        }
        ("dump", Outcome::Refused) if said("must stay free") => {
            "remove what fills the device's disk"
        }
        ("nmi", Outcome::Skipped) if said("somebody else") => {
            "end the session that holds the console"
        }
        ("nmi", Outcome::Silent) if said("was not read") => "let the scenario collect `memory`",
        _ if said("budget of time") => "raise `time` in the scenario's `budget`",
        _ if said("budget of bytes") => "raise `bytes` in the scenario's `budget`",
        _ => return None,
    };
    Some(remedy.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(name: &str, outcome: Outcome, reason: &str) -> StepReport {
        let (name, reason) = (name.to_owned(), reason.to_owned());
        StepReport { name, outcome, reason, took_ms: 0, bytes: 0 }
    }

    #[test]
    fn each_remedy_is_told_once() {
        let mask = "the kernel lives, but its sysrq mask forbids this action";
        let steps = [
            step("host", Outcome::Done, ""),
            step("console", Outcome::Skipped, "the binding names no `console-log`"),
            step("sysrq blocked-tasks", Outcome::Refused, mask),
            step("sysrq task-states", Outcome::Refused, mask),
            step("sysrq memory-usage", Outcome::Skipped, "needs the consent `input`"),
            step("qmp status", Outcome::Silent, "somebody else has it"),
            step("memory", Outcome::Refused, "failed to read /proc/7/mem"),
            step("qmp virtio", Outcome::Skipped, "not available: The command x has not been found"),
            step("qmp balloon", Outcome::Skipped, "not available: No balloon device"),
            step("dump", Outcome::Refused, "2 GiB; raise `quota` of `dumps` in the agent's config"),
            step("nmi", Outcome::Skipped, "needs the consent `nmi`"),
        ];
        insta::assert_snapshot!(text(&steps), @r"
        - console: bind the file to which the hypervisor copies the console, as `console-log`
        - sysrq blocked-tasks, sysrq task-states: in the guest, say `kernel.sysrq = 1` in /etc/sysctl.d, or give the VM a guest agent
        - qmp virtio: it takes a later QEMU
        - dump: raise `quota` of `dumps` in the agent's config
        - memory: run the agent as root, or as the hypervisor's own user where that may trace its processes
        - sysrq memory-usage: say `consent: input` in the app's binding
        - nmi: say `consent: nmi` in the app's binding
        ");
    }

    #[test]
    fn a_kernel_whose_memory_is_read_need_not_answer() {
        let steps = [
            step("sysrq timers", Outcome::Silent, "the kernel did not answer this key"),
            step("memory", Outcome::Done, ""),
        ];
        assert!(text(&steps[..1]).contains("let the scenario collect `memory`"));
        assert_eq!(text(&steps), "");
    }

    #[test]
    fn all_well_is_nothing_to_say() {
        assert_eq!(text(&[step("host", Outcome::Done, "")]), "");
    }
}
