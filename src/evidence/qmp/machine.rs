//! What the hypervisor tells of the machine around the guest's CPUs and disks.

use super::disks::short;
use crate::base::limits;
use serde_json::Value;
use std::collections::BTreeMap;

/// The machine itself.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Machine {
    /// `7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)`
    pub version: Option<String>,
    /// `pc-q35-7.2-machine`
    pub kind: Option<String>,
    /// Whether the host's CPU runs it, or a program that plays one.
    pub kvm: Option<bool>,
    /// The name that it was started with.
    pub name: Option<String>,
    /// Its RAM, without what the balloon took.
    pub memory_bytes: Option<u64>,
}

/// One end of a line to the guest: a console, the agent's channel, a monitor.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Channel {
    /// The hypervisor's name for it.
    pub label: String,
    /// What it leads to on the host.
    pub to: String,
    /// Whether the guest's end is open; always so for serial lines.
    pub open: bool,
}

/// Memory that the guest gave back, and what it tells of the rest.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Balloon {
    /// What the guest has.
    pub actual_bytes: Option<u64>,
    /// When it told `stats`, in seconds since 1970. Never, if nobody asks for them.
    pub told_at_s: Option<u64>,
    /// By the hypervisor's own names: `stat-free-memory`, .. Only what the guest did tell.
    pub stats: BTreeMap<String, u64>,
}

/// A virtio device.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Virtio {
    /// `virtio-net`, ..
    pub kind: String,
    /// Whether the guest's driver runs it.
    pub started: Option<bool>,
    /// Whether the guest broke the protocol, so that the hypervisor ignores the device.
    pub broken: Option<bool>,
    /// Its queues, as far as they were asked for.
    pub queues: BTreeMap<u64, Queue>,
}

/// One queue at one moment.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Queue {
    /// Requests that the device took and has not completed.
    pub in_use: u64,
    /// Requests that it has seen and not taken: free buffers where it is the device that sends.
    pub not_taken: u64,
}

/// What the hypervisor told by itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The hypervisor's name for it.
    pub name: String,
    /// When, in seconds since 1970.
    pub at_s: Option<u64>,
    /// What it is.
    pub what: What,
}

/// The events that mean something to us.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// `BLOCK_IO_ERROR`
    DiskError {
        /// Of which disk.
        disk: String,
        /// `read` or `write`.
        operation: String,
        /// What the hypervisor does about it: `report`, `stop`, `ignore`.
        action: String,
        /// In the host's words.
        reason: String,
    },
    /// `WATCHDOG`, and what the hypervisor does about it.
    Watchdog(String),
    /// `GUEST_PANICKED`, and what the hypervisor does about it.
    Panicked(String),
    /// `RESET`, and why.
    Reset(String),
    /// `SHUTDOWN`, and why.
    Shutdown(String),
    /// `STOP`
    Stop,
    /// `RESUME`
    Resume,
    /// Any other.
    Other(Value),
}

impl Machine {
    pub(super) fn take(&mut self, command: &str, value: &Value) {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        match command {
            "query-version" => self.version = version(value),
            "qom-get /machine type" => self.kind = text(value),
            "query-kvm" => self.kvm = value.get("enabled").and_then(Value::as_bool),
            "query-name" => self.name = value.get("name").and_then(text),
            "query-memory-size-summary" => {
                let size = |key| value.get(key).and_then(Value::as_u64);
                let plugged = size("plugged-memory").unwrap_or(0);
                self.memory_bytes = size("base-memory").map(|base| base.saturating_add(plugged));
            }
            _ => {}
        }
    }
}

impl Channel {
    /// Reads the reply to `query-chardev`.
    pub(super) fn all(value: &Value) -> Vec<Self> {
        let all = value.as_array().into_iter().flatten().take(limits::QMP_LISTED);
        let channel = |device: &Value| {
            Some(Self {
                label: text(device, "label")?.to_owned(),
                to: text(device, "filename").unwrap_or_default().to_owned(),
                open: device.get("frontend-open").and_then(Value::as_bool)?,
            })
        };
        all.filter_map(channel).collect()
    }
}

impl Balloon {
    /// Reads the property `guest-stats` of a balloon. What the guest did not tell is all ones.
    pub(super) fn take_stats(&mut self, value: &Value) {
        self.told_at_s = value.get("last-update").and_then(Value::as_u64).filter(|at| *at > 0);
        let stats = value.get("stats").and_then(Value::as_object).into_iter().flatten();
        let told = stats.filter_map(|(name, value)| Some((name.clone(), value.as_u64()?)));
        self.stats =
            told.filter(|(_, value)| *value != u64::MAX).take(limits::QMP_LISTED).collect();
    }
}

impl Virtio {
    /// Reads the reply to `x-query-virtio-status`.
    pub(super) fn take_status(&mut self, value: &Value) {
        let flag = |key| value.get(key).and_then(Value::as_bool);
        self.kind = text(value, "name").unwrap_or_default().to_owned();
        (self.started, self.broken) = (flag("started"), flag("broken"));
    }

    /// Reads the reply to `x-query-virtio-queue-status`.
    pub(super) fn take_queue(&mut self, value: &Value) {
        let number = |key| value.get(key).and_then(Value::as_u64);
        let (Some(index), Some(in_use)) = (number("queue-index"), number("inuse")) else { return };
        if self.kind.is_empty() {
            self.kind = text(value, "name").unwrap_or_default().to_owned();
        }
        // Indices of 16 bits that run round.
        let ahead = |seen: u64, taken: u64| seen.wrapping_sub(taken) & 0xffff;
        let not_taken = match (number("shadow-avail-idx"), number("last-avail-idx")) {
            (Some(seen), Some(taken)) => ahead(seen, taken),
            _ => 0,
        };
        if self.queues.len() < limits::QMP_LISTED {
            self.queues.insert(index, Queue { in_use, not_taken });
        }
    }
}

/// Names and kinds of the devices in a reply to `qom-list`: `child<i6300esb>` is one.
pub(super) fn devices(value: &Value) -> impl Iterator<Item = (String, String)> {
    let all = value.as_array().into_iter().flatten().take(limits::QMP_LISTED);
    all.filter_map(|device| {
        let kind = text(device, "type")?.strip_prefix("child<")?.strip_suffix('>')?;
        Some((text(device, "name")?.to_owned(), kind.to_owned()))
    })
}

impl Event {
    pub(super) fn read(name: &str, value: &Value) -> Self {
        let data = value.get("data").unwrap_or(&Value::Null);
        let word = |key| text(data, key).unwrap_or_default().to_owned();
        let what = match name {
            "BLOCK_IO_ERROR" => What::DiskError {
                disk: text(data, "device")
                    .or_else(|| text(data, "qom-path").map(short))
                    .or_else(|| text(data, "node-name"))
                    .unwrap_or_default()
                    .to_owned(),
                operation: word("operation"),
                action: word("action"),
                reason: word("reason"),
            },
            "WATCHDOG" => What::Watchdog(word("action")),
            "GUEST_PANICKED" => What::Panicked(word("action")),
            "RESET" => What::Reset(word("reason")),
            "SHUTDOWN" => What::Shutdown(word("reason")),
            "STOP" => What::Stop,
            "RESUME" => What::Resume,
            _ => What::Other(data.clone()),
        };
        let at_s = value.pointer("/timestamp/seconds").and_then(Value::as_u64);
        Self { name: name.to_owned(), at_s, what }
    }
}

fn version(value: &Value) -> Option<String> {
    let number = |key: &str| value.get("qemu")?.get(key)?.as_u64();
    let version = format!("{}.{}.{}", number("major")?, number("minor")?, number("micro")?);
    let package = text(value, "package");
    Some(package.map_or(version.clone(), |package| format!("{version} ({package})")))
}

fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key)?.as_str().filter(|text| !text.is_empty())
}
