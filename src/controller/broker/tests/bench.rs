//! A broker to test, certificates for it, and clients that can be told to misbehave.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rumqttc::Transport;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, Connect, Packet, PubAckReason, Publish, SubscribeReasonCode,
};
use rumqttc::v5::{AsyncClient, ConnectionError, Event, EventLoop, MqttOptions};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::super::{Broker, Config, Limits, Peer, Rights};

pub(super) const PATIENCE: Duration = Duration::from_secs(20);
pub(super) const PACKET_BYTES_MAX: usize = 512 * 1024;

/// A broker, and the authority its certificates come from.
pub(super) struct Bench {
    pub(super) address: SocketAddr,
    pub(super) authority: Authority,
    pub(super) server: Server,
    pub(super) directory: Option<tempfile::TempDir>,
}

pub(super) enum Server {
    Own(Broker),
    Program(Program),
    Remote,
}

/// Ends with the test, also when that fails.
pub(super) struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        self.0.kill().expect("it runs");
        self.0.wait().expect("it was started here");
    }
}

pub(super) fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap()
}

pub(super) fn run(test: impl AsyncFnOnce(&Bench)) {
    runtime().block_on(async {
        let bench = Bench::start().await;
        test(&bench).await;
        bench.stop().await;
    });
}

pub(super) fn run_own(test: impl AsyncFnOnce(&Bench)) {
    runtime().block_on(async {
        let bench = Bench::start_own().await;
        test(&bench).await;
        bench.stop().await;
    });
}

impl Bench {
    pub(super) async fn start() -> Self {
        match std::env::var("LIFESIGN_TEST_BROKER") {
            Err(_) => Self::start_own().await,
            Ok(place) => match place.parse() {
                Ok(address) => Self::remote(address),
                Err(_) => Self::start_program(&place).await,
            },
        }
    }

    pub(super) async fn start_own() -> Self {
        let authority = Authority::new(KeyPair::generate().unwrap());
        let broker = Broker::start(config(authority.server_config())).await.unwrap();
        let (address, directory) = (broker.address(), None);
        Self { address, authority, server: Server::Own(broker), directory }
    }

    pub(super) async fn start_program(program: &str) -> Self {
        let authority = Authority::new(KeyPair::generate().unwrap());
        let directory = tempfile::tempdir().unwrap();
        authority.write(directory.path().to_path_buf());
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let mut command = Command::new(program);
        command.arg(address.port().to_string()).arg(directory.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let program = Program(command.spawn().unwrap());
        let began = Instant::now();
        while TcpStream::connect(address).await.is_err() {
            assert!(began.elapsed() < PATIENCE, "the program does not listen");
            sleep(Duration::from_millis(50)).await;
        }
        Self { address, authority, server: Server::Program(program), directory: Some(directory) }
    }

    pub(super) fn remote(address: SocketAddr) -> Self {
        let directory = std::env::var("LIFESIGN_TEST_BROKER_CA").expect("names the directory");
        let key = std::fs::read_to_string(PathBuf::from(directory).join("ca.key")).unwrap();
        let authority = Authority::new(KeyPair::from_pem(&key).unwrap());
        Self { address, authority, server: Server::Remote, directory: None }
    }

    pub(super) async fn stop(self) {
        match self.server {
            Server::Own(broker) => broker.stop().await,
            Server::Program(_) | Server::Remote => {}
        }
        drop(self.directory);
    }

    pub(super) fn peak_kib(&self) -> u64 {
        let process = match &self.server {
            Server::Program(program) => program.0.id().to_string(),
            Server::Own(_) | Server::Remote => "self".into(),
        };
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    pub(super) fn config(&self, name: &str) -> ClientConfig {
        self.authority.client_config(Some(self.authority.identity(name)))
    }

    pub(super) fn options(&self, id: &str, config: ClientConfig) -> MqttOptions {
        let mut options = MqttOptions::new(id, self.address.ip().to_string(), self.address.port());
        options.set_transport(Transport::tls_with_config(config.into()));
        options.set_max_packet_size(Some(PACKET_BYTES_MAX as u32));
        options.set_keep_alive(Duration::from_secs(5));
        options
    }

    /// The controller with a session that outlives its connection by an hour.
    pub(super) fn session_options(&self, id: &str) -> MqttOptions {
        let mut options = self.options(id, self.config("controller"));
        options.set_clean_start(false).set_session_expiry_interval(Some(3600));
        options
    }

    pub(super) async fn open(&self, id: &str, name: &str) -> (Link, ConnAck) {
        Link::open(self.options(id, self.config(name))).await.unwrap()
    }

    pub(super) async fn open_session(&self, id: &str) -> (Link, ConnAck) {
        Link::open(self.session_options(id)).await.unwrap()
    }

    pub(super) async fn raw(&self, name: &str) -> TlsStream<TcpStream> {
        let tcp = TcpStream::connect(self.address).await.unwrap();
        let connector = TlsConnector::from(Arc::new(self.config(name)));
        connector.connect(ServerName::from(self.address.ip()), tcp).await.unwrap()
    }

    pub(super) async fn raw_connected(&self, id: &str) -> TlsStream<TcpStream> {
        let mut stream = self.raw("controller").await;
        stream.write_all(&encoded(connect(id))).await.unwrap();
        let mut header = [0; 2];
        stream.read_exact(&mut header).await.unwrap();
        assert_eq!(header[0], 0x20, "no CONNACK");
        let mut rest = vec![0; header[1] as usize];
        stream.read_exact(&mut rest).await.unwrap();
        stream
    }
}

pub(super) fn config(tls: ServerConfig) -> Config {
    let limits = Limits {
        packet_bytes_max: PACKET_BYTES_MAX as u32,
        connect_timeout: Duration::from_secs(1),
        ..Limits::DEFAULT
    };
    Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        tls: Some(Arc::new(tls)),
        socket: None,
        admit: Arc::new(admit),
        limits,
    }
}

pub(super) fn admit(peer: &Peer, client: &str) -> Option<Rights> {
    let Peer::Certificate(certificate) = peer else {
        return None;
    };
    let name = common_name(certificate);
    match name.as_str() {
        "controller" => Some(Rights::new(["lifesign/#"], ["lifesign/#"])),
        _ if name == client => {
            let own = format!("lifesign/{name}/#");
            Some(Rights::new([own.as_str()], [own.as_str()]))
        }
        _ => None,
    }
}

/// The subject's, which comes after the issuer's.
pub(super) fn common_name(certificate: &[u8]) -> String {
    let marker = [0x06, 0x03, 0x55, 0x04, 0x03, 0x0c];
    let found = certificate.windows(6).rposition(|window| window == marker).unwrap();
    let length = certificate[found + 6] as usize;
    String::from_utf8(certificate[found + 7..][..length].to_vec()).unwrap()
}

// ---- certificates ----

pub(super) struct Authority {
    pub(super) issuer: Issuer<'static, KeyPair>,
    pub(super) certificate: CertificateDer<'static>,
    pub(super) pem: String,
}

pub(super) struct Identity {
    pub(super) certificate: rcgen::Certificate,
    pub(super) key: KeyPair,
}

impl Authority {
    pub(super) fn new(key: KeyPair) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test authority");
        let certificate = params.self_signed(&key).unwrap();
        let (pem, certificate) = (certificate.pem(), certificate.der().clone());
        Self { issuer: Issuer::new(params, key), certificate, pem }
    }

    pub(super) fn identity(&self, name: &str) -> Identity {
        let mut params = CertificateParams::new(["127.0.0.1".to_string()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        Identity { certificate: params.signed_by(&key, &self.issuer).unwrap(), key }
    }

    pub(super) fn write(&self, directory: PathBuf) {
        let server = self.identity("server");
        std::fs::write(directory.join("ca.pem"), &self.pem).unwrap();
        std::fs::write(directory.join("server.pem"), server.certificate.pem()).unwrap();
        std::fs::write(directory.join("server.key"), server.key.serialize_pem()).unwrap();
    }

    pub(super) fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        roots
    }

    pub(super) fn server_config(&self) -> ServerConfig {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(self.roots()), provider.clone());
        let (chain, key) = self.identity("server").parts();
        ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(chain, key)
            .unwrap()
    }

    pub(super) fn client_config(&self, identity: Option<Identity>) -> ClientConfig {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(self.roots());
        match identity.map(Identity::parts) {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
            None => builder.with_no_client_auth(),
        }
    }
}

impl Identity {
    pub(super) fn parts(self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = PrivatePkcs8KeyDer::from(self.key.serialize_der());
        (vec![self.certificate.der().clone()], key.into())
    }
}

// ---- clients ----

/// A client whose event loop runs in a task and ends with its first error.
pub(super) struct Link {
    pub(super) client: AsyncClient,
    pub(super) packets: mpsc::Receiver<Packet>,
    pub(super) task: JoinHandle<ConnectionError>,
    /// Acknowledgements and messages arrive interleaved; whichever is not asked for waits here.
    pub(super) acks: Vec<PubAckReason>,
    pub(super) messages: Vec<Publish>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Link {
    pub(super) async fn open(options: MqttOptions) -> Result<(Self, ConnAck), ConnectionError> {
        let (client, mut events) = AsyncClient::new(options, 100);
        let ack = loop {
            let event = timeout(PATIENCE, events.poll()).await;
            if let Event::Incoming(Packet::ConnAck(ack)) =
                event.expect("connecting takes too long")?
            {
                break ack;
            }
        };
        let (sender, packets) = mpsc::channel(50_000);
        let task = tokio::spawn(forward(events, sender));
        Ok((Self { client, packets, task, acks: Vec::new(), messages: Vec::new() }, ack))
    }

    /// Ends the connection without a word.
    pub(super) async fn cut(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }

    pub(super) async fn next(&mut self) -> Packet {
        match timeout(PATIENCE, self.packets.recv()).await.expect("nothing comes") {
            Some(packet) => packet,
            None => panic!("the connection ended: {:?}", (&mut self.task).await),
        }
    }

    pub(super) async fn message(&mut self) -> Publish {
        while self.messages.is_empty() {
            let packet = self.next().await;
            self.keep(packet);
        }
        self.messages.remove(0)
    }

    pub(super) async fn acked(&mut self) -> PubAckReason {
        while self.acks.is_empty() {
            let packet = self.next().await;
            self.keep(packet);
        }
        self.acks.remove(0)
    }

    /// Numbered messages until that many different ones were seen.
    pub(super) async fn numbers(&mut self, count: usize) -> BTreeSet<u32> {
        let mut seen = BTreeSet::new();
        while seen.len() < count {
            seen.insert(number(&self.message().await));
        }
        seen
    }

    pub(super) async fn silent(&mut self) {
        sleep(Duration::from_millis(300)).await;
        while let Ok(packet) = self.packets.try_recv() {
            assert!(!matches!(packet, Packet::Publish(_)), "unexpected {packet:?}");
        }
        assert!(self.messages.is_empty(), "unexpected {:?}", self.messages);
    }

    pub(super) async fn subscribe(&mut self, filter: &str) {
        self.client.subscribe(filter, QoS::AtLeastOnce).await.unwrap();
        loop {
            let packet = self.next().await;
            if let Packet::SubAck(ack) = &packet
                && let SubscribeReasonCode::Success(qos) = ack.return_codes[0]
            {
                return assert_eq!(qos, QoS::AtLeastOnce);
            }
            self.keep(packet);
        }
    }

    fn keep(&mut self, packet: Packet) {
        if let Packet::Publish(publish) = packet {
            self.messages.push(publish);
        } else if let Packet::PubAck(ack) = packet {
            self.acks.push(ack.reason);
        }
    }

    pub(super) async fn send(&mut self, topic: &str, payload: Vec<u8>) {
        self.client.publish(topic, QoS::AtLeastOnce, false, payload).await.unwrap();
    }

    pub(super) async fn publish(&mut self, topic: &str, numbers: std::ops::Range<u32>) {
        for n in numbers.clone() {
            self.send(topic, n.to_be_bytes().to_vec()).await;
        }
        for _ in numbers {
            assert_eq!(self.acked().await, PubAckReason::Success);
        }
    }

    pub(super) async fn retain(&mut self, topic: &str, payload: &[u8]) {
        let payload = payload.to_vec();
        self.client.publish(topic, QoS::AtLeastOnce, true, payload).await.unwrap();
        let reason = self.acked().await;
        assert!(matches!(reason, PubAckReason::Success | PubAckReason::NoMatchingSubscribers));
    }
}

pub(super) async fn forward(
    mut events: EventLoop,
    sender: mpsc::Sender<Packet>,
) -> ConnectionError {
    loop {
        match events.poll().await {
            Ok(Event::Incoming(packet)) => sender.send(packet).await.expect("the test reads"),
            Ok(Event::Outgoing(_)) => {}
            Err(error) => return error,
        }
    }
}

/// A publisher and a subscriber that a misbehaving third must not disturb.
pub(super) struct Pair {
    pub(super) publisher: Link,
    pub(super) subscriber: Link,
}

impl Pair {
    pub(super) async fn open(bench: &Bench) -> Self {
        let (mut subscriber, _) = bench.open("controller-p", "controller").await;
        subscriber.subscribe("lifesign/dev-p/bundle").await;
        let (publisher, _) = bench.open("dev-p", "dev-p").await;
        Self { publisher, subscriber }
    }

    pub(super) async fn works(&mut self) {
        self.publisher.publish("lifesign/dev-p/bundle", 0..10).await;
        assert_eq!(self.subscriber.numbers(10).await.len(), 10);
    }
}

pub(super) fn number(publish: &Publish) -> u32 {
    u32::from_be_bytes(publish.payload[..4].try_into().unwrap())
}

pub(super) fn connect(id: &str) -> Packet {
    let (client_id, properties) = (id.to_string(), None);
    Packet::Connect(
        Connect { keep_alive: 60, client_id, clean_start: true, properties },
        None,
        None,
    )
}

pub(super) fn encoded(packet: Packet) -> BytesMut {
    let mut bytes = BytesMut::new();
    packet.write(&mut bytes, None).unwrap();
    bytes
}

pub(super) async fn closed(stream: &mut (impl AsyncReadExt + Unpin)) {
    let mut bytes = [0; 1024];
    let ended = async { while matches!(stream.read(&mut bytes).await, Ok(1..)) {} };
    timeout(PATIENCE, ended).await.expect("the connection stays open");
}
