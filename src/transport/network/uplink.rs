//! Whether a link of this device's own keeps an app's answers away.
//!
//! The kernel is asked by which way it would send to the app, by connecting a datagram socket, which
//! sends nothing: its choice hangs on rules that no single table of routes shows. The source address
//! that it chooses tells the interface, and `/sys` whether frames can pass there.
//!
//! Only hardware, or what is made of nothing else, is ever to blame: a bridge whose last port is the tap
//! of a dead guest loses its carrier by that guest's death.

use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::path::Path;

const INTERFACES: &str = "/sys/class/net";

/// Any port but 0 will do.
const DISCARD: u16 = 9;

/// A VLAN on a bridge on a bond on its ports.
const LAYERS: usize = 4;

/// By which way the kernel would ask.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Way {
    /// There is no route.
    None,
    /// By this interface.
    By(String),
    /// It cannot be told.
    Unknown,
}

/// Whether there is no way to `app`, or none but by hardware that is down or has no carrier. What
/// cannot be found out is no excuse.
#[must_use]
pub fn is_down(app: IpAddr) -> bool {
    match way(app) {
        Way::None => true,
        Way::By(name) => link_is_down(Path::new(INTERFACES), &name),
        Way::Unknown => false,
    }
}

pub(super) fn way(app: IpAddr) -> Way {
    match source(app) {
        Ok(source) => interface_of(source).map_or(Way::Unknown, Way::By),
        Err(error) if error.kind() == io::ErrorKind::NetworkUnreachable => Way::None,
        Err(_) => Way::Unknown,
    }
}

/// The address from which the kernel would ask.
fn source(app: IpAddr) -> io::Result<IpAddr> {
    let any: IpAddr = match app {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect((app, DISCARD))?;
    Ok(socket.local_addr()?.ip())
}

/// The only interface with this address, if there is only one.
fn interface_of(address: IpAddr) -> Option<String> {
    let has = |one: &InterfaceAddress| {
        one.address.is_some_and(|own| {
            let v4 = own.as_sockaddr_in().map(|own| IpAddr::V4(own.ip()));
            v4.or_else(|| own.as_sockaddr_in6().map(|own| IpAddr::V6(own.ip()))) == Some(address)
        })
    };
    // What follows a colon is the label of an address.
    let name = |one: InterfaceAddress| one.interface_name.split(':').next().map(str::to_owned);
    let mut names: BTreeSet<String> = getifaddrs().ok()?.filter(has).filter_map(name).collect();
    let first = names.pop_first();
    first.filter(|_| names.is_empty())
}

/// A tunnel's state is `unknown`, for it cannot know.
fn link_is_down(interfaces: &Path, name: &str) -> bool {
    const DOWN: [&str; 5] = ["down", "lowerlayerdown", "notpresent", "dormant", "testing"];
    let state = std::fs::read_to_string(interfaces.join(name).join("operstate"));
    state.is_ok_and(|state| DOWN.contains(&state.trim())) && is_hardware(interfaces, name, LAYERS)
}

/// Whether it is hardware, or made of nothing else.
fn is_hardware(interfaces: &Path, name: &str, layers: usize) -> bool {
    let place = interfaces.join(name);
    if place.join("device").exists() {
        return true;
    }
    let files = std::fs::read_dir(&place).into_iter().flatten().flatten();
    let names = files.filter_map(|file| file.file_name().into_string().ok());
    let mut lower =
        names.filter_map(|name| Some(name.strip_prefix("lower_")?.to_owned())).peekable();
    layers > 0
        && lower.peek().is_some()
        && lower.all(|name| is_hardware(interfaces, &name, layers - 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// In a fake of `/sys/class/net`: `NAME STATE [device|lower_NAME]...`
    fn is_down(interfaces: &[&str], name: &str) -> bool {
        let all = tempfile::tempdir().unwrap();
        for interface in interfaces {
            let mut words = interface.split(' ');
            let place = all.path().join(words.next().unwrap());
            fs::create_dir(&place).unwrap();
            fs::write(place.join("operstate"), format!("{}\n", words.next().unwrap())).unwrap();
            words.for_each(|word| fs::create_dir(place.join(word)).unwrap());
        }
        link_is_down(all.path(), name)
    }

    #[test]
    fn a_link_is_down_where_no_frame_passes() {
        assert!(is_down(&["eth0 down device"], "eth0"));
        assert!(is_down(&["wlan0 dormant device"], "wlan0"));
        assert!(!is_down(&["eth0 up device"], "eth0"));
        assert!(!is_down(&["eth0 unknown device"], "eth0"));
        assert!(!is_down(&[], "eth0"));
    }

    #[test]
    fn only_hardware_is_to_blame() {
        assert!(!is_down(&["tap0 down"], "tap0"));
        assert!(!is_down(&["bn1 down"], "bn1"));
        let ports = ["tap0 down", "keth0 down device", "keth1 down device"];
        let down = |top: &str| is_down(&[&ports[..], &[top]].concat(), "top");
        assert!(down("top down lower_keth0"));
        assert!(down("top lowerlayerdown lower_keth0 lower_keth1"));
        assert!(!down("top down lower_keth0 lower_tap0"));
        assert!(!down("top down lower_top"), "made of itself");
    }
}
