//! Files in PEM into what TLS needs. Cryptography by ring, named explicitly: no process-wide
//! default is asked for.

use super::config::TlsFiles;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why TLS cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is not what it should be.
    #[error("{path} is no {what} in PEM that can be read")]
    File {
        /// Which file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
        /// What is wrong with it.
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    /// A file holds nothing.
    #[error("{0} holds no certificate that can be used")]
    Empty(PathBuf),
    /// Certificate and key do not fit.
    #[error("the key {key} cannot be used with the certificate {certificate}")]
    Pair {
        /// The key.
        key: PathBuf,
        /// The certificate.
        certificate: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// The library has none of what we ask for.
    #[error("no TLS of a version that we speak")]
    Version(#[source] rustls::Error),
    /// The root cannot vouch for anybody.
    #[error("{0} cannot be used to check certificates of devices")]
    Verifier(PathBuf, #[source] rustls::server::VerifierBuilderError),
}

/// To prove ourselves to a broker, and to check it.
///
/// # Errors
///
/// When a file is not what it should be.
pub fn client(files: &TlsFiles) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Version)?
        .with_root_certificates(roots(&files.ca)?)
        .with_client_auth_cert(certificates(&files.certificate)?, key(&files.key)?)
        .map_err(pair(files))?;
    Ok(Arc::new(config))
}

/// To prove ourselves to devices, and to check every one of them: nobody comes in without a
/// certificate.
///
/// # Errors
///
/// When a file is not what it should be.
pub fn server(files: &TlsFiles) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let roots = Arc::new(roots(&files.ca)?);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider))
        .build()
        .map_err(|source| TlsError::Verifier(files.ca.clone(), source))?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Version)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&files.certificate)?, key(&files.key)?)
        .map_err(pair(files))?;
    Ok(Arc::new(config))
}

fn pair(files: &TlsFiles) -> impl Fn(rustls::Error) -> TlsError {
    let (key, certificate) = (files.key.clone(), files.certificate.clone());
    move |source| TlsError::Pair { key: key.clone(), certificate: certificate.clone(), source }
}

fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(certificates(path)?);
    if added == 0 { Err(TlsError::Empty(path.to_owned())) } else { Ok(roots) }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = failed(path, "certificate");
    let found = CertificateDer::pem_file_iter(path).map_err(&failed)?;
    let found = found.collect::<Result<Vec<_>, _>>().map_err(&failed)?;
    if found.is_empty() { Err(TlsError::Empty(path.to_owned())) } else { Ok(found) }
}

pub(super) fn key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(failed(path, "key"))
}

fn failed(path: &Path, what: &'static str) -> impl Fn(rustls_pki_types::pem::Error) -> TlsError {
    let path = path.to_owned();
    move |source| TlsError::File { path: path.clone(), what, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::tests::device::{Device, Validity};

    fn files(place: &Path, name: &str) -> TlsFiles {
        let device = Device::new(name, Validity::Today);
        device.enrol(place);
        let key = place.join(format!("{name}.key"));
        std::fs::write(&key, device.key_pem()).unwrap();
        let certificate = place.join(format!("{name}.pem"));
        TlsFiles { ca: certificate.clone(), certificate, key }
    }

    #[test]
    fn a_wrong_file_is_named() {
        let place = tempfile::tempdir().unwrap();
        let mut files = files(place.path(), "ours");
        files.key = files.certificate.clone();
        let error = client(&files).unwrap_err().to_string();
        assert!(error.contains("ours.pem is no key in PEM"), "{error}");
    }
}
