//! The tables by which a kernel describes itself, written by the book: BTF and kallsyms.

/// Structures that are read and their members with their bytes, each at the next multiple of 8.
const STRUCTURES: &[(&str, &[(&str, u32)])] = &[
    (
        "task_struct",
        &[
            ("__state", 4),
            ("stack", 8),
            ("flags", 4),
            ("on_cpu", 4),
            ("cpu", 4),
            ("se.exec_start", 8),
            ("tasks", 16),
            ("exit_state", 4),
            ("pid", 4),
            ("tgid", 4),
            ("real_parent", 8),
            ("thread_node", 16),
            ("nvcsw", 8),
            ("nivcsw", 8),
            ("comm", 16),
            ("signal", 8),
            ("thread.sp", 8),
        ],
    ),
    ("signal_struct", &[("thread_head", 16)]),
    ("inactive_task_frame", &[("bp", 8), ("ret_addr", 8)]),
    (
        "rq",
        &[
            ("nr_running", 4),
            ("nr_switches", 8),
            ("curr", 8),
            ("idle", 8),
            ("clock", 8),
            ("clock_task", 8),
        ],
    ),
    (
        "module",
        &[
            ("list", 16),
            ("name", 56),
            ("mem", 32),
            ("arch.num_orcs", 4),
            ("arch.orc_unwind_ip", 8),
            ("arch.orc_unwind", 8),
            ("kallsyms", 8),
        ],
    ),
    ("module_memory", &[("base", 8), ("size", 4)]),
    ("mod_kallsyms", &[("symtab", 8), ("num_symtab", 4), ("strtab", 8)]),
    (
        "printk_ringbuffer",
        &[
            ("desc_ring.count_bits", 4),
            ("desc_ring.descs", 8),
            ("desc_ring.infos", 8),
            ("desc_ring.head_id", 8),
            ("desc_ring.tail_id", 8),
            ("text_data_ring.size_bits", 4),
            ("text_data_ring.data", 8),
        ],
    ),
    ("prb_desc", &[("state_var", 8), ("text_blk_lpos.begin", 8), ("text_blk_lpos.next", 8)]),
    ("printk_info", &[("seq", 8), ("ts_nsec", 8), ("text_len", 2), ("level", 1)]),
    ("mutex", &[("owner", 8), ("wait_list", 16)]),
    ("mutex_waiter", &[("list", 16), ("task", 8)]),
    ("rw_semaphore", &[("count", 8), ("owner", 8), ("wait_list", 16)]),
    ("rwsem_waiter", &[("list", 16), ("task", 8)]),
    ("wait_queue_entry", &[("flags", 4), ("private", 8), ("entry", 16)]),
    ("percpu_rw_semaphore", &[("waiters.head", 16)]),
    (
        "super_block",
        &[
            ("s_list", 16),
            ("s_type", 8),
            ("s_flags", 8),
            ("s_bdev", 8),
            ("s_writers.frozen", 4),
            ("s_writers.rw_sem", 16),
            ("s_id", 32),
        ],
    ),
    ("file_system_type", &[("name", 8)]),
    ("block_device", &[("bd_disk", 8)]),
    ("gendisk", &[("disk_name", 32), ("queue", 8)]),
    ("request_queue", &[("tag_set", 8)]),
    ("blk_mq_tag_set", &[("nr_hw_queues", 4), ("tags", 8)]),
    ("blk_mq_tags", &[("nr_tags", 4), ("rqs", 8)]),
    (
        "request",
        &[
            ("q", 8),
            ("cmd_flags", 4),
            ("tag", 4),
            ("__data_len", 4),
            ("__sector", 8),
            ("start_time_ns", 8),
            ("state", 4),
        ],
    ),
    ("uts_namespace", &[("name.sysname", 64), ("name.release", 64)]),
];

/// Where a member is in its structure.
pub(super) fn offset(structure: &str, member: &str) -> u64 {
    let members = members(structure);
    let before = members.iter().take_while(|(name, _)| *name != member);
    let offset = before.map(|(_, bytes)| u64::from(bytes.next_multiple_of(8))).sum();
    assert!(offset < size(structure), "{structure} has no {member}");
    offset
}

/// How many bytes a structure takes.
pub(super) fn size(structure: &str) -> u64 {
    members(structure).iter().map(|(_, bytes)| u64::from(bytes.next_multiple_of(8))).sum()
}

fn members(structure: &str) -> &'static [(&'static str, u32)] {
    let known = STRUCTURES.iter().find(|(name, _)| *name == structure);
    known.expect("a structure of the table").1
}

// === BTF ===

const CHAR: u32 = 1;
const STRUCTURE: u32 = 4 << 24;
const BIT_FIELDS: u32 = 1 << 31;

#[derive(Default)]
struct Types {
    types: Vec<u8>,
    strings: Vec<u8>,
    count: u32,
}

/// The description of all structures.
pub(super) fn types() -> Vec<u8> {
    let mut types = Types { strings: vec![0], ..Types::default() };
    types.add("char", 1 << 24, 1, &[8]);
    for (name, members) in STRUCTURES {
        types.structure(name, members);
    }
    let fields =
        [("sp_offset", 0, 16), ("bp_offset", 16, 16), ("sp_reg", 32, 4), ("bp_reg", 36, 4)];
    let fields = fields.into_iter().chain([("type", 40, 3), ("signal", 43, 1)]);
    let members: Vec<(&str, u32, u32)> =
        fields.map(|(name, bit, width)| (name, CHAR, bit | width << 24)).collect();
    types.compound("orc_entry", 6, BIT_FIELDS, &members);
    types.done()
}

impl Types {
    fn add(&mut self, name: &str, info: u32, size: u32, rest: &[u32]) -> u32 {
        let name = self.word(name);
        for word in [name, info, size].iter().chain(rest) {
            self.types.extend(word.to_le_bytes());
        }
        self.count += 1;
        self.count
    }

    /// Members whose paths begin alike are of one structure without a name.
    fn structure(&mut self, name: &str, mut members: &[(&str, u32)]) -> u32 {
        let mut laid_out = Vec::new();
        let mut end = 0;
        while let Some((path, bytes)) = members.first() {
            let (first, nested) = path.split_once('.').map_or((*path, false), |it| (it.0, true));
            let inner: Vec<(&str, u32)> = members
                .iter()
                .map_while(|(path, bytes)| {
                    Some((path.strip_prefix(first)?.strip_prefix('.')?, *bytes))
                })
                .collect();
            let (kind, bytes, taken) = if nested {
                let bytes = inner.iter().map(|(_, bytes)| bytes.next_multiple_of(8)).sum();
                (self.structure("", &inner), bytes, inner.len())
            } else {
                (self.add("", 3 << 24, 0, &[CHAR, CHAR, *bytes]), *bytes, 1)
            };
            laid_out.push((first, kind, end * 8));
            end += bytes.next_multiple_of(8);
            members = &members[taken..];
        }
        self.compound(name, end, 0, &laid_out)
    }

    fn compound(
        &mut self,
        name: &str,
        bytes: u32,
        flags: u32,
        members: &[(&str, u32, u32)],
    ) -> u32 {
        let rest: Vec<u32> =
            members.iter().flat_map(|(name, kind, bit)| [self.word(name), *kind, *bit]).collect();
        let count = u32::try_from(members.len()).expect("a few");
        self.add(name, flags | STRUCTURE | count, bytes, &rest)
    }

    /// The place of a word, which may have been written before.
    fn word(&mut self, word: &str) -> u32 {
        if word.is_empty() {
            return 0;
        }
        let whole = [b"\0", word.as_bytes(), b"\0"].concat();
        let known = self.strings.windows(whole.len()).position(|window| window == whole);
        let place = known.map_or_else(
            || {
                self.strings.extend([word.as_bytes(), b"\0"].concat());
                self.strings.len() - word.len() - 1
            },
            |place| place + 1,
        );
        u32::try_from(place).expect("a few words")
    }

    fn done(self) -> Vec<u8> {
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("a few KiB");
        let types = length(&self.types);
        let head = [0x0001_eb9f, 24, 0, types, types, length(&self.strings)];
        let head = head.iter().flat_map(|word: &u32| word.to_le_bytes());
        head.chain(self.types).chain(self.strings).collect()
    }
}

// === kallsyms ===

/// In which order the parts are, and how addresses are counted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Order {
    /// Offsets come first, and count down from here.
    Until6_3(u64),
    /// Offsets come last, and count from where they are.
    Since6_4,
}

/// The token that stands for the names of all functions that nobody asks for.
const BORING: u8 = 0x80;

/// The table as it lies from `at` on, of symbols in the order of their addresses. The first letter of
/// a name is its type; an empty name is a boring one.
pub(super) fn symbols(at: u64, order: Order, symbols: &[(&str, u64)]) -> Vec<u8> {
    let mut table = Vec::new();
    if let Order::Until6_3(base) = order {
        let offsets = symbols.iter().map(|(_, address)| (base - 1).wrapping_sub(*address) as u32);
        put(&mut table, offsets.flat_map(u32::to_le_bytes).collect());
        put(&mut table, base.to_le_bytes().to_vec());
    }
    put(&mut table, (symbols.len() as u32).to_le_bytes().to_vec());
    let mut names = Vec::new();
    for (name, _) in symbols {
        let name = if name.is_empty() { &[BORING][..] } else { name.as_bytes() };
        names.push(u8::try_from(name.len()).expect("a short name"));
        names.extend(name);
    }
    put(&mut table, names);
    put(&mut table, vec![0xff; 40]);
    let (mut tokens, mut index) = (Vec::new(), Vec::new());
    for token in 0..=255_u8 {
        index.extend((tokens.len() as u16).to_le_bytes());
        match token.is_ascii_graphic() {
            true => tokens.push(token),
            false => tokens.extend(b"tsome_function"),
        }
        tokens.push(0);
    }
    put(&mut table, tokens);
    put(&mut table, index);
    if order == Order::Since6_4 {
        let places = (at + table.len() as u64..).step_by(4);
        let offsets =
            places.zip(symbols).map(|(place, (_, address))| address.wrapping_sub(place) as u32);
        put(&mut table, offsets.flat_map(u32::to_le_bytes).collect());
    }
    table
}

fn put(table: &mut Vec<u8>, bytes: Vec<u8>) {
    table.extend(bytes);
    table.resize(table.len().next_multiple_of(8), 0);
}
