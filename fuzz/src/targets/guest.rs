//! A small guest, of which everything can be read that a look reads: a kernel with all of its tables,
//! five tasks, of which two wait for each other and one for a frozen file system, a module, a disk with
//! a request in flight, and a log.
//!
//! ```text
//!   0x00000 text   0x40000 kallsyms   0x58000 BTF   0x5c000 notes   0x5e000 IDT   0x5f000 page tables
//!   0x6c000 ORC    0x70000 variables  0x80000 tasks and what they wait for  0x90000 stacks  0xb0000 log
//! ```

use super::tables::{self, Order, offset, size};
use lifesign::kernel::machine::{Registers, X86_64};
use std::ops::Range;

/// Where RAM is, and how much.
pub(super) const RAM: u64 = 0x20_0000;
const RAM_BYTES: usize = 0xc_0000;

/// The kernel's image is all of RAM; so is what lies behind `DIRECT`.
const START: u64 = 0xffff_ffff_8120_0000;
const DIRECT: u64 = 0xffff_8880_0000_0000;
const STACKS: u64 = 0xffff_c900_0000_0000;
const MODULE: u64 = 0xffff_ffff_c000_0000;
const DESCRIPTORS: u64 = 0xffff_fe00_0000_0000;

const FUNCTIONS: u64 = 10_050;
const TEXT_BYTES: u64 = 0x2_8000;
const NAMES: u64 = 0x4_0000;
const TYPES: u64 = 0x5_8000;
const NOTES: u64 = 0x5_c000;
const BANNER: u64 = 0x5_d000;
const IDT: u64 = 0x5_e000;
const TABLES: u64 = 0x5_f000;
const ORC: u64 = 0x6_c000;
const DATA: u64 = 0x7_0000;
const TASKS: u64 = 0x8_0000;
const SIGNALS: u64 = 0x8_1000;
const LOCKS: u64 = 0x8_2000;
const DISK: u64 = 0x8_3000;
const MODULES: u64 = 0x8_4000;
const STACK: u64 = 0x9_0000;
const STACK_BYTES: u64 = 0x4000;
const LOG: u64 = 0xb_0000;
const NOTE: u64 = 0xb_8000;

/// Functions that are asked for, or that are on a stack, by number.
const NAMED: [(&str, u64); 11] = [
    ("T_text", 0),
    ("T_stext", 0),
    ("T__switch_to_asm", 16),
    ("Tschedule", 32),
    ("t__mutex_lock.constprop.0", 48),
    ("trwsem_down_write_slowpath", 64),
    ("tpercpu_rwsem_wait", 80),
    ("Tdo_syscall_64", 96),
    ("Tasm_exc_page_fault", 112),
    ("Tret_from_fork", 128),
    ("Tdefault_idle", 144),
];

/// Variables, one behind the other.
const VARIABLES: [&str; 12] = [
    "init_task",
    "__cpu_online_mask",
    "__per_cpu_offset",
    "nr_cpu_ids",
    "modules",
    "super_blocks",
    "prb",
    "console_printk",
    "sysrq_enabled",
    "sysrq_always_enabled",
    "init_uts_ns",
    "runqueues",
];
const VARIABLE_BYTES: u64 = 0x200;

/// What lies where in RAM, from its start.
pub(super) struct Places {
    pub(super) names: Range<usize>,
    pub(super) types: Range<usize>,
    pub(super) notes: Range<usize>,
    pub(super) paging: Range<usize>,
    pub(super) orc: Range<usize>,
    pub(super) data: Range<usize>,
    pub(super) objects: Range<usize>,
    pub(super) stacks: Range<usize>,
    pub(super) log: Range<usize>,
    pub(super) note: Range<usize>,
}

/// The guest.
pub(super) struct Guest {
    /// Its RAM, from [`RAM`] on.
    pub(super) ram: Vec<u8>,
    /// Its two CPUs: one idles, one runs a module's function.
    pub(super) cpus: [X86_64; 2],
    pub(super) places: Places,
    order: Order,
    next_table: u64,
}

/// The address of a place in RAM as the kernel has it for what it allocated.
pub(super) fn pointer(place: u64) -> u64 {
    DIRECT + RAM + place
}

fn image(place: u64) -> u64 {
    START + place
}

fn variable(name: &str) -> u64 {
    let number = VARIABLES.iter().position(|known| *known == name);
    DATA + number.expect("a variable of the table") as u64 * VARIABLE_BYTES
}

/// Where a function is, and some way into it.
fn call(name: &str) -> u64 {
    let named = NAMED.iter().find(|(known, _)| known[1..] == *name);
    image(named.expect("a function of the table").1 * 16 + 5)
}

fn task(number: u64) -> u64 {
    TASKS + number * 0x200
}

fn stack(number: u64) -> u64 {
    STACKS + number * 2 * STACK_BYTES
}

impl Guest {
    /// As the hypervisor tells them.
    pub(super) fn registers(&self) -> [Registers; 2] {
        self.cpus.map(Registers::X86_64)
    }

    /// One whose kernel has its names in the order until 6.3, or in the one since 6.4.
    pub(super) fn new(modern: bool) -> Self {
        let order = if modern { Order::Since6_4 } else { Order::Until6_3(START) };
        let range = |from: u64, to: u64| from as usize..to as usize;
        let places = Places {
            names: range(NAMES, TYPES),
            types: range(TYPES, TYPES + tables::types().len() as u64),
            notes: range(NOTES, NOTES + 64),
            paging: range(IDT, ORC),
            orc: range(ORC, ORC + 0x200),
            data: range(DATA, DATA + VARIABLES.len() as u64 * VARIABLE_BYTES),
            objects: range(TASKS, MODULES + 0x800),
            stacks: range(STACK, STACK + 6 * STACK_BYTES),
            log: range(LOG, LOG + 0x1000),
            note: range(NOTE, NOTE + 0x100),
        };
        let mut guest = Self {
            ram: vec![0; RAM_BYTES],
            cpus: [X86_64::default(); 2],
            places,
            order,
            next_table: TABLES + 0x1000,
        };
        guest.put_tables();
        guest.put_paging();
        guest.put_orc();
        guest.put_variables();
        guest.put_tasks();
        guest.put_stacks();
        guest.put_disk();
        guest.put_module();
        guest.put_log();
        guest
    }

    fn put(&mut self, place: u64, bytes: &[u8]) {
        self.ram[place as usize..][..bytes.len()].copy_from_slice(bytes);
    }

    fn put_words(&mut self, place: u64, words: &[u64]) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.put(place, &bytes);
    }

    fn put_member(&mut self, at: u64, structure: &str, member: &str, word: u64) {
        self.put_words(at + offset(structure, member), &[word]);
    }

    fn put_members(&mut self, members: &[(u64, &str, &str, u64)]) {
        for (at, structure, member, word) in members {
            self.put_member(*at, structure, member, *word);
        }
    }

    /// A list, by the places of its links and how each is called by the others.
    fn put_list(&mut self, links: &[(u64, u64)]) {
        for (number, (place, _)) in links.iter().enumerate() {
            let next = links[(number + 1) % links.len()].1;
            let back = links[(number + links.len() - 1) % links.len()].1;
            self.put_words(*place, &[next, back]);
        }
    }

    // === what describes the kernel ===

    fn put_tables(&mut self) {
        let types = tables::types();
        let placed = [
            ("D_etext", TEXT_BYTES),
            ("D__start_BTF", TYPES),
            ("D__stop_BTF", TYPES + types.len() as u64),
            ("D__start_notes", NOTES),
            ("D__stop_notes", NOTES + 64),
            ("Dlinux_banner", BANNER),
            ("Dinit_top_pgt", TABLES),
            ("D__start_orc_unwind_ip", ORC),
            ("D__stop_orc_unwind_ip", ORC + 4 * ENTRIES.len() as u64),
            ("D__start_orc_unwind", ORC + 0x100),
            ("D_end", RAM_BYTES as u64),
        ];
        let variables: Vec<String> = VARIABLES.iter().map(|name| format!("D{name}")).collect();
        let boring = (0..FUNCTIONS).filter(|number| NAMED.iter().all(|(_, it)| it != number));
        let mut symbols: Vec<(&str, u64)> = boring.map(|number| ("", image(number * 16))).collect();
        symbols.extend(NAMED.map(|(name, number)| (name, image(number * 16))));
        symbols.extend(placed.map(|(name, place)| (name, image(place))));
        symbols.extend(variables.iter().map(|name| (&name[..], image(variable(&name[1..])))));
        symbols.sort_by_key(|(_, address)| *address);
        let names = tables::symbols(image(NAMES), self.order, &symbols);
        assert!(NAMES + names.len() as u64 <= TYPES, "{} bytes of names", names.len());
        self.put(NAMES, &names);
        self.put(TYPES, &types);
        let note = [4_u32, 20, 3].map(u32::to_le_bytes).concat();
        self.put(NOTES, &[&note[..], b"GNU\0", b"a linker's own digest"].concat()[..36]);
        self.put(BANNER, b"Linux version 6.1.0-fuzz");
        let text = format!(
            "OSRELEASE=6.1.0-fuzz\nSYMBOL(init_uts_ns)={:x}\nSYMBOL(_stext)={START:x}\n\
             SYMBOL(swapper_pg_dir)={:x}\nNUMBER(phys_base)={}\n",
            image(variable("init_uts_ns")),
            image(TABLES),
            RAM.wrapping_sub(START - 0xffff_ffff_8000_0000).cast_signed(),
        );
        assert!(text.len() < 0x100);
        self.put(NOTE, text.as_bytes());
    }

    fn put_paging(&mut self) {
        self.map(START, RAM, 2);
        self.map(DIRECT, 0, 3);
        self.map(DESCRIPTORS, RAM + IDT, 1);
        self.map(MODULE, RAM + MODULES + 0x1000, 1);
        for page in 0..6 * STACK_BYTES / 0x1000 {
            let at = stack(page / 4) + page % 4 * 0x1000;
            self.map(at, RAM + STACK + page * 0x1000, 1);
        }
        assert!(self.next_table <= ORC);
        let text = (call("asm_exc_page_fault") - 5).to_le_bytes();
        let pieces: [&[u8]; 4] = [&text[..2], &[0x10, 0, 0, 0x8e], &text[2..4], &text[4..]];
        self.put(IDT + 14 * 16, &pieces.concat());
    }

    /// Maps a page of 4 KiB (level 1), 2 MiB or 1 GiB.
    fn map(&mut self, at: u64, physical: u64, level: u64) {
        let mut table = TABLES;
        for upper in (level..=4).rev() {
            let slot = table + (at >> (12 + 9 * (upper - 1)) & 0x1ff) * 8;
            if upper == level {
                let huge = if level > 1 { 1 << 7 } else { 0 };
                self.put_words(slot, &[physical | huge | 1]);
                return;
            }
            let bytes = &self.ram[slot as usize..][..8];
            let entry = u64::from_le_bytes(bytes.try_into().expect("a word"));
            if entry == 0 {
                self.put_words(slot, &[(RAM + self.next_table) | 1]);
                table = self.next_table;
                self.next_table += 0x1000;
            } else {
                table = (entry & !0xfff) - RAM;
            }
        }
    }

    fn put_orc(&mut self) {
        for (number, (function, entry)) in (0..).zip(ENTRIES) {
            let place = ORC + number * 4;
            let at = if function.is_empty() { image(0) } else { call(function) - 5 };
            self.put(place, &(at.wrapping_sub(image(place)) as u32).to_le_bytes());
            self.put(ORC + 0x100 + number * 6, &entry.map(u16::to_le_bytes).concat());
        }
    }

    fn put_variables(&mut self) {
        self.put_words(variable("__cpu_online_mask"), &[3]);
        self.put_words(variable("__per_cpu_offset"), &[0, 0x100]);
        self.put_words(variable("nr_cpu_ids"), &[2]);
        self.put(variable("console_printk"), &[4, 0, 0, 0]);
        self.put(variable("sysrq_enabled"), &438_u32.to_le_bytes());
        self.put(
            variable("init_uts_ns") + offset("uts_namespace", "name.release"),
            b"6.1.0-fuzz\0",
        );
        for cpu in 0..2 {
            let queue = variable("runqueues") + cpu * 0x100;
            let current = if cpu == 0 { image(variable("init_task")) } else { pointer(task(4)) };
            let words = [
                ("nr_running", cpu),
                ("nr_switches", 1000 + cpu),
                ("curr", current),
                ("idle", image(variable("init_task"))),
                ("clock", 90_000_000_000 + cpu),
                ("clock_task", 80_000_000_000 + cpu),
            ];
            words.into_iter().for_each(|(member, word)| self.put_member(queue, "rq", member, word));
        }
    }

    // === tasks ===

    /// Task 0 is the kernel's first, 5 is a thread of 4.
    fn put_tasks(&mut self) {
        let first = variable("init_task");
        let link = |number: u64, member: &str| {
            let offset = offset("task_struct", member);
            match number {
                0 => (first + offset, image(first + offset)),
                _ => (task(number) + offset, pointer(task(number) + offset)),
            }
        };
        for number in 0..6 {
            let at = if number == 0 { first } else { task(number) };
            let leader = if number == 5 { 4 } else { number };
            let signal = SIGNALS + leader * 0x40;
            let words = [
                ("__state", [0, 2, 2, 2, 0, 0x402][number as usize]),
                ("stack", stack(number)),
                ("on_cpu", u64::from(number == 4)),
                ("cpu", number % 2),
                ("se.exec_start", 70_000_000_000),
                ("pid", number),
                ("tgid", leader),
                ("real_parent", image(first)),
                ("signal", pointer(signal)),
                ("nvcsw", 10 * number),
                ("thread.sp", stack(number) + STACK_BYTES - 0x200),
            ];
            words
                .into_iter()
                .for_each(|(member, word)| self.put_member(at, "task_struct", member, word));
            self.put(at + offset("task_struct", "comm"), format!("task-{number}").as_bytes());
            if number != 5 {
                let head = signal + offset("signal_struct", "thread_head");
                let mut threads = vec![(head, pointer(head)), link(number, "thread_node")];
                threads.extend((number == 4).then(|| link(5, "thread_node")));
                self.put_list(&threads);
            }
        }
        let links: Vec<(u64, u64)> = (0..5).map(|number| link(number, "tasks")).collect();
        self.put_list(&links);
    }

    /// 1 waits for a mutex that 2 has, 2 for a semaphore that 1 has, 3 for a file system that is frozen.
    fn put_stacks(&mut self) {
        let asleep = |function: &str| {
            [call("schedule"), call(function), call("do_syscall_64"), call("ret_from_fork")]
        };
        let locks = [
            (1, "mutex_waiter", "list", "task", LOCKS + offset("mutex", "wait_list")),
            (2, "rwsem_waiter", "list", "task", LOCKS + 0x40 + offset("rw_semaphore", "wait_list")),
            (
                3,
                "wait_queue_entry",
                "entry",
                "private",
                DISK + offset("super_block", "s_writers.rw_sem"),
            ),
        ];
        let functions =
            ["__mutex_lock.constprop.0", "rwsem_down_write_slowpath", "percpu_rwsem_wait"];
        for ((number, waiter, node, who, list), function) in locks.into_iter().zip(functions) {
            let top = STACK + number * STACK_BYTES + STACK_BYTES - 0x200;
            self.put_words(top + 8, &asleep(function));
            let at = 0x100 + top;
            self.put_member(at, waiter, who, pointer(task(number)));
            let virtual_at = stack(number) + STACK_BYTES - 0x100 + offset(waiter, node);
            self.put_list(&[(list, pointer(list)), (at + offset(waiter, node), virtual_at)]);
        }
        self.put_member(LOCKS, "mutex", "owner", pointer(task(2)) | 1);
        self.put_member(LOCKS + 0x40, "rw_semaphore", "owner", pointer(task(1)));
        let top = STACK + 5 * STACK_BYTES + STACK_BYTES - 0x200;
        self.put_words(top + 8, &[call("schedule"), call("ret_from_fork")]);
        // Behind the page fault that interrupted it, CPU 1 came from a process.
        let top = STACK + 4 * STACK_BYTES + STACK_BYTES - 0x200;
        self.put_words(top, &[call("asm_exc_page_fault")]);
        let before = [call("do_syscall_64"), 0x10, 0x202, stack(4) + STACK_BYTES - 0x100, 0];
        self.put_words(top + 8 + 16 * 8, &before);
        self.put_words(top + 0x100, &[call("ret_from_fork")]);
        self.put_words(STACK + STACK_BYTES - 0x200, &[call("ret_from_fork")]);
        let cpu = X86_64 { cr3: RAM + TABLES, idt: DESCRIPTORS, flags: 0x202, ..self.cpus[0] };
        let sp = stack(0) + STACK_BYTES - 0x200;
        self.cpus[0] = X86_64 { rip: call("default_idle"), rsp: sp, halted: true, ..cpu };
        let sp = stack(4) + STACK_BYTES - 0x200;
        self.cpus[1] = X86_64 { rip: MODULE + 0x18, rsp: sp, rbp: sp, ..cpu };
    }

    // === the disk, the module and the log ===

    fn put_disk(&mut self) {
        let [kind, word, device, disk, queue, set, all, tags, requests, request] =
            [0x100, 0x140, 0x180, 0x1c0, 0x200, 0x240, 0x280, 0x2c0, 0x300, 0x340]
                .map(|offset| DISK + offset);
        let head = variable("super_blocks");
        self.put_list(&[(head, image(head)), (DISK, pointer(DISK))]);
        self.put(DISK + offset("super_block", "s_id"), b"vda1");
        self.put(word, b"ext4");
        self.put(disk + offset("gendisk", "disk_name"), b"vda");
        let members = [
            (DISK, "super_block", "s_type", pointer(kind)),
            (DISK, "super_block", "s_bdev", pointer(device)),
            (DISK, "super_block", "s_writers.frozen", 4),
            (kind, "file_system_type", "name", pointer(word)),
            (device, "block_device", "bd_disk", pointer(disk)),
            (disk, "gendisk", "queue", pointer(queue)),
            (queue, "request_queue", "tag_set", pointer(set)),
            (set, "blk_mq_tag_set", "nr_hw_queues", 1),
            (set, "blk_mq_tag_set", "tags", pointer(all)),
            (tags, "blk_mq_tags", "nr_tags", 4),
            (tags, "blk_mq_tags", "rqs", pointer(requests)),
            (request, "request", "q", pointer(queue)),
            (request, "request", "cmd_flags", 1),
            (request, "request", "tag", 2),
            (request, "request", "__data_len", 4096),
            (request, "request", "__sector", 2048),
            (request, "request", "start_time_ns", 60_000_000_000),
            (request, "request", "state", 1),
        ];
        self.put_members(&members);
        self.put_words(all, &[pointer(tags)]);
        self.put_words(requests + 16, &[pointer(request)]);
    }

    fn put_module(&mut self) {
        let [names, table, strings, places, entries] =
            [0x200, 0x240, 0x300, 0x340, 0x380].map(|offset| MODULES + offset);
        let head = variable("modules");
        self.put_list(&[(head, image(head)), (MODULES, pointer(MODULES))]);
        self.put(MODULES + offset("module", "name"), b"fault");
        let parts = offset("module", "mem");
        self.put_words(MODULES + parts, &[MODULE, 0x1000]);
        let members = [
            (MODULES, "module", "arch.num_orcs", 1),
            (MODULES, "module", "arch.orc_unwind_ip", pointer(places)),
            (MODULES, "module", "arch.orc_unwind", pointer(entries)),
            (MODULES, "module", "kallsyms", pointer(names)),
            (names, "mod_kallsyms", "symtab", pointer(table)),
            (names, "mod_kallsyms", "num_symtab", 3),
            (names, "mod_kallsyms", "strtab", pointer(strings)),
        ];
        self.put_members(&members);
        // Name, section, value: nothing, then two functions.
        self.put_words(table, &[0, 0, 0, 1 | 1 << 48, MODULE, 16, 6 | 1 << 48, MODULE + 16, 64]);
        self.put(strings, b"\0init\0fault_spin\0");
        self.put(places, &[0; 4]);
        self.put(entries, &ENTRIES[1].1.map(u16::to_le_bytes).concat());
    }

    fn put_log(&mut self) {
        let (descriptors, infos, data) = (LOG + 0x100, LOG + 0x500, LOG + 0xa00);
        self.put_words(variable("prb"), &[pointer(LOG)]);
        let lines = ["Linux version 6.1.0-fuzz", "sd 0:0:0:0: timing out", "two\nlines", "last"];
        let (first, mut begin) = (1020, 1000_u64);
        let words = [
            ("desc_ring.count_bits", 5),
            ("desc_ring.descs", pointer(descriptors)),
            ("desc_ring.infos", pointer(infos)),
            ("desc_ring.head_id", first + lines.len() as u64 - 1),
            ("desc_ring.tail_id", first),
            ("text_data_ring.size_bits", 10),
            ("text_data_ring.data", pointer(data)),
        ];
        words
            .into_iter()
            .for_each(|(member, word)| self.put_member(LOG, "printk_ringbuffer", member, word));
        for (id, line) in (first..).zip(lines) {
            let bytes = (8 + line.len() as u64).next_multiple_of(8);
            let from = if begin % 1024 + bytes > 1024 { (begin / 1024 + 1) * 1024 } else { begin };
            self.put_words(data + from % 1024, &[id]);
            self.put(data + from % 1024 + 8, line.as_bytes());
            let descriptor = descriptors + id % 32 * size("prb_desc");
            let info = infos + id % 32 * size("printk_info");
            let members = [
                (descriptor, "prb_desc", "state_var", id | 2 << 62),
                (descriptor, "prb_desc", "text_blk_lpos.begin", begin),
                (descriptor, "prb_desc", "text_blk_lpos.next", from + bytes),
                (info, "printk_info", "seq", id - first),
                (info, "printk_info", "ts_nsec", id * 1_000_000),
                (info, "printk_info", "text_len", line.len() as u64),
                (info, "printk_info", "level", 6),
            ];
            self.put_members(&members);
            begin = from + bytes;
        }
    }
}

/// How to get from each function to its caller: offsets of the stack and the frame pointer, then
/// registers, shape and whether it is exact, in the form since 6.4.
const ENTRIES: [(&str, [u16; 3]); 6] = [
    ("", [8, 0, CALL]),
    ("__switch_to_asm", [8, 0, CALL]),
    ("schedule", [8, 0, CALL]),
    ("asm_exc_page_fault", [0, 0, 5 | 3 << 8 | 1 << 11]),
    ("ret_from_fork", [0, 0, 1 << 8]),
    ("default_idle", [8, 0, CALL]),
];
const CALL: u16 = 5 | 2 << 8;
