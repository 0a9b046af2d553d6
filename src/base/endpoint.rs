//! Where a program listens, and whom it calls.

use super::document::{FromNode, Node, Notes, parsed};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// The address of a broker.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BrokerUrl {
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// `mqtts`
    pub tls: bool,
}

/// Why a broker's address is refused.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no broker: mqtts://host:port, or mqtt://host:port without TLS")]
pub struct InvalidUrl(String);

impl BrokerUrl {
    /// Whether the broker is on this machine, so that nobody between could listen.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
    }
}

impl FromStr for BrokerUrl {
    type Err = InvalidUrl;

    fn from_str(text: &str) -> Result<Self, InvalidUrl> {
        let invalid = || InvalidUrl(text.to_owned());
        let (scheme, rest) = text.split_once("://").ok_or_else(invalid)?;
        let (tls, usual) = match scheme {
            "mqtts" => (true, 8883),
            "mqtt" => (false, 1883),
            _ => return Err(invalid()),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        // The colons of an IPv6 address stand within brackets, which belong to the host.
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                (host, port.parse().map_err(|_| invalid())?)
            }
            _ => (rest, usual),
        };
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let is_host = match bare {
            Some(address) => address.parse::<IpAddr>().is_ok(),
            None => {
                !host.is_empty()
                    && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
            }
        };
        if is_host { Ok(Self { host: host.to_owned(), port, tls }) } else { Err(invalid()) }
    }
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl FromNode for BrokerUrl {
    const EXPECTED: &'static str = "a broker such as mqtts://host:8883";

    fn from_node(node: &Node, notes: &Notes) -> Option<Self> {
        parsed(node, notes, |text| text.parse().ok())
    }
}

impl FromNode for SocketAddr {
    const EXPECTED: &'static str = "an address and a port, such as 127.0.0.1:9464,";

    fn from_node(node: &Node, notes: &Notes) -> Option<Self> {
        parsed(node, notes, |text| text.parse().ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_is_a_host_and_a_port() {
        let url: BrokerUrl = "mqtts://mqtt.example.com".parse().unwrap();
        assert_eq!((url.port, url.tls, url.is_loopback()), (8883, true, false));
        let url: BrokerUrl = "mqtt://[::1]:7".parse().unwrap();
        assert_eq!((url.port, url.tls, url.is_loopback()), (7, false, true));
        for (url, shown) in [
            ("mqtt://localhost", "localhost:1883"),
            ("mqtt://127.0.0.1:7", "127.0.0.1:7"),
            ("mqtt://[::1]:7/", "[::1]:7"),
            ("mqtt://[::1]", "[::1]:1883"),
        ] {
            assert_eq!(url.parse::<BrokerUrl>().unwrap().to_string(), shown);
        }
        for bad in [
            "",
            "host:1883",
            "http://host",
            "mqtt://",
            "mqtt://:1",
            "mqtt://a:b",
            "mqtt://a b",
            "mqtt://host:99999",
            "mqtt://[host]",
        ] {
            assert!(bad.parse::<BrokerUrl>().is_err(), "{bad}");
        }
    }
}
