//! `lifesign spool`: what waits on this device, and how it leaves without a network.

use super::bundle_file::{self, key};
use crate::base::chain::Chain;
use crate::base::id::Digest;
use crate::base::text::harmless_line;
use crate::bundle::{self, PublicKey, Sealed};
use crate::report;
use crate::spool::{Kind, Look, Seen};
use serde_json::{Value, json};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Why nothing can be told of the spool.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be listed.
    #[error("failed to look into the spool {path}")]
    Look {
        /// Where it should be.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// None, or more than one, is meant.
    #[error("{found} parcels begin with `{wanted}`; `lifesign spool ls` lists them")]
    Ambiguous {
        /// How many.
        found: usize,
        /// What was asked for.
        wanted: String,
    },
    /// It is damaged, or altered.
    #[error("failed to open the parcel {parcel}")]
    Parcel {
        /// Which.
        parcel: Digest,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The device's own certificate.
    #[error("failed to load the certificate of this device")]
    Certificate(#[source] bundle_file::Error),
    /// A stick that is not there is not to be made up.
    #[error(
        "{path} is no directory; mount the disk that shall take the copies, and name one on it"
    )]
    Target {
        /// What was named.
        path: PathBuf,
    },
    /// It does not take the first of it.
    #[error("failed to write into {path}")]
    Write {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What came of a look at every parcel.
#[derive(Debug)]
pub struct Verified {
    /// How many are whole,
    pub whole: usize,
    /// and their bytes.
    pub bytes: u64,
    /// What is wrong with the others, by name.
    pub wrong: Vec<(String, String)>,
}

/// What came of an export.
#[derive(Debug, Default)]
pub struct Exported {
    /// Copied now,
    pub copied: usize,
    /// with so many bytes.
    pub bytes: u64,
    /// There already, whole.
    pub there: usize,
    /// What stays behind, and why.
    pub left: Vec<(String, String)>,
}

impl Verified {
    /// As a person reads it.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let wrong = self.wrong.iter().map(|(name, why)| format!("{name}: {why}"));
        let whole = format!("{} parcels ({}) are whole", self.whole, size(self.bytes));
        wrong.chain([whole]).collect()
    }

    /// As a program does.
    #[must_use]
    pub fn json(&self) -> Value {
        let wrong = self.wrong.iter().map(|(name, why)| json!({ "parcel": name, "why": why }));
        json!({
            "whole": self.whole, "bytes": self.bytes, "wrong": wrong.collect::<Vec<_>>(),
        })
    }
}

impl Exported {
    /// As a person reads it.
    #[must_use]
    pub fn lines(&self, to: &Path) -> Vec<String> {
        let Self { copied, there, .. } = self;
        let (bytes, to) = (size(self.bytes), to.display());
        let mut lines = vec![format!("{copied} parcels ({bytes}) copied into {to}")];
        if *there > 0 {
            lines.push(format!("{there} were there already"));
        }
        lines.extend(self.left.iter().map(|(name, why)| format!("left behind: {name}: {why}")));
        lines
    }
}

/// Looks into the spool.
///
/// # Errors
///
/// When it cannot be listed.
pub fn look(directory: &Path) -> Result<Look, Error> {
    Look::into(directory).map_err(|source| Error::Look { path: directory.to_owned(), source })
}

/// A line for each parcel, and what else there is to know below.
#[must_use]
pub fn lines(look: &Look) -> Vec<String> {
    let mut lines = Vec::new();
    if look.parcels.is_empty() {
        lines.push("nothing waits to be sent".to_owned());
    } else {
        let rows: Vec<[String; 5]> = look.parcels.iter().map(row).collect();
        let table = report::table(["PARCEL", "KIND", "SIZE", "SINCE", "INCIDENT"], &rows);
        lines.extend(table.lines().map(str::to_owned));
    }
    lines.extend(look.damaged.iter().map(|(name, flaw)| format!("{name} is damaged: {flaw}")));
    if look.evicted > 0 {
        let (count, bytes) = (look.evicted, size(look.evicted_bytes));
        lines.push(format!("dropped to make room: {count} ({bytes}); the latest, by incident:"));
        let latest = look.gone.iter().rev().take(GONE_SHOWN);
        lines.extend(latest.map(|gone| format!("  {} of {}", size(gone.size), gone.incident)));
    }
    for (count, what) in [(look.corrupt, "corrupt"), (look.refused, "refused")] {
        if count > 0 {
            lines.push(format!("{count} files are set aside in `{what}`"));
        }
    }
    lines
}

/// A person asks for the incidents of today; the device's status has all that are remembered.
const GONE_SHOWN: usize = 5;

/// The same for programs.
#[must_use]
pub fn json(look: &Look) -> Value {
    let parcels = look.parcels.iter().map(|seen| {
        json!({
            "parcel": seen.waiting.digest.to_string(),
            "kind": word(seen.waiting.kind),
            "bytes": seen.waiting.size,
            "since": seen.since.to_string(),
            "incident": seen.waiting.incident.to_string(),
        })
    });
    let named = |(name, flaw): &(String, _)| json!({ "file": name, "why": format!("{flaw}") });
    json!({
        "parcels": parcels.collect::<Vec<_>>(),
        "damaged": look.damaged.iter().map(named).collect::<Vec<_>>(),
        "evicted": look.evicted,
        "evicted_bytes": look.evicted_bytes,
        "evicted_incidents":
            look.gone.iter().map(|gone| gone.incident.to_string()).collect::<Vec<_>>(),
        "corrupt": look.corrupt,
        "refused": look.refused,
    })
}

/// Opens the parcel whose digest begins so, by the certificate of this device.
///
/// # Errors
///
/// When there is none or more than one, or it does not open.
pub fn open(look: &Look, wanted: &str, certificate: &Path) -> Result<(Sealed, usize), Error> {
    let key = key(certificate).map_err(Error::Certificate)?;
    let starts = |seen: &&Seen| seen.waiting.digest.to_string().starts_with(wanted);
    let found: Vec<&Seen> = look.parcels.iter().filter(starts).collect();
    let [seen] = found[..] else {
        return Err(Error::Ambiguous { found: found.len(), wanted: wanted.to_owned() });
    };
    let parcel = seen.waiting.digest;
    let bytes = look.read(seen).map_err(|e| Error::Parcel { parcel, source: Box::new(e) })?;
    let opened = bundle::open(&bytes, &key);
    let sealed = opened.map_err(|e| Error::Parcel { parcel, source: Box::new(e) })?;
    Ok((sealed, bytes.len()))
}

/// What a headline says.
#[must_use]
pub fn headline(headline: &bundle::Headline) -> Vec<String> {
    let bundle::Headline { origin, diagnosis, stage, ended, revision, repeats } = headline;
    let evidence = match stage {
        bundle::Stage::Capturing => "is being collected",
        bundle::Stage::Sealed => "is in a bundle",
        bundle::Stage::Counted => "is not sent, as it is one of many that are alike",
    };
    let mut lines = vec![
        format!("incident  {}", origin.incident),
        format!("app       {}", harmless_line(origin.app_name.as_bytes())),
        format!("scenario  {}", origin.scenario),
        format!("failed    {}", origin.failed_at),
    ];
    lines.extend(ended.map(|at| format!("ended     {at}")));
    lines.push(format!("evidence  {evidence}, in revision {revision} of this headline"));
    lines.extend(repeats.map(|bundle::Repeats { count, first, last, full }| {
        let full = full.map(|full| format!("; in full: {full}")).unwrap_or_default();
        format!("repeats   {count} from {first} to {last}{full}")
    }));
    if let Some(diagnosis) = diagnosis {
        lines.push(format!("diagnosis {} ({})", diagnosis.title, diagnosis.class));
    }
    lines
}

/// The same for programs.
#[must_use]
pub fn headline_json(headline: &bundle::Headline) -> Value {
    let bundle::Headline { origin, diagnosis, stage, ended, revision, repeats } = headline;
    json!({
        "incident": origin.incident.to_string(),
        "device": origin.device.to_string(),
        "app": origin.app.to_string(),
        "name": origin.app_name,
        "scenario": origin.scenario.to_string(),
        "failed": origin.failed_at.to_string(),
        "ended": ended.map(|at| at.to_string()),
        "stage": format!("{stage:?}").to_lowercase(),
        "revision": revision,
        "class": diagnosis.as_ref().map(|diagnosis| diagnosis.class.word()),
        "title": diagnosis.as_ref().map(|diagnosis| diagnosis.title.clone()),
        "signature": diagnosis.as_ref().map(|diagnosis| diagnosis.signature.clone()),
        "repeats": repeats.map(|bundle::Repeats { count, first, last, full }| json!({
            "count": count, "first": first.to_string(), "last": last.to_string(),
            "full": full.map(|full| full.to_string()),
        })),
    })
}

/// Reads every parcel, and proves that it is what the owner of this certificate sealed.
#[must_use]
pub fn verify(look: &Look, certificate: &PublicKey) -> Verified {
    let mut verified = Verified { whole: 0, bytes: 0, wrong: Vec::new() };
    let damaged = look.damaged.iter().map(|(name, flaw)| (name.clone(), flaw.to_string()));
    verified.wrong.extend(damaged);
    for seen in &look.parcels {
        let read = look.read(seen).map_err(|error| Chain(&error).to_string());
        let opened = read.and_then(|bytes| {
            bundle::open(&bytes, certificate).map(drop).map_err(|e| Chain(&e).to_string())
        });
        match opened {
            Ok(()) => {
                verified.whole += 1;
                verified.bytes += seen.waiting.size;
            }
            Err(why) => verified.wrong.push((seen.waiting.digest.to_string(), why)),
        }
    }
    verified
}

/// Copies what waits, byte for byte as it was sealed, in the order of its worth. Nothing leaves the spool.
///
/// # Errors
///
/// When the directory is not there. What it does not take is told.
pub fn export(look: &Look, to: &Path) -> Result<Exported, Error> {
    if !to.is_dir() {
        return Err(Error::Target { path: to.to_owned() });
    }
    let exported = copy_all(look, |name, bytes| copy(to, name, bytes));
    let synced = File::open(to).and_then(|directory| directory.sync_all());
    match synced {
        // Some file systems of sticks know no such thing.
        Err(error) if error.kind() != io::ErrorKind::InvalidInput => {
            Err(Error::Write { path: to.to_owned(), source: error })
        }
        _ => Ok(exported),
    }
}

/// What came of one copy.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Copied {
    Now,
    Before,
}

/// Goes on after one that does not fit: a smaller one may.
fn copy_all(look: &Look, mut copy: impl FnMut(&str, &[u8]) -> io::Result<Copied>) -> Exported {
    let mut exported = Exported::default();
    for (name, flaw) in &look.damaged {
        exported.left.push((name.clone(), flaw.to_string()));
    }
    for seen in &look.parcels {
        let name = file_name(seen);
        let read = look.read(seen).map_err(|error| Chain(&error).to_string());
        let copied = read.and_then(|bytes| copy(&name, &bytes).map_err(|e| e.to_string()));
        match copied {
            Ok(Copied::Now) => {
                exported.copied += 1;
                exported.bytes += seen.waiting.size;
            }
            Ok(Copied::Before) => exported.there += 1,
            Err(why) => exported.left.push((name, why)),
        }
    }
    exported
}

/// Writes a new file, brings it to the disk, and reads it again.
fn copy(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<Copied> {
    let path = directory.join(name);
    if path.exists() {
        let same = Digest::of_reader(&mut File::open(&path)?)? == Digest::of(bytes);
        let other = || io::Error::other("a file of that name is there, and is another one");
        return if same { Ok(Copied::Before) } else { Err(other()) };
    }
    let part = directory.join(format!("{name}.part"));
    let written = write(&part, bytes).and_then(|()| fs::rename(&part, &path));
    if written.is_err() {
        fs::remove_file(&part).ok();
    }
    written.map(|()| Copied::Now)
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // What an earlier export left unfinished is nobody's.
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    match Digest::of_reader(&mut File::open(path)?)? == Digest::of(bytes) {
        true => Ok(()),
        false => Err(io::Error::other("the disk does not give back what it was given")),
    }
}

/// Says whose it is, and is never that of another.
fn file_name(seen: &Seen) -> String {
    let (incident, digest) = (seen.waiting.incident, short(seen.waiting.digest));
    format!("{incident}-{digest}.{}", word(seen.waiting.kind))
}

fn row(seen: &Seen) -> [String; 5] {
    [
        short(seen.waiting.digest),
        word(seen.waiting.kind).to_owned(),
        size(seen.waiting.size),
        seen.since.to_string(),
        seen.waiting.incident.to_string(),
    ]
}

fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Headline => "headline",
        Kind::Bundle => "bundle",
    }
}

fn short(digest: Digest) -> String {
    digest.to_string().chars().take(12).collect()
}

/// Bytes as people read them.
#[must_use]
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{} KiB", bytes.div_ceil(1024)),
        _ => format!("{} MiB", bytes.div_ceil(1 << 20)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::IncidentId;
    use crate::base::time::Timestamp;
    use crate::bundle::Signer;
    use crate::spool::{Limits, Mark, Parcel, Spool};
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};

    /// Who signs, and the key that proves it.
    fn device() -> (Signer, PublicKey) {
        let (algorithm, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).unwrap();
        let head = b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00";
        let spki = [&head[..], pair.public_key().as_ref()].concat();
        let key = PublicKey::from_spki(&spki).unwrap();
        (Signer::new(pkcs8.as_ref(), b"a certificate").unwrap(), key)
    }

    /// A spool with one dropped bundle, three parcels that wait, and one that is damaged.
    fn spool(directory: &Path) -> Look {
        let limits = Limits { parcels: 5, free_percent: 0, ..Limits::STANDARD };
        let (mut spool, _) = Spool::open(directory, limits).unwrap();
        for (n, kind) in [1, 2, 3, 4, 5].map(|n| (n, Kind::Bundle)) {
            let (incident, mark) = (IncidentId::new([n; 16]), Mark::default());
            spool.put(Parcel { kind, incident, mark, bytes: vec![n; 1000 * n as usize] }).unwrap();
        }
        let (incident, mark) = (IncidentId::new([3; 16]), Mark::default());
        let bytes = b"what happened".to_vec();
        spool.put(Parcel { kind: Kind::Headline, incident, mark, bytes }).unwrap();
        drop(spool);
        let path = directory.join("0000000000000004.parcel");
        let mut damaged = fs::read(&path).unwrap();
        damaged[100] ^= 1;
        fs::write(path, damaged).unwrap();
        Look::into(directory).unwrap()
    }

    /// As it was sealed.
    fn sealed(n: u8) -> Vec<u8> {
        vec![n; 1000 * usize::from(n)]
    }

    #[test]
    fn what_waits_is_listed_and_verified_while_another_owns_it() {
        let place = tempfile::tempdir().unwrap();
        spool(place.path());
        let _owner = Spool::open(place.path(), Limits::STANDARD).unwrap();
        let mut look = Look::into(place.path()).unwrap();
        for seen in &mut look.parcels {
            seen.since = Timestamp::from_millis(1_700_000_000_000);
        }
        insta::assert_snapshot!(lines(&look).join("\n"));
        insta::assert_snapshot!(serde_json::to_string_pretty(&json(&look)).unwrap());
    }

    #[test]
    fn who_verifies_is_told_what_is_damaged_and_what_somebody_else_sealed() {
        let place = tempfile::tempdir().unwrap();
        let (signer, key) = device();
        let mut verified = verify(&spool(place.path()), &key);
        assert_eq!(verified.whole, 0);
        verified.wrong.sort();
        let whys: std::collections::BTreeSet<&str> =
            verified.wrong.iter().map(|(_, why)| why.as_str()).collect();
        assert!(
            whys.contains("it is damaged: the content does not match its checksum"),
            "{whys:?}"
        );
        assert_eq!(verified.wrong.len(), 5);
        assert!(verified.lines().last().unwrap().starts_with("0 parcels"));

        let incident = IncidentId::new([9; 16]);
        let headline = bundle::Headline {
            origin: bundle::Origin {
                incident,
                device: "edge-1".parse().unwrap(),
                app: crate::base::id::AppId::new([1; 16]),
                app_name: "web\u{1b}[2J".to_owned(),
                scenario: "quick".parse().unwrap(),
                agent_version: "0".to_owned(),
                failed_at: Timestamp::from_millis(1_700_000_000_000),
                failed_uptime: crate::base::time::Instant::from_millis(1),
                boot_id: [3; 16],
            },
            diagnosis: None,
            stage: bundle::Stage::Counted,
            ended: None,
            revision: 2,
            repeats: Some(bundle::Repeats {
                count: 5,
                first: Timestamp::from_millis(1_600_000_000_000),
                last: Timestamp::from_millis(1_700_000_000_000),
                full: Some(IncidentId::new([8; 16])),
            }),
        };
        let bytes = signer.seal_headline(&headline).unwrap();
        let (mut spool, _) = Spool::open(place.path(), Limits::STANDARD).unwrap();
        let mark = Mark::default();
        spool.put(Parcel { kind: Kind::Headline, incident, mark, bytes }).unwrap();
        let look = Look::into(place.path()).unwrap();
        assert_eq!(verify(&look, &key).whole, 1);
        insta::assert_snapshot!(super::headline(&headline).join("\n"));
    }

    #[test]
    fn an_export_is_byte_for_byte_and_never_overwrites() {
        let (place, stick) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let look = spool(place.path());
        let exported = export(&look, stick.path()).unwrap();
        assert_eq!((exported.copied, exported.there, exported.left.len()), (4, 0, 1));
        let name = file_name(look.parcels.iter().find(|s| s.waiting.size == 5000).unwrap());
        assert_eq!(fs::read(stick.path().join(&name)).unwrap(), sealed(5));
        let again = export(&look, stick.path()).unwrap();
        assert_eq!((again.copied, again.there, again.left.len()), (0, 4, 1));
        fs::write(stick.path().join(&name), "somebody else's").unwrap();
        let other = export(&look, stick.path()).unwrap();
        assert_eq!((other.there, other.left.len()), (3, 2));
        assert_eq!(fs::read(stick.path().join(&name)).unwrap(), b"somebody else's");
        let missing = export(&look, &stick.path().join("missing")).unwrap_err();
        assert!(missing.to_string().contains("mount the disk"), "{missing}");
        assert_eq!(look.parcels.len(), Look::into(place.path()).unwrap().parcels.len());
    }

    #[test]
    fn a_stick_that_is_full_takes_what_fits_and_the_rest_is_named() {
        let place = tempfile::tempdir().unwrap();
        let look = spool(place.path());
        let mut room = 4000;
        let exported = copy_all(&look, |_, bytes| match bytes.len() <= room {
            true => {
                room -= bytes.len();
                Ok(Copied::Now)
            }
            false => Err(io::ErrorKind::StorageFull.into()),
        });
        assert_eq!((exported.copied, exported.bytes), (2, 1_013), "the headline goes first");
        assert_eq!(exported.left.len(), 3);
        assert!(exported.left.iter().any(|(_, why)| why.contains("no storage space")));
    }
}
