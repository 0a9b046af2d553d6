//! Publishing bindings: read as a device reads them, sealed for each device with the controller's
//! key, and kept for the controller that runs, which says them to the broker.
//!
//! Nothing is sealed that a device would refuse for what it says. How far a device lets the
//! controller go is in the device's own config, so a consent that may be too much is a warning.

use super::config::{Config, TlsFiles};
use super::identity;
use super::store::{Bindings as Table, Change, Published, StoreError, Wish};
use super::tls::{self, TlsError};
use crate::base::consent::Consent;
use crate::base::id::{DeviceId, Digest};
use crate::base::problem::Source;
use crate::base::time::Timestamp;
use crate::bundle::{
    Bindings, KeyError, OpenError, PublicKey, SealError, Signer, Text, open_bindings,
};
use crate::rules::{Rules, read_whole};
use rustls_pki_types::PrivateKeyDer;
use std::io;
use std::path::{Path, PathBuf};

/// What a device lets the controller consent to unless its config says more.
const USUAL: Consent = Consent::Input;

/// For who has brought no scenario.
const HELP: &str = "The scenarios that a device has are not meant: each that is named must come along, \
                    with `--scenario FILE`.";

/// Files that a device would take.
pub struct Files {
    scenarios: Vec<Text>,
    bindings: Text,
    rules: Rules,
}

/// Signs for the controller.
struct Seal {
    signer: Signer,
    key: PublicKey,
    files: TlsFiles,
}

/// Why nothing was published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// A file cannot be read.
    #[error("failed to read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The files are wrong.
    #[error("{}", .0.join("\n\n"))]
    Wrong(Vec<String>),
    /// The config names no key.
    #[error(
        "bindings are signed with the controller's key: the config needs \
         `tls: {{ certificate, key, ca }}`"
    )]
    NoTls,
    /// The certificate cannot be used.
    #[error("{path} cannot vouch for bindings: {why}")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The key cannot be read.
    #[error("failed to read the controller's key")]
    Key(#[from] TlsError),
    /// The key is of another kind.
    #[error("the key {path} cannot sign; a P-256 key in PKCS#8 form is needed")]
    KeyKind {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Option<KeyError>,
    },
    /// The key is another one's.
    #[error("the key {key} does not belong to the certificate {certificate}")]
    Pair {
        /// The key.
        key: PathBuf,
        /// The certificate.
        certificate: PathBuf,
        /// Why.
        #[source]
        source: OpenError,
    },
    /// More than one message takes.
    #[error("failed to seal the bindings for {device}")]
    Seal {
        /// For whom.
        device: DeviceId,
        /// Why.
        #[source]
        source: SealError,
    },
    /// No such device.
    #[error("no device `{device}` is enrolled in {directory}; there are: {}", names(.known))]
    Stranger {
        /// Who.
        device: DeviceId,
        /// Where.
        directory: PathBuf,
        /// Who is.
        known: Vec<DeviceId>,
    },
    /// No device at all.
    #[error("no device is enrolled in {0}")]
    Nobody(PathBuf),
    /// Nothing to withdraw.
    #[error("nothing is published for {0}")]
    Nothing(DeviceId),
    /// Somebody else publishes.
    #[error(
        "somebody else has published for {0} at this moment; nothing was changed: look, and try again"
    )]
    Quicker(DeviceId),
    /// What is published cannot be taken up.
    #[error(
        "what is published for {device} does not open with the controller's certificate of today: \
         publish its bindings again"
    )]
    Stale {
        /// For whom.
        device: DeviceId,
        /// Why.
        #[source]
        source: Box<OpenError>,
    },
    /// The index cannot be used.
    #[error("failed to keep what is to be published")]
    Store(#[from] StoreError),
}

fn names(devices: &[DeviceId]) -> String {
    let names: Vec<&str> = devices.iter().map(DeviceId::as_str).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

// === impl Files ===

impl Files {
    /// Reads a bindings file and all scenarios that it names.
    ///
    /// # Errors
    ///
    /// When a file cannot be read, or a device would refuse them; all mistakes of all files are told.
    pub fn read(bindings: &Path, scenarios: &[PathBuf]) -> Result<Self, PublishError> {
        let (shown, bindings) = load(bindings)?;
        let loaded = scenarios.iter().map(|path| load(path)).collect::<Result<Vec<_>, _>>()?;
        let (sources, scenarios): (Vec<_>, Vec<_>) = loaded.into_iter().unzip();
        let rules = read_whole(sources, shown).map_err(|mut wrong| {
            if scenarios.is_empty() {
                wrong.push(HELP.to_owned());
            }
            PublishError::Wrong(wrong)
        })?;
        Ok(Self { scenarios, bindings, rules })
    }

    /// What binds nothing, and so withdraws all bindings.
    #[must_use]
    pub fn none() -> Self {
        let bindings = Text { name: "nothing".to_owned(), text: "bindings: []\n".to_owned() };
        Self { scenarios: Vec::new(), bindings, rules: Rules::default() }
    }

    /// What is right, and yet may be refused.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let beyond = self.rules.iter().filter_map(|rule| {
            let consent = rule.consent.filter(|consent| *consent > USUAL)?;
            let place = &rule.place;
            Some(format!(
                "{place}: a device lets the controller consent to `{consent}` only if its config \
                 says `controller: {{ consent: {consent} }}` or more"
            ))
        });
        beyond.collect()
    }
}

/// A file by the name that was typed, for who reads of its mistakes here, and by its own name, for
/// who reads of it on a device.
fn load(path: &Path) -> Result<(Source, Text), PublishError> {
    let unread = |source| PublishError::Read { path: path.to_owned(), source };
    let text = std::fs::read_to_string(path).map_err(unread)?;
    let own = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    let source = Source { name: path.display().to_string(), text: text.clone() };
    Ok((source, Text { name: own, text }))
}

// === impl Seal ===

impl Seal {
    fn load(files: Option<&TlsFiles>) -> Result<Self, PublishError> {
        let files = files.ok_or(PublishError::NoTls)?;
        let TlsFiles { certificate, key, .. } = files;
        let (der, public) = public_key(certificate)?;
        let kind = |source| PublishError::KeyKind { path: key.clone(), source };
        let PrivateKeyDer::Pkcs8(pkcs8) = tls::key(key)? else { return Err(kind(None)) };
        let signer =
            Signer::new(pkcs8.secret_pkcs8_der(), &der).map_err(|source| kind(Some(source)))?;
        Ok(Self { signer, key: public, files: files.clone() })
    }

    /// Seals, and opens with the certificate what was sealed with the key, as a device does.
    fn seal(&self, bindings: &Bindings) -> Result<Vec<u8>, PublishError> {
        let device = bindings.device.clone();
        let failed = |source| PublishError::Seal { device, source };
        let sealed = self.signer.seal_bindings(bindings).map_err(failed)?;
        let TlsFiles { certificate, key, .. } = self.files.clone();
        open_bindings(&sealed, &self.key).map_err(|source| PublishError::Pair {
            key,
            certificate,
            source,
        })?;
        Ok(sealed)
    }
}

/// Publishes `files` for these devices: for all of them, or for none. Says under which numbers. What was
/// asked for of dumps stays so.
///
/// # Errors
///
/// When it cannot be sealed or kept.
pub fn publish(
    config: &Config,
    files: &Files,
    devices: &[DeviceId],
    now: Timestamp,
) -> Result<Vec<(DeviceId, u64)>, PublishError> {
    let mut desk = Desk::open(config)?;
    let mut all = Vec::with_capacity(devices.len());
    for device in devices {
        let before = desk.table.of(device)?;
        let (scenarios, bindings) = (files.scenarios.clone(), files.bindings.clone());
        let content = Content { scenarios, bindings, wish: None };
        all.push(desk.change(device, before.as_ref(), content, now)?);
    }
    desk.keep(all)
}

/// Publishes for a device what is published, but for one wish. Says under which number.
///
/// # Errors
///
/// When it cannot be sealed or kept, or what is published cannot be read.
pub(super) fn wish(
    config: &Config,
    device: &DeviceId,
    wish: Wish,
    now: Timestamp,
) -> Result<u64, PublishError> {
    let mut desk = Desk::open(config)?;
    let before = desk.table.of(device)?;
    let (scenarios, bindings) = match &before {
        None => (Vec::new(), Files::none().bindings),
        Some(before) => {
            let stale =
                |source| PublishError::Stale { device: device.clone(), source: Box::new(source) };
            let opened = open_bindings(&before.sealed, &desk.seal.key).map_err(stale)?;
            (opened.scenarios, opened.bindings)
        }
    };
    let content = Content { scenarios, bindings, wish: Some(wish) };
    let change = desk.change(device, before.as_ref(), content, now)?;
    let published = desk.keep(vec![change])?;
    Ok(published.first().map_or(0, |(_, sequence)| *sequence))
}

/// Where messages for devices are made.
struct Desk {
    seal: Seal,
    table: Table,
}

/// What is to be said to a device.
struct Content {
    scenarios: Vec<Text>,
    bindings: Text,
    /// What changes of the dumps that it is asked for.
    wish: Option<Wish>,
}

impl Desk {
    fn open(config: &Config) -> Result<Self, PublishError> {
        let seal = Seal::load(config.tls.as_ref())?;
        let table = Table::open(&config.data)?;
        Ok(Self { seal, table })
    }

    fn change(
        &self,
        device: &DeviceId,
        before: Option<&Published>,
        Content { scenarios, bindings, wish }: Content,
        now: Timestamp,
    ) -> Result<Change, PublishError> {
        let sequence = self.table.next(device, now)?;
        let dumps = self.dumps(device, wish.as_ref())?;
        let bindings = Bindings { device: device.clone(), sequence, scenarios, bindings, dumps };
        let sealed = self.seal.seal(&bindings)?;
        let row = Published { device: device.clone(), sequence, at: now, sealed };
        Ok(Change { row, after: before.map(|before| before.sequence), wish })
    }

    /// What is asked for of a device, with a wish that comes or goes. Looked up after the row that is
    /// replaced: who changes it meanwhile changes that row, too, and nothing is kept.
    fn dumps(&self, device: &DeviceId, wish: Option<&Wish>) -> Result<Vec<Digest>, PublishError> {
        let (asked, cancelled) = match wish {
            Some(Wish::Ask(wanted)) => (Some(wanted.digest), None),
            Some(Wish::Cancel(digest)) => (None, Some(*digest)),
            None => (None, None),
        };
        let mut dumps = self.table.dumps(device)?;
        dumps.retain(|digest| Some(*digest) != cancelled && Some(*digest) != asked);
        dumps.extend(asked);
        Ok(dumps)
    }

    fn keep(&mut self, all: Vec<Change>) -> Result<Vec<(DeviceId, u64)>, PublishError> {
        match self.table.publish(&all)? {
            None => Ok(all.into_iter().map(|c| (c.row.device, c.row.sequence)).collect()),
            Some(device) => Err(PublishError::Quicker(device)),
        }
    }
}

/// Withdraws what is published for a device. Says under which number.
///
/// # Errors
///
/// When nothing is, or as [`publish`] does.
pub fn withdraw(config: &Config, device: &DeviceId, now: Timestamp) -> Result<u64, PublishError> {
    if Table::open(&config.data)?.of(device)?.is_none() {
        return Err(PublishError::Nothing(device.clone()));
    }
    let published = publish(config, &Files::none(), std::slice::from_ref(device), now)?;
    Ok(published.first().map_or(0, |(_, sequence)| *sequence))
}

/// The key that devices know the controller by.
///
/// # Errors
///
/// When the config names no certificate, or it cannot be used.
pub fn key(config: &Config) -> Result<PublicKey, PublishError> {
    let files = config.tls.as_ref().ok_or(PublishError::NoTls)?;
    Ok(public_key(&files.certificate)?.1)
}

/// All enrolled devices.
///
/// # Errors
///
/// When there are none.
pub fn everybody(config: &Config) -> Result<Vec<DeviceId>, PublishError> {
    let devices = enrolled(config)?;
    if devices.is_empty() { Err(PublishError::Nobody(config.devices.clone())) } else { Ok(devices) }
}

/// These devices, if all of them are enrolled; each of them once.
///
/// # Errors
///
/// When one is not.
pub fn these(config: &Config, mut devices: Vec<DeviceId>) -> Result<Vec<DeviceId>, PublishError> {
    devices.sort();
    devices.dedup();
    let known = enrolled(config)?;
    match devices.iter().find(|device| !known.contains(device)) {
        None => Ok(devices),
        Some(device) => {
            let (device, directory) = (device.clone(), config.devices.clone());
            Err(PublishError::Stranger { device, directory, known })
        }
    }
}

fn enrolled(config: &Config) -> Result<Vec<DeviceId>, PublishError> {
    let path = &config.devices;
    identity::devices(path).map_err(|source| PublishError::Read { path: path.clone(), source })
}

/// The certificate of the controller, and the key that a device knows it by.
fn public_key(certificate: &Path) -> Result<(Vec<u8>, PublicKey), PublishError> {
    let wrong = |why| PublishError::Certificate { path: certificate.to_owned(), why };
    let (der, _, key) = identity::certificate(certificate).map_err(wrong)?;
    Ok((der.to_vec(), key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::chain::Chain;
    use crate::controller::tests::device::{Device, Validity, today};
    use std::fs;
    use tempfile::TempDir;

    const GOOD: &str =
        "bindings:\n  - select: { name: \"*\" }\n    consent: nmi\n    scenarios: [ours]\n";
    const SCENARIO: &str =
        "scenario: ours\nprobe:\n  - console: { send: id, expect: uid }\ndiagnose: [host]\n";

    /// A controller with two enrolled devices and some files.
    struct Office(TempDir);

    impl Office {
        fn new() -> Self {
            let place = tempfile::tempdir().unwrap();
            let devices = place.path().join("devices");
            fs::create_dir(&devices).unwrap();
            for name in ["d-1", "d-2"] {
                Device::new(name, Validity::Today).enrol(&devices);
            }
            let desk = Self(place);
            for name in ["controller", "other"] {
                let own = Device::new(name, Validity::Today);
                own.enrol(desk.0.path());
                desk.write(&format!("{name}.key"), &own.key_pem());
            }
            desk.write("good.yaml", GOOD);
            desk.write("ours.yaml", SCENARIO);
            desk
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.path(name), text).unwrap();
        }

        fn config(&self, tls: &str) -> Config {
            let place = self.0.path().display();
            let tls = tls.replace("DIR", &place.to_string());
            let text =
                format!("listen: 127.0.0.1:1\ndata: {place}/data\ndevices: {place}/devices\n{tls}");
            Config::read(Source { name: "test".to_owned(), text }, None).unwrap()
        }

        fn usual(&self) -> Config {
            self.config(
                "tls: { certificate: DIR/controller.pem, key: DIR/controller.key, ca: DIR/ca.pem }\n",
            )
        }

        fn files(&self, bindings: &str, scenarios: &[&str]) -> Result<Files, PublishError> {
            let scenarios: Vec<_> = scenarios.iter().map(|name| self.path(name)).collect();
            Files::read(&self.path(bindings), &scenarios)
        }

        fn said<T>(&self, result: Result<T, PublishError>) -> String {
            let Err(error) = result else { return "published".to_owned() };
            Chain(&error).to_string().replace(&self.0.path().display().to_string(), "DIR")
        }
    }

    #[test]
    fn each_device_gets_its_own_signed_and_with_its_own_number() {
        let (desk, now) = (Office::new(), today());
        let config = desk.usual();
        let files = desk.files("good.yaml", &["ours.yaml"]).unwrap();
        let everybody = everybody(&config).unwrap();
        publish(&config, &files, &everybody[..1], now).unwrap();
        let published = publish(&config, &files, &everybody, now).unwrap();
        let seconds = 1_780_272_000;
        let numbers: Vec<u64> = published.iter().map(|(_, sequence)| *sequence).collect();
        assert_eq!(numbers, [seconds + 1, seconds]);
        let key = key(&config).unwrap();
        let table = Table::open(&config.data).unwrap();
        for (device, sequence) in published {
            let row = table.of(&device).unwrap().unwrap();
            let opened = open_bindings(&row.sealed, &key).unwrap();
            assert_eq!((&opened.device, opened.sequence), (&device, sequence));
            assert_eq!(
                (opened.bindings.name.as_str(), opened.bindings.text.as_str()),
                ("good.yaml", GOOD)
            );
            assert_eq!(opened.scenarios[0].text, SCENARIO);
        }
        let withdrawn = withdraw(&config, &everybody[1], now).unwrap();
        let row = table.of(&everybody[1]).unwrap().unwrap();
        assert_eq!((row.sequence, withdrawn), (seconds + 1, seconds + 1));
        let opened = open_bindings(&row.sealed, &key).unwrap();
        assert_eq!(opened.bindings.text, "bindings: []\n");
    }

    #[test]
    fn what_a_device_would_refuse_is_refused_and_shown() {
        let desk = Office::new();
        desk.write("wrong.yaml", &GOOD.replace("nmi", "nmy").replace("[ours]", "[hours]"));
        desk.write("broken.yaml", "scenario: broken\nprobes: []\n");
        let large = format!("{GOOD}# {}\n", "large ".repeat(1 << 18));
        desk.write("large.yaml", &large);
        let said = [
            desk.said(desk.files("wrong.yaml", &["ours.yaml"])),
            desk.said(desk.files("good.yaml", &["broken.yaml"])),
            desk.said(desk.files("good.yaml", &["ours.yaml", "ours.yaml"])),
            desk.said(desk.files("good.yaml", &[])),
            desk.said(desk.files("nothing.yaml", &[])),
            desk.said(desk.files("large.yaml", &["ours.yaml"])),
        ];
        insta::assert_snapshot!(said.join("\n---\n"));
        let warnings = desk.files("good.yaml", &["ours.yaml"]).unwrap().warnings().join("\n");
        let warnings = warnings.replace(&desk.0.path().display().to_string(), "DIR");
        insta::assert_snapshot!(warnings, @"DIR/good.yaml:2: a device lets the controller consent to `nmi` only if its config says `controller: { consent: nmi }` or more");
    }

    #[test]
    fn nobody_is_told_anything_without_the_right_key_and_a_device() {
        let (desk, now) = (Office::new(), today());
        let files = desk.files("good.yaml", &["ours.yaml"]).unwrap();
        let devices = everybody(&desk.usual()).unwrap();
        let with = |certificate: &str, key: &str| {
            let tls =
                format!("tls: {{ certificate: DIR/{certificate}, key: DIR/{key}, ca: DIR/c }}\n");
            desk.said(publish(&desk.config(&tls), &files, &devices, now))
        };
        let stranger = these(&desk.usual(), vec!["d-1".parse().unwrap(), "d-3".parse().unwrap()]);
        let mut said = vec![
            with("controller.pem", "other.key"),
            with("controller.pem", "other.pem"),
            with("good.yaml", "controller.key"),
            desk.said(publish(&desk.config(""), &files, &devices, now)),
            desk.said(stranger),
            desk.said(withdraw(&desk.usual(), &devices[0], now)),
        ];
        for device in &devices {
            fs::remove_file(desk.path(&format!("devices/{device}.pem"))).unwrap();
        }
        said.push(desk.said(everybody(&desk.usual())));
        insta::assert_snapshot!(said.join("\n---\n"));
        assert!(Table::open(&desk.path("data")).unwrap().numbers().unwrap().is_empty());
    }

    #[test]
    fn what_no_message_takes_is_not_published() {
        let desk = Office::new();
        // Text that does not compress: as large as a file may be, and too large for a message.
        let mut noise = vec![0; 300 * 1024];
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut noise).unwrap();
        let noise: String = noise.iter().map(|byte| char::from(b'a' + byte % 26)).collect();
        desk.write("noise.yaml", &format!("{GOOD}# {noise}\n"));
        let config = desk.usual();
        let files = desk.files("noise.yaml", &["ours.yaml"]).unwrap();
        let said = desk.said(publish(&config, &files, &everybody(&config).unwrap(), today()));
        assert!(said.starts_with("failed to seal the bindings for d-1: "), "{said}");
        assert!(said.ends_with("bytes where 122880 are allowed"), "{said}");
    }
}
