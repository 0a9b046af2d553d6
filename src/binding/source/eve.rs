//! Apps on EVE-OS: what its services publish in files.
//!
//! ```text
//! /run/domainmgr/DomainStatus/<uuid>.json         one per app: name, domain, process, disks
//! /run/zedrouter/AppNetworkStatus/<uuid>.json     where it can be reached
//! /run/domainmgr/DomainMetric/<uuid>.json         what it uses; written every few seconds, so it
//!                                                 is read when asked for and not watched
//! /run/hypervisor/kvm/<DomainName>/               its sockets: cons, shim-cons, qmp, listener.qmp
//! ```
//!
//! `listener.qmp` belongs to EVE alone and is named nowhere in this program.

use super::Seen;
use super::directory::{Directory, read_file};
use super::pubsub::{self, Domain, Mode, Network, Usage};
use crate::base::id::AppId;
use crate::binding::watch::Wanted;
use crate::rules::App;
use std::path::{Path, PathBuf};

const DOMAINS: &str = "domainmgr/DomainStatus";
const NETWORKS: &str = "zedrouter/AppNetworkStatus";

/// What EVE's services say.
pub(super) struct Eve {
    base: PathBuf,
    domains: Directory<Domain>,
    networks: Directory<Network>,
}

impl Eve {
    pub(super) fn new(base: &Path) -> Self {
        Self {
            base: base.to_owned(),
            domains: Directory::new(base.join(DOMAINS), ".json", pubsub::domain),
            networks: Directory::new(base.join(NETWORKS), ".json", pubsub::network),
        }
    }

    pub(super) fn wanted(&self) -> Vec<Wanted> {
        [DOMAINS, NETWORKS].map(|topic| Wanted::Directory(self.base.join(topic))).to_vec()
    }

    pub(super) fn look(&mut self) -> Seen {
        let mut problems = Vec::new();
        self.domains.look(&mut problems);
        self.networks.look(&mut problems);
        let has_sockets = has_sockets(&self.base);
        let running = self.domains.values().map(|(_, domain)| domain).filter(|domain| domain.runs);
        let apps = running.map(|domain| self.app(domain, has_sockets)).collect();
        Seen { apps, problems }
    }

    fn app(&self, domain: &Domain, has_sockets: bool) -> App {
        let mut app = App::new(domain.id, domain.name.clone());
        if app.name.is_empty() {
            app.name = domain.id.to_string();
        }
        app.labels.insert("source".to_owned(), "eve".to_owned());
        if let Some(mode) = domain.mode.word() {
            app.labels.insert("virtualization".to_owned(), mode.to_owned());
        }
        app.life.domain = (!domain.domain.is_empty()).then(|| domain.domain.clone());
        app.life.booted = domain.booted;
        app.disks.clone_from(&domain.disks);
        app.interfaces.clone_from(&domain.interfaces);
        let networks = self.networks.values().map(|(_, network)| network);
        if let Some(network) = networks.filter(|network| network.id == domain.id).last() {
            app.addresses.clone_from(&network.addresses);
            if !network.interfaces.is_empty() {
                app.interfaces.clone_from(&network.interfaces);
            }
        }
        if has_sockets && domain.mode != Mode::NoHypervisor && app.life.domain.is_some() {
            let sockets = self.base.join("hypervisor/kvm").join(&domain.domain);
            app.life.pid = domain.pid;
            app.console = Some(sockets.join("cons"));
            app.qmp = Some(sockets.join("qmp"));
            app.shim_console = Some(sockets.join("shim-cons")).filter(|shim| shim.exists());
        }
        app
    }
}

/// What an app uses, as EVE last measured it. `None`: EVE does not say.
#[must_use]
pub fn read_usage(base: &Path, app: AppId) -> Option<Usage> {
    let path = base.join("domainmgr/DomainMetric").join(format!("{app}.json"));
    pubsub::usage(&read_file(&path).ok()?).ok()
}

/// Under Xen and Kubernetes there are no sockets of QEMU's that we could reach, and what is called
/// the domain's id is no process.
fn has_sockets(base: &Path) -> bool {
    match std::fs::read_to_string(base.join("eve-hv-type")) {
        Ok(kind) => kind.trim() == "kvm",
        Err(_) => true,
    }
}
