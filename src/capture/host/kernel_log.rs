//! The end of the host's kernel log, from `/dev/kmsg`.
//!
//! ```text
//! 6,453,25469089480,-;bn1: port 1(near) entered disabled state
//!  SUBSYSTEM=net
//! ```
//!
//! Priority, number, microseconds after boot, flags; the text; then what belongs to it, indented. A device
//! gives one record a read and would wait for the next one, so it is opened not to wait.

use super::root::Root;
use crate::base::limits;
use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

/// A device refuses to read into less than a whole record, which has at most 10 KiB.
const BUFFER: usize = 16 * 1024;

/// What the kernel said within the last minutes, the oldest line first.
pub(super) fn look(root: &Root) -> io::Result<Vec<String>> {
    let mut options = OpenOptions::new();
    let options = options.read(true).custom_flags(nix::libc::O_NONBLOCK);
    let mut records = BufReader::with_capacity(BUFFER, options.open(root.path("/dev/kmsg"))?);
    let uptime = root.line("/proc/uptime").unwrap_or_default();
    let mut kept = Kept { since: since(&uptime), bytes: 0, lines: VecDeque::new() };
    let mut line = Vec::new();
    for _ in 0..limits::HOST_LOG_RECORDS {
        line.clear();
        match records.read_until(b'\n', &mut line) {
            Ok(0) => break,
            Ok(_) => kept.take(&line),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            // The record was overwritten before it was read.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            Err(error) => return Err(error),
        }
    }
    Ok(kept.lines.into())
}

/// From when on lines are kept.
fn since(uptime: &str) -> Duration {
    let seconds = uptime.split(['.', ' ']).next().and_then(|seconds| seconds.parse().ok());
    let now = Duration::from_secs(seconds.unwrap_or_default());
    now.saturating_sub(limits::HOST_LOG_WINDOW)
}

struct Kept {
    since: Duration,
    bytes: usize,
    lines: VecDeque<String>,
}

impl Kept {
    fn take(&mut self, record: &[u8]) {
        let record = String::from_utf8_lossy(record);
        let Some((at, text)) = parse(&record).filter(|(at, _)| *at >= self.since) else { return };
        // The device writes a line break within a text so.
        for text in text.split("\\x0a") {
            let line = format!("[{:5}.{:06}] {text}", at.as_secs(), at.subsec_micros());
            self.bytes += line.len();
            self.lines.push_back(line);
        }
        while self.bytes > limits::HOST_LOG_BYTES {
            self.bytes -= self.lines.pop_front().map_or(self.bytes, |line| line.len());
        }
    }
}

/// A record of the kernel. What a process wrote into the log is none, whatever it says.
fn parse(record: &str) -> Option<(Duration, &str)> {
    let (head, text) = record.split_once(';')?;
    let mut head = head.split(',');
    let (priority, at): (u32, u64) = (head.next()?.parse().ok()?, head.nth(1)?.parse().ok()?);
    let is_kernel = priority >> 3 == 0;
    is_kernel.then(|| (Duration::from_micros(at), text.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn look_at(kmsg: &str) -> Vec<String> {
        let tree = tempfile::tempdir().unwrap();
        fs::create_dir_all(tree.path().join("dev")).unwrap();
        fs::create_dir_all(tree.path().join("proc")).unwrap();
        fs::write(tree.path().join("dev/kmsg"), kmsg).unwrap();
        fs::write(tree.path().join("proc/uptime"), "25574.95 15280.21\n").unwrap();
        look(&Root::new(tree.path())).unwrap()
    }

    #[test]
    fn the_last_minutes_of_the_kernel_are_kept() {
        let found = look_at(
            "5,0,0,-;Linux version 6.18.44\n\
             6,448,24973999999,-;too old\n\
             4,449,24975000000,-;bn1: port 1(near)\\x0asecond line\n SUBSYSTEM=net\n DEVICE=n7\n\
             30,450,25469089204,-;systemd[1]: Out of memory: Killed process 7 (qemu)\n\
             rubbish\n;\n6,x,y;z\n\
             3,453,25469089480,c;I/O error, dev sda, sector 1\n",
        );
        assert_eq!(
            found,
            [
                "[24975.000000] bn1: port 1(near)",
                "[24975.000000] second line",
                "[25469.089480] I/O error, dev sda, sector 1",
            ]
        );
    }

    #[test]
    fn no_more_than_the_last_lines_are_kept() {
        let line =
            |number: u32| format!("3,{number},25469000000,-;line {number} {}\n", "x".repeat(100));
        let found = look_at(&(0..500).map(line).collect::<String>());
        let bytes: usize = found.iter().map(String::len).sum();
        assert!(bytes <= limits::HOST_LOG_BYTES && bytes > limits::HOST_LOG_BYTES - 200);
        assert!(found.last().unwrap().contains("line 499 "));
        assert!(look(&Root::new("/nowhere")).is_err());
    }
}
