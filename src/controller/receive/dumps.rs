//! Dumps, as they come in: asked for slice by slice, so that never more than a slice is on its way, and
//! each is on the disk before the next.
//!
//! What is wrong with the disk holds up the dump and nothing else: the device is told "not now", and it
//! offers the dump again, ever more rarely.

use super::{Answer, Outcome, Receiver};
use crate::base::id::DeviceId;
use crate::controller::store::{Growing, State, StoreError, Wanted};
use crate::controller::transfer::{Piece, next_slice};
use crate::controller::verify::{Now, Refusal};
use std::io;
use std::ops::Range;

/// What a piece led to.
enum Step {
    /// It brought nothing.
    Known,
    /// It is kept, and more was asked for.
    Taken,
    /// This is asked for.
    Ask(Range<u64>),
    /// All is here that is to come, but it is not known yet what it is.
    Reading,
    /// It is what was asked for, and on the disk.
    Whole,
    /// It is something else.
    Wrong(Refusal),
}

impl Receiver {
    pub(super) fn dump(
        &mut self,
        device: &DeviceId,
        piece: &Piece,
        now: Now,
    ) -> Result<Answer, StoreError> {
        if !self.enrolled.knows(device, now.instant) {
            return Ok(Answer::refused(&Refusal::NotEnrolled(device.clone())));
        }
        let Some(wanted) = self.store.wanted(device, piece.digest)? else {
            self.growing.remove(&(device.clone(), piece.digest));
            return Ok(Answer::refused(&Refusal::Unasked));
        };
        match &wanted.state {
            State::Stored(_) => return Ok(Answer::Stored(Outcome::Known)),
            State::Refused(reason) => {
                let (word, reason) = ("dump".to_owned(), reason.clone());
                return Ok(Answer::Refused { word, reason });
            }
            State::Coming { .. } => {}
        }
        if let Err(refusal) = check(piece, &wanted) {
            return self.refuse_dump(&wanted, &refusal);
        }
        match self.grow(&wanted, piece)? {
            Ok(Step::Known) => Ok(Answer::Nothing(Outcome::Known)),
            Ok(Step::Taken) => Ok(Answer::Nothing(Outcome::Taken)),
            Ok(Step::Reading) => Ok(Answer::Missing(Vec::new())),
            Ok(Step::Ask(slice)) => self.ask(&wanted, slice),
            Ok(Step::Whole) => {
                self.growing.remove(&wanted.key());
                self.store.dump_stored(&wanted, now.wall)?;
                Ok(Answer::Stored(Outcome::Stored))
            }
            Ok(Step::Wrong(refusal)) => self.refuse_dump(&wanted, &refusal),
            Err(error) => self.hinder(&wanted, &format!("the disk fails: {error}")),
        }
    }

    /// The outer error is the index's, the inner one the file's.
    fn grow(&mut self, wanted: &Wanted, piece: &Piece) -> Result<io::Result<Step>, StoreError> {
        let growing = match self.growing(wanted) {
            Ok(growing) => growing,
            Err(error) => return Ok(Err(error)),
        };
        let before = growing.len();
        let grown = growing.read_again().and_then(|()| growing.append(piece));
        if let Err(error) = grown {
            return Ok(Err(error));
        }
        let after = growing.len();
        if after == wanted.bytes {
            return Ok(whole(growing, wanted));
        }
        let slice = next_slice(after, wanted.bytes);
        let is_next = next_slice(before, wanted.bytes).end < slice.end;
        if !piece.is_offer() && !is_next {
            return Ok(Ok(if after > before { Step::Taken } else { Step::Known }));
        }
        if let Err(error) = growing.sync() {
            return Ok(Err(error));
        }
        self.store.dump_held(wanted, after)?;
        Ok(Ok(Step::Ask(slice)))
    }

    /// What is here of a dump. Looked up anew if it was asked for anew.
    fn growing(&mut self, wanted: &Wanted) -> io::Result<&mut Growing> {
        let known = self.growing.get(&wanted.key());
        if known.is_none_or(|growing| !growing.is_of(wanted)) {
            let growing = Growing::open(&self.store.dumps_directory(), wanted)?;
            self.growing.insert(wanted.key(), growing);
        }
        let growing = self.growing.get_mut(&wanted.key());
        Ok(growing.expect("it was here, or put here a moment ago"))
    }

    fn ask(&mut self, wanted: &Wanted, slice: Range<u64>) -> Result<Answer, StoreError> {
        let left = wanted.bytes - slice.start;
        match self.store.lacks_room(left) {
            Ok(None) => {
                self.store.dump_hindered(wanted, None)?;
                Ok(Answer::Missing(vec![slice]))
            }
            Ok(Some(why)) => self.hinder(wanted, &why),
            Err(error) => self.hinder(wanted, &format!("the disk fails: {error}")),
        }
    }

    fn hinder(&mut self, wanted: &Wanted, why: &str) -> Result<Answer, StoreError> {
        if self.store.dump_hindered(wanted, Some(why))? {
            let (device, name) = (&wanted.device, &wanted.name);
            tracing::error!(%device, dump = %name, why, "a dump does not come in");
        }
        Ok(Answer::Missing(Vec::new()))
    }

    fn refuse_dump(&mut self, wanted: &Wanted, refusal: &Refusal) -> Result<Answer, StoreError> {
        self.growing.remove(&wanted.key());
        self.store.dump_refused(wanted, &refusal.reason())?;
        Ok(Answer::refused(refusal))
    }
}

fn check(piece: &Piece, wanted: &Wanted) -> Result<(), Refusal> {
    if piece.total != wanted.bytes {
        return Err(Refusal::Size { offered: piece.total, told: wanted.bytes });
    }
    Ok(piece.check_data()?)
}

fn whole(growing: &mut Growing, wanted: &Wanted) -> io::Result<Step> {
    let Some(found) = growing.digest() else { return Ok(Step::Reading) };
    if found != wanted.digest {
        return Ok(Step::Wrong(Refusal::Digest(found)));
    }
    growing.finish()?;
    Ok(Step::Whole)
}
