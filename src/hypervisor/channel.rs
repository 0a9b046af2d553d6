//! A channel for the guest agent that is added to a guest while it runs.
//!
//! EVE gives no guest such a channel, but every guest a virtio-serial controller with free ports. A port
//! that is plugged in looks to the guest as if it had always been there; its run state is not touched.
//!
//! ```text
//!   nothing --chardev-add--> socket --device_add--> socket and port
//!      ^                        |
//!      +----chardev-remove------+<----device_del--------+
//! ```
//!
//! Either step may have been the last of an agent that was killed: whoever comes next finds what is
//! there by our own names, and goes on from there.

use super::qmp::{AskError, Monitor};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

/// What the guest's agent looks for.
const NAME: &str = "org.qemu.guest_agent.0";

/// Our name for the socket and for the port.
const OURS: &str = "lifesign-agent";

/// Where devices with a name are, and those without.
const DEVICES: [&str; 2] = ["/machine/peripheral", "/machine/peripheral-anon"];

/// A port that was unplugged lets go of its socket a moment later: this often is tried,
const TRIES: usize = 8;

/// and so long apart. All of it stays below the time for which a monitor may be held.
const APART: Duration = Duration::from_millis(75);

/// The kernel's `sun_path`, with the zero at its end.
const PATH_BYTES: usize = 107;

/// Why there is no channel.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The monitor says no, or nothing.
    #[error("the channel for the guest agent cannot be changed")]
    Monitor(#[from] AskError),
    /// It is a VM without a place to plug it in.
    #[error("the VM has no virtio-serial controller that a channel could be plugged into")]
    NoController,
    /// There is one already, whose socket is not known to us.
    #[error(
        "the VM has a channel for the guest agent already: name its socket, `guest-agent: SOCKET`"
    )]
    Other,
    /// The hypervisor could not make such a socket.
    #[error("a socket's path may have {PATH_BYTES} bytes, and {path} has more")]
    Path {
        /// The path.
        path: String,
    },
}

/// What of ours is there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Socket {
    Missing,
    Elsewhere,
    Here,
}

/// What the guest has.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Ports {
    controller: bool,
    ours: bool,
    other: bool,
}

/// Sees to it that there is a channel with this socket. Says whether it is new.
///
/// # Errors
///
/// When there cannot be one. Nothing is left behind then.
pub async fn add(monitor: &mut Monitor, socket: &Path) -> Result<bool, Error> {
    let path = socket.to_str().filter(|path| path.len() <= PATH_BYTES);
    let Some(path) = path else {
        return Err(Error::Path { path: socket.display().to_string() });
    };
    let chardevs = monitor.ask("query-chardev", json!({})).await?;
    let ports = ports(monitor).await?;
    match (our_socket(&chardevs, path), ports) {
        (Socket::Here, Ports { ours: true, .. }) => return Ok(false),
        (_, Ports { other: true, .. }) => return Err(Error::Other),
        (_, Ports { controller: false, .. }) => return Err(Error::NoController),
        (Socket::Elsewhere, _) => remove(monitor).await?,
        (Socket::Here | Socket::Missing, _) => {}
    }
    if our_socket(&chardevs, path) != Socket::Here {
        let address = json!({ "type": "unix", "data": { "path": path } });
        let data = json!({ "addr": address, "server": true, "wait": false });
        let backend = json!({ "type": "socket", "data": data });
        monitor.ask("chardev-add", json!({ "id": OURS, "backend": backend })).await?;
    }
    let port = json!({ "driver": "virtserialport", "id": OURS, "chardev": OURS, "name": NAME });
    if let Err(error) = monitor.ask("device_add", port).await {
        monitor.ask("chardev-remove", json!({ "id": OURS })).await.ok();
        return Err(error.into());
    }
    Ok(true)
}

/// Takes away what [`add`] added.
///
/// # Errors
///
/// When the monitor does not let it go.
pub async fn remove(monitor: &mut Monitor) -> Result<(), Error> {
    if ports(monitor).await?.ours {
        monitor.ask("device_del", json!({ "id": OURS })).await?;
    }
    for _ in 1..TRIES {
        let chardevs = monitor.ask("query-chardev", json!({})).await?;
        if our_socket(&chardevs, "") == Socket::Missing {
            return Ok(());
        }
        match monitor.ask("chardev-remove", json!({ "id": OURS })).await {
            Ok(_) => return Ok(()),
            Err(AskError::Refused { .. }) => tokio::time::sleep(APART).await,
            Err(error) => return Err(error.into()),
        }
    }
    monitor.ask("chardev-remove", json!({ "id": OURS })).await?;
    Ok(())
}

async fn ports(monitor: &mut Monitor) -> Result<Ports, AskError> {
    let mut ports = Ports::default();
    for place in DEVICES {
        let devices = monitor.ask("qom-list", json!({ "path": place })).await?;
        ports.controller |= has_controller(&devices);
        for port in port_names(&devices) {
            if port == OURS {
                ports.ours = true;
                continue;
            }
            let which = json!({ "path": format!("{place}/{port}"), "property": "name" });
            ports.other |= monitor.ask("qom-get", which).await.is_ok_and(|name| name == NAME);
        }
    }
    Ok(ports)
}

fn devices(reply: &Value) -> impl Iterator<Item = (&str, &str)> {
    let all = reply.as_array().into_iter().flatten();
    all.filter_map(|device| Some((device["name"].as_str()?, device["type"].as_str()?)))
}

/// Its kinds differ by bus: `virtio-serial-pci`, `virtio-serial-device`, ..
fn has_controller(reply: &Value) -> bool {
    devices(reply).any(|(_, kind)| kind.starts_with("child<virtio-serial"))
}

fn port_names(reply: &Value) -> impl Iterator<Item = &str> {
    devices(reply).filter(|(_, kind)| *kind == "child<virtserialport>").map(|(name, _)| name)
}

fn our_socket(chardevs: &Value, path: &str) -> Socket {
    let mut all = chardevs.as_array().into_iter().flatten();
    let Some(ours) = all.find(|device| device["label"] == OURS) else { return Socket::Missing };
    let filename = ours["filename"].as_str().unwrap_or_default();
    let socket = filename.split_once("unix:").map_or("", |(_, rest)| rest);
    // Behind it stand `,server=on` and who is connected.
    match socket.strip_prefix(path) {
        Some(rest) if rest.is_empty() || rest.starts_with(',') => Socket::Here,
        Some(_) | None => Socket::Elsewhere,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_is_known_again() {
        let chardevs = |filename: &str| {
            json!([
                { "label": "charmonitor", "filename": "unix:/state/agent/x,server=on" },
                { "label": "lifesign-agent", "filename": filename, "frontend-open": false },
            ])
        };
        let of = |filename| our_socket(&chardevs(filename), "/state/agent/x");
        assert_eq!(of("disconnected:unix:/state/agent/x,server=on"), Socket::Here);
        assert_eq!(of("unix:/state/agent/x,server=on <-> (null)"), Socket::Here);
        assert_eq!(of("disconnected:unix:/state/agent/xy,server=on"), Socket::Elsewhere);
        assert_eq!(of("pty:/dev/pts/1"), Socket::Elsewhere);
        assert_eq!(our_socket(&json!([{ "label": 7 }]), "/x"), Socket::Missing);
        assert_eq!(our_socket(&json!("rubbish"), "/x"), Socket::Missing);
    }

    #[test]
    fn a_controller_and_its_ports_are_found() {
        let devices = json!([
            { "name": "type", "type": "string" },
            { "name": "virtio-serial0", "type": "child<virtio-serial-pci>" },
            { "name": "charconsole0", "type": "child<virtconsole>" },
            { "name": "agent", "type": "child<virtserialport>" },
        ]);
        assert!(has_controller(&devices));
        assert_eq!(port_names(&devices).collect::<Vec<_>>(), ["agent"]);
        let none = json!([{ "name": "net0", "type": "child<virtio-net-pci>" }, 7]);
        assert!(!has_controller(&none));
        assert_eq!(port_names(&none).count(), 0);
    }
}
