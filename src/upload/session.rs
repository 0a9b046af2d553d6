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
//!
//! Dumps that the controller may have go the way of bundles, behind everything else: one is offered when
//! no parcel is due, few of its chunks are on their way at once, and a parcel that becomes due breaks it
//! off, to be offered again afterwards. The controller asks for a slice after the other, so it may ask
//! for the next one while the last chunk is still unacknowledged.

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

/// Something that the controller shall have.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Item {
    /// It waits in the spool, and is forgotten when the controller has it.
    Parcel(Waiting),
    /// A dump that the controller has asked for. It stays on the device.
    Dump {
        /// SHA-256 of its bytes.
        digest: Digest,
        /// How many it has.
        size: u64,
    },
}

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
    /// Ask what the controller wants of a bundle or a dump.
    Offer {
        /// Acknowledge with this.
        ticket: Ticket,
        /// Which.
        item: Item,
    },
    /// Send a part of a bundle or a dump.
    SendChunk {
        /// Acknowledge with this.
        ticket: Ticket,
        /// Of which.
        item: Item,
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
    /// Nothing is left to do for a dump.
    Settled {
        /// Which.
        digest: Digest,
        /// Why the controller does not take it, made harmless; nothing if it has it.
        refused: Option<String>,
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
    /// In the order of the spool: headlines first, then bundles oldest first. Dumps come last.
    items: Vec<Tracked>,
    /// The controller's message that asks for the dumps,
    dumps_sequence: u64,
    /// and those of them for which nothing is left to do.
    settled: BTreeSet<Digest>,
    transfer: Option<Transfer>,
    flight: BTreeMap<Ticket, Flight>,
    tickets: u64,
    /// The controller's words that the shell has not yet taken.
    words: VecDeque<Action>,
    gate: Instant,
    unheard: u32,
    /// The budget is spent until then.
    bundles_wait: Option<Instant>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Link {
    Down,
    Up { chunk_bytes: u64 },
}

#[derive(Clone, Copy, Debug)]
struct Tracked {
    item: Item,
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

/// The one bundle or dump that is talked about.
#[derive(Debug)]
struct Transfer {
    digest: Digest,
    /// What is still to be sent. Empty while an answer is awaited.
    left: VecDeque<Range<u64>>,
    /// Where that ends which was sent.
    sent: u64,
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
            items: Vec::new(),
            dumps_sequence: 0,
            settled: BTreeSet::new(),
            transfer: None,
            flight: BTreeMap::new(),
            tickets: 0,
            words: VecDeque::new(),
            gate: Instant::default(),
            unheard: 0,
            bundles_wait: None,
        }
    }

    /// Bundles and dumps wait until then, headlines never.
    pub fn bundles_wait(&mut self, until: Option<Instant>) {
        self.bundles_wait = until;
    }

    /// The broker is there, and takes packets with this much content.
    pub fn connected(&mut self, content_max: usize, now: Instant) {
        let chunk_bytes = content_max.clamp(1, limits::CHUNK_BYTES) as u64;
        self.state = Link::Up { chunk_bytes };
        self.unheard = 0;
        self.gate = now;
        for tracked in &mut self.items {
            tracked.tries = 0;
            if let Asked::Until(at) = tracked.asked {
                tracked.asked = Asked::Until(at.min(now + PATIENCE.first));
            }
        }
    }

    /// The broker is gone, and with it everything that was on its way.
    pub fn disconnected(&mut self) {
        self.state = Link::Down;
        self.transfer = None;
        self.flight.clear();
        let busy = self.items.iter_mut().filter(|tracked| tracked.asked == Asked::Busy);
        busy.for_each(|tracked| tracked.asked = Asked::Never);
    }

    /// What waits in the spool now, in its order.
    pub fn parcels_changed(&mut self, waiting: impl IntoIterator<Item = Waiting>) {
        let dumps: Vec<Item> = self.items.iter().map(|t| t.item).filter(Item::is_dump).collect();
        self.renew(waiting.into_iter().map(Item::Parcel).chain(dumps));
    }

    /// What the controller may have now of the dumps that it asks for in this message: digests and
    /// sizes. With another message they are offered once more, whatever was said of them before.
    pub fn dumps_changed(&mut self, sequence: u64, dumps: impl IntoIterator<Item = (Digest, u64)>) {
        if sequence != self.dumps_sequence {
            self.dumps_sequence = sequence;
            self.settled.clear();
        }
        let parcels: Vec<Item> =
            self.items.iter().map(|t| t.item).filter(|item| !item.is_dump()).collect();
        let dumps = dumps.into_iter().map(|(digest, size)| Item::Dump { digest, size });
        self.renew(parcels.into_iter().chain(dumps));
    }

    /// A dump cannot be sent after all.
    pub fn give_up(&mut self, digest: Digest) {
        self.items.retain(|tracked| tracked.item.digest() != digest);
        self.transfer.take_if(|transfer| transfer.digest == digest);
        self.settled.insert(digest);
    }

    fn renew(&mut self, items: impl Iterator<Item = Item>) {
        let old: BTreeMap<Digest, Tracked> =
            self.items.drain(..).map(|tracked| (tracked.item.digest(), tracked)).collect();
        let done: BTreeSet<Digest> = self.words.iter().filter_map(Action::ended).collect();
        let over = |item: &Item| {
            let digest = item.digest();
            done.contains(&digest) || item.is_dump() && self.settled.contains(&digest)
        };
        let tracked = items.filter(|item| !over(item)).map(|item| {
            let new = Tracked { item, asked: Asked::Never, tries: 0 };
            old.get(&item.digest()).copied().unwrap_or(new)
        });
        self.items = tracked.collect();
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
                self.end(digest, None);
                Heard::Stored
            }
            v1::receipt::Word::Missing(missing) => {
                self.send_missing(digest, missing.ranges, now);
                Heard::Missing
            }
            v1::receipt::Word::Refused(refused) => {
                self.end(digest, Some(reason(&refused.reason)));
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
        let fresh = |t: &&Tracked| t.asked == Asked::Never;
        if let Some(parcel) = self.items.iter().filter(fresh).find_map(Tracked::headline) {
            return Some(self.ask(Item::Parcel(parcel)));
        }
        let due = self.due(now);
        // A dump that is being sent waits for any parcel.
        let waits = self.bundles_wait.is_some_and(|until| now < until);
        if !waits
            && due.is_none_or(|item| !self.breaks_off(item))
            && let Some((item, range)) = self.next_chunk(chunk_bytes)
        {
            let ticket = self.ticket(Flight::Chunk(item.digest()));
            return Some(Action::SendChunk { ticket, item, range });
        }
        let item = due?;
        self.gate = now + PATIENCE.pause(self.unheard, &mut self.dice);
        self.unheard = self.unheard.saturating_add(1);
        Some(self.ask(item))
    }

    /// When [`Self::poll_action`] will have something to do without anything having happened.
    #[must_use]
    pub fn poll_deadline(&self) -> Option<(Instant, &'static str)> {
        if self.state == Link::Down || self.flight.len() >= WINDOW {
            return None;
        }
        let next = self.items.iter().filter_map(|t| Some((self.may_ask_at(t)?, t)));
        let first = next.min_by_key(|(at, _)| *at);
        let is_broken_off = self.transfer.as_ref().is_some_and(|t| !t.left.is_empty());
        if let Some(until) = self.bundles_wait.filter(|_| is_broken_off)
            && first.is_none_or(|(at, _)| until <= at)
        {
            return Some((until, "the budget begins anew"));
        }
        let (at, tracked) = first?;
        let why = match tracked.item {
            Item::Dump { .. } => "a dump is offered",
            Item::Parcel(_) if tracked.headline().is_some() => "a headline is repeated",
            Item::Parcel(_) => "a bundle is offered",
        };
        Some((at, why))
    }

    /// What is to be asked about now. Parcels go before dumps.
    fn due(&self, now: Instant) -> Option<Item> {
        let due = |t: &&Tracked| self.may_ask_at(t).is_some_and(|at| at <= now);
        let first = self.items.iter().filter(due).min_by_key(|t| (t.tries, t.item.is_dump()))?;
        Some(first.item)
    }

    /// When this may be asked about next, as far as can be told now.
    fn may_ask_at(&self, tracked: &Tracked) -> Option<Instant> {
        let own = match tracked.asked {
            Asked::Never => self.gate,
            Asked::Busy => return None,
            Asked::Until(at) => at.max(self.gate),
        };
        if tracked.headline().is_some() {
            return Some(own);
        }
        let own = own.max(self.bundles_wait.unwrap_or_default());
        if self.breaks_off(tracked.item) {
            return Some(own);
        }
        // Not while another one is talked about.
        let Some(transfer) = &self.transfer else { return Some(own) };
        match self.find(transfer.digest)?.asked {
            Asked::Until(at) => Some(own.max(at)),
            Asked::Never | Asked::Busy => None,
        }
    }

    /// Whether this goes before a dump that is talked about.
    fn breaks_off(&self, item: Item) -> bool {
        let talked = self.transfer.as_ref().and_then(|transfer| self.find(transfer.digest));
        !item.is_dump() && talked.is_some_and(|tracked| tracked.item.is_dump())
    }

    fn ask(&mut self, item: Item) -> Action {
        let digest = item.digest();
        if let Some(tracked) = self.find_mut(digest) {
            tracked.asked = Asked::Busy;
            tracked.tries = tracked.tries.saturating_add(1);
        }
        let ticket = self.ticket(Flight::Question(digest));
        if let Item::Parcel(parcel @ Waiting { kind: Kind::Headline, .. }) = item {
            return Action::PublishHeadline { ticket, parcel };
        }
        let new = Transfer { digest, left: VecDeque::new(), sent: 0 };
        let before = self.transfer.replace(new).filter(|before| before.digest != digest);
        let before = before.and_then(|before| self.find_mut(before.digest));
        if let Some(broken_off) = before.filter(|tracked| tracked.asked == Asked::Busy) {
            broken_off.asked = Asked::Never;
        }
        Action::Offer { ticket, item }
    }

    fn await_answer(&mut self, digest: Digest, now: Instant) {
        let Some(tracked) = self.items.iter_mut().find(|t| t.item.digest() == digest) else {
            return;
        };
        let tries = tracked.tries.saturating_sub(1);
        tracked.asked = Asked::Until(now + PATIENCE.pause(tries, &mut self.dice));
    }

    fn send_missing(&mut self, digest: Digest, ranges: Vec<v1::Range>, now: Instant) {
        let Some(tracked) = self.find_mut(digest).filter(|t| t.headline().is_none()) else {
            return;
        };
        let (left, is_dump) = (in_order(ranges, tracked.item.size()), tracked.item.is_dump());
        if !left.is_empty() {
            tracked.tries = 0;
        }
        if is_dump && self.parcel_is_talked_about() {
            return;
        }
        let same = self.transfer.as_ref().filter(|transfer| transfer.digest == digest);
        let sent = same.map_or(0, |transfer| transfer.sent);
        let further = left.front().is_some_and(|range| range.start >= sent);
        let sending = self.transfer.as_ref().is_some_and(|t| !t.left.is_empty());
        if sending || (self.chunks_in_flight(digest) && !further) {
            // A receipt that was doubled or late. If it was not, the next offer finds out.
            return;
        }
        if left.is_empty() {
            return self.await_answer(digest, now);
        }
        if let Some(tracked) = self.find_mut(digest) {
            tracked.asked = Asked::Busy;
        }
        let before = self.transfer.replace(Transfer { digest, left, sent });
        // It was offered, and another was answered: that one comes again later.
        let other = before.map(|t| t.digest).filter(|other| *other != digest);
        other.into_iter().for_each(|other| self.await_answer(other, now));
    }

    fn parcel_is_talked_about(&self) -> bool {
        let talked = self.transfer.as_ref().and_then(|transfer| self.find(transfer.digest));
        talked.is_some_and(|tracked| !tracked.item.is_dump())
    }

    fn next_chunk(&mut self, chunk_bytes: u64) -> Option<(Item, Range<u64>)> {
        let digest = self.transfer.as_ref()?.digest;
        let item = self.find(digest)?.item;
        if item.is_dump() && self.flights(digest) >= limits::DUMP_INFLIGHT {
            return None;
        }
        let transfer = self.transfer.as_mut()?;
        let range = transfer.left.front_mut()?;
        let end = range.end.min(range.start + chunk_bytes);
        let chunk = range.start..end;
        range.start = end;
        transfer.sent = transfer.sent.max(end);
        if range.is_empty() {
            transfer.left.pop_front();
        }
        Some((item, chunk))
    }

    /// The controller's last word on something.
    fn end(&mut self, digest: Digest, refused: Option<String>) {
        let Some(item) = self.find(digest).map(|tracked| tracked.item) else { return };
        self.items.retain(|tracked| tracked.item.digest() != digest);
        self.transfer.take_if(|transfer| transfer.digest == digest);
        if item.is_dump() {
            self.settled.insert(digest);
        }
        self.words.push_back(match (item, refused) {
            (Item::Dump { .. }, refused) => Action::Settled { digest, refused },
            (Item::Parcel(_), None) => Action::Forget { digest },
            (Item::Parcel(_), Some(reason)) => Action::SetAside { digest, reason },
        });
    }

    fn chunks_in_flight(&self, digest: Digest) -> bool {
        self.flights(digest) > 0
    }

    fn flights(&self, digest: Digest) -> usize {
        self.flight.values().filter(|flight| **flight == Flight::Chunk(digest)).count()
    }

    fn ticket(&mut self, flight: Flight) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.flight.insert(ticket, flight);
        ticket
    }

    fn find(&self, digest: Digest) -> Option<&Tracked> {
        self.items.iter().find(|tracked| tracked.item.digest() == digest)
    }

    fn find_mut(&mut self, digest: Digest) -> Option<&mut Tracked> {
        self.items.iter_mut().find(|tracked| tracked.item.digest() == digest)
    }
}

// === impl Tracked, Item, Action ===

impl Tracked {
    fn headline(&self) -> Option<Waiting> {
        match self.item {
            Item::Parcel(parcel) if parcel.kind == Kind::Headline => Some(parcel),
            Item::Parcel(_) | Item::Dump { .. } => None,
        }
    }
}

impl Item {
    /// SHA-256 of its bytes.
    #[must_use]
    pub fn digest(&self) -> Digest {
        match self {
            Self::Parcel(parcel) => parcel.digest,
            Self::Dump { digest, .. } => *digest,
        }
    }

    /// How many bytes it has.
    #[must_use]
    pub fn size(&self) -> u64 {
        match self {
            Self::Parcel(parcel) => parcel.size,
            Self::Dump { size, .. } => *size,
        }
    }

    fn is_dump(&self) -> bool {
        matches!(self, Self::Dump { .. })
    }
}

impl Action {
    /// What it lets go of.
    fn ended(&self) -> Option<Digest> {
        match self {
            Self::Forget { digest }
            | Self::SetAside { digest, .. }
            | Self::Settled { digest, .. } => Some(*digest),
            Self::PublishHeadline { .. } | Self::Offer { .. } | Self::SendChunk { .. } => None,
        }
    }
}

/// The message that offers something (no data) or carries a part of it.
#[must_use]
pub fn chunk(item: Item, offset: u64, data: Vec<u8>) -> Vec<u8> {
    let incident = match item {
        Item::Parcel(parcel) => IncidentId::as_bytes(&parcel.incident).to_vec(),
        Item::Dump { .. } => Vec::new(),
    };
    v1::Chunk {
        incident,
        digest: item.digest().as_bytes().to_vec(),
        total: item.size(),
        offset,
        data,
        dump: item.is_dump(),
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
