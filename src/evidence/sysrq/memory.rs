//! Memory in `memory-usage`.
//!
//! ```text
//! active_anon:2262 inactive_anon:0 isolated_anon:0
//!  slab_reclaimable:219 slab_unreclaimable:2270
//!  free:110956 free_pcp:816 free_cma:0
//! Node 0 DMA32 free:428592kB boost:0kB min:2616kB low:3268kB high:3920kB .. managed:459392kB ..
//! Node 0 DMA32: 148*4kB (UME) 80*8kB (UME) .. = 428592kB
//! Free swap  = 0kB
//! 130942 pages RAM
//! 0 pages hwpoisoned
//! ```

use crate::evidence::line::Line;
use crate::evidence::who::{comm, number};

/// Pages of x86-64 guests. What arm64 ones have is seen from the smallest free blocks of a zone.
const PAGE_KB: u64 = 4;

/// Some five a node; edge guests have one node.
const ZONES_KEPT: usize = 64;

/// How much memory there is and what holds it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Memory {
    /// Not used at all.
    pub free_kb: Option<u64>,
    /// All of it.
    pub total_kb: Option<u64>,
    /// Held by processes.
    pub anon_kb: Option<u64>,
    /// Held by the kernel's objects.
    pub slab_kb: Option<u64>,
    /// Held by files in memory.
    pub shmem_kb: Option<u64>,
    /// Waits to be written to disks.
    pub dirty_kb: Option<u64>,
    /// Free swap.
    pub swap_free_kb: Option<u64>,
    /// All swap.
    pub swap_kb: Option<u64>,
    /// Its parts.
    pub zones: Vec<Zone>,
}

/// A part of the memory with limits of its own.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Zone {
    /// The kernel's name for it, such as `DMA32`.
    pub name: String,
    /// Not used at all.
    pub free_kb: u64,
    /// Kept for those who must not wait.
    pub min_kb: u64,
    /// Where the kernel begins to reclaim.
    pub low_kb: u64,
    /// All of it.
    pub managed_kb: u64,
}

impl Memory {
    /// Whether who asks for memory has to wait for some to be freed: its largest part has no more left
    /// than what is kept for those who must not wait. Small parts are kept for devices that need them.
    #[must_use]
    pub fn is_short(&self) -> bool {
        let largest = self.zones.iter().max_by_key(|zone| zone.managed_kb);
        largest.is_some_and(|zone| zone.free_kb <= zone.min_kb)
    }
}

#[derive(Default)]
pub(super) struct Reader {
    begun: bool,
    /// In pages until the end, where `Memory` says kilobytes.
    pages: Memory,
    page_kb: Option<u64>,
}

impl Reader {
    pub(super) fn take(&mut self, line: &Line<'_>) {
        let text = line.text.trim();
        self.begun |= text.starts_with("Mem-Info:");
        if !self.begun {
            return;
        }
        if let Some(zone) = text.strip_prefix("Node ") {
            self.take_zone(zone);
        } else {
            self.take_total(text);
        }
    }

    pub(super) fn finish(self) -> Option<Memory> {
        let page_kb = self.page_kb.unwrap_or(PAGE_KB);
        let kb = |pages: Option<u64>| pages.map(|pages| pages.saturating_mul(page_kb));
        let pages = self.pages;
        let memory = Memory {
            free_kb: kb(pages.free_kb),
            total_kb: kb(pages.total_kb),
            anon_kb: kb(pages.anon_kb),
            slab_kb: kb(pages.slab_kb),
            shmem_kb: kb(pages.shmem_kb),
            dirty_kb: kb(pages.dirty_kb),
            ..pages
        };
        (memory != Memory::default()).then_some(memory)
    }

    fn take_total(&mut self, text: &str) {
        let sum = |keys: &[&str]| {
            let of = |key: &&str| field(text, key);
            keys.iter().map(of).try_fold(0, |sum: u64, pages| Some(sum.saturating_add(pages?)))
        };
        let pages = &mut self.pages;
        if text.starts_with("active_anon:") {
            pages.anon_kb = sum(&["active_anon:", "inactive_anon:"]);
        } else if text.starts_with("unevictable:") {
            pages.dirty_kb = sum(&["dirty:", "writeback:"]);
        } else if text.starts_with("slab_reclaimable:") {
            pages.slab_kb = sum(&["slab_reclaimable:", "slab_unreclaimable:"]);
        } else if text.starts_with("mapped:") {
            pages.shmem_kb = sum(&["shmem:"]);
        } else if text.starts_with("free:") {
            pages.free_kb = sum(&["free:"]);
        } else if let Some(all) = text.strip_suffix(" pages RAM") {
            pages.total_kb = all.parse().ok();
        } else if let Some(swap) = text.strip_prefix("Free swap ") {
            pages.swap_free_kb = number(swap.trim_start_matches([' ', '=']));
        } else if let Some(swap) = text.strip_prefix("Total swap ") {
            pages.swap_kb = number(swap.trim_start_matches([' ', '=']));
        }
    }

    /// Behind `Node `: `0 DMA32 free:..`, or `0 DMA32: 148*4kB ..`, whose first blocks are pages.
    fn take_zone(&mut self, text: &str) {
        let mut words = text.split(' ').skip(1);
        let (Some(name), Some(next)) = (words.next(), words.next()) else { return };
        if name.ends_with(':') {
            self.page_kb = self.page_kb.or_else(|| number(next.split_once('*')?.1));
        } else if next.starts_with("free:") && self.pages.zones.len() < ZONES_KEPT {
            let kb = |key| field(text, key).unwrap_or_default();
            self.pages.zones.push(Zone {
                name: comm(name),
                free_kb: kb("free:"),
                min_kb: kb("min:"),
                low_kb: kb("low:"),
                managed_kb: kb("managed:"),
            });
        }
    }
}

fn field(text: &str, key: &str) -> Option<u64> {
    text.split_ascii_whitespace().find_map(|word| number(word.strip_prefix(key)?))
}
