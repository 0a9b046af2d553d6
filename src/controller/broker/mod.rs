//! The embedded broker: MQTT 5 for a controller that has no broker beside it.
//!
//! ```text
//!   listener --> connection tasks --inbox--> owner task (Core) --packets--> connection tasks
//!   socket  -->        "                          ^
//!                                                 +-- one tick a second
//! ```
//!
//! It has what devices and one controller need of a broker: sessions that outlive connections,
//! QoS 0 and 1, retained messages, wills, takeover, and rights by certificate. Everything is
//! bounded, and a publisher is told when its message could not be held (`QuotaExceeded`) or nobody
//! wanted it (`NoMatchingSubscribers`); what was accepted is not pushed out by what comes later.
//!
//! It never writes to disk: with the process go sessions, retained messages and what waits, and
//! clients learn it from `session_present`. It never offers QoS 2, topic aliases, shared
//! subscriptions, subscription identifiers or MQTT 3.1.1, and says so in the protocol's own words.
//! Whoever needs those, or several controllers, uses a broker of their own.

mod connection;
mod core;
mod owner;
mod session;
#[cfg(test)]
mod tests;
mod topics;
mod wire;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use self::connection::{INBOX_MAX, Place};
use self::core::Core;
use self::owner::Owner;

/// From the call of `stop` until tasks are no longer asked but ended.
const STOP_GRACE: Duration = Duration::from_millis(500);
/// After a failure to accept, which is most often a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections over the socket: the process's own client, and what reconnects meanwhile.
const LOCAL_CONNECTIONS_MAX: usize = 8;

type ConnectionId = u64;

/// What a broker is started with.
pub struct Config {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Must ask for client certificates and verify them. Without it, only loopback is served.
    pub tls: Option<Arc<ServerConfig>>,
    /// Where the process's own client connects without TLS. Whoever may write this file is
    /// `Peer::Local`, so its directory must be private.
    pub socket: Option<PathBuf>,
    /// Who may do what.
    pub admit: Admit,
    /// Its bounds.
    pub limits: Limits,
}

/// Who is it that connects under this client id, and what may it do? `None` turns it away. Asked
/// once a connection. A client id is a name others can claim: admit it only to its owner.
pub type Admit = Arc<dyn Fn(&Peer, &str) -> Option<Rights> + Send + Sync>;

/// How a client proves itself.
#[derive(Debug, Clone)]
pub enum Peer {
    /// It may write our private socket.
    Local,
    /// Not at all: it is on this machine, and TLS is off.
    Plain(SocketAddr),
    /// The client's own certificate, verified under `Config::tls`.
    Certificate(CertificateDer<'static>),
}

/// What a client may do, as topic filters.
#[derive(Debug, Clone)]
pub struct Rights {
    publish: Vec<String>,
    subscribe: Vec<String>,
}

/// The bounds of a broker.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Limits {
    pub connections_max: usize,
    pub sessions_max: usize,
    pub subscriptions_max: usize,
    pub session_messages_max: usize,
    pub session_bytes_max: usize,
    pub session_expiry_max: Duration,
    pub retained_messages_max: usize,
    pub retained_bytes_max: usize,
    /// Without the fixed header.
    pub packet_bytes_max: u32,
    /// Unacknowledged at a time: towards a client, and what a client is asked to keep to.
    pub in_flight_max: u16,
    pub receive_max: u16,
    /// For the TLS handshake, and again for CONNECT.
    pub connect_timeout: Duration,
    pub write_timeout: Duration,
    /// The longest silence, whatever keep-alive the client asks for.
    pub keep_alive_max: Duration,
}

/// What the broker holds now, and what it could not hold since it started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Counts {
    pub clients: usize,
    pub sessions: usize,
    pub retained: usize,
    /// Messages for which a session, or the retained ones, had no room.
    pub refused: u64,
    /// Connections ended because their client did not read.
    pub congested: u64,
}

/// Why a broker does not start.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the sentences say it")]
pub enum Error {
    #[error("failed to listen on {0}: without TLS only loopback is served")]
    Plain(SocketAddr),
    #[error("failed to listen on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("failed to listen on {}", path.display())]
    Socket {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// A broker that runs. Dropped, it ends at once; `stop` says goodbye to the clients.
pub struct Broker {
    address: SocketAddr,
    socket: Option<PathBuf>,
    stop: watch::Sender<bool>,
    counts: watch::Receiver<Counts>,
    tasks: JoinSet<()>,
}

impl Broker {
    /// Is bound when it returns.
    ///
    /// # Errors
    ///
    /// When an address or the socket cannot be listened on.
    pub async fn start(config: Config) -> Result<Self, Error> {
        let Config { listen: address, tls, socket, admit, limits } = config;
        if tls.is_none() && !address.ip().is_loopback() {
            return Err(Error::Plain(address));
        }
        let refused = |source| Error::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let local = match &socket {
            Some(path) => {
                Some(bind(path).map_err(|source| Error::Socket { path: path.clone(), source })?)
            }
            None => None,
        };
        let (stop, stopped) = watch::channel(false);
        let (report, counts) = watch::channel(Counts::default());
        let (inbox, inputs) = mpsc::channel(INBOX_MAX);
        let core = Core::new(limits.clone());
        let tls = tls.map(TlsAcceptor::from);
        let place = Place { inbox, stop: stopped.clone(), tls, admit, limits: Arc::new(limits) };
        let mut tasks = JoinSet::new();
        tasks.spawn(Owner { core, links: BTreeMap::new(), report }.run(inputs, stopped));
        tasks.spawn(accept(place, listener, local));
        Ok(Self { address, socket, stop, counts, tasks })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it holds.
    #[must_use]
    pub fn counts(&self) -> Counts {
        *self.counts.borrow()
    }

    /// Takes about half a second at worst, and the port is free when it returns.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(2 * STOP_GRACE, ended).await.is_err() {
            self.tasks.shutdown().await;
        }
        if let Some(path) = &self.socket
            && let Err(error) = std::fs::remove_file(path)
        {
            tracing::warn!(path = %path.display(), %error, "failed to remove the socket");
        }
    }
}

impl Rights {
    /// As topic filters.
    #[must_use]
    pub fn new<'a>(
        publish: impl IntoIterator<Item = &'a str>,
        subscribe: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let publish = publish.into_iter().map(str::to_string).collect();
        let subscribe = subscribe.into_iter().map(str::to_string).collect();
        Self { publish, subscribe }
    }

    pub(super) fn may_publish(&self, topic: &str) -> bool {
        self.publish.iter().any(|filter| topics::covers(filter, topic))
    }

    pub(super) fn may_subscribe(&self, filter: &str) -> bool {
        self.subscribe.iter().any(|wider| topics::covers(wider, filter))
    }
}

impl Limits {
    /// For a controller with up to a thousand devices that send chunks of 32 KiB.
    pub const DEFAULT: Self = Self {
        connections_max: 1200,
        sessions_max: 2000,
        subscriptions_max: 64,
        session_messages_max: 50_000,
        session_bytes_max: 64 << 20,
        session_expiry_max: Duration::from_secs(7 * 24 * 3600),
        retained_messages_max: 10_000,
        retained_bytes_max: 64 << 20,
        packet_bytes_max: 512 << 10,
        in_flight_max: 64,
        receive_max: 64,
        connect_timeout: Duration::from_secs(10),
        write_timeout: Duration::from_secs(30),
        keep_alive_max: Duration::from_secs(3600),
    };
}

/// A stale socket is replaced; anything else in its place is left alone and refuses the start.
fn bind(path: &Path) -> io::Result<UnixListener> {
    if std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
        std::fs::remove_file(path)?;
    }
    UnixListener::bind(path)
}

/// Takes connections in until told to stop, and then sees them out.
async fn accept(mut place: Place, listener: TcpListener, local: Option<UnixListener>) {
    let mut remote_tasks = JoinSet::new();
    let mut local_tasks = JoinSet::new();
    let mut next: ConnectionId = 0;
    loop {
        // The end first, then room, then our own client, whom no crowd outside may keep waiting.
        let failure = tokio::select! {
            biased;
            _ = place.stop.changed() => break,
            Some(ended) = remote_tasks.join_next() => { note(ended); continue }
            Some(ended) = local_tasks.join_next() => { note(ended); continue }
            accepted = accept_local(&local), if local_tasks.len() < LOCAL_CONNECTIONS_MAX => {
                next += 1;
                accepted.map(|stream| {
                    local_tasks.spawn(connection::serve(place.clone(), next, stream, Peer::Local))
                })
            }
            accepted = accept_remote(&listener),
                if remote_tasks.len() < place.limits.connections_max =>
            {
                next += 1;
                accepted.map(|tcp| {
                    remote_tasks.spawn(connection::serve_tcp(place.clone(), next, tcp))
                })
            }
        };
        if let Err(error) = failure {
            tracing::error!(%error, "failed to accept a connection");
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }
    drop((listener, local));
    let ended = async {
        while remote_tasks.join_next().await.is_some() {}
        while local_tasks.join_next().await.is_some() {}
    };
    if timeout(STOP_GRACE, ended).await.is_err() {
        tracing::debug!("connections did not end by themselves");
    }
}

async fn accept_remote(listener: &TcpListener) -> io::Result<TcpStream> {
    listener.accept().await.map(|(stream, _)| stream)
}

async fn accept_local(listener: &Option<UnixListener>) -> io::Result<UnixStream> {
    match listener {
        Some(listener) => listener.accept().await.map(|(stream, _)| stream),
        None => std::future::pending().await,
    }
}

fn note(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a connection's task failed");
    }
}
