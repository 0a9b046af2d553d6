//! What the guest says by itself, without being asked: a file to which its console is copied, or
//! EVE's log of everything that runs.
//!
//! A [`Tap`] brings the bytes, a [`Watcher`] makes findings of them. Nothing is
//! ever sent to the guest, so this needs no consent but `observe`.

mod device;
mod file;
mod history;
mod memlogd;
mod watcher;

pub use device::{DeviceLog, Ear, recall};
pub use file::{FileTap, Piece};
pub use history::History;
pub use memlogd::{Entry, Error, Memlogd, SOCKET, guest_source};
pub use watcher::{BAD_LINES, BadLine, Label, Watch, Watcher};

use crate::base::time::Instant;
use std::fmt;
use std::io;

/// Brings what a guest said.
pub trait Tap: fmt::Debug + Send {
    /// What was said since the last time. May block for as long as a disk does.
    ///
    /// # Errors
    ///
    /// When nothing can be heard. The next call tries again.
    fn read(&mut self) -> io::Result<Piece>;

    /// What people call it.
    fn name(&self) -> String;
}

/// Lets the watcher hear what was said since the last time. May block for as long as a disk does.
pub fn read(tap: &mut dyn Tap, watcher: &mut Watcher, now: Instant) {
    match tap.read() {
        Ok(piece) => {
            if piece.missed > 0 {
                watcher.miss(now);
            }
            watcher.hear(&piece.bytes, now);
        }
        Err(error) => watcher.lose(format!("{}: {error}", tap.name())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rung::Answer;
    use std::time::Duration;

    #[test]
    fn a_file_that_is_rotated_away_and_comes_back_is_no_dead_guest() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("console.log");
        let at = |seconds: u64| Instant::from_millis(seconds * 1000);
        let label = Label { text: "alive".to_owned(), within: Duration::from_secs(60) };
        let watch = Watch { label: Some(label), ..Watch::default() };
        let (mut tap, mut watcher) = (FileTap::new(&path), Watcher::new(watch, at(0)));
        let mut answer = |seconds: u64| {
            read(&mut tap, &mut watcher, at(seconds));
            watcher.findings(at(seconds))[0].answer
        };
        assert_eq!(answer(100), Answer::Unknown);
        std::fs::write(&path, "cron: alive\n").unwrap();
        assert_eq!(answer(110), Answer::Alive);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(answer(500), Answer::Unknown);
        std::fs::write(&path, "cron: something else\n").unwrap();
        assert_eq!(answer(510), Answer::Unknown);
        assert_eq!(answer(580), Answer::Dead);
    }
}
