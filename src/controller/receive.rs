//! A message in, answers out: what is received is judged, and kept before anything is said.
//!
//! ```text
//!   headline  --verify-->  incident row            --> stored | refused
//!   offer     ----------------------------------->     stored | refused | missing
//!   chunk     --place--->  chunk row
//!                 \-- the last one --verify-->  object, parcel, incident --> stored | refused
//!   of a dump --append--> its file                 --> stored | refused | the next slice
//!   status    --------->   device row
//! ```
//!
//! Every step may come twice, in any order, and after a restart: what is said depends only on what
//! is kept. Has no task, no channel and no clock; its owner gives it one message after the other.

use super::identity::Enrolled;
use super::store::{Growing, Parcel, Refused, Store, StoreError, Transfer, Verdict};
use super::transfer::{Absurd, Held, Piece};
use super::verify::{Now, Refusal, Verified, verify};
use crate::base::id::{DeviceId, Digest};
use crate::base::limits;
use crate::base::topic::{Kind, Prefix};
use crate::bundle::{self, PublicKey, Sealed};
use crate::diagnosis::diagnose;
use crate::evidence::Evidence;
use crate::pb::v1::{self, receipt::Word};
use prost::Message as _;
use std::collections::BTreeMap;

mod dumps;

/// Something that was published.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Message {
    /// Where.
    pub topic: String,
    /// What.
    pub payload: Vec<u8>,
}

/// What came of a message.
#[derive(Clone, Debug, PartialEq)]
pub struct Handled {
    /// What it was, in a word for metrics.
    pub kind: &'static str,
    /// What came of it, in a word for metrics.
    pub outcome: Outcome,
    /// What is to be published.
    pub replies: Vec<Message>,
}

/// What came of a message.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// It is nothing for us.
    Ignored,
    /// It is kept, and more is to come.
    Taken,
    /// It was here already.
    Known,
    /// The device was told what is missing.
    Missing,
    /// It completed something, which is kept for good.
    Stored,
    /// It was refused: [`Refusal::word`].
    Refused(String),
}

/// Receives.
pub struct Receiver {
    prefix: Prefix,
    enrolled: Enrolled,
    store: Store,
    /// What is known of the dumps that come in: as many at most as are wanted.
    growing: BTreeMap<(DeviceId, Digest), Growing>,
}

/// What is answered, before it has an address.
enum Answer {
    Nothing(Outcome),
    Stored(Outcome),
    Missing(Vec<std::ops::Range<u64>>),
    Refused { word: String, reason: String },
}

impl Receiver {
    /// Receives what `enrolled` devices publish under `prefix`, and keeps it in `store`.
    #[must_use]
    pub fn new(prefix: Prefix, enrolled: Enrolled, store: Store) -> Self {
        Self { prefix, enrolled, store, growing: BTreeMap::new() }
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Handles a message. After an error nothing has changed, and it is to be handed in again.
    ///
    /// # Errors
    ///
    /// When something could not be kept or looked up.
    pub fn handle(&mut self, message: &Message, now: Now) -> Result<Handled, StoreError> {
        let Some((device, kind)) = self.prefix.parse(&message.topic) else {
            return Ok(Handled::ignored("other"));
        };
        match kind {
            Kind::Headline => self.headline(&device, &message.payload, now),
            Kind::Bundle => self.piece(&device, &message.payload, now),
            Kind::Status => self.status(&device, &message.payload, now),
        }
    }

    /// Diagnoses one bundle that waits for it. Apart from [`Receiver::handle`], so that a receipt
    /// never waits for it, nor is lost with it.
    ///
    /// # Errors
    ///
    /// When something could not be kept or looked up.
    pub fn diagnose_one(&mut self) -> Result<bool, StoreError> {
        let Some(pending) = self.store.begin_diagnosis()? else { return Ok(false) };
        let key = PublicKey::from_spki(&pending.spki).ok_or(StoreError::Corrupt("key"))?;
        match bundle::open(&pending.bytes, &key) {
            Ok(Sealed::Bundle(bundle)) => {
                let diagnosis = diagnose(&Evidence::read(&bundle.artifacts));
                self.store.keep_diagnosis(pending.incident, &diagnosis)?;
            }
            Ok(Sealed::Headline(_)) | Err(_) => {
                let incident = pending.incident;
                tracing::error!(%incident, "a stored bundle does not open: look at the disk");
            }
        }
        Ok(true)
    }

    fn headline(
        &mut self,
        device: &DeviceId,
        sealed: &[u8],
        now: Now,
    ) -> Result<Handled, StoreError> {
        let kept = match self.believe_headline(device, sealed, now) {
            Ok(headline) => self.store.keep_headline(&headline, sealed, now.wall)?,
            Err(refusal) => Err(refusal),
        };
        let answer = match kept {
            Ok(()) => Answer::Stored(Outcome::Stored),
            Err(refusal) => Answer::refused(&refusal),
        };
        Ok(self.reply("headline", device, Digest::of(sealed), answer))
    }

    fn believe_headline(
        &mut self,
        device: &DeviceId,
        sealed: &[u8],
        now: Now,
    ) -> Result<bundle::Headline, Refusal> {
        if sealed.len() > limits::HEADLINE_BYTES {
            return Err(Refusal::Misplaced("headline"));
        }
        match verify(sealed, device, &mut self.enrolled, now)?.sealed {
            Sealed::Headline(headline) => Ok(headline),
            Sealed::Bundle(_) => Err(Refusal::Misplaced("headline")),
        }
    }

    fn status(
        &mut self,
        device: &DeviceId,
        status: &[u8],
        now: Now,
    ) -> Result<Handled, StoreError> {
        // A status is not signed: who is not enrolled leaves no trace, or strangers fill the table.
        let known = self.enrolled.knows(device, now.instant);
        let Some(said) = v1::Status::decode(status).ok().filter(|_| known) else {
            return Ok(Handled::ignored("status"));
        };
        self.store.status(device.as_str(), status, now.wall)?;
        // A last will says nothing of them: what was said before holds.
        if (1..=limits::KEPT_LIST_BYTES).contains(&said.kept.len()) {
            self.store.kept(device.as_str(), &said.kept)?;
        }
        Ok(Handled { kind: "status", outcome: Outcome::Stored, replies: Vec::new() })
    }

    fn piece(
        &mut self,
        device: &DeviceId,
        payload: &[u8],
        now: Now,
    ) -> Result<Handled, StoreError> {
        let piece = v1::Chunk::decode(payload).ok().and_then(Piece::new);
        let Some(piece) = piece else { return Ok(Handled::ignored("chunk")) };
        let (kind, answer) = if piece.dump {
            ("dump", self.dump(device, &piece, now)?)
        } else {
            let kind = if piece.is_offer() { "offer" } else { "chunk" };
            (kind, self.judge(device, &piece, now)?)
        };
        Ok(self.reply(kind, device, piece.digest, answer))
    }

    fn judge(&mut self, device: &DeviceId, piece: &Piece, now: Now) -> Result<Answer, StoreError> {
        if !self.enrolled.knows(device, now.instant) {
            return Ok(Answer::refused(&Refusal::NotEnrolled(device.clone())));
        }
        match self.store.verdict(device, piece.digest)? {
            Some(Verdict::Stored) => return Ok(Answer::Stored(Outcome::Known)),
            Some(Verdict::Refused { word, reason, kept }) => {
                let again = kept.filter(|_| piece.is_offer() && Refusal::may_pass(&word));
                return match again {
                    Some(kept) => self.judge_again(device, piece, kept, now),
                    None => Ok(Answer::Refused { word, reason }),
                };
            }
            None => {}
        }
        if let Err(absurd) = piece.check() {
            return self.refuse_piece(device, piece, &absurd.into(), now);
        }
        if piece.is_offer() { self.offer(device, piece) } else { self.chunk(device, piece, now) }
    }

    fn offer(&self, device: &DeviceId, piece: &Piece) -> Result<Answer, StoreError> {
        let transfer = self.store.transfer(device, piece.digest)?;
        let held = transfer.map_or_else(Held::default, |transfer| transfer.held);
        Ok(Answer::Missing(held.missing(piece.total)))
    }

    fn chunk(&mut self, device: &DeviceId, piece: &Piece, now: Now) -> Result<Answer, StoreError> {
        let (span, digest) = (piece.span(), piece.digest);
        let transfer = self.store.transfer(device, digest)?;
        let transfer =
            transfer.unwrap_or_else(|| Transfer { total: piece.total, held: Held::default() });
        if transfer.total != piece.total || !self.agrees(device, piece, &transfer)? {
            return self.refuse_piece(device, piece, &Refusal::Contradiction(piece.start), now);
        }
        let mut here = transfer.held.over(&span);
        if let Some(first) = here.next() {
            // The same chunk again. One that was cut otherwise brings something new, but never
            // overlaps what the device was told is missing: it is told once more.
            let same = first.start <= span.start && span.end <= first.end;
            let missing = || Answer::Missing(transfer.held.missing(piece.total));
            return Ok(if same { Answer::Nothing(Outcome::Known) } else { missing() });
        }
        if let Err(crumb @ Absurd::Crumb(_)) = transfer.held.check_size(&span, piece.total) {
            return self.refuse_piece(device, piece, &crumb.into(), now);
        }
        self.store.keep_chunk(device, piece)?;
        self.complete(device, digest, now)
    }

    /// Whether a chunk says the same as what is here.
    fn agrees(
        &self,
        device: &DeviceId,
        piece: &Piece,
        transfer: &Transfer,
    ) -> Result<bool, StoreError> {
        let span = piece.span();
        for held in transfer.held.over(&span) {
            let data = self.store.chunk(device, piece.digest, held)?;
            let common = held.start.max(span.start)..held.end.min(span.end);
            let cut = |data: &[u8], start: u64| -> Option<Vec<u8>> {
                let from = usize::try_from(common.start - start).ok()?;
                let to = usize::try_from(common.end - start).ok()?;
                data.get(from..to).map(<[u8]>::to_vec)
            };
            if cut(&data, held.start) != cut(&piece.data, span.start) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn complete(
        &mut self,
        device: &DeviceId,
        digest: Digest,
        now: Now,
    ) -> Result<Answer, StoreError> {
        let whole = self.store.transfer(device, digest)?;
        if whole.is_none_or(|transfer| !transfer.held.missing(transfer.total).is_empty()) {
            return Ok(Answer::Nothing(Outcome::Taken));
        }
        let bytes = self.store.assemble(device, digest)?;
        let found = Digest::of(&bytes);
        if found != digest {
            let refusal = Refusal::Digest(found);
            let refused = Refused { digest, refusal: &refusal, bytes: Some(&bytes) };
            return self.refuse(device, &refused, now);
        }
        self.finish(device, &bytes, now)
    }

    /// Decides of a bundle whose bytes are all here.
    fn finish(&mut self, device: &DeviceId, bytes: &[u8], now: Now) -> Result<Answer, StoreError> {
        let digest = Digest::of(bytes);
        let refusal = match verify(bytes, device, &mut self.enrolled, now) {
            Ok(Verified { sealed: Sealed::Bundle(bundle), sender }) => {
                let parcel =
                    Parcel { bytes, digest, bundle: &bundle, spki: &sender.spki, at: now.wall };
                match self.store.keep_bundle(&parcel)? {
                    Ok(()) => return Ok(Answer::Stored(Outcome::Stored)),
                    Err(taken) => taken,
                }
            }
            Ok(Verified { sealed: Sealed::Headline(_), .. }) => Refusal::Misplaced("bundle"),
            Err(refusal) => refusal,
        };
        let refused = Refused { digest, refusal: &refusal, bytes: Some(bytes) };
        self.refuse(device, &refused, now)
    }

    /// A sender that was not believed may have been enrolled since.
    fn judge_again(
        &mut self,
        device: &DeviceId,
        piece: &Piece,
        kept: Digest,
        now: Now,
    ) -> Result<Answer, StoreError> {
        let Some(bytes) = self.store.quarantined(kept)? else {
            return self.offer(device, piece);
        };
        let answer = self.finish(device, &bytes, now)?;
        if matches!(answer, Answer::Stored(_)) {
            self.store.release(kept)?;
        }
        Ok(answer)
    }

    fn refuse_piece(
        &mut self,
        device: &DeviceId,
        piece: &Piece,
        refusal: &Refusal,
        now: Now,
    ) -> Result<Answer, StoreError> {
        let refused = Refused { digest: piece.digest, refusal, bytes: None };
        self.refuse(device, &refused, now)
    }

    fn refuse(
        &mut self,
        device: &DeviceId,
        refused: &Refused<'_>,
        now: Now,
    ) -> Result<Answer, StoreError> {
        self.store.refuse(device, refused, now.wall)?;
        Ok(Answer::refused(refused.refusal))
    }

    fn reply(
        &self,
        kind: &'static str,
        device: &DeviceId,
        digest: Digest,
        answer: Answer,
    ) -> Handled {
        let (outcome, word) = match answer {
            Answer::Nothing(outcome) => return Handled { kind, outcome, replies: Vec::new() },
            Answer::Stored(outcome) => (outcome, Word::Stored(v1::Stored {})),
            Answer::Missing(ranges) => {
                let ranges = ranges.into_iter();
                let ranges = ranges.map(|range| v1::Range { start: range.start, end: range.end });
                (Outcome::Missing, Word::Missing(v1::Missing { ranges: ranges.collect() }))
            }
            Answer::Refused { word, reason } => {
                tracing::warn!(%device, kind, %digest, reason, "refused");
                (Outcome::Refused(word), Word::Refused(v1::Refused { reason }))
            }
        };
        let receipt = v1::Receipt { digest: digest.as_bytes().to_vec(), word: Some(word) };
        let reply =
            Message { topic: self.prefix.receipt(device), payload: receipt.encode_to_vec() };
        Handled { kind, outcome, replies: vec![reply] }
    }
}

impl Answer {
    fn refused(refusal: &Refusal) -> Self {
        Self::Refused { word: refusal.word().to_owned(), reason: refusal.reason() }
    }
}

impl Handled {
    fn ignored(kind: &'static str) -> Self {
        Self { kind, outcome: Outcome::Ignored, replies: Vec::new() }
    }
}

impl Outcome {
    /// The word for it in metrics.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Ignored => "ignored",
            Self::Taken => "taken",
            Self::Known => "known",
            Self::Missing => "missing",
            Self::Stored => "stored",
            Self::Refused(_) => "refused",
        }
    }
}
