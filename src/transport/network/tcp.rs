//! A TCP port: closed, open, or with a server behind it that speaks.
//!
//! A kernel completes connects for a server that is stopped until its backlog is full, so an open
//! port alone proves the kernel. A closed port does as well, and costs no backlog.

use super::dial::{Refusal, connected, dial, reset, service_without, unreachable};
use super::{Asked, Expect, Target};
use crate::base::limits;
use crate::base::rung::{Finding, Rung};
use crate::base::text::harmless_line;
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

/// What is asked of a port.
#[derive(Clone, Copy)]
pub enum Question<'a> {
    /// Any answer, a reset too: is there a kernel?
    Answer,
    /// A completed connect. Nobody listening is *dead*.
    Open,
    /// A server that says what is expected.
    Banner {
        /// What a server that does not speak first must be told; may be empty.
        send: &'a [u8],
        /// What it must say.
        expect: Expect<'a>,
    },
}

/// Asks.
pub async fn ask(target: &Target<'_>, question: &Question<'_>, deadline: Instant) -> Asked {
    let dialled = dial(target, deadline).await;
    match (question, dialled) {
        (Question::Banner { send, expect }, Ok(mut stream)) => {
            let heard = listen(&mut stream, send, expect, deadline).await;
            judge(target, expect, heard)
        }
        (Question::Answer | Question::Open, Ok(_)) => opened(target).into(),
        (Question::Answer, Err(refusal)) => no_kernel(target, refusal).into(),
        (Question::Open | Question::Banner { .. }, Err(refusal)) => {
            service_without(target, refusal)
        }
    }
}

fn opened(target: &Target<'_>) -> Finding {
    let at = target.address;
    if target.nat {
        let why = "is completed by QEMU's user-mode network even for a guest that is paused: expect a banner";
        return Finding::unknown(Rung::Kernel, format!("a connection to {at} {why}"));
    }
    let why = "which it does for a dead server, too: expect a banner to prove the service";
    Finding::alive(Rung::Kernel, format!("its kernel completed the connection to {at}, {why}"))
}

fn no_kernel(target: &Target<'_>, refusal: Refusal) -> Finding {
    let at = target.address;
    match refusal {
        Refusal::Ours(why) => Finding::unknown(Rung::Kernel, why),
        Refusal::Reset | Refusal::Silence | Refusal::Unreachable if target.nat => {
            let why = "only bytes from the guest prove anything through QEMU's user-mode network";
            Finding::unknown(Rung::Kernel, format!("{at} is not forwarded to the guest; {why}"))
        }
        Refusal::Reset => reset(target),
        Refusal::Silence => Finding::dead(
            Rung::Kernel,
            format!("{at} gave no answer in time: neither a connection nor a reset"),
        ),
        Refusal::Unreachable => Finding::dead(Rung::Kernel, unreachable(target)),
    }
}

/// How a conversation went, and all that was heard in it.
struct Heard {
    bytes: Vec<u8>,
    end: End,
}

enum End {
    Wanted,
    Full,
    Late,
    Closed,
    Broken(io::Error),
}

async fn listen(
    stream: &mut TcpStream,
    send: &[u8],
    expect: &Expect<'_>,
    deadline: Instant,
) -> Heard {
    let mut bytes = Vec::new();
    let end = match timeout_at(deadline, converse(stream, send, expect, &mut bytes)).await {
        Ok(Ok(end)) => end,
        Ok(Err(error)) => End::Broken(error),
        Err(_) => End::Late,
    };
    Heard { bytes, end }
}

async fn converse(
    stream: &mut TcpStream,
    send: &[u8],
    expect: &Expect<'_>,
    heard: &mut Vec<u8>,
) -> io::Result<End> {
    stream.write_all(send).await?;
    let mut chunk = [0; 1024];
    loop {
        let room = limits::BANNER_BYTES.saturating_sub(heard.len()).min(chunk.len());
        if room == 0 {
            return Ok(End::Full);
        }
        let count = stream.read(&mut chunk[..room]).await?;
        if count == 0 {
            return Ok(End::Closed);
        }
        heard.extend_from_slice(&chunk[..count]);
        if (expect.matches)(heard) {
            return Ok(End::Wanted);
        }
    }
}

fn judge(target: &Target<'_>, expect: &Expect<'_>, heard: Heard) -> Asked {
    let (at, wanted) = (target.address, expect.said);
    let said = excerpt(&heard.bytes);
    let reason = match heard.end {
        End::Wanted => {
            let reason = format!("{at} says `{said}`");
            return Finding::alive(Rung::Service, reason).into();
        }
        End::Full => {
            format!(
                "{at} says `{said}` and so on, {} bytes of it, but not `{wanted}`",
                heard.bytes.len()
            )
        }
        End::Late if heard.bytes.is_empty() => {
            format!("{at} takes connections and says nothing; `{wanted}` was expected")
        }
        End::Late => format!("{at} says `{said}` and then no more, but not `{wanted}`"),
        End::Closed if heard.bytes.is_empty() => {
            format!("{at} closes the connection without a word; `{wanted}` was expected")
        }
        End::Closed => format!("{at} says `{said}` and leaves, but not `{wanted}`"),
        End::Broken(error) => format!("{at} breaks the connection: {error}"),
    };
    let beside = if heard.bytes.is_empty() { connected(target) } else { Some(spoke(target)) };
    Asked { finding: Finding::dead(Rung::Service, reason), beside }
}

/// Bytes on a connection come from a process, and no network in between makes them up.
pub(super) fn spoke(target: &Target<'_>) -> Finding {
    Finding::alive(Rung::Userspace, format!("a process answered at {}", target.address))
}

/// The beginning of what somebody else said, as a sentence of ours can carry it.
pub(super) fn excerpt(bytes: &[u8]) -> String {
    const SHOWN: usize = 60;
    let line = bytes.split(|byte| matches!(byte, b'\r' | b'\n')).find(|line| !line.is_empty());
    let line = line.unwrap_or_default();
    harmless_line(&line[..line.len().min(SHOWN)])
}
