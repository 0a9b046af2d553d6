//! What the broker holds for one client: messages that wait and messages in flight.
//!
//! ```text
//!   offer --> queue --next--> in flight --acked--> gone
//!                                 |  ^
//!                                 +--+ again, with the dup flag, when the client comes back
//! ```
//!
//! Pure. Never holds more than its bounds: what does not fit is refused, so that the publisher
//! hears of it, and nothing that was accepted is pushed out.

use crate::base::time::Instant;
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use rumqttc::v5::mqttbytes::v5::{LastWill, Publish};

use super::{Limits, Rights};

/// What a message costs beyond its bytes: its places in queue and heap, rounded up.
const MESSAGE_OVERHEAD_BYTES: usize = 256;

#[derive(Debug, Clone)]
pub(super) struct Message {
    pub(super) publish: Publish,
    expires: Option<Instant>,
    bytes: usize,
}

#[derive(Debug)]
pub(super) struct Session {
    pub(super) state: State,
    pub(super) filters: BTreeSet<String>,
    queue: VecDeque<Message>,
    in_flight: VecDeque<Message>,
    bytes: usize,
    last_id: u16,
}

#[derive(Debug)]
pub(super) enum State {
    Online(Online),
    Offline { expires: Instant, will: Option<(Instant, LastWill)> },
}

#[derive(Debug)]
pub(super) struct Online {
    pub(super) connection: super::ConnectionId,
    pub(super) rights: Rights,
    pub(super) will: Option<LastWill>,
    pub(super) expiry: Duration,
    pub(super) in_flight_max: usize,
    pub(super) packet_bytes_max: usize,
}

impl Message {
    pub(super) fn new(publish: Publish, now: Instant) -> Self {
        let properties = publish.properties.as_ref();
        let seconds = properties.and_then(|properties| properties.message_expiry_interval);
        let expires = seconds.map(|seconds| now + Duration::from_secs(seconds.into()));
        let bytes = publish.size() + MESSAGE_OVERHEAD_BYTES;
        Self { publish, expires, bytes }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_expired(&self, now: Instant) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    /// As it goes out now, unless it has expired.
    pub(super) fn outgoing(&self, now: Instant) -> Option<Publish> {
        if self.is_expired(now) {
            return None;
        }
        let mut publish = self.publish.clone();
        if let (Some(expires), Some(properties)) = (self.expires, &mut publish.properties) {
            let left = expires.since(now).as_secs();
            properties.message_expiry_interval = Some(u32::try_from(left).unwrap_or(u32::MAX));
        }
        Some(publish)
    }
}

impl Session {
    pub(super) fn new(state: State) -> Self {
        let (filters, queue, in_flight) = (BTreeSet::new(), VecDeque::new(), VecDeque::new());
        Self { state, filters, queue, in_flight, bytes: 0, last_id: 0 }
    }

    /// Whether there was room for it.
    pub(super) fn offer(&mut self, message: Message, limits: &Limits) -> bool {
        let bytes = self.bytes + message.bytes();
        if self.queue.len() >= limits.session_messages_max || bytes > limits.session_bytes_max {
            return false;
        }
        self.bytes = bytes;
        self.queue.push_back(message);
        true
    }

    /// The next message for a client that is there, while its window is open. What has expired
    /// or is too large for the client is passed over.
    pub(super) fn next(&mut self, now: Instant) -> Option<Publish> {
        let State::Online(online) = &self.state else {
            return None;
        };
        let (window, bytes_max) = (online.in_flight_max, online.packet_bytes_max);
        while self.in_flight.len() < window {
            let mut message = self.queue.pop_front()?;
            message.publish.pkid = self.free_id();
            match message.outgoing(now).filter(|publish| publish.size() <= bytes_max) {
                Some(publish) => {
                    self.in_flight.push_back(message);
                    return Some(publish);
                }
                None => self.bytes -= message.bytes,
            }
        }
        None
    }

    /// What was in flight when the connection was lost, in its order.
    pub(super) fn again(&self) -> impl Iterator<Item = Publish> {
        self.in_flight.iter().map(|message| Publish { dup: true, ..message.publish.clone() })
    }

    pub(super) fn acked(&mut self, id: u16) {
        let at = self.in_flight.iter().position(|message| message.publish.pkid == id);
        if let Some(message) = at.and_then(|at| self.in_flight.remove(at)) {
            self.bytes -= message.bytes;
        }
    }

    /// Ends, because only a window's worth of the ids is taken.
    fn free_id(&mut self) -> u16 {
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            if !self.in_flight.iter().any(|message| message.publish.pkid == self.last_id) {
                return self.last_id;
            }
        }
    }

    #[cfg(test)]
    pub(super) fn is_consistent(&self) -> bool {
        let held = self.queue.iter().chain(&self.in_flight);
        let window_kept = match &self.state {
            State::Online(online) => self.in_flight.len() <= online.in_flight_max,
            State::Offline { .. } => true,
        };
        window_kept && self.bytes == held.map(Message::bytes).sum::<usize>()
    }
}
