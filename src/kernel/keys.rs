//! What the kernel lets SysRq do, and how much its console shows.

use super::Kernel;

/// Every level is less.
const LEVELS: u32 = 16;

/// As it is set; nothing where the kernel does not name where.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Keys {
    /// 0 is nothing, 1 everything, all else a mask.
    pub(super) mask: Option<u32>,
    /// What is less urgent stays off the console.
    pub(super) console_level: Option<u8>,
}

impl Keys {
    /// Reads what can be read.
    pub(super) fn read(kernel: &Kernel<'_>) -> Self {
        let word = |name| kernel.space.u32(kernel.symbols.maybe(name)?).ok();
        // A command line may switch it on for good, whatever is set later.
        let always = word("sysrq_always_enabled").is_some_and(|word| word & 0xff != 0);
        let level = word("console_printk").filter(|level| *level < LEVELS);
        Self {
            mask: if always { Some(1) } else { word("sysrq_enabled") },
            console_level: level.and_then(|level| u8::try_from(level).ok()),
        }
    }
}
