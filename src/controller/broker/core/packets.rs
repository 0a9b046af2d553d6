//! What clients send once they are connected: messages, acknowledgements, subscriptions.
//!
//! Never acknowledges a message as a success that is held nowhere.

use crate::base::time::Instant;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    DisconnectReasonCode, Filter, Packet, PubAck, PubAckReason, Publish, RetainForwardRule, SubAck,
    Subscribe, SubscribeReasonCode, UnsubAck, UnsubAckReason, Unsubscribe,
};

use super::super::session::{Message, State};
use super::super::topics::{ClientId, Wish, covers, valid_filter, valid_topic};
use super::super::{ConnectionId, Rights, wire};
use super::{Action, Core, Ending};

/// What became of a message for one client.
enum Handed {
    /// Its session holds it, or, at QoS 0, it is on its way.
    Over,
    NoRoom,
    /// At QoS 0: nobody there to take it.
    Absent,
}

impl Core {
    pub(super) fn receive(&mut self, connection: ConnectionId, packet: Packet, now: Instant) {
        // What a client sent before it was told to go is of no interest.
        let Some(client) = self.online.get(&connection).cloned() else {
            return;
        };
        let refused = match packet {
            Packet::Publish(publish) => self.publish(connection, &client, publish, now).err(),
            Packet::PubAck(ack) => {
                if let Some(session) = self.sessions.get_mut(&client) {
                    session.acked(ack.pkid);
                }
                self.pump(&client, now);
                None
            }
            Packet::Subscribe(subscribe) => {
                self.subscribe(connection, &client, subscribe, now);
                None
            }
            Packet::Unsubscribe(unsubscribe) => {
                self.unsubscribe(connection, &client, unsubscribe);
                None
            }
            // The connection answers PINGREQ and DISCONNECT itself.
            Packet::PingReq(_) | Packet::Disconnect(_) => None,
            Packet::Connect(..)
            | Packet::ConnAck(_)
            | Packet::PubRec(_)
            | Packet::PubRel(_)
            | Packet::PubComp(_)
            | Packet::SubAck(_)
            | Packet::UnsubAck(_)
            | Packet::PingResp(_)
            | Packet::Auth(_) => Some(DisconnectReasonCode::ProtocolError),
        };
        if let Some(reason) = refused {
            self.send(connection, wire::disconnect(reason));
            self.actions.push(Action::Close(connection));
            self.end(connection, Ending::Lost, now);
        }
    }

    fn publish(
        &mut self,
        connection: ConnectionId,
        client: &ClientId,
        publish: Publish,
        now: Instant,
    ) -> Result<(), DisconnectReasonCode> {
        let (id, qos) = (publish.pkid, publish.qos);
        if qos == QoS::ExactlyOnce {
            return Err(DisconnectReasonCode::QoSNotSupported);
        }
        let properties = publish.properties.as_ref();
        if publish.topic.is_empty() || properties.is_some_and(|given| given.topic_alias.is_some()) {
            return Err(DisconnectReasonCode::TopicAliasInvalid);
        }
        let topic = std::str::from_utf8(&publish.topic).ok();
        let topic = topic.filter(|topic| valid_topic(topic));
        let topic = topic.ok_or(DisconnectReasonCode::TopicNameInvalid)?;
        let reason = match self.rights(client) {
            Some(rights) if rights.may_publish(topic) => self.route(client, publish, now),
            Some(_) | None => PubAckReason::NotAuthorized,
        };
        if qos == QoS::AtLeastOnce {
            self.send(connection, Packet::PubAck(PubAck { pkid: id, reason, properties: None }));
        }
        Ok(())
    }

    /// Hands a message to all who subscribed to it, and says how that went: a message that some
    /// session holds is a success, whoever else had no room for it.
    pub(super) fn route(
        &mut self,
        from: &ClientId,
        mut publish: Publish,
        now: Instant,
    ) -> PubAckReason {
        let topic = String::from_utf8_lossy(&publish.topic).into_owned();
        (publish.dup, publish.pkid) = (false, 0);
        if publish.retain && !self.retain(&topic, &publish, now) {
            self.counts.refused += 1;
            return PubAckReason::QuotaExceeded;
        }
        let (mut held, mut refused) = (false, 0);
        for (client, wish) in self.subscriptions.matching(&topic) {
            if wish.not_from_self && client == *from {
                continue;
            }
            let qos = if publish.qos == QoS::AtMostOnce { publish.qos } else { wish.qos };
            let retain = publish.retain && wish.keep_retain;
            match self.hand_over(&client, Publish { qos, retain, ..publish.clone() }, now) {
                Handed::Over => held = true,
                Handed::NoRoom => refused += 1,
                Handed::Absent => {}
            }
        }
        self.counts.refused += refused;
        // Being retained makes up for no subscriber, but not for one without room: the next
        // message on the topic would replace what that one never saw.
        match (held, refused) {
            (true, _) => PubAckReason::Success,
            (false, 0) if publish.retain => PubAckReason::Success,
            (false, 0) => PubAckReason::NoMatchingSubscribers,
            (false, _) => PubAckReason::QuotaExceeded,
        }
    }

    fn hand_over(&mut self, client: &ClientId, publish: Publish, now: Instant) -> Handed {
        let Some(session) = self.sessions.get_mut(client) else {
            return Handed::Absent;
        };
        if publish.qos != QoS::AtMostOnce {
            let held = session.offer(Message::new(publish, now), &self.limits);
            self.pump(client, now);
            return if held { Handed::Over } else { Handed::NoRoom };
        }
        match &session.state {
            State::Online(online) if publish.size() <= online.packet_bytes_max => {
                self.actions.push(Action::Send(online.connection, Packet::Publish(publish)));
                Handed::Over
            }
            State::Online(_) | State::Offline { .. } => Handed::Absent,
        }
    }

    /// Whether there was room for it.
    fn retain(&mut self, topic: &str, publish: &Publish, now: Instant) -> bool {
        let message = Message::new(publish.clone(), now);
        let before = self.retained.get(topic).map_or(0, Message::bytes);
        if publish.payload.is_empty() {
            self.retained.remove(topic);
            self.retained_bytes -= before;
            return true;
        }
        let bytes = self.retained_bytes - before + message.bytes();
        let full = before == 0 && self.retained.len() >= self.limits.retained_messages_max;
        if full || bytes > self.limits.retained_bytes_max {
            return false;
        }
        self.retained_bytes = bytes;
        self.retained.insert(topic.to_string(), message);
        true
    }

    fn subscribe(
        &mut self,
        connection: ConnectionId,
        client: &ClientId,
        subscribe: Subscribe,
        now: Instant,
    ) {
        let numbered = subscribe.properties.is_some_and(|properties| properties.id.is_some());
        let mut codes = Vec::with_capacity(subscribe.filters.len());
        let mut replays = Vec::new();
        for filter in subscribe.filters {
            let code = match self.refuse(client, &filter.path, numbered) {
                Some(refusal) => refusal,
                None => {
                    let qos =
                        if filter.qos == QoS::AtMostOnce { filter.qos } else { QoS::AtLeastOnce };
                    let new = self.add(client, &filter, qos);
                    let rule = &filter.retain_forward_rule;
                    if match rule {
                        RetainForwardRule::OnEverySubscribe => true,
                        RetainForwardRule::OnNewSubscribe => new,
                        RetainForwardRule::Never => false,
                    } {
                        replays.push((filter.path, qos));
                    }
                    SubscribeReasonCode::Success(qos)
                }
            };
            codes.push(code);
        }
        let ack = SubAck { pkid: subscribe.pkid, return_codes: codes, properties: None };
        self.send(connection, Packet::SubAck(ack));
        for (filter, qos) in replays {
            self.replay(client, &filter, qos, now);
        }
    }

    fn refuse(
        &self,
        client: &ClientId,
        filter: &str,
        numbered: bool,
    ) -> Option<SubscribeReasonCode> {
        let Some(session) = self.sessions.get(client) else {
            return Some(SubscribeReasonCode::Unspecified);
        };
        let full = session.filters.len() >= self.limits.subscriptions_max;
        if numbered {
            Some(SubscribeReasonCode::SubscriptionIdNotSupported)
        } else if filter.starts_with("$share/") {
            Some(SubscribeReasonCode::SharedSubscriptionsNotSupported)
        } else if !valid_filter(filter) {
            Some(SubscribeReasonCode::TopicFilterInvalid)
        } else if !self.rights(client).is_some_and(|rights| rights.may_subscribe(filter)) {
            Some(SubscribeReasonCode::NotAuthorized)
        } else if full && !session.filters.contains(filter) {
            Some(SubscribeReasonCode::QuotaExceeded)
        } else {
            None
        }
    }

    fn add(&mut self, client: &ClientId, filter: &Filter, qos: QoS) -> bool {
        let (not_from_self, keep_retain) = (filter.nolocal, filter.preserve_retain);
        if let Some(session) = self.sessions.get_mut(client) {
            session.filters.insert(filter.path.clone());
        }
        let wish = Wish { qos, not_from_self, keep_retain };
        self.subscriptions.insert(&filter.path, client.clone(), wish)
    }

    fn replay(&mut self, client: &ClientId, filter: &str, qos: QoS, now: Instant) {
        let matching = self.retained.iter().filter(|(topic, _)| covers(filter, topic));
        let found: Vec<_> = matching.filter_map(|(_, message)| message.outgoing(now)).collect();
        for publish in found {
            let qos = if publish.qos == QoS::AtMostOnce { publish.qos } else { qos };
            match self.hand_over(client, Publish { qos, ..publish }, now) {
                Handed::NoRoom => self.counts.refused += 1,
                Handed::Over | Handed::Absent => {}
            }
        }
    }

    fn unsubscribe(&mut self, connection: ConnectionId, client: &ClientId, packet: Unsubscribe) {
        let mut reasons = Vec::with_capacity(packet.filters.len());
        for filter in &packet.filters {
            if let Some(session) = self.sessions.get_mut(client) {
                session.filters.remove(filter);
            }
            reasons.push(match self.subscriptions.remove(filter, client) {
                true => UnsubAckReason::Success,
                false => UnsubAckReason::NoSubscriptionExisted,
            });
        }
        let ack = UnsubAck { pkid: packet.pkid, reasons, properties: None };
        self.send(connection, Packet::UnsubAck(ack));
    }

    fn rights(&self, client: &ClientId) -> Option<&Rights> {
        match &self.sessions.get(client)?.state {
            State::Online(online) => Some(&online.rights),
            State::Offline { .. } => None,
        }
    }

    /// Sends what waits, as far as the client's window is open.
    pub(super) fn pump(&mut self, client: &ClientId, now: Instant) {
        let Some(session) = self.sessions.get_mut(client) else {
            return;
        };
        while let Some(publish) = session.next(now) {
            let State::Online(online) = &session.state else {
                return;
            };
            self.actions.push(Action::Send(online.connection, Packet::Publish(publish)));
        }
    }
}
