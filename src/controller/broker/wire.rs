//! Frames on the wire, by the codec of the client library.
//!
//! Pure, and total on hostile bytes. Never hands out a part of the read buffer: each packet has an
//! allocation of its own size, or one small retained message would keep a large buffer alive.

use bytes::{Buf, BytesMut};
use rumqttc::v5::mqttbytes::Error as CodecError;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, ConnAckProperties, ConnectReturnCode, Disconnect, DisconnectProperties,
    DisconnectReasonCode, Packet, check,
};

/// What a client of MQTT 3.1.1 is told: CONNACK, "unacceptable protocol version".
pub(super) const REFUSAL_OF_MQTT_3: [u8; 4] = [0x20, 0x02, 0x00, 0x01];

const DISCONNECT: u8 = 0xe0;

#[derive(Debug, thiserror::Error)]
pub(super) enum Malformed {
    #[error("read a packet larger than allowed")]
    TooLarge,
    #[error("speak protocol level {0}")]
    Level(u8),
    #[error("decode a packet")]
    Packet(#[source] CodecError),
}

/// Takes one packet off the front, if it is complete.
pub(super) fn decode(buffer: &mut BytesMut, bytes_max: u32) -> Result<Option<Packet>, Malformed> {
    let length = match check(buffer.iter(), Some(bytes_max)) {
        Ok(header) => header.frame_length(),
        Err(CodecError::InsufficientBytes(_)) => return Ok(None),
        Err(CodecError::PayloadSizeLimitExceeded { .. }) => return Err(Malformed::TooLarge),
        Err(error) => return Err(Malformed::Packet(error)),
    };
    let mut frame = BytesMut::from(&buffer[..length]);
    buffer.advance(length);
    // The codec refuses the short forms of DISCONNECT, which clients do send.
    let packet = match frame[..] {
        [DISCONNECT, 0] => {
            Ok(Packet::Disconnect(Disconnect::new(DisconnectReasonCode::NormalDisconnection)))
        }
        [DISCONNECT, 1, code] => {
            code.try_into().map(|reason| Packet::Disconnect(Disconnect::new(reason)))
        }
        _ => Packet::read(&mut frame, None),
    };
    match packet {
        Ok(packet) => Ok(Some(packet)),
        Err(CodecError::InvalidProtocolLevel(level)) => Err(Malformed::Level(level)),
        Err(error) => Err(Malformed::Packet(error)),
    }
}

/// With a reason string, because the codec garbles the shorter forms: without properties it writes
/// one byte more than it announces, and with empty ones it leaves the reason out.
pub(super) fn disconnect(reason_code: DisconnectReasonCode) -> Packet {
    let properties = DisconnectProperties {
        session_expiry_interval: None,
        reason_string: Some(format!("{reason_code:?}")),
        user_properties: Vec::new(),
        server_reference: None,
    };
    Packet::Disconnect(Disconnect { reason_code, properties: Some(properties) })
}

pub(super) fn refusal(code: ConnectReturnCode) -> Packet {
    Packet::ConnAck(ConnAck { session_present: false, code, properties: None })
}

/// What we can and cannot, for the client to keep to.
pub(super) fn abilities() -> ConnAckProperties {
    ConnAckProperties {
        session_expiry_interval: None,
        receive_max: None,
        max_qos: Some(1),
        retain_available: None,
        max_packet_size: None,
        assigned_client_identifier: None,
        topic_alias_max: Some(0),
        reason_string: None,
        user_properties: Vec::new(),
        wildcard_subscription_available: None,
        subscription_identifiers_available: Some(0),
        shared_subscription_available: Some(0),
        server_keep_alive: None,
        response_information: None,
        server_reference: None,
        authentication_method: None,
        authentication_data: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rumqttc::v5::mqttbytes::QoS;
    use rumqttc::v5::mqttbytes::v5::{Connect, Filter, LastWill, PingReq, Publish, Subscribe};

    fn samples() -> Vec<Packet> {
        let will = LastWill::new("a/é", "w", QoS::AtLeastOnce, true, None);
        let connect =
            Connect { keep_alive: 1, client_id: "c".into(), clean_start: false, properties: None };
        let mut publish = Publish::new("a/b", QoS::AtLeastOnce, "payload", None);
        publish.pkid = 3;
        let filter = Filter::new("a/+", QoS::AtLeastOnce);
        vec![
            Packet::Connect(connect, Some(will), None),
            Packet::Publish(publish),
            Packet::Subscribe(Subscribe { pkid: 4, filters: vec![filter], properties: None }),
            Packet::PingReq(PingReq),
            disconnect(DisconnectReasonCode::SessionTakenOver),
        ]
    }

    #[test]
    fn packets_come_back_whole_however_they_are_cut() {
        for packet in samples() {
            let mut bytes = BytesMut::new();
            packet.write(&mut bytes, None).unwrap();
            for cut in 0..bytes.len() {
                let mut buffer = BytesMut::from(&bytes[..cut]);
                assert_eq!(decode(&mut buffer, 1000).unwrap(), None);
                buffer.extend_from_slice(&bytes[cut..]);
                assert_eq!(decode(&mut buffer, 1000).unwrap().as_ref(), Some(&packet));
                assert!(buffer.is_empty());
            }
        }
    }

    #[test]
    fn the_short_forms_of_disconnect_are_read() {
        let mut buffer = BytesMut::from(&[0xe0, 0, 0xe0, 1, 4, 0xe0, 2, 4, 0][..]);
        let with_will = DisconnectReasonCode::DisconnectWithWillMessage;
        for reason in [DisconnectReasonCode::NormalDisconnection, with_will, with_will] {
            let packet = decode(&mut buffer, 1000).unwrap();
            assert_eq!(packet, Some(Packet::Disconnect(Disconnect::new(reason))));
        }
    }

    #[test]
    fn too_large_is_known_from_the_header() {
        let mut buffer = BytesMut::from(&[0x30, 0xff, 0xff, 0x7f][..]);
        assert!(matches!(decode(&mut buffer, 1000), Err(Malformed::TooLarge)));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = decode(&mut buffer, 1000) {}
        }

        #[test]
        fn no_damage_makes_it_panic(which in 0usize..5, at in 0usize..40, byte: u8, cut in 0usize..40) {
            let mut bytes = BytesMut::new();
            samples()[which].write(&mut bytes, None).unwrap();
            let length = bytes.len();
            bytes[at % length] = byte;
            bytes.truncate(length - cut % length);
            while let Ok(Some(_)) = decode(&mut bytes, 1000) {}
        }
    }
}
