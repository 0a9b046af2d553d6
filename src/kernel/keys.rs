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

/// A word of the kernel's own, and where it is in RAM.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Knob {
    /// Its physical address.
    pub at: u64,
    /// What it is.
    pub value: u32,
}

/// The words that SysRq and the console heed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Knobs {
    /// What SysRq may do: see [`crate::evidence::memory::Memory::sysrq_mask`].
    pub mask: Knob,
    /// How much the console shows.
    pub level: Knob,
}

impl Knobs {
    /// Finds them; nothing where the kernel does not name them, or they are not what they should be.
    #[must_use]
    pub fn find(kernel: &Kernel<'_>) -> Option<Self> {
        let image = kernel.space.image();
        let knob = |name| {
            let at = kernel.symbols.maybe(name)?;
            let is_word = image.at.contains(&at) && at % 4 == 0;
            let value = kernel.space.u32(at).ok()?;
            is_word.then_some(Knob { at: at.wrapping_add(image.to_physical), value })
        };
        let (mask, level) = (knob("sysrq_enabled")?, knob("console_printk")?);
        (level.value < LEVELS).then_some(Self { mask, level })
    }
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
