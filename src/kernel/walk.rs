//! The kernel's linked lists, which may bite their tail.

use super::memory::Fault;
use super::space::Space;
use std::collections::HashSet;

/// The links of a list: where the structures' `list_head`s are.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct List {
    pub(super) at: Vec<u64>,
    /// Whether the last one led back to the head, and each one back to the one before it.
    pub(super) is_whole: bool,
}

impl List {
    /// Follows a list from its head, which is none of the links, for `most` links.
    pub(super) fn read(space: &Space<'_>, head: u64, most: usize) -> Result<Self, Fault> {
        let mut list = Self::default();
        let mut seen = HashSet::new();
        let mut is_linked = true;
        let mut at = space.u64(head)?;
        let mut before = head;
        while at != head && list.at.len() < most && seen.insert(at) {
            let [next, back] = match links(space, at) {
                Ok(links) => links,
                Err(Fault::Spent) => return Err(Fault::Spent),
                Err(_) => return Ok(list),
            };
            is_linked &= back == before;
            list.at.push(at);
            (before, at) = (at, next);
        }
        list.is_whole = at == head && is_linked;
        Ok(list)
    }
}

fn links(space: &Space<'_>, at: u64) -> Result<[u64; 2], Fault> {
    let bytes: [u8; 16] = space.array(at)?;
    let word =
        |from: usize| u64::from_le_bytes(bytes[from..].first_chunk().copied().unwrap_or_default());
    Ok([word(0), word(8)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::faulty::{Rubbish, Sparse};
    use crate::kernel::types::tests::space;
    use proptest::prelude::*;

    fn linked(links: &[u64]) -> Sparse {
        let mut memory = Sparse::default();
        for (number, at) in links.iter().enumerate() {
            let next = links[(number + 1) % links.len()];
            let back = links[(number + links.len() - 1) % links.len()];
            memory.write(*at, &[next.to_le_bytes(), back.to_le_bytes()].concat());
        }
        memory
    }

    #[test]
    fn a_list_is_followed_to_its_head() {
        let memory = linked(&[0x1000, 0x2000, 0x3000]);
        let list = List::read(&space(&memory), 0x1000, 10).unwrap();
        assert_eq!(list, List { at: vec![0x2000, 0x3000], is_whole: true });
        let list = List::read(&space(&memory), 0x1000, 1).unwrap();
        assert_eq!(list, List { at: vec![0x2000], is_whole: false });
    }

    #[test]
    fn a_list_that_bites_its_tail_or_ends_nowhere_is_not_whole() {
        let mut memory = linked(&[0x1000, 0x2000, 0x3000]);
        memory.write(0x3000, &0x2000_u64.to_le_bytes());
        let list = List::read(&space(&memory), 0x1000, 10).unwrap();
        assert_eq!(list, List { at: vec![0x2000, 0x3000], is_whole: false });
        memory.write(0x3000, &0xdead_0000_u64.to_le_bytes());
        let list = List::read(&space(&memory), 0x1000, 10).unwrap();
        assert_eq!(list, List { at: vec![0x2000, 0x3000], is_whole: false });
        let mut unlinked = linked(&[0x1000, 0x2000, 0x3000]);
        unlinked.write(0x3008, &0x1000_u64.to_le_bytes());
        assert!(!List::read(&space(&unlinked), 0x1000, 10).unwrap().is_whole);
    }

    proptest! {
        #[test]
        fn any_memory_is_taken(bytes in proptest::collection::vec(any::<u8>(), 1..40), head: u64) {
            let memory = Rubbish(bytes);
            if let Ok(list) = List::read(&space(&memory), head, 100) {
                prop_assert!(list.at.len() <= 100);
            }
        }
    }
}
