//! The one thread that owns the receiver and its store.
//!
//! Jobs come through a bounded channel, one after the other; what came of each goes out through
//! another. While no job waits, stored bundles are diagnosed. It ends when nobody can send jobs any
//! more and all that were sent are done: nothing is dropped midway.

use super::metrics::Meters;
use super::receive::{Handled, Message, Receiver};
use super::store::StoreError;
use super::verify::Now;
use crate::base::chain::Chain;
use crate::base::time::Clock;
use crate::telemetry::health::Health;
use tokio::sync::mpsc;

/// A message and whoever waits for what comes of it.
pub struct Job<T> {
    /// What was published.
    pub message: Message,
    /// Given back with the result.
    pub ticket: T,
}

/// What came of a job.
pub struct Done<T> {
    /// `None`: the store failed, and the message is to be handed in again.
    pub handled: Option<Handled>,
    /// As it was given.
    pub ticket: T,
}

/// What the worker tells of itself.
#[derive(Clone)]
pub struct Vitals {
    /// For metrics.
    pub meters: Meters,
    /// For health.
    pub health: Health,
}

/// Works until the channel of jobs is closed and empty.
pub fn work<T>(
    mut receiver: Receiver,
    mut jobs: mpsc::Receiver<Job<T>>,
    done: &mpsc::Sender<Done<T>>,
    vitals: &Vitals,
) {
    vitals.report(receiver.store().classes().map(|classes| vitals.meters.incidents(&classes)));
    loop {
        while jobs.is_empty() && diagnose(&mut receiver, vitals) {}
        let Some(Job { message, ticket }) = jobs.blocking_recv() else { return };
        let handled = handle(&mut receiver, &message, vitals);
        if done.blocking_send(Done { handled, ticket }).is_err() {
            return;
        }
    }
}

fn handle(receiver: &mut Receiver, message: &Message, vitals: &Vitals) -> Option<Handled> {
    let now = Now { instant: Clock::now(), wall: Clock::wall() };
    let handled = vitals.report(receiver.handle(message, now));
    match &handled {
        Some(handled) => {
            let took = Clock::now().since(now.instant);
            vitals.meters.handled(handled, message.payload.len(), took);
        }
        None => vitals.meters.failed(),
    }
    handled
}

/// Whether there may be more to diagnose.
fn diagnose(receiver: &mut Receiver, vitals: &Vitals) -> bool {
    let diagnosed = vitals.report(receiver.diagnose_one()) == Some(true);
    if diagnosed {
        vitals.report(receiver.store().classes().map(|classes| vitals.meters.incidents(&classes)));
    }
    diagnosed
}

impl Vitals {
    /// Says how the store does.
    pub fn report<T>(&self, result: Result<T, StoreError>) -> Option<T> {
        match result {
            Ok(value) => {
                self.health.ok("store");
                Some(value)
            }
            Err(error) => {
                let why = Chain(&error).to_string();
                tracing::error!(why, "the store failed; what was sent is not receipted");
                let advice = format!("{why}. Check space and rights of the data directory");
                self.health.degraded("store", &advice);
                None
            }
        }
    }
}
