//! What to send next, and what to make of the answers. No IO, no clock.
//!
//! The controller's receipts are the only truth: the broker's acknowledgements pace the sending and
//! start the clocks of patience, nothing more. So any message may be lost, doubled or late, and
//! either side may forget everything but its store: the next question finds out what is missing.
//!
//! ```text
//!                    publish               Receipt stored, or refused
//!   headline  never ---------> asked -------------------------------------> forgotten, or set aside
//!                                ^ | patience is over and the gate is open
//!                                +-+
//!                    offer             Receipt missing            all sent
//!   bundle    never --------> asked -------------------> sending ---------> asked --> as above
//!                               ^                                             | patience is over
//!                               +---------------------------------------------+ and the gate is open
//! ```
//!
//! The gate: a question that is repeated, and every offer, closes it until the controller says
//! anything at all, or a pause is over that doubles with every question in vain. A controller that
//! is not there costs one small message per pause, however much waits for it. Headlines that were
//! never sent do not wait for the gate. Among questions the one that was asked least goes first, so
//! that a parcel which is never answered does not hold up the others.

use super::backoff::{Backoff, Dice};
use crate::base::id::{Digest, IncidentId};
use crate::base::limits;
use crate::base::text::harmless_line;
use crate::base::time::Instant;
use crate::pb::v1;
use crate::spool::{Kind, Waiting};
use prost::Message;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::time::Duration;

/// Messages on their way at once: two fewer than the link carries, which also subscribes and tells
/// its status.
pub const WINDOW: usize = limits::INFLIGHT as usize - 2;

const PATIENCE: Backoff = Backoff { first: Duration::from_secs(2), most: Duration::from_secs(300) };

/// A message that was handed to the link, for [`Session::acknowledged`].
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Ticket(u64);

/// What the shell is to do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Action {
    /// Publish a headline whole.
    PublishHeadline {
        /// Acknowledge with this.
        ticket: Ticket,
        /// Which.
        parcel: Waiting,
    },
    /// Ask what the controller wants of a bundle.
    Offer {
        /// Acknowledge with this.
        ticket: Ticket,
        /// Which.
        parcel: Waiting,
    },
    /// Send a part of a bundle.
    SendChunk {
        /// Acknowledge with this.
        ticket: Ticket,
        /// Of which.
        parcel: Waiting,
        /// Which bytes.
        range: Range<u64>,
    },
    /// The controller has it.
    Forget {
        /// Which.
        digest: Digest,
    },
    /// The controller will never take it.
    SetAside {
        /// Which.
        digest: Digest,
        /// In the controller's words, made harmless.
        reason: String,
    },
}

/// What the controller said.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Heard {
    /// It has a parcel.
    Stored,
    /// It wants parts of a bundle.
    Missing,
    /// It will never take a parcel.
    Refused,
    /// Nothing that can be understood, and why.
    Strange(&'static str),
}

/// The state of the conversation with the controller.
#[derive(Debug)]
pub struct Session {
    dice: Dice,
    state: Link,
    /// In the order of the spool: headlines first, then bundles oldest first.
    parcels: Vec<Tracked>,
    transfer: Option<Transfer>,
    flight: BTreeMap<Ticket, Flight>,
    tickets: u64,
    /// The controller's words that the shell has not yet taken.
    words: VecDeque<Action>,
    gate: Instant,
    unheard: u32,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Link {
    Down,
    Up { chunk_bytes: u64 },
}

#[derive(Clone, Copy, Debug)]
struct Tracked {
    waiting: Waiting,
    asked: Asked,
    /// Questions since the controller last spoke of it.
    tries: u32,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Asked {
    Never,
    /// The question, or what it brought about, is on its way.
    Busy,
    /// An answer is awaited until then.
    Until(Instant),
}

/// The one bundle that is talked about.
#[derive(Debug)]
struct Transfer {
    digest: Digest,
    /// What is still to be sent. Empty while an answer is awaited.
    left: VecDeque<Range<u64>>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Flight {
    Question(Digest),
    Chunk(Digest),
}

// === impl Session ===

impl Session {
    /// A session without a link. The seed spreads the devices of a fleet over time.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            dice: Dice::new(seed),
            state: Link::Down,
            parcels: Vec::new(),
            transfer: None,
            flight: BTreeMap::new(),
            tickets: 0,
            words: VecDeque::new(),
            gate: Instant::default(),
            unheard: 0,
        }
    }

    /// The broker is there, and takes packets with this much content.
    pub fn connected(&mut self, content_max: usize, now: Instant) {
        let chunk_bytes = content_max.clamp(1, limits::CHUNK_BYTES) as u64;
        self.state = Link::Up { chunk_bytes };
        self.unheard = 0;
        self.gate = now;
        for parcel in &mut self.parcels {
            parcel.tries = 0;
            if let Asked::Until(at) = parcel.asked {
                parcel.asked = Asked::Until(at.min(now + PATIENCE.first));
            }
        }
    }

    /// The broker is gone, and with it everything that was on its way.
    pub fn disconnected(&mut self) {
        self.state = Link::Down;
        self.transfer = None;
        self.flight.clear();
        let busy = self.parcels.iter_mut().filter(|parcel| parcel.asked == Asked::Busy);
        busy.for_each(|parcel| parcel.asked = Asked::Never);
    }

    /// What waits in the spool now, in its order.
    pub fn parcels_changed(&mut self, waiting: impl IntoIterator<Item = Waiting>) {
        let old: BTreeMap<Digest, Tracked> =
            self.parcels.drain(..).map(|parcel| (parcel.waiting.digest, parcel)).collect();
        let done: BTreeSet<Digest> = self.words.iter().filter_map(Action::ended).collect();
        let waiting = waiting.into_iter().filter(|w| !done.contains(&w.digest));
        let tracked = waiting.map(|waiting| {
            let new = Tracked { waiting, asked: Asked::Never, tries: 0 };
            old.get(&waiting.digest).copied().unwrap_or(new)
        });
        self.parcels = tracked.collect();
        let gone = |transfer: &Transfer| self.find(transfer.digest).is_none();
        if self.transfer.as_ref().is_some_and(gone) {
            self.transfer = None;
        }
    }

    /// The broker has taken a message, or the message could not be made after all: either way it is
    /// no longer on its way.
    pub fn acknowledged(&mut self, ticket: Ticket, now: Instant) {
        let Some(flight) = self.flight.remove(&ticket) else { return };
        match flight {
            Flight::Question(digest) => self.await_answer(digest, now),
            Flight::Chunk(digest) => {
                let sent = |t: &Transfer| t.digest == digest && t.left.is_empty();
                if self.transfer.as_ref().is_some_and(sent) && !self.chunks_in_flight(digest) {
                    self.await_answer(digest, now);
                }
            }
        }
    }

    /// A message came on the receipt topic.
    pub fn received(&mut self, payload: &[u8], now: Instant) -> Heard {
        let Ok(receipt) = v1::Receipt::decode(payload) else {
            return Heard::Strange("it is no receipt");
        };
        let Ok(digest) = Digest::try_from(receipt.digest.as_slice()) else {
            return Heard::Strange("its digest is no SHA-256");
        };
        let Some(word) = receipt.word else {
            return Heard::Strange("it says nothing that this version understands");
        };
        self.unheard = 0;
        self.gate = now;
        match word {
            v1::receipt::Word::Stored(_) => {
                self.end(digest, Action::Forget { digest });
                Heard::Stored
            }
            v1::receipt::Word::Missing(missing) => {
                self.send_missing(digest, missing.ranges, now);
                Heard::Missing
            }
            v1::receipt::Word::Refused(refused) => {
                let reason = reason(&refused.reason);
                self.end(digest, Action::SetAside { digest, reason });
                Heard::Refused
            }
        }
    }

    /// The next thing to do, if there is one now. Ask again until there is none.
    pub fn poll_action(&mut self, now: Instant) -> Option<Action> {
        if let Some(word) = self.words.pop_front() {
            return Some(word);
        }
        let Link::Up { chunk_bytes } = self.state else { return None };
        if self.flight.len() >= WINDOW {
            return None;
        }
        let fresh = |p: &&Tracked| p.is_headline() && p.asked == Asked::Never;
        if let Some(parcel) = self.parcels.iter().find(fresh) {
            return Some(self.ask(parcel.waiting));
        }
        if let Some((parcel, range)) = self.next_chunk(chunk_bytes) {
            let ticket = self.ticket(Flight::Chunk(parcel.digest));
            return Some(Action::SendChunk { ticket, parcel, range });
        }
        let bundles_from = self.bundles_from();
        let due = |p: &&Tracked| self.may_ask_at(p, bundles_from).is_some_and(|at| at <= now);
        let parcel = self.parcels.iter().filter(due).min_by_key(|p| p.tries)?.waiting;
        self.gate = now + PATIENCE.pause(self.unheard, &mut self.dice);
        self.unheard = self.unheard.saturating_add(1);
        Some(self.ask(parcel))
    }

    /// When [`Self::poll_action`] will have something to do without anything having happened.
    #[must_use]
    pub fn poll_deadline(&self) -> Option<(Instant, &'static str)> {
        if self.state == Link::Down || self.flight.len() >= WINDOW {
            return None;
        }
        let bundles_from = self.bundles_from();
        let next = self.parcels.iter().filter_map(|p| Some((self.may_ask_at(p, bundles_from)?, p)));
        let (at, parcel) = next.min_by_key(|(at, _)| *at)?;
        let why =
            if parcel.is_headline() { "a headline is repeated" } else { "a bundle is offered" };
        Some((at, why))
    }

    /// When this parcel may be asked about next, as far as can be told now.
    fn may_ask_at(&self, parcel: &Tracked, bundles_from: Option<Instant>) -> Option<Instant> {
        let own = match parcel.asked {
            Asked::Never => self.gate,
            Asked::Busy => return None,
            Asked::Until(at) => at.max(self.gate),
        };
        if parcel.is_headline() { Some(own) } else { Some(own.max(bundles_from?)) }
    }

    /// When a bundle may be offered: not while another one is talked about.
    fn bundles_from(&self) -> Option<Instant> {
        let Some(transfer) = &self.transfer else { return Some(self.gate) };
        match self.find(transfer.digest)?.asked {
            Asked::Until(at) => Some(at),
            Asked::Never | Asked::Busy => None,
        }
    }

    fn ask(&mut self, parcel: Waiting) -> Action {
        let digest = parcel.digest;
        if let Some(tracked) = self.find_mut(digest) {
            tracked.asked = Asked::Busy;
            tracked.tries = tracked.tries.saturating_add(1);
        }
        let ticket = self.ticket(Flight::Question(digest));
        match parcel.kind {
            Kind::Headline => Action::PublishHeadline { ticket, parcel },
            Kind::Bundle => {
                self.transfer = Some(Transfer { digest, left: VecDeque::new() });
                Action::Offer { ticket, parcel }
            }
        }
    }

    fn await_answer(&mut self, digest: Digest, now: Instant) {
        let Some(parcel) = self.parcels.iter_mut().find(|p| p.waiting.digest == digest) else {
            return;
        };
        let tries = parcel.tries.saturating_sub(1);
        parcel.asked = Asked::Until(now + PATIENCE.pause(tries, &mut self.dice));
    }

    fn send_missing(&mut self, digest: Digest, ranges: Vec<v1::Range>, now: Instant) {
        let Some(parcel) = self.find_mut(digest).filter(|p| !p.is_headline()) else { return };
        parcel.tries = 0;
        let left = in_order(ranges, parcel.waiting.size);
        let sending = self.transfer.as_ref().is_some_and(|t| !t.left.is_empty());
        if sending || self.chunks_in_flight(digest) {
            // A receipt that was doubled or late. If it was not, the next offer finds out.
            return;
        }
        if left.is_empty() {
            return self.await_answer(digest, now);
        }
        if let Some(parcel) = self.find_mut(digest) {
            parcel.asked = Asked::Busy;
        }
        let before = self.transfer.replace(Transfer { digest, left });
        // It was offered, and another was answered: that one comes again later.
        let other = before.map(|t| t.digest).filter(|other| *other != digest);
        other.into_iter().for_each(|other| self.await_answer(other, now));
    }

    fn next_chunk(&mut self, chunk_bytes: u64) -> Option<(Waiting, Range<u64>)> {
        let digest = self.transfer.as_ref()?.digest;
        let waiting = self.find(digest)?.waiting;
        let left = &mut self.transfer.as_mut()?.left;
        let range = left.front_mut()?;
        let end = range.end.min(range.start + chunk_bytes);
        let chunk = range.start..end;
        range.start = end;
        if range.is_empty() {
            left.pop_front();
        }
        Some((waiting, chunk))
    }

    fn end(&mut self, digest: Digest, word: Action) {
        if self.find(digest).is_none() {
            return;
        }
        self.parcels.retain(|parcel| parcel.waiting.digest != digest);
        self.transfer.take_if(|transfer| transfer.digest == digest);
        self.words.push_back(word);
    }

    fn chunks_in_flight(&self, digest: Digest) -> bool {
        self.flight.values().any(|flight| *flight == Flight::Chunk(digest))
    }

    fn ticket(&mut self, flight: Flight) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.flight.insert(ticket, flight);
        ticket
    }

    fn find(&self, digest: Digest) -> Option<&Tracked> {
        self.parcels.iter().find(|parcel| parcel.waiting.digest == digest)
    }

    fn find_mut(&mut self, digest: Digest) -> Option<&mut Tracked> {
        self.parcels.iter_mut().find(|parcel| parcel.waiting.digest == digest)
    }
}

// === impl Tracked, Action ===

impl Tracked {
    fn is_headline(&self) -> bool {
        self.waiting.kind == Kind::Headline
    }
}

impl Action {
    /// The parcel that it lets go of.
    fn ended(&self) -> Option<Digest> {
        match self {
            Self::Forget { digest } | Self::SetAside { digest, .. } => Some(*digest),
            Self::PublishHeadline { .. } | Self::Offer { .. } | Self::SendChunk { .. } => None,
        }
    }
}

/// The message that offers a bundle (no data) or carries a part of it.
#[must_use]
pub fn chunk(parcel: &Waiting, offset: u64, data: &[u8]) -> Vec<u8> {
    let Waiting { digest, incident, size, .. } = parcel;
    v1::Chunk {
        incident: IncidentId::as_bytes(incident).to_vec(),
        digest: digest.as_bytes().to_vec(),
        total: *size,
        offset,
        data: data.to_vec(),
    }
    .encode_to_vec()
}

/// Ranges as they are sent: within the bundle, in order, no byte twice, whatever was asked for.
fn in_order(ranges: Vec<v1::Range>, size: u64) -> VecDeque<Range<u64>> {
    let mut ranges: Vec<Range<u64>> =
        ranges.into_iter().map(|r| r.start..r.end.min(size)).filter(|r| !r.is_empty()).collect();
    ranges.sort_unstable_by_key(|range| range.start);
    let mut ordered: VecDeque<Range<u64>> = VecDeque::new();
    for range in ranges {
        match ordered.back_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => ordered.push_back(range),
        }
    }
    ordered
}

/// The controller's reason as a log can carry it.
fn reason(text: &str) -> String {
    const CHARS: usize = 300;
    let short: String = text.chars().take(CHARS).collect();
    harmless_line(short.as_bytes())
}

#[cfg(test)]
mod tests;
