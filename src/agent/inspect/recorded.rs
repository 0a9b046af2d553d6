//! A guest that was recorded: what a look reads of it, and no more. `hack/arm64 --record` makes it.

use super::{judged, page};
use crate::evidence::qmp::Replies;
use crate::kernel::Kernel;
use crate::kernel::faulty::Sparse;
use crate::kernel::learnt::Learnt;
use crate::kernel::look::{Outside, look};
use crate::kernel::machine::Registers;
use std::path::Path;

const PAGE: usize = 4096;

/// More than any image has.
const IMAGE_BYTES: usize = 64 << 20;

#[test]
fn a_deadlock_of_an_arm64_guest_is_told_whole() {
    let place =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/memory/arm64-mutex-deadlock-6.12");
    let file = |name| std::fs::read(place.join(name)).unwrap();
    let pages = zstd::bulk::decompress(&file("pages.zst"), IMAGE_BYTES).unwrap();
    let mut ram = Sparse::default();
    for page in pages.chunks_exact(8 + PAGE) {
        let (at, bytes) = page.split_at(8);
        ram.write(u64::from_le_bytes(at.try_into().unwrap()), bytes);
    }
    let registers = Registers::read(&String::from_utf8(file("registers")).unwrap());
    let cpus: Vec<Registers> = registers.iter().map(|(_, cpu)| *cpu).collect();
    let learnt = Learnt::read(&file("learnt")).unwrap();
    let kernel = Kernel::open_again(&ram, &cpus, &learnt).unwrap();
    let memory = look(&kernel, Outside { registers: &registers, before: None });
    assert!(memory.tasks.iter().all(|task| !task.moved));
    insta::assert_snapshot!(page(&judged(memory, &Replies::default())));
}
