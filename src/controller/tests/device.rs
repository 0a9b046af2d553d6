//! A device stand-in: a key, a certificate made by hand, and what it seals.

use crate::base::id::{AppId, DeviceId, Digest, IncidentId};
use crate::base::rung::{Answer, Rung};
use crate::base::time::{Instant, Timestamp};
use crate::bundle::{Bundle, Headline, Origin, Signer, Stage};
use crate::controller::verify::Now;
use crate::diagnosis::{Blame, Class, Confidence, Diagnosis};
use crate::evidence::host::{Host, Thread};
use crate::evidence::report::{Outcome, StepReport};
use crate::evidence::rounds::{Probe, Round, Rounds};
use crate::evidence::{Artifact, Kind};
use crate::pb::v1;
use prost::Message;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
};
use std::ops::Range;
use std::path::Path;

/// 2026-06-01, in the middle of [`Validity::Today`].
pub(crate) fn today() -> Timestamp {
    Timestamp::from_millis(1_780_272_000_000)
}

/// When a certificate is valid.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Validity {
    Past,
    Today,
    Future,
}

pub(crate) struct Device {
    id: DeviceId,
    certificate: Vec<u8>,
    pkcs8: Vec<u8>,
    pub(crate) signer: Signer,
}

pub(crate) fn now() -> Now {
    Now { instant: Instant::from_millis(5_000), wall: today() }
}

impl Device {
    pub(crate) fn new(id: &str, validity: Validity) -> Self {
        let random = SystemRandom::new();
        let pkcs8 =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let certificate = certificate(pkcs8.as_ref(), validity, &random);
        let signer = Signer::new(pkcs8.as_ref(), &certificate).unwrap();
        Self { id: id.parse().unwrap(), certificate, pkcs8: pkcs8.as_ref().to_vec(), signer }
    }

    pub(crate) fn id(&self) -> &DeviceId {
        &self.id
    }

    pub(crate) fn certificate_digest(&self) -> Digest {
        Digest::of(&self.certificate)
    }

    pub(crate) fn enrol(&self, directory: &Path) {
        let pem = pem("CERTIFICATE", &self.certificate);
        std::fs::write(directory.join(format!("{}.pem", self.id)), pem).unwrap();
    }

    pub(crate) fn key_pem(&self) -> String {
        pem("PRIVATE KEY", &self.pkcs8)
    }

    pub(crate) fn seal(&self, incident: u8) -> Vec<u8> {
        self.signer.seal_bundle(&bundle(self.id.as_str(), incident)).unwrap()
    }

    pub(crate) fn seal_headline(&self, incident: u8, revision: u32) -> Vec<u8> {
        let Bundle { origin, diagnosis, .. } = bundle(self.id.as_str(), incident);
        let headline = Headline {
            origin,
            diagnosis: Some(diagnosis),
            stage: Stage::Capturing,
            repeats: None,
            ended: (revision > 2).then(|| Timestamp::from_millis(today().as_millis() + 95_000)),
            revision,
        };
        self.signer.seal_headline(&headline).unwrap()
    }
}

/// A chunk of sealed bytes, as it is published.
pub(crate) fn chunk(sealed: &[u8], range: Range<usize>) -> Vec<u8> {
    let message = v1::Chunk {
        incident: Vec::new(),
        digest: Digest::of(sealed).as_bytes().to_vec(),
        total: sealed.len() as u64,
        offset: range.start as u64,
        data: sealed[range].to_vec(),
        dump: false,
    };
    message.encode_to_vec()
}

/// A part of a dump, or an offer of one, as it is published.
pub(crate) fn piece(dump: &[u8], range: Range<usize>) -> Vec<u8> {
    let chunk = v1::Chunk::decode(&*chunk(dump, range)).unwrap();
    v1::Chunk { dump: true, ..chunk }.encode_to_vec()
}

/// An offer of sealed bytes, as it is published.
pub(crate) fn offer(sealed: &[u8]) -> Vec<u8> {
    chunk(sealed, 0..0)
}

pub(crate) fn bundle(device: &str, incident: u8) -> Bundle {
    let console = b"[   12.3] Kernel panic - not syncing: sysrq triggered crash\r\n\
        [   12.4] CPU: 0 PID: 1 Comm: bash\r\n[   12.5] Call Trace:\r\n\
        [   12.6]  panic+0x101/0x2e0\r\n[   12.7]  sysrq_handle_crash+0x1a/0x20\r\n\
        \x1b[31mred\x1b[0m\r\n[   12.8] ---[ end Kernel panic - not syncing ]---\r\n";
    // Incompressible, so that a bundle has several chunks.
    let mut noise = vec![0; 40_000];
    ring::rand::SecureRandom::fill(&SystemRandom::new(), &mut noise).unwrap();
    let artifact = |kind, name: &str, data| Artifact { kind, name: name.to_owned(), data };
    Bundle {
        origin: origin(device, incident),
        steps: steps(),
        diagnosis: diagnosis(),
        artifacts: vec![
            artifact(Kind::Console, "", console.to_vec()),
            artifact(Kind::Host, "", host().to_bytes()),
            rounds().to_artifact(),
            artifact(Kind::Other, "noise", noise),
        ],
        redaction: None,
    }
}

fn origin(device: &str, incident: u8) -> Origin {
    Origin {
        incident: IncidentId::new([incident; 16]),
        device: device.parse().unwrap(),
        app: AppId::new([2; 16]),
        app_name: "web".to_owned(),
        scenario: "linux-console".parse().unwrap(),
        agent_version: "0.1.0".to_owned(),
        failed_at: today(),
        failed_uptime: Instant::from_millis(77_000),
        boot_id: [3; 16],
    }
}

fn diagnosis() -> Diagnosis {
    Diagnosis {
        class: Class::Panic,
        subject: "sysrq_handle_crash".to_owned(),
        title: "the kernel panicked: sysrq triggered crash".to_owned(),
        signature: "v1:panic:sysrq_handle_crash:12345678".to_owned(),
        blame: Blame::GuestKernel,
        confidence: Confidence::High,
        facts_for: vec!["the console holds a panic report".to_owned()],
        facts_against: vec!["a ping was answered 2 s later".to_owned()],
    }
}

fn steps() -> Vec<StepReport> {
    let step = |name: &str, outcome, reason: &str, took_ms, bytes| StepReport {
        name: name.to_owned(),
        outcome,
        reason: reason.to_owned(),
        took_ms,
        bytes,
    };
    vec![
        step("host", Outcome::Done, "", 204, 310),
        step("console", Outcome::Done, "", 1, 280),
        step("sysrq blocked-tasks", Outcome::Silent, "nothing came within 5 s", 5_000, 0),
        step("qmp registers", Outcome::Skipped, "not in the scenario", 0, 0),
    ]
}

fn host() -> Host {
    let thread = |tid, name: &str, cpu_ms| Thread {
        tid,
        name: name.to_owned(),
        state: "S".to_owned(),
        cpu_ms,
        ..Thread::default()
    };
    Host {
        pid: 4242,
        state: "S".to_owned(),
        rss_bytes: 512 << 20,
        sampled_ms: 200,
        threads: vec![thread(4242, "qemu", 0), thread(4243, "CPU 0/KVM", 200)],
        ..Host::default()
    }
}

fn rounds() -> Rounds {
    let probe = |name: &str, rung, answer, reason: &str, took_ms| Probe {
        name: name.to_owned(),
        rung,
        answer,
        reason: reason.to_owned(),
        took_ms,
    };
    let round =
        |ago: i64, probes| Round { at: Timestamp::from_millis(today().as_millis() - ago), probes };
    let alive = probe("console", Rung::Userspace, Answer::Alive, "`load average` came", 31);
    let dead = probe("console", Rung::Userspace, Answer::Dead, "no answer within 5 s", 5_000);
    let tcp = probe("network", Rung::Service, Answer::Unknown, "no route to 10.0.2.15", 2);
    Rounds {
        rounds: vec![
            round(60_000, vec![alive]),
            round(30_000, vec![dead.clone(), tcp.clone()]),
            round(0, vec![dead, tcp]),
        ],
    }
}

// ---- a certificate -----------------------------------------------------------------------------

/// A self-signed X.509 v3 certificate with a P-256 key and no extensions.
fn certificate(pkcs8: &[u8], validity: Validity, random: &SystemRandom) -> Vec<u8> {
    const ECDSA_WITH_SHA256: [u8; 12] =
        [0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
    const P256_SPKI: [u8; 26] = [
        0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08,
        0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
    ];
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8, random).unwrap();
    let spki = [&P256_SPKI, pair.public_key().as_ref()].concat();
    let (from, to) = match validity {
        Validity::Past => ("200101000000Z", "210101000000Z"),
        Validity::Today => ("200101000000Z", "400101000000Z"),
        Validity::Future => ("390101000000Z", "400101000000Z"),
    };
    let times = der(0x30, &[der(0x17, from.as_bytes()), der(0x17, to.as_bytes())].concat());
    let name = der(0x30, &[]);
    let version = der(0xa0, &der(0x02, &[2]));
    let serial = der(0x02, &[1]);
    let parts = [&*version, &serial, &ECDSA_WITH_SHA256, &name, &times, &name, &spki];
    let signed = der(0x30, &parts.concat());
    let signature = pair.sign(random, &signed).unwrap();
    let bits = der(0x03, &[&[0], signature.as_ref()].concat());
    der(0x30, &[&*signed, &ECDSA_WITH_SHA256, &bits].concat())
}

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut bytes = vec![tag];
    match u8::try_from(length) {
        Ok(short) if short < 128 => bytes.push(short),
        Ok(long) => bytes.extend([0x81, long]),
        Err(_) => {
            bytes.push(0x82);
            bytes.extend(u16::try_from(length).unwrap().to_be_bytes());
        }
    }
    bytes.extend_from_slice(content);
    bytes
}

fn pem(what: &str, der: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = format!("-----BEGIN {what}-----\n");
    for line in der.chunks(48) {
        for group in line.chunks(3) {
            let bits = group.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte))
                << (8 * (3 - group.len()));
            for at in 0..4 {
                let index = usize::try_from(bits >> (18 - 6 * at) & 63).unwrap();
                text.push(if at <= group.len() { char::from(ALPHABET[index]) } else { '=' });
            }
        }
        text.push('\n');
    }
    text + &format!("-----END {what}-----\n")
}
