//! The structures that are read, and which of their members.
//!
//! Each becomes a type with a [`Field`] a member, so that a member that nobody looked up cannot be read.
//! What later kernels call otherwise has several names; what only some kernels have is `maybe`.

use super::{STRUCTURE_BYTES, Types, TypesError};
use crate::kernel::memory::Fault;
use crate::kernel::space::Space;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// A module's name has the longest array, of 56 bytes. Arrays are as long as the kernel says.
const NAME_BYTES: usize = 64;

/// Where a member is.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(in crate::kernel) struct Field {
    pub(in crate::kernel) offset: u32,
    pub(in crate::kernel) bytes: u32,
    /// Of a bit field: its first bit and how many it has, from `offset` on.
    pub(in crate::kernel) bits: Option<(u32, u32)>,
}

/// A structure as it was read.
pub(in crate::kernel) struct View<'b> {
    bytes: Cow<'b, [u8]>,
}

/// What can be read as one.
pub(in crate::kernel) trait Layout {
    /// How much of it is read: up to the last member that is wanted.
    fn span(&self) -> usize;

    /// Reads one.
    fn read(&self, space: &Space<'_>, at: u64) -> Result<View<'static>, Fault> {
        Ok(View { bytes: Cow::Owned(space.bytes(at, self.span())?) })
    }
}

macro_rules! layouts {
    ($(
        $(#[$doc:meta])*
        $name:ident = $structure:literal {
            $($field:ident: $($path:literal)|+),* $(,)?
            $(; maybe $($other:ident: $($other_path:literal)|+),* $(,)?)?
        }
    )*) => {
        /// Every word that has to be looked up.
        pub(in crate::kernel) fn words() -> Vec<&'static str> {
            let paths: &[&str] = &[
                $($structure, $($($path,)+)* $($($($other_path,)+)*)?)*
            ];
            paths.iter().flat_map(|path| path.split('.')).collect()
        }

        /// Every structure and its members.
        #[cfg(test)]
        pub(in crate::kernel) fn structures() -> Vec<(&'static str, Vec<&'static str>)> {
            vec![$(($structure, vec![$([$($path),+][0],)* $($([$($other_path),+][0],)*)?]),)*]
        }

        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug)]
            pub(in crate::kernel) struct $name {
                span: usize,
                $(pub(in crate::kernel) $field: Field,)*
                $($(pub(in crate::kernel) $other: Option<Field>,)*)?
            }

            impl $name {
                pub(in crate::kernel) fn of(types: &Types, space: &Space<'_>) -> Result<Self, TypesError> {
                    $(let $field = must(types, space, $structure, &[$($path),+])?;)*
                    $($(let $other = maybe(types, space, $structure, &[$($other_path),+])?;)*)?
                    let ends = [$(Some($field),)* $($($other,)*)?].into_iter().flatten();
                    let span = ends.map(Field::end).max().unwrap_or_default();
                    Ok(Self { span, $($field,)* $($($other,)*)? })
                }
            }

            impl Layout for $name {
                fn span(&self) -> usize {
                    self.span
                }
            }
        )*
    };
}

layouts! {
    /// A task.
    Task = "task_struct" {
        tasks: "tasks",
        thread_node: "thread_node",
        pid: "pid",
        tgid: "tgid",
        comm: "comm",
        state: "__state" | "state",
        exit_state: "exit_state",
        flags: "flags",
        stack: "stack",
        sp: "thread.sp" | "thread.cpu_context.sp",
        on_cpu: "on_cpu",
        parent: "real_parent",
        signal: "signal",
        switches: "nvcsw",
        forced_switches: "nivcsw",
        exec_start: "se.exec_start",
        ; maybe
        cpu: "thread_info.cpu" | "cpu",
    }
    /// What the threads of a process share.
    Signal = "signal_struct" {
        thread_head: "thread_head",
    }
    /// What is on top of a stack whose task does not run.
    InactiveFrame = "inactive_task_frame" {
        bp: "bp",
        ret_addr: "ret_addr",
    }
    /// What is kept of an arm64 CPU whose task does not run.
    CpuContext = "cpu_context" {
        fp: "fp",
        sp: "sp",
        pc: "pc",
    }
    /// What an arm64 kernel stores where it is entered.
    Exception = "pt_regs" {
        registers: "regs",
        pc: "pc",
        pstate: "pstate",
        frame: "stackframe",
    }
    /// What kernels from 6.13 on say of an empty record of theirs.
    FrameMark = "frame_record_meta" {
        ; maybe
        kind: "type",
    }
    /// A CPU's queue of tasks.
    RunQueue = "rq" {
        clock: "clock",
        clock_task: "clock_task",
        switches: "nr_switches",
        running: "nr_running",
        curr: "curr",
        idle: "idle",
    }
    /// A CPU's timers.
    Timers = "hrtimer_cpu_base" {
        ; maybe
        events: "nr_events",
    }
    /// A module.
    Module = "module" {
        list: "list",
        name: "name",
        kallsyms: "kallsyms",
        ; maybe
        core_base: "core_layout.base",
        core_size: "core_layout.size",
        parts: "mem",
        orc_count: "arch.num_orcs",
        orc_ip: "arch.orc_unwind_ip",
        orc: "arch.orc_unwind",
    }
    /// One of the pieces of memory that a module has since 6.4.
    ModuleMemory = "module_memory" {
        ; maybe
        base: "base",
        size: "size",
    }
    /// The names of a module.
    ModuleNames = "mod_kallsyms" {
        symbols: "symtab",
        count: "num_symtab",
        strings: "strtab",
    }
    /// How to unwind from a place.
    OrcEntry = "orc_entry" {
        ; maybe
        sp_offset: "sp_offset",
        bp_offset: "bp_offset",
        sp_reg: "sp_reg",
        bp_reg: "bp_reg",
        kind: "type",
        signal: "signal",
        end: "end",
    }
    /// The ring of the kernel's log.
    Ring = "printk_ringbuffer" {
        count_bits: "desc_ring.count_bits",
        descriptors: "desc_ring.descs",
        infos: "desc_ring.infos",
        head: "desc_ring.head_id",
        tail: "desc_ring.tail_id",
        size_bits: "text_data_ring.size_bits",
        data: "text_data_ring.data",
    }
    /// One record of it.
    Descriptor = "prb_desc" {
        state: "state_var",
        begin: "text_blk_lpos.begin",
        next: "text_blk_lpos.next",
    }
    /// What is known of a record.
    RecordInfo = "printk_info" {
        seq: "seq",
        ns: "ts_nsec",
        length: "text_len",
        level: "level",
    }
    /// A mutex.
    Mutex = "mutex" {
        owner: "owner",
        ; maybe
        waiters: "wait_list",
        first: "first_waiter",
    }
    /// Who waits for one.
    MutexWaiter = "mutex_waiter" {
        list: "list",
        task: "task",
    }
    /// A semaphore for readers and writers.
    Rwsem = "rw_semaphore" {
        owner: "owner",
        ; maybe
        waiters: "wait_list",
        first: "first_waiter",
    }
    /// Who waits for one.
    RwsemWaiter = "rwsem_waiter" {
        list: "list",
        task: "task",
    }
    /// Who waits for anything else.
    WaitEntry = "wait_queue_entry" {
        private: "private",
        list: "entry",
    }
    /// A semaphore whose readers are counted by each CPU for itself.
    PercpuRwsem = "percpu_rw_semaphore" {
        waiters: "waiters.head",
    }
    /// A mounted file system.
    SuperBlock = "super_block" {
        list: "s_list",
        name: "s_id",
        kind: "s_type",
        flags: "s_flags",
        frozen: "s_writers.frozen",
        device: "s_bdev",
    }
    /// A kind of file system.
    FileSystem = "file_system_type" {
        name: "name",
    }
    /// A disk, or a part of one.
    BlockDevice = "block_device" {
        disk: "bd_disk",
    }
    /// A disk.
    Disk = "gendisk" {
        name: "disk_name",
        queue: "queue",
    }
    /// What a disk is asked by.
    RequestQueue = "request_queue" {
        set: "tag_set",
    }
    /// The tags of all queues of a disk's hardware.
    TagSet = "blk_mq_tag_set" {
        tags: "tags",
        queues: "nr_hw_queues",
    }
    /// The tags of one of them.
    Tags = "blk_mq_tags" {
        count: "nr_tags",
        requests: "rqs",
    }
    /// What a disk is asked for.
    Request = "request" {
        queue: "q",
        tag: "tag",
        state: "state",
        started: "start_time_ns",
        sector: "__sector",
        bytes: "__data_len",
        flags: "cmd_flags",
    }
    /// How the kernel calls itself.
    Uts = "uts_namespace" {
        release: "name.release",
    }
}

impl Field {
    /// Whether a description could have told it so.
    pub(super) fn is_sane(self) -> bool {
        let is_within = u64::from(self.offset) + u64::from(self.bytes) <= STRUCTURE_BYTES;
        is_within && self.bits.is_none_or(|(first, _)| first < 8)
    }

    fn end(self) -> usize {
        (self.offset + self.bytes) as usize
    }
}

impl<'b> View<'b> {
    /// One that was read with others.
    pub(in crate::kernel) fn of(bytes: &'b [u8]) -> Self {
        Self { bytes: Cow::Borrowed(bytes) }
    }

    /// A member of up to 8 bytes; nothing of it is read from outside of the structure.
    pub(in crate::kernel) fn word(&self, field: Field) -> u64 {
        let from = self.bytes.get(field.offset as usize..).unwrap_or_default();
        let mut word = [0; 8];
        for (to, byte) in word.iter_mut().zip(from) {
            *to = *byte;
        }
        let word = u64::from_le_bytes(word);
        match field.bits {
            Some((first, count)) => word >> first & mask(count),
            None => word & mask(field.bytes.saturating_mul(8)),
        }
    }

    pub(in crate::kernel) fn u32(&self, field: Field) -> u32 {
        (self.word(field) & u64::from(u32::MAX)) as u32
    }

    /// A name: a string of C in an array, cut where it is longer than any.
    pub(in crate::kernel) fn text(&self, field: Field) -> &[u8] {
        let range = field.offset as usize..(field.offset + field.bytes) as usize;
        let bytes = self.bytes.get(range).unwrap_or_default();
        let bytes = &bytes[..bytes.len().min(NAME_BYTES)];
        bytes.split(|byte| *byte == 0).next().unwrap_or_default()
    }
}

fn mask(bits: u32) -> u64 {
    1_u64.checked_shl(bits).map_or(u64::MAX, |bit| bit - 1)
}

fn must(
    types: &Types,
    space: &Space<'_>,
    structure: &'static str,
    paths: &[&'static str],
) -> Result<Field, TypesError> {
    let first = paths.first().copied().unwrap_or(structure);
    maybe(types, space, structure, paths)?.ok_or(TypesError::Missing(first))
}

fn maybe(
    types: &Types,
    space: &Space<'_>,
    structure: &'static str,
    paths: &[&'static str],
) -> Result<Option<Field>, TypesError> {
    for path in paths {
        if let Some(field) = types.member(space, structure, path)? {
            return Ok(Some(field));
        }
    }
    Ok(None)
}
