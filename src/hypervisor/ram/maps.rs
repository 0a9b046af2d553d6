//! `/proc/PID/maps`: where a process could have a guest's RAM.

use super::Placed;
use std::ops::Range;

/// Smaller than any guest that runs a distribution's kernel, larger than what QEMU itself maps at
/// once, but for the pool of its emulator, which is executable.
const SMALLEST: u64 = 96 << 20;

const GIB: u64 = 1 << 30;

/// A part of a process's address space.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Mapping {
    pub(super) host: Range<u64>,
    pub(super) is_writable: bool,
    pub(super) is_executable: bool,
    pub(super) is_shared: bool,
    pub(super) offset: u64,
    pub(super) inode: u64,
    pub(super) name: String,
}

/// All mappings, ascending.
pub(super) fn read(maps: &str) -> Vec<Mapping> {
    maps.lines().filter_map(mapping).collect()
}

/// `7ff9abe00000-7ff9cbe00000 rw-s 00000000 00:01 1234  /memfd:pc.ram (deleted)`
fn mapping(line: &str) -> Option<Mapping> {
    let mut words = line.splitn(6, ' ');
    let hex = |word| u64::from_str_radix(word, 16).ok();
    let (start, end) = words.next()?.split_once('-')?;
    let flags = words.next()?;
    let offset = hex(words.next()?)?;
    let _device = words.next()?;
    let inode = words.next()?.parse().ok()?;
    let host = hex(start)?..hex(end)?;
    Some(Mapping {
        host,
        is_writable: flags.contains('w'),
        is_executable: flags.contains('x'),
        is_shared: flags.contains('s'),
        offset,
        inode,
        name: words.next().unwrap_or_default().trim().to_owned(),
    })
    .filter(|mapping| mapping.host.start < mapping.host.end)
}

/// The mapping that is most likely the guest's RAM.
pub(super) fn largest(mappings: &[Mapping]) -> Option<&Mapping> {
    let bytes = |mapping: &&Mapping| mapping.host.end - mapping.host.start;
    let mut data =
        mappings.iter().filter(|it| it.is_writable && !it.is_executable).collect::<Vec<_>>();
    data.retain(|mapping| bytes(mapping) >= SMALLEST);
    data.into_iter().max_by_key(bytes)
}

/// How QEMU's PCs lay out RAM: below the hole for devices in one piece if it fits, else the rest
/// from 4 GiB on. q35 keeps 2 GiB below where RAM has 2.75 GiB or more; the older PC 3 GiB from 3.5
/// GiB on. The machine for arm64 has all of it from 1 GiB on.
pub(super) fn layouts(ram: &Mapping) -> Vec<Vec<Placed>> {
    let bytes = ram.host.end - ram.host.start;
    let below = |low: u64| {
        let mut placed = vec![Placed { guest: 0..low.min(bytes), host: ram.host.start }];
        if bytes > low {
            let guest = 4 * GIB..4 * GIB + (bytes - low);
            placed.push(Placed { guest, host: ram.host.start + low });
        }
        placed
    };
    let mut layouts = Vec::new();
    for (low, from) in [(2 * GIB, 2 * GIB + 3 * GIB / 4), (3 * GIB, 3 * GIB + GIB / 2)] {
        let layout = below(if bytes < from { bytes } else { low });
        if !layouts.contains(&layout) {
            layouts.push(layout);
        }
    }
    layouts.push(vec![Placed { guest: GIB..GIB + bytes, host: ram.host.start }]);
    layouts
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAPS: &str = "\
563d4f5ac000-563d4f9b3000 r--p 00000000 fe:00 10199118                   /usr/bin/qemu-system-x86_64
7ff99c31e000-7ff9a0000000 ---p 00000000 00:00 0
7ff9abe00000-7ff9cbe00000 rw-s 00001000 00:01 77                         /memfd:pc.ram (deleted)
7ff9d4000000-7ffad7fff000 rwxp 00000000 00:00 0
rubbish
";

    #[test]
    fn ram_is_the_largest_data() {
        let all = read(MAPS);
        assert_eq!(all.len(), 4);
        let ram = largest(&all).unwrap();
        assert_eq!((ram.offset, ram.inode, ram.is_shared), (0x1000, 77, true));
        assert_eq!(ram.name, "/memfd:pc.ram (deleted)");
        assert_eq!(largest(&all[..2]), None);
    }

    #[test]
    fn ram_goes_round_the_hole_as_the_machine_has_it() {
        let of = |bytes: u64| -> Vec<String> {
            let mapping = Mapping { host: 0x1000..0x1000 + bytes, ..read(MAPS)[2].clone() };
            let mib =
                |place: &Placed| format!("{}-{}", place.guest.start >> 20, place.guest.end >> 20);
            let said = |placed: &Vec<Placed>| placed.iter().map(mib).collect::<Vec<_>>().join(" ");
            layouts(&mapping).iter().map(said).collect()
        };
        assert_eq!(of(GIB), ["0-1024", "1024-2048"]);
        assert_eq!(of(3 * GIB), ["0-2048 4096-5120", "0-3072", "1024-4096"]);
        assert_eq!(of(5 * GIB), ["0-2048 4096-7168", "0-3072 4096-6144", "1024-6144"]);
    }

    proptest! {
        #[test]
        fn any_text_is_taken(text in "[0-9a-f \\-rwxps\n]{0,200}") {
            for mapping in read(&text) {
                prop_assert!(mapping.host.start < mapping.host.end);
            }
        }
    }
}
