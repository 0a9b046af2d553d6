//! Numbers for Prometheus.
//!
//! One prefix, base units, and no label whose values a guest or a fleet could make endless.

use super::health::Health;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;

pub use prometheus_client::metrics::counter::Counter;
pub use prometheus_client::metrics::gauge::Gauge;
pub use prometheus_client::metrics::histogram::Histogram;
pub use prometheus_client::registry::Registry;

/// A counter for each value of one label.
pub type Counters = Family<[(&'static str, String); 1], Counter>;

/// A gauge for each value of one label.
pub type Gauges = Family<[(&'static str, String); 1], Gauge>;

/// The registry of a program: its version, and each part of its health as a dependency. What it
/// counts itself goes below its prefix.
#[must_use]
pub fn registry(prefix: &str, health: Health) -> Registry {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Dependencies(health)));
    let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
    registry.sub_registry_with_prefix(prefix).register("build", "The program", version);
    registry
}

/// Seconds from a millisecond to a minute and a half, doubling.
#[must_use]
pub fn seconds() -> Histogram {
    Histogram::new((0..17).map(|power| 0.001 * f64::from(1_u32 << power)))
}

/// Registers a counter that is read where it is kept.
pub fn read_counter(
    registry: &mut Registry,
    (name, help): (&'static str, &'static str),
    read: impl Fn() -> u64 + Send + Sync + 'static,
) {
    registry.register_collector(Box::new(Reading { name, help, read }));
}

struct Reading<F> {
    name: &'static str,
    help: &'static str,
    read: F,
}

impl<F> std::fmt::Debug for Reading<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl<F: Fn() -> u64 + Send + Sync + 'static> Collector for Reading<F> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let counter = ConstCounter::new((self.read)());
        let metric =
            encoder.encode_descriptor(self.name, self.help, None, counter.metric_type())?;
        counter.encode(metric)
    }
}

#[derive(Debug)]
struct Dependencies(Health);

impl Collector for Dependencies {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut family = encoder.encode_descriptor(
            "dependencies_up",
            "Whether a part of the program does its work",
            None,
            prometheus_client::metrics::MetricType::Gauge,
        )?;
        for (part, why) in self.0.parts() {
            let gauge = ConstGauge::new(i64::from(why.is_none()));
            gauge.encode(family.encode_family(&[("dependency", part)])?)?;
        }
        Ok(())
    }
}
