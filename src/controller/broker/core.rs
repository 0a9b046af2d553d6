//! The broker's state and rules: events in, actions out.
//!
//! ```text
//!   Connected, Received, Ended, tick --> Core --> Send, Close
//! ```
//!
//! Pure: no socket, no clock, no await. One task owns it. Here are connections and sessions:
//!
//! ```text
//!              connect                lost, or DISCONNECT
//!   (nothing) ---------> Online ----------------------------> Offline --expired--> (nothing)
//!                         ^  ^ |                                 |
//!                         |  +-+ takeover                        |
//!                         +--------------------------------------+ connect
//! ```
//!
//! What arrives over them is in `packets`. Never speaks to a connection that was not admitted.

mod packets;
#[cfg(test)]
mod tests;

use crate::base::time::Instant;
use std::collections::BTreeMap;
use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, ConnAckProperties, Connect, ConnectReturnCode, DisconnectReasonCode, LastWill, Packet,
    Publish, PublishProperties,
};

use super::session::{Message, Online, Session, State};
use super::topics::{ClientId, Subscriptions, valid_topic};
use super::{ConnectionId, Counts, Limits, Rights, wire};

#[derive(Debug)]
pub(super) enum Event {
    Connected(Hello),
    Received(Packet),
    Ended(Ending),
}

/// A CONNECT whose sender was admitted.
#[derive(Debug)]
pub(super) struct Hello {
    pub(super) connect: Connect,
    pub(super) will: Option<LastWill>,
    pub(super) rights: Rights,
}

#[derive(Debug)]
pub(super) enum Ending {
    Lost,
    /// DISCONNECT: whether the will is wanted all the same, and a new session expiry.
    Clean {
        will: bool,
        expiry_seconds: Option<u32>,
    },
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all are the large one")]
pub(super) enum Action {
    Send(ConnectionId, Packet),
    Close(ConnectionId),
}

pub(super) struct Core {
    limits: Limits,
    sessions: BTreeMap<ClientId, Session>,
    online: BTreeMap<ConnectionId, ClientId>,
    subscriptions: Subscriptions,
    retained: BTreeMap<String, Message>,
    retained_bytes: usize,
    counts: Counts,
    actions: Vec<Action>,
}

impl Core {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            sessions: BTreeMap::new(),
            online: BTreeMap::new(),
            subscriptions: Subscriptions::default(),
            retained: BTreeMap::new(),
            retained_bytes: 0,
            counts: Counts::default(),
            actions: Vec::new(),
        }
    }

    pub(super) fn handle(&mut self, from: ConnectionId, event: Event, now: Instant) -> Vec<Action> {
        match event {
            Event::Connected(hello) => {
                if let Err(code) = self.connect(from, hello, now) {
                    self.send(from, wire::refusal(code));
                    self.actions.push(Action::Close(from));
                }
            }
            Event::Received(packet) => self.receive(from, packet, now),
            Event::Ended(ending) => self.end(from, ending, now),
        }
        std::mem::take(&mut self.actions)
    }

    /// What time alone does. A second of delay does no harm, so no deadlines are kept.
    pub(super) fn tick(&mut self, now: Instant) -> Vec<Action> {
        let mut wills = Vec::new();
        let mut ended = Vec::new();
        for (client, session) in &mut self.sessions {
            let State::Offline { expires, will } = &mut session.state else {
                continue;
            };
            let over = *expires <= now;
            if let Some((_, due)) = will.take_if(|(at, _)| over || *at <= now) {
                wills.push((client.clone(), due));
            }
            if over {
                ended.push(client.clone());
            }
        }
        for client in ended {
            self.forget(&client);
        }
        for (client, will) in wills {
            self.publish_will(&client, will, now);
        }
        self.retained.retain(|_, message| {
            let keep = !message.is_expired(now);
            self.retained_bytes -= if keep { 0 } else { message.bytes() };
            keep
        });
        std::mem::take(&mut self.actions)
    }

    pub(super) fn counts(&self) -> Counts {
        Counts {
            clients: self.online.len(),
            sessions: self.sessions.len(),
            retained: self.retained.len(),
            ..self.counts
        }
    }

    // ---- connections ----

    fn connect(
        &mut self,
        connection: ConnectionId,
        hello: Hello,
        now: Instant,
    ) -> Result<(), ConnectReturnCode> {
        let Hello { connect, will, rights } = hello;
        if connect.client_id.is_empty() {
            return Err(ConnectReturnCode::ClientIdentifierNotValid);
        }
        if let Some(will) = &will {
            check_will(will, &rights)?;
        }
        let client = ClientId::from(connect.client_id.as_str());
        let known = self.sessions.contains_key(&client);
        if !known && self.sessions.len() >= self.limits.sessions_max {
            return Err(ConnectReturnCode::QuotaExceeded);
        }
        self.leave_predecessor(&client, connect.clean_start, now);
        if connect.clean_start {
            self.forget(&client);
        }
        let properties = connect.properties.as_ref();
        let wanted = properties.and_then(|wanted| wanted.session_expiry_interval).unwrap_or(0);
        let receive_max = properties.and_then(|wanted| wanted.receive_maximum).unwrap_or(u16::MAX);
        let bytes_max = properties.and_then(|wanted| wanted.max_packet_size).unwrap_or(u32::MAX);
        let state = State::Online(Online {
            connection,
            rights,
            will,
            expiry: self.limits.session_expiry_max.min(Duration::from_secs(wanted.into())),
            in_flight_max: self.limits.in_flight_max.min(receive_max).into(),
            packet_bytes_max: bytes_max as usize,
        });
        self.online.insert(connection, client.clone());
        self.welcome(connection, &client, state, wanted);
        self.pump(&client, now);
        Ok(())
    }

    /// Puts the session in place, tells its client so, and repeats what was in flight.
    fn welcome(&mut self, connection: ConnectionId, client: &ClientId, state: State, wanted: u32) {
        let session_present = self.sessions.contains_key(client);
        let granted = wanted.min(self.limits.session_expiry_max.as_secs() as u32);
        let properties = ConnAckProperties {
            session_expiry_interval: (granted != wanted).then_some(granted),
            receive_max: Some(self.limits.receive_max),
            max_packet_size: Some(self.limits.packet_bytes_max),
            ..wire::abilities()
        };
        let code = ConnectReturnCode::Success;
        let ack = ConnAck { session_present, code, properties: Some(properties) };
        self.send(connection, Packet::ConnAck(ack));
        if let Some(session) = self.sessions.get_mut(client) {
            session.state = state;
            let again =
                session.again().map(|publish| Action::Send(connection, Packet::Publish(publish)));
            self.actions.extend(again);
        } else {
            self.sessions.insert(client.clone(), Session::new(state));
        }
    }

    /// Ends the connection that has the session, and settles the will of the one before.
    fn leave_predecessor(&mut self, client: &ClientId, clean_start: bool, now: Instant) {
        let Some(session) = self.sessions.get_mut(client) else {
            return;
        };
        let due = match &mut session.state {
            State::Online(online) => {
                let taken = wire::disconnect(DisconnectReasonCode::SessionTakenOver);
                self.online.remove(&online.connection);
                self.actions.push(Action::Send(online.connection, taken));
                self.actions.push(Action::Close(online.connection));
                online.will.take().filter(|will| clean_start || delay(will).is_zero())
            }
            State::Offline { will, .. } => {
                will.take().map(|(_, will)| will).filter(|_| clean_start)
            }
        };
        if let Some(will) = due {
            self.publish_will(client, will, now);
        }
    }

    fn end(&mut self, connection: ConnectionId, ending: Ending, now: Instant) {
        let Some(client) = self.online.remove(&connection) else {
            return;
        };
        let Some(session) = self.sessions.get_mut(&client) else {
            return;
        };
        let State::Online(online) = &mut session.state else {
            return;
        };
        let mut expiry = online.expiry;
        let mut will = online.will.take();
        if let Ending::Clean { will: wanted, expiry_seconds } = ending {
            will = will.filter(|_| wanted);
            // A session that was to end with its connection cannot be prolonged by then.
            let asked = expiry_seconds.filter(|_| !expiry.is_zero());
            let asked = asked.map(|seconds| Duration::from_secs(seconds.into()));
            expiry = asked.unwrap_or(expiry).min(self.limits.session_expiry_max);
        }
        let due_now = will.take_if(|will| expiry.is_zero() || delay(will).is_zero());
        let will = will.map(|will| (now + delay(&will), will));
        session.state = State::Offline { expires: now + expiry, will };
        if expiry.is_zero() {
            self.forget(&client);
        }
        if let Some(will) = due_now {
            self.publish_will(&client, will, now);
        }
    }

    fn forget(&mut self, client: &ClientId) {
        let Some(session) = self.sessions.remove(client) else {
            return;
        };
        for filter in &session.filters {
            self.subscriptions.remove(filter, client);
        }
    }

    fn publish_will(&mut self, client: &ClientId, will: LastWill, now: Instant) {
        let properties = will.properties.map(|properties| PublishProperties {
            payload_format_indicator: properties.payload_format_indicator,
            message_expiry_interval: properties.message_expiry_interval,
            topic_alias: None,
            response_topic: properties.response_topic,
            correlation_data: properties.correlation_data,
            user_properties: properties.user_properties,
            subscription_identifiers: Vec::new(),
            content_type: properties.content_type,
        });
        let (qos, retain, topic) = (will.qos, will.retain, will.topic);
        let publish =
            Publish { dup: false, qos, retain, topic, pkid: 0, payload: will.message, properties };
        self.route(client, publish, now);
    }

    fn send(&mut self, connection: ConnectionId, packet: Packet) {
        self.actions.push(Action::Send(connection, packet));
    }
}

fn check_will(will: &LastWill, rights: &Rights) -> Result<(), ConnectReturnCode> {
    let topic = std::str::from_utf8(&will.topic).ok().filter(|topic| valid_topic(topic));
    let topic = topic.ok_or(ConnectReturnCode::TopicNameInvalid)?;
    if !rights.may_publish(topic) {
        return Err(ConnectReturnCode::NotAuthorized);
    }
    match will.qos {
        QoS::AtMostOnce | QoS::AtLeastOnce => Ok(()),
        QoS::ExactlyOnce => Err(ConnectReturnCode::QoSNotSupported),
    }
}

fn delay(will: &LastWill) -> Duration {
    let properties = will.properties.as_ref();
    let seconds = properties.and_then(|properties| properties.delay_interval).unwrap_or(0);
    Duration::from_secs(seconds.into())
}
