//! What a conversation on a console tells of the guest.
//!
//! Pure.

use crate::base::rung::{Finding, Rung};

/// What came of a conversation.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Report {
    /// How it ended.
    pub outcome: Outcome,
    /// What was asked last.
    pub asked: String,
    /// What was expected to come back.
    pub expected: String,
    /// How many bytes came since it was asked.
    pub bytes: u64,
    /// Whether the console showed the password, so that it is in its log: it should be changed.
    pub password_shown: bool,
}

/// How a conversation ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// Everything that was expected came.
    Answered,
    /// The shell carried it out, and something else came.
    Other {
        /// What.
        said: String,
    },
    /// The shell began to carry it out, and did not come to the end.
    Unfinished,
    /// Somebody asks who we are, and nobody told us.
    LoginAsked,
    /// Who we said we are was not believed.
    Refused,
    /// The name or the password was taken, and then nothing happened.
    LoginHangs,
    /// What was typed came back, and nothing else.
    Echoed,
    /// So much came without a pause that an answer could be missing from it.
    Flooded,
    /// Something came, but no answer.
    Babbled,
    /// Nothing came.
    Silent,
}

impl Report {
    /// What this says of the guest: the probe's own answer first, and then what else it proves.
    ///
    /// *Dead* holds only if it was us whom the guest could hear: whether somebody else holds the
    /// console, or the guest is paused, is known to the monitor alone.
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        let Self { asked, expected, bytes, outcome: _, password_shown: _ } = self;
        let (service, userspace) = (Rung::Service, Rung::Userspace);
        match &self.outcome {
            Outcome::Answered => vec![Finding::alive(userspace, format!("`{asked}` was answered"))],
            Outcome::Other { said } => vec![
                Finding::dead(service, format!("`{asked}` answers `{said}`, not `{expected}`")),
                Finding::alive(userspace, format!("the shell carried out `{asked}`")),
            ],
            Outcome::Unfinished => vec![
                Finding::dead(service, format!("`{asked}` was begun and does not come to an end")),
                Finding::alive(userspace, format!("the shell began to carry out `{asked}`")),
            ],
            Outcome::LoginAsked => vec![
                Finding::unknown(service, "the console wants a login: give the binding one"),
                Finding::alive(userspace, "a login prompt answers"),
            ],
            Outcome::Refused => vec![
                Finding::unknown(
                    service,
                    "the console refuses the login: correct the user or the password of the binding",
                ),
                Finding::alive(userspace, "the login answers"),
            ],
            Outcome::LoginHangs => vec![
                Finding::dead(service, "the login was begun and leads nowhere"),
                Finding::alive(userspace, "a login prompt answered"),
            ],
            Outcome::Echoed => vec![
                Finding::dead(
                    userspace,
                    format!("`{asked}` was typed and only its echo came back"),
                ),
                Finding::alive(Rung::Kernel, "the kernel echoes what is typed"),
            ],
            Outcome::Flooded => vec![Finding::unknown(
                userspace,
                format!("the console floods: {bytes} bytes without a pause, and no answer in them"),
            )],
            Outcome::Babbled => vec![Finding::dead(
                userspace,
                format!("`{asked}` was typed and {bytes} bytes came back, but not `{expected}`"),
            )],
            Outcome::Silent => {
                vec![Finding::dead(userspace, format!("`{asked}` was typed and nothing came back"))]
            }
        }
    }
}
