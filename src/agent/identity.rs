//! Who this device is: its certificate and key, and which boot this is.

use crate::bundle::{KeyError, Signer};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::io;
use std::path::{Path, PathBuf};

/// What a device proves itself with.
pub struct Identity {
    /// Seals in its name.
    pub signer: Signer,
    /// The certificate, PEM, for TLS.
    pub certificate_pem: Vec<u8>,
    /// The key, PEM, for TLS.
    pub key_pem: Vec<u8>,
}

/// Why the device cannot prove itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("failed to read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file holds something else.
    #[error("{path} holds no {what} in PEM form")]
    Pem {
        /// The file.
        path: PathBuf,
        /// What should be there.
        what: &'static str,
    },
    /// The key is of the older form.
    #[error(
        "the key in {path} is in SEC1 form; \
         `openssl pkcs8 -topk8 -nocrypt -in {path}` makes the PKCS#8 form that is needed"
    )]
    Sec1 {
        /// The file.
        path: PathBuf,
    },
    /// The key is of another kind.
    #[error("the key in {path} cannot sign")]
    Key {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: KeyError,
    },
}

/// Loads certificate and key.
///
/// # Errors
///
/// When one cannot be read, or is of the wrong form or kind.
pub fn load(certificate: &Path, key: &Path) -> Result<Identity, Error> {
    let read = |path: &Path| {
        std::fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })
    };
    let (certificate_pem, key_pem) = (read(certificate)?, read(key)?);
    let pem = |path: &Path, what| Error::Pem { path: path.to_owned(), what };
    let der = CertificateDer::from_pem_slice(&certificate_pem)
        .map_err(|_| pem(certificate, "certificate"))?;
    let pkcs8 = match PrivateKeyDer::from_pem_slice(&key_pem) {
        Ok(PrivateKeyDer::Pkcs8(pkcs8)) => pkcs8,
        Ok(PrivateKeyDer::Sec1(_)) => return Err(Error::Sec1 { path: key.to_owned() }),
        Ok(_) | Err(_) => return Err(pem(key, "private key")),
    };
    let signer = Signer::new(pkcs8.secret_pkcs8_der(), &der)
        .map_err(|source| Error::Key { path: key.to_owned(), source })?;
    Ok(Identity { signer, certificate_pem, key_pem })
}

/// Which boot of the device this is. Zeros where the kernel does not tell.
#[must_use]
pub fn boot_id() -> [u8; 16] {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let id: Option<crate::base::id::AppId> = text.trim().parse().ok();
    id.map_or([0; 16], |id| *id.as_bytes())
}
