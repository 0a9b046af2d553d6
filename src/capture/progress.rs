//! How far a capture has come, told while it goes on.

use super::Capture;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// How far it has come.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Progress {
    /// Of all steps, so many are done.
    pub percent: u8,
    /// What is done now.
    pub stage: &'static str,
    /// What was brought so far.
    pub bytes: u64,
}

/// Who listens.
pub type Tell<'a> = &'a (dyn Fn(Progress) + Send + Sync);

/// Counts, and tells.
pub(super) struct Meter<'a> {
    tell: Tell<'a>,
    steps: usize,
    done: AtomicUsize,
    bytes: AtomicU64,
}

impl<'a> Meter<'a> {
    /// Of a capture of so many steps.
    pub(super) fn new(steps: usize, tell: Tell<'a>) -> Self {
        Self { tell, steps, done: AtomicUsize::new(0), bytes: AtomicU64::new(0) }
    }

    /// This is done now.
    pub(super) fn begin(&self, stage: &'static str) {
        let percent = self.done.load(Relaxed).min(self.steps) * 100 / self.steps.max(1);
        let percent = u8::try_from(percent).unwrap_or(100);
        (self.tell)(Progress { percent, stage, bytes: self.bytes.load(Relaxed) });
    }

    /// So much of a step that takes long is done.
    pub(super) fn within(&self, stage: &'static str, part: u64, whole: u64) {
        let steps = u64::try_from(self.steps.max(1)).unwrap_or(u64::MAX);
        let done = u64::try_from(self.done.load(Relaxed)).unwrap_or(u64::MAX).min(steps - 1);
        let percent = part.min(whole).saturating_mul(100) / whole.max(1);
        let percent = u8::try_from((done * 100 + percent) / steps).unwrap_or(100);
        (self.tell)(Progress { percent, stage, bytes: self.bytes.load(Relaxed) });
    }

    /// A step is over, and brought so much.
    pub(super) fn end(&self, bytes: u64) {
        self.done.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
    }

    /// All these steps are over.
    pub(super) fn take(&self, capture: &Capture) {
        capture.steps.iter().for_each(|step| self.end(step.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn it_counts_up_to_the_whole() {
        let told = Mutex::new(Vec::new());
        let tell =
            |progress: Progress| told.lock().unwrap().push((progress.percent, progress.bytes));
        let meter = Meter::new(3, &tell);
        meter.begin("console");
        meter.end(10);
        meter.begin("host");
        meter.within("host", 1, 2);
        meter.within("host", 9, 0);
        // A step more than was known before.
        (0..3).for_each(|_| meter.end(5));
        meter.begin("done");
        assert_eq!(*told.lock().unwrap(), [(0, 0), (33, 10), (50, 10), (33, 10), (100, 25)]);
    }
}
