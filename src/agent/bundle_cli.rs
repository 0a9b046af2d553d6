//! `lifesign bundle ..`: what a person does with sealed files, as text. No VM is asked and no agent runs.

use super::bundle_file::{Error as FileError, key, sealed};
use super::config;
use super::identity::{self, Identity};
use super::replace::replace;
use crate::base::chain::Chain;
use crate::base::id::{AppId, Digest};
use crate::base::text::harmless_line;
use crate::bundle::{
    Bundle, Holds, Origin, Packed, PublicKey, SealError, Source, Verified, redact, verify,
};
use crate::report;
use std::path::{Path, PathBuf};

/// What can be done.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Command {
    /// Say of each file who sealed what, how large it is, and whether it is as it was sealed.
    ///
    /// Exit code 0: all are right. 1: one is altered, sealed by somebody else, or of a form that is not
    /// believed. 2: none is, but one could not be looked at.
    Verify {
        /// The files: evidence, headlines, bindings, lists of dumps
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Who sealed it.
        #[command(flatten)]
        sealer: Sealer,
    },
    /// Make a copy without what may be personal or secret, sealed anew by this device or by --as.
    ///
    /// Of consoles the kernel's lines stay. Addresses of networks, names of hosts and people, UUIDs, serial
    /// numbers, parameters of the kernel that are not known to be harmless, secrets, and vector registers are
    /// masked: the same word by the same mask. Symbols, addresses of memory, registers, stacks and process ids
    /// stay. Pictures are left out. The copy says so of itself, and of which bundle it was made. Read it before
    /// you pass it on: no rule knows the names of your customers.
    Redact {
        /// The bundle
        file: PathBuf,
        /// The copy
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Keep what programs wrote to the console, but for what the rules find in it
        #[arg(long)]
        keep_lines: bool,
        /// Certificate of who seals the copy, PEM; this device's if nothing is said
        #[arg(long = "as", value_name = "FILE", requires = "key")]
        certificate_as: Option<PathBuf>,
        /// The key of that certificate, PEM
        #[arg(long, value_name = "FILE", requires = "certificate_as")]
        key: Option<PathBuf>,
        /// Who sealed it.
        #[command(flatten)]
        sealer: Sealer,
    },
}

/// Who sealed what is looked at.
#[derive(Clone, Debug, clap::Args)]
pub struct Sealer {
    /// Of who sealed it, PEM; the one of this device if nothing is said
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,
    /// The agent's config file
    #[arg(long, value_name = "FILE", default_value = "/etc/lifesign/agent.yaml")]
    config: PathBuf,
}

/// What is to be said.
#[derive(Debug, Default)]
pub struct Told {
    /// Of what is right.
    pub right: Vec<String>,
    /// Of what is not.
    pub wrong: Vec<String>,
    /// For the shell.
    pub code: u8,
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody was named.
    #[error("give the certificate of who sealed it, by --certificate")]
    Config(#[source] config::Error),
    /// A file is not as it should be.
    #[error(transparent)]
    File(#[from] FileError),
    /// Who should seal the copy cannot.
    #[error("the copy cannot be sealed")]
    Identity(#[from] identity::Error),
    /// It does not fit.
    #[error("the copy cannot be sealed")]
    Seal(#[from] SealError),
    /// It is not what can be redacted.
    #[error("{path} holds no evidence that could be redacted")]
    NoBundle {
        /// The file.
        path: PathBuf,
    },
}

/// Does it.
///
/// # Errors
///
/// When nothing could be done, for want of a certificate for instance.
pub fn act(command: &Command) -> Result<Told, Error> {
    match command {
        Command::Verify { files, sealer } => {
            let certificate = sealer.certificate()?;
            let key = key(&certificate)?;
            let mut told = Told::default();
            for file in files {
                told.verify(file, &key, &certificate);
            }
            Ok(told)
        }
        Command::Redact { file, out, keep_lines, certificate_as, key, sealer } => {
            let identity = match (certificate_as, key) {
                (Some(certificate), Some(key)) => identity::load(certificate, key)?,
                _ => {
                    let config = config::read(&sealer.config).map_err(Error::Config)?;
                    identity::load(&config.certificate, &config.key)?
                }
            };
            redact_file(file, &sealer.certificate()?, &identity, out, *keep_lines)
        }
    }
}

// === impl Sealer, Told ===

impl Sealer {
    fn certificate(&self) -> Result<PathBuf, Error> {
        match &self.certificate {
            Some(path) => Ok(path.clone()),
            None => Ok(config::read(&self.config).map_err(Error::Config)?.certificate),
        }
    }
}

impl Told {
    fn verify(&mut self, file: &Path, key: &PublicKey, certificate: &Path) {
        let path = file.display();
        let bytes = match sealed(file) {
            Ok(bytes) => bytes,
            Err(error) => {
                self.wrong.push(format!("{path}: cannot be told: {}", Chain(&error)));
                if self.code == 0 {
                    self.code = 2;
                }
                return;
            }
        };
        match verify(&bytes, key) {
            Ok(verified) => {
                self.right.push(format!("{path}: right, sealed by {}", certificate.display()));
                self.right.extend(describe(&verified).into_iter().map(|line| format!("  {line}")));
            }
            Err(error) => {
                self.wrong.push(format!("{path}: wrong: {}", Chain(&error)));
                self.code = 1;
            }
        }
    }
}

fn redact_file(
    file: &Path,
    certificate: &Path,
    identity: &Identity,
    out: &Path,
    keep_lines: bool,
) -> Result<Told, Error> {
    let bytes = sealed(file)?;
    let opened = verify(&bytes, &key(certificate)?).map_err(|source| FileError::Open {
        path: file.to_owned(),
        certificate: certificate.to_owned(),
        source,
    })?;
    let Holds::Bundle(bundle) = opened.holds else {
        return Err(Error::NoBundle { path: file.to_owned() });
    };
    let source = Source { sealed: opened.digest, sealed_by: opened.sender, keep_lines };
    let redacted = redact(&bundle, source);
    let copy = identity.signer.seal_bundle(&redacted)?;
    replace(out, &copy).map_err(|source| FileError::Write { path: out.to_owned(), source })?;
    let said = redacted.redaction.as_ref().map(report::redaction).unwrap_or_default();
    let mut right = vec![format!("{} bytes sealed into {}", copy.len(), out.display())];
    right.extend(said.lines().map(str::to_owned));
    Ok(Told { right, ..Told::default() })
}

/// What is known of sealed bytes, a line each.
fn describe(verified: &Verified) -> Vec<String> {
    let mut lines = vec![
        format!("sha256     {}", verified.digest),
        format!("sealed by  {}", verified.sender),
        format!("size       {}", size(verified)),
    ];
    match &verified.holds {
        Holds::Bundle(bundle) => lines.extend(describe_bundle(bundle)),
        Holds::Headline(headline) => {
            let (origin, revision) = (&headline.origin, headline.revision);
            lines.push(format!("holds      headline {revision} of incident {}", origin.incident));
            lines.push(whose(&headline.origin));
        }
        Holds::Bindings(bindings) => lines.push(format!(
            "holds      bindings {} for device {}, with {} scenarios",
            bindings.sequence,
            bindings.device,
            bindings.scenarios.len()
        )),
        Holds::Kept(kept) => lines.push(format!(
            "holds      a list of {} dumps that device {} keeps",
            kept.dumps.len(),
            kept.device
        )),
    }
    lines
}

fn size(verified: &Verified) -> String {
    let (bytes, schema) = (verified.bytes, verified.schema);
    let dictionary = |id| match id {
        0 => "no dictionary".to_owned(),
        id => format!("dictionary {id}"),
    };
    match verified.packed {
        None => format!("{bytes} bytes, for readers of schema {schema}"),
        Some(Packed { dictionary: id, bytes: packed, body_bytes }) => format!(
            "{bytes} bytes, for readers of schema {schema}; {packed} packed with {}, {body_bytes} unpacked",
            dictionary(id)
        ),
    }
}

fn describe_bundle(bundle: &Bundle) -> Vec<String> {
    let origin = &bundle.origin;
    let mut lines = vec![
        format!("holds      the evidence of incident {}", origin.incident),
        whose(origin),
        format!(
            "says       {}: {}",
            bundle.diagnosis.class,
            harmless_line(bundle.diagnosis.title.as_bytes())
        ),
    ];
    let redacted = bundle.redaction.as_ref().map(report::redaction).unwrap_or_default();
    lines.extend(redacted.lines().map(|line| format!("redacted   {line}")));
    let rows: Vec<[String; 3]> = bundle
        .artifacts
        .iter()
        .map(|one| [one.label(), one.data.len().to_string(), Digest::of(&one.data).to_string()])
        .collect();
    if !rows.is_empty() {
        let table = report::table(["ARTIFACT", "BYTES", "SHA-256"], &rows);
        lines.extend(table.lines().map(str::to_owned));
    }
    lines
}

fn whose(origin: &Origin) -> String {
    format!(
        "of         app {} ({}) on device {}, failed at {}, boot {}",
        harmless_line(origin.app_name.as_bytes()),
        origin.app,
        origin.device,
        origin.failed_at,
        AppId::new(origin.boot_id)
    )
}

#[cfg(test)]
mod tests;
