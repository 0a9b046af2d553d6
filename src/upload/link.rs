//! One connection to the broker. This file and `trouble` are all that knows the MQTT library.
//!
//! The library is used under guards, for it was seen to lose accepted messages, to repeat a packet
//! that is too large for ever, and to stop publishing after an acknowledgement out of order:
//!
//! - a [`Link`] is thrown away on any error, with everything that it had accepted;
//! - its channel takes no more than [`limits::INFLIGHT`] messages;
//! - sizes are checked before a message is handed over, and limits are declared both ways;
//! - what it accepted is nobody's proof of anything: the session waits for receipts;
//! - its `poll` is never dropped midway, as a packet would be lost within, and never waited for
//!   longer than the broker's pings allow, as it does not notice a peer that stopped reading.

use super::session::Ticket;
use super::target::Target;
use super::trouble::{CONNECT, Trouble, explain, refused_publish, refused_subscription};
use crate::base::limits;
use crate::base::time::{Clock, Instant};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, ConnectProperties, Filter, LastWill, Packet, PubAck, Publish, SubAck,
};
use rumqttc::v5::{self, AsyncClient, ConnectionError, EventLoop, MqttOptions};
use rumqttc::{Outgoing, TlsConfiguration, Transport};
use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::time::Duration;
use tokio::time::timeout;

const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// How long the broker keeps receipts for a device that is away.
const SESSION_SECONDS: u32 = 24 * 60 * 60;

/// What surrounds the data of a message: the fields of a chunk, and the packet's own.
const FRAME_BYTES: usize = 160;

/// What a message was, for when it is acknowledged.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Token {
    Status,
    Parcel(Ticket),
}

/// What happened on the link.
#[derive(Debug)]
pub(super) enum Event {
    /// The broker has taken us, and takes messages with this much content.
    Up { content_max: usize },
    /// The broker has taken a message, or says why it did not pass it on.
    Acknowledged { token: Token, complaint: Option<Trouble> },
    /// Something came on the receipt topic.
    Receipt(Vec<u8>),
    /// Something came on the topic of bindings.
    Bindings(Vec<u8>),
    /// Nothing will ever come there.
    Unbound(Trouble),
}

pub(super) struct Link {
    client: AsyncClient,
    poll: Poll,
    broker: String,
    receipts: String,
    bindings: Option<String>,
    /// Accepted by the library, which has not yet given them a packet number.
    queued: VecDeque<Token>,
    numbered: BTreeMap<u16, Token>,
    content_max: usize,
    /// When something last happened, and how long it may take until something does.
    heard: Instant,
    patience: Duration,
}

type Polled = (EventLoop, Result<v5::Event, ConnectionError>);
type Poll = Pin<Box<dyn Future<Output = Polled> + Send>>;

// === impl Link ===

impl Link {
    /// Begins to connect. The will is published by the broker if we vanish.
    pub(super) fn open(target: &Target, will: Vec<u8>) -> Self {
        let (client, eventloop) =
            AsyncClient::new(options(target, will), usize::from(limits::INFLIGHT));
        Self {
            client,
            poll: Box::pin(poll(eventloop)),
            broker: target.name(),
            receipts: target.topics.receipt.clone(),
            bindings: target.topics.bindings.clone(),
            queued: VecDeque::new(),
            numbered: BTreeMap::new(),
            content_max: 0,
            heard: Clock::now(),
            patience: CONNECT + Duration::from_secs(5),
        }
    }

    /// The next event. May be dropped midway; nothing is lost.
    pub(super) async fn next(&mut self) -> Result<Event, Trouble> {
        loop {
            let quiet = Clock::now().since(self.heard);
            let left = self.patience.saturating_sub(quiet);
            let polled = timeout(left, &mut self.poll).await;
            let (eventloop, result) = polled.map_err(|_| Trouble::silent(&self.broker))?;
            self.poll = Box::pin(poll(eventloop));
            self.heard = Clock::now();
            let event = result.map_err(|error| explain(&error, &self.broker))?;
            if let Some(event) = self.understand(event)? {
                return Ok(event);
            }
        }
    }

    /// Whether the broker takes a message of this size.
    pub(super) fn takes(&self, size: usize) -> bool {
        size <= self.content_max + FRAME_BYTES / 2
    }

    /// Hands over a message, unless it is larger than the broker takes.
    pub(super) fn publish(
        &mut self,
        topic: &str,
        token: Token,
        payload: Vec<u8>,
    ) -> Result<(), Trouble> {
        if !self.takes(payload.len()) {
            return Err(Trouble::too_large(&self.broker, payload.len()));
        }
        let retain = token == Token::Status;
        let sent = self.client.try_publish(topic, QoS::AtLeastOnce, retain, payload);
        sent.map_err(|_| Trouble::stuck(&self.broker))?;
        self.queued.push_back(token);
        Ok(())
    }

    /// Publishes a last status and takes leave; the broker then keeps the will to itself.
    pub(super) async fn leave(mut self, topic: &str, status: Vec<u8>) {
        let said = self.publish(topic, Token::Status, status);
        if said.is_err() || self.client.try_disconnect().is_err() {
            return;
        }
        loop {
            let (eventloop, result) = self.poll.await;
            match result {
                Ok(v5::Event::Outgoing(Outgoing::Disconnect)) | Err(_) => return,
                Ok(_) => self.poll = Box::pin(poll(eventloop)),
            }
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the other packets are the library's own")]
    fn understand(&mut self, event: v5::Event) -> Result<Option<Event>, Trouble> {
        Ok(match event {
            v5::Event::Outgoing(Outgoing::Publish(number)) => {
                if let Some(token) = self.queued.pop_front() {
                    self.numbered.insert(number, token);
                }
                None
            }
            v5::Event::Incoming(Packet::ConnAck(ack)) => Some(self.up(&ack)?),
            v5::Event::Incoming(Packet::PubAck(ack)) => self.acknowledged(&ack),
            v5::Event::Incoming(Packet::SubAck(ack)) => self.subscribed(&ack)?,
            v5::Event::Incoming(Packet::Publish(publish)) => self.received(&publish),
            _ => None,
        })
    }

    fn up(&mut self, ack: &ConnAck) -> Result<Event, Trouble> {
        let properties = ack.properties.as_ref();
        let packet = properties.and_then(|p| p.max_packet_size).unwrap_or(u32::MAX);
        let packet = packet.min(limits::PACKET_BYTES) as usize;
        self.content_max = packet.saturating_sub(FRAME_BYTES + self.receipts.len());
        if self.content_max < limits::HEADLINE_BYTES {
            return Err(Trouble::narrow(&self.broker, packet));
        }
        let asked = properties.and_then(|p| p.server_keep_alive);
        let keep_alive = asked.map_or(KEEP_ALIVE, |s| Duration::from_secs(u64::from(s)));
        if keep_alive < Duration::from_secs(5) {
            // The library would ping without a pause.
            return Err(Trouble::hasty(&self.broker));
        }
        // A ping goes out every `keep_alive`: by the second one without an event nothing moves.
        self.patience = keep_alive.saturating_mul(2) + Duration::from_secs(15);
        let topics = std::iter::once(&self.receipts).chain(&self.bindings);
        let filters = topics.map(|topic| Filter::new(topic, QoS::AtLeastOnce));
        let subscribed = self.client.try_subscribe_many(filters);
        subscribed.map_err(|_| Trouble::stuck(&self.broker))?;
        Ok(Event::Up { content_max: self.content_max })
    }

    /// The codes come in the order of the filters. Without its receipts a device can do nothing, and
    /// without bindings all but one thing.
    pub(super) fn subscribed(&self, ack: &SubAck) -> Result<Option<Event>, Trouble> {
        let mut refused = ack.return_codes.iter().map(refused_subscription);
        if let Some(why) = refused.next().flatten() {
            return Err(Trouble::deaf(&self.broker, why));
        }
        let unbound = refused.next().flatten();
        Ok(unbound.map(|why| Event::Unbound(Trouble::unbound(&self.broker, why))))
    }

    fn received(&self, publish: &Publish) -> Option<Event> {
        let on = |topic: &String| publish.topic == topic.as_bytes();
        if on(&self.receipts) {
            Some(Event::Receipt(publish.payload.to_vec()))
        } else if self.bindings.as_ref().is_some_and(on) {
            Some(Event::Bindings(publish.payload.to_vec()))
        } else {
            None
        }
    }

    fn acknowledged(&mut self, ack: &PubAck) -> Option<Event> {
        let token = self.numbered.remove(&ack.pkid)?;
        let complaint = refused_publish(ack.reason).map(|why| Trouble::unheard(&self.broker, why));
        Some(Event::Acknowledged { token, complaint })
    }
}

async fn poll(mut eventloop: EventLoop) -> Polled {
    let event = eventloop.poll().await;
    (eventloop, event)
}

fn options(target: &Target, will: Vec<u8>) -> MqttOptions {
    // A broker that knows us by our certificate expects the same name here.
    let client = target.device.as_str();
    let mut options = MqttOptions::new(client, &target.broker.host, target.broker.port);
    let mut properties = ConnectProperties::new();
    properties.session_expiry_interval = Some(SESSION_SECONDS);
    properties.receive_maximum = Some(limits::INFLIGHT);
    properties.max_packet_size = Some(limits::PACKET_BYTES);
    options
        .set_connect_properties(properties)
        .set_clean_start(false)
        .set_keep_alive(KEEP_ALIVE)
        .set_connection_timeout(CONNECT.as_secs())
        .set_outgoing_inflight_upper_limit(limits::INFLIGHT)
        .set_last_will(LastWill::new(&target.topics.status, will, QoS::AtLeastOnce, true, None));
    if let Some(tls) = &target.tls {
        options.set_transport(Transport::Tls(TlsConfiguration::Rustls(tls.clone())));
    }
    options
}
