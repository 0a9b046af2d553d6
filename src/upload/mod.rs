//! Ships parcels to the controller over MQTT 5, and forgets them when it has them.
//!
//! ```text
//!   agent --put--> spool <--read, forget, set aside--+
//!     |                                              |
//!     +-- spool changed, status, stop --> [ run ] ---+
//!     +-- dumps that it may send ------->  |   ^
//!                            actions       v   | receipts
//!                                        session           (what to send next: pure)
//!                                          |   ^
//!                                          v   |
//!                                         link             (one MQTT connection, thrown away on
//!                                          |   ^            any error)
//!      <prefix>/<device>/status     <------+   |
//!      <prefix>/<device>/headline   <------+   |
//!      <prefix>/<device>/bundle     <------+   |
//!      <prefix>/<device>/receipt    -----------+
//!      <prefix>/<device>/bindings   -----------+--> handed on as it came
//! ```
//!
//! Only a receipt of the controller lets go of a parcel; see [`session`] for the conversation. Who
//! may publish on the receipt topic can make the device forget: the broker must allow that to the
//! controller alone.
//!
//! One task, [`run`], owns the connection and the session. The spool is shared with whoever puts
//! parcels into it, behind a plain mutex rather than a task of its own: every use is one short call
//! without an answer to wait for, so a task would only add a queue. The mutex is taken on the
//! blocking pool, since it may be held by somebody who waits for the disk, and never across an
//! await.

mod backoff;
mod budget;
mod link;
pub mod session;
mod target;
mod trouble;

#[cfg(test)]
mod tests;

pub use budget::{Bounds, Budget, Month, Worth};
pub use target::{Config, ConfigError, Target, Tls};

use crate::base::chain::Chain;
use crate::base::id::Digest;
use crate::base::time::{Clock, Instant};
use crate::pb::v1;
use crate::spool::{ReadError, Spool, Waiting};
use backoff::{Backoff, Dice};
use link::{Event, Link, Token};
use prost::Message;
use session::{Action, Heard, Item, Session, Ticket};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};
use trouble::Trouble;

const RECONNECT: Backoff =
    Backoff { first: Duration::from_secs(1), most: Duration::from_secs(300) };

/// A connection that lasted this long was a good one: the next try comes at once. Shorter ones may
/// be two devices of one name that push each other out.
const GOOD: Duration = Duration::from_secs(60);

/// Within this time a stopping program has said that it goes down, or the will says so.
const LEAVE: Duration = Duration::from_millis(800);

/// What [`run`] is connected to within the program.
pub struct Wires {
    /// The parcels.
    pub spool: Arc<Mutex<Spool>>,
    /// Notified after every `put`.
    pub changed: watch::Receiver<()>,
    /// What of dumps the controller has asked for and may have.
    pub lent: watch::Receiver<Lent>,
    /// The encoded `Status` with `up` set, published whenever it changes. Nothing while empty.
    pub status: watch::Receiver<Vec<u8>>,
    /// Set to stop. A dropped sender stops as well.
    pub stop: watch::Receiver<bool>,
    /// Told how the link is, for the health page.
    pub state: watch::Sender<State>,
    /// Told what comes on the topic of bindings. Only the last word of a retained topic counts, so
    /// nothing queues up, and whoever reads it slowly holds up nothing.
    pub bindings: watch::Sender<Bindings>,
    /// Counted here, for the metrics.
    pub counters: Arc<Counters>,
    /// What may still be sent.
    pub budget: Arc<Mutex<Budget>>,
}

/// The dumps that the controller may have now.
#[derive(Clone, Debug, Default)]
pub struct Lent {
    /// The controller's message that asks for them.
    pub sequence: u64,
    /// In this order.
    pub dumps: Vec<Dump>,
}

/// A dump that the controller may have.
#[derive(Clone, Debug)]
pub struct Dump {
    /// SHA-256 of its bytes.
    pub digest: Digest,
    /// How many it has.
    pub bytes: u64,
    /// Where they are. Read as they are asked for, a chunk at a time.
    pub file: Arc<File>,
}

/// How the link is.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum State {
    /// The first try.
    #[default]
    Connecting,
    /// The broker takes what is sent.
    Up,
    /// The broker is there, but it does not do what it should.
    Hindered {
        /// A sentence.
        why: String,
    },
    /// There is no connection.
    Down {
        /// A sentence.
        why: String,
    },
}

/// What came on the topic of bindings.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Bindings {
    /// Nothing yet.
    #[default]
    Nothing,
    /// A message, from whomever: at most a packet long, and not looked at.
    Message(Vec<u8>),
    /// Nothing ever will.
    Hindered {
        /// A sentence.
        why: String,
    },
}

/// What happened since the program started.
#[derive(Debug, Default)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Counters {
    pub connections: AtomicU64,
    pub failures: AtomicU64,
    pub headlines: AtomicU64,
    pub offers: AtomicU64,
    pub chunks: AtomicU64,
    /// Content of all messages, as often as they were sent.
    pub sent_bytes: AtomicU64,
    pub stored: AtomicU64,
    pub missing: AtomicU64,
    pub refused: AtomicU64,
    /// Messages on the receipt topic that were no receipts.
    pub strange: AtomicU64,
}

/// Ships until it is told to stop.
pub async fn run(target: Target, wires: Wires) {
    let seed = Digest::of(format!("{} {}", target.device, Clock::now().as_millis()).as_bytes());
    let seed = seed.as_bytes().iter().take(8).fold(0, |n, byte| n << 8 | u64::from(*byte));
    let session = Session::new(seed);
    let mut upload = Upload { target, wires, session, bundle: None, status: Status::default() };
    let (mut dice, mut tries) = (Dice::new(seed), 0);
    loop {
        let mut since = None;
        let Err(trouble) = upload.connection(&mut since).await else { return };
        upload.down(trouble);
        let good = since.is_some_and(|since| Clock::now().since(since) >= GOOD);
        tries = if good { 0 } else { tries + 1 };
        let pause = RECONNECT.pause(tries.max(1) - 1, &mut dice);
        if timeout(pause, stopped(&mut upload.wires.stop)).await.is_ok() {
            return;
        }
    }
}

struct Upload {
    target: Target,
    wires: Wires,
    session: Session,
    /// The bundle that is being sent, read once for all its chunks.
    bundle: Option<(Digest, Vec<u8>)>,
    status: Status,
}

#[derive(Debug, Default)]
struct Status {
    due: bool,
    in_flight: bool,
}

/// What can wake the task, in the order in which it is looked at: to stop outranks everything, and
/// what the agent has to say is rare and cheap, so a broker that floods us cannot keep it out.
enum Wake {
    Stop,
    Spool,
    Lent,
    Status,
    Link(Result<Event, Trouble>),
    Time,
}

impl Upload {
    /// One connection, until it is lost, or `Ok` if the program stops. Tells when it came up.
    async fn connection(&mut self, since: &mut Option<Instant>) -> Result<(), Trouble> {
        let mut link = Link::open(&self.target, self.down_status());
        loop {
            if since.is_some() {
                self.tell_status(&mut link)?;
                self.act(&mut link).await?;
            }
            match self.wake(&mut link).await {
                Wake::Stop if since.is_none() => return Ok(()),
                Wake::Stop => {
                    let topic = self.target.topics.status.clone();
                    let left = timeout(LEAVE, link.leave(&topic, self.down_status())).await;
                    debug!(in_time = left.is_ok(), "left the broker");
                    return Ok(());
                }
                Wake::Spool => self.look_into_spool().await,
                Wake::Lent => self.look_at_lent(),
                Wake::Status => self.status.due = true,
                Wake::Link(Ok(Event::Up { content_max })) => {
                    *since = Some(Clock::now());
                    self.up(content_max).await;
                }
                Wake::Link(event) => self.handle(event?),
                Wake::Time => {}
            }
        }
    }

    async fn wake(&mut self, link: &mut Link) -> Wake {
        let deadline = self.session.poll_deadline();
        let wires = &mut self.wires;
        tokio::select! {
            biased;
            () = stopped(&mut wires.stop) => Wake::Stop,
            () = changed(&mut wires.changed) => Wake::Spool,
            () = changed(&mut wires.lent) => Wake::Lent,
            () = changed(&mut wires.status) => Wake::Status,
            event = link.next() => Wake::Link(event),
            why = until(deadline) => {
                debug!("{why}");
                Wake::Time
            }
        }
    }

    async fn up(&mut self, content_max: usize) {
        self.wires.counters.connections.fetch_add(1, Relaxed);
        self.state(State::Up);
        self.status = Status { due: true, in_flight: false };
        self.look_into_spool().await;
        self.look_at_lent();
        self.session.connected(content_max, Clock::now());
    }

    fn down(&mut self, trouble: Trouble) {
        self.wires.counters.failures.fetch_add(1, Relaxed);
        self.session.disconnected();
        self.bundle = None;
        self.state(State::Down { why: trouble.to_string() });
    }

    /// Tells a change of state once.
    fn state(&self, state: State) {
        let broker = self.target.name();
        let changed = self.wires.state.send_if_modified(|old| {
            let changed = *old != state;
            *old = state.clone();
            changed
        });
        match &state {
            _ if !changed => debug!(?state, "the link is as before"),
            State::Connecting => {}
            State::Up => info!(broker, "the broker takes what is sent"),
            State::Hindered { why } | State::Down { why } => warn!("{why}"),
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Acknowledged { token: Token::Status, .. } => self.status.in_flight = false,
            Event::Acknowledged { token: Token::Parcel(ticket), complaint } => {
                self.session.acknowledged(ticket, Clock::now());
                let hindered = |why: Trouble| State::Hindered { why: why.to_string() };
                self.state(complaint.map_or(State::Up, hindered));
            }
            Event::Receipt(payload) => self.receipt(&payload),
            Event::Bindings(payload) => {
                self.wires.bindings.send_replace(Bindings::Message(payload));
            }
            Event::Unbound(why) => {
                self.wires.bindings.send_replace(Bindings::Hindered { why: why.to_string() });
            }
            Event::Up { .. } => {}
        }
    }

    fn receipt(&mut self, payload: &[u8]) {
        let counters = &self.wires.counters;
        let counter = match self.session.received(payload, Clock::now()) {
            Heard::Stored => &counters.stored,
            Heard::Missing => &counters.missing,
            Heard::Refused => &counters.refused,
            Heard::Strange(why) => {
                debug!(bytes = payload.len(), "a message on the receipt topic is ignored: {why}");
                &counters.strange
            }
        };
        counter.fetch_add(1, Relaxed);
    }

    /// Does all that the session wants done now.
    async fn act(&mut self, link: &mut Link) -> Result<(), Trouble> {
        while let Some(action) = self.next_action() {
            match action {
                Action::PublishHeadline { ticket, parcel } => {
                    self.publish_headline(link, ticket, parcel).await?;
                }
                Action::Offer { ticket, item } => {
                    self.bundle = None;
                    self.wires.counters.offers.fetch_add(1, Relaxed);
                    let topic = &self.target.topics.bundle;
                    let offer = session::chunk(item, 0, Vec::new());
                    self.publish(link, topic, ticket, offer)?;
                }
                Action::SendChunk { ticket, item, range } => {
                    self.send_chunk(link, ticket, (item, range)).await?;
                }
                Action::Settled { digest, refused: None } => {
                    info!(dump = %digest, "the controller has a dump");
                }
                Action::Settled { digest, refused: Some(why) } => {
                    warn!(dump = %digest, "the controller does not take a dump: {why}");
                }
                Action::Forget { digest } => {
                    self.bundle = None;
                    self.with_spool(move |spool| spool.forget(digest)).await;
                    info!(parcel = %digest, "the controller has a parcel");
                    self.look_into_spool().await;
                }
                Action::SetAside { digest, reason } => {
                    self.bundle = None;
                    self.with_spool(move |spool| spool.set_aside(digest, &reason)).await;
                    self.look_into_spool().await;
                }
            }
        }
        Ok(())
    }

    fn next_action(&mut self) -> Option<Action> {
        let (now, wall) = (Clock::now(), Clock::wall());
        let until = self.lock_budget().waits_until(now, wall);
        self.session.bundles_wait(until);
        self.session.poll_action(now)
    }

    fn spend(&self, topic: &str, payload: &[u8]) {
        let bytes = (topic.len() + payload.len()) as u64;
        self.lock_budget().spend(bytes, Clock::now(), Clock::wall());
    }

    fn lock_budget(&self) -> MutexGuard<'_, Budget> {
        self.wires.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn publish_headline(
        &mut self,
        link: &mut Link,
        ticket: Ticket,
        parcel: Waiting,
    ) -> Result<(), Trouble> {
        let Some(bytes) = self.read(ticket, parcel.digest).await else { return Ok(()) };
        self.wires.counters.headlines.fetch_add(1, Relaxed);
        self.publish(link, &self.target.topics.headline, ticket, bytes)
    }

    async fn send_chunk(
        &mut self,
        link: &mut Link,
        ticket: Ticket,
        (item, range): (Item, Range<u64>),
    ) -> Result<(), Trouble> {
        let start = range.start;
        let data = match item {
            Item::Parcel(parcel) => self.part_of_bundle(ticket, parcel, range).await,
            Item::Dump { digest, .. } => self.part_of_dump(ticket, digest, range).await,
        };
        let Some(data) = data else { return Ok(()) };
        let chunk = session::chunk(item, start, data);
        self.wires.counters.chunks.fetch_add(1, Relaxed);
        self.publish(link, &self.target.topics.bundle, ticket, chunk)
    }

    async fn part_of_bundle(
        &mut self,
        ticket: Ticket,
        parcel: Waiting,
        range: Range<u64>,
    ) -> Option<Vec<u8>> {
        if self.bundle.as_ref().is_none_or(|(digest, _)| *digest != parcel.digest) {
            let bytes = self.read(ticket, parcel.digest).await;
            self.bundle = bytes.map(|bytes| (parcel.digest, bytes));
        }
        let (_, bundle) = self.bundle.as_ref()?;
        Some(bundle.get(usize_range(range)).unwrap_or_default().to_vec())
    }

    /// One that cannot be read is not offered again before somebody asks anew.
    async fn part_of_dump(
        &mut self,
        ticket: Ticket,
        digest: Digest,
        range: Range<u64>,
    ) -> Option<Vec<u8>> {
        let lent = self.wires.lent.borrow().dumps.iter().find(|d| d.digest == digest).cloned();
        let read = match lent {
            Some(Dump { file, .. }) => Some(spawn_blocking(move || part(&file, range)).await),
            // It was taken back a moment ago, as we are about to be told.
            None => None,
        };
        match read {
            Some(Ok(Ok(data))) => return Some(data),
            Some(Ok(Err(error))) => {
                warn!(dump = %digest, "a dump cannot be read, and is not sent: {error}");
                self.session.give_up(digest);
            }
            Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
            None => {}
        }
        self.session.acknowledged(ticket, Clock::now());
        None
    }

    fn publish(
        &self,
        link: &mut Link,
        topic: &str,
        ticket: Ticket,
        payload: Vec<u8>,
    ) -> Result<(), Trouble> {
        self.wires.counters.sent_bytes.fetch_add(payload.len() as u64, Relaxed);
        self.spend(topic, &payload);
        link.publish(topic, Token::Parcel(ticket), payload)
    }

    /// The latest status, unless one is still on its way.
    fn tell_status(&mut self, link: &mut Link) -> Result<(), Trouble> {
        if !self.status.due || self.status.in_flight {
            return Ok(());
        }
        self.status.due = false;
        let status = self.wires.status.borrow_and_update().clone();
        if !link.takes(status.len()) {
            let why = Trouble::too_large(&self.target.name(), status.len()).to_string();
            self.state(State::Hindered { why });
            return Ok(());
        }
        if status.is_empty() {
            return Ok(());
        }
        self.status.in_flight = true;
        self.spend(&self.target.topics.status, &status);
        link.publish(&self.target.topics.status, Token::Status, status)
    }

    fn down_status(&self) -> Vec<u8> {
        let device = self.target.device.to_string();
        v1::Status { device, ..v1::Status::default() }.encode_to_vec()
    }

    /// The bytes of a parcel. What cannot be read is taken off the session's hands.
    async fn read(&mut self, ticket: Ticket, digest: Digest) -> Option<Vec<u8>> {
        match self.with_spool(move |spool| spool.read(digest)).await {
            Ok(bytes) => return Some(bytes),
            Err(error @ ReadError::Disk { .. }) => warn!("{}", Chain(&error)),
            Err(error @ (ReadError::Unknown(_) | ReadError::Corrupt { .. })) => {
                debug!("{}", Chain(&error));
                self.look_into_spool().await;
            }
        }
        self.session.acknowledged(ticket, Clock::now());
        None
    }

    fn look_at_lent(&mut self) {
        let lent = self.wires.lent.borrow_and_update();
        let dumps = lent.dumps.iter().map(|dump| (dump.digest, dump.bytes));
        self.session.dumps_changed(lent.sequence, dumps);
    }

    async fn look_into_spool(&mut self) {
        let waiting = self.with_spool(|spool| spool.waiting().collect::<Vec<_>>()).await;
        self.session.parcels_changed(waiting);
    }

    async fn with_spool<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Spool) -> T + Send + 'static,
    ) -> T {
        let spool = Arc::clone(&self.wires.spool);
        let locked = move || act(&mut spool.lock().unwrap_or_else(PoisonError::into_inner));
        match spawn_blocking(locked).await {
            Ok(done) => done,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

fn part(file: &File, range: Range<u64>) -> io::Result<Vec<u8>> {
    let mut data = vec![0; usize_range(0..range.end - range.start).len()];
    file.read_exact_at(&mut data, range.start)?;
    Ok(data)
}

fn usize_range(range: Range<u64>) -> Range<usize> {
    let number = |n| usize::try_from(n).unwrap_or(usize::MAX);
    number(range.start)..number(range.end)
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that nobody is left who could say it.
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn changed<T>(receiver: &mut watch::Receiver<T>) {
    if receiver.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn until(deadline: Option<(Instant, &'static str)>) -> &'static str {
    let Some((at, why)) = deadline else { return std::future::pending().await };
    sleep(at.since(Clock::now())).await;
    why
}
