//! What a capture tried, and what came of it.

use std::fmt;

/// What came of one step of the capture.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StepReport {
    /// Which step.
    pub name: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Why it is not done; empty if it is.
    pub reason: String,
    /// How long it took.
    pub took_ms: u32,
    /// How much it brought.
    pub bytes: u64,
}

/// How a step of the capture ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// It brought all there was.
    Done,
    /// It brought something, but ran out of time or of bytes.
    Partial,
    /// The guest or the hypervisor said no.
    Refused,
    /// Nobody answered.
    Silent,
    /// It could not be tried, or broke.
    Failed,
    /// No consent, or nothing to ask.
    Skipped,
}

impl Outcome {
    /// The word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Partial => "partial",
            Self::Refused => "refused",
            Self::Silent => "silent",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}
