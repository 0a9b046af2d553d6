//! Control groups of a process, of both versions: what it may use, and what that cost it.
//!
//! A group is looked at wherever its hierarchies are mounted for us. libvirt gives every vCPU a group
//! of its own, so those of all threads count; and a limit holds for all below, so those above count if
//! they have one.

use super::machine::pressure;
use super::root::{Root, field};
use crate::base::limits;
use crate::evidence::host::{Cgroup, Pressure};
use std::collections::{BTreeMap, BTreeSet};

/// How deep groups are nested: libvirt's lie five deep, those of containers in a container eight.
const DEPTH: usize = 12;

/// Version 1 has no word for "no limit", but this number, cut to whole pages.
const NO_LIMIT: u64 = 1 << 60;

/// A group at one moment; what only rises is counted since the group was made.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Sample {
    own: bool,
    cpu_percent: Option<u64>,
    periods: u64,
    throttled_periods: u64,
    throttled_us: u64,
    memory_bytes: Option<u64>,
    memory_limit_bytes: Option<u64>,
    limit_hits: u64,
    oom_kills: u64,
    tasks: Option<u64>,
    tasks_limit: Option<u64>,
    frozen: bool,
    pressure: Pressure,
}

/// The groups of a process and its threads by their path.
pub(super) fn look(
    root: &Root,
    pid: u32,
    threads: impl Iterator<Item = u32>,
) -> BTreeMap<String, Sample> {
    let mountinfo = root.text("/proc/self/mountinfo").unwrap_or_default();
    let mounts = mounts(&mountinfo);
    let mut groups = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let of_threads = threads.map(|tid| format!("/proc/{pid}/task/{tid}/cgroup"));
    for file in std::iter::once(format!("/proc/{pid}/cgroup")).chain(of_threads) {
        let memberships = root.text(&file).unwrap_or_default();
        for (controllers, path) in memberships.lines().filter_map(membership) {
            for (depth, path) in upward(path).enumerate().take(DEPTH) {
                let known = !seen.insert((controllers.to_owned(), path.to_owned()));
                if known || groups.len() >= limits::HOST_CGROUPS {
                    break;
                }
                let group: &mut Sample = groups.entry(path.to_owned()).or_default();
                group.own |= depth == 0;
                if let Some(directory) = mounts.iter().find_map(|m| m.find(controllers, path)) {
                    group.read(root, controllers, &directory);
                }
            }
        }
    }
    groups.retain(|path, group| group.is_limited() || group.own && path != "/");
    groups
}

/// What became of them between two looks.
pub(super) fn compare(
    first: &BTreeMap<String, Sample>,
    second: BTreeMap<String, Sample>,
) -> Vec<Cgroup> {
    let between = |(path, now): (String, Sample)| {
        let then = first.get(&path).unwrap_or(&now);
        Cgroup {
            cpu_percent: now.cpu_percent,
            periods: now.periods.saturating_sub(then.periods),
            throttled_periods: now.throttled_periods.saturating_sub(then.throttled_periods),
            throttled_ms: now.throttled_us.saturating_sub(then.throttled_us) / 1000,
            memory_bytes: now.memory_bytes,
            memory_limit_bytes: now.memory_limit_bytes,
            limit_hits: now.limit_hits.saturating_sub(then.limit_hits),
            oom_kills: now.oom_kills,
            tasks: now.tasks,
            tasks_limit: now.tasks_limit,
            frozen: now.frozen,
            pressure: now.pressure,
            path,
        }
    };
    second.into_iter().map(between).collect()
}

/// `4:memory:/a/b` of version 1, `0::/a/b` of version 2.
fn membership(line: &str) -> Option<(&str, &str)> {
    let (_, rest) = line.split_once(':')?;
    rest.split_once(':').filter(|(_, path)| path.starts_with('/'))
}

/// A path and those above it, `/` at last.
fn upward(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |path| match path.rsplit_once('/') {
        Some(("", "")) | None => None,
        Some(("", _)) => Some("/"),
        Some((above, _)) => Some(above),
    })
}

/// A hierarchy, as far as it is mounted for us.
#[derive(Debug, Eq, PartialEq)]
struct Mount<'a> {
    /// Of version 1; none for version 2.
    controllers: Vec<&'a str>,
    /// The group that lies at
    group: &'a str,
    /// this directory.
    point: &'a str,
}

/// `38 31 0:35 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory`
fn mounts(mountinfo: &str) -> Vec<Mount<'_>> {
    let mount = |line| {
        let (front, back) = str::split_once(line, " - ")?;
        let mut front = front.split(' ').skip(3);
        let (group, point) = (front.next()?, front.next()?);
        let mut back = back.split(' ');
        let controllers = match back.next()? {
            "cgroup" => back.nth(1)?.split(',').collect(),
            "cgroup2" => Vec::new(),
            _ => return None,
        };
        Some(Mount { controllers, group, point })
    };
    mountinfo.lines().filter_map(mount).collect()
}

impl Mount<'_> {
    /// The directory of a group of these controllers. A group outside of our own view is none of it.
    fn find(&self, controllers: &str, path: &str) -> Option<String> {
        let fits = match controllers {
            "" => self.controllers.is_empty(),
            some => some.split(',').all(|one| self.controllers.contains(&one)),
        };
        let below = path.strip_prefix(self.group.trim_end_matches('/'))?;
        let inside = (below.is_empty() || below.starts_with('/')) && !path.contains("/..");
        (fits && inside).then(|| format!("{}{below}", self.point))
    }
}

impl Sample {
    fn is_limited(&self) -> bool {
        let limits = [self.cpu_percent, self.memory_limit_bytes];
        self.frozen || limits.iter().any(Option::is_some)
    }

    fn read(&mut self, root: &Root, controllers: &str, directory: &str) {
        let file = |name: &str| format!("{directory}/{name}");
        for controller in controllers.split(',') {
            match controller {
                "" => self.read_unified(root, &file),
                "cpu" => {
                    let quota = root.number::<u64>(&file("cpu.cfs_quota_us"));
                    self.limit_cpu(quota, root.number(&file("cpu.cfs_period_us")));
                    let stat = root.text(&file("cpu.stat")).unwrap_or_default();
                    self.take_throttled(&stat);
                    let throttled_ns = field(&stat, "throttled_time").unwrap_or_default();
                    self.throttled_us = self.throttled_us.max(throttled_ns / 1000);
                }
                "memory" => {
                    self.memory_bytes = root.number(&file("memory.usage_in_bytes"));
                    let limit = root.number(&file("memory.limit_in_bytes"));
                    self.memory_limit_bytes = limit.filter(|limit| *limit < NO_LIMIT);
                    self.limit_hits = root.number(&file("memory.failcnt")).unwrap_or_default();
                    let control = root.text(&file("memory.oom_control")).unwrap_or_default();
                    self.oom_kills = field(&control, "oom_kill").unwrap_or_default();
                }
                "pids" => {
                    self.tasks = root.number(&file("pids.current"));
                    self.tasks_limit = root.number(&file("pids.max"));
                }
                "freezer" => {
                    self.frozen |= root.line(&file("freezer.state")).is_some_and(|s| s != "THAWED");
                }
                _ => {}
            }
        }
    }

    fn read_unified(&mut self, root: &Root, file: &impl Fn(&str) -> String) {
        if let Some(max) = root.line(&file("cpu.max")) {
            let mut words = max.split(' ').map(|word| word.parse().ok());
            self.limit_cpu(words.next().flatten(), words.next().flatten());
        }
        self.take_throttled(&root.text(&file("cpu.stat")).unwrap_or_default());
        if let Some(bytes) = root.number(&file("memory.current")) {
            self.memory_bytes = Some(bytes);
            self.memory_limit_bytes = root.number(&file("memory.max"));
            let events = root.text(&file("memory.events")).unwrap_or_default();
            self.limit_hits = field(&events, "max").unwrap_or_default();
            self.oom_kills = field(&events, "oom_kill").unwrap_or_default();
        }
        if let Some(tasks) = root.number(&file("pids.current")) {
            self.tasks = Some(tasks);
            self.tasks_limit = root.number(&file("pids.max"));
        }
        let events = root.text(&file("cgroup.events")).unwrap_or_default();
        self.frozen |= field(&events, "frozen") == Some(1);
        self.pressure = pressure(root, |of| file(&format!("{of}.pressure")));
    }

    fn limit_cpu(&mut self, quota_us: Option<u64>, period_us: Option<u64>) {
        let percent = |(quota, period): (u64, u64)| quota.saturating_mul(100).checked_div(period);
        self.cpu_percent = quota_us.zip(period_us).and_then(percent).or(self.cpu_percent);
    }

    fn take_throttled(&mut self, stat: &str) {
        let take = |count: &mut u64, word| *count = field(stat, word).unwrap_or(*count);
        take(&mut self.periods, "nr_periods");
        take(&mut self.throttled_periods, "nr_throttled");
        take(&mut self.throttled_us, "throttled_usec");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    fn write(tree: &Path, files: &[(&str, &str)]) {
        for (path, text) in files {
            let path = tree.join(path.trim_start_matches('/'));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    #[test]
    fn the_way_up_ends_at_the_root() {
        let all: Vec<&str> = upward("/a/b").collect();
        assert_eq!(all, ["/a/b", "/a", "/"]);
        assert_eq!(upward("/").collect::<Vec<_>>(), ["/"]);
    }

    /// As EVE mounts them.
    #[test]
    fn version_1_is_read() {
        let tree = tempfile::tempdir().unwrap();
        let app = "/eve-user-apps/web";
        let (cpu, memory) = ("/sys/fs/cgroup/cpu", "/sys/fs/cgroup/memory");
        let freezer = format!("/sys/fs/cgroup/freezer{app}/freezer.state");
        write(
            tree.path(),
            &[
                (
                    "/proc/self/mountinfo",
                    "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
                35 31 0:32 / /sys/fs/cgroup/memory rw shared:2 - cgroup cgroup rw,memory\n\
                37 31 0:34 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer\n",
                ),
                (
                    "/proc/7/cgroup",
                    &format!(
                        "6:freezer:{app}\n4:memory:{app}\n1:cpu,cpuacct:{app}\n9:name=systemd:/\n0::/\n"
                    ),
                ),
                (&format!("{cpu}{app}/cpu.cfs_quota_us"), "200000\n"),
                (&format!("{cpu}{app}/cpu.cfs_period_us"), "100000\n"),
                (
                    &format!("{cpu}{app}/cpu.stat"),
                    "nr_periods 100\nnr_throttled 10\nthrottled_time 5000000000\n",
                ),
                (&format!("{cpu}/cpu.cfs_quota_us"), "-1\n"),
                (&format!("{memory}{app}/memory.usage_in_bytes"), "1000\n"),
                (&format!("{memory}{app}/memory.limit_in_bytes"), "2000\n"),
                (
                    &format!("{memory}{app}/memory.oom_control"),
                    "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
                ),
                (&format!("{memory}/memory.limit_in_bytes"), "9223372036854771712\n"),
                (&freezer, "FROZEN\n"),
            ],
        );
        let root = Root::new(tree.path());
        let first = look(&root, 7, std::iter::once(8));
        let stat = "nr_periods 110\nnr_throttled 19\nthrottled_time 5900000000\n";
        write(tree.path(), &[(&format!("{cpu}{app}/cpu.stat"), stat)]);
        let found = compare(&first, look(&root, 7, std::iter::once(8)));
        let expected = Cgroup {
            path: app.to_owned(),
            cpu_percent: Some(200),
            periods: 10,
            throttled_periods: 9,
            throttled_ms: 900,
            memory_bytes: Some(1000),
            memory_limit_bytes: Some(2000),
            oom_kills: 3,
            frozen: true,
            ..Cgroup::default()
        };
        assert_eq!(found, [expected]);
    }

    /// As libvirt makes them, seen from a container that has its own part of the hierarchy mounted.
    #[test]
    fn version_2_is_read_wherever_a_limit_is() {
        let tree = tempfile::tempdir().unwrap();
        let (point, scope) = ("/cg", "/machine.slice/vm.scope");
        let file = |group: &str, name: &str| format!("{point}{group}/{name}");
        write(
            tree.path(),
            &[
                ("/proc/self/mountinfo", "41 31 0:38 /machine.slice /cg rw - cgroup2 cgroup2 rw\n"),
                ("/proc/7/cgroup", &format!("0::{scope}/libvirt/emulator\n")),
                ("/proc/7/task/8/cgroup", &format!("0::{scope}/libvirt/vcpu0\n")),
                ("/proc/7/task/9/cgroup", "0::/../elsewhere\n"),
                (&file("/vm.scope/libvirt/vcpu0", "cpu.max"), "50000 100000\n"),
                (
                    &file("/vm.scope/libvirt/vcpu0", "cpu.stat"),
                    "usage_usec 1\nnr_periods 9\nnr_throttled 9\nthrottled_usec 450000\n",
                ),
                (&file("/vm.scope/libvirt/emulator", "cpu.max"), "max 100000\n"),
                (&file("/vm.scope", "memory.current"), "77\n"),
                (&file("/vm.scope", "memory.max"), "100\n"),
                (&file("/vm.scope", "memory.events"), "low 0\nhigh 0\nmax 12\noom 1\noom_kill 1\n"),
                (
                    &file("/vm.scope", "memory.pressure"),
                    "some avg10=5.00 avg60=0\nfull avg10=1.20 avg60=0\n",
                ),
            ],
        );
        let found = look(&Root::new(tree.path()), 7, 8..10);
        let paths: Vec<&str> = found.keys().map(String::as_str).collect();
        let (emulator, vcpu) =
            (format!("{scope}/libvirt/emulator"), format!("{scope}/libvirt/vcpu0"));
        assert_eq!(paths, ["/../elsewhere", scope, &emulator, &vcpu]);
        let groups = compare(&BTreeMap::new(), found);
        assert_eq!((groups[1].memory_bytes, groups[1].memory_limit_bytes), (Some(77), Some(100)));
        let pressure = groups[1].pressure;
        assert_eq!((pressure.memory_permille, pressure.memory_full_permille), (Some(50), Some(12)));
        assert_eq!((groups[2].cpu_percent, groups[3].cpu_percent), (None, Some(50)));
        assert_eq!(groups[3].throttled_ms, 0, "not known of before");
    }
}
