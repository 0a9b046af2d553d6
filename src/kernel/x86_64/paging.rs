//! Page tables of four and five levels.

use crate::kernel::paging::{Entry, Form};

const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const PRESENT: u64 = 1;
const HUGE: u64 = 1 << 7;

/// The form of the tables that a CPU uses, by its CR4.
pub(crate) fn form(cr4: u64) -> Form {
    let levels = if cr4 & 1 << 12 == 0 { 4 } else { 5 };
    Form { page_bits: 12, levels, address_bits: 12 + 9 * levels, has_low_half: true, entry }
}

fn entry(word: u64, level: u32) -> Entry {
    let is_piece = level == 1 || matches!(level, 2 | 3) && word & HUGE != 0;
    match word & PRESENT {
        0 => Entry::Nothing,
        _ if is_piece => Entry::Piece(word & ADDRESS),
        _ => Entry::Table(word & ADDRESS),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::kernel::faulty::{Rubbish, Sparse};
    use crate::kernel::memory::{Allowance, Fault, Reader};
    use crate::kernel::paging::Paging;
    use proptest::prelude::*;

    const PAGE: u64 = 1 << 12;
    const SLICE: u64 = 1 << 21;

    /// Maps pages, for tests of what is read through them.
    pub(crate) struct Tables {
        root: u64,
        levels: u32,
        next: u64,
    }

    impl Tables {
        pub(crate) fn new(memory: &mut Sparse, root: u64, levels: u32) -> Self {
            memory.write(root, &[0; 8]);
            Self { root, levels, next: root + PAGE }
        }

        /// Maps a piece of a page (level 1), 2 MiB (2) or 1 GiB (3).
        pub(crate) fn map(&mut self, memory: &mut Sparse, at: u64, physical: u64, level: u32) {
            let form = form(if self.levels == 5 { 1 << 12 } else { 0 });
            let mut table = self.root;
            for upper in (level + 1..=self.levels).rev() {
                let slot = table + form.index(at, upper) * 8;
                let mut word = [0; 8];
                crate::kernel::memory::Memory::read(memory, slot, &mut word).unwrap();
                if word == [0; 8] {
                    memory.write(self.next, &[0; 8]);
                    memory.write(slot, &(self.next | PRESENT).to_le_bytes());
                    table = self.next;
                    self.next += PAGE;
                } else {
                    table = u64::from_le_bytes(word) & ADDRESS;
                }
            }
            let huge = if level > 1 { HUGE } else { 0 };
            let slot = table + form.index(at, level) * 8;
            memory.write(slot, &(physical | PRESENT | huge).to_le_bytes());
        }
    }

    const PLENTY: Allowance = Allowance { reads: 10_000, bytes: 1 << 20 };

    #[test]
    fn pages_of_all_sizes_are_found() {
        for levels in [4, 5] {
            let mut memory = Sparse::default();
            let mut tables = Tables::new(&mut memory, 0x10_0000, levels);
            tables.map(&mut memory, 0xffff_8880_0000_0000, 0x4000_0000, 3);
            tables.map(&mut memory, 0xffff_ffff_8100_0000, 0x1_0020_0000, 2);
            tables.map(&mut memory, 0xffff_c900_0000_3000, 0x7000, 1);
            let reader = Reader::new(&memory, PLENTY);
            let paging = Paging::new(0x10_0000 | 0x18, form(if levels == 5 { 1 << 12 } else { 0 }));
            let physical = |at| paging.physical(&reader, at);
            assert_eq!(physical(0xffff_8880_1234_5678), Ok((0x5234_5678, 0xb_a988)));
            assert_eq!(physical(0xffff_ffff_8100_0010), Ok((0x1_0020_0010, 0x1f_fff0)));
            assert_eq!(physical(0xffff_c900_0000_3ff8), Ok((0x7ff8, 8)));
            assert_eq!(
                physical(0xffff_c900_0000_4000),
                Err(Fault::NotMapped(0xffff_c900_0000_4000))
            );
            let odd = if levels == 5 { 0xfe00_8880_0000_0000 } else { 0xff11_8880_0000_0000 };
            assert_eq!(physical(odd), Err(Fault::NotMapped(odd)));
            let before = reader.spent().reads;
            assert_eq!(physical(0xffff_8880_1234_5679), Ok((0x5234_5679, 0xb_a987)));
            assert_eq!(reader.spent().reads, before);
        }
    }

    #[test]
    fn a_page_that_moved_is_found_where_it_is() {
        let mut memory = Sparse::default();
        let mut tables = Tables::new(&mut memory, 0x10_0000, 4);
        tables.map(&mut memory, 0xffff_c900_0000_3000, 0x7000, 1);
        let paging = Paging::new(0x10_0000, form(0));
        assert_eq!(
            paging.physical(&Reader::new(&memory, PLENTY), 0xffff_c900_0000_3000),
            Ok((0x7000, PAGE))
        );
        tables.map(&mut memory, 0xffff_c900_0000_3000, 0x9000, 1);
        assert_eq!(
            paging.physical(&Reader::new(&memory, PLENTY), 0xffff_c900_0000_3000),
            Ok((0x9000, PAGE))
        );
    }

    proptest! {
        #[test]
        fn tables_of_any_bytes_end(bytes in proptest::collection::vec(any::<u8>(), 1..64), at: u64, cr3: u64, cr4: u64) {
            let memory = Rubbish(bytes);
            let reader = Reader::new(&memory, PLENTY);
            if let Ok((physical, left)) = Paging::new(cr3, form(cr4)).physical(&reader, at) {
                prop_assert!(physical < 1 << 53 && left > 0 && left <= SLICE);
            }
            prop_assert!(reader.spent().reads <= 5);
        }
    }
}
