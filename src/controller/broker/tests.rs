//! What this project relies on in a broker, one test each.
//!
//! Every test has a broker of its own. By default that is ours; with `LIFESIGN_TEST_BROKER` set to
//! a program it is whatever `<program> <port> <directory>` starts, where the directory holds
//! `ca.pem`, `server.pem` and `server.key`; with `LIFESIGN_TEST_BROKER=host:port` it is one that
//! runs already, and `LIFESIGN_TEST_BROKER_CA` names a directory with its `ca.key`. The reference
//! is mosquitto: what it does not pass is not asked of ours.

#![expect(clippy::disallowed_methods, reason = "measures, and its tasks end with the runtime")]

mod bench;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::KeyPair;
use rumqttc::Transport;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    DisconnectReasonCode, Filter, LastWill, Packet, PubAckReason, Publish, Subscribe,
};
use rumqttc::v5::{ConnectionError, MqttOptions, StateError};
use rustls::ProtocolVersion;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use self::bench::{
    Authority, Bench, Link, PACKET_BYTES_MAX, PATIENCE, Pair, Server, closed, config, connect,
    encoded, number, run, run_own, runtime,
};
use super::{Broker, Peer, Rights};

// ---- 1 ----

#[test]
fn a_client_certificate_of_our_ca_is_asked_for_under_tls_1_3() {
    run(async |bench| {
        let (_link, ack) = bench.open("controller-1", "controller").await;
        assert!(!ack.session_present);
        let stream = bench.raw("controller").await;
        let version = stream.get_ref().1.protocol_version();
        assert_eq!(version, Some(ProtocolVersion::TLSv1_3));

        let none = bench.authority.client_config(None);
        let refused = Link::open(bench.options("controller-2", none)).await;
        assert!(refused.is_err(), "accepted without a certificate");

        let stranger = Authority::new(KeyPair::generate().unwrap()).identity("controller");
        let foreign = bench.authority.client_config(Some(stranger));
        let refused = Link::open(bench.options("controller-3", foreign)).await;
        assert!(refused.is_err(), "accepted with a foreign certificate");
    });
}

// ---- 2 ----

#[test]
fn a_lost_session_keeps_100_messages() {
    run(async |bench| {
        let (mut subscriber, _) = bench.open_session("controller-s").await;
        subscriber.subscribe("lifesign/dev-2/bundle").await;
        subscriber.cut().await;

        let (mut publisher, _) = bench.open("dev-2", "dev-2").await;
        publisher.publish("lifesign/dev-2/bundle", 0..100).await;

        let (mut subscriber, ack) = bench.open_session("controller-s").await;
        assert!(ack.session_present);
        assert_eq!(subscriber.numbers(100).await.len(), 100);
    });
}

// ---- 3 ----

#[test]
fn what_was_in_flight_is_redelivered() {
    run(async |bench| {
        let mut options = bench.session_options("controller-s");
        options.set_manual_acks(true);
        let (mut subscriber, _) = Link::open(options).await.unwrap();
        subscriber.subscribe("lifesign/dev-3/bundle").await;
        let (mut publisher, _) = bench.open("dev-3", "dev-3").await;
        publisher.publish("lifesign/dev-3/bundle", 0..20).await;
        assert_eq!(subscriber.numbers(20).await.len(), 20);
        subscriber.cut().await;

        let (mut subscriber, ack) = bench.open_session("controller-s").await;
        assert!(ack.session_present);
        let first = subscriber.message().await;
        assert!(first.dup, "redelivered without the dup flag");
        let mut seen = subscriber.numbers(19).await;
        seen.insert(number(&first));
        assert_eq!(seen, (0..20).collect());
    });
}

// ---- 4 ----

#[test]
fn retained_messages_come_on_subscription_until_deleted() {
    run(async |bench| {
        for device in ["dev-4a", "dev-4b", "dev-4c"] {
            let (mut link, _) = bench.open(device, device).await;
            let topic = format!("lifesign/{device}/bundle");
            link.retain(&topic, device.as_bytes()).await;
            if device == "dev-4c" {
                link.retain(&topic, b"").await;
            }
        }
        let (mut subscriber, _) = bench.open("controller-r", "controller").await;
        subscriber.subscribe("lifesign/+/bundle").await;
        let mut seen = BTreeSet::new();
        for _ in 0..2 {
            let message = subscriber.message().await;
            assert!(message.retain);
            seen.insert(message.payload.to_vec());
        }
        assert_eq!(seen, [b"dev-4a".to_vec(), b"dev-4b".to_vec()].into());
        subscriber.silent().await;
    });
}

// ---- 5 ----

#[test]
fn the_last_will_comes_on_loss_only() {
    run(async |bench| {
        let (mut watcher, _) = bench.open("controller-w", "controller").await;
        watcher.subscribe("lifesign/+/status").await;
        for clean in [true, false] {
            let mut options = bench.options("dev-5", bench.config("dev-5"));
            let topic = "lifesign/dev-5/status";
            let will = LastWill::new(topic, "down", QoS::AtLeastOnce, true, None);
            options.set_last_will(will);
            let (mut link, _) = Link::open(options).await.unwrap();
            link.retain("lifesign/dev-5/status", b"up").await;
            assert_eq!(watcher.message().await.payload.as_ref(), b"up");
            if clean {
                link.client.disconnect().await.unwrap();
                watcher.silent().await;
            } else {
                link.cut().await;
                assert_eq!(watcher.message().await.payload.as_ref(), b"down");
            }
        }
        let (mut late, _) = bench.open("controller-l", "controller").await;
        late.subscribe("lifesign/+/status").await;
        assert_eq!(late.message().await.payload.as_ref(), b"down");
    });
}

// ---- 6 ----

#[test]
fn packets_of_256_kib_pass() {
    run(async |bench| {
        let (mut pair, payload) = (Pair::open(bench).await, vec![7; 256 * 1024]);
        pair.publisher.send("lifesign/dev-p/bundle", payload.clone()).await;
        assert_eq!(pair.publisher.acked().await, PubAckReason::Success);
        assert_eq!(pair.subscriber.message().await.payload, payload);
    });
}

#[test]
fn a_packet_above_the_limit_ends_its_sender_only() {
    run(async |bench| {
        let mut pair = Pair::open(bench).await;
        let mut stream = bench.raw_connected("controller-big").await;
        let topic = "lifesign/dev-6/bundle";
        let payload = vec![0; 2 * PACKET_BYTES_MAX];
        let mut publish = Publish::new(topic, QoS::AtLeastOnce, payload, None);
        publish.pkid = 1;
        let bytes = encoded(Packet::Publish(publish));
        let _ = stream.write_all(&bytes).await;
        closed(&mut stream).await;
        pair.works().await;
    });
}

#[test]
fn rubbish_ends_its_sender_only() {
    run(async |bench| {
        let mut pair = Pair::open(bench).await;
        // Long enough not to pass for the first half of something.
        for rubbish in [[0xff; 256], [b'G'; 256], [0x80; 256], [0x10; 256]] {
            let mut stream = bench.raw("controller").await;
            let _ = stream.write_all(&rubbish).await;
            closed(&mut stream).await;
            let mut stream = bench.raw_connected("controller-rubbish").await;
            let _ = stream.write_all(&rubbish).await;
            closed(&mut stream).await;
            let mut plain = TcpStream::connect(bench.address).await.unwrap();
            let _ = plain.write_all(&rubbish).await;
            pair.works().await;
        }
    });
}

#[test]
fn half_a_packet_and_silence_hold_nobody_up() {
    run(async |bench| {
        let mut pair = Pair::open(bench).await;
        let connect = encoded(connect("controller-half"));
        let mut silent = TcpStream::connect(bench.address).await.unwrap();
        let mut half_hello = TcpStream::connect(bench.address).await.unwrap();
        half_hello.write_all(&[0x16, 0x03, 0x01, 0x02]).await.unwrap();
        let mut half_connect = bench.raw("controller").await;
        half_connect.write_all(&connect[..10]).await.unwrap();
        let mut half_publish = bench.raw_connected("controller-half").await;
        half_publish.write_all(&[0x32, 0xff, 0x7f, 0x00]).await.unwrap();
        sleep(Duration::from_millis(300)).await;
        pair.works().await;
        let opened = timeout(Duration::from_secs(5), Pair::open(bench)).await;
        opened.expect("a new client is held up").works().await;
        if matches!(bench.server, Server::Own(_)) {
            closed(&mut silent).await;
            closed(&mut half_connect).await;
        }
    });
}

// ---- 7 ----

#[test]
fn a_second_connection_takes_the_session_over() {
    run(async |bench| {
        let (mut first, _) = bench.open_session("controller-t").await;
        first.subscribe("lifesign/dev-7/bundle").await;
        let (mut second, ack) = bench.open_session("controller-t").await;
        assert!(ack.session_present);
        let ended = timeout(PATIENCE, &mut first.task).await;
        ended.expect("the first connection lives on").unwrap();
        let (mut publisher, _) = bench.open("dev-7", "dev-7").await;
        publisher.publish("lifesign/dev-7/bundle", 0..3).await;
        assert_eq!(second.numbers(3).await.len(), 3);
    });
}

// ---- 8 ----

#[test]
fn of_20_000_messages_none_is_lost() {
    run(async |bench| {
        let (mut subscriber, _) = bench.open_session("controller-f").await;
        subscriber.subscribe("lifesign/+/bundle").await;
        let mut options = bench.options("dev-8", bench.config("dev-8"));
        options.set_outgoing_inflight_upper_limit(100);
        let (mut publisher, _) = Link::open(options).await.unwrap();
        let began = Instant::now();
        let publish = async {
            for n in 0..20_000_u32 {
                let mut payload = vec![0; 1024];
                payload[..4].copy_from_slice(&n.to_be_bytes());
                publisher.send("lifesign/dev-8/bundle", payload).await;
            }
            for _ in 0..20_000 {
                assert_eq!(publisher.acked().await, PubAckReason::Success);
            }
        };
        let ((), seen) = tokio::join!(publish, subscriber.numbers(20_000));
        let rate = 20_000.0 / began.elapsed().as_secs_f64();
        assert_eq!(seen.len(), 20_000);
        println!("{rate:.0} messages/s, broker's peak {} KiB", bench.peak_kib());
    });
}

// ---- 9 ----

#[test]
fn it_tells_its_address_and_stops_within_a_second() {
    runtime().block_on(async {
        let authority = Authority::new(KeyPair::generate().unwrap());
        let config = config(authority.server_config());
        let broker = Broker::start(config).await.unwrap();
        let address = broker.address();
        assert_ne!(address.port(), 0);
        let bench = Bench { address, authority, server: Server::Remote, directory: None };
        let (mut link, _) = bench.open("controller-9", "controller").await;
        let mut idle = TcpStream::connect(address).await.unwrap();
        let began = Instant::now();
        broker.stop().await;
        assert!(began.elapsed() < Duration::from_secs(1));
        std::net::TcpListener::bind(address).expect("the port is free");
        timeout(PATIENCE, &mut link.task).await.unwrap().unwrap();
        closed(&mut idle).await;
    });
}

// ---- 10 ----

#[test]
fn a_device_writes_and_reads_its_own_topics_only() {
    run(async |bench| {
        let (mut controller, _) = bench.open("controller-a", "controller").await;
        controller.subscribe("lifesign/+/bundle").await;
        let (mut device, _) = bench.open("dev-10", "dev-10").await;
        device.send("lifesign/dev-11/bundle", b"forged".to_vec()).await;
        assert_eq!(device.acked().await, PubAckReason::NotAuthorized);
        device.send("lifesign/dev-10/bundle", b"mine".to_vec()).await;
        assert_eq!(device.acked().await, PubAckReason::Success);
        assert_eq!(controller.message().await.payload.as_ref(), b"mine");

        device.client.subscribe("lifesign/#", QoS::AtLeastOnce).await.unwrap();
        device.client.subscribe("lifesign/dev-11/command", QoS::AtLeastOnce).await.unwrap();
        device.subscribe("lifesign/dev-10/command").await;
        for topic in ["lifesign/dev-11/command", "lifesign/dev-10/command"] {
            controller.send(topic, topic.as_bytes().to_vec()).await;
        }
        assert_eq!(device.message().await.topic, "lifesign/dev-10/command");
        // Overlapping subscriptions may bring it twice, but never the other one.
        sleep(Duration::from_millis(300)).await;
        while let Ok(packet) = device.packets.try_recv() {
            let Packet::Publish(publish) = packet else {
                continue;
            };
            assert_eq!(publish.topic, "lifesign/dev-10/command");
        }
    });
}

// ---- ours alone ----

#[test]
fn the_socket_is_for_the_processs_own_client() {
    runtime().block_on(async {
        let authority = Authority::new(KeyPair::generate().unwrap());
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("broker");
        let admit =
            |peer: &Peer, _: &str| matches!(peer, Peer::Local).then(|| Rights::new(["#"], ["#"]));
        let mut config = config(authority.server_config());
        (config.socket, config.admit) = (Some(path.clone()), Arc::new(admit));
        let broker = Broker::start(config).await.unwrap();
        let mut options = MqttOptions::new("own", path.to_str().unwrap(), 0);
        options.set_transport(Transport::Unix);
        let (mut link, _) = Link::open(options).await.unwrap();
        link.subscribe("a").await;
        link.publish("a", 0..10).await;
        assert_eq!(link.numbers(10).await.len(), 10);
        assert_eq!(broker.counts().clients, 1);
        broker.stop().await;
        assert!(!path.exists());
    });
}

#[test]
fn without_tls_only_loopback_is_served() {
    runtime().block_on(async {
        let authority = Authority::new(KeyPair::generate().unwrap());
        let mut config = config(authority.server_config());
        (config.tls, config.listen) = (None, "0.0.0.0:0".parse().unwrap());
        assert!(matches!(Broker::start(config).await, Err(super::Error::Plain(_))));
    });
}

#[test]
fn mqtt_3_is_refused_in_its_own_words() {
    run_own(async |bench| {
        let mut stream = bench.raw("controller").await;
        let connect = b"\x10\x0d\0\x04MQTT\x04\x02\0\x3c\0\x01c";
        stream.write_all(connect).await.unwrap();
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, [0x20, 0x02, 0x00, 0x01]);
        closed(&mut stream).await;
    });
}

#[test]
fn silence_beyond_the_keep_alive_is_a_loss() {
    run_own(async |bench| {
        let (mut watcher, _) = bench.open("controller-w", "controller").await;
        watcher.subscribe("lifesign/+/status").await;
        let mut stream = bench.raw("controller").await;
        let Packet::Connect(mut packet, _, _) = connect("controller-s") else { unreachable!() };
        packet.keep_alive = 1;
        let will = LastWill::new("lifesign/s/status", "down", QoS::AtLeastOnce, false, None);
        stream.write_all(&encoded(Packet::Connect(packet, Some(will), None))).await.unwrap();
        let began = Instant::now();
        assert_eq!(watcher.message().await.payload.as_ref(), b"down");
        assert!(began.elapsed() > Duration::from_millis(1400));
        closed(&mut stream).await;
    });
}

#[test]
fn who_must_go_is_told_why() {
    run_own(async |bench| {
        let (mut first, _) = bench.open("controller-t", "controller").await;
        let (second, _) = bench.open("controller-t", "controller").await;
        let told = (&mut first.task).await.unwrap();
        assert!(matches!(
            told,
            ConnectionError::MqttState(StateError::ServerDisconnect {
                reason_code: DisconnectReasonCode::SessionTakenOver,
                ..
            })
        ));
        second.client.disconnect().await.unwrap();
    });
}

#[test]
fn a_foreign_client_id_is_not_to_be_had() {
    run_own(async |bench| {
        let (mut owner, _) = bench.open("dev-1", "dev-1").await;
        let thief = Link::open(bench.options("dev-1", bench.config("dev-2"))).await;
        assert!(matches!(thief, Err(ConnectionError::ConnectionRefused(_))));
        owner.subscribe("lifesign/dev-1/command").await;
    });
}

/// The window is closed, so what is not read stays with the broker, and the others go on.
#[test]
fn who_does_not_read_holds_nobody_up() {
    run_own(async |bench| {
        let mut stream = bench.raw_connected("controller-deaf").await;
        let filter = Filter::new("lifesign/#", QoS::AtLeastOnce);
        let subscribe = Subscribe { pkid: 1, filters: vec![filter], properties: None };
        stream.write_all(&encoded(Packet::Subscribe(subscribe))).await.unwrap();
        let mut pair = Pair::open(bench).await;
        for _ in 0..200 {
            pair.publisher.send("lifesign/dev-p/bundle", vec![0; 100_000]).await;
            assert_eq!(pair.publisher.acked().await, PubAckReason::Success);
            pair.subscriber.message().await;
        }
        pair.works().await;
    });
}
