//! Mounted file systems, and which of them are frozen.

use super::Kernel;
use super::memory::Fault;
use super::types::layout::Layout;
use super::walk::List;

/// More than a host of containers mounts.
const FILE_SYSTEMS: usize = 4096;

const NAME_BYTES: usize = 32;

/// `SB_RDONLY`.
const READ_ONLY: u64 = 1;

/// A mounted file system.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct FileSystem {
    pub(super) at: u64,
    /// `ext4`
    pub(super) kind: String,
    /// `vda1`
    pub(super) name: String,
    /// Whether writes are held up: from the moment in which somebody begins to freeze it.
    pub(super) frozen: bool,
    pub(super) read_only: bool,
    /// Where the disk is that it is on; 0 for one without.
    pub(super) device: u64,
}

/// All of them.
pub(super) fn file_systems(kernel: &Kernel<'_>) -> Result<Vec<FileSystem>, Fault> {
    let Some(head) = kernel.symbols.maybe("super_blocks") else { return Ok(Vec::new()) };
    let layout = &kernel.layouts.super_block;
    let mut found = Vec::new();
    for at in List::read(&kernel.space, head, FILE_SYSTEMS)?.at {
        match read(kernel, at.wrapping_sub(u64::from(layout.list.offset))) {
            Ok(file_system) => found.push(file_system),
            Err(Fault::Spent) => return Err(Fault::Spent),
            // It was unmounted this moment.
            Err(_) => {}
        }
    }
    Ok(found)
}

fn read(kernel: &Kernel<'_>, at: u64) -> Result<FileSystem, Fault> {
    let layout = &kernel.layouts.super_block;
    let view = layout.read(&kernel.space, at)?;
    let kind = kernel.layouts.file_system.read(&kernel.space, view.word(layout.kind))?;
    let kind = kernel.space.text(kind.word(kernel.layouts.file_system.name), NAME_BYTES)?;
    Ok(FileSystem {
        at,
        kind: String::from_utf8_lossy(&kind).into_owned(),
        name: String::from_utf8_lossy(view.text(layout.name)).into_owned(),
        frozen: view.u32(layout.frozen) != 0,
        read_only: view.word(layout.flags) & READ_ONLY != 0,
        device: view.word(layout.device),
    })
}

impl FileSystem {
    /// Whether an address is in its own structure.
    pub(super) fn has(&self, kernel: &Kernel<'_>, address: u64) -> bool {
        address.wrapping_sub(self.at) < kernel.sizes.super_block
    }
}
