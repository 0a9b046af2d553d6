//! The bytes of ARP over Ethernet.
//!
//! Pure.

use std::net::Ipv4Addr;

/// An Ethernet address.
pub(super) type Mac = [u8; 6];

/// ARP.
pub(super) const ETHERTYPE: u16 = 0x0806;

const FRAME: usize = 42;
const REQUEST: u8 = 1;
const REPLY: u8 = 2;

/// Who has `wanted`? Tell `mac`.
pub(super) fn request(mac: Mac, own: Ipv4Addr, wanted: Ipv4Addr) -> [u8; FRAME] {
    let mut frame = [0; FRAME];
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&mac);
    frame[12..14].copy_from_slice(&ETHERTYPE.to_be_bytes());
    // Ethernet with addresses of 6 bytes, IPv4 with addresses of 4.
    frame[14..20].copy_from_slice(&[0, 1, 8, 0, 6, 4]);
    frame[21] = REQUEST;
    frame[22..28].copy_from_slice(&mac);
    frame[28..32].copy_from_slice(&own.octets());
    frame[38..].copy_from_slice(&wanted.octets());
    frame
}

/// Whether this tells `mac` who has `wanted`.
pub(super) fn is_answer(frame: &[u8], mac: Mac, wanted: Ipv4Addr) -> bool {
    frame.get(12..14) == Some(&ETHERTYPE.to_be_bytes())
        && frame.get(14..22) == Some(&[0, 1, 8, 0, 6, 4, 0, REPLY])
        && frame.get(28..32) == Some(&wanted.octets())
        && frame.get(32..38) == Some(&mac)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OURS: Mac = [2, 0, 0, 0, 0, 1];
    const WANTED: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

    #[test]
    fn an_answer_is_for_us_and_of_whom_we_asked() {
        let asked = request(OURS, Ipv4Addr::new(10, 0, 0, 1), WANTED);
        assert!(!is_answer(&asked, OURS, WANTED));
        let mut answer = request([2, 0, 0, 0, 0, 2], WANTED, Ipv4Addr::new(10, 0, 0, 1));
        answer[21] = REPLY;
        answer[32..38].copy_from_slice(&OURS);
        assert!(is_answer(&answer, OURS, WANTED));
        assert!(!is_answer(&answer, [9; 6], WANTED));
        assert!(!is_answer(&answer, OURS, Ipv4Addr::new(10, 0, 0, 3)));
    }

    proptest! {
        #[test]
        fn any_frame_is_survived(frame in proptest::collection::vec(any::<u8>(), 0..64)) {
            assert!(!is_answer(&frame, OURS, WANTED) || frame.len() >= 38);
        }
    }
}
