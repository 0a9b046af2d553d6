//! Where to send, checked as far as it can be without sending.

use crate::base::endpoint::BrokerUrl;
use crate::base::id::DeviceId;
use crate::base::topic::{Kind, Prefix};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::sync::Arc;

/// What the config file says of the broker.
pub struct Config {
    /// Where it is.
    pub broker: BrokerUrl,
    /// What `mqtts` needs.
    pub tls: Option<Tls>,
    /// What every topic begins with.
    pub prefix: Prefix,
    /// The name of this device, part of every topic.
    pub device: DeviceId,
    /// Whether to listen for what the controller binds.
    pub bindings: bool,
}

/// Who we are and whom we believe, as PEM.
pub struct Tls {
    /// The authorities that may vouch for the broker.
    pub ca: Vec<u8>,
    /// The certificate of this device, and those between it and its authority.
    pub certificate: Vec<u8>,
    /// The key of this device.
    pub key: Vec<u8>,
}

/// Why the config cannot be used.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the sentences say it")]
pub enum ConfigError {
    #[error(
        "`{0}` is another machine, and mqtt:// would show it everything in the clear: use mqtts://"
    )]
    Plain(BrokerUrl),
    #[error("mqtts:// needs a CA file, and the certificate and the key of this device")]
    NoTls,
    #[error("the broker `{0}` must be a name or an IPv4 address when TLS is used")]
    ServerName(BrokerUrl),
    #[error("there is no certificate in the {0} file; PEM is expected")]
    NoCertificate(&'static str),
    #[error("the {which} file is damaged")]
    Pem { which: &'static str, source: rustls::pki_types::pem::Error },
    #[error("a certificate in the CA file is none that can be used")]
    Authority(#[source] rustls::Error),
    #[error("the key does not belong to the certificate of this device, or is of an unknown kind")]
    Key(#[source] rustls::Error),
    #[error("TLS cannot be set up")]
    Provider(#[source] rustls::Error),
}

/// A broker that can be connected to.
#[derive(Clone, Debug)]
pub struct Target {
    pub(super) broker: BrokerUrl,
    pub(super) tls: Option<Arc<ClientConfig>>,
    pub(super) device: DeviceId,
    pub(super) topics: Topics,
}

/// The topics of this device.
#[derive(Clone, Debug)]
pub(super) struct Topics {
    pub(super) status: String,
    pub(super) headline: String,
    pub(super) bundle: String,
    pub(super) receipt: String,
    /// Nothing, if nobody listens.
    pub(super) bindings: Option<String>,
}

// === impl Target ===

impl Target {
    /// Checks the config, and that certificate and key fit together.
    ///
    /// # Errors
    ///
    /// With the first thing that is wrong.
    pub fn try_new(config: Config) -> Result<Self, ConfigError> {
        let Config { broker, tls, prefix, device, bindings } = config;
        let tls = if broker.tls {
            let tls = tls.ok_or(ConfigError::NoTls)?;
            if ServerName::try_from(broker.host.as_str()).is_err() {
                return Err(ConfigError::ServerName(broker));
            }
            Some(Arc::new(client_config(&tls)?))
        } else if broker.is_loopback() {
            None
        } else {
            return Err(ConfigError::Plain(broker));
        };
        let topics = Topics {
            status: prefix.topic(&device, Kind::Status),
            headline: prefix.topic(&device, Kind::Headline),
            bundle: prefix.topic(&device, Kind::Bundle),
            receipt: prefix.receipt(&device),
            bindings: bindings.then(|| prefix.bindings(&device)),
        };
        Ok(Self { broker, tls, device, topics })
    }

    /// How a person knows it.
    pub(super) fn name(&self) -> String {
        self.broker.to_string()
    }
}

fn client_config(tls: &Tls) -> Result<ClientConfig, ConfigError> {
    let mut roots = RootCertStore::empty();
    for authority in certificates(&tls.ca, "CA")? {
        roots.add(authority).map_err(ConfigError::Authority)?;
    }
    let chain = certificates(&tls.certificate, "certificate")?;
    let pem = |source| ConfigError::Pem { which: "key", source };
    let key = PrivateKeyDer::from_pem_slice(&tls.key).map_err(pem)?;
    // The provider is named, so that nothing depends on which one a library may have installed.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(ConfigError::Provider)?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(ConfigError::Key)
}

fn certificates(
    pem: &[u8],
    which: &'static str,
) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let certificates = certificates.map_err(|source| ConfigError::Pem { which, source })?;
    if certificates.is_empty() {
        return Err(ConfigError::NoCertificate(which));
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_goes_in_the_clear_to_another_machine() {
        let target = |broker: &str| {
            let (broker, device) = (broker.parse().unwrap(), "device-1".parse().unwrap());
            let prefix = Prefix::default();
            Target::try_new(Config { broker, tls: None, prefix, device, bindings: false })
        };
        for url in ["mqtt://10.0.0.1", "mqtt://broker.example", "mqtt://[2001:db8::1]"] {
            assert!(matches!(target(url), Err(ConfigError::Plain(_))), "{url}");
        }
        assert!(matches!(target("mqtts://broker.example"), Err(ConfigError::NoTls)));
        assert!(target("mqtt://[::1]:7").is_ok());
    }
}
