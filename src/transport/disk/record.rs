//! The heartbeat record: 512 bytes that a shell script can write.
//!
//! ```text
//!     0  lifesign-heartbeat 1 42 1234.56 1789000000 3f7c..-..-..   magic, version, sequence,
//!        (blanks up to byte 494)                                    uptime, time, boot id
//!   494  a blank
//!   495  16 hexadecimal digits: CRC-32 of the first 494 bytes and their number, least byte first;
//!        the last 8 bytes that `gzip` makes of them
//!   511  a line feed
//! ```
//!
//! Records stand at byte 0 and at byte 4096, written in turn, so that one that is torn leaves the
//! other. Pure and total: whatever a guest writes becomes numbers or nothing.

/// How long a record is: the smallest thing that a disk writes whole.
pub(super) const RECORD: usize = 512;

/// Where the two stand: in pages of their own, for a disk may write 4 KiB at once.
pub(super) const PLACES: [u64; 2] = [0, 4096];

const SUMMED: usize = 494;
const SUM: std::ops::Range<usize> = 495..511;
const MAGIC: &str = "lifesign-heartbeat";

/// What stands at one place.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Place {
    /// Nothing was ever written.
    Blank,
    /// Something, but no record: torn, or of somebody else.
    Damaged,
    /// A record of a version that we do not know.
    Version(u64),
    /// A record.
    Beat(Beat),
}

/// One sign of life.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Beat {
    /// Counts up from 1 for as long as the writer runs.
    pub(super) sequence: u64,
    /// Since the guest booted, by the guest.
    pub(super) uptime_ms: u64,
    /// Seconds since 1970, by the guest.
    pub(super) time_s: u64,
    /// Another at every boot.
    pub(super) boot: u128,
}

/// Reads what stands at a place.
pub(super) fn read(bytes: &[u8; RECORD]) -> Place {
    if bytes.iter().all(|byte| *byte == 0) {
        return Place::Blank;
    }
    if bytes[SUM] != *sum(&bytes[..SUMMED]).as_bytes() {
        return Place::Damaged;
    }
    beat(&bytes[..SUMMED]).unwrap_or(Place::Damaged)
}

fn beat(text: &[u8]) -> Option<Place> {
    let mut words = std::str::from_utf8(text).ok()?.split_ascii_whitespace();
    if words.next()? != MAGIC {
        return None;
    }
    let version = number(words.next()?)?;
    if version != 1 {
        return Some(Place::Version(version));
    }
    let sequence = number(words.next()?)?;
    let (seconds, rest) = words.next()?.split_once('.')?;
    let uptime_ms = number(seconds)?.checked_mul(1000)?.checked_add(hundredths(rest)? * 10)?;
    let time_s = number(words.next()?)?;
    let boot = words.next()?;
    let digits: String = boot.split('-').collect();
    let boot = (boot.len() == 36).then(|| u128::from_str_radix(&digits, 16).ok())??;
    Some(Place::Beat(Beat { sequence, uptime_ms, time_s, boot }))
}

fn hundredths(digits: &str) -> Option<u64> {
    (digits.len() == 2).then(|| number(digits))?
}

/// Digits and nothing else.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// As the tail of a gzip file, which shells can have where they have no `cksum`: Debian's busybox.
fn sum(bytes: &[u8]) -> String {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let tail = (u64::from(length) << 32) | u64::from(crc32(bytes));
    format!("{:016x}", tail.swap_bytes())
}

/// The one of zlib, PNG and Ethernet.
fn crc32(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0xedb8_8320;
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (POLYNOMIAL * (crc & 1)))
    };
    !bytes.iter().fold(u32::MAX, step)
}

/// As the shell script writes it.
#[cfg(test)]
pub(super) fn sealed(text: &str) -> [u8; RECORD] {
    let body = format!("{text:<494}");
    let whole = format!("{body} {}\n", sum(body.as_bytes()));
    whole.into_bytes().try_into().unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXT: &str =
        "lifesign-heartbeat 1 42 1234.56 1789000000 0f7c1a52-8f5e-4b0a-9d53-2f1f5a3f8c11";

    #[test]
    fn the_sum_is_that_of_the_shell() {
        // printf 123456789 | gzip -c | tail -c 8 | od -An -tx1
        assert_eq!(sum(b"123456789"), "2639f4cb09000000");
        assert_eq!(sum(b""), "0000000000000000");
    }

    #[test]
    fn a_record_is_read() {
        let beat = Beat {
            sequence: 42,
            uptime_ms: 1_234_560,
            time_s: 1_789_000_000,
            boot: 0x0f7c_1a52_8f5e_4b0a_9d53_2f1f_5a3f_8c11,
        };
        assert_eq!(read(&sealed(TEXT)), Place::Beat(beat));
        assert_eq!(read(&sealed(&format!("{TEXT} and more, one day"))), Place::Beat(beat));
    }

    #[test]
    fn what_is_no_record() {
        let numbers = TEXT.replace(" 42 ", " 99999999999999999999 ");
        let signs = TEXT.replace(" 42 ", " +42 ");
        assert_eq!(read(&[0; RECORD]), Place::Blank);
        assert_eq!(read(&[0xff; RECORD]), Place::Damaged);
        assert_eq!(read(&sealed(&TEXT.replace(" 1 ", " 2 "))), Place::Version(2));
        for text in ["", "lifesign-heartbeat", "lifesign-heartbeat 1 42", &numbers, &signs] {
            assert_eq!(read(&sealed(text)), Place::Damaged, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(mut bytes in proptest::collection::vec(any::<u8>(), RECORD)) {
            let record: [u8; RECORD] = bytes.clone().try_into().unwrap();
            prop_assert_eq!(read(&record), Place::Damaged);
            // And those that were summed up, too.
            let sum = sum(&bytes[..SUMMED]);
            bytes[SUM].copy_from_slice(sum.as_bytes());
            let _ = read(&bytes.try_into().unwrap());
        }

        #[test]
        fn one_flipped_bit_is_noticed(at in 0..SUMMED, bit in 0_u8..8) {
            let mut record = sealed(TEXT);
            record[at] ^= 1_u8 << bit;
            prop_assert_eq!(read(&record), Place::Damaged);
        }
    }
}
