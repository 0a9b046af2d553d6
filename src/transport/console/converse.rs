//! Has a conversation on an open console: the clock and the bytes for [`Talk`].

use super::talk::{Next, Talk};
use super::{Console, Error, Report, Script};
use crate::base::chain::Chain;
use ring::rand::{SecureRandom, SystemRandom};
use std::time::Duration;
use tokio::time::Instant;

/// Which front end of a multiplexer is to hear us, and how the focus comes back to where it was.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Focus {
    /// How often the focus is turned before anything is typed.
    pub forth: u8,
    /// How often it is turned when we leave.
    pub back: u8,
}

impl Focus {
    /// Whoever has it.
    pub const AS_FOUND: Self = Self { forth: 0, back: 0 };
    /// The other one of two, as EVE has them.
    pub const OTHER_OF_TWO: Self = Self { forth: 1, back: 1 };
}

/// Nothing for so long is a pause.
const PAUSE: Duration = Duration::from_millis(100);

/// A line is typed in pieces of so many keys. QEMU's multiplexer keeps 32 keys that a guest does not take,
/// and overwrites them with more; a virtio console has room for a hundred or so.
const KEYS: usize = 64;

/// How long a guest may take to take a piece, which it shows by its echo if it echoes.
const TAKES: Duration = Duration::from_millis(200);

/// How long a farewell may take. The next login prompt belongs to it, or it would come to whoever
/// is next.
const FAREWELL: Duration = Duration::from_secs(2);

const SECOND: Duration = Duration::from_secs(1);

/// Has a conversation, and leaves the console as it was found. On a line that nobody takes anything
/// from, and wherever somebody logged in, leaving may take two seconds more than `deadline`.
///
/// To drop this midway leaves the focus turned and perhaps a session open: give it a deadline
/// instead.
///
/// # Errors
///
/// When the console breaks, or nobody takes what is typed.
pub async fn converse(
    mut console: Console,
    script: &Script,
    focus: Focus,
    deadline: Instant,
) -> Result<Report, Error> {
    turn(&mut console, focus.forth).await?;
    let report = talk(&mut console, script, deadline).await;
    if let Err(error) = turn(&mut console, focus.back).await {
        tracing::warn!(
            error = %Chain(&error),
            "the console's keyboard focus was not turned back; `^A c` on the console does it"
        );
    }
    console.close().await;
    report
}

async fn turn(console: &mut Console, times: u8) -> Result<(), Error> {
    for _ in 0..times {
        if let Some(keys) = console.wiring().rotate() {
            console.write(&keys).await?;
        }
    }
    Ok(())
}

async fn talk(console: &mut Console, script: &Script, deadline: Instant) -> Result<Report, Error> {
    let (mut talk, mut next) = Talk::new(script, nonce());
    let mut chunk = [0; 4096];
    let mut second = Instant::now() + SECOND;
    loop {
        match next {
            Next::Type(keys) => {
                let echo = type_line(console, &keys).await?;
                second = Instant::now() + SECOND;
                if !echo.is_empty() {
                    next = talk.hear(&echo);
                    continue;
                }
            }
            Next::Listen => {}
            Next::End => break,
        }
        let now = Instant::now();
        if now >= deadline {
            break;
        }
        if now >= second {
            second += SECOND;
            next = talk.second();
            continue;
        }
        let until = deadline.min(second).min(now + PAUSE);
        next = match console.read_some(&mut chunk, until).await? {
            0 if Instant::now() >= now + PAUSE => talk.pause(),
            0 => Next::Listen,
            count => talk.hear(&chunk[..count]),
        };
    }
    let (report, last_words) = talk.finish();
    if report.password_shown {
        tracing::warn!(
            "the console showed the password that was typed, and its log has it: change it"
        );
    }
    if let Some(keys) = last_words {
        console.type_text(&keys).await?;
        let prompt = |heard: &[u8]| heard.trim_ascii_end().ends_with(b"login:");
        console.listen(Instant::now() + FAREWELL, prompt).await?;
    }
    Ok(report)
}

/// Types piece by piece, and gives what was heard meanwhile.
async fn type_line(console: &mut Console, keys: &[u8]) -> Result<Vec<u8>, Error> {
    let mut heard = Vec::new();
    let mut pieces = keys.chunks(KEYS).peekable();
    while let Some(piece) = pieces.next() {
        console.type_text(piece).await?;
        if pieces.peek().is_some() {
            let takes = Instant::now() + TAKES;
            let echo = console.listen(takes, |echo| echo.len() >= piece.len()).await?;
            heard.extend(echo.bytes());
        }
    }
    Ok(heard)
}

/// Random enough that no earlier answer has it, and short: it is on the console, in its log, and
/// perhaps on an uplink.
fn nonce() -> String {
    let mut random = [0; 4];
    if SystemRandom::new().fill(&mut random).is_err() {
        tracing::debug!("no randomness: an answer that comes late may be taken for this one's");
    }
    random.iter().map(|byte| format!("{byte:02x}")).collect()
}
