//! The monitor's `info mtree -f` and `gpa2hva`: where a guest has RAM, and where the process has it.

use std::ops::Range;

/// More pieces than any machine has, however many its memory slots.
const SLOTS: usize = 64;

/// A piece of RAM as the monitor tells it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Slot {
    /// Physical addresses in the guest.
    pub guest: Range<u64>,
    /// The monitor's name of the memory behind it, such as `pc.ram`.
    name: String,
    /// Where it begins in that memory.
    offset: u64,
}

/// The RAM in `info mtree -f`, ascending.
#[must_use]
pub fn slots(text: &str) -> Vec<Slot> {
    let mut slots: Vec<Slot> = Vec::new();
    for slot in system_view(text).lines().filter_map(slot) {
        if let Some(last) = slots.last_mut().filter(|last| continues(last, &slot)) {
            last.guest.end = slot.guest.end;
        } else if slots.len() < SLOTS {
            slots.push(slot);
        }
    }
    slots.retain(|slot| is_main(&slot.name));
    slots
}

/// How many bytes of all that CPUs can read lie in memory, and where the last of them ends.
#[must_use]
pub fn extent(text: &str) -> (u64, u64) {
    let slots = system_view(text).lines().filter_map(slot);
    slots.fold((0, 0), |(bytes, end): (u64, u64), Slot { guest, .. }| {
        (bytes.saturating_add(guest.end - guest.start), end.max(guest.end))
    })
}

/// `Host virtual address for 0x0 (pc.ram) is 0x7ff9abe00000`
#[must_use]
pub fn virtual_address(text: &str) -> Option<u64> {
    let (_, address) = text.trim().rsplit_once(" is 0x")?;
    u64::from_str_radix(address, 16).ok()
}

/// The part about what CPUs see; other devices see less of it.
fn system_view(text: &str) -> &str {
    let views = || text.split("FlatView #").skip(1);
    let of = |name: &str| views().find(|view| view.contains(&format!("AS \"{name}\"")));
    of("memory").or_else(|| of("cpu-memory-0")).or_else(|| views().next()).unwrap_or_default()
}

/// `  0000000000100000-000000001fffffff (prio 0, ram): pc.ram @0000000000100000 KVM`. The shadow of
/// the firmware, which lies in RAM, is called `rom`.
fn slot(line: &str) -> Option<Slot> {
    let (range, rest) = line.trim().split_once(" (prio ")?;
    let (kind, rest) = rest.split_once("): ")?;
    if !kind.ends_with(", ram") && !kind.ends_with(", rom") {
        return None;
    }
    let (first, last) = range.split_once('-')?;
    let hex = |digits| u64::from_str_radix(digits, 16).ok();
    let guest = hex(first)?..hex(last)?.checked_add(1)?;
    let rest = rest.strip_suffix(" KVM").unwrap_or(rest);
    let (name, offset) = match rest.split_once(" @") {
        Some((name, offset)) => (name, hex(offset)?),
        None => (rest, 0),
    };
    (guest.start < guest.end).then(|| Slot { guest, name: name.to_owned(), offset })
}

fn continues(before: &Slot, next: &Slot) -> bool {
    before.name == next.name
        && before.guest.end == next.guest.start
        && next.guest.start - before.guest.start == next.offset.wrapping_sub(before.offset)
}

/// Whether it is RAM for everybody, and not a device's or the firmware's own.
fn is_main(name: &str) -> bool {
    !["rom", "bios", "flash", "vga", "vram"].iter().any(|word| name.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TREE: &str = "\
FlatView #0
 AS \"I/O\", root: io
 Root memory region: io
  0000000000000000-0000000000000007 (prio 0, i/o): dma-chan

FlatView #1
 AS \"memory\", root: system
 AS \"cpu-memory-0\", root: system
 Root memory region: system
  0000000000000000-00000000000c2fff (prio 0, ram): pc.ram KVM
  00000000000c3000-00000000000e7fff (prio 0, rom): pc.ram @00000000000c3000 KVM
  00000000000e8000-000000007fffffff (prio 0, ram): pc.ram @00000000000e8000 KVM
  00000000b0000000-00000000bfffffff (prio 0, i/o): pcie-mmcfg-mmio
  00000000fd000000-00000000fdffffff (prio 1, ram): vga.vram KVM
  00000000fffc0000-00000000ffffffff (prio 0, rom): pc.bios KVM
  0000000100000000-000000013fffffff (prio 0, ram): pc.ram @0000000080000000 KVM
  0000000240000000-000000027fffffff (prio 0, ram): mem1 KVM
";

    #[test]
    fn ram_is_found_in_the_tree() {
        let found: Vec<(Range<u64>, u64)> =
            slots(TREE).into_iter().map(|slot| (slot.guest, slot.offset)).collect();
        let low = (0..0x8000_0000, 0);
        let high = (0x1_0000_0000..0x1_4000_0000, 0x8000_0000);
        assert_eq!(found, [low, high, (0x2_4000_0000..0x2_8000_0000, 0)]);
        assert_eq!(slots("FlatView #0\n AS \"memory\", root: system\n"), []);
    }

    #[test]
    fn a_dump_has_the_memory_of_devices_as_well() {
        let (vram, bios) = (16 << 20, 256 << 10);
        assert_eq!(extent(TREE), ((4 << 30) + vram + bios, 0x2_8000_0000));
        assert_eq!(extent(""), (0, 0));
    }

    #[test]
    fn an_address_is_read() {
        let said = "Host virtual address for 0x0 (pc.ram) is 0x7ff9abe00000\r\n";
        assert_eq!(virtual_address(said), Some(0x7ff9_abe0_0000));
        assert_eq!(virtual_address("No memory is mapped at address 0x100000000"), None);
    }

    proptest! {
        #[test]
        fn any_text_is_taken(text in "(FlatView #|AS \"memory\"|[0-9a-f]{16}-[0-9a-f]{16}| \\(prio 0, ram\\): | @|\n){0,40}") {
            for slot in slots(&text) {
                prop_assert!(slot.guest.start < slot.guest.end);
            }
        }
    }
}
