//! Every fault of the lab by the verdict of `lifesign inspect`, on every kernel that the lab has.
//!
//! What must come of it stands in `docs/inspect.md` and nowhere else: `hack/inspect` tries it. A guest of each
//! kernel is booted once and saved, and goes on from there for every fault. It has the mask of keys that
//! its kernel was built with, and nobody reads its console.
//!
//! Nothing but what was broken may look broken. So each guest is looked at several times, each look has to
//! give one of the words in the table, and whatever a look tells that the guest could be asked about before
//! it was broken has to be so.

use super::lab::{Guest, root};
use super::matrix::{NO_FAULT, faults};
use super::table::{Row, Table, any_of};
use lifesign::agent::inspect::{Inspection, Subject, inspect, page};
use lifesign::base::chain::Chain;
use lifesign::base::limits;
use lifesign::diagnosis::Class;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

const OPTIONS: [&str; 4] = ["--disk", "--net", "--memory", "256"];

/// Of which every look must give what the table says.
const LOOKS: usize = 3;

/// A disk that does not answer is slow before it is dead.
const STALLED: Duration = Duration::from_secs(12);

/// The columns.
const COLUMNS: [&str; 3] = ["class", "shows", "verdict"];

/// A guest that is saved, and what it said of itself.
struct Saved {
    name: String,
    release: String,
    log: Vec<String>,
    /// The threads of its kernel, but those that come and go.
    threads: BTreeMap<u32, String>,
}

impl Saved {
    fn boot(kernel: &str) -> Self {
        let name = format!("insp-{}", kernel.replace('.', "-"));
        let guest = Guest::up(&name, &[&OPTIONS[..], &["--kernel", kernel]].concat());
        let release = guest.sh("uname -r").trim().to_owned();
        let log = guest.sh("dmesg").lines().map(str::to_owned).collect();
        let listed = guest.sh("ps -o pid,ppid,comm");
        let thread = |line: &str| {
            let mut words = line.split_whitespace();
            let (pid, parent, comm) = (words.next()?, words.next()?, words.next()?);
            let goes = comm.starts_with("kworker") || comm == "ext4lazyinit";
            let stays = parent == "2" && !goes;
            stays.then(|| Some((pid.parse().ok()?, comm.to_owned()))).flatten()
        };
        let threads: BTreeMap<u32, String> = listed.lines().filter_map(thread).collect();
        assert!(threads.len() > 10, "{listed}");
        guest.save();
        Self { name, release, log, threads }
    }

    /// Breaks one that goes on from there, and tells what its memory shows.
    fn broken(&self, fault: &str) -> Row {
        let guest = Guest::up("insp", &["--like", &self.name]);
        if fault != NO_FAULT {
            guest.break_it(fault);
        }
        if fault == "disk-stall" {
            std::thread::sleep(STALLED);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let subject = Subject::Monitor(guest.file("qmp"));
        let mut row = Row::new();
        for _ in 0..LOOKS {
            let told = match runtime.block_on(inspect(&subject)) {
                Ok(inspection) => {
                    eprintln!("{}", page(&inspection));
                    self.agrees_with(&inspection);
                    told(&inspection)
                }
                Err(error) => ["-".to_owned(), "-".to_owned(), Chain(&error).to_string()],
            };
            for (column, words) in COLUMNS.iter().zip(told) {
                let all = row.remove(*column).into_iter().chain([words]).collect::<Vec<_>>();
                row.insert((*column).to_owned(), any_of(&all));
            }
        }
        row
    }

    /// Whatever was broken: this is as it was.
    fn agrees_with(&self, Inspection { memory, diagnosis }: &Inspection) {
        assert_eq!((&memory.release, memory.sysrq_mask), (&self.release, Some(438)));
        let cpus: Vec<u32> = memory.cpus.iter().map(|cpu| cpu.index).collect();
        // Who panics switches the others off.
        let left = if diagnosis.class == Class::Panic { 1 } else { 2 };
        assert!(cpus.len() == left && cpus.iter().all(|cpu| *cpu < 2), "{cpus:?}");
        // A guest that does not run shows no more than it did, nor does a hypervisor that is stopped.
        let known = ["the guest does not run", "what CPUs do this moment is not known"];
        let is_known = |doubt: &String| known.iter().any(|known| doubt.starts_with(known));
        assert!(memory.doubts.iter().all(is_known), "{:?}", memory.doubts);
        assert!((1_000..3_600_000).contains(&memory.uptime_ms), "{}", memory.uptime_ms);
        for (pid, comm) in &self.threads {
            // For its own threads the kernel makes up longer names than there is room for in a task.
            let task = memory.task(*pid).unwrap_or_else(|| panic!("{pid} {comm} is missing"));
            assert!(task.kernel && comm.starts_with(&task.comm), "{pid} {comm} is {}", task.comm);
        }
        // Of a long log the end is read.
        let mut lines = memory.log.lines().peekable();
        let first = lines.peek().and_then(|first| self.log.iter().position(|line| line == first));
        assert!(
            first == Some(0) || memory.log.len() >= limits::LOOK_LOG_BYTES,
            "{:?}",
            lines.peek()
        );
        let before = self.log.iter().skip(first.unwrap_or(self.log.len()));
        before.for_each(|line| assert_eq!(lines.next(), Some(line.as_str())));
        let pids: BTreeSet<u32> = memory.tasks.iter().map(|task| task.pid).collect();
        assert_eq!(pids.len(), memory.tasks.len());
        for wait in &memory.waits {
            assert!(pids.contains(&wait.pid), "{wait:?}");
            assert!(wait.owner.is_none_or(|owner| pids.contains(&owner)), "{wait:?}");
        }
        let disks: Vec<(&str, &str)> =
            memory.file_systems.iter().map(|it| (it.kind.as_str(), it.name.as_str())).collect();
        assert_eq!(disks, [("ext4", "vda")]);
        assert!(memory.requests.iter().all(|request| request.disk == "vda"));
    }
}

impl Drop for Saved {
    fn drop(&mut self) {
        _ = std::fs::remove_dir_all(root().join("target/lab").join(&self.name));
    }
}

/// A row's words.
fn told(inspection: &Inspection) -> [String; 3] {
    let Inspection { memory, diagnosis } = inspection;
    let shows = [
        (!memory.rings().is_empty(), "ring"),
        (memory.file_systems.iter().any(|it| it.frozen), "frozen"),
        (memory.requests.iter().any(|it| it.age_ms.is_some_and(|ms| ms > 5_000)), "request"),
    ];
    let shows: Vec<&str> = shows.iter().filter(|(is, _)| *is).map(|(_, word)| *word).collect();
    let shows = if shows.is_empty() { "-".to_owned() } else { shows.join(", ") };
    [diagnosis.class.word().to_owned(), shows, alike(&diagnosis.title)]
}

/// A title without what is another each time: N stands for numbers, but for those of CPUs.
fn alike(title: &str) -> String {
    let mut words: Vec<String> = Vec::new();
    for word in title.split(' ') {
        let bare = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
        let is_number = !bare.is_empty() && bare.bytes().all(|byte| byte.is_ascii_digit());
        let is_cpu = words.last().is_some_and(|before| before == "CPU");
        let offset = word.split_once("+0x").map(|(name, _)| name);
        words.push(match offset {
            Some(name) => name.to_owned(),
            None if is_number && !is_cpu => word.replace(bare, "N"),
            None => word.to_owned(),
        });
    }
    words.join(" ")
}

// === the table ===

fn path() -> PathBuf {
    root().join("docs/inspect.md")
}

fn expected() -> Table {
    Table::read(&std::fs::read_to_string(path()).unwrap())
}

/// What can be tried: without the lab's module some faults cannot be brought in.
fn rows() -> BTreeSet<(String, String)> {
    let needy = Guest::list_faults();
    let needs = |fault: &str| {
        let mut lines = needy.lines().map(str::trim_start);
        lines.any(|line| line.starts_with(&format!("{fault} ")) && line.ends_with("(needs module)"))
    };
    let mut rows = BTreeSet::new();
    for (kernel, has_module) in Guest::list_kernels() {
        let can = faults().into_iter().filter(|fault| has_module || !needs(fault));
        rows.extend(can.map(|fault| (fault, kernel.clone())));
    }
    rows
}

/// The kernels that words name; all where they name none.
pub(super) fn wanted_kernels(words: &str) -> Vec<String> {
    let all: Vec<String> = Guest::list_kernels().into_iter().map(|(kernel, _)| kernel).collect();
    let is_wanted = |kernel: &&String| words.split_whitespace().any(|word| word == kernel.as_str());
    let wanted: Vec<String> = all.iter().filter(is_wanted).cloned().collect();
    if wanted.is_empty() { all } else { wanted }
}

/// The long proof, which `hack/inspect` asks for by LIFESIGN_INSPECT: words of which each names a fault or a
/// kernel; of what none is named, all are tried. With LIFESIGN_INSPECT_WRITE the table is corrected
/// instead of held against what is told.
#[test]
fn every_fault_is_told_as_the_table_says() {
    let Some(words) = std::env::var_os("LIFESIGN_INSPECT") else { return };
    let words = words.into_string().unwrap();
    let corrects = std::env::var_os("LIFESIGN_INSPECT_WRITE").is_some();
    let faults = faults();
    let named: Vec<&str> =
        words.split_whitespace().filter(|word| faults.iter().any(|it| it == word)).collect();
    let mut all_wrong = Vec::new();
    for kernel in wanted_kernels(&words) {
        let saved = Saved::boot(&kernel);
        for (fault, _) in rows().into_iter().filter(|(_, of)| *of == kernel) {
            if !named.is_empty() && !named.contains(&fault.as_str()) {
                continue;
            }
            let tried = || std::thread::scope(|scope| scope.spawn(|| saved.broken(&fault)).join());
            let Ok(row) = tried() else {
                all_wrong.push(format!("{fault} on {kernel}: see above"));
                continue;
            };
            eprintln!("{fault} on {kernel}: {row:?}");
            let mut table = expected();
            let wrong = table.wrong(&fault, &kernel, &row);
            if corrects {
                table.correct(&fault, &kernel, &row);
                std::fs::write(path(), table.write()).unwrap();
            } else {
                all_wrong.extend(wrong);
            }
        }
    }
    assert_eq!(all_wrong, [""; 0]);
}

/// A kernel is in it with every fault, or not at all.
#[test]
fn the_table_has_every_fault_on_each_of_its_kernels() {
    let table = expected();
    let kernels: BTreeSet<&str> = table.keys().into_iter().map(|(_, kernel)| kernel).collect();
    assert!(["6.1", "6.12"].iter().all(|kernel| kernels.contains(kernel)));
    let rows = rows();
    let all = rows.iter().map(|(fault, kernel)| (fault.as_str(), kernel.as_str()));
    assert_eq!(table.keys(), all.filter(|(_, kernel)| kernels.contains(kernel)).collect());
    assert_eq!(table.columns(), COLUMNS);
}

#[test]
fn titles_are_alike_whoever_is_hit() {
    let title = "CPU 1 spins with interrupts off, in lab_irq_off+0x7/0x10 [lab], and web (257) waits for 12 s";
    insta::assert_snapshot!(alike(title), @"CPU 1 spins with interrupts off, in lab_irq_off [lab], and web (N) waits for N s");
}
