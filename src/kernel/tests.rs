//! Kernels whose structures are known and whose memory is a test's, or rubbish.

use super::cpus::Sample;
use super::faulty::{Rubbish, Sparse};
use super::locks::Locks;
use super::log::Log;
use super::look::{Outside, look};
use super::machine::{Architecture, Registers, X86_64};
use super::memory::{Allowance, Fault, Memory, Reader};
use super::open::{Kernel, Layouts, OpenError, Sizes, place};
use super::paging::Paging;
use super::space::{Image, Space};
use super::symbols::Symbols;
use super::tasks::Tasks;
use super::types::layout::{self, Field};
use super::types::tests::Writer;
use super::types::{self, Types};
use super::unwind::{self, Unwinder};
use super::x86_64;
use crate::evidence::memory::Lock;
use crate::evidence::trace::Frame;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::OnceLock;

const DESCRIPTION: u64 = 0x10_0000;
const ARM64: Architecture = Architecture::Arm64 { address_bits: 48, page_bytes: 4096 };
const ARM64_CODE: u64 = 0xffff_8000_8000_0000;
const SIZES: Sizes = Sizes { descriptor: 64, info: 128, super_block: 128 };

/// Every member of every structure has 16 bytes, as a list's links have, and each that is nested the
/// structure it needs.
pub(super) fn description() -> Vec<u8> {
    let mut writer = Writer::new();
    let links = writer.structure("", 16, &[]);
    for (name, paths) in layout::structures() {
        let mut members: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for path in &paths {
            let (first, rest) = path.split_once('.').unwrap_or((path, ""));
            members.entry(first).or_default().extend((!rest.is_empty()).then_some(rest));
        }
        let mut laid_out = Vec::new();
        let mut bit = 0;
        for (member, nested) in &members {
            let inner: Vec<(&str, u32, u32, u32)> =
                (0..).zip(nested).map(|(number, name)| (*name, links, number * 128, 0)).collect();
            let kind = if nested.is_empty() {
                links
            } else {
                writer.structure("", inner.len() as u32 * 16, &inner)
            };
            laid_out.push((*member, kind, bit, 0));
            bit += 128 * nested.len().max(1) as u32;
        }
        writer.structure(name, bit / 8, &laid_out);
    }
    writer.done()
}

pub(super) fn layouts() -> Layouts {
    described().0
}

/// All structures, and those that unwinding takes by architecture.
fn described() -> (Layouts, [unwind::Layouts; 2]) {
    static KNOWN: OnceLock<(Layouts, [unwind::Layouts; 2])> = OnceLock::new();
    *KNOWN.get_or_init(describe)
}

fn describe() -> (Layouts, [unwind::Layouts; 2]) {
    let (mut memory, bytes) = (Sparse::default(), description());
    memory.write(DESCRIPTION, &bytes);
    let space = types::tests::space(&memory);
    let types = Types::read(&space, DESCRIPTION..DESCRIPTION + bytes.len() as u64).unwrap();
    let unwinding = [Architecture::X86_64, ARM64]
        .map(|architecture| unwind::Layouts::of(architecture, &types, &space).unwrap());
    (Layouts::of(&types, &space).unwrap(), unwinding)
}

/// A kernel in which virtual and physical addresses are the same.
pub(crate) fn kernel<'m>(
    memory: &'m dyn Memory,
    reads: u64,
    symbols: &[(&'static str, u64)],
) -> Kernel<'m> {
    of(Architecture::X86_64, memory, reads, symbols)
}

/// The same of an arm64 machine, whose code and stacks are in the upper half.
pub(super) fn arm64<'m>(
    memory: &'m dyn Memory,
    reads: u64,
    symbols: &[(&'static str, u64)],
) -> Kernel<'m> {
    let mut kernel = of(ARM64, memory, reads, symbols);
    kernel.text = std::iter::once(ARM64_CODE..ARM64_CODE + 0x10_0000).collect();
    kernel.unwinder = Unwinder::Arm64(super::arm64::unwind::Unwinder::new(unwinding()));
    kernel
}

/// Those that unwinding takes on arm64. The mark of a record is behind it.
pub(super) fn unwinding() -> super::arm64::unwind::Layouts {
    match described().1 {
        [_, unwind::Layouts::Arm64(mut layouts)] => {
            layouts.mark.kind.as_mut().unwrap().offset = 16;
            layouts
        }
        [_, unwind::Layouts::X86_64(_)] => unreachable!(),
    }
}

fn of<'m>(
    architecture: Architecture,
    memory: &'m dyn Memory,
    reads: u64,
    symbols: &[(&'static str, u64)],
) -> Kernel<'m> {
    let reader = Reader::new(memory, Allowance { reads, bytes: 16 << 20 });
    let image = match architecture {
        Architecture::X86_64 => Image { at: 0..1 << 47, to_physical: 0 },
        Architecture::Arm64 { .. } => Image { at: 0xffff << 48..u64::MAX, to_physical: 0 },
    };
    let space = Space::new(reader, Paging::new(0, x86_64::paging::form(0)), image);
    let (layouts, [x86_64, arm64]) = described();
    let unwinding = if architecture == ARM64 { arm64 } else { x86_64 };
    let symbols = Symbols::of(symbols);
    let unwinder = Unwinder::new(unwinding, &space, &symbols, &[], &[]).unwrap();
    Kernel {
        space,
        symbols,
        layouts,
        sizes: SIZES,
        modules: Vec::new(),
        unwinder,
        text: std::iter::once(0x40_0000..0x50_0000).collect(),
        stack_bytes: architecture.stack_bytes(),
        learnt: None,
    }
}

fn put(memory: &mut Sparse, at: u64, field: Field, word: u64) {
    memory.write(place(at, field), &word.to_le_bytes());
}

fn put_list(memory: &mut Sparse, links: &[u64]) {
    for (number, at) in links.iter().enumerate() {
        let next = links[(number + 1) % links.len()];
        let back = links[(number + links.len() - 1) % links.len()];
        memory.write(*at, &[next.to_le_bytes(), back.to_le_bytes()].concat());
    }
}

// === the log ===

const RING: u64 = 0x2_0000;
const DESCRIPTORS: u64 = 0x3_0000;
const INFOS: u64 = 0x4_0000;
const DATA: u64 = 0x5_0000;

/// A ring of 32 records and 1 KiB of text, of which the records from `tail` on are there.
fn ring(layouts: &Layouts, tail: u64, texts: &[&str]) -> Sparse {
    let mut memory = Sparse::default();
    memory.write(0x1_0000, &RING.to_le_bytes());
    memory.write(DESCRIPTORS, &[0; 32 * 64]);
    memory.write(INFOS, &[0; 32 * 128]);
    memory.write(DATA, &[0; 1024]);
    let known = &layouts.ring;
    let head = tail + texts.len() as u64 - 1;
    let words = [
        (known.count_bits, 5),
        (known.descriptors, DESCRIPTORS),
        (known.infos, INFOS),
        (known.head, head),
        (known.tail, tail),
        (known.size_bits, 10),
        (known.data, DATA),
    ];
    words.into_iter().for_each(|(field, word)| put(&mut memory, RING, field, word));
    let mut begin = 1024 * 7 + 1000;
    for (id, text) in (tail..).zip(texts) {
        let bytes = (8 + text.len() as u64).next_multiple_of(8);
        // What does not fit before the end begins at the start.
        let from = if begin % 1024 + bytes > 1024 { (begin / 1024 + 1) * 1024 } else { begin };
        memory.write(DATA + from % 1024, &[&id.to_le_bytes(), text.as_bytes()].concat());
        let descriptor = DESCRIPTORS + id % 32 * 64;
        put(&mut memory, descriptor, layouts.descriptor.state, id | 2 << 62);
        put(
            &mut memory,
            descriptor,
            layouts.descriptor.begin,
            if text.is_empty() { 3 } else { begin },
        );
        put(
            &mut memory,
            descriptor,
            layouts.descriptor.next,
            if text.is_empty() { 3 } else { from + bytes },
        );
        let info = INFOS + id % 32 * 128;
        put(&mut memory, info, layouts.record.seq, id - 100);
        put(&mut memory, info, layouts.record.ns, id * 1_000_000);
        put(&mut memory, info, layouts.record.length, text.len() as u64);
        begin = if text.is_empty() { begin } else { from + bytes };
    }
    memory
}

#[test]
fn the_log_is_read_round_the_ends_of_its_rings() {
    let layouts = layouts();
    let memory = ring(
        &layouts,
        1020,
        &["first", "one that does not fit any more", "", "two\nlines", "last"],
    );
    let log = Log::read(&kernel(&memory, 1000, &[("prb", 0x1_0000)]), 1 << 20).unwrap();
    assert_eq!(log.dropped, 0);
    assert_eq!(log.records[0].seq, 920);
    insta::assert_snapshot!(String::from_utf8(log.to_bytes()).unwrap(), @r"
    [    1.020000] first
    [    1.021000] one that does not fit any more
    [    1.022000] 
    [    1.023000] two
    [    1.023000] lines
    [    1.024000] last
    ");
}

#[test]
fn a_record_that_is_not_whole_is_left_out() {
    let layouts = layouts();
    let mut memory = ring(&layouts, 1000, &["first", "overwritten", "reserved", "last"]);
    memory.write(
        DESCRIPTORS + 1002 % 32 * 64 + u64::from(layouts.descriptor.state.offset),
        &1002_u64.to_le_bytes(),
    );
    let texts = |memory: &Sparse| -> Vec<String> {
        let log = Log::read(&kernel(memory, 1000, &[("prb", 0x1_0000)]), 1 << 20).unwrap();
        log.records.into_iter().map(|record| String::from_utf8(record.text).unwrap()).collect()
    };
    assert_eq!(texts(&memory), ["first", "overwritten", "last"]);
    // It did not fit before the end.
    memory.write(DATA, &7_u64.to_le_bytes());
    assert_eq!(texts(&memory), ["first", "last"]);
}

#[test]
fn a_log_of_empty_lines_is_no_longer_than_it_may_be() {
    let layouts = layouts();
    let (empty, lines) = ([""; 30], ["\n".repeat(80)]);
    let few = lines.each_ref().map(String::as_str).repeat(8);
    for texts in [&empty[..], &few] {
        let memory = ring(&layouts, 1000, texts);
        let kernel = kernel(&memory, 1000, &[("prb", 0x1_0000)]);
        let all = Log::read(&kernel, 1 << 20).unwrap();
        assert_eq!(all.records.len(), texts.len());
        for most in [0, 100, 2000] {
            let log = Log::read(&kernel, most).unwrap();
            assert!(log.to_bytes().len() <= most && all.records.ends_with(&log.records));
            // A line takes 22 bytes, a record of 81 lines 1,862.
            assert_eq!(log.records.is_empty(), most < if texts.len() == 30 { 22 } else { 1862 });
        }
    }
}

// === tasks and locks ===

/// Tasks at 0x10_0000, 0x11_0000, .. with stacks at 0x20_0000, 0x21_0000, ..
fn tasks(layouts: &Layouts, count: u64) -> Sparse {
    let mut memory = Sparse::default();
    let known = &layouts.task;
    let at = |number: u64| 0x10_0000 + number * 0x1_0000;
    let links: Vec<u64> = (0..count).map(|number| place(at(number), known.tasks)).collect();
    for number in 0..count {
        memory.write(at(number), &[0; 4096]);
        memory.write(0x20_0000 + number * 0x1_0000, &[0; 16 * 1024]);
        let signal = 0x60_0000 + number * 0x1000;
        let head = place(signal, layouts.signal.thread_head);
        put_list(&mut memory, &[head, place(at(number), known.thread_node)]);
        let sp = 0x20_0000 + number * 0x1_0000 + 0x3e00;
        let words = [
            (known.pid, number),
            (known.tgid, number),
            (known.state, 2),
            (known.parent, at(0)),
            (known.signal, signal),
            (known.stack, 0x20_0000 + number * 0x1_0000),
            (known.sp, sp),
        ];
        words.into_iter().for_each(|(field, word)| put(&mut memory, at(number), field, word));
        memory.write(place(at(number), known.comm), format!("t{number}").as_bytes());
    }
    put_list(&mut memory, &links);
    memory
}

/// Puts tasks into the list of a mutex, by a node on each stack.
fn wait_for(memory: &mut Sparse, layouts: &Layouts, lock: u64, owner: u64, waiters: &[u64]) {
    let known = layouts.locks.unwrap();
    let mut links = vec![place(lock, known.mutex.waiters.unwrap())];
    links.extend(waiters.iter().map(|number| node(layouts, *number)));
    put(memory, lock, known.mutex.owner, owner | 1);
    for number in waiters {
        put(memory, waiter(*number), known.mutex_waiter.task, 0x10_0000 + number * 0x1_0000);
    }
    put_list(memory, &links);
}

/// The same of a mutex that has no list, but names the first.
fn wait_behind(memory: &mut Sparse, layouts: &Layouts, lock: u64, owner: u64, waiters: &[u64]) {
    wait_for(memory, layouts, lock, owner, waiters);
    let links: Vec<u64> = waiters.iter().map(|number| node(layouts, *number)).collect();
    put_list(memory, &links);
    put(memory, lock, layouts.locks.unwrap().mutex.first.unwrap(), waiter(waiters[0]));
    for number in waiters {
        memory.write(waiter(*number) - 0x40, &lock.to_le_bytes());
    }
}

fn waiter(number: u64) -> u64 {
    0x20_0000 + number * 0x1_0000 + 0x3f00
}

fn node(layouts: &Layouts, number: u64) -> u64 {
    place(waiter(number), layouts.locks.unwrap().mutex_waiter.list)
}

fn found(memory: &Sparse, number: u64) -> Option<(Lock, u64, Option<u64>)> {
    found_by(&kernel(memory, 10_000, &[("init_task", 0x10_0000)]), number)
}

/// Where no lock has a list.
fn found_behind(memory: &Sparse, number: u64) -> Option<(Lock, u64, Option<u64>)> {
    let mut kernel = kernel(memory, 10_000, &[("init_task", 0x10_0000)]);
    kernel.layouts.locks.as_mut().unwrap().mutex.waiters = None;
    found_by(&kernel, number)
}

fn found_by(kernel: &Kernel<'_>, number: u64) -> Option<(Lock, u64, Option<u64>)> {
    let tasks = Tasks::read(kernel).unwrap();
    assert!(tasks.is_whole);
    let task = &tasks.all[&(0x10_0000 + number * 0x1_0000)];
    let trail = task.trail(kernel).unwrap().unwrap();
    let frames: Vec<Frame> = ["schedule+0x1/0x2", "__mutex_lock.constprop.0+0x1/0x2"]
        .iter()
        .filter_map(|call| Frame::read(call))
        .collect();
    let wait = Locks::new(kernel, &tasks).wait(&tasks, task, &trail, &frames).unwrap()?;
    Some((wait.kind, wait.at, wait.owner))
}

#[test]
fn a_lock_and_its_owner_are_found_by_the_waiters_stack() {
    let layouts = layouts();
    let mut memory = tasks(&layouts, 5);
    wait_for(&mut memory, &layouts, 0x9000, 0x14_0000, &[1, 2, 3]);
    for waiter in 1..=3 {
        assert_eq!(found(&memory, waiter), Some((Lock::Mutex, 0x9000, Some(0x14_0000))));
    }
    assert_eq!(found(&memory, 4), None);
    wait_for(&mut memory, &layouts, 0x9000, 0x77_0000, &[1]);
    assert_eq!(found(&memory, 1), Some((Lock::Mutex, 0x9000, None)));
}

#[test]
fn a_lock_that_only_names_who_waits_first_is_found_where_they_keep_it() {
    let layouts = layouts();
    let mut memory = tasks(&layouts, 5);
    wait_behind(&mut memory, &layouts, 0x9000, 0x14_0000, &[1, 2, 3]);
    for waiter in 1..=3 {
        assert_eq!(found_behind(&memory, waiter), Some((Lock::Mutex, 0x9000, Some(0x14_0000))));
    }
    assert_eq!(found_behind(&memory, 4), None);
    wait_behind(&mut memory, &layouts, 0xa000, 0x14_0000, &[2]);
    assert_eq!(found_behind(&memory, 2), Some((Lock::Mutex, 0xa000, Some(0x14_0000))));
    // It names somebody else meanwhile.
    put(&mut memory, 0xa000, layouts.locks.unwrap().mutex.first.unwrap(), waiter(3));
    assert_eq!(found_behind(&memory, 2), None);
}

#[test]
fn a_waiters_list_that_does_not_lead_to_a_lock_is_none() {
    let layouts = layouts();
    let mut memory = tasks(&layouts, 4);
    wait_for(&mut memory, &layouts, 0x9000, 0x13_0000, &[1, 2]);
    let node = |number: u64| node(&layouts, number);
    // Two nodes that know each other, and no lock.
    put_list(&mut memory, &[node(1), node(2)]);
    assert_eq!(found(&memory, 1), None);
    // One that nobody knows.
    memory.write(node(1), &0x9000_u64.to_le_bytes());
    assert_eq!(found(&memory, 1), None);
}

#[test]
fn a_list_of_tasks_that_bites_its_tail_is_read_once_and_said_not_to_be_whole() {
    let layouts = layouts();
    let mut memory = tasks(&layouts, 5);
    let link = |number: u64| place(0x10_0000 + number * 0x1_0000, layouts.task.tasks);
    memory.write(link(4), &link(2).to_le_bytes());
    let kernel = kernel(&memory, 10_000, &[("init_task", 0x10_0000)]);
    let tasks = Tasks::read(&kernel).unwrap();
    assert_eq!((tasks.all.len(), tasks.is_whole), (4, false));
}

// === SysRq and the console ===

#[test]
fn what_keys_may_do_is_read_where_it_is_named() {
    let mut memory = Sparse::default();
    memory.write(0x1000, &[4_u32.to_le_bytes(), 7_u32.to_le_bytes()].concat());
    memory.write(0x2000, &438_u32.to_le_bytes());
    memory.write(0x3000, &[0, 1, 1, 1]);
    let names = |level, mask, always| {
        [("console_printk", level), ("sysrq_enabled", mask), ("sysrq_always_enabled", always)]
    };
    let read = |names: &[(&'static str, u64)]| {
        let memory = look(&kernel(&memory, 1000, names), Outside::default());
        (memory.sysrq_mask, memory.console_level)
    };
    assert_eq!(read(&names(0x1000, 0x2000, 0x3000)), (Some(438), Some(4)));
    assert_eq!(read(&names(0x1004, 0x2000, 0x3001)), (Some(1), Some(7)));
    // Not a level, and nowhere.
    assert_eq!(read(&names(0x2000, 0x9000, 0x9000)), (None, None));
    assert_eq!(read(&[]), (None, None));
}

// === anything ===

const SYMBOLS: [(&str, u64); 10] = [
    ("nr_cpu_ids", 0x1100),
    ("prb", 0x1008),
    ("init_task", 0x2000),
    ("super_blocks", 0x3000),
    ("runqueues", 0x4000),
    ("hrtimer_bases", 0x9000),
    ("__per_cpu_offset", 0x5000),
    ("__cpu_online_mask", 0x6000),
    ("modules", 0x7000),
    ("init_uts_ns", 0x8000),
];

proptest! {
    /// Every pointer, length and list is what the same few bytes make it.
    #[test]
    fn a_look_at_any_memory_ends(bytes in proptest::collection::vec(any::<u8>(), 1..48), cpu: [u64; 4]) {
        let memory = Rubbish(bytes);
        let kernel = kernel(&memory, 20_000, &SYMBOLS);
        let registers = X86_64 { rip: 0x40_1000, rsp: cpu[0], rbp: cpu[1], r10: cpu[2], r13: cpu[3], ..X86_64::default() };
        _ = look(&kernel, Outside { registers: &[(0, Registers::X86_64(registers))], before: None });
        _ = Log::read(&kernel, 1 << 16);
        _ = Sample::take(&kernel);
        prop_assert!(kernel.spent().reads <= 20_000);
    }

    /// As words that are small or point near each other, which get further than rubbish does.
    #[test]
    fn a_look_at_near_pointers_ends(words in proptest::collection::vec((0_u64..16, 0_u64..0x200), 1..24)) {
        let words = words.iter().map(|(page, place)| page * 0x1000 + place * 8);
        let memory = Rubbish(words.flat_map(u64::to_le_bytes).collect());
        let kernel = kernel(&memory, 20_000, &SYMBOLS);
        _ = look(&kernel, Outside::default());
        _ = Log::read(&kernel, 1 << 16);
    }

    #[test]
    fn a_damaged_list_of_waiters_ends(damage in proptest::collection::vec((0_u64..0x8_0000, 0_u64..0x70_0000), 1..8)) {
        let layouts = layouts();
        let mut memory = tasks(&layouts, 5);
        wait_behind(&mut memory, &layouts, 0xa000, 0x14_0000, &[1, 2, 3]);
        wait_for(&mut memory, &layouts, 0x9000, 0x14_0000, &[1, 2, 3]);
        for (at, word) in damage {
            memory.write(0x10_0000 + at * 8, &word.to_le_bytes());
        }
        let kernel = kernel(&memory, 20_000, &[("init_task", 0x10_0000)]);
        let tasks = Tasks::read(&kernel).unwrap();
        let frames: Vec<Frame> = Frame::read("__mutex_lock+0x1/0x2").into_iter().collect();
        let mut behind = super::tests::kernel(&memory, 20_000, &[("init_task", 0x10_0000)]);
        behind.layouts.locks.as_mut().unwrap().mutex.waiters = None;
        let mut locks = Locks::new(&kernel, &tasks);
        let mut headless = Locks::new(&behind, &tasks);
        for task in tasks.all.values() {
            if let Ok(Some(trail)) = task.trail(&kernel) {
                _ = locks.wait(&tasks, task, &trail, &frames);
                _ = headless.wait(&tasks, task, &trail, &frames);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn no_kernel_is_found_in_any_memory(bytes in proptest::collection::vec(any::<u8>(), 1..64), cr3: u64, idt: u64) {
        let memory = Rubbish(bytes);
        let cpu = X86_64 { cr3, idt, ..X86_64::default() };
        let opened = Kernel::open(&memory, &[Registers::X86_64(cpu)]);
        prop_assert!(matches!(opened.err(), Some(OpenError::NotFound | OpenError::Symbols(_) | OpenError::Fault(Fault::Spent))));
    }
}
