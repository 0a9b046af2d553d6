//! Starts everything, and stops it in order.
//!
//! Every task is spawned here, on one set. When the wish to stop comes, watches take nothing new and
//! finish what they have begun, the upload says goodbye to the broker, and after
//! [`limits::DRAIN`] whoever is not done is dropped: what matters is on disk by then.

use super::assignment::{self, Assignment, Report};
use super::board::Board;
use super::config::Config;
use super::identity::{self, Identity};
use super::incident::Desk;
use super::keeper::{Orders, keep};
use super::lend::Lender;
use super::pages;
use super::parcels;
use super::purse::{self, Purse};
use crate::base::id::DeviceId;
use crate::base::limits;
use crate::base::time::Clock;
use crate::binding;
use crate::pb::v1;
use crate::spool::{self, Spool};
use crate::telemetry::health::Health;
use crate::telemetry::metrics::{self, Counters, Registry};
use crate::telemetry::{http, signal};
use crate::upload;
use prost::Message;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch as channel;
use tokio::task::JoinSet;

/// What all names of metrics begin with.
const PREFIX: &str = "lifesign";

/// How often the spool tries to bring to disk what it holds in memory.
const SETTLE: Duration = Duration::from_secs(10);

/// How often the status of the device is looked at. It is sent only when it has changed.
const TELL: Duration = Duration::from_secs(2);

/// Why the agent did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The device cannot prove itself.
    #[error("the device cannot prove itself")]
    Identity(#[from] identity::Error),
    /// The state directory cannot be used.
    #[error("failed to open the state directory {path}")]
    State {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The spool cannot be used.
    #[error("failed to open the spool")]
    Spool(#[from] spool::OpenError),
    /// The authorities cannot be read.
    #[error("failed to read {path}")]
    Ca {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The upload cannot be set up.
    #[error("failed to set up the upload")]
    Upload(#[from] upload::ConfigError),
    /// The controller cannot be believed.
    #[error("failed to load the certificate of the controller whose bindings are taken")]
    Controller(#[from] binding::KeyError),
    /// The page's address is taken or not ours.
    #[error("failed to listen on {address} for health and metrics")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel does not let us listen for signals.
    #[error("failed to listen for signals")]
    Signals(#[source] io::Error),
}

/// Runs the agent until it is asked to stop.
///
/// # Errors
///
/// When it cannot start. Once it runs, it goes on with whatever works.
pub async fn run(config: Config, file: PathBuf) -> Result<(), Error> {
    let Identity { signer, certificate_pem, key_pem } =
        identity::load(&config.certificate, &config.key)?;
    let state = |source| Error::State { path: config.state.clone(), source };
    std::fs::create_dir_all(&config.state).map_err(state)?;
    let spool = open_spool(&config)?;
    let (changed, changes) = channel::channel(());
    let desk = Arc::new(Desk::open(&config, signer, Arc::clone(&spool), changed));
    let health = desk.health.clone();
    let mut registry = metrics::registry(PREFIX, health.clone());
    let ours = registry.sub_registry_with_prefix(PREFIX);
    ours.register("incidents", "Incidents by class", desk.incidents.clone());
    let board = board(ours);
    let (stop, stopped) = channel::channel(false);
    let (linked, link) = channel::channel(upload::State::default());
    let (telling, status) = channel::channel(Vec::new());
    let (bindings, words) = channel::channel(upload::Bindings::default());
    let (reporting, report) = channel::channel(Report::default());
    let (lender, lending) = Lender::new(&config, Arc::clone(&desk), report.clone());
    let orders = assignment::authority(&config)?.map(|authority| {
        let assignment = Assignment::open(&config, authority, health.clone(), reporting);
        Orders { assignment, words }
    });
    let counters = Arc::new(upload::Counters::default());
    count(ours, &counters, &spool);

    let mut tasks = JoinSet::new();
    let target = target(&config, certificate_pem, key_pem)?;
    let wires = upload::Wires {
        spool: Arc::clone(&spool),
        changed: changes,
        lent: lending.lent,
        status,
        stop: stopped.clone(),
        state: linked,
        bindings,
        counters,
        budget: desk.purse.budget(),
    };
    tasks.spawn(upload::run(target, wires));
    tasks.spawn(follow_link(link, health.clone()));
    tasks.spawn(settle(Arc::clone(&desk), stopped.clone()));
    let device = config.device.clone();
    let kept = lending.told;
    let purse = Arc::clone(&desk.purse);
    let teller = Teller { device, board: board.clone(), spool, purse, report, kept, telling };
    tasks.spawn(teller.tell(stopped.clone()));
    tasks.spawn(lender.run(stopped.clone()));
    if let Some(address) = config.http {
        let more = pages::pages(&board);
        let page = http::Page { registry: Arc::new(registry), health, more };
        tasks.spawn(http::serve(listen(address).await?, page, stopped.clone()));
    }
    tracing::info!(device = %config.device, version = env!("CARGO_PKG_VERSION"), "watching");
    tasks.spawn(async move {
        if let Err(wrong) = keep(&file, desk, board, orders, stopped).await {
            tracing::error!("nothing is watched, for the files are wrong:\n{wrong}");
        }
    });

    signal::stopped().await.map_err(Error::Signals)?;
    tracing::info!("stopping");
    stop.send_replace(true);
    drain(tasks).await;
    Ok(())
}

/// Waits for whoever is not done yet, for as long as a stop may take.
async fn drain(mut tasks: JoinSet<()>) {
    let all = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(limits::DRAIN, all).await.is_err() {
        tracing::warn!(
            "something took too long to stop and was dropped; what it announced is on disk"
        );
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })
}

fn open_spool(config: &Config) -> Result<Arc<Mutex<Spool>>, Error> {
    let (spool, report) = Spool::open_or_wait(&config.spool.directory, config.spool.limits)?;
    if let Some(absent) = &report.absent {
        tracing::warn!("evidence is held in memory for now: {absent}");
    }
    for damaged in &report.damaged {
        tracing::warn!("in the spool, {damaged}");
    }
    if report.parcels > 0 {
        tracing::info!(parcels = report.parcels, bytes = report.bytes, "evidence waits to be sent");
    }
    Ok(Arc::new(Mutex::new(spool)))
}

fn board(registry: &mut Registry) -> Board {
    let rounds = Counters::default();
    registry.register("rounds", "Rounds by what they found out", rounds.clone());
    let seconds = metrics::seconds();
    registry.register("round_seconds", "How long rounds take", seconds.clone());
    Board::new(rounds, seconds)
}

/// Brings to disk what had to be held in memory, once the disk takes it again.
async fn settle(desk: Arc<Desk>, mut stop: channel::Receiver<bool>) {
    loop {
        desk.settle();
        tokio::select! {
            biased;
            () = signal::told(&mut stop) => return,
            () = tokio::time::sleep(SETTLE) => {}
        }
    }
}

/// What the program needs to know of the broker, of itself and of the authority behind both.
fn target(config: &Config, certificate: Vec<u8>, key: Vec<u8>) -> Result<upload::Target, Error> {
    let tls = match &config.broker.ca {
        Some(path) => {
            let unread = |source| Error::Ca { path: path.clone(), source };
            let ca = std::fs::read(path).map_err(unread)?;
            Some(upload::Tls { ca, certificate, key })
        }
        None => None,
    };
    let target = upload::Config {
        broker: config.broker.url.clone(),
        tls,
        prefix: config.broker.prefix.clone(),
        device: config.device.clone(),
        bindings: config.controller.is_some(),
    };
    Ok(upload::Target::try_new(target)?)
}

/// Shows on the health page how the link is.
async fn follow_link(mut link: channel::Receiver<upload::State>, health: Health) {
    loop {
        match &*link.borrow_and_update() {
            upload::State::Up => health.ok("broker"),
            upload::State::Connecting => health.degraded("broker", "not connected yet"),
            upload::State::Hindered { why } | upload::State::Down { why } => {
                health.degraded("broker", why.clone());
            }
        }
        if link.changed().await.is_err() {
            return;
        }
    }
}

/// Keeps the device's retained status up to date.
struct Teller {
    device: DeviceId,
    board: Board,
    spool: Arc<Mutex<Spool>>,
    purse: Arc<Purse>,
    report: channel::Receiver<Report>,
    /// What is said of dumps, sealed.
    kept: channel::Receiver<Vec<u8>>,
    telling: channel::Sender<Vec<u8>>,
}

impl Teller {
    async fn tell(self, mut stop: channel::Receiver<bool>) {
        let mut told = None;
        loop {
            let status = self.status();
            if told.as_ref() != Some(&status) {
                let unix_ms = Clock::wall().as_millis();
                let dated = v1::Status { unix_ms, ..status.clone() };
                self.telling.send_replace(dated.encode_to_vec());
                told = Some(status);
            }
            tokio::select! {
                biased;
                () = signal::told(&mut stop) => return,
                () = tokio::time::sleep(TELL) => {}
            }
        }
    }

    fn status(&self) -> v1::Status {
        let (usage, evicted) = {
            let spool = self.spool.lock().unwrap_or_else(PoisonError::into_inner);
            let gone = spool.gone().map(|gone| gone.incident.as_bytes().to_vec());
            (spool.usage(), gone.collect())
        };
        let worth = self.purse.worth(usage.bytes + usage.held_bytes);
        let troubles = parcels::trouble(&usage).into_iter().chain(purse::trouble(worth));
        self.board.notices.of_uplink(troubles.collect());
        let apps = self.board.states().into_iter().map(|shown| v1::AppStatus {
            app: shown.app.id.as_bytes().to_vec(),
            name: shown.app.name,
            scenario: shown.scenario.to_string(),
            state: shown.state.word().to_owned(),
        });
        let Report { sequence, refused, .. } = self.report.borrow().clone();
        v1::Status {
            device: self.device.to_string(),
            up: true,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            unix_ms: 0,
            apps: apps.collect(),
            spool_bytes: usage.bytes + usage.held_bytes,
            spool_entries: u32::try_from(usage.parcels + usage.held).unwrap_or(u32::MAX),
            bindings_sequence: sequence,
            bindings_error: refused,
            kept: self.kept.borrow().clone(),
            spool_evicted: usage.evicted,
            spool_evicted_bytes: usage.evicted_bytes,
            spool_evicted_incidents: evicted,
            spool_lost: usage.lost,
            budget_level: worth.word().to_owned(),
        }
    }
}

fn count(registry: &mut Registry, counters: &Arc<upload::Counters>, spool: &Arc<Mutex<Spool>>) {
    type Read = fn(&upload::Counters) -> &AtomicU64;
    type Use = fn(spool::Usage) -> u64;
    let uploads: [(&'static str, &'static str, Read); 6] = [
        ("upload_connections", "Connections to the broker that came up", |c| &c.connections),
        ("upload_failures", "Connections to the broker that failed", |c| &c.failures),
        ("upload_chunks", "Chunks sent", |c| &c.chunks),
        ("upload_sent_bytes", "Content of all messages sent", |c| &c.sent_bytes),
        ("upload_stored", "Parcels that the controller has stored", |c| &c.stored),
        ("upload_refused", "Parcels that the controller refused", |c| &c.refused),
    ];
    for (name, help, read) in uploads {
        let counters = Arc::clone(counters);
        metrics::read_counter(registry, (name, help), move || read(&counters).load(Relaxed));
    }
    let spools: [(&'static str, &'static str, Use); 4] = [
        ("spool_evicted", "Bundles dropped to make room", |usage| usage.evicted),
        ("spool_evicted_bytes", "Bytes of bundles dropped", |usage| usage.evicted_bytes),
        ("spool_lost", "Parcels that neither disk nor memory took", |usage| usage.lost),
        ("spool_corrupt", "Parcels found damaged", |usage| usage.corrupt),
    ];
    for (name, help, read) in spools {
        let spool = Arc::clone(spool);
        let usage = move || spool.lock().unwrap_or_else(PoisonError::into_inner).usage();
        metrics::read_counter(registry, (name, help), move || read(usage()));
    }
}
