//! The controller's session with a broker.
//!
//! ```text
//!            +---------------- wait: backoff -------------+
//!            v                                            |
//!        connect --> subscribe --> listen --any error-----+
//!                                     |
//!                                    stop --> answer what was taken --> disconnect
//! ```
//!
//! The MQTT library keeps its own queues across reconnects and has lost messages so; here a client
//! lives as long as its connection, and what it held is thrown away with it. Nothing is lost: the
//! broker keeps our session and repeats what was not acknowledged, and a message is acknowledged
//! only after [`super::receive`] has handled it.
//!
//! Two tasks: [`Link::run`] polls and never waits for anything else, [`answer`] publishes and
//! acknowledges. A third, [`super::announce`], publishes what nobody asked for. They meet only through bounded channels. At most [`limits::INFLIGHT`] messages
//! are unacknowledged by the broker's promise, so the channel of jobs is full only when it breaks
//! that promise or sends what nobody promised to deliver.

use super::receive::Message;
use super::worker::{Done, Job, Vitals};
use crate::base::limits;
use crate::base::topic::{Kind, Prefix};
use rumqttc::Outgoing;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    Filter, Packet, PubAck, PubAckReason, Publish, SubAck, SubscribeReasonCode,
};
use rumqttc::v5::{AsyncClient, ConnectionError, Event, EventLoop, MqttOptions};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::sync::{Notify, watch};

/// Jobs that wait for the worker: what is unacknowledged, also after some quick reconnects.
pub const JOBS: usize = 8 * limits::INFLIGHT as usize;

/// The broker keeps our session, and what devices say meanwhile, for a week.
const SESSION_EXPIRY_SECONDS: u32 = 7 * 24 * 3600;

/// A link that is dead without saying so is noticed within one and a half of these.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// How long to wait after the first failure, and at most.
const BACKOFF: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(30)];

/// Who waits for what comes of a message.
pub struct Ticket {
    client: AsyncClient,
    publish: Publish,
}

/// What the link is made of.
pub struct Link {
    /// Where the broker is, and who we are.
    pub options: MqttOptions,
    /// What to listen for.
    pub prefix: Prefix,
    /// Where messages go; taken away when it is to stop.
    pub jobs: Option<mpsc::Sender<Job<Ticket>>>,
    /// Rung when a message must come again.
    pub again: Arc<Notify>,
    /// True when it is to stop.
    pub stop: watch::Receiver<bool>,
    /// Closed when all that was taken is answered; taken away when that was seen.
    pub answered: Option<watch::Receiver<()>>,
    /// The connection, while there is one that listens, for who has something to say unasked.
    pub up: watch::Sender<Option<Line>>,
    /// Health and metrics.
    pub vitals: Vitals,
}

/// A connection that listens.
#[derive(Clone)]
pub struct Line {
    /// Takes what is to be published.
    pub client: AsyncClient,
    /// The largest packet that the broker takes. A larger one would end the connection.
    pub packet_bytes_max: usize,
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("the connection to the broker failed")]
    Connection(#[from] Box<ConnectionError>),
    #[error("the broker refuses our subscription to {0}: allow it to the controller")]
    Subscription(String),
    #[error("the broker sends more than it was told that we take")]
    Flooded,
    #[error("the store failed, so that what was sent must come again")]
    Again,
}

/// What a session waits for.
#[expect(clippy::large_enum_variant, reason = "lives for one turn of the loop")]
enum Wake {
    Polled(Result<Event, ConnectionError>),
    Stop,
    Answered,
    Again,
}

/// What is set on every connection, whatever the broker.
#[must_use]
pub fn options(client: &str, host: &str, port: u16) -> MqttOptions {
    let mut options = MqttOptions::new(client, host, port);
    options
        .set_clean_start(false)
        .set_keep_alive(KEEP_ALIVE)
        .set_manual_acks(true)
        .set_session_expiry_interval(Some(SESSION_EXPIRY_SECONDS))
        .set_receive_maximum(Some(limits::INFLIGHT))
        .set_max_packet_size(Some(limits::PACKET_BYTES))
        .set_outgoing_inflight_upper_limit(limits::INFLIGHT);
    options
}

impl Link {
    /// Stays connected until it is to stop and all that it took is answered.
    pub async fn run(mut self) {
        let mut wait = BACKOFF[0];
        loop {
            let ended = self.session(&mut wait).await;
            self.up.send_replace(None);
            match ended {
                Ok(()) => return,
                Err(lost) => self.lost(&lost, wait),
            }
            tokio::select! {
                biased;
                _ = self.stop.wait_for(|stop| *stop) => return,
                () = tokio::time::sleep(wait) => {}
            }
            wait = (wait * 2).min(BACKOFF[1]);
        }
    }

    fn lost(&self, lost: &Lost, wait: Duration) {
        let why = crate::base::chain::Chain(lost).to_string();
        tracing::warn!(why, ?wait, "not connected to the broker; trying again");
        let advice = format!("{why}. Check that it runs, its address and our certificate");
        self.vitals.health.degraded("broker", &advice);
    }

    /// One connection, from its beginning to its end.
    async fn session(&mut self, wait: &mut Duration) -> Result<(), Lost> {
        let requests = usize::from(limits::INFLIGHT);
        let (client, mut eventloop) = AsyncClient::new(self.options.clone(), requests);
        let mut leaving = false;
        let mut line = Line { client: client.clone(), packet_bytes_max: usize::MAX };
        loop {
            if leaving {
                // While the queue is full there is something to poll for, which brings us back.
                leaving = client.try_disconnect().is_err();
            }
            match self.wake(&mut eventloop).await {
                Wake::Polled(Ok(Event::Outgoing(Outgoing::Disconnect))) => return Ok(()),
                Wake::Polled(Ok(Event::Outgoing(_))) => {}
                Wake::Polled(Ok(Event::Incoming(packet))) => {
                    if self.heard(&mut line, packet)? {
                        *wait = BACKOFF[0];
                    }
                }
                Wake::Polled(Err(error)) => return Err(Box::new(error).into()),
                Wake::Again => return Err(Lost::Again),
                Wake::Stop => self.jobs = None,
                Wake::Answered => {
                    self.answered = None;
                    leaving = true;
                }
            }
        }
    }

    /// Waits for what comes next. Polling is interrupted three times at most in the life of a
    /// connection; what it was about to write then is an answer, for which the device asks again.
    async fn wake(&mut self, eventloop: &mut EventLoop) -> Wake {
        let stopping = self.jobs.is_none();
        let answered = async {
            match &mut self.answered {
                Some(answered) if stopping => drop(answered.changed().await),
                Some(_) | None => std::future::pending().await,
            }
        };
        // In this order: to stop goes before taking more, and to hear the broker before leaving it.
        tokio::select! {
            biased;
            _ = self.stop.wait_for(|stop| *stop), if !stopping => Wake::Stop,
            () = self.again.notified() => Wake::Again,
            event = eventloop.poll() => Wake::Polled(event),
            () = answered => Wake::Answered,
        }
    }

    /// Takes up a packet; says whether all is well now.
    fn heard(&self, line: &mut Line, packet: Packet) -> Result<bool, Lost> {
        if let Packet::ConnAck(ack) = packet {
            let most = ack.properties.and_then(|properties| properties.max_packet_size);
            line.packet_bytes_max = most.map_or(usize::MAX, |most| most as usize);
            self.subscribe(&line.client)?;
        } else if let Packet::Publish(publish) = packet {
            self.take(&line.client, publish)?;
        } else if let Packet::SubAck(ack) = packet {
            self.subscribed(&ack)?;
            self.up.send_replace(Some(line.clone()));
            return Ok(true);
        } else if let Packet::PubAck(ack) = packet {
            self.acknowledged(&ack);
        }
        Ok(false)
    }

    fn subscribe(&self, client: &AsyncClient) -> Result<(), Lost> {
        let filter = |kind| Filter::new(self.prefix.filter(kind), QoS::AtLeastOnce);
        // The channel of a connection that has just begun has room.
        client.try_subscribe_many(Kind::ALL.map(filter)).map_err(|_| Lost::Flooded)
    }

    fn subscribed(&self, ack: &SubAck) -> Result<(), Lost> {
        let codes = Kind::ALL.into_iter().zip(&ack.return_codes);
        for (kind, code) in codes {
            if !matches!(code, SubscribeReasonCode::Success(_)) {
                return Err(Lost::Subscription(self.prefix.filter(kind)));
            }
        }
        tracing::info!("listening");
        self.vitals.health.ok("broker");
        Ok(())
    }

    fn acknowledged(&self, ack: &PubAck) {
        // Nobody there to take it is no failure: the device has gone, and asks when it comes back.
        if matches!(ack.reason, PubAckReason::Success | PubAckReason::NoMatchingSubscribers) {
            return;
        }
        tracing::warn!(reason = ?ack.reason, "the broker did not pass on what was published");
        if ack.reason == PubAckReason::NotAuthorized {
            let why =
                "the broker does not let the controller publish: allow it receipts and bindings";
            self.vitals.health.degraded("broker", why);
        }
    }

    fn take(&self, client: &AsyncClient, publish: Publish) -> Result<(), Lost> {
        // While stopping, nothing is taken: unacknowledged, it comes again.
        let Some(jobs) = &self.jobs else { return Ok(()) };
        let topic = String::from_utf8_lossy(&publish.topic).into_owned();
        let message = Message { topic, payload: publish.payload.to_vec() };
        let certain = publish.qos != QoS::AtMostOnce;
        let ticket = Ticket { client: client.clone(), publish };
        match jobs.try_send(Job { message, ticket }) {
            Err(TrySendError::Full(_)) if certain => Err(Lost::Flooded),
            // Nobody promised to deliver the rest; the device will repeat it.
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// Publishes what is answered, then acknowledges what was asked. Ends with the worker; `_answered`
/// is closed with it.
pub async fn answer(
    mut done: mpsc::Receiver<Done<Ticket>>,
    again: Arc<Notify>,
    _answered: watch::Sender<()>,
) {
    while let Some(Done { handled, ticket }) = done.recv().await {
        let Some(handled) = handled else {
            again.notify_one();
            continue;
        };
        let Ticket { client, publish } = ticket;
        let said = async {
            for Message { topic, payload } in handled.replies {
                client.publish(topic, QoS::AtLeastOnce, false, payload).await?;
            }
            client.ack(&publish).await
        };
        // An error is a connection that is gone, and so is one that takes nothing for so long: the
        // broker repeats the question.
        drop(tokio::time::timeout(limits::DRAIN, said).await);
    }
}
