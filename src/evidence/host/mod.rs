//! The hypervisor's process as the host sees it, and the host around it.
//!
//! Two looks are a second apart. What a thing *did* is the difference between them, what it *is* is of
//! the second one. Every part may be missing, because a host is built without it or does not permit it;
//! [`Host::missing`] says so where somebody could change that.

mod log;

pub use log::{Said, Told};

use crate::base::limits;
use serde::{Deserialize, Serialize};

/// The process, its threads, and what of the host it needs.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Host {
    /// Its process id.
    pub pid: u32,
    /// State letter of `/proc/PID/stat`: `T` is stopped, `D` waits for a device. Empty: it is gone.
    pub state: String,
    /// Resident memory.
    pub rss_bytes: u64,
    /// How long the two looks were apart.
    pub sampled_ms: u64,
    /// Its threads.
    pub threads: Vec<Thread>,
    /// Pressure of the host as a whole.
    #[serde(default)]
    pub pressure: Pressure,
    /// The control groups that it is in, and those above that limit them.
    #[serde(default)]
    pub cgroups: Vec<Cgroup>,
    /// Memory of the host.
    #[serde(default)]
    pub memory: Option<Memory>,
    /// Mean number of tasks that want to run, over 1, 5 and 15 minutes, as `/proc/loadavg` says it.
    #[serde(default)]
    pub load: String,
    /// CPUs of the host, as `0-3`.
    #[serde(default)]
    pub cpus: String,
    /// Files of its disks.
    #[serde(default)]
    pub images: Vec<Image>,
    /// The host's disks below them.
    #[serde(default)]
    pub disks: Vec<Disk>,
    /// Its network devices.
    #[serde(default)]
    pub taps: Vec<Tap>,
    /// Thermometers.
    #[serde(default)]
    pub zones: Vec<Zone>,
    /// CPUs that are held below what they can.
    #[serde(default)]
    pub slowed: Vec<Slowed>,
    /// The host's kernel log of the last minutes, a line each, its times in seconds after boot.
    #[serde(default)]
    pub log: Vec<String>,
    /// What could not be had, each a sentence.
    #[serde(default)]
    pub missing: Vec<String>,
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
    /// The one at the first look. Empty: it was not there, or an older version looked.
    #[serde(default)]
    pub before: String,
    /// CPU time spent between the two looks.
    pub cpu_ms: u64,
    /// Time spent between the two looks waiting for a CPU of the host, from `schedstat`.
    #[serde(default)]
    pub wait_ms: u64,
    /// How often it went to sleep between the looks.
    #[serde(default)]
    pub slept: u64,
    /// How often a CPU was taken from it between the looks.
    #[serde(default)]
    pub preempted: u64,
    /// CPU time spent since it was started.
    #[serde(default)]
    pub total_cpu_ms: u64,
    /// The CPU of the host on which it ran last.
    #[serde(default)]
    pub cpu: Option<u32>,
    /// The CPUs on which it may run, as `0-3`.
    #[serde(default)]
    pub affinity: String,
    /// Kernel function in which it waits, if the host tells.
    #[serde(default)]
    pub waits_in: String,
    /// Its stack in the host's kernel, innermost first, where the host permits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stack: Vec<String>,
}

/// Tenths of a percent of time in which somebody had to wait (`some`), or everybody (`full`): the
/// average of the last ten seconds.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Pressure {
    /// Somebody, for a CPU.
    pub cpu_permille: Option<u32>,
    /// Somebody, for IO.
    pub io_permille: Option<u32>,
    /// Somebody, for memory.
    pub memory_permille: Option<u32>,
    /// Everybody, for IO.
    pub io_full_permille: Option<u32>,
    /// Everybody, for memory.
    pub memory_full_permille: Option<u32>,
}

/// A control group. Both versions say the same of it.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Cgroup {
    /// Where it is in its hierarchy: `/eve-user-apps/web`.
    pub path: String,
    /// What it may use of the CPUs, in percent of one. `None`: all.
    pub cpu_percent: Option<u64>,
    /// Periods of that limit between the looks,
    pub periods: u64,
    /// those of them in which it was used up,
    pub throttled_periods: u64,
    /// and for how long its threads had to stand still, added up over the CPUs.
    pub throttled_ms: u64,
    /// Memory that it has.
    pub memory_bytes: Option<u64>,
    /// Memory that it may have. `None`: all.
    pub memory_limit_bytes: Option<u64>,
    /// How often it came to that limit between the looks.
    pub limit_hits: u64,
    /// How often a process of it was killed for that since it was made.
    pub oom_kills: u64,
    /// Tasks in it.
    pub tasks: Option<u64>,
    /// Tasks that it may have. `None`: any number.
    pub tasks_limit: Option<u64>,
    /// Whether somebody froze it.
    pub frozen: bool,
    /// What its tasks waited for.
    pub pressure: Pressure,
}

/// Memory.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Memory {
    /// All.
    pub total_bytes: u64,
    /// What can be had without swapping.
    pub available_bytes: u64,
    /// Swap space.
    pub swap_bytes: u64,
    /// Swap space that is not in use.
    pub swap_free_bytes: u64,
}

/// A file or device that the process has open as a guest's disk may be.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Image {
    /// As the process sees it.
    pub path: String,
    /// The type of its file system; empty for a device.
    pub file_system: String,
    /// The host's disk below, such as `sda1`; empty if it is not known.
    pub disk: String,
    /// What that file system has left for all.
    pub available_bytes: Option<u64>,
}

/// A disk of the host.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Disk {
    /// Its name.
    pub name: String,
    /// Requests that it completed between the looks.
    pub completed: u64,
    /// How long these took on average.
    pub latency_us: Option<u64>,
    /// Requests that it had not completed at the first look,
    pub in_flight_before: u64,
    /// and at the second.
    pub in_flight: u64,
}

/// A network device of the guest on the host.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Tap {
    /// Its name.
    pub name: String,
    /// `up`, `down`, ..; empty where the host does not tell us.
    pub state: String,
    /// The bridge that it is part of.
    pub bridge: String,
    /// Packets since it was made.
    pub total: Packets,
    /// Packets between the looks.
    pub between: Packets,
}

/// Packets by where they went.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Packets {
    /// The guest sent them.
    pub from_guest: u64,
    /// The guest took them.
    pub to_guest: u64,
    /// They were for the guest, and it did not take them.
    pub dropped: u64,
}

/// A thermometer.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Zone {
    /// What it measures.
    pub name: String,
    /// What it shows.
    pub celsius: i64,
    /// Where the host slows down (`passive`, `hot`) or switches off (`critical`): the lowest of these.
    pub limit_celsius: Option<i64>,
}

/// CPUs that somebody or the heat holds below their highest clock.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Slowed {
    /// Which, as `0-3`.
    pub cpus: String,
    /// What they may use.
    pub allowed_khz: u64,
    /// What they can.
    pub highest_khz: u64,
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
    /// Reads what [`Host::to_bytes`] wrote, so far as a host is believed to have so much.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let mut host: Self = serde_json::from_slice(bytes).ok()?;
        host.threads.truncate(limits::HOST_THREADS);
        host.cgroups.truncate(limits::HOST_CGROUPS);
        host.images.truncate(limits::DISKS);
        host.disks.truncate(limits::DISKS);
        host.log.truncate(limits::HOST_LOG_BYTES);
        Some(host)
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
        let wanted_ms = self.wanted_ms(self.thread(tid)?);
        wanted_ms.saturating_mul(100).checked_div(self.sampled_ms)
    }

    /// For how long between the looks a thread ran or was ready to run.
    #[must_use]
    pub fn wanted_ms(&self, thread: &Thread) -> u64 {
        // The kernel counts a wait when it ends, so one that lasted all the time is not in the count.
        let never_slept = thread.before == "R" && thread.state == "R" && thread.slept == 0;
        let wanted_ms = thread.cpu_ms.saturating_add(thread.wait_ms);
        if never_slept { wanted_ms.max(self.sampled_ms) } else { wanted_ms }
    }

    /// Disks below its images that completed nothing between the looks, though asked all the time.
    pub fn stalled_disks(&self) -> impl Iterator<Item = &Disk> {
        let stalls =
            |disk: &&Disk| disk.completed == 0 && disk.in_flight > 0 && disk.in_flight_before > 0;
        self.disks.iter().filter(stalls)
    }
}

impl Thread {
    /// Whether it was in one and the same uninterruptible wait at both looks.
    #[must_use]
    pub fn waits_on(&self) -> bool {
        let ran = self.cpu_ms > 0 || self.slept > 0 || self.preempted > 0;
        self.before == "D" && self.state == "D" && !ran
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

    #[test]
    fn what_an_older_version_wrote_is_read() {
        let old = br#"{"pid": 7, "state": "S", "rss_bytes": 1, "sampled_ms": 1000, "threads":
            [{"tid": 7, "name": "q", "state": "R", "cpu_ms": 250}],
            "pressure": {"cpu_permille": 1, "io_permille": null, "memory_permille": null}}"#;
        let host = Host::read(old).unwrap();
        assert_eq!((host.busy_percent(7), host.pressure.cpu_permille), (Some(25), Some(1)));
        assert_eq!(Host::read(&host.to_bytes()), Some(host));
    }

    #[test]
    fn a_wait_that_does_not_end_is_counted() {
        let ready = Thread { tid: 1, state: "R".into(), before: "R".into(), ..Thread::default() };
        let woke = Thread { tid: 2, before: "S".into(), ..ready.clone() };
        let slept = Thread { tid: 3, slept: 1, wait_ms: 10, ..ready.clone() };
        let threads = vec![ready, woke, slept];
        let host = Host { sampled_ms: 1000, threads, ..Host::default() };
        let busy = |tid| host.busy_percent(tid);
        assert_eq!((busy(1), busy(2), busy(3)), (Some(100), Some(0), Some(1)));
    }

    #[test]
    fn a_disk_stalls_only_if_it_was_asked_all_the_time() {
        let disk = |completed, in_flight_before, in_flight| Disk {
            completed,
            in_flight_before,
            in_flight,
            ..Disk::default()
        };
        let disks = vec![disk(0, 1, 3), disk(1, 1, 1), disk(0, 0, 1), disk(0, 0, 0)];
        let host = Host { disks, ..Host::default() };
        assert_eq!(host.stalled_disks().collect::<Vec<_>>(), [&disk(0, 1, 3)]);
    }
}
