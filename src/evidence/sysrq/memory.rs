//! Memory in `memory-usage`.

use crate::evidence::line::lines;
use crate::evidence::who::number;

/// Pages of x86-64 guests, and of the arm64 ones that distributions build.
const PAGE_KB: u64 = 4;

/// How much memory there is and what holds it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Memory {
    /// Not used at all.
    pub free_kb: Option<u64>,
    /// All of it.
    pub total_kb: Option<u64>,
    /// Held by processes.
    pub anon_kb: Option<u64>,
    /// Held by the kernel's objects.
    pub slab_kb: Option<u64>,
}

pub(super) fn read(body: &[u8]) -> Option<Memory> {
    let mut memory = Memory::default();
    let mut begun = false;
    for line in lines(body) {
        begun |= line.text.starts_with("Mem-Info:");
        if begun {
            memory.take(line.text.trim());
        }
    }
    (memory != Memory::default()).then_some(memory)
}

impl Memory {
    fn take(&mut self, text: &str) {
        let sum = |keys: [&str; 2]| {
            let pages: Vec<u64> = keys.iter().filter_map(|key| field(text, key)).collect();
            (pages.len() == 2)
                .then(|| pages.iter().fold(0, |sum, &pages| kb(pages).saturating_add(sum)))
        };
        if text.starts_with("active_anon:") {
            self.anon_kb = sum(["active_anon:", "inactive_anon:"]);
        } else if text.starts_with("slab_reclaimable:") {
            self.slab_kb = sum(["slab_reclaimable:", "slab_unreclaimable:"]);
        } else if text.starts_with("free:") {
            self.free_kb = field(text, "free:").map(kb);
        } else if let Some(pages) = text.strip_suffix(" pages RAM") {
            self.total_kb = pages.parse().ok().map(kb);
        }
    }
}

fn field(text: &str, key: &str) -> Option<u64> {
    text.split_ascii_whitespace().find_map(|word| number(word.strip_prefix(key)?))
}

fn kb(pages: u64) -> u64 {
    pages.saturating_mul(PAGE_KB)
}
