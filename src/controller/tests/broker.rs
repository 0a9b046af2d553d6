//! The whole controller with a real broker: mosquitto on a loopback port of its own.

use super::device::{Device, Validity, bundle, chunk, offer};
use crate::base::id::Digest;
use crate::base::problem::Source;
use crate::base::time::Timestamp;
use crate::controller::config::Config;
use crate::controller::run;
use crate::controller::show;
use crate::controller::store;
use crate::pb::v1::{self, receipt::Word};
use prost::Message;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

/// No step of these tests takes long; what does has failed.
const PATIENCE: Duration = Duration::from_secs(30);

struct Mosquitto {
    child: Child,
    port: u16,
}

impl Mosquitto {
    fn start(place: &Path) -> Self {
        let port = free_port();
        let config = place.join("mosquitto.conf");
        // Less than what one test says, and more than all else that is said.
        let limit = "max_packet_size 262144\n";
        let text = format!("listener {port} 127.0.0.1\nallow_anonymous true\n{limit}");
        fs::write(&config, text).unwrap();
        let child = Command::new("mosquitto")
            .arg("-c")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("this test needs mosquitto in PATH: apt-get install mosquitto");
        let started = Self { child, port };
        let up = (0..200).any(|_| {
            std::thread::sleep(Duration::from_millis(25));
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        assert!(up, "mosquitto does not listen");
        started
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A place with a broker, a config and a controller that can be stopped and started.
struct Room {
    place: TempDir,
    mosquitto: Mosquitto,
    controller: JoinSet<Result<(), run::RunError>>,
    stop: Option<oneshot::Sender<()>>,
}

impl Room {
    fn new(enrolled: &[&Device]) -> Self {
        let place = tempfile::tempdir().unwrap();
        let devices = place.path().join("devices");
        fs::create_dir(&devices).unwrap();
        enrolled.iter().for_each(|device| device.enrol(&devices));
        let mosquitto = Mosquitto::start(place.path());
        let mut room = Self { place, mosquitto, controller: JoinSet::new(), stop: None };
        room.start();
        room
    }

    fn data(&self) -> PathBuf {
        self.place.path().join("data")
    }

    fn start(&mut self) {
        let (place, port) = (self.place.path().display(), self.mosquitto.port);
        let text = format!(
            "http: 127.0.0.1:{}\ndata: {place}/data\ndevices: {place}/devices\n\
             broker: {{ url: \"mqtt://127.0.0.1:{port}\" }}\n",
            free_port()
        );
        let config = Config::read(Source { name: "test".to_owned(), text }, None).unwrap();
        let (stop, stopped) = oneshot::channel();
        self.stop = Some(stop);
        self.controller.spawn(run::run(config, async {
            drop(stopped.await);
        }));
    }

    async fn stop(&mut self) {
        self.stop = None;
        let ended = tokio::time::timeout(PATIENCE, self.controller.join_next());
        ended.await.unwrap().unwrap().unwrap().unwrap();
    }

    /// As by a signal that nobody can catch, as far as a test can.
    async fn kill(&mut self) {
        self.controller.abort_all();
        while self.controller.join_next().await.is_some() {}
        self.stop = None;
        // The worker's thread ends when it sees that nobody sends any more, and gives back the lock.
        tokio::time::sleep(Duration::from_millis(300)).await;
    }

    async fn device(&self, name: &str) -> Line {
        Line::open(self.mosquitto.port, name).await
    }
}

/// A device's connection.
struct Line {
    name: String,
    client: AsyncClient,
    receipts: mpsc::Receiver<v1::Receipt>,
    _poll: JoinSet<()>,
}

impl Line {
    async fn open(port: u16, name: &str) -> Self {
        let mut options = MqttOptions::new(name, "127.0.0.1", port);
        options.set_max_packet_size(Some(1 << 18));
        let (client, mut events) = AsyncClient::new(options, 10);
        let (heard, receipts) = mpsc::channel(100);
        let mut poll = JoinSet::new();
        poll.spawn(async move {
            while let Ok(event) = events.poll().await {
                if let Event::Incoming(Packet::Publish(publish)) = event {
                    let receipt = v1::Receipt::decode(&*publish.payload).unwrap();
                    if heard.send(receipt).await.is_err() {
                        return;
                    }
                }
            }
        });
        client.subscribe(format!("lifesign/{name}/receipt"), QoS::AtLeastOnce).await.unwrap();
        Self { name: name.to_owned(), client, receipts, _poll: poll }
    }

    async fn say(&self, what: &str, payload: Vec<u8>) {
        let topic = format!("lifesign/{}/{what}", self.name);
        self.client.publish(topic, QoS::AtLeastOnce, false, payload).await.unwrap();
    }

    async fn receipt(&mut self) -> v1::Receipt {
        let receipt = tokio::time::timeout(PATIENCE, self.receipts.recv());
        receipt.await.expect("no receipt came").unwrap()
    }

    /// Repeats an offer until something is answered, as a device does.
    async fn ask(&mut self, sealed: &[u8]) -> Word {
        for _ in 0..60 {
            self.say("bundle", offer(sealed)).await;
            let receipt = tokio::time::timeout(Duration::from_millis(500), self.receipts.recv());
            if let Ok(Some(receipt)) = receipt.await {
                assert_eq!(receipt.digest, Digest::of(sealed).as_bytes());
                return receipt.word.unwrap();
            }
        }
        panic!("no answer to an offer");
    }

    async fn refusal(&mut self, sealed: &[u8]) -> String {
        self.say("bundle", chunk(sealed, 0..sealed.len())).await;
        let receipt = self.receipt().await;
        match receipt.word {
            Some(Word::Refused(refused)) => refused.reason,
            other => panic!("not refused: {other:?}"),
        }
    }
}

fn count(data: &Path, directory: &str) -> usize {
    fs::read_dir(data.join(directory)).unwrap().count()
}

#[tokio::test]
async fn a_bundle_survives_disorder_repetition_and_a_controller_that_dies() {
    let device = Device::new("d-1", Validity::Today);
    let mut room = Room::new(&[&device]);
    let mut line = room.device("d-1").await;
    let sealed = device.seal(7);
    let end = sealed.len();
    line.ask(&sealed).await;
    while line.receipts.try_recv().is_ok() {}
    line.say("headline", device.seal_headline(7, 1)).await;
    assert_eq!(line.receipt().await.word, Some(Word::Stored(v1::Stored {})));

    line.say("bundle", chunk(&sealed, 20_000..30_000)).await;
    line.say("bundle", chunk(&sealed, 0..10_000)).await;
    room.kill().await;
    // Said while nobody listens: the broker keeps it.
    line.say("bundle", chunk(&sealed, 0..10_000)).await;
    line.say("bundle", chunk(&sealed, 30_000..end)).await;
    room.start();
    line.say("bundle", chunk(&sealed, 10_000..20_000)).await;
    assert_eq!(line.receipt().await.word, Some(Word::Stored(v1::Stored {})));
    room.stop().await;

    room.start();
    assert_eq!(line.ask(&sealed).await, Word::Stored(v1::Stored {}));
    assert_eq!(show::sealed(&room.data(), "07").unwrap(), sealed);
    let list: serde_json::Value =
        serde_json::from_str(&show::incidents_json(&room.data()).unwrap()).unwrap();
    assert_eq!(list.as_array().unwrap().len(), 1);
    assert_eq!(list[0]["bundle_sha256"], Digest::of(&sealed).to_string());
    room.stop().await;
}

#[tokio::test]
async fn whoever_is_not_believed_is_refused_and_stands_in_nobodys_way() {
    let (honest, other) =
        (Device::new("d-1", Validity::Today), Device::new("d-2", Validity::Today));
    let (old, foreign) = (Device::new("d-3", Validity::Past), Device::new("d-1", Validity::Today));
    let mut room = Room::new(&[&honest, &other, &old]);
    let mut lines = BTreeMap::new();
    for name in ["d-1", "d-2", "d-3"] {
        lines.insert(name, room.device(name).await);
    }
    let sealed = honest.seal(1);
    lines.get_mut("d-1").unwrap().ask(&sealed).await;

    let mut altered = honest.seal(2);
    altered[5_000] ^= 1;
    let absurd = v1::Chunk {
        digest: vec![9; 32],
        total: u64::MAX,
        offset: 5,
        data: vec![1; 70_000],
        ..v1::Chunk::default()
    };
    let pretender = other.signer.seal_bundle(&bundle("d-1", 3)).unwrap();
    let cases = [
        ("d-1", altered, "altered"),
        ("d-1", foreign.seal(4), "no enrolled certificate"),
        ("d-3", old.seal(5), "expired"),
        ("d-2", honest.seal(6), "on the topic of d-2"),
        ("d-2", pretender, "says that it comes from d-1"),
    ];
    for (name, sealed, reason) in cases {
        let line = lines.get_mut(name).unwrap();
        while line.receipts.try_recv().is_ok() {}
        let refusal = line.refusal(&sealed).await;
        assert!(refusal.contains(reason), "{refusal}");
    }
    let line = lines.get_mut("d-1").unwrap();
    line.say("bundle", absurd.encode_to_vec()).await;
    line.say("bundle", b"rubbish".to_vec()).await;
    assert!(matches!(line.receipt().await.word, Some(Word::Refused(_))));
    line.say("bundle", chunk(&sealed, 0..sealed.len())).await;
    assert_eq!(line.receipt().await.word, Some(Word::Stored(v1::Stored {})));
    room.stop().await;
    assert_eq!((count(&room.data(), "objects"), count(&room.data(), "quarantine")), (1, 5));
}

#[tokio::test]
async fn a_broker_that_goes_and_comes_back_is_found_again() {
    let device = Device::new("d-1", Validity::Today);
    let mut room = Room::new(&[&device]);
    let sealed = device.seal(7);
    room.device("d-1").await.ask(&sealed).await;
    let port = room.mosquitto.port;
    room.mosquitto.child.kill().unwrap();
    room.mosquitto.child.wait().unwrap();
    tokio::time::sleep(Duration::from_millis(600)).await;
    room.mosquitto.child = Command::new("mosquitto")
        .args(["-c"])
        .arg(room.place.path().join("mosquitto.conf"))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    assert_eq!(room.mosquitto.port, port);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut line = room.device("d-1").await;
    assert!(matches!(line.ask(&sealed).await, Word::Missing(_)));
    room.stop().await;
}

/// What is retained for a device, and what comes for it later.
async fn hears(port: u16, device: &str) -> (mpsc::Receiver<Vec<u8>>, JoinSet<()>) {
    let mut options = MqttOptions::new(device, "127.0.0.1", port);
    options.set_max_packet_size(Some(1 << 18));
    let (client, mut events) = AsyncClient::new(options, 10);
    client.subscribe(format!("lifesign/{device}/bindings"), QoS::AtLeastOnce).await.unwrap();
    let (heard, hears) = mpsc::channel(100);
    let mut poll = JoinSet::new();
    poll.spawn(async move {
        let _client = client;
        while let Ok(event) = events.poll().await {
            if let Event::Incoming(Packet::Publish(publish)) = event {
                heard.send(publish.payload.to_vec()).await.unwrap();
            }
        }
    });
    (hears, poll)
}

#[tokio::test]
async fn bindings_are_said_once_and_one_that_is_too_large_hinders_no_other() {
    let room = Room::new(&[]);
    let mut table = store::Bindings::open(&room.data()).unwrap();
    let row = |device: &str, after, sequence, sealed: Vec<u8>| {
        let device = device.parse().unwrap();
        let row = store::Published { device, sequence, at: Timestamp::from_millis(0), sealed };
        store::Change { row, after, wish: None }
    };
    let first = row("d-1", None, 1, b"first".to_vec());
    table.publish(&[row("d-0", None, 1, vec![7; 300_000]), first]).unwrap();
    let (mut heard, _poll) = hears(room.mosquitto.port, "d-1").await;
    let mut next = async || tokio::time::timeout(PATIENCE, heard.recv()).await.unwrap().unwrap();
    assert_eq!(next().await, b"first");
    table.publish(&[row("d-1", Some(1), 2, b"second".to_vec())]).unwrap();
    assert_eq!(next().await, b"second");
    // Two looks later nothing was said again, as it would be on another connection.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert!(heard.try_recv().is_err());
    let (mut late, _poll) = hears(room.mosquitto.port, "d-1").await;
    let retained = tokio::time::timeout(PATIENCE, late.recv()).await.unwrap().unwrap();
    assert_eq!(retained, b"second");
}
