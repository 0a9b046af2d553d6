//! The session by its own deadlines, and a simulation against a naive controller by one seed.

use super::*;
use crate::spool::Mark;
use proptest::prelude::*;

fn bundle(name: u8, size: u64) -> (Waiting, Vec<u8>) {
    parcel(Kind::Bundle, name, size)
}

fn headline(name: u8) -> (Waiting, Vec<u8>) {
    parcel(Kind::Headline, name, 900)
}

fn parcel(kind: Kind, name: u8, size: u64) -> (Waiting, Vec<u8>) {
    let bytes: Vec<u8> = (0..size).map(|i| (i / 251) as u8 ^ i as u8 ^ name).collect();
    let incident = IncidentId::new([name; 16]);
    (Waiting { digest: Digest::of(&bytes), kind, incident, mark: Mark::default(), size }, bytes)
}

fn at(seconds: u64) -> Instant {
    Instant::from_millis(seconds * 1000)
}

fn receipt(digest: Digest, word: v1::receipt::Word) -> Vec<u8> {
    v1::Receipt { digest: digest.as_bytes().to_vec(), word: Some(word) }.encode_to_vec()
}

fn stored(digest: Digest) -> Vec<u8> {
    receipt(digest, v1::receipt::Word::Stored(v1::Stored {}))
}

fn missing(digest: Digest, ranges: &[(u64, u64)]) -> Vec<u8> {
    let ranges = ranges.iter().map(|&(start, end)| v1::Range { start, end }).collect();
    receipt(digest, v1::receipt::Word::Missing(v1::Missing { ranges }))
}

fn refused(digest: Digest) -> Vec<u8> {
    let reason = "unknown device\u{1b}[2J".to_owned();
    receipt(digest, v1::receipt::Word::Refused(v1::Refused { reason }))
}

/// Does everything that can be done now, and acknowledges it.
fn drain(session: &mut Session, now: Instant) -> Vec<Action> {
    let mut actions = Vec::new();
    while let Some(action) = session.poll_action(now) {
        ticket(&action).into_iter().for_each(|ticket| session.acknowledged(ticket, now));
        actions.push(action);
        assert!(actions.len() < 10_000, "the session never has enough");
    }
    actions
}

fn ticket(action: &Action) -> Option<Ticket> {
    match action {
        Action::PublishHeadline { ticket, .. }
        | Action::Offer { ticket, .. }
        | Action::SendChunk { ticket, .. } => Some(*ticket),
        Action::Forget { .. } | Action::SetAside { .. } | Action::Settled { .. } => None,
    }
}

fn words(actions: &[Action]) -> Vec<String> {
    let word = |action: &Action| match action {
        Action::PublishHeadline { parcel, .. } => format!("headline {}", name(parcel)),
        Action::Offer { item, .. } => format!("offer {}", called(*item)),
        Action::SendChunk { item, range, .. } => format!("send {} {range:?}", called(*item)),
        Action::Forget { .. } => "forget".to_owned(),
        Action::SetAside { reason, .. } => format!("set aside: {reason}"),
        Action::Settled { refused: None, .. } => "the dump is there".to_owned(),
        Action::Settled { refused: Some(why), .. } => format!("no dump: {why}"),
    };
    actions.iter().map(word).collect()
}

fn name(parcel: &Waiting) -> u8 {
    parcel.incident.as_bytes()[0]
}

fn called(item: Item) -> String {
    match item {
        Item::Parcel(parcel) => name(&parcel).to_string(),
        Item::Dump { .. } => "the dump".to_owned(),
    }
}

fn session(parcels: &[&(Waiting, Vec<u8>)]) -> Session {
    let mut session = Session::new(1);
    session.parcels_changed(parcels.iter().map(|(waiting, _)| *waiting));
    session
}

#[test]
fn nothing_dear_is_sent_before_the_controller_asks() {
    let (a, b) = (bundle(1, 80_000), headline(2));
    let mut session = session(&[&b, &a]);
    assert_eq!(drain(&mut session, at(0)), []);
    assert_eq!(session.poll_deadline(), None);
    session.connected(usize::MAX, at(1));
    assert_eq!(words(&drain(&mut session, at(1))), ["headline 2", "offer 1"]);
    assert_eq!(session.received(&missing(a.0.digest, &[(0, 80_000)]), at(2)), Heard::Missing);
    let sent = ["send 1 0..32768", "send 1 32768..65536", "send 1 65536..80000"];
    assert_eq!(words(&drain(&mut session, at(2))), sent);
    session.received(&stored(a.0.digest), at(3));
    session.received(&stored(b.0.digest), at(3));
    session.received(&stored(b.0.digest), at(3));
    assert_eq!(words(&drain(&mut session, at(3))), ["forget", "forget"]);
    assert_eq!(session.poll_deadline(), None);
}

#[test]
fn only_what_is_missing_is_sent_and_no_byte_twice() {
    let a = bundle(1, 80_000);
    let mut session = session(&[&a]);
    session.connected(20_000, at(0));
    drain(&mut session, at(0));
    let wild = [(70_000, u64::MAX), (10, 20), (15, 30), (9, 3), (90_000, 99_000), (100, 30_000)];
    session.received(&missing(a.0.digest, &wild), at(0));
    let sent = ["send 1 10..30", "send 1 100..20100", "send 1 20100..30000", "send 1 70000..80000"];
    assert_eq!(words(&drain(&mut session, at(0))), sent);
    // A receipt that comes twice costs the chunks again, and does no other harm.
    session.received(&missing(a.0.digest, &[]), at(0));
    let (due, why) = session.poll_deadline().unwrap();
    assert_eq!(why, "a bundle is offered");
    assert_eq!(words(&drain(&mut session, due)), ["offer 1"]);
}

#[test]
fn on_a_slow_link_patience_begins_when_the_last_chunk_is_out() {
    let a = bundle(1, 80_000);
    let mut session = session(&[&a]);
    session.connected(20_000, at(0));
    drain(&mut session, at(0));
    session.received(&missing(a.0.digest, &[(0, 80_000)]), at(0));
    let mut chunks = Vec::new();
    while let Some(action) = session.poll_action(at(0)) {
        chunks.push(action);
    }
    assert_eq!(chunks.len(), 4);
    for (chunk, seconds) in chunks.iter().zip([100, 200, 300, 400]) {
        assert_eq!(session.poll_deadline(), None, "at {seconds} s");
        session.acknowledged(ticket(chunk).unwrap(), at(seconds));
    }
    assert!(session.poll_deadline().unwrap().0 > at(401));
}

#[test]
fn headlines_overtake_a_bundle() {
    let (a, b) = (bundle(1, 1_000_000), headline(2));
    let mut session = session(&[&a]);
    session.connected(usize::MAX, at(0));
    drain(&mut session, at(0));
    session.received(&missing(a.0.digest, &[(0, 1_000_000)]), at(0));
    let mut first = Vec::new();
    while let Some(action) = session.poll_action(at(0)) {
        first.push(action);
    }
    assert_eq!(first.len(), WINDOW);
    session.parcels_changed([b.0, a.0]);
    assert_eq!(session.poll_action(at(0)), None);
    session.acknowledged(ticket(&first[0]).unwrap(), at(0));
    assert_eq!(words(&[session.poll_action(at(0)).unwrap()]), ["headline 2"]);
}

#[test]
fn a_silent_controller_costs_one_small_message_per_pause() {
    let parcels: Vec<_> = (0..50).map(headline).chain((50..99).map(|n| bundle(n, 9000))).collect();
    let mut session = session(&parcels.iter().collect::<Vec<_>>());
    session.connected(usize::MAX, at(0));
    assert_eq!(drain(&mut session, at(0)).len(), 51);
    let (mut now, mut messages) = (at(0), 0);
    while now < at(86_400) {
        now = session.poll_deadline().unwrap().0;
        let actions = drain(&mut session, now);
        assert_eq!(actions.len(), 1, "{actions:?}");
        messages += 1;
    }
    assert!((288..=400).contains(&messages), "{messages} in a day");
    // The first word from the controller opens the gate for what is overdue.
    session.received(&stored(parcels[0].0.digest), now);
    assert_eq!(drain(&mut session, now).len(), 2);
}

#[test]
fn what_is_refused_is_set_aside_with_a_harmless_reason() {
    let a = bundle(1, 9000);
    let mut session = session(&[&a]);
    session.connected(usize::MAX, at(0));
    drain(&mut session, at(0));
    assert_eq!(session.received(&refused(a.0.digest), at(0)), Heard::Refused);
    session.parcels_changed([a.0]);
    assert_eq!(words(&drain(&mut session, at(0))), ["set aside: unknown device\\u{1b}[2J"]);
    assert_eq!(drain(&mut session, at(9999)), []);
}

#[test]
fn a_parcel_that_is_never_answered_does_not_hold_up_the_others() {
    let (poison, good, better) = (bundle(1, 9000), bundle(2, 9000), bundle(3, 9000));
    let mut session = session(&[&poison, &good, &better]);
    session.connected(usize::MAX, at(0));
    assert_eq!(words(&drain(&mut session, at(0))), ["offer 1"]);
    let now = session.poll_deadline().unwrap().0;
    assert!(now <= at(2));
    assert_eq!(words(&drain(&mut session, now)), ["offer 2"]);
    session.received(&stored(good.0.digest), now);
    assert_eq!(words(&drain(&mut session, now)), ["forget", "offer 3"]);
}

#[test]
fn what_was_on_its_way_when_the_broker_went_is_asked_again() {
    let (a, b) = (bundle(1, 80_000), headline(2));
    let mut session = session(&[&b, &a]);
    session.connected(usize::MAX, at(0));
    assert!(session.poll_action(at(0)).is_some());
    session.disconnected();
    assert_eq!(session.poll_action(at(0)), None);
    session.connected(usize::MAX, at(5));
    assert_eq!(words(&drain(&mut session, at(5))), ["headline 2", "offer 1"]);
}

fn dump(size: u64) -> (Digest, u64) {
    (Digest::of(format!("a dump of {size}").as_bytes()), size)
}

#[test]
fn a_dump_comes_after_everything_and_is_broken_off_for_anything() {
    let (a, b, c) = (bundle(1, 40_000), headline(2), bundle(3, 9_000));
    let d = dump(1 << 30);
    let mut session = session(&[&b, &a]);
    session.dumps_changed(5, [d]);
    session.connected(usize::MAX, at(0));
    assert_eq!(words(&drain(&mut session, at(0))), ["headline 2", "offer 1"]);
    session.received(&stored(b.0.digest), at(0));
    session.received(&missing(a.0.digest, &[(0, 40_000)]), at(0));
    assert_eq!(words(&drain(&mut session, at(0))).last().unwrap(), "send 1 32768..40000");
    session.received(&stored(a.0.digest), at(0));
    assert_eq!(words(&drain(&mut session, at(0))), ["forget", "offer the dump"]);

    // Few chunks at once, so that nothing else waits long; and what is answered late does no harm.
    session.received(&missing(d.0, &[(0, 131_072)]), at(1));
    let mut sent = Vec::new();
    while let Some(action) = session.poll_action(at(1)) {
        sent.push(action);
    }
    assert_eq!(words(&sent), ["send the dump 0..32768", "send the dump 32768..65536"]);
    session.received(&missing(d.0, &[(0, 131_072)]), at(1));
    assert_eq!(session.poll_action(at(1)), None);
    session.parcels_changed([c.0]);
    assert_eq!(words(&drain(&mut session, at(1))), ["offer 3"]);
    for action in &sent {
        session.acknowledged(ticket(action).unwrap(), at(1));
    }
    session.received(&missing(d.0, &[(65_536, 131_072)]), at(1));
    assert_eq!(drain(&mut session, at(1)), [], "the bundle has the word");
    session.received(&missing(c.0.digest, &[(0, 9_000)]), at(2));
    assert_eq!(words(&drain(&mut session, at(2))), ["send 3 0..9000"]);
    session.received(&stored(c.0.digest), at(2));
    assert_eq!(words(&drain(&mut session, at(2))), ["forget", "offer the dump"]);
}

#[test]
fn a_spent_budget_holds_up_bundles_and_no_headline() {
    let a = bundle(1, 9_000);
    let mut session = session(&[&a]);
    session.connected(3_000, at(0));
    session.bundles_wait(Some(at(3600)));
    assert_eq!(
        (drain(&mut session, at(0)), session.poll_deadline().unwrap().0),
        (vec![], at(3600))
    );
    session.bundles_wait(None);
    assert_eq!(words(&drain(&mut session, at(3600))), ["offer 1"]);
    session.received(&missing(a.0.digest, &[(0, 9_000)]), at(3600));
    session.bundles_wait(Some(at(7200)));
    assert_eq!(drain(&mut session, at(3601)), [], "in the middle");
    assert_eq!(session.poll_deadline(), Some((at(7200), "the budget begins anew")));
    let h = headline(2);
    session.parcels_changed([h.0, a.0]);
    assert_eq!(words(&drain(&mut session, at(3601))), ["headline 2"]);
    session.bundles_wait(None);
    let words = words(&drain(&mut session, at(7200)));
    let sent = words.iter().filter(|word| word.starts_with("send 1"));
    assert_eq!(sent.count(), 3, "it goes on where it was: {words:?}");
}

#[test]
fn the_next_slice_may_be_asked_for_before_the_last_chunk_is_acknowledged() {
    let d = dump(1 << 30);
    let mut session = session(&[]);
    session.dumps_changed(5, [d]);
    session.connected(usize::MAX, at(0));
    drain(&mut session, at(0));
    session.received(&missing(d.0, &[(0, 32_768)]), at(0));
    let last = session.poll_action(at(0)).unwrap();
    session.received(&missing(d.0, &[(32_768, 65_536)]), at(0));
    let next = session.poll_action(at(0)).unwrap();
    assert_eq!(words(&[last, next]), ["send the dump 0..32768", "send the dump 32768..65536"]);
}

#[test]
fn a_controller_that_takes_nothing_now_is_asked_ever_more_rarely() {
    let d = dump(1 << 30);
    let mut session = session(&[]);
    session.dumps_changed(5, [d]);
    session.connected(usize::MAX, at(0));
    let (mut now, mut offers) = (at(0), 0);
    while now < at(86_400) {
        offers += drain(&mut session, now).len();
        session.received(&missing(d.0, &[]), now);
        now = session.poll_deadline().unwrap().0;
    }
    assert!((288..=400).contains(&offers), "{offers} in a day");
}

#[test]
fn a_dump_is_settled_until_another_message_asks_for_it() {
    let (d, e) = (dump(1 << 30), dump(1 << 20));
    let mut session = session(&[]);
    session.dumps_changed(5, [d, e]);
    session.connected(usize::MAX, at(0));
    assert_eq!(words(&drain(&mut session, at(0))), ["offer the dump"]);
    session.received(&refused(d.0), at(0));
    let settled = ["no dump: unknown device\\u{1b}[2J", "offer the dump"];
    assert_eq!(words(&drain(&mut session, at(0))), settled);
    session.received(&stored(e.0), at(0));
    assert_eq!(words(&drain(&mut session, at(0))), ["the dump is there"]);
    session.dumps_changed(5, [d, e]);
    assert_eq!((drain(&mut session, at(9999)), session.poll_deadline()), (vec![], None));
    // Cancelled, and wished for again.
    session.dumps_changed(6, []);
    session.dumps_changed(7, [d]);
    assert_eq!(words(&drain(&mut session, at(9999))), ["offer the dump"]);
    session.received(&missing(d.0, &[(0, 100_000)]), at(9999));
    session.dumps_changed(8, []);
    assert_eq!(drain(&mut session, at(9999)), [], "it was taken back in the middle");
}

proptest! {
    #[test]
    fn rubbish_on_the_receipt_topic_never_panics(payload: Vec<u8>) {
        let a = bundle(1, 9000);
        let mut session = session(&[&a]);
        session.connected(usize::MAX, at(0));
        drain(&mut session, at(0));
        session.received(&payload, at(1));
        prop_assert!(drain(&mut session, at(99)).len() < 10);
    }
}

/// A controller as simple as it can be, with a store that survives and the rest that does not.
#[derive(Default)]
struct Controller {
    stored: BTreeMap<Digest, Vec<u8>>,
    parts: BTreeMap<Digest, Parts>,
    /// How dumps begin, as far as they are here.
    dumps: BTreeMap<Digest, Vec<u8>>,
    refuses: BTreeSet<Digest>,
}

struct Parts {
    bytes: Vec<u8>,
    there: Vec<bool>,
}

impl Controller {
    fn headline(&mut self, payload: &[u8]) -> Option<Vec<u8>> {
        let digest = Digest::of(payload);
        if self.refuses.contains(&digest) {
            return Some(refused(digest));
        }
        self.stored.insert(digest, payload.to_vec());
        Some(stored(digest))
    }

    fn chunk(&mut self, payload: &[u8]) -> Option<Vec<u8>> {
        let chunk = v1::Chunk::decode(payload).unwrap();
        let digest = Digest::try_from(chunk.digest.as_slice()).unwrap();
        if self.refuses.contains(&digest) {
            return Some(refused(digest));
        }
        if self.stored.contains_key(&digest) {
            return Some(stored(digest));
        }
        if chunk.dump {
            return self.dump(digest, &chunk);
        }
        let total = chunk.total as usize;
        let new = || Parts { bytes: vec![0; total], there: vec![false; total] };
        let parts = self.parts.entry(digest).or_insert_with(new);
        let range = chunk.offset as usize..chunk.offset as usize + chunk.data.len();
        parts.bytes[range.clone()].copy_from_slice(&chunk.data);
        parts.there[range].fill(true);
        if parts.there.iter().all(|there| *there) {
            let bytes = self.parts.remove(&digest).unwrap().bytes;
            self.stored.insert(digest, bytes);
            return Some(stored(digest));
        }
        chunk.data.is_empty().then(|| missing(digest, &parts.missing()))
    }

    /// Takes what continues what is here, and asks for the next slice when one is whole.
    fn dump(&mut self, digest: Digest, chunk: &v1::Chunk) -> Option<Vec<u8>> {
        let here = self.dumps.entry(digest).or_default();
        let before = here.len() as u64;
        if chunk.offset <= before {
            let known = (before - chunk.offset) as usize;
            here.extend_from_slice(chunk.data.get(known..).unwrap_or_default());
        }
        let len = here.len() as u64;
        if len == chunk.total {
            let bytes = self.dumps.remove(&digest).unwrap();
            self.stored.insert(digest, bytes);
            return Some(stored(digest));
        }
        let next = chunk.total.min((len / SLICE + 1) * SLICE);
        let asks = chunk.data.is_empty() || len / SLICE != before / SLICE;
        asks.then(|| missing(digest, &[(len, next)]))
    }
}

/// What the controller asks for at once of a dump.
const SLICE: u64 = 9_000;

impl Parts {
    fn missing(&self) -> Vec<(u64, u64)> {
        let gaps = self.there.chunk_by(|a, b| a == b);
        let mut start = 0;
        let ranges = gaps.filter_map(|gap| {
            let range = (start, start + gap.len() as u64);
            start = range.1;
            (!gap[0]).then_some(range)
        });
        ranges.collect()
    }
}

#[derive(Clone, Debug)]
enum Packet {
    Headline(Vec<u8>),
    Chunk(Vec<u8>),
    Receipt(Vec<u8>),
    Ack(Ticket),
}

struct World {
    seed: u64,
    dice: Dice,
    now: Instant,
    session: Session,
    spool: BTreeMap<(Kind, u8), (Waiting, Vec<u8>)>,
    /// All that was ever spooled.
    everything: BTreeMap<Digest, Vec<u8>>,
    aside: BTreeSet<Digest>,
    /// What the controller may have, until it has it.
    lent: BTreeMap<Digest, Vec<u8>>,
    controller: Controller,
    up: bool,
    /// What is on its way, by the time of arrival.
    air: BTreeMap<(Instant, u64), Packet>,
    sent: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            seed,
            dice: Dice::new(seed),
            now: at(100),
            session: Session::new(seed),
            spool: BTreeMap::new(),
            everything: BTreeMap::new(),
            aside: BTreeSet::new(),
            lent: BTreeMap::new(),
            controller: Controller::default(),
            up: false,
            air: BTreeMap::new(),
            sent: 0,
        }
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.dice.roll(n) == 0
    }

    /// Any packet may be lost, doubled, and overtaken.
    fn send(&mut self, packet: &Packet) {
        let copies = [0, 1, 1, 1, 1, 2][self.dice.roll(6) as usize];
        for _ in 0..copies {
            let delay = Duration::from_millis(20 + self.dice.roll(4000));
            self.sent += 1;
            self.air.insert((self.now + delay, self.sent), packet.clone());
        }
    }

    fn waiting(&self) -> Vec<Waiting> {
        self.spool.values().map(|(waiting, _)| *waiting).collect()
    }

    fn act(&mut self) {
        let mut bound = 0;
        while let Some(action) = self.session.poll_action(self.now) {
            bound += 1;
            assert!(bound < 1000, "seed {}: the session never has enough", self.seed);
            assert!(self.session.flight.len() <= WINDOW, "seed {}", self.seed);
            self.perform(&action);
        }
    }

    /// The bytes of what is sent.
    fn bytes(&self, item: Item) -> &[u8] {
        match item {
            Item::Parcel(parcel) => &self.spool[&(parcel.kind, name(&parcel))].1,
            Item::Dump { digest, .. } => &self.lent[&digest],
        }
    }

    fn perform(&mut self, action: &Action) {
        match action {
            Action::PublishHeadline { parcel, .. } => {
                let headline = self.bytes(Item::Parcel(*parcel)).to_vec();
                self.send(&Packet::Headline(headline));
            }
            Action::Offer { item, .. } => {
                self.send(&Packet::Chunk(chunk(*item, 0, Vec::new())));
            }
            Action::SendChunk { item, range, .. } => {
                let part = self.bytes(*item)[range.start as usize..range.end as usize].to_vec();
                self.send(&Packet::Chunk(chunk(*item, range.start, part)));
            }
            Action::Settled { digest, refused } => {
                let is_there = self.controller.stored.contains_key(digest);
                assert_eq!(is_there, refused.is_none(), "seed {}", self.seed);
                self.lent.remove(digest);
                if !is_there {
                    self.aside.insert(*digest);
                }
            }
            Action::Forget { digest } => {
                assert!(self.controller.stored.contains_key(digest), "seed {}", self.seed);
                self.spool.retain(|_, (waiting, _)| waiting.digest != *digest);
            }
            Action::SetAside { digest, .. } => {
                assert!(self.controller.refuses.contains(digest), "seed {}", self.seed);
                self.spool.retain(|_, (waiting, _)| waiting.digest != *digest);
                self.aside.insert(*digest);
            }
        }
        if let Some(ticket) = ticket(action) {
            // The broker acknowledges as long as it is there, and not always in order.
            self.sent += 1;
            let delay = Duration::from_millis(10 + self.dice.roll(50));
            self.air.insert((self.now + delay, self.sent), Packet::Ack(ticket));
        }
        self.tell();
    }

    fn tell(&mut self) {
        let waiting = self.waiting();
        self.session.parcels_changed(waiting);
        let lent = self.lent.iter().map(|(digest, bytes)| (*digest, bytes.len() as u64));
        self.session.dumps_changed(1, lent);
    }

    /// Goes to the next thing that happens by itself.
    fn pass(&mut self) {
        let arrival = self.air.first_key_value().map(|((at, _), _)| *at);
        let deadline = self.session.poll_deadline().map(|(at, _)| at);
        let next = arrival.into_iter().chain(deadline).min();
        self.now = self.now.max(next.unwrap_or(self.now + Duration::from_secs(1)));
        let Some(entry) = self.air.first_entry().filter(|e| e.key().0 <= self.now) else { return };
        let answer = match entry.remove() {
            Packet::Headline(payload) => self.controller.headline(&payload),
            Packet::Chunk(payload) => self.controller.chunk(&payload),
            Packet::Receipt(_) if !self.up => None,
            Packet::Receipt(payload) => {
                self.session.received(&payload, self.now);
                None
            }
            Packet::Ack(ticket) => {
                self.session.acknowledged(ticket, self.now);
                None
            }
        };
        answer.into_iter().for_each(|receipt| self.send(&Packet::Receipt(receipt)));
    }

    fn disturb(&mut self) {
        match self.dice.roll(40) {
            0..=2 if self.up => self.go_down(),
            0..=9 if !self.up => self.go_up(),
            10 => {
                // The device restarts: the spool is all that it remembers.
                self.go_down();
                self.session = Session::new(self.seed + self.sent);
                self.tell();
            }
            11 => self.controller.parts.clear(),
            // The controller dies, and with it what was not on its disk yet.
            15 => self.controller.dumps.values_mut().for_each(|here| {
                here.truncate(here.len() - here.len() % SLICE as usize);
            }),
            16 if self.lent.len() < 3 => self.lend(),
            12..=14 => {
                let name = self.dice.roll(200) as u8;
                let kind = if self.one_in(2) { Kind::Headline } else { Kind::Bundle };
                let size = if kind == Kind::Headline { 900 } else { 1 + self.dice.roll(30_000) };
                self.add(parcel(kind, name, size));
            }
            _ => {}
        }
    }

    fn add(&mut self, parcel: (Waiting, Vec<u8>)) {
        let key = (parcel.0.kind, name(&parcel.0));
        let used = self.spool.contains_key(&key) || self.spool.len() > 20;
        if used || self.controller.stored.contains_key(&parcel.0.digest) {
            return;
        }
        if self.one_in(8) {
            self.controller.refuses.insert(parcel.0.digest);
        }
        self.everything.insert(parcel.0.digest, parcel.1.clone());
        self.spool.insert(key, parcel);
        self.tell();
    }

    fn lend(&mut self) {
        let size = 1 + self.dice.roll(60_000);
        let bytes: Vec<u8> = (0..size).map(|i| (i / 253) as u8 ^ (i * size) as u8).collect();
        let digest = Digest::of(&bytes);
        if self.everything.contains_key(&digest) {
            return;
        }
        if self.one_in(8) {
            self.controller.refuses.insert(digest);
        }
        self.everything.insert(digest, bytes.clone());
        self.lent.insert(digest, bytes);
        self.tell();
    }

    fn go_down(&mut self) {
        self.up = false;
        self.session.disconnected();
        self.air.retain(|_, packet| !matches!(packet, Packet::Ack(_)));
    }

    fn go_up(&mut self) {
        self.up = true;
        self.session.connected(3000, self.now);
    }
}

#[test]
fn every_parcel_arrives_once_or_is_refused() {
    for seed in 0..100 {
        simulate(seed);
    }
}

fn simulate(seed: u64) {
    let mut world = World::new(seed);
    for _ in 0..1500 {
        world.disturb();
        world.act();
        world.pass();
    }
    // Nobody restarts any more, but messages go on being lost: patience alone must find out.
    if !world.up {
        world.go_up();
    }
    let calm = world.now;
    while !(world.spool.is_empty() && world.lent.is_empty()) {
        world.act();
        world.pass();
        let took = world.now.since(calm);
        assert!(took < Duration::from_secs(6 * 3600), "seed {seed}: {:?} wait", world.waiting());
    }
    assert!(!world.everything.is_empty(), "seed {seed} did nothing");
    for (digest, bytes) in world.everything {
        if world.aside.contains(&digest) {
            assert!(!world.controller.stored.contains_key(&digest), "seed {seed}");
        } else {
            assert_eq!(world.controller.stored[&digest], bytes, "seed {seed}");
        }
    }
}
