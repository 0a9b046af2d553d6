//! The kernel's table of neighbours, for those who may not ask on the wire.

use crate::base::rung::{Finding, Rung};
use crate::transport::network::Target;
use crate::transport::network::dial::excuse;
use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep};

const TABLE: &str = "/proc/net/arp";

/// A neighbour that lives answers within milliseconds; the table is a file of some lines.
const LOOK: Duration = Duration::from_millis(50);

/// Nobody listens at the port of `discard`, and a reset of UDP costs nobody anything.
const DISCARD: u16 = 9;

/// What the table says of an address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Entry {
    /// Nothing.
    None,
    /// It is being looked for, or was not found.
    Incomplete,
    /// Somebody owned it, sometime.
    Complete,
}

/// Makes the kernel look, and looks what it found.
pub(super) async fn ask(
    target: &Target<'_>,
    interface: &str,
    ip: Ipv4Addr,
    deadline: Instant,
) -> Finding {
    let unknown = |why| Finding::unknown(Rung::Kernel, why);
    let table = || std::fs::read_to_string(TABLE);
    let Ok(before) = table() else { return unknown(format!("{TABLE} cannot be read")) };
    let known = entry(&before, interface, ip) == Entry::Complete;
    if let Err(error) = provoke(target, interface).await {
        return unknown(excuse(target, &error));
    }
    let mut last = Entry::None;
    while Instant::now() < deadline {
        sleep(LOOK.min(deadline - Instant::now())).await;
        last = table().map_or(Entry::None, |table| entry(&table, interface, ip));
        if last == Entry::Complete && !known {
            let reason = format!("{ip} was found on `{interface}` when the kernel looked for it");
            return Finding::alive(Rung::Kernel, reason);
        }
    }
    match last {
        Entry::Incomplete => Finding::dead(
            Rung::Kernel,
            format!("the kernel finds nobody on `{interface}` for {ip}"),
        ),
        Entry::Complete => {
            unknown(format!("who has {ip} is known from before; to ask anew needs CAP_NET_RAW"))
        }
        Entry::None => unknown(format!("the kernel does not look for {ip} on `{interface}`")),
    }
}

async fn provoke(target: &Target<'_>, interface: &str) -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.send_to(&[], (target.address.ip(), DISCARD)).await?;
    Ok(())
}

/// `address type flags mac mask device`, with a bit in `flags` for a complete entry.
fn entry(table: &str, interface: &str, ip: Ipv4Addr) -> Entry {
    const COMPLETE: u32 = 2;
    let of_it = table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [address, _, flags, _, _, device] = fields[..] else { return None };
        (device == interface && address.parse() == Ok(ip)).then_some(flags)
    });
    let flags =
        of_it.and_then(|flags| u32::from_str_radix(flags.trim_start_matches("0x"), 16).ok());
    match flags {
        None => Entry::None,
        Some(flags) if flags & COMPLETE != 0 => Entry::Complete,
        Some(_) => Entry::Incomplete,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_of_an_address_and_an_interface() {
        let table = "IP address       HW type     Flags       HW address            Mask     Device\n\
                     10.0.0.2         0x1         0x2         02:00:00:00:00:02     *        bn1\n\
                     10.0.0.3         0x1         0x0         00:00:00:00:00:00     *        bn1\n";
        let of = |interface, last| entry(table, interface, Ipv4Addr::new(10, 0, 0, last));
        assert_eq!(of("bn1", 2), Entry::Complete);
        assert_eq!(of("bn2", 2), Entry::None);
        assert_eq!(of("bn1", 3), Entry::Incomplete);
        assert_eq!(of("bn1", 4), Entry::None);
    }
}
