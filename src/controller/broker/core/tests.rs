//! The core alone, driven by events and a time that is told.

use rumqttc::v5::mqttbytes::v5::{ConnectProperties, LastWillProperties};

use super::*;
use rumqttc::v5::mqttbytes::v5::{Filter, PubAck, PubAckReason, Subscribe, SubscribeReasonCode};

/// A core with a clock that the test moves, and what was sent to whom.
struct World {
    core: Core,
    now: Instant,
    sent: Vec<(ConnectionId, Packet)>,
    closed: Vec<ConnectionId>,
}

impl World {
    fn new(limits: Limits) -> Self {
        let core = Core::new(limits);
        Self { core, now: Instant::default(), sent: Vec::new(), closed: Vec::new() }
    }

    fn event(&mut self, from: ConnectionId, event: Event) {
        let actions = self.core.handle(from, event, self.now);
        self.note(actions);
    }

    fn pass(&mut self, seconds: u64) {
        self.now = self.now + Duration::from_secs(seconds);
        let actions = self.core.tick(self.now);
        self.note(actions);
    }

    fn note(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Send(to, packet) => self.sent.push((to, packet)),
                Action::Close(connection) => self.closed.push(connection),
            }
        }
    }

    fn connect(&mut self, from: ConnectionId, client: &str, expiry: u32, will: Option<LastWill>) {
        let mut properties = ConnectProperties::new();
        properties.session_expiry_interval = Some(expiry);
        properties.receive_maximum = Some(2);
        let connect = Connect {
            keep_alive: 60,
            client_id: client.into(),
            clean_start: false,
            properties: Some(properties),
        };
        let rights = Rights::new(["#"], ["#"]);
        self.event(from, Event::Connected(Hello { connect, will, rights }));
    }

    fn subscribe(&mut self, from: ConnectionId, filter: &str) {
        let filters = vec![Filter::new(filter, QoS::AtLeastOnce)];
        let subscribe = Subscribe { pkid: 1, filters, properties: None };
        self.event(from, Event::Received(Packet::Subscribe(subscribe)));
    }

    fn publish(&mut self, from: ConnectionId, topic: &str, payload: &str) -> PubAckReason {
        self.publish_with(from, Publish::new(topic, QoS::AtLeastOnce, payload.to_string(), None))
    }

    fn publish_with(&mut self, from: ConnectionId, mut publish: Publish) -> PubAckReason {
        publish.pkid = 7;
        self.event(from, Event::Received(Packet::Publish(publish)));
        let is_ack =
            |(to, packet): &(_, Packet)| *to == from && matches!(packet, Packet::PubAck(_));
        let at = self.sent.iter().position(is_ack).unwrap();
        let (_, Packet::PubAck(ack)) = self.sent.remove(at) else { unreachable!() };
        ack.reason
    }

    fn ack(&mut self, from: ConnectionId, id: u16) {
        self.event(from, Event::Received(Packet::PubAck(PubAck::new(id, None))));
    }

    fn messages(&mut self, to: ConnectionId) -> Vec<(u16, bool, String)> {
        let sent = std::mem::take(&mut self.sent);
        let messages = sent.into_iter().filter_map(|(receiver, packet)| {
            let Packet::Publish(message) = packet else {
                return None;
            };
            let text = String::from_utf8(message.payload.to_vec()).unwrap();
            (receiver == to).then_some((message.pkid, message.dup, text))
        });
        messages.collect()
    }

    fn will(delay: u32) -> Option<LastWill> {
        let properties = LastWillProperties {
            delay_interval: Some(delay),
            payload_format_indicator: None,
            message_expiry_interval: None,
            content_type: None,
            response_topic: None,
            correlation_data: None,
            user_properties: Vec::new(),
        };
        Some(LastWill::new("status", "down", QoS::AtLeastOnce, false, Some(properties)))
    }
}

fn message(id: u16, text: &str) -> (u16, bool, String) {
    (id, false, text.into())
}

#[test]
fn the_window_opens_with_each_acknowledgement() {
    let mut world = World::new(Limits::DEFAULT);
    world.connect(1, "reader", 60, None);
    world.subscribe(1, "a/+");
    world.connect(2, "writer", 0, None);
    for text in ["one", "two", "three"] {
        assert_eq!(world.publish(2, "a/b", text), PubAckReason::Success);
    }
    assert_eq!(world.messages(1), [message(1, "one"), message(2, "two")]);
    world.ack(1, 9);
    assert_eq!(world.messages(1), []);
    world.ack(1, 2);
    assert_eq!(world.messages(1), [message(3, "three")]);
    world.event(1, Event::Ended(Ending::Lost));
    world.connect(3, "reader", 60, None);
    let again = |id, text: &str| (id, true, text.into());
    assert_eq!(world.messages(3), [again(1, "one"), again(3, "three")]);
}

#[test]
fn what_nobody_holds_is_not_a_success() {
    let message_bytes = 300;
    let limits = Limits { session_bytes_max: 2 * message_bytes, ..Limits::DEFAULT };
    let mut world = World::new(limits);
    world.connect(1, "writer", 0, None);
    assert_eq!(world.publish(1, "a/b", "x"), PubAckReason::NoMatchingSubscribers);
    world.connect(2, "reader", 60, None);
    world.subscribe(2, "a/b");
    world.event(2, Event::Ended(Ending::Lost));
    assert_eq!(world.publish(1, "a/b", "x"), PubAckReason::Success);
    assert_eq!(world.publish(1, "a/b", "x"), PubAckReason::Success);
    assert_eq!(world.publish(1, "a/b", "x"), PubAckReason::QuotaExceeded);
    assert_eq!(world.core.counts().refused, 1);
    // Another session with room makes it a success.
    world.connect(3, "other", 60, None);
    world.subscribe(3, "a/#");
    assert_eq!(world.publish(1, "a/b", "x"), PubAckReason::Success);
    // And so does room made by reading.
    world.event(3, Event::Ended(Ending::Clean { will: false, expiry_seconds: Some(0) }));
    world.connect(4, "reader", 60, None);
    world.ack(4, 1);
    assert_eq!(world.publish(1, "a/b", "x"), PubAckReason::Success);
}

#[test]
fn a_session_ends_when_its_time_is_over() {
    let mut world = World::new(Limits::DEFAULT);
    world.connect(1, "reader", 60, None);
    world.subscribe(1, "a");
    world.event(1, Event::Ended(Ending::Lost));
    world.pass(59);
    assert_eq!(world.core.counts().sessions, 1);
    world.pass(1);
    assert_eq!(world.core.counts().sessions, 0);
    world.connect(2, "writer", 0, None);
    assert_eq!(world.publish(2, "a", "x"), PubAckReason::NoMatchingSubscribers);
}

#[test]
fn a_delayed_will_comes_unless_its_client_comes_back_first() {
    for back in [true, false] {
        let mut world = World::new(Limits::DEFAULT);
        world.connect(1, "watcher", 0, None);
        world.subscribe(1, "status");
        world.connect(2, "device", 60, World::will(10));
        world.event(2, Event::Ended(Ending::Lost));
        world.pass(9);
        assert_eq!(world.messages(1), []);
        if back {
            world.connect(3, "device", 60, None);
        }
        world.pass(1);
        let expected = if back { vec![] } else { vec![message(1, "down")] };
        assert_eq!(world.messages(1), expected);
    }
}

#[test]
fn a_will_does_not_outlast_its_session() {
    let mut world = World::new(Limits::DEFAULT);
    world.connect(1, "watcher", 0, None);
    world.subscribe(1, "status");
    world.connect(2, "device", 5, World::will(10));
    world.event(2, Event::Ended(Ending::Lost));
    world.pass(5);
    assert_eq!(world.messages(1), [message(1, "down")]);
}

#[test]
fn a_message_expires_while_it_waits() {
    let mut world = World::new(Limits::DEFAULT);
    world.connect(1, "reader", 60, None);
    world.subscribe(1, "a");
    world.event(1, Event::Ended(Ending::Lost));
    world.connect(2, "writer", 0, None);
    for (seconds, text) in [(5, "stale"), (30, "fresh")] {
        let properties =
            PublishProperties { message_expiry_interval: Some(seconds), ..Default::default() };
        let publish = Publish::new("a", QoS::AtLeastOnce, text, Some(properties));
        assert_eq!(world.publish_with(2, publish), PubAckReason::Success);
    }
    world.pass(10);
    world.connect(3, "reader", 60, None);
    let (_, packet) = world.sent.last().unwrap();
    let Packet::Publish(publish) = packet else { panic!("{packet:?}") };
    assert_eq!(publish.properties.as_ref().unwrap().message_expiry_interval, Some(20));
    assert_eq!(world.messages(3), [message(2, "fresh")]);
}

#[test]
fn what_is_not_offered_is_refused_in_words() {
    let mut world = World::new(Limits { sessions_max: 1, ..Limits::DEFAULT });
    world.connect(1, "reader", 60, None);
    for (filter, code) in [
        ("$share/g/a", SubscribeReasonCode::SharedSubscriptionsNotSupported),
        ("a/#/b", SubscribeReasonCode::TopicFilterInvalid),
        ("a", SubscribeReasonCode::Success(QoS::AtLeastOnce)),
    ] {
        world.subscribe(1, filter);
        let (_, packet) = world.sent.last().unwrap();
        assert!(matches!(packet, Packet::SubAck(ack) if ack.return_codes == [code]), "{packet:?}");
    }
    world.connect(2, "second", 60, None);
    let (_, packet) = world.sent.last().unwrap();
    let refused = ConnectReturnCode::QuotaExceeded;
    assert!(matches!(packet, Packet::ConnAck(ack) if ack.code == refused), "{packet:?}");
    assert_eq!(world.closed, [2]);
    let mut publish = Publish::new("a", QoS::ExactlyOnce, "x", None);
    publish.pkid = 1;
    world.event(1, Event::Received(Packet::Publish(publish)));
    assert_eq!(world.closed, [2, 1]);
}

/// Whatever happens to the connections: what was acknowledged as a success reaches the reader,
/// nothing exceeds its bounds, and the books agree with each other.
#[test]
fn a_success_is_never_lost() {
    for seed in 0..300 {
        simulate(seed);
    }
}

fn simulate(seed: u64) {
    let limits = Limits { session_messages_max: 8, retained_messages_max: 2, ..Limits::DEFAULT };
    let mut world = World::new(limits);
    let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut pick = |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    let (mut promised, mut seen) = (Vec::new(), Vec::new());
    let (mut connection, mut online) = (10, true);
    world.connect(1, "writer", 0, None);
    world.connect(connection, "reader", 1000, None);
    world.subscribe(connection, "a/+");
    for step in 0..200 {
        match pick(10) {
            0..4 => {
                let text = step.to_string();
                let mut publish = Publish::new("a/b", QoS::AtLeastOnce, text.clone(), None);
                publish.retain = pick(4) == 0;
                let reason = world.publish_with(1, publish);
                if reason == PubAckReason::Success {
                    promised.push(text);
                } else {
                    assert_eq!(reason, PubAckReason::QuotaExceeded, "seed {seed}");
                }
            }
            4 if online => {
                world.event(connection, Event::Ended(Ending::Lost));
                online = false;
            }
            5 => {
                // While the last one is still there, a takeover.
                connection += 1;
                world.connect(connection, "reader", 1000, None);
                online = true;
            }
            6 => world.pass(1),
            _ => {
                for (id, _, text) in world.messages(connection) {
                    seen.push(text);
                    if pick(3) > 0 {
                        world.ack(connection, id);
                    }
                }
            }
        }
        agree(&world.core, seed);
    }
    world.connect(99, "reader", 1000, None);
    loop {
        let messages = world.messages(99);
        if messages.is_empty() {
            break;
        }
        for (id, _, text) in messages {
            seen.push(text);
            world.ack(99, id);
        }
    }
    let lost: Vec<_> = promised.iter().filter(|text| !seen.contains(text)).collect();
    assert!(lost.is_empty(), "seed {seed}: lost {lost:?}");
}

fn agree(core: &Core, seed: u64) {
    for (connection, client) in &core.online {
        let State::Online(online) = &core.sessions[client].state else {
            panic!("seed {seed}: {client} is offline")
        };
        assert_eq!(online.connection, *connection, "seed {seed}");
    }
    let retained: usize = core.retained.values().map(Message::bytes).sum();
    assert_eq!(core.retained_bytes, retained, "seed {seed}");
    assert!(core.sessions.values().all(Session::is_consistent), "seed {seed}");
}
