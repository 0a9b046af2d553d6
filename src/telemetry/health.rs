//! Whether the program does all of its work, and if not, why.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The health of a program, part by part. Clones speak of the same program.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<Mutex<BTreeMap<&'static str, Option<String>>>>);

impl Health {
    /// A program without parts is healthy.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// This part does its work.
    pub fn ok(&self, part: &'static str) {
        self.set(part, None);
    }

    /// This part does not: why, and what to do.
    pub fn degraded(&self, part: &'static str, why: impl Into<String>) {
        self.set(part, Some(why.into()));
    }

    fn set(&self, part: &'static str, why: Option<String>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(part, why);
    }

    /// Every part, and what is wrong with it.
    #[must_use]
    pub fn parts(&self) -> Vec<(&'static str, Option<String>)> {
        let parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        parts.iter().map(|(part, why)| (*part, why.clone())).collect()
    }

    /// `healthy`, or `degraded` with a line for each part that is.
    #[must_use]
    pub fn report(&self) -> String {
        let mut report = String::new();
        for (part, why) in self.parts() {
            if let Some(why) = why {
                report.push_str(&format!("{part}: {why}\n"));
            }
        }
        if report.is_empty() { "healthy\n".to_owned() } else { format!("degraded\n{report}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_recovers_is_healthy_again() {
        let health = Health::new();
        health.ok("spool");
        health.degraded("broker", "127.0.0.1:8883 refuses connections; is it running?");
        assert_eq!(
            health.report(),
            "degraded\nbroker: 127.0.0.1:8883 refuses connections; is it running?\n"
        );
        health.ok("broker");
        assert_eq!(health.report(), "healthy\n");
    }
}
