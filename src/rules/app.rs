//! An app: one virtual machine, by whatever way it was found.

use crate::base::consent::Consent;
use crate::base::id::{AppId, Digest};
use crate::base::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// An app and where to find it. Its identity is `id`; all else may change.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct App {
    /// Its stable key.
    pub id: AppId,
    /// What people call it.
    pub name: String,
    /// What a binding may select it by, besides its name and its key.
    pub labels: BTreeMap<String, String>,
    /// Which run of it this is.
    pub life: Life,
    /// Its console: a socket or a terminal.
    pub console: Option<PathBuf>,
    /// The second console of a container's own little machine, with a shell for us.
    pub shim_console: Option<PathBuf>,
    /// A file to which the hypervisor copies what the guest writes to its console.
    pub console_log: Option<PathBuf>,
    /// The file behind the device `acpi-erst`, where its kernel leaves records when it dies.
    pub erst: Option<PathBuf>,
    /// The image of its firmware's flash memory, where the kernel does so without that device.
    pub flash: Option<PathBuf>,
    /// The socket of its hypervisor's monitor.
    pub qmp: Option<PathBuf>,
    /// A monitor that is kept open for what the hypervisor tells by itself.
    pub events: Option<PathBuf>,
    /// The socket of its guest agent.
    pub guest_agent: Option<PathBuf>,
    /// Where it can be reached, the likeliest first.
    pub addresses: Vec<IpAddr>,
    /// Its network interfaces.
    pub interfaces: Vec<Interface>,
    /// Its disks.
    pub disks: Vec<Disk>,
    /// What may be done to it.
    pub consent: Consent,
    /// Whether it may be given a channel for its guest agent, should it have none.
    pub add_agent: bool,
    /// Where the socket of a channel is that was given to it, or would be.
    pub added_agent: Option<PathBuf>,
    /// The socket of the device's log, which hears its console where no file does.
    pub device_log: Option<PathBuf>,
}

/// One run of an app, from start to end. A part that is not known tells nothing.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct Life {
    /// The hypervisor's name for it, which may change from one start to the next.
    pub domain: Option<String>,
    /// The hypervisor's process.
    pub pid: Option<u32>,
    /// When it was started, as its manager says.
    pub booted: Option<Timestamp>,
    /// The monitor's socket, which a hypervisor makes anew when it starts.
    pub socket: Option<Birth>,
}

/// Tells a file from its successor under the same name.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Birth {
    /// The number of the inode,
    pub inode: u64,
    /// which may be used again, but not at the same nanosecond.
    pub modified_ns: i128,
}

/// One network interface.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Interface {
    /// Its address on the link.
    pub mac: Option<Mac>,
    /// The bridge on the device that it hangs on.
    pub bridge: Option<String>,
    /// Its other end on the device.
    pub vif: Option<String>,
}

/// One disk.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Disk {
    /// The file or block device behind it.
    pub path: PathBuf,
    /// What it is, as the manager says: `qcow2`, `raw`.
    pub format: String,
    /// Whether the guest may not write to it.
    pub read_only: bool,
}

/// A hardware address.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Mac(pub [u8; 6]);

// === impl App ===

impl App {
    /// An app of which nothing else is known yet.
    #[must_use]
    pub fn new(id: AppId, name: impl Into<String>) -> Self {
        Self {
            id,
            name: name.into(),
            labels: BTreeMap::new(),
            life: Life::default(),
            console: None,
            shim_console: None,
            console_log: None,
            erst: None,
            flash: None,
            qmp: None,
            events: None,
            guest_agent: None,
            addresses: Vec::new(),
            interfaces: Vec::new(),
            disks: Vec::new(),
            consent: Consent::default(),
            add_agent: false,
            added_agent: None,
            device_log: None,
        }
    }

    /// Takes over what only `other` knows of the same app.
    pub fn fill_from(&mut self, other: &Self) {
        // Another monitor's socket tells nothing of ours, even if ours is not there yet.
        let socket = if self.qmp.is_some() { self.life.socket } else { other.life.socket };
        self.life = std::mem::take(&mut self.life).or(&other.life);
        self.life.socket = socket;
        fill(&mut self.console, other.console.as_ref());
        fill(&mut self.shim_console, other.shim_console.as_ref());
        fill(&mut self.console_log, other.console_log.as_ref());
        fill(&mut self.erst, other.erst.as_ref());
        fill(&mut self.flash, other.flash.as_ref());
        fill(&mut self.qmp, other.qmp.as_ref());
        fill(&mut self.events, other.events.as_ref());
        fill(&mut self.guest_agent, other.guest_agent.as_ref());
        for (key, value) in &other.labels {
            self.labels.entry(key.clone()).or_insert_with(|| value.clone());
        }
        for address in &other.addresses {
            if !self.addresses.contains(address) {
                self.addresses.push(*address);
            }
        }
        if self.interfaces.is_empty() {
            self.interfaces.clone_from(&other.interfaces);
        }
        if self.disks.is_empty() {
            self.disks.clone_from(&other.disks);
        }
    }
}

fn fill<T: Clone>(ours: &mut Option<T>, theirs: Option<&T>) {
    if ours.is_none() {
        *ours = theirs.cloned();
    }
}

// === impl Life ===

impl Life {
    /// Whether `later` is the same run: nothing that both know differs.
    #[must_use]
    pub fn continues_as(&self, later: &Self) -> bool {
        fn same<T: PartialEq>(before: Option<&T>, after: Option<&T>) -> bool {
            before.zip(after).is_none_or(|(before, after)| before == after)
        }
        same(self.domain.as_ref(), later.domain.as_ref())
            && same(self.pid.as_ref(), later.pid.as_ref())
            && same(self.booted.as_ref(), later.booted.as_ref())
            && same(self.socket.as_ref(), later.socket.as_ref())
    }

    /// The same with what only `other` knows.
    #[must_use]
    pub fn or(mut self, other: &Self) -> Self {
        fill(&mut self.domain, other.domain.as_ref());
        fill(&mut self.pid, other.pid.as_ref());
        fill(&mut self.booted, other.booted.as_ref());
        fill(&mut self.socket, other.socket.as_ref());
        self
    }
}

/// The key of an app that has none of its own: made of its name, the same every time.
#[must_use]
pub fn id_of_name(name: &str) -> AppId {
    let digest = Digest::of(format!("lifesign app {name}").as_bytes());
    let mut id = [0; 16];
    id.copy_from_slice(&digest.as_bytes()[..16]);
    // Version 8, "made by a rule of one's own", and the variant of RFC 9562.
    id[6] = id[6] & 0x0f | 0x80;
    id[8] = id[8] & 0x3f | 0x80;
    AppId::new(id)
}

// === impl Mac ===

impl FromStr for Mac {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut mac = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut mac {
            let part = parts.next().filter(|part| part.len() == 2).ok_or(())?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| ())?;
        }
        if parts.next().is_none() { Ok(Self(mac)) } else { Err(()) }
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_learned_later_is_no_new_life() {
        let domain = Some("a.1.1".to_owned());
        let before = Life { domain: domain.clone(), ..Life::default() };
        let learned = Life { pid: Some(7), ..before.clone() };
        assert!(before.continues_as(&learned));
        assert!(learned.continues_as(&before));
        assert!(!learned.continues_as(&Life { pid: Some(8), ..learned.clone() }));
        let renamed = Life { domain: Some("a.2.1".to_owned()), ..learned.clone() };
        assert!(!learned.continues_as(&renamed));
    }

    #[test]
    fn the_socket_of_another_monitor_is_no_sign_of_life() {
        let id = AppId::new([1; 16]);
        let birth = |inode| Some(Birth { inode, modified_ns: 7 });
        let with = |qmp: Option<&str>, inode| App {
            qmp: qmp.map(PathBuf::from),
            life: Life { socket: birth(inode), ..Life::default() },
            ..App::new(id, "web")
        };
        let found = with(Some("/b/qmp"), 2);
        let mut listed = App { life: Life::default(), ..with(Some("/a/qmp"), 1) };
        listed.fill_from(&found);
        assert_eq!(listed.life.socket, None);
        let mut bare = App::new(id, "web");
        bare.fill_from(&found);
        assert_eq!((bare.qmp, bare.life.socket), (found.qmp, birth(2)));
    }

    #[test]
    fn a_name_makes_the_same_key_every_time() {
        assert_eq!(id_of_name("web"), id_of_name("web"));
        assert_ne!(id_of_name("web"), id_of_name("db"));
        let text = id_of_name("web").to_string();
        assert_eq!(&text[14..15], "8", "{text}");
    }

    #[test]
    fn a_hardware_address_prints_as_it_is_read() {
        let mac: Mac = "00:16:3E:33:65:93".parse().unwrap();
        assert_eq!(mac.to_string(), "00:16:3e:33:65:93");
        for bad in
            ["", "00:16:3e:33:65", "00:16:3e:33:65:93:00", "0:1:2:3:4:5", "zz:16:3e:33:65:93"]
        {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }
}
