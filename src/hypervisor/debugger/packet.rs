//! The packets of a debugger's stub: `$body#checksum`, in both directions.
//!
//! Pure. The stub is taken for hostile: a packet has a length that it may have at most, also unpacked, and
//! what does not fit its checksum is never used. All memory goes through here while its guest stands still,
//! so that what is done for each byte counts. Packets are not acknowledged: QEMU takes the next one for
//! that, and a byte that comes when the guest runs again would stop it once more.

/// QEMU's packets have 4 KiB; nobody else's are longer than this.
const PACKET_BYTES: usize = 16 * 1024;

/// The value of each letter that is a hexadecimal digit.
const VALUES: [u8; 256] = values();

/// No digit has this bit.
const NONE: u8 = 0x80;

/// What came so far.
#[derive(Debug, Default)]
pub(super) struct Packets {
    buffer: Vec<u8>,
}

/// The stub does not speak the protocol.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Garbled;

/// A packet as it goes over the line. What we ask needs no escapes.
pub(super) fn framed(body: &str) -> Vec<u8> {
    format!("${body}#{:02x}", sum(body.as_bytes())).into_bytes()
}

/// The bytes of hexadecimal digits.
pub(super) fn unhex(digits: &[u8]) -> Option<Vec<u8>> {
    let (pairs, odd) = digits.as_chunks();
    let mut bytes = Vec::with_capacity(pairs.len());
    let mut seen = 0;
    for [high, low] in pairs {
        let (high, low) = (VALUES[usize::from(*high)], VALUES[usize::from(*low)]);
        seen |= high | low;
        bytes.push(high << 4 | low);
    }
    (odd.is_empty() && seen & NONE == 0).then_some(bytes)
}

/// Text as hexadecimal digits.
pub(super) fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

impl Packets {
    /// Takes bytes that came.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole packet, unpacked, if it is there. What stands between packets acknowledges ours.
    pub(super) fn next_packet(&mut self) -> Result<Option<Vec<u8>>, Garbled> {
        let start = self.buffer.iter().position(|byte| *byte == b'$').unwrap_or(self.buffer.len());
        if self.buffer.drain(..start).any(|byte| byte != b'+') {
            return Err(Garbled);
        }
        let Some(end) = end(&self.buffer) else {
            return if self.buffer.len() > PACKET_BYTES { Err(Garbled) } else { Ok(None) };
        };
        let Some(told) = self.buffer.get(end + 1..end + 3) else { return Ok(None) };
        let is_right = unhex(told) == Some(vec![sum(&self.buffer[1..end])]);
        let body = unpacked(&self.buffer[1..end]).filter(|_| is_right).ok_or(Garbled)?;
        self.buffer.drain(..end + 3);
        Ok(Some(body))
    }
}

fn sum(body: &[u8]) -> u8 {
    let mut sum: u8 = 0;
    for byte in body {
        sum = sum.wrapping_add(*byte);
    }
    sum
}

/// Where the first `#` stands; blocks without one are passed over at once.
fn end(packet: &[u8]) -> Option<usize> {
    const BLOCK: usize = 64;
    let mut blocks = packet.chunks(BLOCK);
    let before = blocks.position(|block| block.contains(&b'#'))? * BLOCK;
    Some(before + packet[before..].iter().position(|byte| *byte == b'#')?)
}

const fn values() -> [u8; 256] {
    let mut values = [NONE; 256];
    let mut digit = 0;
    while digit < 16 {
        values[b"0123456789abcdef"[digit] as usize] = digit as u8;
        values[b"0123456789ABCDEF"[digit] as usize] = digit as u8;
        digit += 1;
    }
    values
}

/// Without escapes (`}` and a letter) and repetitions (`*` and how often).
fn unpacked(body: &[u8]) -> Option<Vec<u8>> {
    if !body.contains(&b'}') && !body.contains(&b'*') {
        return (body.len() <= PACKET_BYTES).then(|| body.to_vec());
    }
    let mut unpacked = Vec::with_capacity(body.len());
    let mut bytes = body.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'}' => unpacked.push(bytes.next()? ^ 0x20),
            b'*' => {
                let (last, times) = (*unpacked.last()?, bytes.next()?.checked_sub(29)?);
                unpacked.extend(std::iter::repeat_n(last, times.into()));
            }
            _ => unpacked.push(*byte),
        }
        if unpacked.len() > PACKET_BYTES {
            return None;
        }
    }
    Some(unpacked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fed(bytes: &[u8]) -> Result<Option<Vec<u8>>, Garbled> {
        let mut packets = Packets::default();
        packets.feed(bytes);
        packets.next_packet()
    }

    #[test]
    fn packets_are_as_the_protocol_has_them() {
        assert_eq!(framed("Qqemu.PhyMemMode:1"), b"$Qqemu.PhyMemMode:1#77");
        assert_eq!(fed(b"++$OK#9a"), Ok(Some(b"OK".to_vec())));
        assert_eq!(fed(b"$OK#9b"), Err(Garbled));
        assert_eq!(fed(b"-$OK#9a"), Err(Garbled), "it refuses what we said");
        assert_eq!(fed(b"$OK#9"), Ok(None));
        assert_eq!(fed(b"$0* #7a"), Ok(Some(b"0000".to_vec())));
        assert_eq!(fed(b"$}\x03#80"), Ok(Some(b"#".to_vec())));
        assert_eq!(fed(b"$* #4a"), Err(Garbled), "nothing to repeat");
        assert_eq!(unhex(b"0fA0"), Some(vec![0x0f, 0xa0]));
        assert_eq!((unhex(b"0"), unhex(b"0g")), (None, None));
    }

    #[test]
    fn a_packet_without_an_end_is_not_waited_for() {
        let mut packets = Packets::default();
        packets.feed(b"$");
        for _ in 0..=PACKET_BYTES / 1024 {
            packets.feed(&[b'0'; 1024]);
        }
        assert_eq!(packets.next_packet(), Err(Garbled));
        let bomb: Vec<u8> = std::iter::once(b'0').chain(b"*~".repeat(4_000)).collect();
        assert_eq!(unpacked(&bomb), None);
    }

    proptest! {
        #[test]
        fn what_is_framed_is_read_however_it_is_torn(body in "[0-9a-zA-Z,:;.]{0,300}", at in any::<usize>()) {
            let whole = framed(&body);
            let (first, second) = whole.split_at(at % whole.len());
            let mut packets = Packets::default();
            packets.feed(first);
            prop_assert_eq!(packets.next_packet(), Ok(None));
            packets.feed(second);
            prop_assert_eq!(packets.next_packet(), Ok(Some(body.clone().into_bytes())));
            prop_assert_eq!(unhex(hex(&body).as_bytes()), Some(body.into_bytes()));
        }

        #[test]
        fn any_bytes_are_taken(chunks: Vec<Vec<u8>>) {
            let mut packets = Packets::default();
            for chunk in chunks {
                packets.feed(&chunk);
                while let Ok(Some(packet)) = packets.next_packet() {
                    prop_assert!(packet.len() <= PACKET_BYTES);
                }
            }
        }
    }
}
