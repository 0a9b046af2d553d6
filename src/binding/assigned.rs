//! What the controller binds on this device.
//!
//! It comes as one retained message that the controller signed. It is taken whole or not at all:
//! signed by the enrolled controller, for this device, not older than what is in force, and right in
//! every word. What is in force is kept on disk as it came and is verified again when the program
//! starts, so a device that boots without its link watches as it did before.
//!
//! ```text
//! STATE/bindings.sealed         the AuthContainer that is in force
//! STATE/bindings.refused        one of these that could not be read again, set aside
//! ```

use super::rules::{Agent, Rule, Rules, Scenarios, read_rules};
use super::setup::Controller as Enrolled;
use crate::base::chain::Chain;
use crate::base::consent::Consent;
use crate::base::id::{DeviceId, Digest};
use crate::base::limits;
use crate::base::problem::Source;
use crate::bundle::{Bindings, OpenError, PublicKey, open_bindings};
use crate::scenario;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// What the controller binds, as far as it is in force.
pub struct Assigned {
    path: PathBuf,
    authority: Authority,
    device: DeviceId,
    kept: Option<Kept>,
    /// The disk does not hold what is in force.
    behind: bool,
}

/// Whose word counts, and how far.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Authority {
    /// The controller's key.
    pub key: PublicKey,
    /// What it may consent to at most.
    pub consent: Consent,
}

struct Kept {
    sealed: Vec<u8>,
    digest: Digest,
    bindings: Bindings,
}

/// What became of a message.
#[derive(Debug)]
pub enum Taken {
    /// It is in force from now on.
    New(Rules),
    /// It is what is in force already.
    Same,
}

/// Why a message was not taken. What was in force stays so.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Nothing: somebody cleared the topic.
    #[error(
        "the message is empty; to withdraw bindings, the controller signs some that bind nothing"
    )]
    Empty,
    /// More than a message may have.
    #[error("{0} bytes, more than bindings ever have")]
    TooLarge(usize),
    /// Not the controller's, or altered.
    #[error("the message cannot be opened")]
    Open(#[from] OpenError),
    /// Meant for somebody else.
    #[error("it is meant for the device `{0}`")]
    Device(DeviceId),
    /// Older than what is in force.
    #[error("its sequence is {given}, and {kept} is in force already")]
    Older {
        /// What came.
        given: u64,
        /// What is in force.
        kept: u64,
    },
    /// Another content under the same number.
    #[error("its sequence {0} is in force already with another content")]
    Forked(u64),
    /// Signed, and wrong.
    #[error("bindings {sequence} of the controller are wrong:\n\n{}", wrong.join("\n\n"))]
    Wrong {
        /// Which.
        sequence: u64,
        /// Every mistake, as a compiler would show it.
        wrong: Vec<String>,
    },
}

/// Why the controller's key is not known.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read.
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
    Pem {
        /// The file.
        path: PathBuf,
    },
}

impl Authority {
    /// Of the controller that the device is enrolled with.
    ///
    /// # Errors
    ///
    /// When its certificate cannot be read or is something else.
    pub fn load(controller: &Enrolled) -> Result<Self, KeyError> {
        let path = &controller.certificate;
        let pem = fs::read(path).map_err(|source| KeyError::Read { path: path.clone(), source })?;
        let key = key_of(&pem).ok_or_else(|| KeyError::Pem { path: path.clone() })?;
        Ok(Self { key, consent: controller.consent })
    }
}

fn key_of(pem: &[u8]) -> Option<PublicKey> {
    let der = CertificateDer::from_pem_slice(pem).ok()?;
    let certificate = rustls::server::ParsedCertificate::try_from(&der).ok()?;
    PublicKey::from_spki(certificate.subject_public_key_info().as_ref())
}

// === impl Assigned ===

impl Assigned {
    /// Looks for what was in force before. The second value says what is wrong with it, if anything
    /// is: it was set aside then.
    #[must_use]
    pub fn open(state: &Path, device: DeviceId, authority: Authority) -> (Self, Option<String>) {
        let path = state.join("bindings.sealed");
        let mut assigned = Self { path, authority, device, kept: None, behind: false };
        let problem = match read(&assigned.path) {
            Ok(None) => None,
            Ok(Some(sealed)) => match assigned.opened(&sealed) {
                Ok(kept) => {
                    assigned.kept = Some(kept);
                    None
                }
                Err(refusal) => {
                    fs::rename(&assigned.path, assigned.path.with_extension("refused")).ok();
                    Some(Chain(&refusal).to_string())
                }
            },
            Err(error) => Some(error.to_string()),
        };
        let problem = problem
            .map(|problem| format!("{} is not in force: {problem}", assigned.path.display()));
        (assigned, problem)
    }

    /// The number of what is in force.
    #[must_use]
    pub fn sequence(&self) -> Option<u64> {
        self.kept.as_ref().map(|kept| kept.bindings.sequence)
    }

    /// What is in force, read with the device's own scenarios besides those that came with it. To be
    /// read anew when those change.
    ///
    /// # Errors
    ///
    /// When it does not fit them any more.
    pub fn rules(&self, local: &Scenarios) -> Result<Rules, Refusal> {
        let Some(kept) = &self.kept else { return Ok(Rules::default()) };
        rules(&kept.bindings, local, self.authority.consent)
    }

    /// Takes a message, or says why not.
    ///
    /// # Errors
    ///
    /// When it is not taken; what was in force stays so.
    pub fn take(&mut self, sealed: &[u8], local: &Scenarios) -> Result<Taken, Refusal> {
        if sealed.is_empty() {
            return Err(Refusal::Empty);
        }
        let new = self.opened(sealed)?;
        if let Some(kept) = &self.kept {
            let (given, in_force) = (new.bindings.sequence, kept.bindings.sequence);
            if given < in_force {
                return Err(Refusal::Older { given, kept: in_force });
            }
            // A signature differs each time: what counts is what was signed.
            if given == in_force {
                let same = new.digest == kept.digest || new.bindings == kept.bindings;
                return if same { Ok(Taken::Same) } else { Err(Refusal::Forked(given)) };
            }
        }
        let rules = rules(&new.bindings, local, self.authority.consent)?;
        self.kept = Some(new);
        self.behind = true;
        self.settle().ok();
        Ok(Taken::New(rules))
    }

    /// Brings to disk what the disk did not take.
    ///
    /// # Errors
    ///
    /// When it still does not.
    pub fn settle(&mut self) -> io::Result<()> {
        if let Some(kept) = self.kept.as_ref().filter(|_| self.behind) {
            write(&self.path, &kept.sealed)?;
        }
        self.behind = false;
        Ok(())
    }

    /// Whether the disk does not hold what is in force.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.behind
    }

    fn opened(&self, sealed: &[u8]) -> Result<Kept, Refusal> {
        if sealed.len() > limits::BINDINGS_BYTES {
            return Err(Refusal::TooLarge(sealed.len()));
        }
        let bindings = open_bindings(sealed, &self.authority.key)?;
        if bindings.device != self.device {
            return Err(Refusal::Device(bindings.device));
        }
        Ok(Kept { sealed: sealed.to_vec(), digest: Digest::of(sealed), bindings })
    }
}

/// Reads the controller's texts. A scenario that comes with them is meant by them, even if the device
/// has one of the same name; the device's own bindings go on meaning the device's.
fn rules(bindings: &Bindings, local: &Scenarios, most: Consent) -> Result<Rules, Refusal> {
    let sequence = bindings.sequence;
    let mut wrong = Vec::new();
    let mut scenarios = local.clone();
    let source = |name: &str, text: &str| Source {
        name: format!("controller-{sequence}/{name}"),
        text: text.to_owned(),
    };
    if bindings.scenarios.len() > limits::SCENARIOS {
        wrong.push(format!("more than {} scenarios", limits::SCENARIOS));
    }
    for text in bindings.scenarios.iter().take(limits::SCENARIOS) {
        match scenario::read(source(&text.name, &text.text)) {
            Ok(scenario) => drop(scenarios.insert(scenario.name().clone(), scenario)),
            Err(problems) => wrong.push(problems.to_string()),
        }
    }
    let text = &bindings.bindings;
    match read_rules(source(&text.name, &text.text), &scenarios) {
        Ok(rules) => {
            wrong.extend(rules.iter().filter_map(|rule| beyond(rule, most)));
            if wrong.is_empty() {
                return Ok(rules);
            }
        }
        Err(problems) => wrong.push(problems.to_string()),
    }
    Err(Refusal::Wrong { sequence, wrong })
}

fn beyond(rule: &Rule, most: Consent) -> Option<String> {
    let agent = rule.agent.filter(|agent| *agent == Agent::Add).map(|_| Agent::CONSENT);
    let consent = rule.consent.max(agent).filter(|consent| *consent > most)?;
    let place = &rule.place;
    Some(format!(
        "{place}: it consents to `{consent}`, and this device lets the controller consent to \
         `{most}` at most"
    ))
}

fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut sealed = Vec::new();
    file.take(limits::BINDINGS_BYTES as u64 + 1).read_to_end(&mut sealed)?;
    Ok(Some(sealed))
}

/// Written beside, synced, renamed: a crash leaves the old one or the new one.
fn write(path: &Path, sealed: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = File::create(&beside)?;
    file.write_all(sealed)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::{Signer, Text};
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair};

    const GOOD: &str =
        "bindings:\n  - select: { name: \"*\" }\n    consent: input\n    scenarios: [ours]\n";
    const OTHER: &str = "bindings: []\n";
    const SCENARIO: &str =
        "scenario: ours\nprobe:\n  - console: { send: id, expect: uid }\ndiagnose: [host]\n";

    struct Controller {
        signer: Signer,
        key: PublicKey,
    }

    impl Controller {
        fn new() -> Self {
            let pair = KeyPair::generate().unwrap();
            let certificate = CertificateParams::new(vec![]).unwrap().self_signed(&pair).unwrap();
            let signer = Signer::new(&pair.serialize_der(), certificate.der()).unwrap();
            Self { signer, key: key_of(certificate.pem().as_bytes()).unwrap() }
        }

        fn seal(&self, device: &str, sequence: u64, bindings: &str) -> Vec<u8> {
            let text =
                |name: &str, text: &str| Text { name: name.to_owned(), text: text.to_owned() };
            let bindings = Bindings {
                device: device.parse().unwrap(),
                sequence,
                scenarios: vec![text("ours.yaml", SCENARIO)],
                bindings: text("bindings.yaml", bindings),
            };
            self.signer.seal_bindings(&bindings).unwrap()
        }

        fn device(&self, state: &Path) -> (Assigned, Option<String>) {
            let authority = Authority { key: self.key.clone(), consent: Consent::Input };
            Assigned::open(state, "d-1".parse().unwrap(), authority)
        }
    }

    fn refusal(taken: Result<Taken, Refusal>) -> String {
        Chain(&taken.unwrap_err()).to_string()
    }

    #[test]
    fn what_the_controller_signed_is_in_force_even_after_a_restart() {
        let state = tempfile::tempdir().unwrap();
        let controller = Controller::new();
        let (mut assigned, problem) = controller.device(state.path());
        assert_eq!((assigned.sequence(), problem), (None, None));
        let local = Scenarios::new();
        assert!(assigned.rules(&local).unwrap().is_empty());
        let sealed = controller.seal("d-1", 7, GOOD);
        let Ok(Taken::New(rules)) = assigned.take(&sealed, &local) else { panic!("taken") };
        assert_eq!(rules.iter().next().unwrap().place, "controller-7/bindings.yaml:2");
        // The broker says it again with every connection; signed anew it is the same still.
        assert!(matches!(assigned.take(&sealed, &local), Ok(Taken::Same)));
        let again = controller.seal("d-1", 7, GOOD);
        assert!(matches!(assigned.take(&again, &local), Ok(Taken::Same)));
        drop(assigned);
        let (assigned, problem) = controller.device(state.path());
        assert_eq!((assigned.sequence(), problem), (Some(7), None));
        assert_eq!(assigned.rules(&local).unwrap().len(), 1);
    }

    #[test]
    fn what_is_not_right_in_every_way_changes_nothing() {
        let state = tempfile::tempdir().unwrap();
        let (controller, stranger) = (Controller::new(), Controller::new());
        let (mut assigned, _) = controller.device(state.path());
        let local = Scenarios::new();
        assigned.take(&controller.seal("d-1", 7, GOOD), &local).unwrap();
        let said = [
            assigned.take(b"", &local),
            assigned.take(b"rubbish", &local),
            assigned.take(&vec![0; limits::BINDINGS_BYTES + 1], &local),
            assigned.take(&stranger.seal("d-1", 8, GOOD), &local),
            assigned.take(&controller.seal("d-2", 8, GOOD), &local),
            assigned.take(&controller.seal("d-1", 6, GOOD), &local),
            assigned.take(&controller.seal("d-1", 7, OTHER), &local),
            assigned.take(&controller.seal("d-1", 8, &GOOD.replace("ours", "yours")), &local),
            assigned.take(&controller.seal("d-1", 8, &GOOD.replace("input", "pause")), &local),
        ];
        let said: Vec<String> = said.into_iter().map(refusal).collect();
        insta::assert_snapshot!(said.join("\n---\n"));
        assert_eq!(assigned.sequence(), Some(7));
        let (assigned, _) = controller.device(state.path());
        assert_eq!(assigned.sequence(), Some(7));
    }

    #[test]
    fn a_kept_message_is_verified_again() {
        let state = tempfile::tempdir().unwrap();
        let (controller, next) = (Controller::new(), Controller::new());
        let local = Scenarios::new();
        let (mut assigned, _) = controller.device(state.path());
        assigned.take(&controller.seal("d-1", 7, GOOD), &local).unwrap();
        // Enrolled with another controller: the old one's word is not in force, nor its numbers.
        let (mut assigned, problem) = next.device(state.path());
        let problem = problem.unwrap();
        assert!(problem.contains("bindings.sealed is not in force: "), "{problem}");
        assert!(state.path().join("bindings.refused").exists());
        assigned.take(&next.seal("d-1", 1, GOOD), &local).unwrap();
        assert_eq!(next.device(state.path()).0.sequence(), Some(1));

        fs::write(state.path().join("bindings.sealed"), b"torn").unwrap();
        assert!(next.device(state.path()).1.is_some());
        assert_eq!(next.device(state.path()).1, None);
    }

    #[test]
    fn a_disk_that_takes_nothing_is_tried_again() {
        let state = tempfile::tempdir().unwrap();
        let controller = Controller::new();
        let missing = state.path().join("missing");
        let (mut assigned, _) = controller.device(&missing);
        assigned.take(&controller.seal("d-1", 7, GOOD), &Scenarios::new()).unwrap();
        assert!(assigned.is_behind() && assigned.settle().is_err());
        fs::create_dir(&missing).unwrap();
        assigned.settle().unwrap();
        assert_eq!(controller.device(&missing).0.sequence(), Some(7));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// Whatever comes in whatever order, with restarts between: the number never goes back.
        #[test]
        fn the_sequence_never_goes_back(steps in prop::collection::vec((0_u64..6, any::<bool>(), any::<bool>()), 1..12)) {
            let state = tempfile::tempdir().unwrap();
            let controller = Controller::new();
            let (mut assigned, _) = controller.device(state.path());
            for (sequence, good, restart) in steps {
                let before = assigned.sequence();
                let text = if good { GOOD } else { "bindings: 7\n" };
                let taken = assigned.take(&controller.seal("d-1", sequence, text), &Scenarios::new());
                let newer = before.is_none_or(|before| sequence > before);
                prop_assert_eq!(matches!(taken, Ok(Taken::New(_))), newer && good);
                if restart {
                    assigned = controller.device(state.path()).0;
                }
                let expected = if newer && good { Some(sequence) } else { before };
                prop_assert_eq!(assigned.sequence(), expected);
            }
        }
    }
}
