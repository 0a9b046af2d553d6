//! libvirt's state file of one machine, as far as it is read here. Pure.

use crate::base::id::AppId;
use crate::rules::{Disk, Interface};
use roxmltree::{Document, Node};
use std::path::PathBuf;

/// One machine.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Machine {
    pub(super) id: Option<AppId>,
    pub(super) name: String,
    pub(super) pid: Option<u32>,
    pub(super) runs: bool,
    pub(super) monitor: Option<PathBuf>,
    pub(super) console: Option<PathBuf>,
    pub(super) console_log: Option<PathBuf>,
    pub(super) guest_agent: Option<PathBuf>,
    pub(super) disks: Vec<Disk>,
    pub(super) interfaces: Vec<Interface>,
}

/// Reads a state file. libvirt replaces it as a whole; a torn one is no XML and has no meaning. Its
/// elements are sought by name wherever they may stand, so that what a later version adds does not
/// matter. Documents with entities of their own are refused by the parser.
pub(super) fn machine(bytes: &[u8]) -> Result<Machine, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "is no text".to_owned())?;
    // The parser's own words may quote the content: only the place is told.
    let document = Document::parse(text).map_err(|error| {
        let at = error.pos();
        format!("is no XML (line {}, column {})", at.row, at.col)
    })?;
    let status = document.root_element();
    if status.tag_name().name() != "domstatus" {
        return Err("is no state of a machine: `domstatus` is missing".to_owned());
    }
    let domain = child(status, "domain").ok_or("has no `domain`")?;
    let text = |name| child(domain, name).and_then(|node| node.text()).map(str::trim);
    let mut machine = Machine {
        id: text("uuid").and_then(|uuid| uuid.parse().ok()),
        name: text("name").unwrap_or_default().to_owned(),
        pid: status.attribute("pid").and_then(|pid| pid.parse().ok()).filter(|pid| *pid != 0),
        runs: !matches!(status.attribute("state"), Some("shutoff" | "nostate") | None),
        monitor: child(status, "monitor").and_then(|node| path(node, "path")),
        ..Machine::default()
    };
    for device in child(domain, "devices").iter().flat_map(Node::children) {
        machine.add(device);
    }
    Ok(machine)
}

impl Machine {
    fn add(&mut self, device: Node<'_, '_>) {
        let source = child(device, "source");
        match device.tag_name().name() {
            "disk" => {
                let place =
                    source.and_then(|node| path(node, "file").or_else(|| path(node, "dev")));
                let format = child(device, "driver").and_then(|node| node.attribute("type"));
                self.disks.extend(place.map(|path| Disk {
                    path,
                    format: format.unwrap_or_default().to_owned(),
                    read_only: child(device, "readonly").is_some(),
                }));
            }
            "interface" => {
                let of = |node: Option<Node<'_, '_>>, key| {
                    node.and_then(|node| node.attribute(key)).map(str::to_owned)
                };
                self.interfaces.push(Interface {
                    mac: of(child(device, "mac"), "address").and_then(|mac| mac.parse().ok()),
                    bridge: of(source, "bridge"),
                    vif: of(child(device, "target"), "dev"),
                });
            }
            // The first serial line and the first console are the same thing.
            "serial" | "console" => {
                let place = source.and_then(|node| path(node, "path"));
                let log = child(device, "log").and_then(|node| path(node, "file"));
                if self.console.is_none() {
                    self.console = place.or_else(|| path(device, "tty"));
                }
                self.console_log = self.console_log.take().or(log);
            }
            "channel" => {
                let name = child(device, "target").and_then(|node| node.attribute("name"));
                if name == Some("org.qemu.guest_agent.0") {
                    self.guest_agent = source.and_then(|node| path(node, "path"));
                }
            }
            _ => {}
        }
    }
}

fn child<'a, 'input>(node: Node<'a, 'input>, name: &str) -> Option<Node<'a, 'input>> {
    node.children().find(|child| child.tag_name().name() == name)
}

fn path(node: Node<'_, '_>, key: &str) -> Option<PathBuf> {
    node.attribute(key).filter(|path| path.starts_with('/')).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STATE: &str = include_str!("../../../tests/data/libvirt-run/web.xml");

    #[test]
    fn a_machine_is_read() {
        insta::assert_debug_snapshot!(machine(STATE.as_bytes()).unwrap());
    }

    #[test]
    fn a_torn_file_has_no_meaning() {
        for end in 1..STATE.trim_end().len() {
            assert!(machine(STATE.as_bytes().get(..end).unwrap()).is_err(), "{end}");
        }
        assert_eq!(
            machine(b"<domain/>").unwrap_err(),
            "is no state of a machine: `domstatus` is missing"
        );
    }

    #[test]
    fn a_bomb_of_entities_is_refused() {
        let bomb =
            b"<!DOCTYPE x [<!ENTITY a 'aaaa'><!ENTITY b '&a;&a;&a;'>]><domstatus>&b;</domstatus>";
        assert!(machine(bomb).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_taken(text in r#"[<>/='" a-z]{0,80}"#) {
            machine(text.as_bytes()).ok();
        }
    }
}
