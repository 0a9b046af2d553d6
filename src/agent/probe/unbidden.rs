//! What is asked of an app although no scenario asks it: one harmless question by each transport.
//!
//! Nobody promised that the guest answers these. A console may have no shell, a firewall may drop a
//! ping: so silence on a console or the network, which would be *dead* if a scenario had asked, is
//! *unknown* here. What can be said without the guest's help (its vCPUs spin, a request of its disk
//! failed) stands.

use super::{
    Answer, App, Asked, Asker, BTreeMap, ConsoleProbe, Demand, Duration, Finding, Instant, Probe,
    Transport, disk, log,
};
use crate::base::consent::Consent;
use crate::scenario::{AgentProbe, Exchange, NetworkProbe, Port};

/// For what waits for an answer. A guest that takes longer to say a word is asked by a scenario.
const PATIENCE: Duration = Duration::from_secs(3);

/// Of the addresses of an app. More than these are of the same guest.
const ADDRESSES: usize = 4;

/// A disk that completed no request between two looks is not called dead before that.
const WITHIN: Duration = Duration::from_secs(60);

/// What asking by a transport takes, where the scenario does not say how.
#[must_use]
pub fn consent(transport: Transport) -> Consent {
    match transport {
        Transport::Console => Consent::Input,
        Transport::Log => Consent::Observe,
        Transport::Disk | Transport::Network | Transport::Agent | Transport::Vcpu => Consent::Query,
    }
}

/// Whether it is known where to ask.
#[must_use]
pub fn has_way(app: &App, transport: Transport) -> bool {
    match transport {
        Transport::Console => app.console.is_some(),
        Transport::Log => app.console_log.is_some(),
        Transport::Disk | Transport::Vcpu => app.qmp.is_some(),
        Transport::Network => !app.addresses.is_empty(),
        Transport::Agent => app.guest_agent.is_some() || app.add_agent,
    }
}

impl Asker {
    /// Asks by a transport what no scenario asks, each question with its name.
    pub async fn unbidden(&mut self, transport: Transport) -> Vec<(&'static str, Asked)> {
        match transport {
            Transport::Console => vec![self.unpromised(&uptime()).await],
            Transport::Log => {
                let started = Instant::now();
                vec![("log", alone(log::written(&self.app).await, started))]
            }
            Transport::Disk => {
                let started = Instant::now();
                let demand = Demand { disk: None, within: WITHIN, writes: false };
                let finding = disk::written(&self.app, &mut self.progress, &demand).await;
                vec![("written", alone(finding, started))]
            }
            Transport::Network => self.addresses().await,
            Transport::Agent => {
                let ping = Probe::Agent(AgentProbe::Ping);
                vec![(ping.name(), self.ask(&ping, PATIENCE).await)]
            }
            Transport::Vcpu => vec![(Probe::Vcpu.name(), self.ask(&Probe::Vcpu, PATIENCE).await)],
        }
    }

    async fn unpromised(&mut self, probe: &Probe) -> (&'static str, Asked) {
        let mut asked = self.ask(probe, PATIENCE).await;
        for finding in std::iter::once(&mut asked.finding).chain(&mut asked.beside) {
            if finding.answer == Answer::Dead {
                finding.answer = Answer::Unknown;
                finding.reason += ", and no scenario says that it should";
            }
        }
        (probe.name(), asked)
    }

    /// Each address is asked in two ways at once.
    async fn addresses(&self) -> Vec<(&'static str, Asked)> {
        let mut all = Vec::new();
        for address in self.app.addresses.iter().take(ADDRESSES) {
            let app = App { addresses: vec![*address], ..self.app.clone() };
            let (mut by_ping, mut by_arp) =
                (Self::new(app.clone(), BTreeMap::new()), Self::new(app, BTreeMap::new()));
            let (ping, arp) =
                (Probe::Network(NetworkProbe::Ping), Probe::Network(NetworkProbe::Arp));
            let (ping, arp) = tokio::join!(by_ping.unpromised(&ping), by_arp.unpromised(&arp));
            all.push(ping);
            if address.is_ipv4() {
                all.push(arp);
            }
        }
        all
    }
}

/// As the shipped scenario `linux-console` asks.
fn uptime() -> Probe {
    let dialogue = vec![Exchange { send: "uptime".to_owned(), expect: "load average".into() }];
    Probe::Console(ConsoleProbe::Ask { port: Port::App, login: None, shell: true, dialogue })
}

fn alone(finding: Finding, started: Instant) -> Asked {
    Asked { finding, beside: Vec::new(), took: started.elapsed() }
}
