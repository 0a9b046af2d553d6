//! What the guest agent's answer, or its silence, tells of the guest.

use super::{Ended, Error, GuestAgent, Program};
use crate::base::chain::Chain;
use crate::base::rung::{Finding, Rung};
use crate::base::text::harmless_line;
use std::path::Path;
use tokio::time::Instant;

/// What the monitor says of the channel (`query-chardev`, before we connect).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Channel {
    /// A process in the guest has it open (`frontend-open`).
    Open,
    /// None has.
    Closed,
    /// Another program on the host is connected to it.
    Held,
    /// The monitor could not be asked.
    Unknown,
}

/// What the agent is asked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Question {
    /// Whether it is there.
    Ping,
    /// What it is.
    Info,
    /// To run a program, whose output holds this text.
    Run {
        /// The program.
        program: Program,
        /// What its output has to hold.
        expect: String,
    },
}

/// Asks the agent: the probe's own answer first, and then what else it proves.
pub async fn probe(
    path: Option<&Path>,
    channel: Channel,
    question: &Question,
    deadline: Instant,
) -> Vec<Finding> {
    let Some(path) = path else {
        return vec![unknown(
            "there is no guest agent channel: start the VM with a virtserialport named \
             `org.qemu.guest_agent.0`, or bind `agent: add`, and run qemu-ga in the guest",
        )];
    };
    if channel == Channel::Held {
        return vec![unknown("another program holds the guest agent's channel")];
    }
    let mut agent = match GuestAgent::connect(path, deadline).await {
        Ok(agent) => agent,
        Err(error) => return vec![not_in_step(&error, channel)],
    };
    match question {
        Question::Ping => match agent.ping().await {
            Ok(()) => vec![alive("the guest agent answers")],
            Err(error) => stumbled(&error),
        },
        Question::Info => match agent.info().await {
            Ok(info) => {
                let version = harmless_line(info.version.as_bytes());
                vec![alive(format!("the guest agent {version} answers"))]
            }
            Err(error) => stumbled(&error),
        },
        Question::Run { program, expect } => match agent.run(program).await {
            Ok(ended) => judge(program, &ended, expect),
            Err(error) => stumbled(&error),
        },
    }
}

/// Nobody answered at all.
fn not_in_step(error: &Error, channel: Channel) -> Finding {
    match (error, channel) {
        (Error::Late { .. } | Error::Rubbish { .. }, Channel::Open) => Finding::dead(
            Rung::Userspace,
            "a process in the guest has the guest agent's channel open, and does not answer",
        ),
        (Error::Late { .. }, Channel::Closed) => unknown(
            "no process in the guest has the guest agent's channel open: install qemu-ga there and start it",
        ),
        (Error::Late { .. }, Channel::Unknown | Channel::Held) => unknown(
            "nobody answers on the guest agent's channel, and whether a process in the guest has it \
             open is not known: give the binding the monitor's socket",
        ),
        (
            Error::Open { .. } | Error::Gone { .. } | Error::Refused { .. } | Error::Rubbish { .. },
            _,
        ) => unknown(Chain(error).to_string()),
    }
}

/// It answered the greeting, so that it lives, and then not the question.
fn stumbled(error: &Error) -> Vec<Finding> {
    let reason = Chain(error).to_string();
    let own = match error {
        Error::Late { command } if command == "guest-exec-status" => {
            Finding::dead(Rung::Service, "the program that the guest agent runs does not end")
        }
        Error::Late { .. } => Finding::dead(Rung::Service, reason),
        Error::Refused { .. } | Error::Open { .. } | Error::Gone { .. } | Error::Rubbish { .. } => {
            Finding::unknown(Rung::Service, reason)
        }
    };
    vec![own, alive("the guest agent greets")]
}

fn judge(program: &Program, ended: &Ended, expect: &str) -> Vec<Finding> {
    let path = &program.path;
    let holds = expect.is_empty()
        || ended.output.windows(expect.len()).any(|window| window == expect.as_bytes());
    if holds && ended.code == Some(0) {
        return vec![alive(format!("`{path}` was run by the guest agent and answered"))];
    }
    let how = match (ended.code, ended.signal) {
        (Some(0), _) => format!("says `{}`, not `{expect}`", first_line(&ended.output)),
        (Some(code), _) => format!("ends with code {code}: `{}`", first_line(&ended.errors)),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended, the guest agent does not say how".to_owned(),
    };
    vec![
        Finding::dead(Rung::Service, format!("`{path}` {how}")),
        alive(format!("the guest agent ran `{path}`")),
    ]
}

fn first_line(output: &[u8]) -> String {
    const BYTES: usize = 120;
    let line = output.trim_ascii().split(|byte| *byte == b'\n').next().unwrap_or_default();
    harmless_line(&line[..line.len().min(BYTES)])
}

fn alive(reason: impl Into<String>) -> Finding {
    Finding::alive(Rung::Userspace, reason)
}

fn unknown(reason: impl Into<String>) -> Finding {
    Finding::unknown(Rung::Userspace, reason)
}
