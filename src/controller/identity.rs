//! Who may speak: the enrolled certificates, one `<device>.pem` each.
//!
//! A sealed message names its sender by the SHA-256 of a certificate. The certificate was trusted
//! when somebody put it into the directory, so its issuer is not asked again; whether it is valid
//! today is. The directory is reread when an unknown sender comes, but at most once a second, so
//! that strangers cannot keep the disk busy, and once a minute in any case, so that who was taken
//! out of it is forgotten.

use crate::base::id::{DeviceId, Digest};
use crate::base::time::{Instant, Timestamp};
use crate::bundle::PublicKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, UnixTime};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use webpki::EndEntityCert;

/// How long the directory is believed not to have what we miss,
const REREAD: Duration = Duration::from_secs(1);

/// and to still have what we found.
const REREAD_ALL: Duration = Duration::from_secs(60);

/// A certificate file that is larger holds something else.
const FILE_BYTES: u64 = 64 * 1024;

/// The enrolled certificates.
pub struct Enrolled {
    directory: PathBuf,
    senders: BTreeMap<Digest, Certificate>,
    read_at: Option<Instant>,
}

/// A sender that is believed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Sender {
    /// The device that the certificate was enrolled for.
    pub device: DeviceId,
    /// What its signatures are checked with.
    pub key: PublicKey,
    /// The same in DER, to be kept beside what it signed.
    pub spki: Vec<u8>,
}

/// Why a sender is not believed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Stranger {
    /// No certificate has this digest.
    #[error(
        "no enrolled certificate has the SHA-256 {0}: put the device's certificate into the \
         controller's directory of devices"
    )]
    Unknown(Digest),
    /// It was valid once.
    #[error("the certificate of {device} has expired at {at}: renew and enrol it again")]
    Expired {
        /// Whose.
        device: DeviceId,
        /// When.
        at: Timestamp,
    },
    /// It will be valid some day, or a clock is wrong.
    #[error("the certificate of {device} is valid from {at} only: check the controller's clock")]
    NotYet {
        /// Whose.
        device: DeviceId,
        /// When.
        at: Timestamp,
    },
    /// Its validity makes no sense.
    #[error("the certificate of {device} has no validity that can be read: enrol another")]
    Unreadable {
        /// Whose.
        device: DeviceId,
    },
}

struct Certificate {
    der: CertificateDer<'static>,
    sender: Sender,
}

impl Enrolled {
    /// Will read `directory` when somebody first asks.
    #[must_use]
    pub fn new(directory: PathBuf) -> Self {
        Self { directory, senders: BTreeMap::new(), read_at: None }
    }

    /// Who has signed with this certificate, if he is to be believed now.
    ///
    /// # Errors
    ///
    /// Why he is not.
    pub fn sender(
        &mut self,
        certificate: Digest,
        now: Instant,
        today: Timestamp,
    ) -> Result<Sender, Stranger> {
        self.refresh(now, self.senders.contains_key(&certificate));
        let found = self.senders.get(&certificate).ok_or(Stranger::Unknown(certificate))?;
        found.check(today)?;
        Ok(found.sender.clone())
    }

    /// Whether a certificate was enrolled for this device, valid or not.
    pub fn knows(&mut self, device: &DeviceId, now: Instant) -> bool {
        let known = |all: &BTreeMap<Digest, Certificate>| {
            all.values().any(|certificate| certificate.sender.device == *device)
        };
        self.refresh(now, known(&self.senders));
        known(&self.senders)
    }

    fn refresh(&mut self, now: Instant, found: bool) {
        let age = if found { REREAD_ALL } else { REREAD };
        if self.read_at.is_none_or(|at| now.since(at) >= age) {
            self.read_at = Some(now);
            self.reread();
        }
    }

    /// A file that cannot be read must not take the other devices with it, so it is only named.
    fn reread(&mut self) {
        let mut files = match list(&self.directory) {
            Ok(files) => files,
            Err(error) => {
                let directory = self.directory.display();
                tracing::error!(%directory, %error, "failed to list the enrolled devices");
                return;
            }
        };
        files.sort();
        self.senders.clear();
        for (device, path) in files {
            match read(&device, &path) {
                Ok(certificate) => {
                    self.senders.insert(Digest::of(&certificate.der), certificate);
                }
                Err(why) => {
                    tracing::warn!(file = %path.display(), why, "a device is not enrolled");
                }
            }
        }
    }
}

fn list(directory: &Path) -> io::Result<Vec<(DeviceId, PathBuf)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Some(Ok(device)) = name.strip_suffix(".pem").map(str::parse) {
            files.push((device, path));
        }
    }
    Ok(files)
}

/// Every device that has a certificate here, right or not, in order.
///
/// # Errors
///
/// When the directory cannot be read.
pub fn devices(directory: &Path) -> io::Result<Vec<DeviceId>> {
    let mut devices: Vec<_> = list(directory)?.into_iter().map(|(device, _)| device).collect();
    devices.sort();
    Ok(devices)
}

fn read(device: &DeviceId, path: &Path) -> Result<Certificate, &'static str> {
    let (der, spki, key) = certificate(path)?;
    Ok(Certificate { der, sender: Sender { device: device.clone(), key, spki } })
}

/// A certificate that a signature can be checked with: itself, its key in DER, and its key.
pub(super) fn certificate(
    path: &Path,
) -> Result<(CertificateDer<'static>, Vec<u8>, PublicKey), &'static str> {
    let size = std::fs::metadata(path).map_err(|_| "it cannot be read")?.len();
    if size > FILE_BYTES {
        return Err("it is too large for a certificate");
    }
    let der = CertificateDer::from_pem_file(path).map_err(|_| "it holds no certificate in PEM")?;
    let spki = EndEntityCert::try_from(&der)
        .map_err(|_| "its certificate cannot be read")?
        .subject_public_key_info()
        .to_vec();
    let key = PublicKey::from_spki(&spki).ok_or("its key is no P-256 key")?;
    Ok((der, spki, key))
}

impl Certificate {
    /// Validity is the only thing that is asked of webpki: with no root to lead to, a certificate
    /// that is valid today ends in `UnknownIssuer` or another complaint that enrolment overrules.
    fn check(&self, today: Timestamp) -> Result<(), Stranger> {
        let device = || self.sender.device.clone();
        let unreadable = |_| Stranger::Unreadable { device: device() };
        let certificate = EndEntityCert::try_from(&self.der).map_err(unreadable)?;
        let seconds = u64::try_from(today.as_millis() / 1000).unwrap_or(0);
        let time = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let usage = webpki::KeyUsage::client_auth();
        let verdict = certificate.verify_for_usage(&[], &[], &[], time, usage, None, None);
        match verdict.err() {
            Some(webpki::Error::CertExpired { not_after, .. }) => {
                Err(Stranger::Expired { device: device(), at: timestamp(not_after) })
            }
            Some(webpki::Error::CertNotValidYet { not_before, .. }) => {
                Err(Stranger::NotYet { device: device(), at: timestamp(not_before) })
            }
            Some(webpki::Error::InvalidCertValidity | webpki::Error::BadDer) => {
                Err(Stranger::Unreadable { device: device() })
            }
            _ => Ok(()),
        }
    }
}

fn timestamp(time: UnixTime) -> Timestamp {
    Timestamp::from_millis(i64::try_from(time.as_secs().saturating_mul(1000)).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::tests::device::{Device, Validity, today};

    fn at(ms: u64) -> Instant {
        Instant::from_millis(ms)
    }

    #[test]
    fn an_enrolled_device_is_known_and_a_stranger_is_not() {
        let devices = tempfile::tempdir().unwrap();
        let mut enrolled = Enrolled::new(devices.path().to_owned());
        let device = Device::new("d-1", Validity::Today);
        let certificate = device.certificate_digest();
        let unknown = enrolled.sender(certificate, at(0), today()).unwrap_err();
        assert_eq!(unknown, Stranger::Unknown(certificate));

        device.enrol(devices.path());
        let soon = enrolled.sender(certificate, at(999), today());
        assert_eq!(soon, Err(Stranger::Unknown(certificate)), "not read twice in a second");
        let sender = enrolled.sender(certificate, at(1000), today()).unwrap();
        assert_eq!(sender.device.as_str(), "d-1");
    }

    #[test]
    fn a_certificate_of_another_day_is_refused_with_its_day() {
        let devices = tempfile::tempdir().unwrap();
        let mut enrolled = Enrolled::new(devices.path().to_owned());
        let mut refusal = |device: &Device| {
            device.enrol(devices.path());
            enrolled.read_at = None;
            enrolled.sender(device.certificate_digest(), at(0), today()).unwrap_err().to_string()
        };
        insta::assert_snapshot!(refusal(&Device::new("old", Validity::Past)), @"the certificate of old has expired at 2021-01-01T00:00:00Z: renew and enrol it again");
        insta::assert_snapshot!(refusal(&Device::new("new", Validity::Future)), @"the certificate of new is valid from 2039-01-01T00:00:00Z only: check the controller's clock");
    }

    #[test]
    fn who_was_taken_out_is_forgotten_within_a_minute() {
        let devices = tempfile::tempdir().unwrap();
        let device = Device::new("d-1", Validity::Today);
        device.enrol(devices.path());
        let mut enrolled = Enrolled::new(devices.path().to_owned());
        assert!(enrolled.knows(device.id(), at(0)));
        std::fs::remove_file(devices.path().join("d-1.pem")).unwrap();
        assert!(enrolled.knows(device.id(), at(59_999)));
        assert!(!enrolled.knows(device.id(), at(60_000)));
    }

    #[test]
    fn rubbish_in_the_directory_does_no_harm() {
        let devices = tempfile::tempdir().unwrap();
        for (name, content) in
            [("a.pem", "rubbish"), ("b.pem", ""), ("c.txt", "x"), ("..pem", "x"), ("é.pem", "x")]
        {
            std::fs::write(devices.path().join(name), content).unwrap();
        }
        let device = Device::new("d-1", Validity::Today);
        device.enrol(devices.path());
        let mut enrolled = Enrolled::new(devices.path().to_owned());
        assert!(enrolled.sender(device.certificate_digest(), at(0), today()).is_ok());
    }
}
