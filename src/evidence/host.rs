//! The hypervisor's process as the host sees it.

use serde::{Deserialize, Serialize};

/// The process and its threads.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Host {
    /// Its process id.
    pub pid: u32,
    /// State letter of `/proc/PID/stat`: `T` is stopped, `D` waits for a device. Empty: it is gone.
    pub state: String,
    /// Resident memory.
    pub rss_bytes: u64,
    /// How long the two looks at the threads were apart.
    pub sampled_ms: u64,
    /// Its threads.
    pub threads: Vec<Thread>,
    /// Host pressure, as in `/proc/pressure/{cpu,io,memory}`: `some avg10`.
    #[serde(default)]
    pub pressure: Pressure,
}

/// One thread of the process.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Thread {
    /// Thread id; QMP's `query-cpus-fast` tells which one is a vCPU.
    pub tid: u32,
    /// Its name.
    pub name: String,
    /// State letter.
    pub state: String,
    /// CPU time spent between the two looks.
    pub cpu_ms: u64,
    /// Time spent between the two looks waiting for a CPU of the host, from `schedstat`.
    #[serde(default)]
    pub wait_ms: u64,
    /// Kernel function in which it waits, if the host tells.
    #[serde(default)]
    pub waits_in: String,
}

/// Tenths of a percent of time in which somebody on the host had to wait.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Pressure {
    /// For a CPU.
    pub cpu_permille: Option<u32>,
    /// For IO.
    pub io_permille: Option<u32>,
    /// For memory.
    pub memory_permille: Option<u32>,
}

impl Pressure {
    /// What a file of `/proc/pressure` says of the last ten seconds: of `some` who wait, or of
    /// times in which everybody does (`full`).
    #[must_use]
    pub fn permille(text: &str, whom: &str) -> Option<u32> {
        let line =
            text.lines().find_map(|line| line.strip_prefix(whom)?.strip_prefix(" avg10="))?;
        let (percent, decimals) = line.split_whitespace().next()?.split_once('.')?;
        let tenths = decimals.get(..1)?.parse::<u32>().ok()?;
        percent.parse::<u32>().ok()?.checked_mul(10)?.checked_add(tenths)
    }
}

impl Host {
    /// Reads what [`Host::to_bytes`] wrote.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    /// As the data of an artifact.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain data becomes JSON")
    }

    /// One of its threads.
    #[must_use]
    pub fn thread(&self, tid: u32) -> Option<&Thread> {
        self.threads.iter().find(|thread| thread.tid == tid)
    }

    /// How busy a thread was between the two looks, in percent. What it waited for a CPU of the
    /// host counts, or a busy host would make a spinning guest look idle.
    #[must_use]
    pub fn busy_percent(&self, tid: u32) -> Option<u64> {
        let thread = self.thread(tid)?;
        let busy_ms = thread.cpu_ms.saturating_add(thread.wait_ms);
        busy_ms.saturating_mul(100).checked_div(self.sampled_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_is_read_in_permille() {
        let text = "some avg10=12.34 avg60=0.00 avg300=0.00 total=1\nfull avg10=0.00 ..\n";
        assert_eq!(Pressure::permille(text, "some"), Some(123));
        assert_eq!(Pressure::permille(text, "full"), Some(0));
        assert_eq!(Pressure::permille("rubbish", "some"), None);
    }
}
