//! Asks the probes of a scenario, by whatever way each of them takes.
//!
//! An [`Asker`] belongs to one app under one scenario and remembers what some questions need to be
//! answered: how far a disk had come, what the vCPUs did, which lines were seen. Its answers are
//! findings: the first is the probe's own, the others are what it proves beside, and none of them says
//! *dead* because of silence alone.

pub mod boot;
pub mod channel;
mod console;
mod disk;
mod guest_agent;
mod log;
mod network;
pub mod unbidden;
mod vcpu;
pub mod vmm;

use crate::base::chain::Chain;
use crate::base::rung::{Answer, Finding, Rung};
use crate::base::time::Clock;
use crate::binding::{App, Secret};
use crate::hypervisor::blocks::{Demand, Progress};
use crate::hypervisor::vcpu::Sample;
use crate::ladder::{self, Testimony};
use crate::scenario::{ConsoleProbe, DiskProbe, Probe, Transport};
use crate::transport::disk::heartbeat::Heartbeat;
use crate::transport::log::DeviceLog;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use tokio::time::Instant;
use vmm::Vmm;

/// One app under one scenario, and what its questions remember.
#[derive(Debug)]
pub struct Asker {
    app: App,
    secrets: BTreeMap<String, Secret>,
    progress: Progress,
    heartbeats: BTreeMap<String, Heartbeat>,
    samples: VecDeque<Sample>,
    overheard: log::Overheard,
    look: Option<Vmm>,
}

/// What came of one question.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The question's own finding.
    pub finding: Finding,
    /// What it proves beside.
    pub beside: Vec<Finding>,
    /// How long it took.
    pub took: Duration,
}

impl Asker {
    /// Asks `app`, with these secrets where a question needs one.
    #[must_use]
    pub fn new(app: App, secrets: BTreeMap<String, Secret>) -> Self {
        Self {
            app,
            secrets,
            progress: Progress::default(),
            heartbeats: BTreeMap::new(),
            samples: VecDeque::new(),
            overheard: log::Overheard::default(),
            look: None,
        }
    }

    /// Hears apps in this log whose console no file has.
    #[must_use]
    pub fn with_log(mut self, log: DeviceLog) -> Self {
        self.overheard = log::Overheard::new(log);
        self
    }

    /// The app.
    #[must_use]
    pub fn app(&self) -> &App {
        &self.app
    }

    /// The guest is held: that it was silent meanwhile says nothing, nor what it did before.
    fn rests(&mut self) {
        self.progress.begin_anew(Clock::now());
        self.heartbeats.clear();
        self.samples.clear();
        self.overheard.begin_anew();
    }

    /// The guest has booted: what is remembered of it would prove that it lives before it is up.
    pub fn boots(&mut self) {
        self.rests();
        self.overheard.forgive();
    }

    /// What the hypervisor does, while its guest does not answer: what was seen when the questions
    /// were asked, or else what is seen now.
    pub async fn look(&mut self) -> Vmm {
        match self.look.take() {
            Some(look) => look,
            None => {
                let look = vmm::look(&self.app, None).await;
                self.heed(&look);
                look
            }
        }
    }

    /// Who answers needs no explanation.
    fn remember(&mut self, look: Option<Vmm>, answer: Answer) {
        if let Some(look) = &look {
            self.heed(look);
        }
        let known = if answer == Answer::Alive { None } else { self.look.take() };
        self.look = look.or(known);
    }

    /// The time in which a guest is paused is not held against it when it goes on.
    fn heed(&mut self, look: &Vmm) {
        if look.is_paused() {
            self.rests();
        }
    }

    /// Whether a link of this device's own keeps the answers of the app's network away.
    #[must_use]
    pub fn is_cut_off(&self) -> bool {
        network::is_cut_off(&self.app)
    }

    /// Asks one question.
    pub async fn ask(&mut self, probe: &Probe, timeout: Duration) -> Asked {
        let started = Instant::now();
        let deadline = started + timeout;
        let mut look = None;
        let mut findings = match probe {
            Probe::Console(ConsoleProbe::Ask { port, login, shell, dialogue }) => {
                let question = console::Question {
                    port: *port,
                    login: login.as_ref(),
                    shell: *shell,
                    dialogue,
                    secrets: &self.secrets,
                };
                let (findings, looked) = console::ask(&self.app, question, deadline).await;
                look = looked;
                findings
            }
            Probe::Console(ConsoleProbe::Silence { after, .. }) => {
                vec![self.overheard.silence(&self.app, *after).await]
            }
            Probe::Log(probe) => vec![self.overheard.ask(&self.app, probe).await],
            Probe::Disk(DiskProbe::Written { device, within }) => {
                let demand = Demand { disk: device.as_deref(), within: *within, writes: true };
                vec![disk::written(&self.app, &mut self.progress, &demand).await]
            }
            Probe::Disk(DiskProbe::Heartbeat { device, within }) => {
                vec![
                    disk::heartbeat(&self.app, &mut self.heartbeats, (device, *within), deadline)
                        .await,
                ]
            }
            Probe::Network(probe) => {
                let asked = network::ask(&self.app, probe, deadline).await;
                std::iter::once(asked.finding).chain(asked.beside).collect()
            }
            Probe::Agent(probe) => guest_agent::ask(&self.app, probe, deadline).await,
            Probe::Vcpu => vec![vcpu::ask(&self.app, &mut self.samples).await],
        };
        let mut finding = findings.remove(0);
        if look.is_none() && finding.answer == Answer::Dead && !probe.is_conclusive() {
            let looked = vmm::look(&self.app, None).await;
            finding = looked.unless_paused(finding);
            look = Some(looked);
        }
        self.remember(look, finding.answer);
        Asked { finding, beside: findings, took: started.elapsed() }
    }
}

/// What a probe's own finding says to the ladder.
#[must_use]
pub fn testimony(probe: &Probe, finding: &Finding) -> Testimony {
    let transport = match probe.transport() {
        Transport::Console | Transport::Log => ladder::Transport::Console,
        Transport::Disk => ladder::Transport::Disk,
        Transport::Network => ladder::Transport::Network,
        Transport::Agent => ladder::Transport::Agent,
        Transport::Vcpu => ladder::Transport::Hypervisor,
    };
    let testimony = Testimony::new(transport, finding);
    if probe.is_conclusive() { testimony.conclusive() } else { testimony }
}
