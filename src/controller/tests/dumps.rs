//! Dumps that are asked for, against a receiver with a real store.

use super::device::{Device, Validity, now, offer, piece, today};
use crate::base::chain::Chain;
use crate::base::id::{DeviceId, Digest};
use crate::base::limits;
use crate::base::problem::Source;
use crate::base::time::Timestamp;
use crate::base::topic::Prefix;
use crate::bundle::{Dump, KeptDumps, open_bindings};
use crate::controller::config::Config;
use crate::controller::dumps::{self, DumpError};
use crate::controller::identity::Enrolled;
use crate::controller::publish::{self, Files};
use crate::controller::receive::{Message, Receiver};
use crate::controller::show::{self, Style};
use crate::controller::store::{Bindings, Store};
use crate::pb::v1::{self, receipt::Word};
use prost::Message as _;
use std::fs;
use std::ops::Range;
use std::path::PathBuf;
use tempfile::TempDir;

const SLICE: usize = limits::DUMP_SLICE_BYTES as usize;

/// What a device may carry in one message.
const MOST: usize = 128 * 1024;

/// A controller, its command line, and two devices.
struct Room {
    place: TempDir,
    config: Config,
    receiver: Option<Receiver>,
    devices: [Device; 2],
}

impl Room {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let home = place.path().display().to_string();
        fs::create_dir(place.path().join("devices")).unwrap();
        let controller = Device::new("controller", Validity::Today);
        controller.enrol(place.path());
        fs::write(place.path().join("controller.key"), controller.key_pem()).unwrap();
        let text = format!(
            "listen: 127.0.0.1:1\ndata: {home}/data\ndevices: {home}/devices\ndumps: {{ quota: 4MiB }}\n\
             tls: {{ certificate: {home}/controller.pem, key: {home}/controller.key, ca: {home}/ca }}\n"
        );
        let config = Config::read(Source { name: "test".to_owned(), text }, None).unwrap();
        let devices = ["d-1", "d-2"].map(|name| Device::new(name, Validity::Today));
        devices.iter().for_each(|device| device.enrol(&config.devices));
        let mut room = Self { place, config, receiver: None, devices };
        room.restart();
        room
    }

    fn restart(&mut self) {
        self.receiver = None;
        let store = Store::open(&self.config.data).unwrap();
        let enrolled = Enrolled::new(self.config.devices.clone());
        self.receiver = Some(Receiver::new(Prefix::default(), enrolled, store));
    }

    fn say(&mut self, device: &str, what: &str, payload: Vec<u8>) -> Option<Word> {
        let message = Message { topic: format!("lifesign/{device}/{what}"), payload };
        let handled = self.receiver.as_mut().unwrap().handle(&message, now()).unwrap();
        let reply = handled.replies.first()?;
        v1::Receipt::decode(&*reply.payload).unwrap().word
    }

    fn send(&mut self, device: &str, dump: &[u8], range: Range<usize>) -> Option<Word> {
        self.say(device, "bundle", piece(dump, range))
    }

    /// Sends what is asked for until nothing more is. Says the last word.
    fn send_all(&mut self, device: &str, dump: &[u8]) -> Option<Word> {
        let mut word = self.send(device, dump, 0..0);
        while let Some(Word::Missing(missing)) = &word {
            let [v1::Range { start, end }] = missing.ranges[..] else { return word };
            for start in (start as usize..end as usize).step_by(MOST) {
                word = self.send(device, dump, start..(start + MOST).min(end as usize));
            }
        }
        word
    }

    /// A device tells what it has, as a list that `signer` signed.
    fn tell(&mut self, signer: usize, device: &str, on_request: bool, dumps: &[(&str, &[u8])]) {
        let dump = |(name, bytes): &(&str, &[u8])| Dump {
            name: name.parse().unwrap(),
            app: "web".to_owned(),
            bytes: bytes.len() as u64,
            sha256: Digest::of(bytes),
            format: "kdump-zlib".to_owned(),
            taken: today(),
        };
        let device_id = device.parse().unwrap();
        let dumps = dumps.iter().map(dump).collect();
        let list = KeptDumps { device: device_id, on_request, dumps };
        let kept = self.devices[signer].signer.seal_kept(&list).unwrap();
        let status = v1::Status { up: true, kept, ..v1::Status::default() };
        self.say(device, "status", status.encode_to_vec());
    }

    fn request(&self, device: &str, name: &str) -> Result<(), DumpError> {
        dumps::request(&self.config, &id(device), &name.parse().unwrap(), today())
    }

    fn cancel(&self, device: &str, name: &str) -> Result<(), DumpError> {
        dumps::cancel(&self.config, &id(device), &name.parse().unwrap(), today())
    }

    fn save(&self, device: &str, name: &str) -> Result<Vec<u8>, DumpError> {
        let file = self.place.path().join("saved");
        fs::remove_file(&file).ok();
        dumps::save(&self.config.data, &id(device), &name.parse().unwrap(), &file)?;
        Ok(fs::read(&file).unwrap())
    }

    fn listed(&self) -> String {
        let style = Style { colour: false, now: today() };
        show::dumps(&dumps::list(&self.config).unwrap(), style)
    }

    /// What the message for a device says, and its number.
    fn said(&self, device: &str) -> (u64, String, Vec<Digest>) {
        let row = Bindings::open(&self.config.data).unwrap().of(&id(device)).unwrap().unwrap();
        let key = publish::key(&self.config).unwrap();
        let bindings = open_bindings(&row.sealed, &key).unwrap();
        (bindings.sequence, bindings.bindings.text, bindings.dumps)
    }

    fn files(&self) -> usize {
        let home = self.config.data.join("dumps/d-1");
        fs::read_dir(home).map_or(0, Iterator::count)
    }

    fn part(&self, dump: &[u8]) -> PathBuf {
        self.config.data.join(format!("dumps/d-1/{}.part", Digest::of(dump)))
    }
}

fn id(device: &str) -> DeviceId {
    device.parse().unwrap()
}

fn bytes(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at / 251) as u8 ^ (at * 31) as u8).collect()
}

fn stored() -> Option<Word> {
    Some(Word::Stored(v1::Stored {}))
}

fn asks(range: Range<usize>) -> Option<Word> {
    let (start, end) = (range.start as u64, range.end as u64);
    Some(Word::Missing(v1::Missing { ranges: vec![v1::Range { start, end }] }))
}

fn not_now() -> Option<Word> {
    Some(Word::Missing(v1::Missing { ranges: vec![] }))
}

fn refused(word: Option<Word>) -> String {
    match word {
        Some(Word::Refused(refused)) => refused.reason,
        other => panic!("not refused: {other:?}"),
    }
}

fn error<T: std::fmt::Debug>(result: Result<T, DumpError>) -> String {
    Chain(&result.unwrap_err()).to_string()
}

#[test]
fn a_dump_is_told_of_asked_for_sent_and_saved() {
    let mut room = Room::new();
    let dump = bytes(2 * SLICE + 300_000);
    assert_eq!(room.listed(), "No device tells of a dump.\n");
    room.tell(0, "d-1", true, &[("web-1", &dump)]);
    room.tell(1, "d-2", false, &[("db-1", &dump)]);
    let mut told = vec![room.listed()];
    room.request("d-1", "web-1").unwrap();
    told.push(room.listed());
    assert_eq!(room.said("d-1").2, [Digest::of(&dump)]);
    assert_eq!(room.send("d-1", &dump, 0..0), asks(0..SLICE));
    for start in (0..SLICE).step_by(MOST) {
        let word = room.send("d-1", &dump, start..start + MOST);
        let last = start + MOST == SLICE;
        assert_eq!(word, last.then(|| asks(SLICE..2 * SLICE)).flatten(), "at {start}");
    }
    told.push(room.listed());
    assert!(error(room.save("d-1", "web-1")).contains("is not here"));
    assert_eq!(room.send_all("d-1", &dump), stored());
    // The device is gone, and its last will is heard: what it said of its dumps holds.
    room.say("d-1", "status", v1::Status::default().encode_to_vec());
    told.push(room.listed());
    insta::assert_snapshot!(told.join("---\n"));
    assert_eq!(room.save("d-1", "web-1").unwrap(), dump);
    assert_eq!(room.send("d-1", &dump, 0..0), stored());
    assert!(error(room.request("d-1", "web-1")).contains("is here already"));
    room.cancel("d-1", "web-1").unwrap();
    assert_eq!((room.files(), room.said("d-1").2), (0, vec![]));
}

#[test]
fn disorder_repetition_and_kills_cost_a_slice_at_most() {
    let mut room = Room::new();
    let dump = bytes(3 * SLICE + 5);
    room.tell(0, "d-1", true, &[("web-1", &dump)]);
    room.request("d-1", "web-1").unwrap();
    assert_eq!(room.send("d-1", &dump, 0..100_000), None);
    assert_eq!(room.send("d-1", &dump, 0..100_000), None, "twice");
    assert_eq!(room.send("d-1", &dump, 200_000..300_000), None, "out of order");
    assert_eq!(room.send("d-1", &dump, 50_000..150_000), None, "cut otherwise");
    assert_eq!(room.send("d-1", &dump, 0..0), asks(150_000..SLICE));
    assert_eq!(room.send("d-1", &dump, 150_000..250_000), None);
    room.request("d-1", "web-1").unwrap();
    assert_eq!(room.said("d-1").2.len(), 1, "asked for twice it goes on");
    // What was not said to be on the disk is not believed after a kill, whatever it is.
    room.restart();
    assert_eq!(room.send("d-1", &dump, 0..0), asks(150_000..SLICE));
    for start in (150_000..SLICE).step_by(MOST) {
        room.send("d-1", &dump, start..(start + MOST).min(SLICE));
    }
    let mut file = fs::read(room.part(&dump)).unwrap();
    assert_eq!(file, dump[..SLICE]);
    file.extend_from_slice(b"whatever a power cut left");
    fs::write(room.part(&dump), &file).unwrap();
    room.restart();
    assert_eq!(room.send_all("d-1", &dump), stored());
    assert_eq!(room.save("d-1", "web-1").unwrap(), dump);

    // Killed after it got its name, and before that was noted.
    let whole = room.config.data.join(format!("dumps/d-1/{}", Digest::of(&dump)));
    let beginning = bytes(3 * SLICE + 5);
    room.cancel("d-1", "web-1").unwrap();
    room.request("d-1", "web-1").unwrap();
    fs::write(&whole, &beginning).unwrap();
    room.restart();
    assert_eq!(room.send("d-1", &dump, 0..0), stored());
    // A file that nobody wants goes with the next start.
    fs::write(whole.with_file_name(Digest::of(b"orphan").to_string()), b"orphan").unwrap();
    room.restart();
    assert_eq!((room.files(), room.save("d-1", "web-1").unwrap()), (1, dump));
}

#[test]
fn a_wish_that_makes_no_sense_is_refused_and_says_why() {
    let mut room = Room::new();
    let (dump, large) = (bytes(1000), bytes(3 * SLICE));
    let config = &room.config;
    let before = dumps::request(config, &id("d-1"), &"web-1".parse().unwrap(), today());
    let mut said = vec![error(before)];
    room.tell(0, "d-1", true, &[("web-1", &dump), ("web-2", &large), ("web-3", &bytes(2 * SLICE))]);
    room.tell(1, "d-2", false, &[("db-1", &dump)]);
    said.extend([
        error(room.request("d-1", "db-1")),
        error(room.request("d-2", "db-1")),
        error(room.request("d-3", "db-1")),
        error(room.cancel("d-1", "web-1")),
        error(room.save("d-1", "web-1")),
    ]);
    room.request("d-1", "web-2").unwrap();
    said.push(error(room.request("d-1", "web-3")));
    assert_eq!(room.said("d-1").2, [Digest::of(&large)]);
    // In the name of d-1, with the key of d-2.
    room.tell(1, "d-1", true, &[("web-4", &dump)]);
    said.push(error(room.request("d-1", "web-4")));
    assert!(room.listed().contains("warning: what came as the word of d-1"), "{}", room.listed());
    let home = room.place.path().display().to_string();
    insta::assert_snapshot!(said.join("\n---\n").replace(&home, "DIR"));
}

#[test]
fn bindings_and_wishes_do_not_undo_each_other() {
    let mut room = Room::new();
    let (one, two) = (bytes(1000), bytes(2000));
    room.tell(0, "d-1", true, &[("web-1", &one), ("web-2", &two)]);
    room.request("d-1", "web-1").unwrap();
    let first = room.said("d-1");
    assert_eq!(first.1, "bindings: []\n");
    let scenario = room.place.path().join("ours.yaml");
    let text = "scenario: ours\nprobe:\n  - console: { send: id, expect: uid }\ndiagnose: [host]\n";
    fs::write(&scenario, text).unwrap();
    let bindings = room.place.path().join("bindings.yaml");
    fs::write(&bindings, "bindings:\n  - select: { name: \"*\" }\n    scenarios: [ours]\n")
        .unwrap();
    let files = Files::read(&bindings, &[scenario]).unwrap();
    publish::publish(&room.config, &files, &[id("d-1"), id("d-2")], today()).unwrap();
    room.request("d-1", "web-2").unwrap();
    let (sequence, text, dumps) = room.said("d-1");
    assert!(sequence == first.0 + 2 && text.contains("[ours]"), "{sequence} {text}");
    assert_eq!(dumps, [Digest::of(&one), Digest::of(&two)]);
    assert!(room.said("d-2").2.is_empty(), "nobody else is asked");
    publish::withdraw(&room.config, &id("d-1"), today()).unwrap();
    assert_eq!(room.said("d-1").2.len(), 2);
    // What has come is asked for no longer.
    assert_eq!(room.send_all("d-1", &two), stored());
    room.cancel("d-1", "web-1").unwrap();
    assert_eq!(room.said("d-1"), (sequence + 2, "bindings: []\n".to_owned(), vec![]));
}

#[test]
fn a_device_that_sends_something_else_harms_only_its_dump() {
    let mut room = Room::new();
    let (dump, good) = (bytes(300_000), bytes(200_000));
    let digest = Digest::of(&dump);
    let told = [("web-1", &dump[..]), ("web-2", &good[..])];
    room.tell(0, "d-1", true, &told);
    let other = |total: u64, offset: u64, data: Vec<u8>| {
        let digest = digest.as_bytes().to_vec();
        v1::Chunk { digest, total, offset, data, dump: true, ..v1::Chunk::default() }
            .encode_to_vec()
    };
    let mut said = vec![refused(room.send("d-1", &dump, 0..0))];
    room.request("d-1", "web-2").unwrap();
    let mut wrong = dump.clone();
    wrong[7] ^= 1;
    for payload in [
        vec![other(300_001, 0, vec![])],
        vec![other(300_000, 299_999, vec![0; 2])],
        vec![other(300_000, 0, vec![0; 128 * 1024 + 1])],
        (0..3)
            .map(|n| other(300_000, n * 100_000, wrong[n as usize * 100_000..][..100_000].to_vec()))
            .collect(),
    ] {
        room.request("d-1", "web-1").unwrap();
        let words: Vec<_> = payload.into_iter().map(|one| room.say("d-1", "bundle", one)).collect();
        said.push(refused(words.into_iter().next_back().flatten()));
        // It stays refused, over restarts too, until somebody asks anew.
        room.restart();
        assert_eq!(refused(room.send("d-1", &dump, 0..0)), *said.last().unwrap());
        assert_eq!(room.files(), 0);
    }
    // The same dump is not another device's to send, nor is a stranger's word heard.
    room.request("d-1", "web-1").unwrap();
    said.push(refused(room.send("d-2", &dump, 0..0)));
    said.push(refused(room.send("d-9", &dump, 0..0)));
    // And it is no bundle: what is not asked for is judged as ever.
    said.push(refused(room.say("d-2", "bundle", offer(&vec![0; 9 << 20]))));
    insta::assert_snapshot!(said.join("\n"));
    assert_eq!(room.send_all("d-1", &good), stored());
    assert_eq!(room.send_all("d-1", &dump), stored(), "asked for anew, it comes");
    assert_eq!(room.save("d-1", "web-1").unwrap(), dump);
}

#[test]
fn a_wish_that_is_taken_back_midway_leaves_nothing() {
    let mut room = Room::new();
    let dump = bytes(2 * SLICE);
    room.tell(0, "d-1", true, &[("web-1", &dump)]);
    room.request("d-1", "web-1").unwrap();
    room.send("d-1", &dump, 0..100_000);
    room.cancel("d-1", "web-1").unwrap();
    assert!(refused(room.send("d-1", &dump, 100_000..200_000)).contains("nobody has asked"));
    assert_eq!(room.files(), 0);
    // Asked for again it begins again, though the controller was not restarted in between.
    let later = Timestamp::from_millis(today().as_millis() + 5_000);
    dumps::request(&room.config, &id("d-1"), &"web-1".parse().unwrap(), later).unwrap();
    assert_eq!(room.send("d-1", &dump, 0..0), asks(0..SLICE));
    assert_eq!(room.send_all("d-1", &dump), stored());
}

#[test]
fn a_disk_that_takes_nothing_holds_up_the_dump_and_nothing_else() {
    let mut room = Room::new();
    let (dump, device) = (bytes(300_000), Device::new("d-3", Validity::Today));
    device.enrol(&room.config.devices);
    room.tell(0, "d-1", true, &[("web-1", &dump)]);
    room.request("d-1", "web-1").unwrap();
    let directory = room.config.data.join("dumps");
    fs::write(&directory, b"no directory").unwrap();
    assert_eq!(room.send("d-1", &dump, 0..0), not_now());
    assert!(room.listed().contains("0 % is here, held up: the disk fails: "), "{}", room.listed());
    assert_eq!(room.say("d-3", "headline", device.seal_headline(7, 1)), stored());
    fs::remove_file(&directory).unwrap();
    assert_eq!(room.send("d-1", &dump, 0..0), asks(0..300_000));
    assert!(room.listed().contains("0 % is here\n"), "{}", room.listed());
    let store = room.receiver.as_ref().unwrap().store();
    assert_eq!(store.lacks_room(0).unwrap(), None);
    let why = store.lacks_room(1 << 60).unwrap().unwrap();
    assert_eq!(why, "the disk must take 1099511627776 MiB more and keep 10 % free: make room");
    assert_eq!(room.send_all("d-1", &dump), stored());
}
