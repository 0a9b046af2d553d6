//! What the controller counts.

use super::receive::{Handled, Outcome};
use crate::telemetry::metrics::Registry;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use std::collections::BTreeMap;
use std::time::Duration;

/// What all names begin with.
pub const PREFIX: &str = "lifesign_controller";

/// Seconds: from a commit on a fast disk to one that somebody should hear of.
const LATENCIES: [f64; 9] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.0, 10.0];

type Labels<const N: usize> = [(&'static str, String); N];

/// What the controller counts; a clone counts the same.
#[derive(Clone, Debug)]
pub struct Meters {
    messages: Family<Labels<2>, Counter>,
    bundles_stored: Counter,
    bundles_refused: Family<Labels<1>, Counter>,
    bytes_received: Counter,
    incidents: Family<Labels<1>, Gauge>,
    store: Histogram,
}

impl Meters {
    /// Makes them, and registers them under their names.
    #[must_use]
    pub fn new(registry: &mut Registry) -> Self {
        let meters = Self {
            messages: Family::default(),
            bundles_stored: Counter::default(),
            bundles_refused: Family::default(),
            bytes_received: Counter::default(),
            incidents: Family::default(),
            store: Histogram::new(LATENCIES),
        };
        let ours = registry.sub_registry_with_prefix(PREFIX);
        ours.register("messages", "Messages by what came of them", meters.messages.clone());
        ours.register("bundles_stored", "Bundles kept for good", meters.bundles_stored.clone());
        ours.register("bundles_refused", "Bundles not believed", meters.bundles_refused.clone());
        ours.register("bytes_received", "Payload of all messages", meters.bytes_received.clone());
        ours.register("incidents", "Incidents kept, by class", meters.incidents.clone());
        ours.register("store_seconds", "From a message to its answer", meters.store.clone());
        meters
    }

    /// A message was handled.
    pub fn handled(&self, handled: &Handled, bytes: usize, took: Duration) {
        let outcome = handled.outcome.word().to_owned();
        let labels = [("kind", handled.kind.to_owned()), ("outcome", outcome)];
        self.messages.get_or_create(&labels).inc();
        self.bytes_received.inc_by(bytes as u64);
        self.store.observe(took.as_secs_f64());
        if !matches!(handled.kind, "chunk" | "offer") {
            return;
        }
        match &handled.outcome {
            Outcome::Stored => {
                self.bundles_stored.inc();
            }
            Outcome::Refused(word) => {
                self.bundles_refused.get_or_create(&[("reason", word.clone())]).inc();
            }
            Outcome::Ignored | Outcome::Taken | Outcome::Known | Outcome::Missing => {}
        }
    }

    /// A message could not be handled; it comes again.
    pub fn failed(&self) {
        let labels = [("kind", "any".to_owned()), ("outcome", "failed".to_owned())];
        self.messages.get_or_create(&labels).inc();
    }

    /// How many incidents of each class there are.
    pub fn incidents(&self, classes: &BTreeMap<String, i64>) {
        for (class, count) in classes {
            self.incidents.get_or_create(&[("class", class.clone())]).set(*count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_those_that_alerts_are_written_for() {
        let mut registry = Registry::default();
        let meters = Meters::new(&mut registry);
        let refused = Outcome::Refused("signature".to_owned());
        for (kind, outcome) in [("chunk", Outcome::Stored), ("offer", refused)] {
            let handled = Handled { kind, outcome, replies: Vec::new() };
            meters.handled(&handled, 100, Duration::from_millis(3));
        }
        meters.incidents(&BTreeMap::from([("panic".to_owned(), 2)]));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let mut lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        lines.sort_unstable();
        insta::assert_snapshot!(lines.join("\n"));
    }
}
