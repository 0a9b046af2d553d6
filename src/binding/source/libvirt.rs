//! Machines of libvirt: the state files of its QEMU driver.
//!
//! libvirt itself holds the monitor that they name and never lets go of it: whoever connects waits
//! in vain and hears nothing, which is *unknown*. A machine that shall be asked needs a monitor of
//! its own.

use super::Seen;
use super::directory::Directory;
use super::domain_xml::{self, Machine};
use crate::binding::watch::Wanted;
use crate::rules::{App, id_of_name};
use std::path::Path;

/// What libvirt says.
pub(super) struct Libvirt(Directory<Machine>);

impl Libvirt {
    pub(super) fn new(path: &Path) -> Self {
        Self(Directory::new(path.to_owned(), ".xml", domain_xml::machine))
    }

    pub(super) fn wanted(&self) -> Vec<Wanted> {
        vec![Wanted::Directory(self.0.path().to_owned())]
    }

    pub(super) fn look(&mut self) -> Seen {
        let mut problems = Vec::new();
        self.0.look(&mut problems);
        let running = self.0.values().map(|(_, machine)| machine).filter(|machine| machine.runs);
        Seen { apps: running.map(app).collect(), problems }
    }
}

fn app(machine: &Machine) -> App {
    let id = machine.id.unwrap_or_else(|| id_of_name(&machine.name));
    let mut app = App::new(id, machine.name.clone());
    app.labels.insert("source".to_owned(), "libvirt".to_owned());
    app.life.domain = Some(machine.name.clone());
    app.life.pid = machine.pid;
    app.qmp.clone_from(&machine.monitor);
    app.console.clone_from(&machine.console);
    app.console_log.clone_from(&machine.console_log);
    app.guest_agent.clone_from(&machine.guest_agent);
    app.disks.clone_from(&machine.disks);
    app.interfaces.clone_from(&machine.interfaces);
    app
}
