//! The hypervisor's view of the guest.
//!
//! An artifact holds the replies as they came ([`Replies`]); only what is needed is read out of
//! them, tolerantly: a field that is missing or new is no error.

mod monitor;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// QEMU allows 288 vCPUs on a PC, 1024 in newer versions.
const CPUS_KEPT: usize = 1024;

/// Replies as they came, in the order of asking. Answers to human monitor commands are text.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Replies(pub Vec<Reply>);

/// One question and what came back.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Reply {
    /// The command, such as `query-status` or `human-monitor-command info registers -a`.
    pub command: String,
    /// Milliseconds after the first question.
    pub after_ms: u64,
    /// `return`, or null.
    pub value: Value,
    /// `error.desc`, if it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What was read out of the replies.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Qmp {
    /// `running`, `paused`, ..
    pub status: Option<String>,
    /// One per vCPU.
    pub cpus: Vec<Cpu>,
}

/// One vCPU.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cpu {
    /// Its index.
    pub index: u32,
    /// Its thread on the host.
    pub tid: Option<u32>,
    /// Every sample of its registers, in time.
    pub samples: Vec<Registers>,
    /// Its interrupt controller.
    pub apic: Option<Apic>,
}

/// Registers at one moment.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Registers {
    /// Where it is.
    pub rip: u64,
    /// EFLAGS; bit 9 is IF.
    pub flags: u64,
    /// 0 is the kernel, 3 is userspace.
    pub cpl: u8,
    /// Whether it sleeps until an interrupt.
    pub halted: bool,
}

/// A local interrupt controller.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Apic {
    /// A panicked kernel switches it off.
    pub enabled: bool,
    /// Whether the timer's interrupt waits to be served.
    pub timer_pending: bool,
}

impl Replies {
    /// As the data of an artifact.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain data becomes JSON")
    }
}

impl Registers {
    /// Whether it takes interrupts.
    #[must_use]
    pub fn interrupts_on(self) -> bool {
        self.flags & 1 << 9 != 0
    }
}

impl Qmp {
    /// Reads an artifact.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let replies: Replies = serde_json::from_slice(bytes).ok()?;
        let mut qmp = Self::default();
        for reply in &replies.0 {
            qmp.take(reply);
        }
        Some(qmp)
    }

    fn take(&mut self, reply: &Reply) {
        let text = reply.value.as_str().unwrap_or_default();
        let line = reply.command.strip_prefix("human-monitor-command ").unwrap_or_default();
        match reply.command.as_str() {
            "query-status" => {
                let status = reply.value.get("status").and_then(Value::as_str);
                self.status = status.map(str::to_owned).or(self.status.take());
            }
            "query-cpus-fast" => self.take_threads(&reply.value),
            _ if line.starts_with("info registers") => {
                for (index, registers) in monitor::registers(text) {
                    self.with_cpu(index, |cpu| cpu.samples.push(registers));
                }
            }
            _ if line.starts_with("info lapic") => {
                let asked = || line.split(' ').nth(2)?.parse().ok();
                if let Some((index, apic)) = monitor::lapic(text)
                    && let Some(index) = index.or_else(asked)
                {
                    self.with_cpu(index, |cpu| cpu.apic = Some(apic));
                }
            }
            _ => {}
        }
    }

    fn take_threads(&mut self, cpus: &Value) {
        for cpu in cpus.as_array().into_iter().flatten() {
            let field = |name| cpu.get(name).and_then(Value::as_u64)?.try_into().ok();
            if let Some(index) = field("cpu-index") {
                self.with_cpu(index, |cpu| cpu.tid = field("thread-id"));
            }
        }
    }

    /// Changes a CPU, which is made if it is not there.
    fn with_cpu(&mut self, index: u32, change: impl FnOnce(&mut Cpu)) {
        let at = match self.cpus.binary_search_by_key(&index, |cpu| cpu.index) {
            Ok(at) => at,
            Err(_) if self.cpus.len() == CPUS_KEPT => return,
            Err(at) => {
                self.cpus.insert(at, Cpu { index, ..Cpu::default() });
                at
            }
        };
        change(&mut self.cpus[at]);
    }
}

#[cfg(test)]
mod tests;
