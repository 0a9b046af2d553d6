//! Secrets: a binding names them, the device has them.
//!
//! A secret in a file of the secrets directory is one that nobody but its owner may touch. A secret
//! that is missing hinders the binding that names it, and nothing else.

use crate::rules::Reference;
use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A password is shorter; a key fits.
const BYTES_MAX: u64 = 16 * 1024;

/// A secret. It shows itself to nobody who does not ask by name.
#[derive(Clone, Eq, PartialEq)]
pub struct Secret(String);

/// Why there is no secret. Each a sentence that an operator can act on.
#[derive(Debug, thiserror::Error)]
pub enum Missing {
    /// No directory is configured.
    #[error("the config says no `secrets` directory in which `{0}` could be")]
    NoDirectory(String),
    /// The file cannot be read.
    #[error("{path} cannot be read: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others may read or write it.
    #[error("{path} is open to others (mode {mode:04o}); `chmod 600 {path}`")]
    Open {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It is no plain file, too large, empty, or no text.
    #[error("{path} is {what}")]
    Unfit {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// No such variable.
    #[error("the variable {0} is not set")]
    Unset(String),
}

/// Every secret that is named, as far as the device has it.
#[derive(Debug, Default)]
pub struct Vault(BTreeMap<Reference, Result<Secret, String>>);

// === impl Reference ===

impl Reference {
    /// Fetches the secret.
    ///
    /// # Errors
    ///
    /// When it is not there, or not kept as a secret is.
    pub fn fetch(&self, directory: Option<&Path>) -> Result<Secret, Missing> {
        match self {
            Self::File(name) => {
                let directory = directory.ok_or_else(|| Missing::NoDirectory(name.clone()))?;
                read(directory.join(name))
            }
            Self::Variable(name) => {
                std::env::var(name).map(Secret).map_err(|_| Missing::Unset(name.clone()))
            }
        }
    }
}

fn read(path: PathBuf) -> Result<Secret, Missing> {
    let unread = |source| Missing::Read { path: path.clone(), source };
    // A pipe that somebody put there must not hold us up.
    let flags = nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC;
    let file =
        std::fs::OpenOptions::new().read(true).custom_flags(flags).open(&path).map_err(unread)?;
    let about = file.metadata().map_err(unread)?;
    let mode = about.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(Missing::Open { path, mode });
    }
    if !about.is_file() {
        return Err(Missing::Unfit { path, what: "no plain file" });
    }
    let mut text = Vec::new();
    file.take(BYTES_MAX + 1).read_to_end(&mut text).map_err(unread)?;
    if text.len() as u64 > BYTES_MAX {
        return Err(Missing::Unfit { path, what: "too large for a secret" });
    }
    let Ok(text) = String::from_utf8(text) else {
        return Err(Missing::Unfit { path, what: "no text" });
    };
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        return Err(Missing::Unfit { path, what: "empty" });
    }
    Ok(Secret(text.to_owned()))
}

// === impl Secret ===

impl Secret {
    /// The secret itself: for the probe that needs it, and nobody else.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

// === impl Vault ===

impl Vault {
    /// Fetches all of these.
    #[must_use]
    pub fn open<'a>(
        references: impl Iterator<Item = &'a Reference>,
        directory: Option<&Path>,
    ) -> Self {
        let fetch = |reference: &Reference| {
            reference.fetch(directory).map_err(|missing| missing.to_string())
        };
        Self(references.map(|reference| (reference.clone(), fetch(reference))).collect())
    }

    /// One of them, or why it is not there.
    ///
    /// # Errors
    ///
    /// The reason, as a sentence.
    pub fn get(&self, reference: &Reference) -> Result<&Secret, String> {
        match self.0.get(reference) {
            Some(Ok(secret)) => Ok(secret),
            Some(Err(reason)) => Err(reason.clone()),
            None => Err(format!("{reference} was not looked for")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    fn fetch(content: &[u8], mode: u32) -> String {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let fetched = Reference::File("web".to_owned()).fetch(Some(directory.path()));
        let shown = fetched.map_or_else(|e| e.to_string(), |s| s.reveal().to_owned());
        shown.replace(&directory.path().display().to_string(), "DIR")
    }

    #[test]
    fn a_secret_is_a_file_of_its_owner_alone() {
        assert_eq!(fetch(b"hunter2\n", 0o600), "hunter2");
        assert_eq!(fetch(b"two words\r\n", 0o400), "two words");
        let open = "DIR/web is open to others (mode 0640); `chmod 600 DIR/web`";
        assert_eq!(fetch(b"hunter2\n", 0o640), open);
        assert_eq!(fetch(b"\n", 0o600), "DIR/web is empty");
        assert_eq!(fetch(b"\xff", 0o600), "DIR/web is no text");
        assert_eq!(fetch(&vec![b'a'; 1 << 15], 0o600), "DIR/web is too large for a secret");
    }

    #[test]
    fn what_is_not_there_says_where_it_should_be() {
        let reference = Reference::File("web".to_owned());
        let error = reference.fetch(None).unwrap_err().to_string();
        assert_eq!(error, "the config says no `secrets` directory in which `web` could be");
        let error = reference.fetch(Some(Path::new("/nonexistent"))).unwrap_err().to_string();
        assert!(error.starts_with("/nonexistent/web cannot be read: "), "{error}");
        let unset = Reference::Variable("LIFESIGN_SECRET_NOT_SET".to_owned());
        let error = unset.fetch(None).unwrap_err().to_string();
        assert_eq!(error, "the variable LIFESIGN_SECRET_NOT_SET is not set");
    }

    #[test]
    fn a_secret_does_not_show_itself() {
        assert_eq!(format!("{:?}", Secret("hunter2".to_owned())), "Secret(..)");
    }
}
