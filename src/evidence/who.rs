//! Who was running: the line that the kernel puts into every report and backtrace.
//!
//! ```text
//! CPU: 1 PID: 77 Comm: sh Not tainted 6.1.0-56-amd64 #1  Debian 6.1.192-2
//! CPU: 1 UID: 0 PID: 77 Comm: sh Tainted: G           O       6.12.117+deb12-cloud-amd64 #1 ..
//! ```

/// A kernel's `TASK_COMM_LEN` is 16; workqueue workers describe themselves with up to 64.
const COMM_BYTES: usize = 64;

/// `UTS_RELEASE` is at most 64 bytes.
const RELEASE_BYTES: usize = 64;

/// Who was running, as far as it was said.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Who {
    /// On which CPU.
    pub cpu: Option<u32>,
    /// Process id.
    pub pid: Option<u32>,
    /// Name of the task; a guest may have chosen it freely.
    pub comm: String,
    /// Release of the kernel.
    pub release: Option<String>,
}

impl Who {
    /// Reads the line.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let rest = text.trim_start().strip_prefix("CPU: ")?;
        let (numbers, named) = rest.split_once(" Comm: ")?;
        let mut words = numbers.split_ascii_whitespace();
        let cpu = words.next().and_then(number);
        let pid = words.skip_while(|word| *word != "PID:").nth(1).and_then(number);
        let ends = [" Not tainted", " Tainted: ", " Kdump: "];
        let end = ends.iter().filter_map(|end| named.find(end)).min().unwrap_or(named.len());
        Some(Self { cpu, pid, comm: comm(&named[..end]), release: release(&named[end..]) })
    }
}

/// A task's name, no longer than the kernel would write it.
#[must_use]
pub fn comm(text: &str) -> String {
    text.trim().chars().take(COMM_BYTES).collect()
}

/// A number at the start of the text, and nothing but punctuation behind it.
pub(super) fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().ok()
}

/// `name:pid`, where the name may have colons of its own.
pub(super) fn comm_and_pid(text: &str) -> Option<(String, u32)> {
    let (name, pid) = text.rsplit_once(':')?;
    Some((comm(name), pid.parse().ok()?))
}

/// The word before ` #1 ..`, the number of the build.
fn release(tainted: &str) -> Option<String> {
    let (before, _) = tainted.split_once(" #")?;
    let word = before.split_ascii_whitespace().next_back()?;
    is_release(word).then(|| word.to_owned())
}

pub(super) fn is_release(word: &str) -> bool {
    word.len() <= RELEASE_BYTES
        && word.starts_with(|c: char| c.is_ascii_digit())
        && word
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'+' | b'_' | b'~'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_have_spaces_and_colons() {
        let text =
            "CPU: 1 UID: 0 PID: 77 Comm: my app: x Tainted: G     O    6.12.117+deb12 #1 Debian";
        let who = Who::read(text).unwrap();
        assert_eq!((who.cpu, who.pid, who.comm.as_str()), (Some(1), Some(77), "my app: x"));
        assert_eq!(who.release.as_deref(), Some("6.12.117+deb12"));
        let who =
            Who::read("CPU: 0 PID: 5 Comm: sh Not tainted 6.1.0-56-amd64 #1  Debian").unwrap();
        assert_eq!((who.comm.as_str(), who.release.as_deref()), ("sh", Some("6.1.0-56-amd64")));
        assert_eq!(comm_and_pid("kworker/0:1:12"), Some(("kworker/0:1".to_owned(), 12)));
    }
}
