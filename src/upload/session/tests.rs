//! The session by its own deadlines, and a simulation against a naive controller by one seed.

use super::*;
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
    (Waiting { digest: Digest::of(&bytes), kind, incident, size }, bytes)
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
        Action::Forget { .. } | Action::SetAside { .. } => None,
    }
}

fn words(actions: &[Action]) -> Vec<String> {
    let word = |action: &Action| match action {
        Action::PublishHeadline { parcel, .. } => format!("headline {}", name(parcel)),
        Action::Offer { parcel, .. } => format!("offer {}", name(parcel)),
        Action::SendChunk { parcel, range, .. } => format!("send {} {range:?}", name(parcel)),
        Action::Forget { .. } => "forget".to_owned(),
        Action::SetAside { reason, .. } => format!("set aside: {reason}"),
    };
    actions.iter().map(word).collect()
}

fn name(parcel: &Waiting) -> u8 {
    parcel.incident.as_bytes()[0]
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
}

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

    fn perform(&mut self, action: &Action) {
        let bytes = |spool: &BTreeMap<_, (Waiting, Vec<u8>)>, parcel: &Waiting| {
            spool[&(parcel.kind, name(parcel))].1.clone()
        };
        match action {
            Action::PublishHeadline { parcel, .. } => {
                self.send(&Packet::Headline(bytes(&self.spool, parcel)));
            }
            Action::Offer { parcel, .. } => self.send(&Packet::Chunk(chunk(parcel, 0, &[]))),
            Action::SendChunk { parcel, range, .. } => {
                let part = &bytes(&self.spool, parcel)[range.start as usize..range.end as usize];
                self.send(&Packet::Chunk(chunk(parcel, range.start, part)));
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
        let waiting = self.waiting();
        self.session.parcels_changed(waiting);
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
                let waiting = self.waiting();
                self.session.parcels_changed(waiting);
            }
            11 => self.controller.parts.clear(),
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
        let waiting = self.waiting();
        self.session.parcels_changed(waiting);
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
    while !world.spool.is_empty() {
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
