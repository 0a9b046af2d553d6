//! What can be asked of an app, and what would make the rest askable.
//!
//! Pure: reads what is known of the app and what was heard.

use super::Heard;
use crate::agent::probe::unbidden::{consent, has_way};
use crate::base::consent::Consent;
use crate::base::rung::Answer;
use crate::binding::App;
use crate::scenario::{DiskProbe, Probe, Transport};
use serde::Serialize;

/// A way of asking, as a person tells them apart.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// The hypervisor's monitor.
    Monitor,
    /// Its virtual processors.
    Vcpu,
    /// Typing on a console, and what it writes.
    Console,
    /// What was written anyway.
    Log,
    /// The counters of the disks.
    Disk,
    /// The record that the guest writes to a disk.
    Heartbeat,
    /// The app's network.
    Network,
    /// The guest agent's channel.
    Agent,
}

/// Whether a way is of use.
#[derive(Clone, Debug, Serialize)]
pub struct Covered {
    /// Which.
    pub transport: Way,
    /// Whether it said anything of the guest.
    pub askable: bool,
    /// What it said, or why it did not.
    pub why: String,
    /// What would make it askable.
    pub remedy: Option<String>,
}

/// Of every way.
pub(super) fn coverage(app: &App, findings: &[Heard]) -> Vec<Covered> {
    let mut all: Vec<Covered> =
        Way::ALL.into_iter().map(|way| covered(way, app, findings)).collect();
    // What goes through the monitor is mended by what mends the monitor.
    if let Some(Covered { askable: false, why, remedy, .. }) = all.first().cloned() {
        all.iter_mut().filter(|covered| covered.why == why).for_each(|covered| {
            covered.remedy.clone_from(&remedy);
        });
    }
    all
}

fn covered(way: Way, app: &App, findings: &[Heard]) -> Covered {
    let heard = || findings.iter().filter(|heard| heard.transport == way);
    if let Some(known) = heard().find(|heard| heard.answer != Answer::Unknown) {
        let why = known.reason.clone();
        return Covered { transport: way, askable: true, why, remedy: None };
    }
    let why = match heard().next() {
        Some(heard) => heard.reason.clone(),
        None => way.missing(app),
    };
    Covered { transport: way, askable: false, why, remedy: Some(way.remedy(app)) }
}

impl Way {
    /// All of them, from below.
    pub const ALL: [Self; 8] = [
        Self::Monitor,
        Self::Vcpu,
        Self::Console,
        Self::Log,
        Self::Disk,
        Self::Heartbeat,
        Self::Network,
        Self::Agent,
    ];

    /// The way of a question.
    #[must_use]
    pub fn of(probe: &Probe) -> Self {
        match probe {
            Probe::Disk(DiskProbe::Heartbeat { .. }) => Self::Heartbeat,
            Probe::Console(_)
            | Probe::Log(_)
            | Probe::Disk(DiskProbe::Written { .. })
            | Probe::Network(_)
            | Probe::Agent(_)
            | Probe::Vcpu => Self::from(probe.transport()),
        }
    }

    /// The word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Monitor => "monitor",
            Self::Vcpu => "vcpu",
            Self::Console => "console",
            Self::Log => "log",
            Self::Disk => "disk",
            Self::Heartbeat => "heartbeat",
            Self::Network => "network",
            Self::Agent => "agent",
        }
    }

    /// The transport whose unbidden question stands for it.
    fn transport(self) -> Option<Transport> {
        match self {
            Self::Monitor | Self::Heartbeat => None,
            Self::Vcpu => Some(Transport::Vcpu),
            Self::Console => Some(Transport::Console),
            Self::Log => Some(Transport::Log),
            Self::Disk => Some(Transport::Disk),
            Self::Network => Some(Transport::Network),
            Self::Agent => Some(Transport::Agent),
        }
    }

    /// The consent that is missing to ask by it.
    fn forbidden(self, app: &App) -> Option<Consent> {
        self.transport().map(consent).filter(|needed| *needed > app.consent)
    }

    fn has_way(self, app: &App) -> bool {
        self.transport().is_none_or(|transport| has_way(app, transport))
    }

    /// Why nothing was asked.
    fn missing(self, app: &App) -> String {
        if !self.has_way(app) {
            return match self {
                Self::Console => "no console is known",
                Self::Log => "no log is known",
                Self::Network => "no address is known",
                Self::Agent => "no channel is known",
                Self::Monitor | Self::Vcpu | Self::Disk | Self::Heartbeat => "no monitor is known",
            }
            .to_owned();
        }
        match self.forbidden(app) {
            Some(needed) => format!("not permitted: it takes the consent `{needed}`"),
            None => "no scenario asks for it".to_owned(),
        }
    }

    /// What to do about it, in one line.
    fn remedy(self, app: &App) -> String {
        let known = self.has_way(app);
        match (self, self.forbidden(app)) {
            (_, Some(needed)) if known => format!("bind `consent: {needed}`"),
            (Self::Monitor | Self::Vcpu | Self::Disk, _) if app.qmp.is_none() => {
                "name its monitor, `qmp: SOCKET`, where the app is listed".to_owned()
            }
            (Self::Console, _) if !known => {
                "name it, `console: SOCKET`, where the app is listed; bind `consent: input`"
                    .to_owned()
            }
            (Self::Log, _) if !known => {
                "have the console logged, and name it where the app is listed: `console-log: FILE`"
                    .to_owned()
            }
            (Self::Network, _) if !known => "bind `addresses: [ADDRESS]`".to_owned(),
            (Self::Agent, _) if !known => {
                "bind `agent: add` and `consent: input`, or give the VM a virtserialport named \
                 `org.qemu.guest_agent.0`; run qemu-ga in it"
                    .to_owned()
            }
            (Self::Agent, _) if app.guest_agent.is_none() => {
                "run qemu-ga in the guest; where no channel can be added, start the VM with one"
                    .to_owned()
            }
            (way, _) => way.remedy_of_silence().to_owned(),
        }
    }

    /// What to do where it was asked, or could have been, and nothing came of it.
    fn remedy_of_silence(self) -> &'static str {
        match self {
            Self::Monitor | Self::Vcpu => {
                "see that the monitor's socket is there, and that no other client holds it"
            }
            Self::Console => {
                "see that its socket is there and free, and bind a scenario that says what answers \
                 there: `linux-console` or `linux-serial-login`"
            }
            Self::Log => "bind a scenario that listens to it: `log-label` or `passive`",
            Self::Disk => "bind `disk-heartbeat`: an idle disk says nothing, see docs/heartbeat.md",
            Self::Heartbeat => "see docs/heartbeat.md",
            Self::Network => "bind a scenario that asks a port: `tcp-service` or `http-service`",
            Self::Agent => "install qemu-ga in the guest and start it",
        }
    }
}

impl From<Transport> for Way {
    fn from(transport: Transport) -> Self {
        match transport {
            Transport::Console => Self::Console,
            Transport::Log => Self::Log,
            Transport::Disk => Self::Disk,
            Transport::Network => Self::Network,
            Transport::Agent => Self::Agent,
            Transport::Vcpu => Self::Vcpu,
        }
    }
}
