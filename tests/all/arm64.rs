//! Guests of another architecture, read as those of x86-64 are in [`super::inspect`]. They boot slowly
//! where no CPU of theirs is at hand: `hack/arm64` runs these tests, one guest at a time.

use super::inspect::{agrees_with_itself, dump, is, verdict};
use super::lab::{Guest, root};
use lifesign::diagnosis::Class;
use lifesign::evidence::memory::{Cost, Memory};
use lifesign::hypervisor::ram::Dump;
use lifesign::kernel::Kernel;
use lifesign::kernel::look::{Outside, look};
use lifesign::kernel::machine::{Arm64, Registers};
use lifesign::kernel::memory::{Fault, Memory as Ram};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;

const ARM64: &[&str] = &["--arch", "arm64"];

#[test]
#[ignore = "boots guests of another architecture: hack/arm64 runs it"]
fn a_healthy_arm64_guest_is_read_as_it_reads_itself() {
    agrees_with_itself("arm64-well", ARM64);
}

#[test]
#[ignore = "boots guests of another architecture: hack/arm64 runs it"]
fn a_deadlock_on_arm64_shows_both_owners() {
    let inspection = verdict("arm64-lock", ARM64, "mutex-deadlock");
    is(&inspection, Class::Deadlock, &["lab_order_ab (", "lab_order_ba (", "wait for each other"]);
    let memory = &inspection.memory;
    assert_eq!(memory.rings().len(), 1);
    assert!(memory.waits.iter().all(|wait| wait.owner.is_some()), "{:?}", memory.waits);
    for lock in ["lab_mutex_a", "lab_mutex_b"] {
        assert!(memory.waits.iter().any(|wait| wait.lock.starts_with(lock)), "{:?}", memory.waits);
    }
}

#[test]
#[ignore = "boots guests of another architecture: hack/arm64 runs it"]
fn a_panic_on_arm64_shows_its_reason() {
    is(&verdict("arm64-panic", ARM64, "panic"), Class::Panic, &["asked to panic"]);
}

#[test]
#[ignore = "boots guests of another architecture: hack/arm64 runs it"]
fn a_cpu_of_arm64_that_spins_shows_where() {
    let inspection = verdict("arm64-irq", ARM64, "irq-off");
    is(&inspection, Class::HardLockup, &["CPU 1 spins with interrupts off", "lab_"]);
    let inspection = verdict("arm64-soft", ARM64, "soft-lockup");
    is(&inspection, Class::SoftLockup, &["CPU 1 spins with interrupts on", "lab_"]);
}

#[test]
#[ignore = "boots guests of another architecture: hack/arm64 runs it"]
fn processes_of_arm64_that_take_everything_or_wait_for_a_disk_are_seen() {
    let inspection = verdict("arm64-busy", ARM64, "userspace-spin");
    is(&inspection, Class::UserspaceDead, &["processes take all CPUs for themselves"]);
    let inspection = verdict("arm64-freeze", &[ARM64, &["--disk"]].concat(), "fs-freeze");
    is(&inspection, Class::HungTask, &["the file system ext4 on vda is frozen"]);
}

// === a recorded one ===

/// RAM that notes what is read of it: whole pages, but of a search only what it was for.
struct Recorder<'r> {
    ram: &'r dyn Ram,
    pages: RefCell<BTreeMap<u64, Vec<u8>>>,
}

const PAGE: u64 = 4096;

/// A search reads more at once than a look ever does.
const SEARCH: usize = 512 * 1024;

impl Ram for Recorder<'_> {
    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Fault> {
        self.ram.read(at, into)?;
        let is_search = into.len() >= SEARCH;
        let mut pages = self.pages.borrow_mut();
        for page in (at / PAGE..=(at + into.len() as u64 - 1) / PAGE).map(|page| page * PAGE) {
            let mut bytes = vec![0; PAGE as usize];
            self.ram.read(page, &mut bytes)?;
            if !is_search || bytes.starts_with(b"OSRELEASE=") {
                pages.insert(page, bytes);
            }
        }
        Ok(())
    }

    fn ranges(&self) -> Vec<Range<u64>> {
        self.ram.ranges()
    }
}

/// As the monitor prints them.
fn printed(cpus: &[Registers]) -> String {
    let cpu = |(number, cpu): (usize, &Registers)| match cpu {
        Registers::Arm64(Arm64 { pc, sp, fp, lr, pstate }) => format!(
            "CPU#{number}\n PC={pc:016x}\nX29={fp:016x} X30={lr:016x}  SP={sp:016x}\nPSTATE={pstate:08x}\n"
        ),
        Registers::X86_64(_) => panic!("a guest of another architecture"),
    };
    cpus.iter().enumerate().map(cpu).collect()
}

/// What a look reads of a guest that is known shows the same without the rest. With LIFESIGN_RECORD that
/// little becomes the image that unit tests look at.
#[test]
#[ignore = "boots guests of another architecture: hack/arm64 runs it"]
fn a_recorded_arm64_guest_shows_what_the_whole_one_does() {
    let guest = Guest::up("arm64-record", &[ARM64, &["--memory", "256"]].concat());
    guest.break_it("mutex-deadlock");
    let file = dump(&guest, "elf");
    drop(guest);
    let Dump { ram, cpus, .. } = Dump::open(&file).unwrap();
    let ram = ram.as_ref();
    std::fs::remove_file(&file).unwrap();
    let first = Kernel::open(ram, &cpus).unwrap();
    let learnt = first.learnt().unwrap();
    let registers: Vec<(u32, Registers)> = (0..).zip(cpus.clone()).collect();
    let outside = Outside { registers: &registers, before: None };
    let recorder = Recorder { ram, pages: RefCell::default() };
    let next = Kernel::open_again(&recorder, &cpus, learnt).unwrap();
    assert!(next.learnt().is_none());
    let (whole, recorded) = (look(&first, outside), look(&next, outside));
    assert_eq!(
        Memory { cost: Cost::default(), ..recorded },
        Memory { cost: Cost::default(), ..whole }
    );

    let pages = recorder.pages.into_inner();
    let image: Vec<u8> = pages
        .iter()
        .flat_map(|(at, bytes)| at.to_le_bytes().into_iter().chain(bytes.clone()))
        .collect();
    let image = zstd::bulk::compress(&image, 19).unwrap();
    eprintln!("{} pages, {} bytes compressed", pages.len(), image.len());
    assert!(image.len() < 1 << 20);
    if std::env::var_os("LIFESIGN_RECORD").is_some() {
        let place = root().join("tests/data/memory/arm64-mutex-deadlock-6.12");
        std::fs::create_dir_all(&place).unwrap();
        std::fs::write(place.join("pages.zst"), image).unwrap();
        std::fs::write(place.join("learnt"), learnt.to_bytes()).unwrap();
        std::fs::write(place.join("registers"), printed(&cpus)).unwrap();
    }
}
