//! Opening a TCP connection, and what it means when that fails.

use super::{Asked, Target};
use crate::base::rung::{Finding, Rung};
use nix::errno::Errno;
use std::io;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout_at};

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The port is closed, says the other end.
    Reset,
    /// Nothing came back in time.
    Silence,
    /// Nobody answers at that address, says this host or a router.
    Unreachable,
    /// This host cannot ask.
    Ours(String),
}

/// Connects.
pub(super) async fn dial(target: &Target<'_>, deadline: Instant) -> Result<TcpStream, Refusal> {
    let socket = socket(target).map_err(|error| ours(target, &error))?;
    match timeout_at(deadline, socket.connect(target.address)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(refusal(target, &error)),
        Err(_) => Err(Refusal::Silence),
    }
}

fn socket(target: &Target<'_>) -> io::Result<TcpSocket> {
    let socket = if target.address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(interface) = target.interface {
        socket.bind_device(Some(interface.as_bytes()))?;
    }
    Ok(socket)
}

fn refusal(target: &Target<'_>, error: &io::Error) -> Refusal {
    let kind = error.kind();
    if matches!(kind, io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset) {
        Refusal::Reset
    } else if kind == io::ErrorKind::TimedOut {
        Refusal::Silence
    } else if kind == io::ErrorKind::HostUnreachable {
        Refusal::Unreachable
    } else {
        ours(target, error)
    }
}

/// What this host cannot do, with the way out where there is one.
pub(super) fn excuse(target: &Target<'_>, error: &io::Error) -> String {
    let interface = target.interface.unwrap_or_default();
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENODEV) => format!("this host has no interface `{interface}`"),
        Some(Errno::EPERM | Errno::EACCES) if target.interface.is_some() => format!(
            "asking from `{interface}` is not permitted: it needs CAP_NET_RAW, or no firewall rule against it"
        ),
        Some(Errno::EPERM | Errno::EACCES) => {
            "this host's firewall does not let the question out".to_owned()
        }
        Some(Errno::ENETUNREACH) => format!("this host has no route to {}", target.address.ip()),
        _ => format!("this host cannot ask: {error}"),
    }
}

fn ours(target: &Target<'_>, error: &io::Error) -> Refusal {
    Refusal::Ours(excuse(target, error))
}

/// What it says of a service that there is no connection to it.
pub(super) fn service_without(target: &Target<'_>, refusal: Refusal) -> Asked {
    let at = target.address;
    let service = Rung::Service;
    match refusal {
        Refusal::Ours(why) => Finding::unknown(service, why).into(),
        Refusal::Reset if target.nat => {
            Finding::unknown(service, format!("nothing is forwarded from {at} to the guest")).into()
        }
        Refusal::Silence | Refusal::Unreachable if target.nat => Finding::unknown(
            service,
            format!("what answers at {at} in the guest's place does not answer"),
        )
        .into(),
        Refusal::Reset => Asked {
            finding: Finding::dead(service, format!("nobody listens at {at}")),
            beside: Some(reset(target)),
        },
        // A full backlog is silent as well, and so is a firewall: the kernel may live.
        Refusal::Silence => {
            Finding::dead(service, format!("nobody took the connection to {at} in time")).into()
        }
        Refusal::Unreachable => Finding::dead(service, unreachable(target)).into(),
    }
}

/// A closed port, as its kernel tells.
pub(super) fn reset(target: &Target<'_>) -> Finding {
    Finding::alive(
        Rung::Kernel,
        format!("{} was answered with a reset, which its kernel does by itself", target.address),
    )
}

/// Nobody at the address.
pub(super) fn unreachable(target: &Target<'_>) -> String {
    format!("nobody answers at the address {}", target.address.ip())
}

/// A completed connect, where it proves something.
pub(super) fn connected(target: &Target<'_>) -> Option<Finding> {
    let reason = format!("its kernel completed the connection to {}", target.address);
    (!target.nat).then(|| Finding::alive(Rung::Kernel, reason))
}
