//! Kernels of real guests, read out of their memory, against what the guests themselves say.

use super::lab::{Guest, root};
use super::programs::Place;
use lifesign::agent::inspect::{Inspection, Subject, inspect, page};
use lifesign::diagnosis::Class;
use lifesign::evidence::memory::{Memory, Task};
use lifesign::kernel::Kernel;
use lifesign::kernel::look::{Outside, look};
use lifesign::kernel::machine::Registers;
use lifesign::kernel::memory::{Fault, Memory as Ram};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

fn seen(subject: &Subject) -> Inspection {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let inspection = runtime.block_on(inspect(subject)).unwrap();
    eprintln!("{}", page(&inspection));
    inspection
}

fn live(guest: &Guest) -> Inspection {
    seen(&Subject::Monitor(guest.file("qmp")))
}

/// Runs a command in the guest, off its console.
fn told(name: &str, command: &str) -> String {
    let lab = Command::new(root().join("hack/lab"))
        .args(["sh", "-t", "60", name, command])
        .output()
        .unwrap();
    assert!(lab.status.success(), "{command}: {}", String::from_utf8_lossy(&lab.stderr));
    String::from_utf8(lab.stdout).unwrap()
}

/// Writes all of a guest's RAM into a file, by the lab's own monitor.
pub(super) fn dump(guest: &Guest, format: &str) -> PathBuf {
    let file = guest.file(format);
    let arguments = format!(
        "{{\"paging\":false,\"format\":\"{format}\",\"protocol\":\"file:{}\"}}",
        file.display()
    );
    let mut monitor = UnixStream::connect(guest.file("lab.qmp")).unwrap();
    let command = format!(
        "{{\"execute\":\"qmp_capabilities\"}}{{\"execute\":\"dump-guest-memory\",\"arguments\":{arguments},\"id\":\"dump\"}}"
    );
    writeln!(monitor, "{command}").unwrap();
    let mut lines = BufReader::new(monitor).lines().map(Result::unwrap);
    let answer = lines.find(|line| line.contains("\"dump\"")).unwrap();
    assert!(!answer.contains("error"), "{answer}");
    file
}

// === a healthy guest: every line as the guest has it ===

/// What the guest says of a task: `pid state comm`, and its stack.
struct Own {
    state: char,
    comm: String,
    switches: String,
    stack: Vec<String>,
}

/// By the shell's own words alone: an emulated CPU takes long to start a program.
const TASKS: &str = r#"for t in /proc/[0-9]*/task/[0-9]*; do
    [ -r $t/stat ] || continue
    state= switches=
    while read -r key value; do
        case $key in
        State:) state=${value%% *} ;;
        *_ctxt_switches:) switches=$switches+$value ;;
        esac
    done <$t/status
    echo "@ ${t##*/} $state $switches"
    IFS= read -r comm <$t/comm
    echo "= $comm"
    while read -r _ call; do echo "$call"; done <$t/stack
done"#;

fn own(name: &str) -> BTreeMap<u32, Own> {
    // A terminal of the guest takes so much at once.
    let mut tasks = BTreeMap::new();
    for part in told(name, TASKS).split("@ ").skip(1) {
        let mut lines = part.lines();
        let mut words = lines.next().unwrap().split(' ');
        let pid = words.next().unwrap().parse().unwrap();
        let (state, switches) =
            (words.next().unwrap().chars().next().unwrap(), words.next().unwrap().to_owned());
        let comm = lines.next().unwrap().strip_prefix("= ").unwrap().to_owned();
        let stack = lines.map(str::to_owned).collect();
        tasks.insert(pid, Own { state, comm, switches, stack });
    }
    tasks
}

/// The kernel leaves the functions of its scheduler out.
fn scheduler(name: &str) -> BTreeSet<String> {
    let symbols = told(
        name,
        // The first of them may stand before the mark, with the same address.
        "awk '/__sched_text_start/ {on=1; split(last, words); if (words[1]==$1) print words[3]}
            /__sched_text_end/ {on=0} on {print $3} {last=$0}' /proc/kallsyms",
    );
    symbols.lines().map(str::to_owned).collect()
}

fn shown<'m>(memory: &'m Memory, task: &Task, scheduler: &BTreeSet<String>) -> Vec<&'m str> {
    let is_shown = |call: &&str| !scheduler.contains(call.split('+').next().unwrap());
    memory.stack(task).iter().map(String::as_str).filter(is_shown).collect()
}

/// All tasks, states, names, stacks and the log; tasks that ran between two looks are counted apart.
pub(super) fn agrees_with_itself(name: &str, options: &[&str]) {
    let guest = Guest::up(name, options);
    let scheduler = scheduler(name);
    assert!(scheduler.len() > 20);
    let before = own(name);
    let Inspection { memory, diagnosis } = live(&guest);
    let after = own(name);
    let (mut quiet, mut moved, mut wrong) = (0, 0, Vec::new());
    for (pid, task) in &before {
        let Some(later) = after.get(pid) else { continue };
        let rests = later.switches == task.switches
            && later.stack == task.stack
            && later.state == task.state;
        if !rests {
            moved += 1;
            continue;
        }
        quiet += 1;
        let Some(found) = memory.task(*pid) else {
            wrong.push(format!("{pid} is missing"));
            continue;
        };
        let stack = shown(&memory, found, &scheduler);
        // For threads of the kernel the guest makes up longer names than there is room for in a task.
        let is_named =
            task.comm == found.comm || found.kernel && task.comm.starts_with(&found.comm);
        if found.state != task.state || !is_named {
            wrong.push(format!(
                "{pid}: {} {} is {} {}",
                task.state, task.comm, found.state, found.comm
            ));
        }
        if stack != task.stack {
            wrong.push(format!("{pid} {}: {stack:?} is {:?}", task.comm, task.stack));
        }
    }
    eprintln!("{name}: {quiet} tasks compared, {moved} moved, {} wrong", wrong.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(quiet >= 30 && moved < quiet, "{quiet} {moved}");
    let invented: Vec<u32> = memory
        .tasks
        .iter()
        .map(|task| task.pid)
        .filter(|pid| !before.contains_key(pid) && !after.contains_key(pid))
        .collect();
    assert!(invented.len() <= 2, "{invented:?}");

    let log = told(name, "dmesg");
    let theirs: Vec<&str> = log.lines().collect();
    let ours: Vec<&str> = memory.log.lines().collect();
    assert_eq!(ours[..], theirs[..ours.len()]);
    assert!(ours.len() > 200 && theirs.len() - ours.len() < 5);
    assert_eq!(memory.release, told(name, "uname -r").trim());
    assert_eq!(memory.cpus.len(), 2);
    assert_eq!((diagnosis.class, &memory.doubts[..]), (Class::Silent, &[][..]));
    assert!(memory.cost.bytes < 64 << 20);
}

#[test]
fn a_healthy_6_1_is_read_as_it_reads_itself() {
    agrees_with_itself("inspect-well61", &["--kernel", "6.1"]);
}

#[test]
fn a_healthy_6_12_is_read_as_it_reads_itself() {
    agrees_with_itself("inspect-well612", &["--disk", "--smp", "2"]);
}

/// Other kernels, which `hack/inspect` asks for by LIFESIGN_INSPECT.
#[test]
fn a_healthy_guest_of_any_kernel_is_read_as_it_reads_itself() {
    let Some(wanted) = std::env::var_os("LIFESIGN_INSPECT") else { return };
    for kernel in super::verdicts::wanted_kernels(&wanted.into_string().unwrap()) {
        agrees_with_itself("inspect-well", &["--kernel", &kernel, "--disk"]);
    }
}

// === broken guests, their console unread ===

pub(super) fn verdict(name: &str, options: &[&str], fault: &str) -> Inspection {
    let guest = Guest::up(name, options);
    guest.break_it(fault);
    live(&guest)
}

pub(super) fn is(inspection: &Inspection, class: Class, words: &[&str]) {
    let title = &inspection.diagnosis.title;
    assert_eq!(inspection.diagnosis.class, class, "{title}");
    assert!(words.iter().all(|word| title.contains(word)), "{title}");
}

#[test]
fn a_deadlock_shows_both_owners() {
    for (name, kernel) in [("inspect-lock61", "6.1"), ("inspect-lock612", "6.12")] {
        let inspection = verdict(name, &["--kernel", kernel], "mutex-deadlock");
        is(
            &inspection,
            Class::Deadlock,
            &["lab_order_ab (", "lab_order_ba (", "wait for each other"],
        );
        let memory = &inspection.memory;
        let owner = |lock: &str| {
            let wait = memory.waits.iter().find(|wait| wait.lock.starts_with(lock)).unwrap();
            memory.task(wait.owner.unwrap()).unwrap().comm.clone()
        };
        assert_eq!(
            (owner("lab_mutex_a"), owner("lab_mutex_b")),
            ("lab_order_ab".to_owned(), "lab_order_ba".to_owned())
        );
        assert_eq!(memory.rings().len(), 1);
        assert!(memory.waits.iter().all(|wait| wait.owner.is_some()));
        assert!(
            memory.waits.len() >= 6,
            "two in the ring, two bystanders, two consoles: {:?}",
            memory.waits
        );
    }
}

#[test]
fn a_cpu_that_spins_shows_where() {
    for (name, kernel) in [("inspect-irq61", "6.1"), ("inspect-irq612", "6.12")] {
        let inspection = verdict(name, &["--kernel", kernel], "irq-off");
        is(&inspection, Class::HardLockup, &["CPU 1 spins with interrupts off", "lab_"]);
    }
    let inspection = verdict("inspect-irqall", &[], "irq-off-all");
    is(&inspection, Class::HardLockup, &["both CPUs spin with interrupts off", "lab_spin_forever"]);
    let inspection = verdict("inspect-spin", &["--kernel", "6.1"], "spin-lock");
    is(
        &inspection,
        Class::HardLockup,
        &["CPU 1 waits for a spin lock with interrupts off", "lab_"],
    );
    let inspection = verdict("inspect-soft", &[], "soft-lockup");
    is(&inspection, Class::SoftLockup, &["CPU 1 spins with interrupts on", "lab_"]);
}

#[test]
fn a_panic_shows_its_reason() {
    for (name, kernel) in [("inspect-panic61", "6.1"), ("inspect-panic612", "6.12")] {
        let inspection = verdict(name, &["--kernel", kernel], "panic");
        is(&inspection, Class::Panic, &["asked to panic"]);
    }
}

#[test]
fn an_oops_and_killed_processes_are_seen() {
    let inspection = verdict("inspect-oops", &["--kernel", "6.1"], "oops");
    is(&inspection, Class::Oops, &["kernel oops", "lab_oops"]);
    let inspection = verdict("inspect-oom", &[], "oom");
    is(&inspection, Class::UserspaceDead, &["memory ran out"]);
}

#[test]
fn disks_and_file_systems_show_who_waits_for_them() {
    let inspection = verdict("inspect-freeze", &["--disk"], "fs-freeze");
    is(&inspection, Class::HungTask, &["the file system ext4 on vda is frozen"]);
    assert!(inspection.memory.file_systems.iter().any(|it| it.frozen && it.name == "vda"));
    let guest = Guest::up("inspect-stall", &["--disk", "--kernel", "6.1"]);
    guest.break_it("disk-stall");
    std::thread::sleep(std::time::Duration::from_secs(12));
    let inspection = live(&guest);
    is(&inspection, Class::HungTask, &["wait", "for I/O that does not complete"]);
    let oldest = inspection.memory.requests.first().unwrap();
    assert_eq!(oldest.disk, "vda");
    assert!(
        oldest.age_ms.is_some_and(|ms| ms > 5_000 && ms < inspection.memory.uptime_ms),
        "{oldest:?}"
    );
}

#[test]
fn processes_that_stand_or_take_everything_are_seen() {
    let inspection = verdict("inspect-stop", &[], "userspace-stopped");
    is(&inspection, Class::UserspaceDead, &["processes are stopped by a signal"]);
    let inspection = verdict("inspect-busy", &[], "userspace-spin");
    is(&inspection, Class::UserspaceDead, &["processes take all CPUs for themselves"]);
}

// === a capture ===

#[test]
fn a_capture_names_both_owners_where_sysrq_is_refused() {
    let guest = Guest::up("memory", &["--sysrq", "default"]);
    let place = Place::new(&guest);
    guest.break_it("mutex-deadlock");
    let sealed = place.path("sealed");
    let output = place.lifesign(&[
        "capture",
        "--config",
        "agent.yaml",
        "web",
        "--out",
        &sealed.display().to_string(),
    ]);
    let said = String::from_utf8(output.stdout).unwrap();
    eprintln!("{said}");
    let line = |step: &str| said.lines().find(|line| line.starts_with(step)).unwrap();
    assert!(line("memory").contains(" done "), "{said}");
    let spared = line("sysrq task-states");
    assert!(spared.contains("the guest's memory shows its sysrq mask"), "{said}");
    assert!(said.contains("(deadlock, confidence high)"), "{said}");
    for (lock, owner) in [("lab_mutex_a", "lab_order_ab ("), ("lab_mutex_b", "lab_order_ba (")] {
        let holds = |fact: &str| {
            fact.split_once("by the guest's memory ").is_some_and(|(_, holder)| {
                holder.starts_with(owner) && holder.contains(&format!(" holds {lock}"))
            })
        };
        assert!(said.lines().any(holds), "{lock}: {said}");
    }
    let shown = place.lifesign(&["show", "--config", "agent.yaml", &sealed.display().to_string()]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("From the guest's memory"), "{shown}");
    assert!(shown.contains("waits for itself, by way of others"), "{shown}");
    assert!(shown.contains("the console's log level is "), "{shown}");
}

// === other ways in ===

#[test]
fn a_dump_and_a_process_without_monitor_show_the_same_tasks() {
    let guest = Guest::up("inspect-dump", &["--kernel", "6.1", "--memory", "256"]);
    let [of_dump, of_compressed] = ["elf", "kdump-zlib"].map(|format| {
        let file = dump(&guest, format);
        let seen = seen(&Subject::Dump(file.clone())).memory;
        std::fs::remove_file(&file).unwrap();
        seen
    });
    let pid = std::fs::read_to_string(guest.file("pid")).unwrap().trim().parse().unwrap();
    let of_process = seen(&Subject::Process { pid, qmp: None }).memory;
    let names = |memory: &Memory| -> BTreeSet<String> {
        // Workers come and go.
        let stays = |task: &&Task| task.kernel && !task.comm.starts_with("kworker");
        memory
            .tasks
            .iter()
            .filter(stays)
            .map(|task| format!("{} {}", task.pid, task.comm))
            .collect()
    };
    assert_eq!(names(&of_dump), names(&of_process));
    assert_eq!(names(&of_compressed), names(&of_process));
    for dump in [&of_dump, &of_compressed] {
        assert!(dump.cpus.iter().any(|cpu| !cpu.stack.is_empty()));
        assert_eq!(dump.doubts.len(), 1, "{:?}", dump.doubts);
    }
    assert!(of_process.log.contains("Linux version"));
}

#[test]
fn the_next_look_at_a_guest_reads_less_and_sees_the_same() {
    let guest = Guest::up("inspect-again", &["--memory", "256"]);
    let place = Place::new(&guest);
    let look = || -> Memory {
        let output = place.lifesign(&["inspect", "--config", "agent.yaml", "web", "--json"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        serde_json::from_value(told["memory"].clone()).unwrap()
    };
    let (first, next) = (look(), look());
    eprintln!("first look: {:?}, next look: {:?}", first.cost, next.cost);
    assert!(next.cost.bytes * 4 < first.cost.bytes && next.cost.reads < first.cost.reads);
    sees_the_same(&next, &first);

    let kept = std::fs::read_dir(place.path("state/kernels")).unwrap().next().unwrap().unwrap();
    let whole = std::fs::read(kept.path()).unwrap();
    assert!(whole.len() < 32 * 1024, "{}", whole.len());
    std::fs::write(kept.path(), &whole[..whole.len() / 2]).unwrap();
    let damaged = look();
    assert!(damaged.cost.bytes > next.cost.bytes * 4);
    sees_the_same(&damaged, &first);
    assert!(std::fs::read(kept.path()).unwrap() == whole);
}

/// All that does not change in a guest that is left alone.
fn sees_the_same(memory: &Memory, other: &Memory) {
    let quiet = |memory: &Memory| -> BTreeMap<u32, (String, Vec<String>)> {
        let stays = |task: &&Task| task.kernel && task.state != 'R' && !task.moved;
        let told = |task: &Task| (task.pid, (task.comm.clone(), memory.stack(task).to_vec()));
        memory.tasks.iter().filter(stays).map(told).collect()
    };
    let (ours, theirs) = (quiet(memory), quiet(other));
    let differ = |(pid, told): &(&u32, &(String, Vec<String>))| theirs.get(*pid) != Some(told);
    let differ: Vec<_> = ours.iter().filter(differ).collect();
    // Workers come and go.
    assert!(ours.len() > 30 && differ.len() < 4, "{} {differ:?}", ours.len());
    assert_eq!(memory.release, other.release);
    assert_eq!((memory.sysrq_mask, memory.console_level), (other.sysrq_mask, other.console_level));
    assert_eq!(memory.cpus.len(), other.cpus.len());
    let both = memory.log.lines().zip(other.log.lines());
    assert!(both.clone().count() > 200);
    assert!(both.into_iter().all(|(ours, theirs)| ours == theirs));
    assert_eq!((&memory.doubts, &memory.doubts[..]), (&other.doubts, &[][..]));
}

#[test]
fn what_is_no_guest_is_told() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let refused = |subject: Subject| {
        let error = runtime.block_on(inspect(&subject)).unwrap_err();
        lifesign::base::chain::Chain(&error).to_string()
    };
    let zeros = tempfile::NamedTempFile::new().unwrap();
    zeros.as_file().set_len(64 << 20).unwrap();
    let told = refused(Subject::Dump(zeros.path().to_owned()));
    assert!(told.contains("no Linux kernel is found"), "{told}");
    let told = refused(Subject::Process { pid: std::process::id(), qmp: None });
    assert!(told.contains("no mapping that could be a guest's RAM"), "{told}");
    let told = refused(Subject::Dump(Path::new("/nowhere").to_owned()));
    assert!(told.contains("failed to read /nowhere"), "{told}");
}

// === hostile memory, made of a real guest's ===

/// Real RAM in which some words are others, differently for each seed.
struct Damaged<'r> {
    ram: &'r dyn Ram,
    seed: u64,
    /// Only from then on, for a kernel whose names are damaged is not even found.
    is_on: Cell<bool>,
}

impl Ram for Damaged<'_> {
    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Fault> {
        self.ram.read(at, into)?;
        if !self.is_on.get() {
            return Ok(());
        }
        for (number, chunk) in into.chunks_mut(8).enumerate() {
            let place = (at / 8).wrapping_add(number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
                ^ self.seed;
            let dice = place.wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 32;
            if dice.is_multiple_of(200) {
                chunk.iter_mut().for_each(|byte| *byte = byte.wrapping_add(dice as u8));
            }
        }
        Ok(())
    }

    fn ranges(&self) -> Vec<Range<u64>> {
        self.ram.ranges()
    }
}

#[test]
fn a_guest_with_damaged_memory_is_looked_at_within_bounds() {
    use lifesign::hypervisor::ram::Dump;
    let guest = Guest::up("inspect-damage", &["--memory", "256"]);
    guest.break_it("mutex-deadlock");
    let file = dump(&guest, "elf");
    drop(guest);
    let Dump { ram, cpus, .. } = Dump::open(&file).unwrap();
    let registers: Vec<(u32, Registers)> = (0..).zip(cpus.clone()).collect();
    let whole = Kernel::open(&*ram, &cpus).unwrap();
    let (mut opened, mut shown) = (0, 0);
    for seed in 0..100 {
        let damaged = Damaged { ram: &*ram, seed, is_on: Cell::new(seed % 4 == 0) };
        let Ok(kernel) = Kernel::open(&damaged, &cpus) else { continue };
        opened += 1;
        damaged.is_on.set(true);
        let memory = look(&kernel, Outside { registers: &registers, before: None });
        shown += u32::from(!memory.tasks.is_empty());
        assert!(kernel.spent().bytes <= 64 << 20);
    }
    eprintln!("of 100 damaged memories {opened} had a kernel, {shown} showed tasks");
    assert!(opened >= 75 && shown > 50, "{opened} {shown}");
    let memory = look(&whole, Outside { registers: &registers, before: None });
    assert!(memory.tasks.len() > 40 && memory.doubts.is_empty());
    std::fs::remove_file(&file).unwrap();
}
