//! The controller as it runs: opens everything, wires it, and takes it down in order.
//!
//! To stop means: take no more messages, handle and answer those that were taken, leave the broker,
//! and only then stop serving health; after [`limits::DRAIN`] whatever is left is dropped, which
//! loses nothing, for what was not answered is said again.

use super::admission;
use super::announce::Announcer;
use super::broker::{self, Broker};
use super::config::{BrokerChoice, Config, TlsFiles};
use super::identity::Enrolled;
use super::link::{self, Link};
use super::metrics::{Meters, PREFIX};
use super::receive::Receiver;
use super::store::{Bindings, Store, StoreError};
use super::tls::{self, TlsError};
use super::worker::{self, Vitals};
use crate::base::endpoint::BrokerUrl;
use crate::base::limits;
use crate::telemetry::health::Health;
use crate::telemetry::http;
use crate::telemetry::metrics::{self, Registry};
use rumqttc::v5::MqttOptions;
use rumqttc::{TlsConfiguration, Transport};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinError, JoinSet};

/// The name of our session at our own broker.
const OURSELVES: &str = "lifesign-controller";

/// Why the controller does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// What was received cannot be kept.
    #[error("failed to open the store")]
    Store(#[from] StoreError),
    /// Health and metrics cannot be served.
    #[error("failed to listen on {address} for health and metrics")]
    Http {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No TLS.
    #[error("failed to prepare TLS")]
    Tls(#[from] TlsError),
    /// TLS to a broker needs to know whom to believe.
    #[error("mqtts needs `tls: {{ certificate, key, ca }}` in the config")]
    NoTls,
    /// Our own broker does not start.
    #[error("failed to start the broker")]
    Broker(#[from] broker::Error),
    /// A task is gone that should not be.
    #[error("a part of the controller ended before it should")]
    Ended(#[source] Option<JoinError>),
}

/// Runs until `stop` is done.
///
/// # Errors
///
/// When it cannot begin, or a part of it breaks.
pub async fn run(config: Config, stop: impl Future<Output = ()>) -> Result<(), RunError> {
    let health = Health::new();
    let mut registry = metrics::registry(PREFIX, health.clone());
    let vitals = Vitals { meters: Meters::new(&mut registry), health };
    vitals.health.degraded("broker", "not connected yet");
    let store = Store::open(&config.data)?;
    let bindings = Bindings::open(&config.data)?;
    let pages = Pages::start(config.http, registry, &vitals).await?;
    let (options, own) = connect(&config).await?;
    let parts = Parts::start(config, options, (store, bindings), vitals);
    let ended = parts.run(stop).await;
    if let Some(broker) = own {
        broker.stop().await;
    }
    pages.stop().await;
    ended
}

/// Health and metrics.
struct Pages {
    tasks: JoinSet<()>,
    closing: watch::Sender<bool>,
}

impl Pages {
    async fn start(
        address: SocketAddr,
        registry: Registry,
        vitals: &Vitals,
    ) -> Result<Self, RunError> {
        let listener = TcpListener::bind(address).await;
        let listener = listener.map_err(|source| RunError::Http { address, source })?;
        let (closing, closed) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let health = vitals.health.clone();
        let page = http::Page { registry: Arc::new(registry), health, more: Vec::new() };
        tasks.spawn(http::serve(listener, page, closed));
        Ok(Self { tasks, closing })
    }

    async fn stop(mut self) {
        self.closing.send_replace(true);
        drop(tokio::time::timeout(limits::DRAIN, self.tasks.join_next()).await);
    }
}

/// Link, answers, announcements and worker.
struct Parts {
    tasks: JoinSet<()>,
    stopping: watch::Sender<bool>,
}

impl Parts {
    fn start(
        config: Config,
        options: MqttOptions,
        (store, bindings): (Store, Bindings),
        vitals: Vitals,
    ) -> Self {
        let (stopping, stop) = watch::channel(false);
        let (answering, answered) = watch::channel(());
        let (jobs, taken) = mpsc::channel(link::JOBS);
        let (finished, done) = mpsc::channel(link::JOBS);
        let again = Arc::new(Notify::new());
        let mut tasks = JoinSet::new();
        let enrolled = Enrolled::new(config.devices);
        let receiver = Receiver::new(config.prefix.clone(), enrolled, store);
        let worker_vitals = vitals.clone();
        tasks.spawn_blocking(move || worker::work(receiver, taken, &finished, &worker_vitals));
        tasks.spawn(link::answer(done, Arc::clone(&again), answering));
        let (up, link_up) = watch::channel(None);
        let announcer = Announcer::new(config.prefix.clone(), bindings, vitals.clone());
        tasks.spawn(announcer.run(link_up, stop.clone()));
        let (jobs, answered) = (Some(jobs), Some(answered));
        let link = Link { options, prefix: config.prefix, jobs, again, stop, answered, up, vitals };
        tasks.spawn(link.run());
        Self { tasks, stopping }
    }

    async fn run(mut self, stop: impl Future<Output = ()>) -> Result<(), RunError> {
        let early = tokio::select! {
            () = stop => None,
            part = self.tasks.join_next() => Some(part.and_then(Result::err)),
        };
        tracing::info!("stopping");
        self.stopping.send_replace(true);
        let drain = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(limits::DRAIN, drain).await.is_err() {
            tracing::warn!("not all that was taken was answered in time; devices will ask again");
        }
        early.map_or(Ok(()), |part| Err(RunError::Ended(part)))
    }
}

/// How to get to the broker, and the broker, if it is our own.
async fn connect(config: &Config) -> Result<(MqttOptions, Option<Broker>), RunError> {
    match &config.broker {
        BrokerChoice::Own { listen } => own(config, *listen).await,
        BrokerChoice::Theirs { url, client } => {
            Ok((theirs(url, client, config.tls.as_ref())?, None))
        }
    }
}

/// Our own broker. We come to it over a socket in the data directory, which is private.
async fn own(
    config: &Config,
    listen: SocketAddr,
) -> Result<(MqttOptions, Option<Broker>), RunError> {
    let socket = config.data.join("broker.sock");
    let broker = Broker::start(broker::Config {
        listen,
        tls: config.tls.as_ref().map(tls::server).transpose()?,
        socket: Some(socket.clone()),
        admit: admission::by_enrolment(config.prefix.clone(), config.devices.clone()),
        limits: broker::Limits::DEFAULT,
    });
    let broker = broker.await?;
    tracing::info!(address = %broker.address(), tls = config.tls.is_some(), "our own broker listens");
    let mut options = link::options(OURSELVES, &socket.display().to_string(), 0);
    options.set_transport(Transport::Unix);
    Ok((options, Some(broker)))
}

fn theirs(
    url: &BrokerUrl,
    client: &str,
    files: Option<&TlsFiles>,
) -> Result<MqttOptions, RunError> {
    let mut options = link::options(client, &url.host, url.port);
    if url.tls {
        let config = tls::client(files.ok_or(RunError::NoTls)?)?;
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(config)));
    }
    Ok(options)
}
