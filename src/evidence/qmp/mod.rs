//! The hypervisor's view of the guest.
//!
//! An artifact holds the replies as they came ([`Replies`]); only what is needed is read out of
//! them, tolerantly: a field that is missing or new is no error.

pub mod disks;
pub mod machine;
mod monitor;

use crate::base::limits;
use disks::{Disk, Drive};
use machine::{Balloon, Channel, Event, Machine, Virtio, What};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// QEMU allows 288 vCPUs on a PC, 1024 in newer versions.
const CPUS_KEPT: usize = 1024;

/// Replies as they came, in the order of asking. Answers to human monitor commands are text.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Replies(pub Vec<Reply>);

/// One question and what came back.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Reply {
    /// The command and what it was asked about, such as `query-status`, `human-monitor-command info
    /// registers -a` or `x-query-virtio-queue-status /machine/peripheral/vda/virtio-backend 0`.
    pub command: String,
    /// Milliseconds after the first question.
    pub after_ms: u64,
    /// `return`, or null.
    pub value: Value,
    /// `error.desc`, if it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Reply {
    /// What the hypervisor told by itself: `name` has no space, `value` is the whole message.
    #[must_use]
    pub fn event(name: &str, value: Value, after_ms: u64) -> Self {
        Self { command: format!("event {name}"), after_ms, value, error: None }
    }
}

/// What was read out of the replies.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Qmp {
    /// `running`, `paused`, ..
    pub status: Option<String>,
    /// One per vCPU.
    pub cpus: Vec<Cpu>,
    /// Every look at its disks, in time.
    pub disks: BTreeMap<String, Vec<Disk>>,
    /// What the hypervisor was told of the disks.
    pub drives: BTreeMap<String, Drive>,
    /// The machine itself.
    pub machine: Machine,
    /// The lines to the guest and to the monitors.
    pub channels: Vec<Channel>,
    /// How far it was moved to another host, by the hypervisor's own word; if it ever was.
    pub migration: Option<String>,
    /// Its balloon, if it has one.
    pub balloon: Option<Balloon>,
    /// Names and kinds of the devices that it was given.
    pub devices: Vec<(String, String)>,
    /// Its virtio devices, by path.
    pub virtio: BTreeMap<String, Virtio>,
    /// What the hypervisor told by itself, in time.
    pub events: Vec<Event>,
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

    /// Whether the guest said that it panicked, and did not begin anew since.
    #[must_use]
    pub fn told_of_panic(&self) -> bool {
        let ends = |event: &&Event| matches!(event.what, What::Panicked(_) | What::Reset(_));
        let last = self.events.iter().rfind(ends);
        self.status.as_deref() == Some("guest-panicked")
            || last.is_some_and(|event| matches!(event.what, What::Panicked(_)))
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
            command => {
                self.take_disks(command, &reply.value);
                self.take_devices(command, &reply.value);
                self.machine.take(command, &reply.value);
            }
        }
    }

    fn take_disks(&mut self, command: &str, value: &Value) {
        match command {
            "query-blockstats" => {
                for (name, disk) in disks::disks(value) {
                    self.disks.entry(name).or_default().push(disk);
                }
            }
            "query-block" => self.drives = disks::drives(value),
            _ => {}
        }
    }

    fn take_devices(&mut self, command: &str, value: &Value) {
        let (question, about) = command.split_once(' ').unwrap_or((command, ""));
        let path = about.split(' ').next().unwrap_or_default();
        match question {
            "query-chardev" => self.channels = Channel::all(value),
            "query-migrate" => {
                self.migration = value.get("status").and_then(Value::as_str).map(str::to_owned);
            }
            "query-balloon" => {
                let actual_bytes = value.get("actual").and_then(Value::as_u64);
                self.balloon = actual_bytes.map(|_| Balloon { actual_bytes, ..Balloon::default() });
            }
            "qom-get" if about.ends_with(" guest-stats") => {
                self.balloon.get_or_insert_default().take_stats(value);
            }
            "qom-list" => {
                let room = limits::QMP_LISTED.saturating_sub(self.devices.len());
                self.devices.extend(machine::devices(value).take(room));
            }
            "x-query-virtio-status" => {
                self.with_virtio(path, |device| device.take_status(value));
            }
            "x-query-virtio-queue-status" => {
                self.with_virtio(path, |device| device.take_queue(value));
                let last = self.disks.values_mut().filter_map(|looks| looks.last_mut());
                disks::add_queue(last, path, value);
            }
            "event" if self.events.len() < limits::QMP_EVENTS_READ => {
                self.events.push(Event::read(about, value));
            }
            _ => {}
        }
    }

    /// Changes a device, which is made if it is not there.
    fn with_virtio(&mut self, path: &str, change: impl FnOnce(&mut Virtio)) {
        if self.virtio.len() < limits::QMP_LISTED || self.virtio.contains_key(path) {
            change(self.virtio.entry(path.to_owned()).or_default());
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
