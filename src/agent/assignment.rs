//! What the controller binds on this device, from the link to the keeper of watches.
//!
//! ```text
//!   upload --the last word--> take --in force--> keeper
//!                               |
//!                               +--> log, health, and the status that the controller reads
//! ```
//!
//! What was in force when the program ended is so again when it starts, whether there is a link or
//! not. What is refused changes nothing.

use super::config::Config;
use crate::base::chain::Chain;
use crate::base::id::Digest;
use crate::base::limits;
use crate::binding::{Assigned, Authority, KeyError, Rules, Taken};
use crate::telemetry::health::Health;
use crate::upload;
use tokio::sync::watch as channel;

/// The part of health that is spoken of here.
const PART: &str = "bindings";

/// The controller's bindings, and everybody who wants to hear of them.
pub struct Assignment {
    assigned: Assigned,
    /// Why the last message was refused, or what was in force before is not.
    refused: Option<String>,
    health: Health,
    told: channel::Sender<Report>,
}

/// What is in force, for who tells the controller and for who lends it dumps.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Report {
    /// The number of what is in force, or 0.
    pub sequence: u64,
    /// Why the last message was refused, as much as is sent. Empty: it was not.
    pub refused: String,
    /// The dumps that the controller wishes to have, and may.
    pub dumps: Vec<Digest>,
}

/// Whose bindings this device takes, if anybody's.
///
/// # Errors
///
/// When the certificate in the config cannot be used.
pub fn authority(config: &Config) -> Result<Option<Authority>, KeyError> {
    config.controller.as_ref().map(Authority::load).transpose()
}

/// Whose bindings are taken, and which of them are kept, for who checks a config.
///
/// # Errors
///
/// When the certificate in the config cannot be used.
pub fn describe(config: &Config) -> Result<Option<String>, KeyError> {
    let Some(authority) = authority(config)? else { return Ok(None) };
    let Some(controller) = &config.controller else { return Ok(None) };
    let (path, most) = (controller.certificate.display(), authority.consent);
    let (assigned, _) = Assigned::look(&config.state, config.device.clone(), authority);
    let kept = assigned.sequence().map_or("none of its bindings are".to_owned(), |sequence| {
        format!("its bindings {sequence} are")
    });
    let dumps = if controller.dumps { "may have dumps" } else { "may have no dumps" };
    Ok(Some(format!(
        "{path}: a controller that may consent to `{most}` at most, and {dumps}; {kept} in force here"
    )))
}

impl Assignment {
    /// What was in force before is so again.
    #[must_use]
    pub fn open(
        config: &Config,
        authority: Authority,
        health: Health,
        told: channel::Sender<Report>,
    ) -> Self {
        let (assigned, problem) = Assigned::open(&config.state, config.device.clone(), authority);
        match &problem {
            Some(problem) => tracing::error!("the controller's bindings: {problem}"),
            None => {
                if let Some(sequence) = assigned.sequence() {
                    tracing::info!(sequence, "the controller's bindings are in force as before");
                }
            }
        }
        let assignment = Self { assigned, refused: problem, health, told };
        assignment.tell();
        assignment
    }

    /// What is in force.
    #[must_use]
    pub fn rules(&self) -> Rules {
        self.assigned.rules()
    }

    /// Takes what came, or refuses it. Says whether other rules are in force now.
    pub fn take(&mut self, word: upload::Bindings) -> bool {
        let taken = match word {
            upload::Bindings::Nothing => return false,
            upload::Bindings::Message(sealed) => {
                self.assigned.take(&sealed).map_err(|refusal| Chain(&refusal).to_string())
            }
            upload::Bindings::Hindered { why } => Err(why),
        };
        let new = matches!(taken, Ok(Taken::New));
        let before = std::mem::replace(&mut self.refused, taken.err());
        if let Some(why) = &self.refused {
            // A broker that says it again and again shall not fill the log.
            if self.refused != before {
                tracing::error!("the controller's bindings stay as they are: {why}");
            }
        } else if new {
            let sequence = self.assigned.sequence();
            tracing::info!(sequence, "the controller's bindings are in force");
        }
        self.tell();
        new
    }

    /// Whether the disk does not hold what is in force.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.assigned.is_behind()
    }

    /// Tries again to bring it to disk.
    pub fn settle(&mut self) {
        // Health tells it for as long as it lasts.
        self.assigned.settle().ok();
        self.tell();
    }

    fn tell(&self) {
        if let Some(why) = &self.refused {
            let first = why.lines().next().unwrap_or_default().trim_end_matches(':');
            self.health.degraded(PART, format!("{first}; the log has all of it"));
        } else if self.is_behind() {
            let why = "in force, but not on disk: a restart would forget them; make room on it";
            self.health.degraded(PART, why);
        } else {
            self.health.ok(PART);
        }
        let refused = cut(self.refused.as_deref().unwrap_or_default());
        let sequence = self.assigned.sequence().unwrap_or(0);
        let dumps = self.assigned.dumps().to_vec();
        self.told.send_replace(Report { sequence, refused, dumps });
    }
}

/// As much of a text as travels with every status.
fn cut(text: &str) -> String {
    const MORE: &str = "\n.. the device's log has the rest";
    if text.len() <= limits::BINDINGS_ERROR_BYTES {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(limits::BINDINGS_ERROR_BYTES - MORE.len());
    format!("{}{MORE}", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_refusal_is_cut_between_letters() {
        assert_eq!(cut("short"), "short");
        let long = cut(&"é".repeat(limits::BINDINGS_ERROR_BYTES));
        assert!(long.len() <= limits::BINDINGS_ERROR_BYTES);
        assert!(long.ends_with("é\n.. the device's log has the rest"), "{long}");
    }
}
