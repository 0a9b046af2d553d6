//! Lends a guest its own SysRq: what it lacks for its keys to be answered is set in its memory while they
//! are pressed, and put back.
//!
//! ```text
//!   find the kernel --> note on disk what both words are --> set them --> keys
//!                                                                          |
//!   forget the note <-- put back whatever is still as it was lent <-- find the kernel anew
//! ```
//!
//! Nothing else writes a guest's memory, and this only two words, where the kernel itself names them.
//! The kernel is found anew before they are put back, for the guest may have booted meanwhile: what it set
//! itself is left to it. The note outlives us; whoever starts next puts back what it says.

use super::gaze::{Asked, GazeError, Whereabouts};
use super::learnt;
use crate::base::chain::Chain;
use crate::base::step::Step;
use crate::capture::{Target, report, undo};
use crate::evidence::report::{Outcome, StepReport};
use crate::hypervisor::process::Run;
use crate::hypervisor::ram::{Placed, Ram, RamError};
use crate::kernel::machine::Registers;
use crate::kernel::memory::{Fault, Memory};
use crate::kernel::{Kernel, Knob, Knobs, OpenError};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use tokio::task::spawn_blocking;

/// SysRq does everything.
const ALL: u32 = 1;

/// The console shows everything but what is for those who debug the kernel.
const LOUD: u32 = 8;

/// What was lent, and what is said of it.
pub(in crate::capture) struct Lent {
    out: Option<Note>,
    step: Option<StepReport>,
}

/// What has to be put back.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
struct Note {
    mask: u32,
    level: u32,
    /// In the guest of this hypervisor.
    #[serde(flatten)]
    run: Run,
}

/// Why nothing was lent, or not put back.
#[derive(Debug, thiserror::Error)]
enum LoanError {
    #[error("nothing may be lent to an app of which no state is kept")]
    NoState,
    #[error(
        "the binding names no `qmp` socket, and only the monitor tells where the guest's RAM is"
    )]
    NoMonitor,
    #[error("it is not certain where the guest's RAM is: {0}")]
    Unasked(String),
    #[error("the guest does not run")]
    Paused,
    #[error(transparent)]
    Gaze(GazeError),
    #[error("failed to open the guest's memory")]
    Ram(#[source] RamError),
    #[error("failed to find the kernel")]
    Open(#[source] OpenError),
    #[error("the kernel does not tell where its SysRq mask and its console's level are")]
    NoKnobs,
    #[error("the hypervisor's process is gone")]
    Gone,
    #[error("failed to note what has to be put back")]
    Note(#[source] io::Error),
    #[error("failed to set a word of the guest's memory")]
    Set(#[source] Fault),
    #[error("a word of the guest's memory is not as it was set")]
    NotTaken,
    #[error("the thread that lends broke off")]
    Broken,
}

/// Lends what the guest lacks, if that is known and anything is.
pub(in crate::capture) async fn lend(target: &Target, wants: Option<bool>) -> Lent {
    let nothing = |outcome, reason: String| Lent {
        out: None,
        step: Some(report(Step::LendSysrq, outcome, reason)),
    };
    match wants {
        None => {
            let reason = "what the guest's SysRq lacks is not known: the step `memory` tells";
            nothing(Outcome::Skipped, reason.to_owned())
        }
        Some(false) => nothing(Outcome::Skipped, "the guest's SysRq lacks nothing".to_owned()),
        Some(true) => match take(target).await {
            Ok(note) => Lent { out: Some(note), step: None },
            Err(error) => {
                // One word may be set already.
                put_back(target).await;
                let is_paused = matches!(error, LoanError::Paused);
                let outcome = if is_paused { Outcome::Skipped } else { Outcome::Failed };
                nothing(outcome, Chain(&error).to_string())
            }
        },
    }
}

/// Puts back what was lent, also by a capture that was stopped.
pub(in crate::capture) async fn put_back(target: &Target) {
    match give_back(target).await {
        Ok(true) => tracing::info!("what the guest's SysRq was lent was put back"),
        Ok(false) => {}
        Err(error) => {
            let reason = Chain(&error);
            tracing::warn!(%reason, "what the guest's SysRq was lent is not back yet");
        }
    }
}

impl Lent {
    /// Nobody asked for it.
    pub(in crate::capture) const NOTHING: Self = Self { out: None, step: None };

    /// Whether the guest has it now.
    pub(in crate::capture) fn is_out(&self) -> bool {
        self.out.is_some()
    }

    /// Puts it back, and tells what came of it.
    pub(in crate::capture) async fn end(self, target: &Target) -> Option<StepReport> {
        let Some(Note { mask, level, .. }) = self.out else { return self.step };
        let lent = format!(
            "the guest's SysRq mask was {mask} and its console's level {level}: {ALL} and {} were lent",
            LOUD.max(level),
        );
        let (outcome, back) = match give_back(target).await {
            Ok(_) => (Outcome::Done, "and both are back".to_owned()),
            Err(error) => (Outcome::Failed, format!("and are put back later: {}", Chain(&error))),
        };
        Some(report(Step::LendSysrq, outcome, format!("{lent}, {back}")))
    }
}

impl Note {
    /// Of the guest as it runs now.
    fn read(path: &Path) -> Option<Self> {
        let note: Self = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
        note.run.lasts().then_some(note)
    }

    /// What has to be put back of a guest whose words are these. Where a word is as an earlier capture
    /// has lent it, it is what that one has noted.
    fn of(knobs: Knobs, pid: u32, earlier: Option<Self>) -> Option<Self> {
        let earlier = earlier.filter(|note| note.run.pid == pid);
        let was = |value: u32, lent: Option<(u32, u32)>| match lent {
            Some((lent, was)) if lent == value => was,
            Some(_) | None => value,
        };
        Some(Self {
            mask: was(knobs.mask.value, earlier.map(|note| (ALL, note.mask))),
            level: was(knobs.level.value, earlier.map(|note| (LOUD.max(note.level), note.level))),
            run: Run::of(pid)?,
        })
    }

    /// Each word, what it was lent, and what it was.
    fn words(self, knobs: Knobs) -> [(Knob, u32, u32); 2] {
        [(knobs.mask, ALL, self.mask), (knobs.level, LOUD.max(self.level), self.level)]
    }
}

async fn take(target: &Target) -> Result<Note, LoanError> {
    let path = note_of(target).ok_or(LoanError::NoState)?;
    let open = Open::find(target).await?;
    if open.is_paused {
        return Err(LoanError::Paused);
    }
    let lend = move |ram: &Ram, knobs: Knobs, pid| {
        let note = Note::of(knobs, pid, Note::read(&path)).ok_or(LoanError::Gone)?;
        undo::note(&path, &note).map_err(LoanError::Note)?;
        for (knob, lent, _) in note.words(knobs) {
            set(ram, knob, lent)?;
        }
        Ok(note)
    };
    open.with(lend).await
}

/// Whether anything was noted; what somebody set meanwhile stays.
async fn give_back(target: &Target) -> Result<bool, LoanError> {
    let Some(path) = note_of(target).filter(|path| path.exists()) else { return Ok(false) };
    if let Some(note) = Note::read(&path) {
        let put = move |ram: &Ram, knobs: Knobs, pid| {
            let words = note.words(knobs).into_iter();
            let mut ours =
                words.filter(|(knob, lent, _)| pid == note.run.pid && knob.value == *lent);
            ours.try_for_each(|(knob, _, was)| set(ram, knob, was))
        };
        Open::find(target).await?.with(put).await?;
    }
    undo::forget(&path);
    Ok(true)
}

/// Beside the note of a log level that was raised by a key.
fn note_of(target: &Target) -> Option<PathBuf> {
    target.undo.as_ref().map(|path| path.with_extension("lent"))
}

fn set(ram: &Ram, knob: Knob, word: u32) -> Result<(), LoanError> {
    ram.set(knob.at, word).map_err(LoanError::Set)?;
    let mut is = [0; 4];
    ram.read(knob.at, &mut is).map_err(LoanError::Set)?;
    if u32::from_le_bytes(is) == word { Ok(()) } else { Err(LoanError::NotTaken) }
}

/// A guest whose RAM is where the monitor says.
struct Open {
    pid: u32,
    placed: Vec<Placed>,
    cpus: Vec<Registers>,
    learnt: Option<PathBuf>,
    is_paused: bool,
}

impl Open {
    async fn find(target: &Target) -> Result<Self, LoanError> {
        let path = target.qmp.as_deref().ok_or(LoanError::NoMonitor)?;
        let mut asked = Asked::default();
        match asked.whereabouts(path, None).await.map_err(LoanError::Gaze)? {
            Whereabouts::Told { pid, placed, registers } => Ok(Self {
                pid,
                placed,
                cpus: registers.into_iter().map(|(_, registers)| registers).collect(),
                learnt: target.learnt.clone(),
                is_paused: asked.is_paused,
            }),
            Whereabouts::Unasked { why, .. } => Err(LoanError::Unasked(why)),
        }
    }

    /// Acts on the kernel's words. Whatever is begun is ended, though nobody may wait any more.
    async fn with<T: Send + 'static>(
        self,
        act: impl FnOnce(&Ram, Knobs, u32) -> Result<T, LoanError> + Send + 'static,
    ) -> Result<T, LoanError> {
        let acted = spawn_blocking(move || {
            let ram = Ram::of_process_to_lend(self.pid, &self.placed).map_err(LoanError::Ram)?;
            let learnt = self.learnt.as_deref().and_then(learnt::read);
            let kernel = match &learnt {
                Some(learnt) => Kernel::open_again(&ram, &self.cpus, learnt),
                None => Kernel::open(&ram, &self.cpus),
            };
            let knobs = Knobs::find(&kernel.map_err(LoanError::Open)?);
            act(&ram, knobs.ok_or(LoanError::NoKnobs)?, self.pid)
        });
        acted.await.map_err(|_| LoanError::Broken)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn knobs(mask: u32, level: u32) -> Knobs {
        Knobs { mask: Knob { at: 0x1000, value: mask }, level: Knob { at: 0x1004, value: level } }
    }

    #[test]
    fn what_was_lent_before_is_not_taken_for_the_guests_own() {
        let pid = std::process::id();
        let first = Note::of(knobs(438, 4), pid, None).unwrap();
        assert_eq!((first.mask, first.level), (438, 4));
        let is = |mask, level| {
            let note = Note::of(knobs(mask, level), pid, Some(first)).unwrap();
            (note.mask, note.level)
        };
        assert_eq!(is(1, 8), (438, 4));
        // It has booted, or somebody has set them.
        assert_eq!((is(176, 7), is(1, 7)), ((176, 7), (438, 7)));
        let other = Note { run: Run::of(1).unwrap(), ..first };
        let note = Note::of(knobs(1, 8), pid, Some(other)).unwrap();
        assert_eq!((note.mask, note.level), (1, 8));
        assert_eq!(Note::of(knobs(1, 8), u32::MAX, None), None);
    }

    #[test]
    fn a_note_is_of_one_run_alone() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("undo/app.lent");
        let note = Note::of(knobs(438, 12), std::process::id(), None).unwrap();
        assert_eq!(
            note.words(knobs(1, 12)).map(|(_, lent, was)| (lent, was)),
            [(1, 438), (12, 12)]
        );
        undo::note(&path, &note).unwrap();
        assert_eq!(Note::read(&path), Some(note));
        undo::note(&path, &Note { run: note.run.later(), ..note }).unwrap();
        assert_eq!(Note::read(&path), None);
        fs::write(&path, b"{").unwrap();
        assert_eq!(Note::read(&path), None);
    }

    #[test]
    fn a_word_that_is_set_is_read_again() {
        let words = vec![438_u32; 1024];
        let placed = Placed { guest: 0x1000..0x2000, host: words.as_ptr().addr() as u64 };
        let pid = std::process::id();
        let ram = Ram::of_process_to_lend(pid, std::slice::from_ref(&placed)).unwrap();
        set(&ram, knobs(438, 4).mask, ALL).unwrap();
        assert_eq!(std::hint::black_box(&words)[0], ALL);
        let ram = Ram::of_process(pid, &[placed]).unwrap();
        assert!(matches!(set(&ram, knobs(438, 4).mask, 7), Err(LoanError::Set(_))));
        assert_eq!(std::hint::black_box(&words)[0], ALL);
    }

    #[tokio::test]
    async fn nothing_is_lent_without_need_or_without_a_note() {
        let told = |wants, target: Target| async move {
            let lent = lend(&target, wants).await;
            assert!(!lent.is_out());
            let step = lent.end(&target).await.unwrap();
            (step.outcome, step.reason)
        };
        let (outcome, reason) = told(None, Target::default()).await;
        assert!(outcome == Outcome::Skipped && reason.contains("is not known"), "{reason}");
        let (outcome, reason) = told(Some(false), Target::default()).await;
        assert!(outcome == Outcome::Skipped && reason.contains("lacks nothing"), "{reason}");
        let (outcome, reason) = told(Some(true), Target::default()).await;
        assert!(outcome == Outcome::Failed && reason.contains("no state is kept"), "{reason}");
        let place = tempfile::tempdir().unwrap();
        let target = Target { undo: Some(place.path().join("app")), ..Target::default() };
        let (_, reason) = told(Some(true), target).await;
        assert!(reason.contains("no `qmp` socket"), "{reason}");
        assert!(Lent::NOTHING.end(&Target::default()).await.is_none());
    }
}
