//! SysRq from inside, through the guest agent: neither the kernel's mask nor its log level stands in
//! the way, but somebody in the guest has to be alive.

use crate::base::step::Action;
use crate::transport::guest_agent::{Error, GuestAgent, Program};
use std::path::Path;
use std::time::Duration;
use tokio::time::Instant;

/// An agent that lives answers at once,
const HELLO: Duration = Duration::from_secs(2);

/// but a dump of many tasks takes seconds to print, and to be read.
const DUMP: Duration = Duration::from_secs(15);

/// What the kernel's log has after the key, from the answer's first line on.
pub(super) async fn press(
    agent: &Path,
    action: Action,
    deadline: Instant,
) -> Result<Vec<u8>, Error> {
    let key = char::from(action.key());
    let log = run(agent, &format!("echo {key} > /proc/sysrq-trigger && dmesg"), deadline).await?;
    Ok(last_answer(log))
}

/// The log level of the guest's console.
pub(super) async fn level(agent: &Path, deadline: Instant) -> Option<u8> {
    level_in(&run(agent, "cat /proc/sys/kernel/printk", deadline).await.ok()?)
}

/// The first number of `/proc/sys/kernel/printk`, if a key can set it.
pub(super) fn level_in(text: &[u8]) -> Option<u8> {
    let digit = |word: &[u8]| matches!(word, [b'0'..=b'9']).then(|| word[0] - b'0');
    let mut words = text.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    // What a shell echoes comes before the four numbers.
    loop {
        if let (Some(level), mut rest) = (digit(words.next()?), words.clone())
            && (0..3).all(|_| rest.next().is_some_and(|word| word.iter().all(u8::is_ascii_digit)))
        {
            return Some(level);
        }
    }
}

async fn run(agent: &Path, command: &str, deadline: Instant) -> Result<Vec<u8>, Error> {
    GuestAgent::connect(agent, deadline.min(Instant::now() + HELLO)).await?;
    let mut agent = GuestAgent::connect(agent, deadline.min(Instant::now() + DUMP)).await?;
    let arguments = vec!["-c".to_owned(), command.to_owned()];
    let ended = agent.run(&Program { path: "/bin/sh".to_owned(), arguments }).await?;
    Ok(ended.output)
}

/// A log holds the answers to older keys, too.
fn last_answer(mut log: Vec<u8>) -> Vec<u8> {
    const SPOKEN: &[u8] = b"sysrq: ";
    let Some(spoken) = log.windows(SPOKEN.len()).rposition(|window| window == SPOKEN) else {
        return Vec::new();
    };
    let line = log[..spoken].iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    log.drain(..line);
    log
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_found_behind_an_echo() {
        assert_eq!(level_in(b"4\t4\t1\t7\n"), Some(4));
        assert_eq!(level_in(b"cat /proc/sys/kernel/printk\r\n7 4 1 7\r\n# "), Some(7));
        assert_eq!(level_in(b"15 4 1 7"), None);
        assert_eq!(level_in(b""), None);
    }

    #[test]
    fn the_last_answer_counts() {
        let log = b"[1] sysrq: Show State\nold\n[2] x\n[3] sysrq: Show State\nnew\n".to_vec();
        assert_eq!(last_answer(log), b"[3] sysrq: Show State\nnew\n");
        assert_eq!(last_answer(b"nothing".to_vec()), b"");
    }
}
