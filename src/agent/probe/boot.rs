//! Follows which boot of an app's guest this is.
//!
//! A guest that restarts by itself is silent for a while, as one that hangs is, and QEMU tells nobody
//! afterwards. So it is looked at while it is well, and again when it does not answer.

use super::{App, Chain, Clock};
use crate::base::consent::Consent;
use crate::base::time::Instant;
use crate::hypervisor::boot::Boot;
use crate::hypervisor::qmp::{AskError, Monitor};
use std::time::Duration;

/// A monitor that does not answer costs a second of a round that was answered: not each time.
const AGAIN: Duration = Duration::from_secs(300);

/// The boots of one app's guest, whoever asks it.
#[derive(Debug, Default)]
pub struct Boots {
    /// As it was when it last was well, or when it was found to be another.
    known: Boot,
    /// When the last one was noticed.
    noticed: Option<Instant>,
    /// The process behind the monitor as it was seen last.
    process: Option<u32>,
    not_before: Instant,
}

impl Boots {
    /// When the guest was last seen to have booted by itself.
    #[must_use]
    pub fn noticed(&self) -> Option<Instant> {
        self.noticed
    }

    /// The hypervisor's process as it was seen last: one that has ended nobody can ask any more.
    #[must_use]
    pub fn process(&self) -> Option<u32> {
        self.process
    }

    /// Looks at a guest that is well.
    pub async fn learn(&mut self, app: &App) {
        if Clock::now() < self.not_before {
            return;
        }
        let Some(boot) = self.look(app).await else {
            self.not_before = Clock::now() + AGAIN;
            return;
        };
        self.note(&boot);
        if boot.is_known() {
            self.known = boot;
        }
    }

    /// Looks at a guest that does not answer, though its hypervisor runs it.
    pub async fn follow(&mut self, app: &App) {
        let Some(boot) = self.look(app).await else { return };
        if self.note(&boot) {
            self.known = boot;
        }
    }

    async fn look(&mut self, app: &App) -> Option<Boot> {
        let path = app.qmp.as_deref().filter(|_| app.consent >= Consent::Query)?;
        let told = |why: &dyn std::error::Error| {
            tracing::debug!(app = %app.name, why = %Chain(why), "boot not looked at");
        };
        let monitor = Monitor::connect(path).await.inspect_err(|why| told(why));
        let mut monitor = monitor.ok()?;
        self.process = monitor.pid().or(self.process);
        registers(&mut monitor).await.inspect_err(|why| told(why)).ok()
    }

    fn note(&mut self, boot: &Boot) -> bool {
        let left = self.known.was_left(boot);
        if left {
            self.noticed = Some(Clock::now());
        }
        left
    }
}

async fn registers(monitor: &mut Monitor) -> Result<Boot, AskError> {
    let text = monitor.ask_human("info registers -a").await?;
    Ok(Boot::read(text.as_str().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::AppId;
    use serde_json::{Value, json};
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::net::UnixListener;

    /// A monitor that shows one of these tables to each of its clients.
    async fn monitor(listener: UnixListener, tables: Vec<&'static str>) {
        for table in tables {
            let (stream, _) = listener.accept().await.unwrap();
            let (from, mut to) = stream.into_split();
            let mut lines = BufReader::new(from).lines();
            to.write_all(b"{\"QMP\": {}}\n").await.unwrap();
            while let Ok(Some(line)) = lines.next_line().await {
                let asked: Value = serde_json::from_str(&line).unwrap();
                let text = format!("CPU#0\r\nGDT=     {table} 0000007f\r\n");
                let answer = json!({ "return": text, "id": asked["id"] });
                to.write_all(format!("{answer}\n").as_bytes()).await.unwrap();
            }
        }
    }

    #[tokio::test]
    async fn a_guest_that_booted_is_noticed_once_whoever_looks() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("qmp");
        let listener = UnixListener::bind(&path).unwrap();
        let (one, firmware, two, three) =
            ("fffffe0000001000", "000f6180", "fffffe0000002000", "fffffe0000003000");
        let tables = vec![one, one, firmware, two, two, two, three];
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(monitor(listener, tables));
        let app = App { qmp: Some(path), ..App::new(AppId::new([1; 16]), "web") };
        let mut boots = Boots::default();
        boots.learn(&app).await;
        boots.follow(&app).await;
        assert_eq!((boots.noticed(), boots.process()), (None, Some(std::process::id())));
        boots.follow(&app).await;
        let first = boots.noticed();
        assert!(first.is_some());
        boots.follow(&app).await;
        boots.learn(&app).await;
        boots.follow(&app).await;
        assert_eq!(boots.noticed(), first, "the same boot");
        tokio::time::sleep(Duration::from_millis(2)).await;
        boots.learn(&app).await;
        assert!(boots.noticed() > first, "a short one, that nobody missed");
        tasks.join_next().await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn who_may_not_ask_is_not_told() {
        let app = App {
            qmp: Some("/nonexistent".into()),
            consent: Consent::Observe,
            ..App::new(AppId::new([1; 16]), "web")
        };
        let mut boots = Boots::default();
        boots.follow(&app).await;
        assert_eq!((boots.look(&app).await, boots.process()), (None, None));
    }
}
