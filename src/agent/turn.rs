//! Who collects an app's evidence: one at a time, be it the agent or a person at the command line.

use crate::base::id::AppId;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How often it looks.
const AGAIN: Duration = Duration::from_millis(500);

/// An app whose evidence only we collect, for as long as this lives. The kernel takes it back from
/// who dies.
#[derive(Debug)]
pub struct Turn(#[expect(dead_code, reason = "the lock lasts as long as the file is open")] File);

/// Why it is not our turn.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody is at it.
    #[error("the evidence of this app is being collected already; `lifesign status` shows how far")]
    Busy,
    /// The state directory cannot be used.
    #[error("failed to lock {path}")]
    Lock {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Turn {
    /// Takes the turn, if nobody has it.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] while somebody has it.
    pub fn take(state: &Path, app: AppId) -> Result<Self, Error> {
        let directory = state.join("capture");
        let path = directory.join(format!("{app}.lock"));
        let failed = |source| Error::Lock { path: path.clone(), source };
        fs::create_dir_all(&directory).map_err(failed)?;
        let file = File::create(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(Error::Busy),
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }

    /// Waits for the turn, but not for ever: who was stopped in the middle shall not keep an incident
    /// from its evidence.
    pub(super) async fn wait(state: &Path, app: AppId, patience: Duration) -> Option<Self> {
        let deadline = Instant::now() + patience;
        loop {
            match Self::take(state, app) {
                Ok(turn) => return Some(turn),
                Err(Error::Busy) if Instant::now() < deadline => sleep(AGAIN).await,
                Err(error) => {
                    tracing::warn!(%app, %error, "evidence is collected without waiting any longer");
                    return None;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_collects_at_a_time() {
        let state = tempfile::tempdir().unwrap();
        let (web, db) = (AppId::new([1; 16]), AppId::new([2; 16]));
        let turn = Turn::take(state.path(), web).unwrap();
        assert!(matches!(Turn::take(state.path(), web), Err(Error::Busy)));
        Turn::take(state.path(), db).unwrap();
        drop(turn);
        Turn::take(state.path(), web).unwrap();
        fs::write(state.path().join("file"), "").unwrap();
        let error = Turn::take(&state.path().join("file"), web).unwrap_err();
        assert!(matches!(error, Error::Lock { .. }));
    }

    #[tokio::test]
    async fn whoever_keeps_the_turn_for_ever_hinders_no_incident() {
        let state = tempfile::tempdir().unwrap();
        let web = AppId::new([1; 16]);
        let _stuck = Turn::take(state.path(), web).unwrap();
        assert!(Turn::wait(state.path(), web, AGAIN).await.is_none());
    }
}
