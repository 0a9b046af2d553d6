//! The host around the process: pressure, memory, load, heat.

use super::root::{Root, field};
use crate::evidence::host::{Host, Memory, Pressure, Slowed, Zone};

/// Thermometers that are read; a large server has some twenty.
const ZONES: usize = 64;

/// Trip points of one; the kernel allows 12 in most drivers.
const TRIPS: usize = 16;

/// Groups of CPUs with a clock of their own: at most one a CPU.
const POLICIES: usize = 256;

/// Fills in what is of the host as a whole.
pub(super) fn fill(root: &Root, host: &mut Host) {
    host.pressure = pressure(root, |of| format!("/proc/pressure/{of}"));
    if host.pressure == Pressure::default() {
        let missing = "pressure: the host's kernel keeps no account of it (PSI)";
        host.missing.push(missing.to_owned());
    }
    host.memory = memory(&root.text("/proc/meminfo").unwrap_or_default());
    let load = root.line("/proc/loadavg").unwrap_or_default();
    host.load = load.split(' ').take(3).collect::<Vec<_>>().join(" ");
    host.cpus = root.line("/sys/devices/system/cpu/online").unwrap_or_default();
    host.zones = zones(root);
    host.slowed = slowed(root);
}

/// Of the files in which `of` is `cpu`, `io` or `memory`.
pub(super) fn pressure(root: &Root, file: impl Fn(&str) -> String) -> Pressure {
    let [cpu, io, memory] =
        ["cpu", "io", "memory"].map(|of| root.text(&file(of)).unwrap_or_default());
    Pressure {
        cpu_permille: Pressure::permille(&cpu, "some"),
        io_permille: Pressure::permille(&io, "some"),
        memory_permille: Pressure::permille(&memory, "some"),
        io_full_permille: Pressure::permille(&io, "full"),
        memory_full_permille: Pressure::permille(&memory, "full"),
    }
}

fn memory(meminfo: &str) -> Option<Memory> {
    let bytes = |word| field(meminfo, word).map(|kib| kib.saturating_mul(1024));
    Some(Memory {
        total_bytes: bytes("MemTotal:")?,
        available_bytes: bytes("MemAvailable:")?,
        swap_bytes: bytes("SwapTotal:").unwrap_or_default(),
        swap_free_bytes: bytes("SwapFree:").unwrap_or_default(),
    })
}

fn zones(root: &Root) -> Vec<Zone> {
    const ALL: &str = "/sys/class/thermal";
    let names = root.names(ALL, 4 * ZONES).unwrap_or_default();
    let zone = |name: &String| {
        let of = format!("{ALL}/{name}");
        let milli: i64 = root.number(&format!("{of}/temp"))?;
        let limits = (0..TRIPS).filter_map(|trip| {
            let point = format!("{of}/trip_point_{trip}");
            let kind = root.line(&format!("{point}_type"))?;
            let limit: i64 = root.number(&format!("{point}_temp"))?;
            // Fans go on at the others; drivers put 0 and less for those that are not in use.
            (matches!(&*kind, "passive" | "hot" | "critical") && limit > 0).then_some(limit / 1000)
        });
        Some(Zone {
            name: root.line(&format!("{of}/type"))?,
            celsius: milli / 1000,
            limit_celsius: limits.min(),
        })
    };
    let names = names.iter().filter(|name| name.starts_with("thermal_zone")).take(ZONES);
    names.filter_map(zone).collect()
}

fn slowed(root: &Root) -> Vec<Slowed> {
    const ALL: &str = "/sys/devices/system/cpu/cpufreq";
    let names = root.names(ALL, POLICIES).unwrap_or_default();
    let policy = |name: &String| {
        let of = format!("{ALL}/{name}");
        let allowed_khz = root.number(&format!("{of}/scaling_max_freq"))?;
        let highest_khz = root.number(&format!("{of}/cpuinfo_max_freq"))?;
        let cpus = root.line(&format!("{of}/affected_cpus"))?;
        (allowed_khz < highest_khz).then_some(Slowed { cpus, allowed_khz, highest_khz })
    };
    names.iter().filter_map(policy).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn heat_is_told_with_its_limit() {
        let tree = tempfile::tempdir().unwrap();
        let write = |directory: &str, files: &[(&str, &str)]| {
            let directory = tree.path().join(directory);
            fs::create_dir_all(&directory).unwrap();
            for (name, text) in files {
                fs::write(directory.join(name), text).unwrap();
            }
        };
        let zone = [
            ("type", "x86_pkg_temp\n"),
            ("temp", "91500\n"),
            ("trip_point_0_type", "active\n"),
            ("trip_point_0_temp", "50000\n"),
            ("trip_point_1_type", "critical\n"),
            ("trip_point_1_temp", "105000\n"),
            ("trip_point_2_type", "passive\n"),
            ("trip_point_2_temp", "90000\n"),
            ("trip_point_3_type", "passive\n"),
            ("trip_point_3_temp", "0\n"),
        ];
        write("sys/class/thermal/thermal_zone0", &zone);
        write("sys/class/thermal/thermal_zone1", &[("type", "off\n")]);
        write("sys/class/thermal/cooling_device0", &[("type", "fan\n"), ("temp", "1")]);
        let slow = [
            ("scaling_max_freq", "800000"),
            ("cpuinfo_max_freq", "2400000"),
            ("affected_cpus", "0 1"),
        ];
        write("sys/devices/system/cpu/cpufreq/policy0", &slow);
        let full = [
            ("scaling_max_freq", "2400000"),
            ("cpuinfo_max_freq", "2400000"),
            ("affected_cpus", "2"),
        ];
        write("sys/devices/system/cpu/cpufreq/policy2", &full);
        let root = Root::new(tree.path());
        let hot = Zone { name: "x86_pkg_temp".into(), celsius: 91, limit_celsius: Some(90) };
        assert_eq!(zones(&root), [hot]);
        let held = Slowed { cpus: "0 1".into(), allowed_khz: 800_000, highest_khz: 2_400_000 };
        assert_eq!(slowed(&root), [held]);
    }
}
