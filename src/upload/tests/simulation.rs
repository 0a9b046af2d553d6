//! Lives of a device's spool and upload against a controller, as a seed has them: crashes in the middle of a
//! write, torn files, syncs that fail, full disks, a vault that is locked, slow and broken links, sessions that
//! are lost, messages that are lost, doubled and overtaken, brokers and controllers that restart, and a spool that
//! is too small.
//!
//! The spool (over a disk that fails) and the session are the real ones. The controller is a small model of
//! what `controller::receive` promises, as the real one syncs a database for every message: chunks and receipts
//! are kept by digest, a message counts whole or not at all, and it answers only for what it has kept.
//!
//! What must hold of every parcel of which `put` or a later `settle` said that it is on disk: in the end the
//! controller has stored it exactly once and byte for byte; or it is a headline, and a newer one of its incident
//! took its place; or it is a bundle that the spool has dropped by its rules, and counted.
//!
//! `LIFESIGN_SIMULATE_STEPS` steps are played, from `LIFESIGN_SIMULATE_SEED` on, a seed a life. A failure prints
//! its seed. `hack/simulate spool` plays a million.

use crate::base::id::{Digest, IncidentId};
use crate::base::time::{Instant, Timestamp};
use crate::pb::v1;
use crate::spool::faulty::{Dice, Faulty};
use crate::spool::{
    DiskError, Facts, Files, Kind, Limits, Mark, Parcel, ReadError, Room, Shelf, Spool, Waiting,
};
use crate::upload::session::{self, Action, Session, Ticket};
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

/// What a test plays that nobody asked for more.
const STEPS: u64 = 20_000;

/// Of one life: the disk of a test never forgets a file.
const LIFE: u64 = 1000;

/// A connection carries so much in one message: a bundle has several chunks.
const CONTENT: usize = 700;

const LIMITS: Limits = Limits {
    bytes: 20_000,
    parcels: 24,
    held_bytes: 12_000,
    free_percent: 0,
    age: Duration::from_secs(20_000),
};

#[test]
fn what_was_announced_arrives_once_or_its_end_is_counted() {
    let number = |name: &str, otherwise| match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|e| panic!("{name} is `{text}`: {e}")),
        Err(_) => otherwise,
    };
    let steps = number("LIFESIGN_SIMULATE_STEPS", STEPS);
    let first = number("LIFESIGN_SIMULATE_SEED", 0);
    let (mut seen, mut seed) = (Seen::default(), first);
    while seen.steps < steps {
        if let Err(why) = live(seed, |disk| disk, None, &mut seen) {
            panic!("LIFESIGN_SIMULATE_SEED={seed}: {why}");
        }
        seed = seed.wrapping_add(1);
    }
    println!("{} steps in {} lives, seeds {first}..{seed}", seen.steps, seed.wrapping_sub(first));
    seen.words.iter().for_each(|(word, count)| println!("{count:>10} {word}"));
    if steps >= STEPS {
        seen.is_everything();
    }
}

#[test]
fn a_rule_that_is_broken_on_purpose_is_caught() {
    let caught = |what: &str, one: &dyn Fn(u64) -> Result<(), String>| {
        let why = (0..100).find_map(|seed| one(seed).err());
        let why = why.unwrap_or_else(|| panic!("{what} is not caught by 100 seeds"));
        println!("{what}: {why}");
    };
    caught("a file that is not synced", &|seed| {
        live(seed, Careless::content, None, &mut Seen::default())
    });
    caught("a name that is not synced", &|seed| {
        live(seed, Careless::names, None, &mut Seen::default())
    });
    for bug in [Bug::EarlyReceipt, Bug::StoredTwice, Bug::SilentEviction, Bug::ForgottenUnasked] {
        caught(&format!("{bug:?}"), &|seed| {
            live(seed, |disk| disk, Some(bug), &mut Seen::default())
        });
    }
}

/// A rule that is broken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Bug {
    /// The controller says that it has stored what has only begun to come.
    EarlyReceipt,
    /// It stores what it has once more.
    StoredTwice,
    /// The spool lets go of a bundle, and does not count it.
    SilentEviction,
    /// The device forgets a bundle as soon as it was offered.
    ForgottenUnasked,
}

/// What was met, so that nobody takes an empty simulation for a good one.
#[derive(Default)]
struct Seen {
    steps: u64,
    words: BTreeMap<&'static str, u64>,
}

impl Seen {
    fn note(&mut self, word: &'static str) {
        *self.words.entry(word).or_default() += 1;
    }

    fn is_everything(&self) {
        let words = [
            "crash",
            "power cut in a write",
            "full disk",
            "broken disk",
            "locked vault",
            "slow link",
            "lost session",
            "lost",
            "doubled",
            "broker restarts",
            "controller restarts",
            "evicted",
            "in memory",
            "a headline is replaced",
            "stored",
            "known already",
        ];
        for word in words {
            let count = self.words.get(word).copied().unwrap_or_default();
            assert!(count >= 5, "`{word}` was met {count} times: the simulation tries too little");
        }
    }
}

/// A disk whose syncs are left out.
struct Careless {
    disk: Faulty,
    content: bool,
}

impl Careless {
    fn content(disk: Faulty) -> Self {
        Self { disk, content: true }
    }

    fn names(disk: Faulty) -> Self {
        Self { disk, content: false }
    }
}

impl Files for Careless {
    fn open(&mut self) -> Result<(), DiskError> {
        self.disk.open()
    }
    fn names(&self, shelf: Shelf) -> io::Result<Vec<String>> {
        Files::names(&self.disk, shelf)
    }
    fn facts(&self, shelf: Shelf, name: &str) -> io::Result<Facts> {
        self.disk.facts(shelf, name)
    }
    fn read(&self, shelf: Shelf, name: &str, limit: u64) -> io::Result<Vec<u8>> {
        self.disk.read(shelf, name, limit)
    }
    fn write(&mut self, name: &str, header: &[u8], content: &[u8]) -> io::Result<()> {
        self.disk.write(name, header, content)
    }
    fn sync_file(&mut self, name: &str) -> io::Result<()> {
        if self.content { Ok(()) } else { self.disk.sync_file(name) }
    }
    fn rename(&mut self, name: &str, shelf: Shelf, to: &str) -> io::Result<()> {
        self.disk.rename(name, shelf, to)
    }
    fn remove(&mut self, shelf: Shelf, name: &str) -> io::Result<()> {
        self.disk.remove(shelf, name)
    }
    fn sync_names(&mut self) -> io::Result<()> {
        if self.content { self.disk.sync_names() } else { Ok(()) }
    }
    fn room(&self) -> io::Result<Room> {
        self.disk.room()
    }
    fn now(&self) -> Timestamp {
        self.disk.now()
    }
}

// === the controller ===

/// What it has on its disk. It has nothing else, so a restart costs it no more than what is on its way.
#[derive(Default)]
struct Controller {
    stored: BTreeMap<Digest, Vec<u8>>,
    /// How often each came to be stored.
    times: BTreeMap<Digest, u64>,
    chunks: BTreeMap<Digest, BTreeMap<u64, Vec<u8>>>,
}

impl Controller {
    /// Takes a message, and says what it answers.
    fn take(&mut self, packet: &Packet, bug: Option<Bug>) -> Option<Vec<u8>> {
        match packet {
            Packet::Headline(bytes) => {
                let digest = Digest::of(bytes);
                if !self.stored.contains_key(&digest) || bug == Some(Bug::StoredTwice) {
                    self.store(digest, bytes.clone());
                }
                Some(stored(digest))
            }
            Packet::Chunk(payload) => self.chunk(payload, bug),
            Packet::Receipt(_) | Packet::Acknowledged(_) => None,
        }
    }

    fn chunk(&mut self, payload: &[u8], bug: Option<Bug>) -> Option<Vec<u8>> {
        let v1::Chunk { digest, total, offset, data, .. } = v1::Chunk::decode(payload).ok()?;
        let digest = Digest::try_from(digest.as_slice()).ok()?;
        if self.stored.contains_key(&digest) {
            return Some(stored(digest));
        }
        let chunks = self.chunks.entry(digest).or_default();
        if data.is_empty() {
            return Some(missing(digest, chunks, total));
        }
        chunks.insert(offset, data);
        if bug == Some(Bug::EarlyReceipt) {
            return Some(stored(digest));
        }
        let here: u64 = chunks.values().map(|data| data.len() as u64).sum();
        if here < total {
            return None;
        }
        let bytes: Vec<u8> = chunks.values().flatten().copied().collect();
        self.chunks.remove(&digest);
        if Digest::of(&bytes) == digest {
            self.store(digest, bytes);
        }
        self.stored.contains_key(&digest).then(|| stored(digest))
    }

    fn store(&mut self, digest: Digest, bytes: Vec<u8>) {
        self.stored.insert(digest, bytes);
        *self.times.entry(digest).or_default() += 1;
    }
}

fn stored(digest: Digest) -> Vec<u8> {
    receipt(digest, v1::receipt::Word::Stored(v1::Stored {}))
}

fn missing(digest: Digest, chunks: &BTreeMap<u64, Vec<u8>>, total: u64) -> Vec<u8> {
    let (mut ranges, mut start) = (Vec::new(), 0);
    let ends = chunks.iter().map(|(offset, data)| (*offset, offset + data.len() as u64));
    for (next, end) in ends.chain([(total, total)]) {
        if start < next {
            ranges.push(v1::Range { start, end: next });
        }
        start = end;
    }
    receipt(digest, v1::receipt::Word::Missing(v1::Missing { ranges }))
}

fn receipt(digest: Digest, word: v1::receipt::Word) -> Vec<u8> {
    let digest = digest.as_bytes().to_vec();
    v1::Receipt { digest, word: Some(word) }.encode_to_vec()
}

// === the world ===

#[derive(Clone, Debug)]
enum Packet {
    Headline(Vec<u8>),
    Chunk(Vec<u8>),
    Receipt(Vec<u8>),
    Acknowledged(Ticket),
}

struct World<F> {
    dice: Dice,
    bug: Option<Bug>,
    now: Instant,
    disk: Faulty,
    wrap: fn(Faulty) -> F,
    spool: Spool<F>,
    session: Session,
    controller: Controller,
    is_up: bool,
    /// What a message takes at most, in milliseconds.
    slow: u64,
    air: BTreeMap<(Instant, u64), Packet>,
    sent: u64,
    /// Every parcel that was ever put.
    known: BTreeMap<Digest, Parcel>,
    /// Those that are on disk, and for which the device answers.
    promised: BTreeSet<Digest>,
    /// Those that the spool has dropped and counted.
    dropped: BTreeSet<Digest>,
    /// Of those that were promised, so many were dropped.
    ended: u64,
    incidents: u64,
}

fn live<F: Files>(
    seed: u64,
    wrap: fn(Faulty) -> F,
    bug: Option<Bug>,
    seen: &mut Seen,
) -> Result<(), String> {
    let mut world = World::new(seed, wrap, bug);
    for _ in 0..LIFE {
        seen.steps += 1;
        world.happens(seen)?;
        world.act(seen)?;
        world.pass(seen);
        world.look(seen)?;
    }
    world.calm_down(seen)?;
    world.judge()
}

impl<F: Files> World<F> {
    fn new(seed: u64, wrap: fn(Faulty) -> F, bug: Option<Bug>) -> Self {
        let disk = Faulty::new(seed);
        let (spool, _) = Spool::over(wrap(disk.clone()), LIMITS).unwrap();
        Self {
            dice: Dice(seed),
            bug,
            now: Instant::from_millis(100_000),
            disk,
            wrap,
            spool,
            session: Session::new(seed),
            controller: Controller::default(),
            is_up: false,
            slow: 2000,
            air: BTreeMap::new(),
            sent: 0,
            known: BTreeMap::new(),
            promised: BTreeSet::new(),
            dropped: BTreeSet::new(),
            ended: 0,
            incidents: 0,
        }
    }

    /// One letter of the alphabet.
    fn happens(&mut self, seen: &mut Seen) -> Result<(), String> {
        match self.dice.roll(60) {
            0..=5 => self.incident(seen),
            6 => self.crash(seen)?,
            7 => self.disk.with(|d| d.crash_at = Some(d.steps + self.dice.roll(10))),
            8 => {
                seen.note("full disk");
                self.disk.with(|d| d.free = self.dice.roll(30_000));
            }
            9 => {
                seen.note("broken disk");
                self.disk.with(|d| d.fails_one_in = 2 + self.dice.roll(4));
            }
            10..=12 => self.mend(),
            13 => {
                seen.note("slow link");
                self.slow = 30_000;
            }
            14 => self.slow = 2000,
            15..=16 if self.is_up => {
                seen.note("lost session");
                self.go_down();
            }
            17 => {
                seen.note("broker restarts");
                self.go_down();
                self.air.clear();
            }
            18 => {
                // Whatever it was just told never came to be.
                seen.note("controller restarts");
                let is_ours = |packet: &Packet| matches!(packet, Packet::Acknowledged(_));
                self.air.retain(|_, packet| is_ours(packet));
            }
            19..=20 => self.settle(),
            21 => self.disk.with(|d| {
                d.now = Timestamp::from_millis(d.now.as_millis() + 3_000_000);
            }),
            22 if self.bug == Some(Bug::SilentEviction) => self.lose_a_bundle(),
            23..=32 if !self.is_up => self.go_up(),
            _ => {}
        }
        if self.disk.crashed() {
            seen.note("power cut in a write");
            self.crash(seen)?;
        }
        Ok(())
    }

    fn mend(&mut self) {
        self.disk.with(|d| (d.free, d.fails_one_in) = (1 << 20, 0));
    }

    fn incident(&mut self, seen: &mut Seen) {
        let old = self.incidents > 0 && self.dice.one_in(3);
        let name = if old { self.dice.roll(self.incidents) } else { self.incidents };
        self.incidents = self.incidents.max(name + 1);
        let mut id = [0; 16];
        id[..8].copy_from_slice(&name.to_le_bytes());
        let incident = IncidentId::new(id);
        self.sent += 1;
        let bytes = format!("{name} revision {}", self.sent).into_bytes();
        let mark = Mark::default();
        self.put(Parcel { kind: Kind::Headline, incident, mark, bytes }, seen);
        if !old {
            let size = 1 + self.dice.roll(4000);
            let salt = name.wrapping_mul(0x9e37_79b9);
            let bytes = (0..size).map(|i| (i.wrapping_mul(salt + i) >> 7) as u8);
            let bytes = name.to_le_bytes().into_iter().chain(bytes).collect();
            let mark = Mark::of(["", "a", "b", "c"][self.dice.roll(4) as usize]);
            self.put(Parcel { kind: Kind::Bundle, incident, mark, bytes }, seen);
        }
        self.tell();
    }

    fn put(&mut self, parcel: Parcel, seen: &mut Seen) {
        self.known.insert(parcel.digest(), parcel.clone());
        if parcel.kind == Kind::Headline {
            // From now on either may be what is found.
            let is_older =
                |old: &Parcel| old.kind == Kind::Headline && old.incident == parcel.incident;
            let before = self.promised.len();
            self.promised.retain(|old| !is_older(&self.known[old]));
            if self.promised.len() < before {
                seen.note("a headline is replaced");
            }
        }
        // What it answers is seen by what is on disk afterwards.
        if self.spool.put(parcel).is_err() {
            seen.note("no room at all");
        }
    }

    fn settle(&mut self) {
        let _ = self.spool.settle();
        self.tell();
    }

    /// After every step: what is on disk is promised, and what went has a reason.
    fn look(&mut self, seen: &mut Seen) -> Result<(), String> {
        if self.disk.crashed() {
            return Ok(());
        }
        for gone in self.spool.gone() {
            if self.dropped.insert(gone.digest) {
                seen.note("evicted");
            }
        }
        let waiting: BTreeSet<Digest> = self.spool.waiting().map(|w| w.digest).collect();
        let gone: Vec<Digest> = self.promised.difference(&waiting).copied().collect();
        for digest in gone {
            let is_bundle = self.known[&digest].kind == Kind::Bundle;
            if is_bundle && self.dropped.contains(&digest) {
                self.ended += 1;
            } else if !self.controller.stored.contains_key(&digest) {
                return Err(format!("{digest} is neither here nor there"));
            }
            self.promised.remove(&digest);
        }
        let counted = self.spool.usage().evicted;
        if self.ended > counted {
            return Err(format!("{} were dropped, and {counted} counted", self.ended));
        }
        let on_disk = self.spool.waiting().filter(|w| self.spool.is_on_disk(w.digest));
        self.promised.extend(on_disk.map(|w| w.digest));
        if self.spool.usage().held > 0 {
            seen.note("in memory");
        }
        Ok(())
    }

    /// The power goes, and the device starts again.
    fn crash(&mut self, seen: &mut Seen) -> Result<(), String> {
        seen.note("crash");
        self.go_down();
        self.disk.crash(&mut self.dice);
        self.mend();
        let is_locked = self.dice.one_in(4);
        self.disk.with(|d| d.is_absent = is_locked);
        let opened = Spool::over_or_wait((self.wrap)(self.disk.clone()), LIMITS);
        let (spool, report) = opened.map_err(|error| error.to_string())?;
        self.spool = spool;
        if is_locked {
            seen.note("locked vault");
            self.sent += 1;
            let incident = IncidentId::new([0xff; 16]);
            let (mark, bytes) = (Mark::default(), format!("locked {}", self.sent).into_bytes());
            self.put(Parcel { kind: Kind::Headline, incident, mark, bytes }, seen);
            self.disk.with(|d| d.is_absent = false);
            // It may still be too full for what was held.
            let _ = self.spool.settle();
        }
        if !report.damaged.is_empty() {
            return Err(format!("damaged: {:?}", report.damaged));
        }
        self.session = Session::new(self.sent);
        self.tell();
        self.look(seen)
    }

    fn lose_a_bundle(&mut self) {
        let bundle = self.spool.waiting().find(|w| w.kind == Kind::Bundle);
        let Some(bundle) = bundle else { return };
        self.spool.forget(bundle.digest);
    }

    // --- the link ---

    fn go_up(&mut self) {
        self.is_up = true;
        self.session.connected(CONTENT, self.now);
    }

    fn go_down(&mut self) {
        self.is_up = false;
        self.session.disconnected();
        self.air.retain(|_, packet| !matches!(packet, Packet::Acknowledged(_)));
    }

    /// Any message may be lost, doubled, and overtaken.
    fn send(&mut self, packet: &Packet, seen: &mut Seen) {
        let copies = [0, 1, 1, 1, 1, 1, 2][self.dice.roll(7) as usize];
        match copies {
            0 => seen.note("lost"),
            2 => seen.note("doubled"),
            _ => {}
        }
        for _ in 0..copies {
            self.later(packet.clone(), 20 + self.slow);
        }
    }

    fn later(&mut self, packet: Packet, most: u64) {
        self.sent += 1;
        let delay = Duration::from_millis(10 + self.dice.roll(most));
        self.air.insert((self.now + delay, self.sent), packet);
    }

    fn tell(&mut self) {
        let waiting: Vec<Waiting> = self.spool.waiting().collect();
        self.session.parcels_changed(waiting);
    }

    fn act(&mut self, seen: &mut Seen) -> Result<(), String> {
        for _ in 0..1000 {
            let Some(action) = self.session.poll_action(self.now) else { return Ok(()) };
            self.perform(&action, seen);
        }
        Err("the session never has enough".to_owned())
    }

    fn perform(&mut self, action: &Action, seen: &mut Seen) {
        let (ticket, packet) = match action {
            Action::PublishHeadline { ticket, parcel } => {
                (*ticket, self.read(parcel.digest).map(Packet::Headline))
            }
            Action::Offer { ticket, item } => {
                if self.bug == Some(Bug::ForgottenUnasked) {
                    self.spool.forget(item.digest());
                }
                (*ticket, Some(Packet::Chunk(session::chunk(*item, 0, Vec::new()))))
            }
            Action::SendChunk { ticket, item, range } => {
                let cut = |bytes: Vec<u8>| bytes[range.start as usize..range.end as usize].to_vec();
                let data = self.read(item.digest()).map(cut);
                let chunk = data.map(|data| session::chunk(*item, range.start, data));
                (*ticket, chunk.map(Packet::Chunk))
            }
            Action::Forget { digest } => {
                self.spool.forget(*digest);
                return self.tell();
            }
            Action::SetAside { .. } | Action::Settled { .. } => return,
        };
        match packet {
            Some(packet) => {
                self.send(&packet, seen);
                // The broker acknowledges as long as it is there, and not always in order.
                self.later(Packet::Acknowledged(ticket), 50);
            }
            None => self.session.acknowledged(ticket, self.now),
        }
    }

    fn read(&mut self, digest: Digest) -> Option<Vec<u8>> {
        match self.spool.read(digest) {
            Ok(bytes) => Some(bytes),
            Err(ReadError::Disk { .. }) => None,
            Err(ReadError::Unknown(_) | ReadError::Corrupt { .. }) => {
                self.tell();
                None
            }
        }
    }

    /// Goes to the next thing that happens by itself.
    fn pass(&mut self, seen: &mut Seen) {
        let arrival = self.air.first_key_value().map(|((at, _), _)| *at);
        let deadline = self.session.poll_deadline().map(|(at, _)| at);
        let next = arrival.into_iter().chain(deadline).min();
        self.now = self.now.max(next.unwrap_or(self.now + Duration::from_secs(1)));
        let Some(entry) = self.air.first_entry().filter(|e| e.key().0 <= self.now) else { return };
        let packet = entry.remove();
        match &packet {
            Packet::Receipt(payload) if self.is_up => {
                self.session.received(payload, self.now);
            }
            Packet::Receipt(_) => {}
            Packet::Acknowledged(ticket) => self.session.acknowledged(*ticket, self.now),
            Packet::Headline(_) | Packet::Chunk(_) => {
                let before = self.controller.stored.len();
                let answer = self.controller.take(&packet, self.bug);
                let is_new = self.controller.stored.len() > before;
                seen.note(if is_new { "stored" } else { "known already" });
                answer.into_iter().for_each(|answer| self.send(&Packet::Receipt(answer), seen));
            }
        }
    }

    // --- the end ---

    /// Nothing breaks any more, but messages go on being lost: patience alone must find out.
    fn calm_down(&mut self, seen: &mut Seen) -> Result<(), String> {
        self.mend();
        self.disk.with(|d| d.crash_at = None);
        self.settle();
        self.look(seen)?;
        self.slow = 2000;
        if !self.is_up {
            self.go_up();
        }
        let calm = self.now;
        while self.spool.waiting().next().is_some() {
            self.settle();
            self.act(seen)?;
            self.pass(seen);
            self.look(seen)?;
            if self.now.since(calm) > Duration::from_secs(24 * 3600) {
                return Err(format!("still waiting: {:?}", self.spool.waiting().next()));
            }
        }
        Ok(())
    }

    fn judge(&self) -> Result<(), String> {
        let Controller { stored, times, .. } = &self.controller;
        if stored.is_empty() {
            return Err("nothing arrived at all".to_owned());
        }
        for (digest, bytes) in stored {
            if self.known.get(digest).map(|parcel| &parcel.bytes) != Some(bytes) {
                return Err(format!("{digest} arrived as something else"));
            }
            if times[digest] != 1 {
                return Err(format!("{digest} was stored {} times", times[digest]));
            }
        }
        match self.promised.iter().find(|digest| !stored.contains_key(digest)) {
            Some(digest) => Err(format!("{digest} was promised, and never arrived")),
            None => Ok(()),
        }
    }
}
