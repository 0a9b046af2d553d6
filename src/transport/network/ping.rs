//! ICMP echo, version 4 and 6.
//!
//! A datagram socket of ICMP needs no privilege where `net.ipv4.ping_group_range` has our group;
//! else a raw one, which needs CAP_NET_RAW; else nothing can be asked. Either is used as if it were
//! UDP, for connecting, sending and receiving are the same calls.
//!
//! An answer is known by sixteen random bytes that it brings back, so neither another program's
//! echoes nor a guest that answers by heart are taken for it.

use super::Target;
use super::dial::{excuse, unreachable};
use crate::base::rung::{Finding, Rung};
use ring::rand::{SecureRandom, SystemRandom};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

/// One that is lost on the way must not be a death: another is sent.
const AGAIN: Duration = Duration::from_secs(1);

const TOKEN: usize = 16;
const HEAD: usize = 8;

/// Asks.
pub async fn ask(target: &Target<'_>, deadline: Instant) -> Finding {
    let ip = target.address.ip();
    if target.nat {
        let why = "what answers a ping there is not the guest";
        return Finding::unknown(Rung::Kernel, format!("{ip} stands for the guest, and {why}"));
    }
    let opened = open(target).and_then(|(socket, raw)| Ok((token()?, socket, raw)));
    let (token, socket, raw) = match opened {
        Ok(opened) => opened,
        Err(error) => return Finding::unknown(Rung::Kernel, no_socket(target, &error)),
    };
    let echo = Echo { socket, token, v4: ip.is_ipv4(), header: raw && ip.is_ipv4() };
    let started = Instant::now();
    match echo.exchange(deadline).await {
        Ok(true) => {
            let ms = started.elapsed().as_millis();
            Finding::alive(Rung::Kernel, format!("{ip} answers a ping in {ms} ms"))
        }
        Ok(false) => Finding::dead(Rung::Kernel, format!("{ip} does not answer a ping")),
        Err(error) if error.kind() == io::ErrorKind::HostUnreachable => {
            Finding::dead(Rung::Kernel, unreachable(target))
        }
        Err(error) => Finding::unknown(Rung::Kernel, excuse(target, &error)),
    }
}

/// A socket, and whether it is a raw one.
fn open(target: &Target<'_>) -> io::Result<(UdpSocket, bool)> {
    let (domain, protocol) = match target.address {
        SocketAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        SocketAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let socket = |of: Type| Socket::new(domain, of.nonblocking(), Some(protocol));
    let (socket, raw) = match socket(Type::DGRAM) {
        Ok(socket) => (socket, false),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => (socket(Type::RAW)?, true),
        Err(error) => return Err(error),
    };
    if let Some(interface) = target.interface {
        socket.bind_device(Some(interface.as_bytes()))?;
    }
    let mut address = target.address;
    address.set_port(0);
    socket.connect(&address.into())?;
    let socket = std::net::UdpSocket::from(OwnedFd::from(socket));
    Ok((UdpSocket::from_std(socket)?, raw))
}

fn no_socket(target: &Target<'_>, error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::PermissionDenied && target.interface.is_none() {
        return "a ping is not permitted: it needs CAP_NET_RAW, or our group in net.ipv4.ping_group_range"
            .to_owned();
    }
    excuse(target, error)
}

fn token() -> io::Result<[u8; TOKEN]> {
    let mut token = [0; TOKEN];
    let filled = SystemRandom::new().fill(&mut token);
    filled.map_err(|_| io::Error::other("the system has no random numbers"))?;
    Ok(token)
}

struct Echo {
    socket: UdpSocket,
    token: [u8; TOKEN],
    v4: bool,
    /// Whether what is received begins with an IP header.
    header: bool,
}

impl Echo {
    /// Whether an answer came.
    async fn exchange(&self, deadline: Instant) -> io::Result<bool> {
        let mut sequence = 0_u16;
        while Instant::now() < deadline {
            sequence = sequence.wrapping_add(1);
            self.socket.send(&request(self.v4, sequence, self.token)).await?;
            match timeout_at(deadline.min(Instant::now() + AGAIN), self.answer()).await {
                Ok(answered) => return answered.map(|()| true),
                Err(_) => continue,
            }
        }
        Ok(false)
    }

    async fn answer(&self) -> io::Result<()> {
        let mut packet = [0; 256];
        loop {
            let count = self.socket.recv(&mut packet).await?;
            let body = if self.header { payload(&packet[..count]) } else { &packet[..count] };
            if is_answer(self.v4, body, self.token) {
                return Ok(());
            }
        }
    }
}

/// Type, code, checksum, id, sequence and our token. The kernel sets the id of a datagram socket and
/// the checksum of version 6; on a raw socket the id is of no use to anybody.
fn request(v4: bool, sequence: u16, token: [u8; TOKEN]) -> [u8; HEAD + TOKEN] {
    let mut packet = [0; HEAD + TOKEN];
    packet[0] = if v4 { 8 } else { 128 };
    packet[6..HEAD].copy_from_slice(&sequence.to_be_bytes());
    packet[HEAD..].copy_from_slice(&token);
    if v4 {
        let sum = checksum(&packet);
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}

fn is_answer(v4: bool, packet: &[u8], token: [u8; TOKEN]) -> bool {
    let wanted = if v4 { 0 } else { 129 };
    packet.first() == Some(&wanted) && packet.get(HEAD..HEAD + TOKEN) == Some(&token[..])
}

/// What follows an IPv4 header, whose length in words is in its first byte.
fn payload(packet: &[u8]) -> &[u8] {
    let header = packet.first().map_or(0, |first| usize::from(first & 0x0f) * 4);
    packet.get(header..).unwrap_or_default()
}

/// RFC 1071, of an even number of bytes.
fn checksum(packet: &[u8]) -> u16 {
    let words =
        packet.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    !u16::try_from(folded).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_request_sums_up_to_nothing_and_is_not_its_own_answer() {
        let packet = request(true, 0x1234, [0xab; TOKEN]);
        assert_eq!(checksum(&packet), 0);
        assert!(!is_answer(true, &packet, [0xab; TOKEN]));
        let mut answer = packet;
        answer[0] = 0;
        assert!(is_answer(true, &answer, [0xab; TOKEN]));
        assert!(!is_answer(true, &answer, [0xac; TOKEN]));
    }

    proptest! {
        #[test]
        fn any_packet_is_survived(packet in proptest::collection::vec(any::<u8>(), 0..80)) {
            assert!(!is_answer(true, payload(&packet), [0xab; TOKEN]));
        }
    }
}
