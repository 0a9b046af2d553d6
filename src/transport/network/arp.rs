//! ARP: does anybody on the app's bridge own its address?
//!
//! Asked on the wire, by a packet socket, because the kernel's table of neighbours says what was
//! true up to a minute ago, and because a bridge of EVE often has no address of its own, so that
//! nothing can be routed over it to fill the table. The answer comes in milliseconds, and no firewall
//! of the guest's is asked.
//!
//! A packet socket needs CAP_NET_RAW. Without it the table is read after a datagram has made the
//! kernel look: an address that was not known and then is, is *alive*; one that is found missing is
//! *dead*; one that was known already is *unknown*.

mod table;
mod wire;

use super::Target;
use super::dial::excuse;
use crate::base::rung::{Finding, Rung};
use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::sys::socket::{LinkAddr, SockaddrStorage, bind};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

/// One that is lost on the way must not be a death: another is sent.
const AGAIN: Duration = Duration::from_secs(1);

/// Asks.
pub async fn ask(target: &Target<'_>, deadline: Instant) -> Finding {
    let unknown = |why: String| Finding::unknown(Rung::Kernel, why);
    let IpAddr::V4(ip) = target.address.ip() else {
        return unknown(format!("ARP is of IPv4: ask {} with a ping", target.address.ip()));
    };
    if target.nat {
        return unknown(format!("{ip} stands for the guest, and who owns it is not the guest"));
    }
    let port = match Port::find(target, ip) {
        Ok(port) => port,
        Err(why) => return unknown(why),
    };
    match open(&port) {
        Ok(socket) => {
            let exchanged = exchange(&socket, &port, ip, deadline).await;
            judge(target, &port, exchanged)
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            table::ask(target, &port.name, ip, deadline).await
        }
        Err(error) => unknown(excuse(target, &error)),
    }
}

fn judge(target: &Target<'_>, port: &Port, exchanged: io::Result<bool>) -> Finding {
    let (ip, name) = (target.address.ip(), &port.name);
    match exchanged {
        Ok(true) => Finding::alive(Rung::Kernel, format!("{ip} answers ARP on `{name}`")),
        Ok(false) => Finding::dead(Rung::Kernel, format!("nobody on `{name}` answers for {ip}")),
        Err(error) => Finding::unknown(Rung::Kernel, excuse(target, &error)),
    }
}

/// An interface of this host that can ask.
struct Port {
    name: String,
    link: LinkAddr,
    mac: wire::Mac,
    /// Nobody's address, if the interface has none: so ask those who look whether one is free.
    ip: Ipv4Addr,
}

impl Port {
    /// The interface that was named, or the one whose network the address is of.
    fn find(target: &Target<'_>, ip: Ipv4Addr) -> Result<Self, String> {
        let all: Vec<InterfaceAddress> = getifaddrs()
            .map_err(|error| format!("this host's interfaces cannot be read: {error}"))?
            .collect();
        let near = all.iter().find(|one| network_has(one, ip));
        let Some(name) = target.interface.or_else(|| near.map(|one| one.interface_name.as_str()))
        else {
            return Err(format!("{ip} is in no network of this host's: name the interface"));
        };
        let of_it = || all.iter().filter(|one| one.interface_name == name);
        let own = of_it()
            .find(|one| network_has(one, ip))
            .or_else(|| of_it().find(|one| v4(one.address).is_some()));
        let link = of_it().find_map(|one| one.address?.as_link_addr().copied());
        let Some(link) = link else {
            return Err(format!("this host has no interface `{name}`"));
        };
        const ETHERNET: u16 = 1;
        match link.addr() {
            Some(mac) if link.hatype() == ETHERNET => {
                let ip = own.and_then(|one| v4(one.address)).unwrap_or(Ipv4Addr::UNSPECIFIED);
                Ok(Self { name: name.to_owned(), link, mac, ip })
            }
            _ => Err(format!("`{name}` is no Ethernet, there is no ARP on it")),
        }
    }
}

fn v4(address: Option<SockaddrStorage>) -> Option<Ipv4Addr> {
    Some(address?.as_sockaddr_in()?.ip())
}

fn network_has(one: &InterfaceAddress, ip: Ipv4Addr) -> bool {
    let (Some(own), Some(mask)) = (v4(one.address), v4(one.netmask)) else { return false };
    u32::from(own) & u32::from(mask) == u32::from(ip) & u32::from(mask)
}

/// A packet socket that is used as if it were UDP: sending and receiving are the same calls.
fn open(port: &Port) -> io::Result<UdpSocket> {
    let protocol = Protocol::from(i32::from(wire::ETHERTYPE.to_be()));
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol))?;
    socket.set_nonblocking(true)?;
    bind(socket.as_raw_fd(), &port.link)?;
    UdpSocket::from_std(std::net::UdpSocket::from(OwnedFd::from(socket)))
}

/// Whether somebody answered.
async fn exchange(
    socket: &UdpSocket,
    port: &Port,
    ip: Ipv4Addr,
    deadline: Instant,
) -> io::Result<bool> {
    let request = wire::request(port.mac, port.ip, ip);
    while Instant::now() < deadline {
        socket.send(&request).await?;
        match timeout_at(deadline.min(Instant::now() + AGAIN), answer(socket, port.mac, ip)).await {
            Ok(answered) => return answered.map(|()| true),
            Err(_) => continue,
        }
    }
    Ok(false)
}

async fn answer(socket: &UdpSocket, mac: wire::Mac, ip: Ipv4Addr) -> io::Result<()> {
    let mut frame = [0; 128];
    loop {
        let count = socket.recv(&mut frame).await?;
        if wire::is_answer(&frame[..count], mac, ip) {
            return Ok(());
        }
    }
}
