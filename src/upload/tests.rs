//! The whole upload against a real broker, with a controller as small as it can be.
//!
//! Time is real here: a paused clock and a real socket do not go together.

use super::*;
use crate::base::id::IncidentId;
use crate::base::limits;
use crate::base::topic::Prefix;
use crate::spool::{Kind, Limits, Mark, Parcel};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{self, AsyncClient, MqttOptions};
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;
use tokio::task::JoinSet;

mod simulation;

const LIMITS: Limits = Limits { free_percent: 0, ..Limits::STANDARD };

/// Nothing in these tests takes as long, unless it hangs.
const HANGS: Duration = Duration::from_secs(40);

/// A mosquitto of our own.
struct Broker {
    child: Child,
    port: u16,
    dir: PathBuf,
}

impl Broker {
    fn start(dir: &Path, port: u16, more: &str) -> Self {
        let config = dir.join("mosquitto.conf");
        let text = format!("listener {port} 127.0.0.1\nallow_anonymous true\nuser root\n{more}\n");
        std::fs::write(&config, text).unwrap();
        let child = Command::new("mosquitto")
            .arg("-c")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(dir.join("mosquitto.log")).unwrap())
            .spawn()
            .expect("these tests need a broker: apt-get install mosquitto");
        Self { child, port, dir: dir.to_owned() }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn restart(&mut self) {
        self.kill();
        *self = Self::start(&self.dir.clone(), self.port, "");
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// What the controller has.
#[derive(Default)]
struct Store {
    stored: BTreeMap<Digest, Vec<u8>>,
    parts: BTreeMap<Digest, BTreeMap<u64, Vec<u8>>>,
    dumps: BTreeMap<Digest, Vec<u8>>,
    /// Of every chunk whether it was a dump's.
    order: Vec<bool>,
    chunks: usize,
    refuses: bool,
    status: Vec<bool>,
}

type Shared = Arc<Mutex<Store>>;

/// Answers headlines and chunks until it is dropped, over any number of connections.
async fn controller(port: u16, store: Shared) {
    let mut options = MqttOptions::new("controller", "127.0.0.1", port);
    options.set_max_packet_size(Some(1 << 20)).set_clean_start(false);
    options.set_session_expiry_interval(Some(600));
    loop {
        let (client, mut eventloop) = AsyncClient::new(options.clone(), 100);
        loop {
            match eventloop.poll().await {
                Ok(v5::Event::Incoming(Packet::ConnAck(_))) => {
                    client.try_subscribe("lifesign/+/+", QoS::AtLeastOnce).unwrap();
                }
                Ok(v5::Event::Incoming(Packet::Publish(publish))) => {
                    let topic = String::from_utf8(publish.topic.to_vec()).unwrap();
                    let answer = store.lock().unwrap().hear(&topic, &publish.payload);
                    if let Some(answer) = answer {
                        let receipt = format!("{}/receipt", topic.rsplit_once('/').unwrap().0);
                        let answer = answer.encode_to_vec();
                        client.try_publish(receipt, QoS::AtLeastOnce, false, answer).unwrap();
                    }
                }
                Ok(_) => {}
                Err(_) => break sleep(Duration::from_millis(200)).await,
            }
        }
    }
}

impl Store {
    fn hear(&mut self, topic: &str, payload: &[u8]) -> Option<v1::Receipt> {
        match topic.rsplit_once('/').unwrap().1 {
            "headline" => {
                let digest = Digest::of(payload);
                self.stored.insert(digest, payload.to_vec());
                Some(self.stored(digest))
            }
            "bundle" => self.chunk(&v1::Chunk::decode(payload).unwrap()),
            "status" => {
                self.status.push(v1::Status::decode(payload).unwrap().up);
                None
            }
            _ => None,
        }
    }

    fn chunk(&mut self, chunk: &v1::Chunk) -> Option<v1::Receipt> {
        let digest = Digest::try_from(chunk.digest.as_slice()).unwrap();
        if self.refuses {
            let reason = "this device is not known here".to_owned();
            return Some(receipt(digest, v1::receipt::Word::Refused(v1::Refused { reason })));
        }
        if self.stored.contains_key(&digest) {
            return Some(self.stored(digest));
        }
        if chunk.dump {
            return self.slice(digest, chunk);
        }
        let parts = self.parts.entry(digest).or_default();
        if !chunk.data.is_empty() {
            self.chunks += 1;
            self.order.push(chunk.dump);
            parts.insert(chunk.offset, chunk.data.clone());
        }
        let mut ranges = Vec::new();
        let mut start = 0;
        for (offset, data) in &*parts {
            ranges.extend((start < *offset).then_some(v1::Range { start, end: *offset }));
            start = offset + data.len() as u64;
        }
        ranges.extend((start < chunk.total).then_some(v1::Range { start, end: chunk.total }));
        if ranges.is_empty() {
            let bytes: Vec<u8> = parts.values().flatten().copied().collect();
            assert_eq!(Digest::of(&bytes), digest);
            self.stored.insert(digest, bytes);
            return Some(self.stored(digest));
        }
        let missing = v1::receipt::Word::Missing(v1::Missing { ranges });
        chunk.data.is_empty().then(|| receipt(digest, missing))
    }

    /// A part of a dump: appended, and asked for in slices of 100 KB.
    fn slice(&mut self, digest: Digest, chunk: &v1::Chunk) -> Option<v1::Receipt> {
        let here = self.dumps.entry(digest).or_default();
        let before = here.len() as u64;
        if chunk.offset == before {
            here.extend_from_slice(&chunk.data);
            self.order.push(chunk.dump);
        }
        let (here, total) = (here.len() as u64, chunk.total);
        if here == total {
            let bytes = self.dumps.remove(&digest).unwrap();
            assert_eq!(Digest::of(&bytes), digest);
            self.stored.insert(digest, bytes);
            return Some(self.stored(digest));
        }
        let range = v1::Range { start: here, end: total.min((here / 100_000 + 1) * 100_000) };
        let missing = v1::receipt::Word::Missing(v1::Missing { ranges: vec![range] });
        let asks = chunk.data.is_empty() || here % 100_000 == 0 && here != before;
        asks.then(|| receipt(digest, missing))
    }

    fn stored(&self, digest: Digest) -> v1::Receipt {
        receipt(digest, v1::receipt::Word::Stored(v1::Stored {}))
    }
}

fn receipt(digest: Digest, word: v1::receipt::Word) -> v1::Receipt {
    v1::Receipt { digest: digest.as_bytes().to_vec(), word: Some(word) }
}

/// A device: a spool, and an upload that can be started and cut off.
struct Device {
    dir: TempDir,
    spool: Arc<Mutex<Spool>>,
    changed: watch::Sender<()>,
    lent: watch::Sender<Lent>,
    status: watch::Sender<Vec<u8>>,
    stop: watch::Sender<bool>,
    state: watch::Sender<State>,
    bindings: watch::Sender<Bindings>,
    counters: Arc<Counters>,
    tasks: JoinSet<()>,
}

impl Device {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (spool, _) = Spool::open(&dir.path().join("spool"), LIMITS).unwrap();
        let status = v1::Status { up: true, ..v1::Status::default() };
        Self {
            dir,
            spool: Arc::new(Mutex::new(spool)),
            changed: watch::Sender::new(()),
            lent: watch::Sender::default(),
            status: watch::Sender::new(status.encode_to_vec()),
            stop: watch::Sender::new(false),
            state: watch::Sender::default(),
            bindings: watch::Sender::default(),
            counters: Arc::default(),
            tasks: JoinSet::new(),
        }
    }

    fn start(&mut self, broker: &str, tls: Option<Tls>) {
        let (device, prefix) = ("device-1".parse().unwrap(), Prefix::default());
        let broker = broker.parse().unwrap();
        let config = Config { broker, tls, prefix, device, bindings: true };
        let wires = Wires {
            spool: Arc::clone(&self.spool),
            changed: self.changed.subscribe(),
            lent: self.lent.subscribe(),
            status: self.status.subscribe(),
            stop: self.stop.subscribe(),
            state: self.state.clone(),
            bindings: self.bindings.clone(),
            counters: Arc::clone(&self.counters),
            budget: Arc::new(Mutex::new(Budget::new(
                Bounds::default(),
                Month::default(),
                Clock::now(),
            ))),
        };
        self.tasks.spawn(run(Target::try_new(config).unwrap(), wires));
    }

    fn put(&self, kind: Kind, name: u8, size: usize) -> Vec<u8> {
        let bytes: Vec<u8> = (0..size).map(|i| (i / 256) as u8 ^ i as u8 ^ name).collect();
        let incident = IncidentId::new([name; 16]);
        let parcel = Parcel { kind, incident, mark: Mark::default(), bytes: bytes.clone() };
        self.spool.lock().unwrap().put(parcel).unwrap();
        self.changed.send_replace(());
        bytes
    }

    /// Lets the controller have this, in a file.
    fn lend(&self, sequence: u64, bytes: &[u8]) -> Digest {
        let path = self.dir.path().join("dump");
        std::fs::write(&path, bytes).unwrap();
        let file = Arc::new(File::open(&path).unwrap());
        let dump = Dump { digest: Digest::of(bytes), bytes: bytes.len() as u64, file };
        let digest = dump.digest;
        self.lent.send_replace(Lent { sequence, dumps: vec![dump] });
        digest
    }

    fn is_empty(&self) -> bool {
        self.spool.lock().unwrap().waiting().next().is_none()
    }

    async fn why(&self) -> String {
        let mut state = self.state.subscribe();
        let bad = |s: &State| matches!(s, State::Down { .. } | State::Hindered { .. });
        let state = timeout(HANGS, state.wait_for(bad)).await.expect("no trouble came").unwrap();
        match &*state {
            State::Down { why } | State::Hindered { why } => why.clone(),
            State::Connecting | State::Up => unreachable!("it was waited for"),
        }
    }
}

async fn wait_for(what: &str, done: impl Fn() -> bool) {
    for _ in 0..HANGS.as_millis() / 2 {
        if done() {
            return;
        }
        sleep(Duration::from_millis(2)).await;
    }
    panic!("not in time: {what}");
}

fn local(port: u16) -> String {
    format!("mqtt://127.0.0.1:{port}")
}

#[tokio::test]
async fn parcels_arrive_are_forgotten_and_the_device_takes_leave() {
    let mut device = Device::new();
    let broker = Broker::start(device.dir.path(), free_port(), "");
    let store = Shared::default();
    device.tasks.spawn(controller(broker.port, Arc::clone(&store)));
    let headline = device.put(Kind::Headline, 1, 900);
    let bundle = device.put(Kind::Bundle, 1, 300_000);
    device.start(&local(broker.port), None);
    wait_for("the spool to be empty", || device.is_empty()).await;
    let later = device.put(Kind::Bundle, 2, 10);
    wait_for("the later bundle", || device.is_empty()).await;
    device.status.send_modify(|_| {});
    wait_for("the status, twice", || store.lock().unwrap().status.starts_with(&[true; 2])).await;
    {
        let store = store.lock().unwrap();
        assert_eq!(store.stored[&Digest::of(&headline)], headline);
        assert_eq!(store.stored[&Digest::of(&bundle)], bundle);
        assert_eq!(store.stored[&Digest::of(&later)], later);
        assert_eq!(store.chunks, 11, "each chunk once");
    }
    assert_eq!(*device.state.borrow(), State::Up);
    device.stop.send_replace(true);
    timeout(Duration::from_secs(1), device.tasks.join_next()).await.expect("it stops within 1 s");
    wait_for("the last status", || store.lock().unwrap().status.last() == Some(&false)).await;
    let log = std::fs::read_to_string(broker.dir.join("mosquitto.log")).unwrap();
    assert!(log.contains("Client device-1 disconnected."), "{log}");
}

#[tokio::test]
async fn a_broker_that_is_killed_midway_loses_nothing() {
    let mut device = Device::new();
    let mut broker = Broker::start(device.dir.path(), free_port(), "");
    let store = Shared::default();
    device.tasks.spawn(controller(broker.port, Arc::clone(&store)));
    device.start(&local(broker.port), None);
    let bundles: Vec<_> = (0..3).map(|n| device.put(Kind::Bundle, n, 4_000_000)).collect();
    for kills in 1..4 {
        wait_for("some chunks", || store.lock().unwrap().chunks >= kills * 60).await;
        broker.restart();
    }
    wait_for("the spool to be empty", || device.is_empty()).await;
    let store = store.lock().unwrap();
    for bundle in bundles {
        assert_eq!(store.stored[&Digest::of(&bundle)], bundle);
    }
    assert!(device.counters.failures.load(Relaxed) >= 3);
    // 3 x 123 are needed; each kill may cost what was on its way.
    assert!((369..369 + 3 * 2 * 10).contains(&store.chunks), "{} chunks", store.chunks);
}

#[tokio::test]
async fn a_device_that_is_cut_off_resumes_and_its_will_is_told() {
    let mut device = Device::new();
    let broker = Broker::start(device.dir.path(), free_port(), "");
    let store = Shared::default();
    let mut controllers = JoinSet::new();
    controllers.spawn(controller(broker.port, Arc::clone(&store)));
    let bundle = device.put(Kind::Bundle, 1, 6_000_000);
    device.start(&local(broker.port), None);
    wait_for("some chunks", || store.lock().unwrap().chunks >= 40).await;
    device.tasks.abort_all();
    wait_for("the will", || store.lock().unwrap().status.last() == Some(&false)).await;
    device.start(&local(broker.port), None);
    wait_for("the spool to be empty", || device.is_empty()).await;
    let store = store.lock().unwrap();
    assert_eq!(store.stored[&Digest::of(&bundle)], bundle);
    assert!(store.chunks < 184 + 10, "{} chunks where 184 are needed", store.chunks);
}

#[tokio::test]
async fn a_dump_resumes_after_kills_and_a_bundle_overtakes_it() {
    let mut device = Device::new();
    let mut broker = Broker::start(device.dir.path(), free_port(), "");
    let store = Shared::default();
    device.tasks.spawn(controller(broker.port, Arc::clone(&store)));
    device.start(&local(broker.port), None);
    let bytes: Vec<u8> = (0..6_000_000_u32).map(|i| (i / 251) as u8 ^ i as u8).collect();
    let digest = device.lend(7, &bytes);
    let sent = || store.lock().unwrap().order.len();
    wait_for("some of the dump", || sent() >= 30).await;
    let bundle = device.put(Kind::Bundle, 1, 300_000);
    wait_for("the spool to be empty", || device.is_empty()).await;
    broker.restart();
    let before = sent();
    wait_for("more of the dump", || sent() >= before + 20).await;
    let has = || store.lock().unwrap().stored.contains_key(&digest);
    wait_for("the dump", has).await;
    let store = store.lock().unwrap();
    assert_eq!(store.stored[&digest], bytes);
    assert_eq!(store.stored[&Digest::of(&bundle)], bundle);
    let first = store.order.iter().position(|dump| !dump).unwrap();
    let last = store.order.iter().rposition(|dump| !dump).unwrap();
    assert_eq!(last - first, 9, "the bundle's ten chunks came in one go: {:?}", store.order);
    // In slices of 100 KB there are four chunks each, and little was sent twice.
    let chunks = device.counters.chunks.load(Relaxed);
    assert!((250..270).contains(&chunks), "{chunks} chunks");
    assert!(device.counters.refused.load(Relaxed) == 0);
}

#[tokio::test]
async fn a_dump_that_cannot_be_read_is_given_up_until_it_is_asked_for_anew() {
    let mut device = Device::new();
    let broker = Broker::start(device.dir.path(), free_port(), "");
    let store = Shared::default();
    device.tasks.spawn(controller(broker.port, Arc::clone(&store)));
    let bytes = vec![7; 150_000];
    let digest = device.lend(1, &bytes);
    // Torn behind our back: the second slice is not there.
    File::options()
        .write(true)
        .open(device.dir.path().join("dump"))
        .unwrap()
        .set_len(100_000)
        .unwrap();
    device.start(&local(broker.port), None);
    let held = || store.lock().unwrap().dumps.get(&digest).map_or(0, Vec::len);
    wait_for("the first slice", || held() == 100_000).await;
    let parcel = device.put(Kind::Bundle, 1, 9_000);
    wait_for("the spool to be empty", || device.is_empty()).await;
    assert_eq!(store.lock().unwrap().stored[&Digest::of(&parcel)], parcel);
    assert_eq!(device.lend(2, &bytes), digest);
    wait_for("the dump", || store.lock().unwrap().stored.contains_key(&digest)).await;
}

#[tokio::test]
async fn what_is_refused_is_set_aside() {
    let mut device = Device::new();
    let broker = Broker::start(device.dir.path(), free_port(), "");
    let store = Shared::default();
    store.lock().unwrap().refuses = true;
    device.tasks.spawn(controller(broker.port, Arc::clone(&store)));
    device.put(Kind::Bundle, 1, 5000);
    device.start(&local(broker.port), None);
    wait_for("the spool to be empty", || device.is_empty()).await;
    assert_eq!(device.spool.lock().unwrap().usage().refused, 1);
    assert_eq!(store.lock().unwrap().chunks, 0);
}

#[tokio::test]
async fn a_broker_that_is_not_there_is_told_once_and_found_when_it_comes() {
    let mut device = Device::new();
    let port = free_port();
    device.put(Kind::Headline, 1, 100);
    let mut states = device.state.subscribe();
    device.start(&local(port), None);
    let expected = format!(
        "the broker 127.0.0.1:{port} refused the connection: nothing listens there; start it, or \
         correct the port"
    );
    assert_eq!(device.why().await, expected);
    states.mark_unchanged();
    wait_for("three tries", || device.counters.failures.load(Relaxed) >= 3).await;
    assert!(!states.has_changed().unwrap(), "the same trouble is told once");

    let broker = Broker::start(device.dir.path(), port, "");
    wait_for("the connection", || *device.state.borrow() != State::Down { why: expected.clone() })
        .await;
    let nobody = format!(
        "the broker 127.0.0.1:{port} does not pass on what this device publishes: no controller \
         listens; start one"
    );
    assert_eq!(device.why().await, nobody);
    assert!(!device.is_empty());
    device.tasks.spawn(controller(broker.port, Shared::default()));
    wait_for("the spool to be empty", || device.is_empty()).await;
    device.stop.send_replace(true);
}

#[tokio::test]
async fn a_stop_is_heard_while_there_is_no_broker() {
    let mut device = Device::new();
    device.start(&local(free_port()), None);
    device.why().await;
    device.stop.send_replace(true);
    timeout(Duration::from_secs(1), device.tasks.join_next()).await.expect("it stops within 1 s");
}

#[tokio::test]
async fn a_broker_that_forbids_publishing_is_named() {
    let mut device = Device::new();
    let acl = device.dir.path().join("acl");
    std::fs::write(&acl, "topic read lifesign/#\n").unwrap();
    let more = format!("acl_file {}", acl.display());
    let broker = Broker::start(device.dir.path(), free_port(), &more);
    device.put(Kind::Headline, 1, 100);
    device.start(&local(broker.port), None);
    // Until the broker listens there may be another sentence.
    let told = || {
        let state = device.state.borrow().clone();
        matches!(state, State::Hindered { why } if why.ends_with("not authorized; correct its ACL"))
    };
    wait_for("the sentence", told).await;
    assert!(!device.is_empty());
}

/// Keys and certificates made by the openssl command.
struct Authority(PathBuf);

impl Authority {
    fn new(dir: &Path, name: &str) -> Self {
        let dir = dir.join(name);
        std::fs::create_dir(&dir).unwrap();
        let authority = Self(dir);
        let subject = format!("/CN={name}");
        authority.openssl(
            &["req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt"],
            &[
                "ec_paramgen_curve:P-256",
                "-keyout",
                "ca.key",
                "-out",
                "ca.pem",
                "-subj",
                &subject,
                "-days",
                "3",
            ],
        );
        authority
    }

    fn issue(&self, name: &str) {
        let (key, csr, pem) = (format!("{name}.key"), format!("{name}.csr"), format!("{name}.pem"));
        let subject = format!("/CN={name}");
        let is_address = name.parse::<std::net::IpAddr>().is_ok();
        let kind = if is_address { "IP" } else { "DNS" };
        std::fs::write(self.0.join("ext"), format!("subjectAltName={kind}:{name}")).unwrap();
        self.openssl(
            &["req", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"],
            &["-keyout", &key, "-out", &csr, "-subj", &subject],
        );
        self.openssl(
            &["x509", "-req", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"],
            &["-in", &csr, "-out", &pem, "-days", "3", "-extfile", "ext"],
        );
    }

    fn openssl(&self, what: &[&str], more: &[&str]) {
        let mut command = Command::new("openssl");
        let done = command.args(what).args(more).current_dir(&self.0).output();
        let done = done.expect("this test needs openssl: apt-get install openssl");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    fn file(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.0.join(name)).unwrap()
    }

    fn tls(&self, name: &str, ca: &Self) -> Tls {
        let file = |end: &str| self.file(&format!("{name}.{end}"));
        Tls { ca: ca.file("ca.pem"), certificate: file("pem"), key: file("key") }
    }
}

#[tokio::test]
async fn over_tls_each_proves_itself_to_the_other() {
    let mut device = Device::new();
    let ours = Authority::new(device.dir.path(), "ours");
    let theirs = Authority::new(device.dir.path(), "theirs");
    // Brokers are called by address: not every build container knows the name localhost.
    ours.issue("127.0.0.1");
    ours.issue("device-1");
    theirs.issue("device-1");
    let path = ours.0.display();
    let [plain, right, wrong] = [free_port(), free_port(), free_port()];
    let listener = |port: u16, shows: &str| {
        format!(
            "listener {port} 127.0.0.1\ncafile {path}/ca.pem\ncertfile {path}/{shows}.pem\n\
             keyfile {path}/{shows}.key\nrequire_certificate true\n"
        )
    };
    let more = listener(right, "127.0.0.1") + &listener(wrong, "device-1");
    let broker = Broker::start(device.dir.path(), plain, &more);
    let named = format!("mqtts://127.0.0.1:{right}");
    let misnamed = format!("mqtts://127.0.0.1:{wrong}");
    for port in [right, wrong] {
        wait_for("the broker", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()).await;
    }

    let whys = [
        (&named, ours.tls("device-1", &theirs), "of an authority that is not in the CA file"),
        (&misnamed, ours.tls("device-1", &ours), "shows the certificate of another host"),
        (
            &named,
            theirs.tls("device-1", &ours),
            "refused this device: it does not know the authority",
        ),
    ];
    for (url, tls, why) in whys {
        device.start(url, Some(tls));
        let told = device.why().await;
        assert!(told.contains(why), "{told}");
        device.tasks.shutdown().await;
        device.state.send_replace(State::Connecting);
    }

    device.tasks.spawn(controller(broker.port, Shared::default()));
    device.put(Kind::Bundle, 1, 100_000);
    device.start(&named, Some(ours.tls("device-1", &ours)));
    wait_for("the spool to be empty", || device.is_empty()).await;

    let mut stranger = ours.tls("device-1", &ours);
    stranger.key = theirs.file("device-1.key");
    let device = "device-1".parse().unwrap();
    let config = Config {
        broker: named.parse().unwrap(),
        tls: Some(stranger),
        prefix: "a".parse().unwrap(),
        device,
        bindings: false,
    };
    assert!(matches!(Target::try_new(config), Err(ConfigError::Key(_))));
}

async fn say(port: u16, topic: &str, payload: &[u8]) {
    let mut options = MqttOptions::new(format!("says {topic}"), "127.0.0.1", port);
    options.set_max_packet_size(Some(1 << 20));
    let (client, mut eventloop) = AsyncClient::new(options, 10);
    client.try_publish(topic, QoS::AtLeastOnce, true, payload.to_vec()).unwrap();
    let said = async {
        while !matches!(eventloop.poll().await, Ok(v5::Event::Incoming(Packet::PubAck(_)))) {}
    };
    timeout(HANGS, said).await.expect("the broker takes it");
}

#[tokio::test]
async fn what_the_controller_binds_is_handed_on_as_it_came() {
    let mut device = Device::new();
    let mut broker = Broker::start(device.dir.path(), free_port(), "");
    wait_for("the broker", || std::net::TcpStream::connect(("127.0.0.1", broker.port)).is_ok())
        .await;
    let message = |bytes: &[u8]| Bindings::Message(bytes.to_vec());
    let mut heard = device.bindings.subscribe();
    say(broker.port, "lifesign/device-2/bindings", b"another's").await;
    say(broker.port, "lifesign/device-1/bindings", b"before it came").await;
    device.start(&local(broker.port), None);
    let mut hears = async |wanted: Bindings| {
        timeout(HANGS, heard.wait_for(|heard| *heard == wanted)).await.expect("heard").unwrap();
    };
    hears(message(b"before it came")).await;
    let large = vec![7; limits::BINDINGS_BYTES];
    say(broker.port, "lifesign/device-1/bindings", &large).await;
    hears(message(&large)).await;
    // A broker that has forgotten everything is told again, and so are we.
    broker.restart();
    wait_for("the broker", || std::net::TcpStream::connect(("127.0.0.1", broker.port)).is_ok())
        .await;
    say(broker.port, "lifesign/device-1/bindings", b"after a restart").await;
    hears(message(b"after a restart")).await;
}

#[tokio::test]
async fn bindings_that_may_not_be_read_hinder_no_receipts() {
    use rumqttc::v5::mqttbytes::v5::{SubAck, SubscribeReasonCode as Code};
    let (broker, device) = ("mqtt://127.0.0.1:7".parse().unwrap(), "d-1".parse().unwrap());
    let config = Config { broker, tls: None, prefix: Prefix::default(), device, bindings: true };
    let link = Link::open(&Target::try_new(config).unwrap(), Vec::new());
    let ack = |codes: [Code; 2]| {
        link.subscribed(&SubAck { pkid: 1, return_codes: codes.into(), properties: None })
    };
    let taken = Code::Success(QoS::AtLeastOnce);
    assert!(ack([taken, taken]).unwrap().is_none());
    let Some(Event::Unbound(why)) = ack([taken, Code::NotAuthorized]).unwrap() else {
        panic!("it is told")
    };
    assert!(why.to_string().contains("read its bindings (not authorized)"), "{why}");
    let why = ack([Code::NotAuthorized, taken]).unwrap_err();
    assert!(why.to_string().contains("read its receipts"), "{why}");
}
