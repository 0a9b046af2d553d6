//! When a certificate ends.
//!
//! Pure. Reads the two dates out of a certificate's DER and nothing else: it is not judged whether
//! the rest makes sense, and rubbish has no dates.

use crate::base::time::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// The time for which a certificate is made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Validity {
    /// From here.
    pub(super) from: Timestamp,
    /// To here.
    pub(super) to: Timestamp,
}

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// `Certificate { TBSCertificate { [0] version?, serial, algorithm, issuer, validity { from, to }, .. } }`
pub(super) fn validity(der: &[u8]) -> Option<Validity> {
    let (certificate, _) = expect(SEQUENCE, der)?;
    let (tbs, _) = expect(SEQUENCE, certificate)?;
    let rest = match expect(VERSION, tbs) {
        Some((_, rest)) => rest,
        None => tbs,
    };
    let (_, _, rest) = element(rest)?;
    let (_, _, rest) = element(rest)?;
    let (_, _, rest) = element(rest)?;
    let (dates, _) = expect(SEQUENCE, rest)?;
    let (from, rest) = time(dates)?;
    let (to, _) = time(rest)?;
    Some(Validity { from, to })
}

/// A tag, its content, and what follows.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        // A certificate of more than 64 KiB is none.
        0x81 | 0x82 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

fn expect(wanted: u8, bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (tag, content, rest) = element(bytes)?;
    (tag == wanted).then_some((content, rest))
}

fn time(bytes: &[u8]) -> Option<(Timestamp, &[u8])> {
    let (tag, content, rest) = element(bytes)?;
    let text = std::str::from_utf8(content).ok()?;
    let (year, text) = match tag {
        UTC_TIME => {
            let year: i16 = number(text, 0..2)?;
            (if year < 50 { 2000 + year } else { 1900 + year }, text.get(2..)?)
        }
        GENERALIZED_TIME => (number(text, 0..4)?, text.get(4..)?),
        _ => return None,
    };
    if text.len() != 11 || !text.ends_with('Z') {
        return None;
    }
    let two = |at: usize| number(text, at..at + 2).and_then(|n| i8::try_from(n).ok());
    let date = DateTime::new(year, two(0)?, two(2)?, two(4)?, two(6)?, two(8)?, 0).ok()?;
    // The last second of the year 9999 means that it never ends, and lies beyond what jiff counts.
    let zoned = date.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp());
    let ms = zoned.unwrap_or(jiff::Timestamp::MAX).as_millisecond();
    Some((Timestamp::from_millis(ms), rest))
}

fn number(text: &str, at: std::ops::Range<usize>) -> Option<i16> {
    let digits = text.get(at)?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn dates_are_those_that_were_put_in() {
        for (to, said) in [(2031, "2031-02-03T00:00:00Z"), (2071, "2071-02-03T00:00:00Z")] {
            let mut params = rcgen::CertificateParams::new(vec!["app".to_owned()]).unwrap();
            params.not_before = rcgen::date_time_ymd(1999, 1, 2);
            params.not_after = rcgen::date_time_ymd(to, 2, 3);
            let der = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
            let validity = validity(der.der()).unwrap();
            assert_eq!(validity.from.to_string(), "1999-01-02T00:00:00Z");
            assert_eq!(validity.to.to_string(), said);
        }
    }

    #[test]
    fn one_that_never_ends() {
        let (end, _) = time(b"\x18\x0f99991231235959Z").unwrap();
        assert_eq!(end.as_millis(), jiff::Timestamp::MAX.as_millisecond());
        assert_eq!(time(b"\x17\x0d991332000000Z"), None);
        assert_eq!(time(b"\x17\x0d-11231000000Z"), None);
    }

    proptest! {
        #[test]
        fn rubbish_has_no_dates(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = validity(&bytes);
        }
    }
}
