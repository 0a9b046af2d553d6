//! What is wrong with the link, as a sentence that an operator can act on.
//!
//! The same trouble is always the same sentence, without times or counts, so that it can be told
//! once and not at every try.

use crate::base::text::harmless_line;
use crate::base::time::Spoken;
use rumqttc::TlsError;
use rumqttc::v5::mqttbytes::Error as PacketError;
use rumqttc::v5::mqttbytes::v5::{
    ConnectReturnCode as Code, DisconnectReasonCode as Reason, PubAckReason, SubscribeReasonCode,
};
use rumqttc::v5::{ConnectionError, StateError};
use rustls::{AlertDescription as Alert, CertificateError};
use std::fmt;
use std::io;
use std::time::Duration;

/// The link is thrown away if the broker does not take a connection in this time: a handshake over
/// a slow link with lost packets takes ten seconds.
pub(super) const CONNECT: Duration = Duration::from_secs(20);

/// A sentence: which broker, what, and what to do.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Trouble(String);

// === impl Trouble ===

impl Trouble {
    fn new(broker: &str, what: impl fmt::Display) -> Self {
        Self(format!("the broker {broker} {what}"))
    }

    pub(super) fn silent(broker: &str) -> Self {
        Self::new(broker, "stopped answering; it hangs, or the network between is gone")
    }

    pub(super) fn stuck(broker: &str) -> Self {
        Self::new(broker, "does not take messages as fast as it acknowledges them")
    }

    pub(super) fn too_large(broker: &str, size: usize) -> Self {
        Self::new(
            broker,
            format!("does not take a message of {size} bytes; allow it larger packets"),
        )
    }

    pub(super) fn narrow(broker: &str, packet: usize) -> Self {
        let what = format!("takes packets of at most {packet} bytes; allow it 8 KiB or more");
        Self::new(broker, what)
    }

    pub(super) fn hasty(broker: &str) -> Self {
        Self::new(broker, "demands a keep alive of less than 5 s; set it to 30 s")
    }

    pub(super) fn deaf(broker: &str, why: &str) -> Self {
        let what = format!("does not let this device read its receipts ({why}); correct its ACL");
        Self::new(broker, what)
    }

    pub(super) fn unbound(broker: &str, why: &str) -> Self {
        let what = format!("does not let this device read its bindings ({why}); correct its ACL");
        Self::new(broker, what)
    }

    pub(super) fn unheard(broker: &str, why: &str) -> Self {
        Self::new(broker, format!("does not pass on what this device publishes: {why}"))
    }
}

/// Why the broker did not pass a message on.
pub(super) fn refused_publish(reason: PubAckReason) -> Option<&'static str> {
    match reason {
        PubAckReason::Success => None,
        PubAckReason::NoMatchingSubscribers => Some("no controller listens; start one"),
        PubAckReason::NotAuthorized => Some("not authorized; correct its ACL"),
        PubAckReason::QuotaExceeded => Some("a quota is used up; raise it"),
        PubAckReason::TopicNameInvalid => Some("it does not allow the topic; correct the prefix"),
        PubAckReason::UnspecifiedError
        | PubAckReason::ImplementationSpecificError
        | PubAckReason::PacketIdentifierInUse
        | PubAckReason::PayloadFormatInvalid => Some("it does not say why; look into its log"),
    }
}

/// Why the broker did not take the subscription.
pub(super) fn refused_subscription(code: &SubscribeReasonCode) -> Option<&'static str> {
    match code {
        SubscribeReasonCode::Success(_) => None,
        SubscribeReasonCode::NotAuthorized => Some("not authorized"),
        SubscribeReasonCode::TopicFilterInvalid => Some("it does not allow the topic"),
        SubscribeReasonCode::QuotaExceeded => Some("a quota is used up"),
        SubscribeReasonCode::Failure
        | SubscribeReasonCode::Unspecified
        | SubscribeReasonCode::ImplementationSpecific
        | SubscribeReasonCode::PkidInUse
        | SubscribeReasonCode::SharedSubscriptionsNotSupported
        | SubscribeReasonCode::SubscriptionIdNotSupported
        | SubscribeReasonCode::WildcardSubscriptionsNotSupported => Some("it does not say why"),
    }
}

/// The sentence for what the library reports.
#[expect(clippy::wildcard_enum_match_arm, reason = "the rest is said in the library's words")]
pub(super) fn explain(error: &ConnectionError, broker: &str) -> Trouble {
    match error {
        ConnectionError::Io(error)
        | ConnectionError::Tls(TlsError::Io(error))
        | ConnectionError::MqttState(StateError::Io(error))
        | ConnectionError::MqttState(StateError::Deserialization(PacketError::Io(error))) => {
            io_trouble(error, broker)
        }
        ConnectionError::Tls(TlsError::TLS(error)) => tls_trouble(error, broker),
        ConnectionError::Timeout(_) => {
            let within = Spoken(CONNECT);
            let what = format!(
                "did not answer within {within}; is a firewall between, or TLS on one side only?"
            );
            Trouble::new(broker, what)
        }
        ConnectionError::ConnectionRefused(code) => Trouble::new(broker, refused(*code)),
        ConnectionError::MqttState(error) => state_trouble(error, broker),
        other => Trouble::new(broker, format!("cannot be used: {other}")),
    }
}

fn io_trouble(error: &io::Error, broker: &str) -> Trouble {
    if let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref()) {
        return tls_trouble(tls, broker);
    }
    let text = error.to_string();
    if text.contains("failed to lookup address") {
        return Trouble::new(broker, "is not known by that name; correct the name, or the DNS");
    }
    #[expect(clippy::wildcard_enum_match_arm, reason = "the rest is said in the system's words")]
    let what = match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            "refused the connection: nothing listens there; start it, or correct the port"
        }
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => {
            "cannot be reached: there is no route; look at the network of this device"
        }
        io::ErrorKind::TimedOut => "did not answer; is a firewall between?",
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::UnexpectedEof => closed(),
        _ => return Trouble::new(broker, format!("cannot be used: {text}")),
    };
    Trouble::new(broker, what)
}

fn closed() -> &'static str {
    "closed the connection; if it does so again, its log says why"
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the rest is said in the library's words")]
fn tls_trouble(error: &rustls::Error, broker: &str) -> Trouble {
    let what = match error {
        rustls::Error::InvalidCertificate(error) => return broker_certificate(error, broker),
        rustls::Error::AlertReceived(alert) => match alert {
            Alert::CertificateExpired => {
                "refused this device: its certificate has expired; renew it"
            }
            Alert::CertificateRevoked => "refused this device: its certificate was revoked",
            Alert::UnknownCA => {
                "refused this device: it does not know the authority of the device's certificate"
            }
            Alert::CertificateRequired
            | Alert::BadCertificate
            | Alert::CertificateUnknown
            | Alert::UnsupportedCertificate
            | Alert::AccessDenied
            | Alert::DecryptError => "refused this device's certificate; its log says why",
            Alert::HandshakeFailure | Alert::ProtocolVersion => {
                "and this device have no TLS version or cipher in common"
            }
            other => return Trouble::new(broker, format!("broke TLS off: {other:?}")),
        },
        rustls::Error::InvalidMessage(_) => "does not speak TLS there; correct the port",
        other => return Trouble::new(broker, format!("cannot be used over TLS: {other}")),
    };
    Trouble::new(broker, what)
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the rest is said in the library's words")]
fn broker_certificate(error: &CertificateError, broker: &str) -> Trouble {
    let what = match error {
        CertificateError::UnknownIssuer => {
            "shows a certificate of an authority that is not in the CA file"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "shows a certificate that has expired, or the clock of this device is wrong"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "shows a certificate that is not valid yet, or the clock of this device is wrong"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "shows the certificate of another host; correct the name of the broker"
        }
        other => {
            return Trouble::new(broker, format!("shows a certificate that is no good: {other:?}"));
        }
    };
    Trouble::new(broker, what)
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the rest is said in the broker's words")]
fn refused(code: Code) -> String {
    let what = match code {
        Code::NotAuthorized | Code::BadUserNamePassword | Code::Banned => {
            "refused this device: it is not authorized; register it, or correct its certificate"
        }
        Code::ClientIdentifierNotValid | Code::BadClientId => {
            "refused the client id of this device; allow `lifesign-` and the name of the device"
        }
        Code::UnsupportedProtocolVersion | Code::RefusedProtocolVersion => {
            "does not speak MQTT 5; switch it on"
        }
        Code::ServerUnavailable | Code::ServerBusy | Code::ServiceUnavailable => {
            "is there but not ready"
        }
        Code::QuotaExceeded | Code::ConnectionRateExceeded => {
            "has too many clients; raise its quota"
        }
        other => return format!("refused the connection: {other:?}"),
    };
    what.to_owned()
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the rest is said in the library's words")]
fn state_trouble(error: &StateError, broker: &str) -> Trouble {
    match error {
        StateError::ConnectionAborted => Trouble::new(broker, closed()),
        StateError::AwaitPingResp | StateError::CollisionTimeout => Trouble::silent(broker),
        StateError::ServerDisconnect { reason_code: Reason::SessionTakenOver, .. } => {
            Trouble::new(broker, "sees another client with the name of this device; rename one")
        }
        StateError::ServerDisconnect { reason_code: Reason::ServerShuttingDown, .. } => {
            Trouble::new(broker, "is shutting down")
        }
        StateError::ServerDisconnect { reason_code, reason_string } => {
            let words = harmless_line(reason_string.as_deref().unwrap_or_default().as_bytes());
            Trouble::new(
                broker,
                format!("sent this device away: {reason_code:?} {words}").trim_end(),
            )
        }
        other => Trouble::new(broker, format!("and this device misunderstand each other: {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(error: &ConnectionError) -> String {
        explain(error, "b:1").to_string()
    }

    fn over_tls(error: rustls::Error) -> ConnectionError {
        ConnectionError::Tls(TlsError::Io(io::Error::new(io::ErrorKind::InvalidData, error)))
    }

    /// With TLS 1.3 the broker judges the device after the handshake, when packets are read.
    fn alert(alert: Alert) -> ConnectionError {
        let error = io::Error::new(io::ErrorKind::InvalidData, rustls::Error::AlertReceived(alert));
        ConnectionError::MqttState(StateError::Deserialization(PacketError::Io(error)))
    }

    #[test]
    fn a_sentence_tells_what_to_do() {
        let io = |kind: io::ErrorKind| ConnectionError::Io(kind.into());
        let no_name = io::Error::other("failed to lookup address information: not known");
        let bad = |error| over_tls(rustls::Error::InvalidCertificate(error));
        for (error, sentence) in [
            (
                io(io::ErrorKind::ConnectionRefused),
                "refused the connection: nothing listens there; start it, or correct the port",
            ),
            (
                ConnectionError::Io(no_name),
                "is not known by that name; correct the name, or the DNS",
            ),
            (
                io(io::ErrorKind::HostUnreachable),
                "cannot be reached: there is no route; look at the network of this device",
            ),
            (
                bad(CertificateError::Expired),
                "shows a certificate that has expired, or the clock of this device is wrong",
            ),
            (
                bad(CertificateError::UnknownIssuer),
                "shows a certificate of an authority that is not in the CA file",
            ),
            (
                alert(Alert::CertificateExpired),
                "refused this device: its certificate has expired; renew it",
            ),
            (
                alert(Alert::UnknownCA),
                "refused this device: it does not know the authority of the device's certificate",
            ),
            (
                ConnectionError::ConnectionRefused(Code::NotAuthorized),
                "refused this device: it is not authorized; register it, or correct its certificate",
            ),
            (
                ConnectionError::ConnectionRefused(Code::UnsupportedProtocolVersion),
                "does not speak MQTT 5; switch it on",
            ),
            (
                ConnectionError::MqttState(StateError::AwaitPingResp),
                "stopped answering; it hangs, or the network between is gone",
            ),
        ] {
            assert_eq!(said(&error), format!("the broker b:1 {sentence}"));
        }
    }

    #[test]
    fn what_a_broker_says_is_made_harmless() {
        let reason_string = Some("go\n\u{1b}[2Jaway".to_owned());
        let reason_code = Reason::AdministrativeAction;
        let error = StateError::ServerDisconnect { reason_code, reason_string };
        assert_eq!(
            said(&ConnectionError::MqttState(error)),
            "the broker b:1 sent this device away: AdministrativeAction go \\u{1b}[2Jaway"
        );
    }
}
