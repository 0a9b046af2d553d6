//! What the controller binds on this device.
//!
//! It comes as one retained message that the controller signed. It is taken whole or not at all:
//! signed by the enrolled controller, for this device, not older than what is in force, and right in
//! every word. What is in force is kept on disk as it came and is verified again when the program
//! starts, so a device that boots without its link watches as it did before.
//!
//! ```text
//! STATE/bindings.sealed         the AuthContainer that is in force
//! STATE/bindings.refused        one of these that could not be opened again, set aside
//! ```

use super::setup::Controller as Enrolled;
use crate::base::chain::Chain;
use crate::base::consent::Consent;
use crate::base::id::{DeviceId, Digest};
use crate::base::limits;
use crate::base::problem::Source;
use crate::bundle::{Bindings, OpenError, PublicKey, Text, open_bindings};
use crate::rules::{Agent, Rule, Rules, read_whole};
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
    /// Whether it may have the dumps that the device keeps.
    pub dumps: bool,
}

struct Kept {
    sealed: Vec<u8>,
    bindings: Bindings,
    /// Nothing, if they were right once and are not any more: this version reads them otherwise, or
    /// the config consents to less.
    rules: Option<Rules>,
}

/// Why what was in force before is not.
#[derive(Debug, thiserror::Error)]
enum Unkept {
    #[error("it cannot be read")]
    Disk(#[from] io::Error),
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// What became of a message.
#[derive(Debug)]
pub enum Taken {
    /// It is in force from now on.
    New,
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
    /// Older than what was taken before.
    #[error(
        "its sequence is {given}, and {kept} was taken before: nobody may bring back what was said once"
    )]
    Older {
        /// What came.
        given: u64,
        /// What was taken.
        kept: u64,
    },
    /// Another content under the same number.
    #[error("its sequence {0} was taken before with another content")]
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
        Ok(Self { key, consent: controller.consent, dumps: controller.dumps })
    }
}

/// The key of a certificate in PEM form, if it is one that seals.
#[must_use]
pub fn key_of(pem: &[u8]) -> Option<PublicKey> {
    let der = CertificateDer::from_pem_slice(pem).ok()?;
    let certificate = rustls::server::ParsedCertificate::try_from(&der).ok()?;
    PublicKey::from_spki(certificate.subject_public_key_info().as_ref())
}

// === impl Assigned ===

impl Assigned {
    /// Looks for what was in force before. The second value says what is wrong with it, if anything
    /// is: what cannot be believed is set aside.
    #[must_use]
    pub fn open(state: &Path, device: DeviceId, authority: Authority) -> (Self, Option<String>) {
        let (assigned, problem) = Self::load(state, device, authority);
        if let Some(Unkept::Refused(_)) = problem
            && assigned.kept.is_none()
        {
            fs::rename(&assigned.path, assigned.path.with_extension("refused")).ok();
        }
        let problem = assigned.described(problem);
        (assigned, problem)
    }

    /// The same for who only looks: nothing is set aside.
    #[must_use]
    pub fn look(state: &Path, device: DeviceId, authority: Authority) -> (Self, Option<String>) {
        let (assigned, problem) = Self::load(state, device, authority);
        let problem = assigned.described(problem);
        (assigned, problem)
    }

    /// The number of what is in force.
    #[must_use]
    pub fn sequence(&self) -> Option<u64> {
        self.in_force().map(|(kept, _)| kept.bindings.sequence)
    }

    /// What is in force.
    #[must_use]
    pub fn rules(&self) -> Rules {
        self.in_force().map(|(_, rules)| rules.clone()).unwrap_or_default()
    }

    /// The dumps that the controller wishes to have, as far as it may have any.
    #[must_use]
    pub fn dumps(&self) -> &[Digest] {
        let kept = self.in_force().filter(|_| self.authority.dumps);
        kept.map_or(&[], |(kept, _)| &kept.bindings.dumps)
    }

    /// Takes a message, or says why not.
    ///
    /// # Errors
    ///
    /// When it is not taken; what was in force stays so.
    pub fn take(&mut self, sealed: &[u8]) -> Result<Taken, Refusal> {
        if sealed.is_empty() {
            return Err(Refusal::Empty);
        }
        let mut new = self.opened(sealed)?;
        if let Some(kept) = &self.kept {
            let (given, last) = (new.bindings.sequence, kept.bindings.sequence);
            if given < last {
                return Err(Refusal::Older { given, kept: last });
            }
            // A signature differs each time: what counts is what was signed.
            if given == last && new.bindings != kept.bindings {
                return Err(Refusal::Forked(given));
            }
            if given == last && kept.rules.is_some() {
                return Ok(Taken::Same);
            }
        }
        new.rules = Some(rules(&new.bindings, self.authority.consent)?);
        self.kept = Some(new);
        self.behind = true;
        self.settle().ok();
        Ok(Taken::New)
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

    fn load(state: &Path, device: DeviceId, authority: Authority) -> (Self, Option<Unkept>) {
        let path = state.join("bindings.sealed");
        let mut assigned = Self { path, authority, device, kept: None, behind: false };
        let problem = assigned.read_kept().err();
        (assigned, problem)
    }

    fn read_kept(&mut self) -> Result<(), Unkept> {
        let Some(sealed) = read(&self.path)? else { return Ok(()) };
        let kept = self.kept.insert(self.opened(&sealed)?);
        // Even if it is wrong by now, its number holds: nobody shall bring back an older one.
        kept.rules = Some(rules(&kept.bindings, self.authority.consent)?);
        Ok(())
    }

    fn described(&self, problem: Option<Unkept>) -> Option<String> {
        let problem = problem?;
        Some(format!("{} is not in force: {}", self.path.display(), Chain(&problem)))
    }

    fn in_force(&self) -> Option<(&Kept, &Rules)> {
        let kept = self.kept.as_ref()?;
        Some((kept, kept.rules.as_ref()?))
    }

    fn opened(&self, sealed: &[u8]) -> Result<Kept, Refusal> {
        if sealed.len() > limits::BINDINGS_BYTES {
            return Err(Refusal::TooLarge(sealed.len()));
        }
        let bindings = open_bindings(sealed, &self.authority.key)?;
        if bindings.device != self.device {
            return Err(Refusal::Device(bindings.device));
        }
        Ok(Kept { sealed: sealed.to_vec(), bindings, rules: None })
    }
}

/// Reads the controller's texts.
fn rules(bindings: &Bindings, most: Consent) -> Result<Rules, Refusal> {
    let sequence = bindings.sequence;
    let source = |text: &Text| Source {
        name: format!("controller-{sequence}/{}", text.name),
        text: text.text.clone(),
    };
    let scenarios = bindings.scenarios.iter().map(source).collect();
    let wrong = match read_whole(scenarios, source(&bindings.bindings)) {
        Ok(rules) => {
            let wrong: Vec<String> = rules.iter().filter_map(|rule| beyond(rule, most)).collect();
            if wrong.is_empty() {
                return Ok(rules);
            }
            wrong
        }
        Err(wrong) => wrong,
    };
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
    use crate::bundle::Signer;
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
                dumps: vec![Digest::of(b"a dump"); sequence as usize % 3],
            };
            self.signer.seal_bindings(&bindings).unwrap()
        }

        fn authority(&self) -> Authority {
            Authority { key: self.key.clone(), consent: Consent::Input, dumps: true }
        }

        fn device(&self, state: &Path) -> (Assigned, Option<String>) {
            Assigned::open(state, "d-1".parse().unwrap(), self.authority())
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
        assert!(assigned.rules().is_empty());
        let sealed = controller.seal("d-1", 7, GOOD);
        assert!(matches!(assigned.take(&sealed), Ok(Taken::New)));
        assert_eq!(assigned.rules().iter().next().unwrap().place, "controller-7/bindings.yaml:2");
        // The broker says it again with every connection; signed anew it is the same still.
        assert!(matches!(assigned.take(&sealed), Ok(Taken::Same)));
        let again = controller.seal("d-1", 7, GOOD);
        assert!(matches!(assigned.take(&again), Ok(Taken::Same)));
        drop(assigned);
        let (assigned, problem) = controller.device(state.path());
        assert_eq!((assigned.sequence(), problem), (Some(7), None));
        assert_eq!(assigned.rules().len(), 1);
    }

    #[test]
    fn what_is_not_right_in_every_way_changes_nothing() {
        let state = tempfile::tempdir().unwrap();
        let (controller, stranger) = (Controller::new(), Controller::new());
        let (mut assigned, _) = controller.device(state.path());
        assigned.take(&controller.seal("d-1", 7, GOOD)).unwrap();
        let said = [
            assigned.take(b""),
            assigned.take(b"rubbish"),
            assigned.take(&vec![0; limits::BINDINGS_BYTES + 1]),
            assigned.take(&stranger.seal("d-1", 8, GOOD)),
            assigned.take(&controller.seal("d-2", 8, GOOD)),
            assigned.take(&controller.seal("d-1", 6, GOOD)),
            assigned.take(&controller.seal("d-1", 7, OTHER)),
            assigned.take(&controller.seal("d-1", 8, &GOOD.replace("ours", "yours"))),
            assigned.take(&controller.seal("d-1", 8, &GOOD.replace("input", "pause"))),
        ];
        let said: Vec<String> = said.into_iter().map(refusal).collect();
        insta::assert_snapshot!(said.join("\n---\n"));
        assert_eq!(assigned.sequence(), Some(7));
        let (assigned, _) = controller.device(state.path());
        assert_eq!(assigned.sequence(), Some(7));
    }

    #[test]
    fn a_wish_for_a_dump_is_as_good_as_the_message_that_it_comes_in() {
        let state = tempfile::tempdir().unwrap();
        let (controller, stranger) = (Controller::new(), Controller::new());
        let wished = [Digest::of(b"a dump"); 2];
        let (mut assigned, _) = controller.device(state.path());
        assert!(assigned.dumps().is_empty());
        let sealed = controller.seal("d-1", 8, GOOD);
        assigned.take(&sealed).unwrap();
        assert_eq!(assigned.dumps(), wished);
        // Taken back; and then nobody brings it back, nor asks in another's name.
        assigned.take(&controller.seal("d-1", 9, GOOD)).unwrap();
        assert!(assigned.dumps().is_empty());
        assert!(matches!(assigned.take(&sealed), Err(Refusal::Older { given: 8, kept: 9 })));
        assert!(assigned.take(&stranger.seal("d-1", 11, GOOD)).is_err());
        assert!(assigned.take(&controller.seal("d-2", 11, GOOD)).is_err());
        assert!(assigned.dumps().is_empty());
        assigned.take(&controller.seal("d-1", 11, GOOD)).unwrap();
        assert_eq!(controller.device(state.path()).0.dumps(), wished);
        // Bindings are in force where the wish is not granted.
        let denied = Authority { dumps: false, ..controller.authority() };
        let (assigned, problem) = Assigned::open(state.path(), "d-1".parse().unwrap(), denied);
        assert_eq!((assigned.sequence(), assigned.dumps().len(), problem), (Some(11), 0, None));
    }

    #[test]
    fn a_kept_message_is_verified_again() {
        let state = tempfile::tempdir().unwrap();
        let (controller, next) = (Controller::new(), Controller::new());
        let (mut assigned, _) = controller.device(state.path());
        assigned.take(&controller.seal("d-1", 7, GOOD)).unwrap();
        // Enrolled with another controller: the old one's word is not in force, nor its numbers.
        let (mut assigned, problem) = next.device(state.path());
        let problem = problem.unwrap();
        assert!(problem.contains("bindings.sealed is not in force: "), "{problem}");
        assert!(state.path().join("bindings.refused").exists());
        assigned.take(&next.seal("d-1", 1, GOOD)).unwrap();
        assert_eq!(next.device(state.path()).0.sequence(), Some(1));

        fs::write(state.path().join("bindings.sealed"), b"torn").unwrap();
        assert!(next.device(state.path()).1.is_some());
        assert_eq!(next.device(state.path()).1, None);
    }

    #[test]
    fn what_is_wrong_by_now_is_not_in_force_and_nothing_older_is_either() {
        let state = tempfile::tempdir().unwrap();
        let controller = Controller::new();
        let sealed = controller.seal("d-1", 7, GOOD);
        controller.device(state.path()).0.take(&sealed).unwrap();
        let less = Authority { consent: Consent::Query, ..controller.authority() };
        let open = |authority| Assigned::open(state.path(), "d-1".parse().unwrap(), authority);
        let (mut assigned, problem) = open(less);
        assert!(problem.unwrap().contains("it consents to `input`"));
        assert!(assigned.sequence().is_none() && assigned.rules().is_empty());
        assert!(matches!(assigned.take(&sealed), Err(Refusal::Wrong { .. })));
        let older = controller.seal("d-1", 6, OTHER);
        assert!(matches!(assigned.take(&older), Err(Refusal::Older { given: 6, kept: 7 })));
        assert_eq!(controller.device(state.path()).0.sequence(), Some(7));
    }

    #[test]
    fn who_looks_sets_nothing_aside() {
        let state = tempfile::tempdir().unwrap();
        let (controller, next) = (Controller::new(), Controller::new());
        let (mut assigned, _) = controller.device(state.path());
        assigned.take(&controller.seal("d-1", 7, GOOD)).unwrap();
        let device = "d-1".parse().unwrap();
        let (looked, problem) = Assigned::look(state.path(), device, next.authority());
        assert!(problem.is_some() && looked.sequence().is_none());
        assert_eq!(controller.device(state.path()).0.sequence(), Some(7));
    }

    #[test]
    fn a_disk_that_takes_nothing_is_tried_again() {
        let state = tempfile::tempdir().unwrap();
        let controller = Controller::new();
        let missing = state.path().join("missing");
        let (mut assigned, _) = controller.device(&missing);
        assigned.take(&controller.seal("d-1", 7, GOOD)).unwrap();
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
                let taken = assigned.take(&controller.seal("d-1", sequence, text));
                let newer = before.is_none_or(|before| sequence > before);
                prop_assert_eq!(matches!(taken, Ok(Taken::New)), newer && good);
                if restart {
                    assigned = controller.device(state.path()).0;
                }
                let expected = if newer && good { Some(sequence) } else { before };
                prop_assert_eq!(assigned.sequence(), expected);
            }
        }
    }
}
