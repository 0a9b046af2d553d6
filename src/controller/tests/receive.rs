//! Devices, honest and other, against a receiver with a real store.

use super::device::{Device, Validity, chunk, now, offer};
use crate::base::id::Digest;
use crate::base::topic::Prefix;
use crate::controller::identity::Enrolled;
use crate::controller::receive::{Message, Outcome, Receiver};
use crate::controller::store::{Find, Reader, Store};
use crate::pb::v1::{self, receipt::Word};
use prost::Message as _;
use std::path::PathBuf;
use tempfile::TempDir;

struct Room {
    _place: TempDir,
    data: PathBuf,
    devices: PathBuf,
    receiver: Option<Receiver>,
}

impl Room {
    fn new(enrolled: &[&Device]) -> Self {
        let place = tempfile::tempdir().unwrap();
        let (data, devices) = (place.path().join("data"), place.path().join("devices"));
        std::fs::create_dir(&devices).unwrap();
        enrolled.iter().for_each(|device| device.enrol(&devices));
        let mut room = Self { _place: place, data, devices, receiver: None };
        room.restart();
        room
    }

    fn restart(&mut self) {
        self.receiver = None;
        let store = Store::open(&self.data).unwrap();
        let enrolled = Enrolled::new(self.devices.clone());
        self.receiver = Some(Receiver::new(Prefix::default(), enrolled, store));
    }

    fn say(&mut self, device: &str, what: &str, payload: Vec<u8>) -> (Outcome, Option<Word>) {
        let message = Message { topic: format!("lifesign/{device}/{what}"), payload };
        let handled = self.receiver.as_mut().unwrap().handle(&message, now()).unwrap();
        let word = handled.replies.first().and_then(|reply| {
            assert_eq!(reply.topic, format!("lifesign/{device}/receipt"));
            v1::Receipt::decode(&*reply.payload).unwrap().word
        });
        (handled.outcome, word)
    }

    fn bundle(&mut self, device: &str, payload: Vec<u8>) -> Option<Word> {
        self.say(device, "bundle", payload).1
    }

    fn send(&mut self, device: &str, sealed: &[u8]) -> Option<Word> {
        self.bundle(device, chunk(sealed, 0..sealed.len()))
    }

    fn incidents(&self) -> usize {
        Reader::open(&self.data).unwrap().incidents().unwrap().len()
    }

    fn quarantined(&self) -> usize {
        std::fs::read_dir(self.data.join("quarantine")).unwrap().count()
    }
}

fn stored() -> Option<Word> {
    Some(Word::Stored(v1::Stored {}))
}

fn missing(ranges: &[(usize, usize)]) -> Option<Word> {
    let ranges = ranges.iter();
    let ranges = ranges.map(|(start, end)| v1::Range { start: *start as u64, end: *end as u64 });
    Some(Word::Missing(v1::Missing { ranges: ranges.collect() }))
}

fn reason(word: Option<Word>) -> String {
    match word {
        Some(Word::Refused(refused)) => refused.reason,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn chunks_in_any_order_twice_and_over_a_restart_make_one_incident() {
    let device = Device::new("d-1", Validity::Today);
    let mut room = Room::new(&[&device]);
    let sealed = device.seal(7);
    let end = sealed.len();
    assert_eq!(room.bundle("d-1", offer(&sealed)), missing(&[(0, end)]));
    assert_eq!(room.bundle("d-1", chunk(&sealed, 20_000..30_000)), None);
    assert_eq!(room.bundle("d-1", chunk(&sealed, 0..10_000)), None);
    assert_eq!(room.bundle("d-1", chunk(&sealed, 0..10_000)), None);
    room.restart();
    assert_eq!(room.bundle("d-1", offer(&sealed)), missing(&[(10_000, 20_000), (30_000, end)]));
    assert_eq!(room.bundle("d-1", chunk(&sealed, 30_000..end)), None);
    assert_eq!(room.incidents(), 0);
    assert_eq!(room.bundle("d-1", chunk(&sealed, 10_000..20_000)), stored());

    for _ in 0..2 {
        assert_eq!(room.bundle("d-1", offer(&sealed)), stored());
        assert_eq!(room.bundle("d-1", chunk(&sealed, 0..10_000)), stored());
        room.restart();
    }
    assert_eq!(room.incidents(), 1);
    let object = room.data.join("objects").join(Digest::of(&sealed).to_string());
    assert_eq!(std::fs::read(object).unwrap(), sealed);
}

#[test]
fn a_headline_makes_the_incident_and_the_highest_revision_holds() {
    let device = Device::new("d-1", Validity::Today);
    let mut room = Room::new(&[&device]);
    for revision in [1, 3, 2, 1] {
        let headline = device.seal_headline(7, revision);
        assert_eq!(room.say("d-1", "headline", headline).1, stored());
    }
    let reader = Reader::open(&room.data).unwrap();
    let Find::One(incident) = reader.find("0707").unwrap() else { panic!("not found") };
    assert!(incident.ended_at.is_some(), "revision 3 has ended it");
    assert_eq!(incident.bundle, None);
    room.send("d-1", &device.seal(7));
    assert_eq!(room.incidents(), 1);
}

#[test]
fn who_is_not_believed_is_told_why() {
    let (device, other) =
        (Device::new("d-1", Validity::Today), Device::new("d-2", Validity::Today));
    let (old, foreign) = (Device::new("d-3", Validity::Past), Device::new("d-1", Validity::Today));
    let mut room = Room::new(&[&device, &other, &old]);
    let mut altered = device.seal(1);
    altered[5_000] ^= 1;
    let pretender = other.signer.seal_bundle(&super::device::bundle("d-1", 2)).unwrap();
    let refusals = [
        room.send("d-1", &altered),
        room.send("d-1", &foreign.seal(3)),
        room.send("d-3", &old.seal(4)),
        room.send("d-2", &device.seal(5)),
        room.send("d-2", &pretender),
        room.send("d-9", &device.seal(6)),
        room.send("d-1", b"no envelope at all"),
        room.send("d-1", &device.seal_headline(7, 1)),
        room.say("d-1", "headline", device.seal(8)).1,
        room.say("d-1", "headline", foreign.seal_headline(9, 1)).1,
    ];
    let refusals: Vec<String> = refusals.into_iter().map(reason).collect();
    let digests = regular(&refusals.join("\n"));
    insta::assert_snapshot!(digests);
    assert_eq!(room.incidents(), 0);
    assert_eq!(room.quarantined(), 7);
    assert_eq!(room.send("d-1", &device.seal(1)), stored(), "nobody stands in the way of others");
}

#[test]
fn chunks_that_lie_or_make_no_sense_are_refused() {
    let device = Device::new("d-1", Validity::Today);
    let mut room = Room::new(&[&device]);
    let lie = |digest: &[u8], total: u64, offset: u64, data: Vec<u8>| {
        let digest = Digest::of(digest).as_bytes().to_vec();
        v1::Chunk { digest, total, offset, data, ..v1::Chunk::default() }.encode_to_vec()
    };
    let refusals = [
        room.bundle("d-1", lie(b"huge", 1 << 40, 0, Vec::new())),
        room.bundle("d-1", lie(b"beyond", 100, 90, vec![0; 11])),
        room.bundle("d-1", lie(b"crumb", 100_000, 5, vec![0; 10])),
        {
            room.bundle("d-1", lie(b"twice", 100_000, 0, vec![0; 5_000]));
            room.bundle("d-1", lie(b"twice", 100_000, 4_000, vec![1; 5_000]))
        },
        {
            room.bundle("d-1", lie(b"size", 100_000, 0, vec![0; 5_000]));
            room.bundle("d-1", lie(b"size", 100_001, 5_000, vec![0; 5_000]))
        },
        room.bundle("d-1", lie(b"digest", 5, 0, b"other".to_vec())),
    ];
    let refusals: Vec<String> = refusals.into_iter().map(reason).collect();
    insta::assert_snapshot!(regular(&refusals.join("\n")));
    assert_eq!(room.say("d-1", "bundle", b"\xff\xff".to_vec()).0, Outcome::Ignored);
    assert_eq!(room.say("d-1", "reply", Vec::new()).0, Outcome::Ignored);
}

#[test]
fn a_chunk_that_was_cut_otherwise_is_answered_with_what_is_missing() {
    let device = Device::new("d-1", Validity::Today);
    let mut room = Room::new(&[&device]);
    let sealed = device.seal(7);
    room.bundle("d-1", chunk(&sealed, 0..10_000));
    let overlapping = chunk(&sealed, 5_000..15_000);
    assert_eq!(room.bundle("d-1", overlapping), missing(&[(10_000, sealed.len())]));
}

#[test]
fn a_device_has_four_open_transfers_and_the_oldest_makes_room() {
    let device = Device::new("d-1", Validity::Today);
    let mut room = Room::new(&[&device]);
    let bundles: Vec<Vec<u8>> = (0..5).map(|incident| device.seal(incident)).collect();
    for sealed in &bundles {
        room.bundle("d-1", chunk(sealed, 0..10_000));
    }
    let gaps = |room: &mut Room, sealed: &[u8]| room.bundle("d-1", offer(sealed));
    assert_eq!(gaps(&mut room, &bundles[0]), missing(&[(0, bundles[0].len())]));
    for sealed in &bundles[1..] {
        assert_eq!(gaps(&mut room, sealed), missing(&[(10_000, sealed.len())]));
    }
}

#[test]
fn a_sender_that_is_enrolled_later_needs_not_send_again() {
    let (before, after) =
        (Device::new("d-1", Validity::Today), Device::new("d-1", Validity::Today));
    let mut room = Room::new(&[&before]);
    let sealed = after.seal(7);
    assert!(reason(room.send("d-1", &sealed)).contains("no enrolled certificate"));
    after.enrol(&room.devices);
    room.restart();
    assert_eq!(room.bundle("d-1", offer(&sealed)), stored());
    assert_eq!((room.incidents(), room.quarantined()), (1, 0));
}

#[test]
fn an_incident_belongs_to_the_device_that_reported_it() {
    let (device, thief) =
        (Device::new("d-1", Validity::Today), Device::new("d-2", Validity::Today));
    let mut room = Room::new(&[&device, &thief]);
    room.send("d-1", &device.seal(7));
    insta::assert_snapshot!(reason(room.send("d-2", &thief.seal(7))), @"incident 07070707070707070707070707070707 was reported by d-1");
    insta::assert_snapshot!(reason(room.say("d-2", "headline", thief.seal_headline(7, 9)).1), @"incident 07070707070707070707070707070707 was reported by d-1");
}

#[test]
fn a_stored_bundle_is_diagnosed_once() {
    let device = Device::new("d-1", Validity::Today);
    let mut room = Room::new(&[&device]);
    room.send("d-1", &device.seal(7));
    room.restart();
    let receiver = room.receiver.as_mut().unwrap();
    assert!(receiver.diagnose_one().unwrap());
    assert!(!receiver.diagnose_one().unwrap());
    let Find::One(incident) = Reader::open(&room.data).unwrap().find("07").unwrap() else {
        panic!("not found")
    };
    assert!(incident.diagnosis.is_some());
    assert_eq!(incident.claimed.unwrap().class, "panic");
}

#[test]
fn only_enrolled_devices_have_a_status() {
    let device = Device::new("d-1", Validity::Today);
    let mut room = Room::new(&[&device]);
    let status = v1::Status { up: true, ..v1::Status::default() }.encode_to_vec();
    assert_eq!(room.say("d-1", "status", status.clone()).0, Outcome::Stored);
    assert_eq!(room.say("d-2", "status", status).0, Outcome::Ignored);
}

/// Replaces what differs from run to run.
fn regular(text: &str) -> String {
    let words = text.split_inclusive([' ', ':', '\n', ',']);
    words
        .map(|word| {
            let digits = word.trim_end_matches([' ', ':', '\n', ',']);
            let hex = digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_hexdigit());
            if hex { word.replace(digits, "<digest>") } else { word.to_owned() }
        })
        .collect()
}
