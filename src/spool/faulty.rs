//! A disk for tests that fails where it is told to, and forgets at a crash what was not synced.
//!
//! A crash is as unkind as a real one may be: of the names changed since the last sync any subset
//! survives, and a file that was not synced is cut anywhere or filled with zeros.

use super::files::{DiskError, Facts, Files, Room, Shelf};
use crate::base::time::Timestamp;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;

/// Numbers that a seed determines: SplitMix64.
#[derive(Clone, Debug)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below.max(1)
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.roll(n) == 0
    }
}

type Place = (Shelf, String);

#[derive(Clone, Debug, Default)]
struct Inode {
    bytes: Vec<u8>,
    synced: Option<Vec<u8>>,
    written: Timestamp,
}

#[derive(Clone, Debug)]
enum Change {
    Link(Place, usize),
    Move(Place, Place, usize),
    Unlink(Place),
}

#[derive(Debug, Default)]
pub(crate) struct State {
    inodes: Vec<Inode>,
    names: BTreeMap<Place, usize>,
    names_synced: BTreeMap<Place, usize>,
    unsynced: Vec<Change>,
    pub(crate) steps: u64,
    /// The power goes at this step.
    pub(crate) crash_at: Option<u64>,
    /// Bytes that still fit.
    pub(crate) free: u64,
    /// From this step on none does.
    pub(crate) full_at: Option<u64>,
    /// The disk is not mounted.
    pub(crate) is_absent: bool,
    /// By its clock.
    pub(crate) now: Timestamp,
    /// One in so many operations fails; 0 for none.
    pub(crate) fails_one_in: u64,
    dice: u64,
}

/// The disk; clones are the same disk.
#[derive(Clone, Debug)]
pub(crate) struct Faulty(Rc<RefCell<State>>);

impl Faulty {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Rc::new(RefCell::new(State { free: 1 << 20, dice: seed, ..State::default() })))
    }

    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.0.borrow_mut())
    }

    pub(crate) fn steps(&self) -> u64 {
        self.0.borrow().steps
    }

    pub(crate) fn crashed(&self) -> bool {
        self.with(|state| state.crash_at.is_some_and(|at| state.steps > at))
    }

    /// Cuts the power, and switches it on again.
    pub(crate) fn crash(&self, dice: &mut Dice) {
        self.with(|state| {
            for change in std::mem::take(&mut state.unsynced) {
                if dice.one_in(2) {
                    apply(&mut state.names_synced, change);
                }
            }
            state.names = state.names_synced.clone();
            for inode in &mut state.inodes {
                inode.bytes = match &inode.synced {
                    Some(synced) => synced.clone(),
                    None => torn(&inode.bytes, dice),
                };
                inode.synced = Some(inode.bytes.clone());
            }
            state.crash_at = None;
        });
    }

    /// Flips one bit of a waiting file and tells its name.
    pub(crate) fn flip(&self, dice: &mut Dice) -> Option<String> {
        self.with(|state| {
            let names = state.names.keys();
            let waiting: Vec<_> = names.filter(|(shelf, _)| *shelf == Shelf::Waiting).collect();
            let place = (*waiting.get(dice.roll(waiting.len() as u64) as usize)?).clone();
            let inode = &mut state.inodes[state.names[&place]];
            let bit = dice.roll(inode.bytes.len() as u64 * 8) as usize;
            *inode.bytes.get_mut(bit / 8)? ^= 1 << (bit % 8);
            inode.synced = Some(inode.bytes.clone());
            Some(place.1)
        })
    }
}

fn torn(bytes: &[u8], dice: &mut Dice) -> Vec<u8> {
    let kept = dice.roll(bytes.len() as u64 + 1) as usize;
    let mut torn = bytes[..kept].to_vec();
    if dice.one_in(2) {
        torn.resize(bytes.len(), 0);
    }
    torn
}

fn apply(names: &mut BTreeMap<Place, usize>, change: Change) {
    match change {
        Change::Link(place, inode) => {
            names.insert(place, inode);
        }
        Change::Move(from, to, inode) => {
            names.remove(&from);
            names.insert(to, inode);
        }
        Change::Unlink(place) => {
            names.remove(&place);
        }
    }
}

impl State {
    /// Every change of the disk passes here. At the step of the crash the change happens, but
    /// nobody learns of it.
    fn step(&mut self) -> io::Result<bool> {
        let step = self.steps;
        self.steps += 1;
        let mut dice = Dice(self.dice.wrapping_add(step));
        match self.crash_at {
            Some(at) if step > at => Err(io::Error::other("the power is gone")),
            Some(at) if step == at => Ok(true),
            _ if self.fails_one_in > 0 && dice.one_in(self.fails_one_in) => {
                Err(io::Error::other("the disk is broken"))
            }
            _ => Ok(false),
        }
    }

    fn change(&mut self, change: Change) -> io::Result<()> {
        let crash = self.step()?;
        apply(&mut self.names, change.clone());
        self.unsynced.push(change);
        self.done(crash)
    }

    fn done(&self, crash: bool) -> io::Result<()> {
        if crash { Err(io::Error::other("the power is gone")) } else { Ok(()) }
    }

    fn inode(&self, shelf: Shelf, name: &str) -> io::Result<usize> {
        let place = (shelf, name.to_owned());
        self.names.get(&place).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn used(&self) -> u64 {
        self.names.values().map(|inode| self.inodes[*inode].bytes.len() as u64).sum()
    }
}

impl Files for Faulty {
    fn open(&mut self) -> Result<(), DiskError> {
        match self.0.borrow().is_absent {
            true => Err(DiskError::Absent {
                path: "vault/spool".into(),
                source: io::ErrorKind::NotFound.into(),
            }),
            false => Ok(()),
        }
    }

    fn names(&self, shelf: Shelf) -> io::Result<Vec<String>> {
        let state = self.0.borrow();
        let names = state.names.keys().filter(|(on, _)| *on == shelf);
        Ok(names.map(|(_, name)| name.clone()).collect())
    }

    fn facts(&self, shelf: Shelf, name: &str) -> io::Result<Facts> {
        let state = self.0.borrow();
        let inode = &state.inodes[state.inode(shelf, name)?];
        Ok(Facts { size: inode.bytes.len() as u64, written: inode.written })
    }

    fn read(&self, shelf: Shelf, name: &str, limit: u64) -> io::Result<Vec<u8>> {
        let state = self.0.borrow();
        let mut bytes = state.inodes[state.inode(shelf, name)?].bytes.clone();
        bytes.truncate(limit as usize);
        Ok(bytes)
    }

    fn write(&mut self, name: &str, header: &[u8], content: &[u8]) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        let is_full = state.full_at.is_some_and(|at| state.steps >= at);
        let free = if is_full { 0 } else { state.free.saturating_sub(state.used()) };
        let inode = state.inodes.len();
        state.change(Change::Link((Shelf::Waiting, name.to_owned()), inode)).inspect_err(|_| {
            // The inode must exist, as the name may.
            state.inodes.push(Inode::default());
        })?;
        let mut bytes = [header, content].concat();
        let fits = bytes.len() as u64 <= free;
        bytes.truncate(free as usize);
        let written = state.now;
        state.inodes.push(Inode { bytes, synced: None, written });
        let crash = state.step()?;
        state.done(crash)?;
        if fits { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
    }

    fn sync_file(&mut self, name: &str) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        let inode = state.inode(Shelf::Waiting, name)?;
        let crash = state.step()?;
        if !crash {
            state.inodes[inode].synced = Some(state.inodes[inode].bytes.clone());
        }
        state.done(crash)
    }

    fn rename(&mut self, name: &str, shelf: Shelf, to: &str) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        let inode = state.inode(Shelf::Waiting, name)?;
        let from = (Shelf::Waiting, name.to_owned());
        state.change(Change::Move(from, (shelf, to.to_owned()), inode))
    }

    fn remove(&mut self, shelf: Shelf, name: &str) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        state.inode(shelf, name)?;
        state.change(Change::Unlink((shelf, name.to_owned())))
    }

    fn sync_names(&mut self) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        let crash = state.step()?;
        if !crash {
            state.names_synced = state.names.clone();
            state.unsynced.clear();
        }
        state.done(crash)
    }

    fn room(&self) -> io::Result<Room> {
        let state = self.0.borrow();
        let free = state.free.saturating_sub(state.used());
        Ok(Room { free, total: 1 << 20, inodes_free: 0, inodes: 0 })
    }

    fn now(&self) -> Timestamp {
        self.0.borrow().now
    }
}
