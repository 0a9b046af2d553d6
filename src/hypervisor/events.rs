//! What the hypervisor tells by itself, over a monitor that is ours for good.
//!
//! Who connects for a second hears of that second. A monitor that a binding gives us to keep tells of a panic, a
//! watchdog, a disk error in the moment when it happens. It is asked nothing, and one that goes away or
//! that somebody else has is tried again; the events of a hypervisor that ended are of the past.

use super::qmp::{ConnectError, Monitor};
use crate::base::chain::Chain;
use crate::base::limits;
use crate::evidence::qmp::Reply;
use serde_json::Value;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Between two tries to connect. A hypervisor that was restarted is found by its new socket before.
const RETRY: Duration = Duration::from_secs(10);

/// Listens for as long as it is kept.
#[derive(Debug)]
pub struct Events {
    told: Told,
    _listening: JoinSet<()>,
}

/// What was told so far.
#[derive(Clone, Debug, Default)]
pub struct Told(Arc<Mutex<Kept>>);

/// A moment in what is told.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mark(u64);

#[derive(Debug, Default)]
struct Kept {
    /// How many were ever told.
    count: u64,
    /// The latest of each kind, in time, with their numbers.
    latest: VecDeque<(u64, String, Value)>,
}

impl Events {
    /// Of this monitor; of none, if there is none to keep.
    #[must_use]
    pub fn of(monitor: Option<PathBuf>) -> Self {
        Self::retrying(monitor, RETRY)
    }

    fn retrying(monitor: Option<PathBuf>, retry: Duration) -> Self {
        let told = Told::default();
        let mut listening = JoinSet::new();
        if let Some(path) = monitor {
            let told = told.clone();
            listening.spawn(async move { match listen(&path, &told, retry).await {} });
        }
        Self { told, _listening: listening }
    }

    /// What it tells, for one who asks now and then.
    #[must_use]
    pub fn told(&self) -> Told {
        self.told.clone()
    }
}

impl Told {
    /// The moment up to which everything was told.
    #[must_use]
    pub fn so_far(&self) -> Mark {
        self.with(|kept| Mark(kept.count))
    }

    /// What was told after that moment.
    #[must_use]
    pub fn since(&self, mark: Mark) -> Vec<Reply> {
        self.with(|kept| {
            let later = kept.latest.iter().filter(|(number, ..)| *number >= mark.0);
            later.map(|(_, name, value)| Reply::event(name, value.clone(), 0)).collect()
        })
    }

    fn with<T>(&self, of: impl FnOnce(&mut Kept) -> T) -> T {
        of(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Kept {
    fn keep(&mut self, name: String, value: Value) {
        let alike = |of: &(u64, String, Value)| of.1 == name;
        if self.latest.iter().filter(|event| alike(event)).count() == limits::QMP_EVENTS_ALIKE {
            let oldest = self.latest.iter().position(alike);
            oldest.and_then(|oldest| self.latest.remove(oldest));
        }
        if self.latest.len() == limits::QMP_EVENTS_ALIKE * limits::QMP_EVENT_KINDS {
            self.latest.pop_front();
        }
        self.latest.push_back((self.count, name, value));
        self.count += 1;
    }
}

/// Listens for ever, and tells once why it hears nothing.
async fn listen(path: &Path, told: &Told, retry: Duration) -> Infallible {
    let mut is_told = false;
    loop {
        match Monitor::connect(path).await {
            Ok(monitor) => {
                is_told = false;
                told.with(|kept| kept.latest.clear());
                hear(monitor, told).await;
                tracing::debug!(monitor = %path.display(), "the monitor of events went away");
            }
            Err(error) if !is_told => {
                is_told = true;
                tell(path, &error);
            }
            Err(_) => {}
        }
        sleep(retry).await;
    }
}

async fn hear(mut monitor: Monitor, told: &Told) {
    while let Ok((name, value)) = monitor.event().await {
        told.with(|kept| kept.keep(name, value));
    }
}

fn tell(path: &Path, error: &ConnectError) {
    let (monitor, error) = (path.display(), Chain(error));
    tracing::warn!(%monitor, %error, "the hypervisor's events are not heard; tried again");
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::net::{UnixListener, UnixStream};

    async fn serve(listener: &UnixListener) -> UnixStream {
        let (mut client, _) = listener.accept().await.unwrap();
        client.write_all(b"{\"QMP\": {}}\n").await.unwrap();
        let mut asked = String::new();
        BufReader::new(&mut client).read_line(&mut asked).await.unwrap();
        assert!(asked.contains("qmp_capabilities"), "{asked}");
        client.write_all(b"{\"return\": {}, \"id\": 1}\n").await.unwrap();
        client
    }

    async fn tell(client: &mut UnixStream, name: &str, number: usize) {
        let event = json!({ "event": name, "data": { "number": number } });
        client.write_all(format!("{event}\n").as_bytes()).await.unwrap();
    }

    async fn heard(told: &Told, count: u64) {
        while told.with(|kept| kept.count) < count {
            sleep(Duration::from_millis(1)).await;
        }
    }

    fn numbers(replies: &[Reply], name: &str) -> Vec<u64> {
        let of = |reply: &&Reply| reply.command == format!("event {name}");
        let number = |reply: &Reply| reply.value["data"]["number"].as_u64().unwrap();
        replies.iter().filter(of).map(number).collect()
    }

    #[tokio::test]
    async fn a_flood_of_one_kind_hides_no_other_and_a_mark_parts_old_from_new() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("events");
        let listener = UnixListener::bind(&path).unwrap();
        let events = Events::of(Some(path));
        let told = events.told();
        let mut client = serve(&listener).await;
        tell(&mut client, "GUEST_PANICKED", 0).await;
        heard(&told, 1).await;
        let mark = told.so_far();
        for number in 0..500 {
            tell(&mut client, "RTC_CHANGE", number).await;
        }
        heard(&told, 501).await;
        let all = told.since(Mark::default());
        assert_eq!(numbers(&all, "GUEST_PANICKED"), [0]);
        assert_eq!(numbers(&all, "RTC_CHANGE"), (492..500).collect::<Vec<u64>>());
        assert_eq!(told.since(mark).len(), limits::QMP_EVENTS_ALIKE);
        for kind in 0..100 {
            tell(&mut client, &format!("KIND_{kind}"), kind).await;
            tell(&mut client, &format!("KIND_{kind}"), kind).await;
        }
        heard(&told, 701).await;
        let most = limits::QMP_EVENTS_ALIKE * limits::QMP_EVENT_KINDS;
        assert_eq!(told.since(Mark::default()).len(), most);
    }

    #[tokio::test]
    async fn what_a_hypervisor_told_that_ended_is_of_the_past() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("events");
        let listener = UnixListener::bind(&path).unwrap();
        let events = Events::retrying(Some(path), Duration::from_millis(5));
        let told = events.told();
        let mut client = serve(&listener).await;
        tell(&mut client, "WATCHDOG", 1).await;
        heard(&told, 1).await;
        drop(client);
        let mut client = serve(&listener).await;
        tell(&mut client, "RESET", 2).await;
        heard(&told, 2).await;
        let replies = told.since(Mark::default());
        assert_eq!((numbers(&replies, "WATCHDOG"), numbers(&replies, "RESET")), (vec![], vec![2]));
        drop(events);
        client.readable().await.unwrap();
        assert_eq!(client.try_read(&mut [0; 64]).unwrap(), 0, "the socket is free again");
    }
}
