//! Where the kernel is: by the registers of a CPU where those suffice, or by what the kernel left for its
//! own crash dump.

use super::machine::{Architecture, Registers};
use super::memory::{Fault, Reader};
use super::paging::Paging;
use super::space::Image;
use super::{arm64, x86_64};

/// Symbols that one way or another leads to.
pub(super) const KNOWN: [&str; 4] = ["_stext", "asm_exc_page_fault", "init_uts_ns", "page_fault"];

/// How the note begins that the kernel keeps in a page of its own for `kexec`.
const NOTE: &[u8] = b"OSRELEASE=";

/// What the notes in RAM lead to, half a KiB each: there is one, and one of each kernel before it.
pub(super) const NOTES_BYTES: u64 = 1 << 20;

const PAGE: usize = 4096;
const SCANNED_AT_ONCE: u64 = 1 << 20;

/// Where the kernel is, and how that can be checked.
pub(super) struct Found {
    pub(super) architecture: Architecture,
    pub(super) paging: Paging,
    pub(super) image: Image,
    /// An address in its text.
    pub(super) text: u64,
    /// Symbols that must be at these addresses, as far as the kernel has them.
    pub(super) known: Vec<(&'static str, u64)>,
}

/// By the registers of any of the CPUs. Those of arm64 tell not enough.
pub(super) fn by_registers(reader: &Reader<'_>, cpus: &[Registers]) -> Option<Found> {
    cpus.iter().find_map(|cpu| match cpu {
        Registers::X86_64(cpu) => x86_64::boot::by_cpu(reader, cpu).ok().flatten(),
        Registers::Arm64(_) => None,
    })
}

/// By the note, which is searched in all of RAM.
pub(super) fn by_note(reader: &Reader<'_>) -> Option<Found> {
    let mut buffer = vec![0; SCANNED_AT_ONCE as usize];
    for range in reader.ranges() {
        let mut at = range.start.next_multiple_of(PAGE as u64);
        while at < range.end {
            let piece = (range.end - at).min(SCANNED_AT_ONCE);
            let piece = &mut buffer[..usize::try_from(piece).unwrap_or_default()];
            match reader.read(at, piece) {
                Ok(()) => {
                    let mut pages = piece.chunks(PAGE).filter(|page| page.starts_with(NOTE));
                    if let Some(found) = pages.find_map(|page| of_note(reader, page)) {
                        return Some(found);
                    }
                }
                Err(Fault::Spent) => return None,
                // A hole: what lies behind it is looked at.
                Err(_) => {}
            }
            at += SCANNED_AT_ONCE;
        }
    }
    None
}

/// Where the note leads to; nothing if its kernel is not there any more.
pub(super) fn of_note(reader: &Reader<'_>, page: &[u8]) -> Option<Found> {
    let note = Note::read(page)?;
    x86_64::boot::of_note(reader, &note).or_else(|| arm64::boot::of_note(reader, &note))
}

/// Lines of names and values.
pub(super) struct Note<'p> {
    text: &'p str,
}

impl<'p> Note<'p> {
    fn read(page: &'p [u8]) -> Option<Self> {
        let text = page.split(|byte| *byte == 0).next()?;
        Some(Self { text: std::str::from_utf8(text).ok()? })
    }

    pub(super) fn value(&self, key: &str) -> Option<&'p str> {
        self.text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
    }

    /// A number in hexadecimal digits.
    pub(super) fn hex(&self, key: &str) -> Option<u64> {
        let value = self.value(key)?;
        u64::from_str_radix(value.strip_prefix("0x").unwrap_or(value), 16).ok()
    }

    /// Whether the kernel whose names are at this physical address is the one that wrote it: a page
    /// that an earlier kernel left behind does not lead to its own release any more.
    pub(super) fn is_of(&self, reader: &Reader<'_>, names: u64) -> bool {
        let mut uts = [0; 512];
        let release = self.value("OSRELEASE").unwrap_or_default().as_bytes();
        let is_there = reader.read(names, &mut uts).is_ok();
        is_there && !release.is_empty() && uts.windows(release.len()).any(|it| it == release)
    }
}
