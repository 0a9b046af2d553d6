//! A guest's memory through QEMU's debugger stub, where its process cannot be read: the guest stands still
//! meanwhile, and goes on whatever happens.
//!
//! ```text
//!   the agent ---socket--- the holder, a process of its own ---stub--- QEMU
//!   asks for memory        holds the guest for STANDSTILL at most
//! ```
//!
//! A connection to a stub that breaks leaves the guest stopped. So the agent has none. It starts the
//! [holder](holder), which notes on disk what it is about to do ([note]), stops the guest, answers, and lets
//! it go when it is told to, when the agent is gone, or when the time is over. If the holder is killed the
//! agent lets the guest go; if both are, the next agent does, by the note ([`put_back`]).
//!
//! A guest that does not run is never attached to, so nobody's pause is ended by ours.

mod held;
mod holder;
mod note;
mod packet;
mod resume;
mod stub;
mod wire;

pub use held::{Debugger, DebuggerError};
pub use holder::hold_for_stdin;

use note::{Left, Noted};
use resume::{Fate, run_again};
use std::path::Path;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long it is tried to let a guest go that a holder has left.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two looks at whether a holder still lives: one that was killed may take its time to die.
const APART: Duration = Duration::from_millis(20);

/// Lets a guest go that was left stopped by a holder that was killed. One that lives is waited for: it lets
/// the guest go by itself, or is about to die.
pub async fn put_back(note: &Path) {
    let until = Instant::now() + holder::PATIENCE + PATIENCE;
    let noted = loop {
        match Noted::left(note) {
            Left::Nothing => return,
            Left::Note(noted) => break noted,
            Left::Locked if Instant::now() >= until => {
                tracing::warn!(note = %note.display(), "a guest stays held by another process of ours");
                return;
            }
            Left::Locked => sleep(APART).await,
        }
    };
    match run_again(&noted.note, false, PATIENCE).await {
        Fate::Runs => {
            tracing::info!("a guest was let go that an earlier debugger left");
            noted.forget();
        }
        Fate::Gone | Fate::Other(_) => noted.forget(),
        Fate::Unknown => {
            tracing::warn!(note = %note.display(), "a guest may stand still because of us");
        }
    }
}

#[cfg(test)]
mod tests;
