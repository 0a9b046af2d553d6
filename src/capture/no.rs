//! Why a step was not taken, as its report says it.

use crate::base::chain::Chain;
use crate::evidence::report::Outcome;
use crate::hypervisor::qmp::{AskError, ConnectError};
use std::error::Error;

/// How it ended instead, and why.
#[derive(Debug)]
pub(super) struct No(pub(super) Outcome, pub(super) String);

impl No {
    /// It is not for us to do.
    pub(super) fn skipped(why: &str) -> Self {
        Self(Outcome::Skipped, why.to_owned())
    }

    /// It broke.
    pub(super) fn failed(error: &dyn Error) -> Self {
        Self(Outcome::Failed, Chain(error).to_string())
    }
}

impl From<ConnectError> for No {
    fn from(error: ConnectError) -> Self {
        let outcome = match error {
            ConnectError::Busy { .. } => Outcome::Silent,
            ConnectError::Open { .. } | ConnectError::NotQmp { .. } | ConnectError::Start(_) => {
                Outcome::Failed
            }
        };
        Self(outcome, Chain(&error).to_string())
    }
}

impl From<AskError> for No {
    fn from(error: AskError) -> Self {
        let outcome = match error {
            AskError::Refused { .. } => Outcome::Refused,
            AskError::Late { .. } => Outcome::Silent,
            AskError::Gone { .. } | AskError::Rubbish { .. } => Outcome::Failed,
        };
        Self(outcome, Chain(&error).to_string())
    }
}
