//! One part of a record, as each store has it: a line of its own, `Panic#1 Part2`, and then text of the
//! kernel's log; all of it deflated, unless it would not fit then either.

use crate::base::time::Timestamp;
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};

/// What one part may unpack to. A kernel reads back what it wrote into three times the buffer of its
/// store, of which the largest, that of `acpi-erst`, has 8 KiB.
const PART_BYTES: usize = 32 * 1024;

/// The longest word of a kernel for why it writes is `Emergency`.
const REASON_BYTES: usize = 16;

/// A part where it stands in a store.
#[derive(Clone, Copy, Debug)]
pub(super) struct Raw<'a> {
    /// When it was written, by the guest's clock.
    pub(super) at: Timestamp,
    /// Whether it was struck out.
    pub(super) cleared: bool,
    /// Whether it has to be inflated.
    pub(super) deflated: bool,
    /// Its bytes.
    pub(super) data: &'a [u8],
}

/// A part that was read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Part {
    pub(super) at: Timestamp,
    pub(super) cleared: bool,
    pub(super) reason: String,
    pub(super) count: u32,
    /// From 1 on, which is the end of the log.
    pub(super) number: u32,
    pub(super) text: Vec<u8>,
    /// Whether nothing is known to be missing.
    pub(super) whole: bool,
}

impl Raw<'_> {
    /// When a kernel says that it wrote: seconds since 1970.
    pub(super) fn time(seconds: u64) -> Option<Timestamp> {
        let ms = i64::try_from(seconds).ok()?.checked_mul(1000)?;
        Some(Timestamp::from_millis(ms))
    }
}

impl Part {
    pub(super) fn read(raw: &Raw<'_>) -> Option<Self> {
        let (mut text, whole) =
            if raw.deflated { inflate(raw.data) } else { (raw.data.to_vec(), true) };
        let end = text.iter().take(PART_BYTES).position(|&byte| byte == b'\n')?;
        let (reason, count, number) = header(std::str::from_utf8(&text[..end]).ok()?)?;
        text.drain(..=end);
        Some(Self { at: raw.at, cleared: raw.cleared, reason, count, number, text, whole })
    }
}

/// `Panic#1 Part2`
fn header(line: &str) -> Option<(String, u32, u32)> {
    let (reason, rest) = line.split_once('#')?;
    let (count, number) = rest.split_once(" Part")?;
    let is_word = reason.len() <= REASON_BYTES && reason.bytes().all(|b| b.is_ascii_alphabetic());
    (is_word && !reason.is_empty()).then_some(())?;
    Some((reason.to_owned(), count.parse().ok()?, number.parse().ok()?))
}

/// As far as it goes, and whether that is all.
fn inflate(data: &[u8]) -> (Vec<u8>, bool) {
    let mut text = vec![0; PART_BYTES];
    let mut state = Box::<DecompressorOxide>::default();
    let flags = TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
    let (status, taken, written) = decompress(&mut state, data, &mut text, 0, flags);
    text.truncate(written);
    text.shrink_to_fit();
    // What is torn may by chance hold the sign that ends it.
    (text, status == TINFLStatus::Done && taken == data.len())
}
