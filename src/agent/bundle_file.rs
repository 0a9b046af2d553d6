//! A sealed bundle as a file: written by `lifesign capture --out`, read by `lifesign show`.

use super::config::Config;
use super::identity;
use super::replace::replace;
use crate::base::limits;
use crate::binding::key_of;
use crate::bundle::{self, Bundle, OpenError, PublicKey, SealError, Sealed};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Why there is no bundle.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The device cannot prove itself.
    #[error("the device cannot prove itself")]
    Identity(#[from] identity::Error),
    /// It could not be sealed.
    #[error("failed to seal")]
    Seal(#[from] SealError),
    /// A file cannot be written.
    #[error("failed to write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file cannot be read.
    #[error("failed to read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It holds something else.
    #[error("{path} holds no certificate with a P-256 key in PEM form")]
    Certificate {
        /// The file.
        path: PathBuf,
    },
    /// It is more than any bundle.
    #[error("{path} has more than {} bytes, so it is no bundle", limits::BODY_BYTES)]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// It is not this device's, or altered.
    #[error(
        "{path} does not open by the certificate {certificate}; give the one of the device that sealed it, by --certificate"
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// Whose it would have to be.
        certificate: PathBuf,
        /// Why.
        #[source]
        source: OpenError,
    },
    /// It is a headline.
    #[error("{path} holds a headline, which has no evidence")]
    Headline {
        /// The file.
        path: PathBuf,
    },
}

/// Seals a bundle in the name of this device, and writes it.
///
/// # Errors
///
/// When the device cannot prove itself, or the file cannot be written.
pub fn write(path: &Path, bundle: &Bundle, config: &Config) -> Result<usize, Error> {
    let identity = identity::load(&config.certificate, &config.key)?;
    let sealed = identity.signer.seal_bundle(bundle)?;
    replace(path, &sealed).map_err(|source| Error::Write { path: path.to_owned(), source })?;
    Ok(sealed.len())
}

/// Reads a bundle that the owner of this certificate sealed, and how long its file is.
///
/// # Errors
///
/// When it cannot be read, or is somebody else's.
pub fn read(path: &Path, certificate: &Path) -> Result<(Bundle, usize), Error> {
    let key = key(certificate)?;
    let sealed = sealed(path)?;
    match bundle::open(&sealed, &key) {
        Ok(Sealed::Bundle(bundle)) => Ok((bundle, sealed.len())),
        Ok(Sealed::Headline(_)) => Err(Error::Headline { path: path.to_owned() }),
        Err(source) => {
            let (path, certificate) = (path.to_owned(), certificate.to_owned());
            Err(Error::Open { path, certificate, source })
        }
    }
}

/// The key of a certificate in a file.
///
/// # Errors
///
/// When it cannot be read, or holds none.
pub fn key(certificate: &Path) -> Result<PublicKey, Error> {
    let pem = fs::read(certificate).map_err(unread(certificate))?;
    key_of(&pem).ok_or_else(|| Error::Certificate { path: certificate.to_owned() })
}

/// The bytes of a file that may be a bundle.
///
/// # Errors
///
/// When it cannot be read, or is too large for one.
pub fn sealed(path: &Path) -> Result<Vec<u8>, Error> {
    let mut sealed = Vec::new();
    let file = File::open(path).map_err(unread(path))?;
    file.take(limits::BODY_BYTES + 1).read_to_end(&mut sealed).map_err(unread(path))?;
    if sealed.len() as u64 > limits::BODY_BYTES {
        return Err(Error::TooLarge { path: path.to_owned() });
    }
    Ok(sealed)
}

fn unread(path: &Path) -> impl Fn(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Read { path: path.clone(), source }
}
