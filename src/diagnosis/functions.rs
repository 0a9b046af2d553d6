//! What the kernel's own functions mean in a stack: who waits for what, and which frames say
//! nothing about the cause.

use crate::evidence::trace::Frame;

/// What a task or a CPU waits for, as far as its stack tells.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Wait {
    /// A mutex.
    Mutex,
    /// A semaphore for readers and writers.
    Rwsem,
    /// Somebody to say that something is done.
    Completion,
    /// A disk.
    Io,
    /// A file system to be thawed.
    Thaw,
    /// Time to pass: it comes back by itself.
    Time,
    /// Something else.
    Other,
}

impl Wait {
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Mutex => "a mutex",
            Self::Rwsem => "a read-write semaphore",
            Self::Completion => "a completion",
            Self::Io => "I/O",
            Self::Thaw => "a frozen file system",
            Self::Time => "time to pass",
            Self::Other => "something",
        }
    }

    pub(super) fn plural(self) -> &'static str {
        match self {
            Self::Mutex => "mutexes",
            Self::Rwsem => "read-write semaphores",
            Self::Completion => "completions",
            Self::Io | Self::Thaw | Self::Time | Self::Other => self.words(),
        }
    }

    /// Whether somebody holds what is waited for.
    pub(super) fn is_lock(self) -> bool {
        matches!(self, Self::Mutex | Self::Rwsem)
    }
}

/// What is waited for at the top of a stack, and the callers from the one that chose to wait on.
pub(super) fn waiting<'a>(calls: &[&'a Frame]) -> (Wait, Vec<&'a Frame>) {
    let depth = calls.iter().take_while(|frame| wait(frame.name()).is_some()).count();
    let (skipped, callers) = calls.split_at(depth);
    let kinds = skipped.iter().filter_map(|frame| wait(frame.name()));
    let wait = kinds.min().unwrap_or(Wait::Other);
    let is_percpu = skipped.iter().any(|frame| frame.name().contains("percpu_"));
    let writes = callers.first().is_some_and(|frame| starts_write(frame.name()));
    (if is_percpu && writes { Wait::Thaw } else { wait }, callers.to_vec())
}

/// Where a file system is entered to be written, which a frozen one holds up.
fn starts_write(name: &str) -> bool {
    const BEGINS: [&str; 6] =
        ["mnt_want_write", "vfs_", "__sb_start_write", "sb_start_", "do_writev", "do_iter_"];
    BEGINS.iter().any(|begin| name.starts_with(begin))
}

fn wait(name: &str) -> Option<Wait> {
    const BEGINS: [(&str, Wait); 49] = [
        ("__mutex_lock", Wait::Mutex),
        ("mutex_lock", Wait::Mutex),
        ("__ww_mutex_lock", Wait::Mutex),
        ("ww_mutex_lock", Wait::Mutex),
        ("rt_mutex_", Wait::Mutex),
        ("__rt_mutex_", Wait::Mutex),
        ("rwsem_down_", Wait::Rwsem),
        ("down_read", Wait::Rwsem),
        ("down_write", Wait::Rwsem),
        ("__down_read", Wait::Rwsem),
        ("__down_write", Wait::Rwsem),
        ("percpu_rwsem_wait", Wait::Rwsem),
        ("percpu_down_write", Wait::Rwsem),
        ("__percpu_down_read", Wait::Rwsem),
        ("rwbase_", Wait::Rwsem),
        ("wait_for_completion", Wait::Completion),
        ("__wait_for_common", Wait::Completion),
        ("__wait_for_completion", Wait::Completion),
        ("wait_for_common", Wait::Completion),
        ("kthread_stop", Wait::Completion),
        ("__flush_work", Wait::Completion),
        ("flush_work", Wait::Completion),
        ("flush_delayed_work", Wait::Completion),
        ("drain_workqueue", Wait::Completion),
        ("__cancel_work", Wait::Completion),
        ("cancel_work_sync", Wait::Completion),
        ("__cancel_delayed_work", Wait::Completion),
        ("cancel_delayed_work", Wait::Completion),
        ("io_schedule", Wait::Io),
        ("bit_wait_io", Wait::Io),
        ("wait_on_page_bit", Wait::Io),
        ("folio_wait_", Wait::Io),
        ("__wait_on_buffer", Wait::Io),
        ("blk_mq_get_tag", Wait::Io),
        ("rq_qos_wait", Wait::Io),
        ("jbd2_log_wait_commit", Wait::Io),
        ("msleep", Wait::Time),
        ("usleep_range", Wait::Time),
        ("schedule_timeout_uninterruptible", Wait::Time),
        ("context_switch", Wait::Other),
        ("__schedule", Wait::Other),
        ("__switch_to", Wait::Other),
        ("schedule", Wait::Other),
        ("preempt_schedule", Wait::Other),
        ("bit_wait", Wait::Other),
        ("__wait_on_bit", Wait::Other),
        ("out_of_line_wait_on_bit", Wait::Other),
        ("__down", Wait::Other),
        ("__cond_resched", Wait::Other),
    ];
    BEGINS.iter().find(|(begin, _)| name.starts_with(begin)).map(|(_, wait)| *wait)
}

/// Whether a CPU in this function waits for a spin lock.
pub(super) fn is_spin_lock(name: &str) -> bool {
    const BEGINS: [&str; 10] = [
        "native_queued_spin_lock_slowpath",
        "queued_spin_lock_slowpath",
        "__pv_queued_spin_lock_slowpath",
        "pv_queued_spin_lock",
        "queued_read_lock_slowpath",
        "queued_write_lock_slowpath",
        "_raw_spin_",
        "_raw_read_lock",
        "_raw_write_lock",
        "do_raw_spin_",
    ];
    BEGINS.iter().any(|begin| name.starts_with(begin))
}

/// Whether a CPU in this function waits for another CPU, and so is rather a victim.
pub(super) fn waits_for_cpu(name: &str) -> bool {
    ["smp_call_function", "csd_lock_wait", "multi_cpu_stop", "stop_machine", "native_flush_tlb"]
        .iter()
        .any(|begin| name.starts_with(begin))
}

/// Whether the function only passes the time for its caller.
pub(super) fn is_delay(name: &str) -> bool {
    ["delay_", "__delay", "__const_udelay", "__udelay", "cpu_relax", "native_pause", "rep_nop"]
        .iter()
        .any(|begin| name.starts_with(begin))
}

/// Whether a CPU below this function writes to a terminal or to the console, which takes as long as
/// the other end lets it.
pub(super) fn is_printing(name: &str) -> bool {
    const NAMES: [&str; 5] =
        ["n_tty_write", "console_unlock", "console_flush_all", "vprintk_emit", "__hvc_poll"];
    NAMES.contains(&name)
}

/// Whether the function belongs to how a panic or an oops is reported, not to what caused it.
pub(super) fn is_reporting(name: &str) -> bool {
    const BEGINS: [&str; 26] = [
        "dump_stack",
        "__dump_stack",
        "show_stack",
        "sched_show_task",
        "dump_cpu_task",
        "panic",
        "vpanic",
        "nmi_",
        "__warn",
        "report_bug",
        "oops_end",
        "__die",
        "die",
        "page_fault_oops",
        "exc_",
        "asm_exc_",
        "do_trap",
        "do_error_trap",
        "check_panic_on_warn",
        "fortify_panic",
        "__fortify_panic",
        "skb_panic",
        "skb_over_panic",
        "skb_under_panic",
        "__stack_chk_fail",
        "usercopy_abort",
    ];
    BEGINS.iter().any(|begin| name.starts_with(begin))
}

/// Whether the function works on what its caller gave it, so that a fault in it is the caller's.
pub(super) fn is_helper(name: &str) -> bool {
    const BEGINS: [&str; 18] = [
        "memcpy",
        "memset",
        "memmove",
        "memcmp",
        "__memcpy",
        "__memset",
        "strlen",
        "strcmp",
        "strcpy",
        "strncpy",
        "rb_",
        "__rb_",
        "__list_",
        "klist_",
        "_copy_",
        "copy_user",
        "__sanitizer_",
        "__asan_",
    ];
    BEGINS.iter().any(|begin| name.starts_with(begin))
}

/// Whether the function is how any task enters the kernel: the same under every cause.
pub(super) fn is_entry(name: &str) -> bool {
    const BEGINS: [&str; 10] = [
        "kthread",
        "ret_from_fork",
        "do_syscall_",
        "entry_SYSCALL",
        "x64_sys_call",
        "asm_",
        "entry_",
        "common_startup",
        "secondary_startup",
        "__do_fast_syscall",
    ];
    BEGINS.iter().any(|begin| name.starts_with(begin))
}
