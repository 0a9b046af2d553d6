//! What all guests of a device say, as EVE's log daemon hears it.
//!
//! One task follows the daemon and keeps a [`History`] of each guest; whoever wants to know has an
//! [`Ear`]. At the start, and when the connection was lost, the daemon tells what it still knows of
//! the past: that goes into the history, and no ear takes it for news.

use super::memlogd::{self, Entry, Memlogd, guest_source, is_guest};
use super::{History, Piece, Tap};
use crate::base::chain::Chain;
use crate::base::limits;
use crate::base::time::{Clock, Timestamp};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long the daemon is left alone when it did not answer.
const RETRY: Duration = Duration::from_secs(5);

/// The past comes without a pause, and at most for so long.
const QUIET: Duration = Duration::from_millis(300);
const PAST: Duration = Duration::from_secs(2);

/// Nobody waits for the end of the log.
const PATIENCE: Duration = Duration::from_secs(3600);

/// The log of a device. Clones are the same log.
#[derive(Clone, Debug, Default)]
pub struct DeviceLog(Arc<Mutex<Heard>>);

/// Listens to one guest, from when it was made.
#[derive(Debug)]
pub struct Ear {
    log: DeviceLog,
    source: String,
    place: u64,
}

#[derive(Debug)]
struct Heard {
    guests: BTreeMap<String, Guest>,
    /// Why nothing is heard now.
    deaf: Option<String>,
}

#[derive(Debug, Default)]
struct Guest {
    history: History,
    /// What came before this is of the past.
    news: u64,
    /// The date of the last line.
    last: Timestamp,
}

impl Default for Heard {
    fn default() -> Self {
        Self {
            guests: BTreeMap::new(),
            deaf: Some("no log daemon is followed here; bind `console-log`".to_owned()),
        }
    }
}

/// What the daemon at this socket still knows of the console of a domain, if anything.
///
/// # Errors
///
/// When there is nobody to ask.
pub async fn recall(socket: &Path, domain: &str) -> Result<Option<History>, memlogd::Error> {
    let mut daemon = Memlogd::follow(socket).await?;
    let (source, enough) = (guest_source(domain), Instant::now() + PAST);
    let mut history: Option<History> = None;
    loop {
        let quiet = enough.min(Instant::now() + QUIET);
        let Ok(Some(entry)) = daemon.next(quiet).await else { return Ok(history) };
        if entry.source == source {
            history.get_or_insert_default().hear(&entry.line());
        }
    }
}

// === impl DeviceLog ===

impl DeviceLog {
    /// Follows the daemon at this socket for as long as it is polled.
    pub async fn follow(self, socket: &Path) -> Infallible {
        loop {
            let connected = Clock::wall();
            let why = match Memlogd::follow(socket).await {
                Ok(daemon) => self.listen(daemon, connected).await,
                Err(error) => Chain(&error).to_string(),
            };
            self.lock().lose(why);
            sleep(RETRY).await;
        }
    }

    /// Listens until the connection breaks, and says why it did.
    async fn listen(&self, mut daemon: Memlogd, connected: Timestamp) -> String {
        self.lock().reconnected();
        loop {
            match daemon.next(Instant::now() + PATIENCE).await {
                Ok(Some(entry)) => self.lock().take(&entry, connected),
                Ok(None) => {}
                Err(error) => return Chain(&error).to_string(),
            }
        }
    }

    /// Listens to the console of a domain from now on.
    #[must_use]
    pub fn ear(&self, domain: &str) -> Ear {
        let source = guest_source(domain);
        let place = self.lock().guests.get(&source).map_or(0, |guest| guest.history.end());
        Ear { log: self.clone(), source, place }
    }

    /// What is kept of the console of a domain, if it ever said anything.
    #[must_use]
    pub fn history(&self, domain: &str) -> Option<History> {
        self.lock().guests.get(&guest_source(domain)).map(|guest| guest.history.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Heard {
    fn reconnected(&mut self) {
        self.deaf = None;
        for guest in self.guests.values_mut() {
            guest.history.miss();
        }
    }

    fn lose(&mut self, why: String) {
        if self.deaf.as_ref() != Some(&why) {
            tracing::warn!(%why, "the device's log is not heard");
        }
        self.deaf = Some(why);
    }

    fn take(&mut self, entry: &Entry, connected: Timestamp) {
        if !is_guest(&entry.source) {
            return;
        }
        if !self.guests.contains_key(&entry.source) {
            self.make_room();
        }
        let guest = self.guests.entry(entry.source.clone()).or_default();
        let time = entry.time.parse().unwrap_or(connected);
        let is_past = time < connected;
        if is_past && time <= guest.last {
            // The daemon tells anew what was heard before the connection was lost.
            return;
        }
        guest.last = time;
        guest.history.hear(&entry.line());
        if is_past {
            guest.news = guest.history.end();
        }
    }

    /// Forgets who has been silent for longest: a guest that restarts is another one here.
    fn make_room(&mut self) {
        while self.guests.len() >= limits::APPS {
            let oldest = self.guests.iter().min_by_key(|(_, guest)| guest.last);
            let Some(oldest) = oldest.map(|(source, _)| source.clone()) else { return };
            self.guests.remove(&oldest);
        }
    }
}

// === impl Ear ===

impl Tap for Ear {
    fn read(&mut self) -> io::Result<Piece> {
        let heard = self.log.lock();
        if let Some(why) = &heard.deaf {
            return Err(io::Error::other(why.clone()));
        }
        let Some(guest) = heard.guests.get(&self.source) else { return Ok(Piece::default()) };
        let piece = guest.history.since(self.place.max(guest.news));
        self.place = guest.history.end();
        Ok(piece)
    }

    fn name(&self) -> String {
        "the device's log".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn entry(source: &str, seconds: i64, message: &str) -> Entry {
        let time = Timestamp::from_millis(seconds * 1000).to_string();
        Entry { time, source: source.to_owned(), message: message.to_owned() }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    fn said(ear: &mut Ear) -> (String, u64) {
        let piece = ear.read().unwrap();
        (String::from_utf8(piece.bytes).unwrap(), piece.missed)
    }

    #[test]
    fn the_past_is_kept_and_is_no_news() {
        let log = DeviceLog::default();
        let mut ear = log.ear("web.1.1");
        assert!(ear.read().unwrap_err().to_string().contains("no log daemon"));
        log.lock().reconnected();
        log.lock().take(&entry("guest_vm-web.1.1", 90, "boot"), at(100));
        log.lock().take(&entry("guest_vm-db.1.2", 101, "another"), at(100));
        log.lock().take(&entry("zedbox", 101, "no guest"), at(100));
        log.lock().take(&entry("guest_vm-web.1.1", 101, "news"), at(100));
        assert_eq!(said(&mut ear), ("news\n".to_owned(), 0));
        assert_eq!(said(&mut ear), (String::new(), 0));
        let kept = log.history("web.1.1").unwrap().since(0);
        assert_eq!(kept.bytes, b"boot\nnews\n");
        assert!(log.history("zedbox").is_none());
    }

    #[test]
    fn after_a_lost_connection_nothing_is_heard_twice() {
        let log = DeviceLog::default();
        log.lock().reconnected();
        let mut ear = log.ear("web.1.1");
        log.lock().take(&entry("guest_vm-web.1.1", 101, "one"), at(100));
        assert_eq!(said(&mut ear).0, "one\n");
        log.lock().deaf = Some("gone".to_owned());
        ear.read().unwrap_err();
        log.lock().reconnected();
        for (time, message) in [(101, "one"), (105, "two"), (111, "three")] {
            log.lock().take(&entry("guest_vm-web.1.1", time, message), at(110));
        }
        assert_eq!(said(&mut ear).0, "three\n");
        assert_eq!(log.history("web.1.1").unwrap().since(0).bytes, b"two\nthree\n");
    }

    #[test]
    fn guests_without_end_are_forgotten() {
        let log = DeviceLog::default();
        for guest in 0..2 * i64::try_from(limits::APPS).unwrap() {
            log.lock().take(&entry(&format!("guest_vm-{guest}"), 200 + guest, "x"), at(100));
        }
        assert_eq!(log.lock().guests.len(), limits::APPS);
        assert!(log.history("0").is_none());
    }

    #[tokio::test]
    async fn what_the_daemon_still_knows_is_recalled() {
        let place = tempfile::tempdir().unwrap();
        let socket = place.path().join("memlogdq.sock");
        assert!(recall(&socket, "web.1.1").await.is_err());
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let serve = async || {
            let (mut client, _) = listener.accept().await.unwrap();
            client.read_exact(&mut [0]).await.unwrap();
            for source in ["guest_vm-web.1.1", "zedbox", "guest_vm-web.1.2"] {
                let entry = format!("{{\"source\":\"{source}\",\"msg\":\"x\"}}\n");
                client.write_all(entry.as_bytes()).await.unwrap();
            }
        };
        let (known, ()) = tokio::join!(recall(&socket, "web.1.1"), serve());
        assert_eq!(known.unwrap().unwrap().since(0).bytes, b"x\n");
        let (unknown, ()) = tokio::join!(recall(&socket, "db.1.1"), serve());
        assert!(unknown.unwrap().is_none());
    }
}
