//! TLS with an app: who is believed, and until when its certificate holds.
//!
//! An app is asked by its address, with a certificate that it made for itself or that names a host
//! we do not call it by. So by default anybody is believed: this is a question whether the service
//! lives, and nothing that matters is told to it. Its certificate's end is read all the same.

use super::certificate;
use crate::base::time::{Clock, Spoken, Timestamp};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How TLS is spoken.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Who is believed.
    pub trust: Trust,
    /// For how long the certificate must still hold; nothing: that it ends is only told.
    pub valid_for: Option<Duration>,
}

/// Who is believed to be the app.
#[derive(Clone, Debug)]
pub enum Trust {
    /// Anybody.
    Anyone,
    /// Whoever one of these vouches for, under the name or address by which it is asked.
    Roots(Arc<RootCertStore>),
}

/// What a certificate's end means.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Ends {
    /// It holds; in words.
    Well(String),
    /// It does not, or not for long enough; in words.
    Badly(String),
}

/// Shakes hands.
pub(super) async fn shake(
    stream: TcpStream,
    tls: &Tls,
    host: Option<&str>,
    ip: IpAddr,
) -> io::Result<TlsStream<TcpStream>> {
    let name = match host {
        Some(host) => ServerName::try_from(host.to_owned()).map_err(io::Error::other)?,
        None => ServerName::IpAddress(ip.into()),
    };
    let config = Arc::new(config(&tls.trust).map_err(io::Error::other)?);
    TlsConnector::from(config).connect(name, stream).await
}

fn config(trust: &Trust) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?;
    let builder = match trust {
        Trust::Roots(roots) => builder.with_root_certificates(Arc::clone(roots)),
        Trust::Anyone => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Anyone(provider)))
        }
    };
    Ok(builder.with_no_client_auth())
}

/// What the end of the server's certificate means today.
pub(super) fn ends(stream: &TlsStream<TcpStream>, tls: &Tls) -> Ends {
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let validity = certificates.first().and_then(|first| certificate::validity(first));
    judge(validity, Clock::wall(), tls.valid_for)
}

fn judge(
    validity: Option<certificate::Validity>,
    now: Timestamp,
    valid_for: Option<Duration>,
) -> Ends {
    let Some(certificate::Validity { from, to }) = validity else {
        return Ends::Well("a certificate whose dates cannot be read".to_owned());
    };
    // A device without a battery wakes up in 1970; no certificate is blamed for that.
    if now < from {
        return Ends::Well(format!(
            "a certificate made for after {from}, which by this device's clock is still to come"
        ));
    }
    let left = to.as_millis().saturating_sub(now.as_millis());
    let left = Duration::from_millis(u64::try_from(left).unwrap_or(0));
    match valid_for {
        Some(_) if left.is_zero() => Ends::Badly(format!("its certificate ended at {to}")),
        Some(wanted) if left < wanted => Ends::Badly(format!(
            "its certificate ends at {to}, in {}, and {} were asked for",
            days(left),
            days(wanted)
        )),
        Some(_) | None if left.is_zero() => Ends::Well(format!("a certificate that ended at {to}")),
        Some(_) | None => Ends::Well(format!("a certificate until {to}")),
    }
}

fn days(duration: Duration) -> String {
    const DAY: u64 = 24 * 3600;
    match duration.as_secs() / DAY {
        0 => Spoken(duration).to_string(),
        1 => "1 day".to_owned(),
        days => format!("{days} days"),
    }
}

/// Believes anybody. Not even the handshake's signature is looked at, for it would prove who speaks,
/// and the old certificates of appliances could not be parsed for it.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 24 * 3600 * 1000;

    #[test]
    fn an_end_is_judged_by_what_was_asked() {
        let at = |day: i64| Timestamp::from_millis((20_000 + day) * DAY);
        let validity = Some(certificate::Validity { from: at(0), to: at(10) });
        let week = Some(Duration::from_hours(7 * 24));
        let says = |now, valid_for| match judge(validity, now, valid_for) {
            Ends::Well(said) => format!("well: {said}"),
            Ends::Badly(said) => format!("badly: {said}"),
        };
        let all = [
            says(at(1), week),
            says(at(5), week),
            says(at(11), week),
            says(at(11), None),
            says(at(5), None),
            says(at(-1), week),
        ];
        insta::assert_snapshot!(all.join("\n"), @"
        well: a certificate until 2024-10-14T00:00:00Z
        badly: its certificate ends at 2024-10-14T00:00:00Z, in 5 days, and 7 days were asked for
        badly: its certificate ended at 2024-10-14T00:00:00Z
        well: a certificate that ended at 2024-10-14T00:00:00Z
        well: a certificate until 2024-10-14T00:00:00Z
        well: a certificate made for after 2024-10-04T00:00:00Z, which by this device's clock is still to come
        ");
    }
}
