//! What is fuzzed: each target takes any bytes, and panics where something holds no more.
//!
//! Tables of a kernel are reached as a guest would reach them: a small guest is whole but for what the
//! fuzzer writes into one of its tables, and all of it is looked at.

mod guest;
mod overlay;
mod sealed;
mod tables;

use guest::{Guest, Places, RAM, pointer};
use lifesign::base::id::Digest;
use lifesign::base::limits;
use lifesign::bundle::{self, Sealed};
use lifesign::diagnosis::diagnose;
use lifesign::evidence::pstore::{Records, Store};
use lifesign::evidence::{Artifact, Evidence, Kind, memory};
use lifesign::kernel::learnt::Learnt;
use lifesign::kernel::look::{Outside, look};
use lifesign::kernel::machine::Registers;
use lifesign::kernel::{Kernel, Knobs, OpenError, Sample};
use lifesign::report::{self, Style};
use overlay::{Edits, Overlay};
use sealed::{Device, Form};
use std::ops::Range;
use std::sync::OnceLock;
use std::time::Duration;

/// A target by its name.
pub(crate) type Target = (&'static str, fn(&[u8]));

/// All of them.
pub(crate) const TARGETS: [Target; 13] = [
    ("types", types),
    ("symbols", symbols),
    ("paging", paging),
    ("orc", orc),
    ("log", log),
    ("lists", lists),
    ("guest", guest),
    ("note", note),
    ("learnt", learnt),
    ("registers", registers),
    ("records", records),
    ("evidence", evidence),
    ("sealed", sealed),
];

/// A look tells no more than this, whatever the guest has.
const TOLD_BYTES: usize = 24 << 20;

/// What a capture may keep of it.
const KEPT_BYTES: usize = 64 * 1024;

// === tables of the kernel ===

fn types(input: &[u8]) {
    let guest = until_6_3();
    first_look(guest, edits(input, guest, |places| vec![places.types.clone()]));
}

fn symbols(input: &[u8]) {
    let guest = match input.first() {
        Some(byte) if byte & 1 == 1 => since_6_4(),
        _ => until_6_3(),
    };
    let input = input.get(1..).unwrap_or_default();
    first_look(guest, edits(input, guest, |it| vec![it.names.clone(), it.notes.clone()]));
}

fn paging(input: &[u8]) {
    let guest = until_6_3();
    next_look(guest, edits(input, guest, |places| vec![places.paging.clone()]));
}

fn orc(input: &[u8]) {
    let guest = until_6_3();
    next_look(guest, edits(input, guest, |it| vec![it.orc.clone(), it.stacks.clone()]));
}

fn log(input: &[u8]) {
    let guest = until_6_3();
    next_look(guest, edits(input, guest, |places| vec![places.log.clone()]));
}

/// Tasks, stacks, locks, file systems, requests and modules.
fn lists(input: &[u8]) {
    let guest = until_6_3();
    let places = |it: &Places| vec![it.data.clone(), it.objects.clone(), it.stacks.clone()];
    next_look(guest, edits(input, guest, places));
}

/// All of RAM, and the registers.
fn guest(input: &[u8]) {
    let guest = since_6_4();
    let (words, rest) = input.split_at(input.len().min(1 + 64));
    let Some((which, words)) = words.split_first() else { return };
    let mut cpus = guest.cpus;
    for (number, word) in words.chunks_exact(8).enumerate() {
        let word = u64::from_le_bytes(word.try_into().expect("eight bytes"));
        let cpu = &mut cpus[number / 4];
        let registers = [&mut cpu.rip, &mut cpu.rsp, &mut cpu.rbp, &mut cpu.cr3];
        if which >> number & 1 == 1 {
            *registers.into_iter().nth(number % 4).expect("one of four") = word;
        }
    }
    let edits = edits(rest, guest, |_| std::iter::once(0..guest.ram.len()).collect());
    let memory = Overlay::new(RAM, &guest.ram, edits);
    let cpus = cpus.map(Registers::X86_64);
    opened(&memory, &cpus, Kernel::open(&memory, &cpus));
}

/// The page that leads to the kernel where no registers do.
fn note(input: &[u8]) {
    let guest = until_6_3();
    let edits = edits(input, guest, |places| vec![places.note.clone()]);
    let memory = Overlay::new(RAM, &guest.ram, edits);
    opened(&memory, &guest.registers(), Kernel::open(&memory, &[]));
}

/// What is kept of an earlier look, by somebody who can count digests.
fn learnt(input: &[u8]) {
    let guest = until_6_3();
    let known = known().to_bytes();
    let line = known.iter().position(|byte| *byte == b'\n').expect("a first line");
    let mut body = known[line + 1..].to_vec();
    Edits::read(input, &body, std::slice::from_ref(&(0..body.len())), |place| place)
        .apply(&mut body);
    let magic = known[..line].rsplitn(2, |byte| *byte == b' ').last().expect("a first word");
    let bytes = [magic, format!(" {}\n", Digest::of(&body)).as_bytes(), &body].concat();
    if let Some(learnt) = Learnt::read(&bytes) {
        let memory = Overlay::new(RAM, &guest.ram, Edits::default());
        opened(
            &memory,
            &guest.registers(),
            Kernel::open_again(&memory, &guest.registers(), &learnt),
        );
    }
}

fn edits(input: &[u8], guest: &Guest, places: impl Fn(&Places) -> Vec<Range<usize>>) -> Edits {
    Edits::read(input, &guest.ram, &places(&guest.places), pointer)
}

fn until_6_3() -> &'static Guest {
    static GUEST: OnceLock<Guest> = OnceLock::new();
    GUEST.get_or_init(|| Guest::new(false))
}

fn since_6_4() -> &'static Guest {
    static GUEST: OnceLock<Guest> = OnceLock::new();
    GUEST.get_or_init(|| Guest::new(true))
}

/// What a look at the guest teaches as long as nobody writes into it.
fn known() -> &'static Learnt {
    static LEARNT: OnceLock<Learnt> = OnceLock::new();
    LEARNT.get_or_init(|| {
        let guest = until_6_3();
        let memory = Overlay::new(RAM, &guest.ram, Edits::default());
        let kernel = Kernel::open(&memory, &guest.registers()).expect("the guest's kernel opens");
        kernel.learnt().expect("its build has an id").clone()
    })
}

// === looks ===

fn first_look(guest: &Guest, edits: Edits) {
    let memory = Overlay::new(RAM, &guest.ram, edits);
    opened(&memory, &guest.registers(), Kernel::open(&memory, &guest.registers()));
}

/// Where the kernel's build is known, which spares going through its tables.
fn next_look(guest: &Guest, edits: Edits) {
    let memory = Overlay::new(RAM, &guest.ram, edits);
    opened(&memory, &guest.registers(), Kernel::open_again(&memory, &guest.registers(), known()));
}

/// Looks at what was opened; whatever came of it, it was read within the allowance.
fn opened(memory: &Overlay<'_>, cpus: &[Registers], kernel: Result<Kernel<'_>, OpenError>) {
    if let Ok(kernel) = kernel {
        let told = told(&kernel, cpus);
        assert!(kernel.spent().reads <= limits::LOOK_READS, "{:?}", kernel.spent());
        assert!(kernel.spent().bytes <= limits::LOOK_BYTES, "{:?}", kernel.spent());
        judge(&told);
    }
    // A search for the kernel goes through RAM once, beside what the look reads.
    let (reads, bytes) = memory.spent();
    assert!(reads <= 2 * limits::LOOK_READS, "{reads} reads");
    assert!(bytes <= limits::LOOK_BYTES + (16 << 20), "{bytes} bytes");
}

fn told(kernel: &Kernel<'_>, cpus: &[Registers]) -> memory::Memory {
    let before = Sample::take(kernel).ok();
    let before = before.as_ref().map(|sample| (sample, Duration::from_millis(500)));
    let registers: Vec<(u32, Registers)> = (0..).zip(cpus.iter().copied()).collect();
    let told = look(kernel, Outside { registers: &registers, before });
    _ = Knobs::find(kernel);
    told
}

/// What a look told is as much as may be told, kept as it is, shown and judged.
fn judge(told: &memory::Memory) {
    let bytes = told.to_bytes();
    assert!(bytes.len() <= TOLD_BYTES, "{} bytes are told", bytes.len());
    assert!(told.tasks.iter().all(|task| task.stack.is_none_or(|it| it < told.stacks.len())));
    assert_eq!(memory::Memory::read(&bytes).as_ref(), Some(told), "another one is read");
    if let Some(kept) = told.clone().fit(KEPT_BYTES) {
        assert!(kept.to_bytes().len() <= KEPT_BYTES, "what is to be kept does not fit");
        assert_eq!(kept.tasks.len(), told.tasks.len());
    }
    _ = report::memory(told);
    _ = diagnose(&Evidence { memory: Some(told.clone()), ..Evidence::default() });
}

// === texts and records ===

fn registers(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    assert!(Registers::read(&text).len() <= text.len() / 4);
}

/// The first byte tells the store.
fn records(input: &[u8]) {
    let Some((first, file)) = input.split_first() else { return };
    let store = if first & 1 == 0 { Store::Erst } else { Store::Efi };
    if let Ok(records) = Records::of_file(store, file) {
        assert!(records.records.len() <= limits::RECORDS);
        assert_eq!(Records::read(&records.to_bytes()), records);
        _ = diagnose(&Evidence { records, ..Evidence::default() });
    }
}

/// The first byte tells what the artifact is, the second which key it answers.
fn evidence(input: &[u8]) {
    const KINDS: [Kind; 8] = [
        Kind::Console,
        Kind::Sysrq,
        Kind::Qmp,
        Kind::Host,
        Kind::Rounds,
        Kind::Memory,
        Kind::Records,
        Kind::Nmi,
    ];
    const KEYS: [&str; 8] = [
        "backtrace-all-active-cpus",
        "blocked-tasks",
        "dump-ftrace-buffer",
        "locks",
        "memory-usage",
        "registers",
        "task-states",
        "timers",
    ];
    let [kind, key, data @ ..] = input else { return };
    let name = KEYS[usize::from(*key) % KEYS.len()].to_owned();
    let kind = KINDS[usize::from(*kind) % KINDS.len()];
    let artifact = Artifact { kind, name, data: data.to_vec() };
    let evidence = Evidence::read(&[artifact.clone(), artifact]);
    let diagnosis = diagnose(&evidence);
    assert!(!diagnosis.title.is_empty() && !diagnosis.title.contains('\n'));
    if let Some(memory) = &evidence.memory {
        _ = report::memory(memory);
    }
}

/// The first byte tells in which form it is sealed.
fn sealed(input: &[u8]) {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    let Some((first, message)) = input.split_first() else { return };
    let device = DEVICE.get_or_init(Device::new);
    let form = match first % 3 {
        0 => Form::Payload,
        1 => Form::Bundle,
        _ => Form::Bindings,
    };
    let bytes = device.seal(form, message);
    assert!(bundle::sender(&bytes).is_ok());
    _ = bundle::sender(message);
    _ = bundle::open_bindings(&bytes, &device.public);
    _ = bundle::open_kept(&bytes, &device.public);
    if let Ok(Sealed::Bundle(opened)) = bundle::open(&bytes, &device.public) {
        _ = diagnose(&Evidence::read(&opened.artifacts));
        let page = report::bundle(&opened, Style { colour: false }, "");
        assert!(page.chars().all(|it| it == '\n' || !it.is_control()), "{page:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a target's guest does not have is not fuzzed.
    #[test]
    fn all_of_the_guest_is_read() {
        let pages = [until_6_3(), since_6_4()].map(|guest| {
            let memory = Overlay::new(RAM, &guest.ram, Edits::default());
            let kernel = Kernel::open(&memory, &guest.registers()).expect("its kernel opens");
            let page = report::memory(&told(&kernel, &guest.registers()));
            let (page, _) = page.rsplit_once("\n\nread ").expect("what it cost is told last");
            page.to_owned()
        });
        assert_eq!(pages[0], pages[1]);
        insta::assert_snapshot!(pages[0], @r"
        Linux 6.1.0-fuzz, up 1 min 30 s, 5 tasks
        SysRq may do what its mask 438 says, the console's log level is 4
        CPU 0: idle; 0 switches in 500 ms
        CPU 1: in the kernel, task-4 (4), 1 to run; 0 switches in 500 ms
            fault_spin [fault] < asm_exc_page_fault < do_syscall_64 < ret_from_fork
        ext4 on vda1: frozen
        vda has a write of 4096 bytes at sector 2048 for 30.0 s

        who waits for whom
          task-1 (1, 10.0 s) waits for itself, by way of others
            `- task-2 (2, 10.0 s) waits for 0xffff888000282040
              `- task-1 (1, 10.0 s) waits for 0xffff888000282000, which closes the ring
          task-3 (3, 10.0 s) waits for ext4 on vda1 to be thawed, held by nobody that is known

        blocked
          task-1 (1, 10.0 s)
            schedule < __mutex_lock.constprop.0 < do_syscall_64 < ret_from_fork
          task-2 (2, 10.0 s)
            schedule < rwsem_down_write_slowpath < do_syscall_64 < ret_from_fork
          task-3 (3, 10.0 s)
            schedule < percpu_rwsem_wait < do_syscall_64 < ret_from_fork

        the end of the kernel's log
          [    1.020000] Linux version 6.1.0-fuzz
          [    1.021000] sd 0:0:0:0: timing out
          [    1.022000] two
          [    1.022000] lines
          [    1.023000] last
        ");
        let memory = Overlay::new(RAM, &until_6_3().ram, Edits::default());
        let by_note = Kernel::open(&memory, &[]).map(|kernel| kernel.spent().reads > 0);
        assert!(matches!(by_note, Ok(true)), "{by_note:?}");
    }
}
