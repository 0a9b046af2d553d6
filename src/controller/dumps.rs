//! Dumps of guests' memory that devices keep: which there are, asking for one, and saving it.
//!
//! A wish travels with the bindings of its device, in the one message that the controller signs for it
//! (see [`super::publish`]): it is for that device alone, nobody can say it in our name, and nobody can
//! bring it back once it was taken back. What a device tells of its dumps is signed by the device, and so
//! is with it the digest of what will come.

use super::config::Config;
use super::identity;
use super::publish::{self, PublishError};
use super::store::{self, Reader, State, StoreError, Wanted, Wish, remove_dump};
use crate::base::id::{DeviceId, Digest, DumpName};
use crate::base::time::Timestamp;
use crate::bundle::{Dump, KeptDumps, OpenError, open_kept};
use std::io;
use std::path::{Path, PathBuf};

/// All that is known of dumps.
#[derive(Debug, Default)]
pub struct Known {
    /// In the order of devices, oldest first.
    pub dumps: Vec<Line>,
    /// What a person should know besides: a sentence each.
    pub warnings: Vec<String>,
}

/// A dump, on a device or here or both.
#[derive(Clone, Debug)]
pub struct Line {
    /// Whose.
    pub device: DeviceId,
    /// What it is.
    pub dump: Dump,
    /// Whether the device has it, and lets us have it.
    pub there: There,
    /// What was asked for.
    pub wanted: Option<Wanted>,
}

/// What a device says of a dump.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum There {
    /// It has it, and sends it if it is asked.
    Lent,
    /// It has it and keeps it.
    Denied,
    /// It does not speak of it any more.
    Gone,
}

/// Why nothing was asked for, taken back or saved.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// Nobody knows of it.
    #[error("{device} tells of no dump `{name}`; it tells of: {}", names(.known))]
    Unknown {
        /// Of which device.
        device: DeviceId,
        /// What was asked for.
        name: DumpName,
        /// What there is.
        known: Vec<DumpName>,
    },
    /// The device keeps its dumps to itself.
    #[error(
        "{0} lets nobody have its dumps: its config must say \
         `controller: {{ certificate: FILE, dumps: allow }}`"
    )]
    Denied(DeviceId),
    /// What it tells is not its own word.
    #[error("what came as the word of {device} on its dumps is not believed")]
    Disbelieved {
        /// In whose name.
        device: DeviceId,
        /// Why.
        #[source]
        source: OpenError,
    },
    /// Nobody is enrolled under this name.
    #[error("{device} has no certificate that can be used: {why}")]
    NotEnrolled {
        /// Who.
        device: DeviceId,
        /// What is wrong.
        why: &'static str,
    },
    /// It would be more than may be kept.
    #[error(
        "{name} has {bytes} bytes; with {used} of other dumps that is more than the {quota} that the \
         config lets dumps take: cancel some, or raise `dumps: {{ quota }}`"
    )]
    Quota {
        /// Which.
        name: DumpName,
        /// Its size.
        bytes: u64,
        /// What others take.
        used: u64,
        /// What all may.
        quota: u64,
    },
    /// There is nothing to do.
    #[error(
        "{name} of {device} is here already: `lifesign-controller dumps save` writes it to a file"
    )]
    Here {
        /// Of which device.
        device: DeviceId,
        /// Which.
        name: DumpName,
    },
    /// Nobody has asked.
    #[error("nobody has asked for {name} of {device}")]
    Unasked {
        /// Of which device.
        device: DeviceId,
        /// Which.
        name: DumpName,
    },
    /// Not all of it is here.
    #[error("{name} of {device} is not here: `lifesign-controller dumps list` tells how far it is")]
    NotHere {
        /// Of which device.
        device: DeviceId,
        /// Which.
        name: DumpName,
    },
    /// The disk lost it.
    #[error("{file} has the SHA-256 {found}, not {wanted} as when it came: look at the disk")]
    Damaged {
        /// What was written.
        file: PathBuf,
        /// What it is.
        found: Digest,
        /// What it was.
        wanted: Digest,
    },
    /// The devices cannot be listed.
    #[error("failed to read {path}")]
    Devices {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It cannot be said to the device.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn names(dumps: &[DumpName]) -> String {
    let names: Vec<&str> = dumps.iter().map(DumpName::as_str).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// All dumps that devices tell of, and all that were asked for.
///
/// # Errors
///
/// When the store or the directory of devices cannot be read.
pub fn list(config: &Config) -> Result<Known, DumpError> {
    let reader = Reader::open(&config.data)?;
    let mut wanted = reader.dumps()?;
    let mut known = Known::default();
    let path = &config.devices;
    let unread = |source| DumpError::Devices { path: path.clone(), source };
    for device in identity::devices(path).map_err(unread)? {
        match told(config, &reader, &device) {
            Ok(Some(told)) => known.dumps.extend(lines(told, &mut wanted)),
            Ok(None) => {}
            Err(error) => known.warnings.push(crate::base::chain::Chain(&error).to_string()),
        }
    }
    known.dumps.extend(wanted.into_iter().map(gone));
    known.dumps.sort_by(|a, b| (&a.device, a.dump.taken).cmp(&(&b.device, b.dump.taken)));
    Ok(known)
}

/// Asks for a dump, as far as the device tells of it.
///
/// # Errors
///
/// When there is none, or it may not or need not be asked for, or it cannot be said.
pub fn request(
    config: &Config,
    device: &DeviceId,
    name: &DumpName,
    now: Timestamp,
) -> Result<(), DumpError> {
    publish::these(config, vec![device.clone()])?;
    let reader = Reader::open(&config.data)?;
    let told = told(config, &reader, device)?;
    let (on_request, dumps) =
        told.map_or((false, Vec::new()), |told| (told.on_request, told.dumps));
    let Some(dump) = dumps.iter().find(|dump| dump.name == *name) else {
        let known = dumps.into_iter().map(|dump| dump.name).collect();
        return Err(DumpError::Unknown { device: device.clone(), name: name.clone(), known });
    };
    if !on_request {
        return Err(DumpError::Denied(device.clone()));
    }
    let wanted = reader.dumps()?;
    let is_same = |wanted: &Wanted| wanted.device == *device && wanted.digest == dump.sha256;
    if wanted.iter().any(|w| is_same(w) && matches!(w.state, State::Stored(_))) {
        return Err(DumpError::Here { device: device.clone(), name: name.clone() });
    }
    let others = wanted.iter().filter(|w| !is_same(w) && !matches!(w.state, State::Refused(_)));
    let (bytes, quota) = (dump.bytes, config.dumps_bytes);
    let used = others.map(|wanted| wanted.bytes).fold(0, u64::saturating_add);
    if used.saturating_add(bytes) > quota {
        return Err(DumpError::Quota { name: name.clone(), bytes, used, quota });
    }
    let wish = Wish::Ask(Box::new(asked(device, dump, now)));
    publish::wish(config, device, wish, now)?;
    Ok(())
}

/// Takes a wish back, and removes what is here of the dump.
///
/// # Errors
///
/// When nobody has asked, or it cannot be said.
pub fn cancel(
    config: &Config,
    device: &DeviceId,
    name: &DumpName,
    now: Timestamp,
) -> Result<(), DumpError> {
    let wanted = wanted(&config.data, device, name)?;
    publish::wish(config, device, Wish::Cancel(wanted.digest), now)?;
    Ok(remove_dump(&config.data, device, wanted.digest)?)
}

/// Writes a dump that is here to a new file.
///
/// # Errors
///
/// When it is not here, or cannot be written.
pub fn save(data: &Path, device: &DeviceId, name: &DumpName, file: &Path) -> Result<(), DumpError> {
    let dump = wanted(data, device, name)?;
    if !matches!(dump.state, State::Stored(_)) {
        return Err(DumpError::NotHere { device: device.clone(), name: name.clone() });
    }
    let found = store::save_dump(data, &dump, file)?;
    if found == dump.digest {
        return Ok(());
    }
    Err(DumpError::Damaged { file: file.to_owned(), found, wanted: dump.digest })
}

/// The latest that was asked for under this name.
fn wanted(data: &Path, device: &DeviceId, name: &DumpName) -> Result<Wanted, DumpError> {
    let all = Reader::open(data)?.dumps()?;
    let found = all.into_iter().find(|dump| dump.device == *device && dump.name == *name);
    found.ok_or_else(|| DumpError::Unasked { device: device.clone(), name: name.clone() })
}

/// What a device tells of its dumps, if it has told anything. It is its own word, or it is refused.
fn told(
    config: &Config,
    reader: &Reader,
    device: &DeviceId,
) -> Result<Option<KeptDumps>, DumpError> {
    let Some(sealed) = reader.kept(device)? else { return Ok(None) };
    let path = config.devices.join(format!("{device}.pem"));
    let unusable = |why| DumpError::NotEnrolled { device: device.clone(), why };
    let (_, _, key) = identity::certificate(&path).map_err(unusable)?;
    let disbelieved = |source| DumpError::Disbelieved { device: device.clone(), source };
    let kept = open_kept(&sealed, &key).map_err(disbelieved)?;
    // Signed by this device, but copied from another's topic: nobody of ours does that.
    Ok(Some(kept).filter(|kept| kept.device == *device))
}

/// The lines of one device; what was asked for of it is taken out of `wanted`.
fn lines(told: KeptDumps, wanted: &mut Vec<Wanted>) -> Vec<Line> {
    let KeptDumps { device, on_request, dumps } = told;
    let there = if on_request { There::Lent } else { There::Denied };
    let line = |dump: Dump| {
        let at = wanted.iter().position(|w| w.device == device && w.digest == dump.sha256);
        let wanted = at.map(|at| wanted.remove(at));
        Line { device: device.clone(), dump, there, wanted }
    };
    dumps.into_iter().map(line).collect()
}

fn gone(wanted: Wanted) -> Line {
    let dump = Dump {
        name: wanted.name.clone(),
        app: wanted.app.clone(),
        bytes: wanted.bytes,
        sha256: wanted.digest,
        format: wanted.format.clone(),
        taken: wanted.taken_at,
    };
    Line { device: wanted.device.clone(), dump, there: There::Gone, wanted: Some(wanted) }
}

fn asked(device: &DeviceId, dump: &Dump, now: Timestamp) -> Wanted {
    Wanted {
        device: device.clone(),
        digest: dump.sha256,
        name: dump.name.clone(),
        app: dump.app.clone(),
        format: dump.format.clone(),
        bytes: dump.bytes,
        taken_at: dump.taken,
        asked_at: now,
        held: 0,
        state: State::Coming { hindered: None },
    }
}
