//! The hypervisor's process, as far as its life and death go.

use std::path::PathBuf;

/// The state letter of a process (`R`, `S`, `D`, `T`, `Z`, ..); `None`: there is no such process.
#[must_use]
pub fn state(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(PathBuf::from(format!("/proc/{pid}/stat"))).ok()?;
    state_of(&stat)
}

/// The letter after the name, which stands in parentheses and may hold anything, even parentheses.
fn state_of(stat: &str) -> Option<char> {
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_fake_a_state() {
        assert_eq!(state_of("77 (a) S b) T 1 77 77 0"), Some('T'));
        assert_eq!(state_of("77"), None);
    }

    #[test]
    fn we_run() {
        assert!(state(std::process::id()).is_some());
        assert_eq!(state(u32::MAX), None);
    }
}
