//! What may be written to a console socket.
//!
//! On EVE the console is a QEMU multiplexer: the byte 0x01 is its escape, `01 78` ends QEMU, `01 63`
//! turns the keyboard focus to the next front end and leaves it there. So nothing reaches the socket
//! but [`Keys`], and only this file makes them: text with every 0x01 doubled, and the escapes that do
//! no harm.
//!
//! Pure: bytes in, bytes out.

/// What is at the other end of a console socket.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Wiring {
    /// A multiplexer. Also what is assumed while nobody told: a doubled 0x01 harms no plain line,
    /// a single one ends a multiplexed guest.
    #[default]
    Mux,
    /// The guest's line itself: 0x01 is a byte like another.
    Plain,
}

/// Bytes that are safe to write to a console socket of one wiring.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Keys(Vec<u8>);

const ESCAPE: u8 = 0x01;

impl Wiring {
    /// These bytes for the guest, whatever they are.
    #[must_use]
    pub fn text(self, bytes: &[u8]) -> Keys {
        let mut keys = Vec::with_capacity(bytes.len() + 1);
        for byte in bytes {
            if *byte == ESCAPE && self == Self::Mux {
                keys.push(ESCAPE);
            }
            keys.push(*byte);
        }
        Keys(keys)
    }

    /// Turns the keyboard focus to the next front end. Only a multiplexer has any.
    #[must_use]
    pub fn rotate(self) -> Option<Keys> {
        (self == Self::Mux).then(|| Keys(vec![ESCAPE, b'c']))
    }

    /// A serial BREAK and a key to the front end that is next after the one in focus, and the focus
    /// turned back, all in one: whoever dies after the write leaves no focus turned. It takes a
    /// multiplexer of two front ends, as EVE's is. A plain socket has no way to carry a BREAK.
    #[must_use]
    pub fn break_next(self, key: u8) -> Option<Keys> {
        self.next(&[&[ESCAPE, b'b'], self.text(&[key]).as_bytes()].concat())
    }

    /// Text for the same front end, likewise.
    #[must_use]
    pub fn text_next(self, bytes: &[u8]) -> Option<Keys> {
        self.next(self.text(bytes).as_bytes())
    }

    fn next(self, keys: &[u8]) -> Option<Keys> {
        let turn = [ESCAPE, b'c'];
        (self == Self::Mux).then(|| Keys([&turn[..], keys, &turn].concat()))
    }
}

impl Keys {
    /// The bytes for the socket.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What QEMU's multiplexer does with its input (`chardev/char-mux.c`).
    fn mux(bytes: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let (mut typed, mut commands, mut escaped) = (Vec::new(), Vec::new(), false);
        for byte in bytes {
            match (escaped, *byte) {
                (false, ESCAPE) => escaped = true,
                (true, ESCAPE) | (false, _) => {
                    typed.push(*byte);
                    escaped = false;
                }
                (true, command) => {
                    commands.push(command);
                    escaped = false;
                }
            }
        }
        (typed, commands)
    }

    proptest! {
        #[test]
        fn text_reaches_the_guest_as_it_is_and_is_never_a_command(bytes: Vec<u8>) {
            let keys = Wiring::Mux.text(&bytes);
            prop_assert_eq!(mux(keys.as_bytes()), (bytes.clone(), Vec::new()));
            let keys = Wiring::Plain.text(&bytes);
            prop_assert_eq!(keys.as_bytes(), &bytes);
        }
    }

    #[test]
    fn escapes_are_commands_that_do_no_harm() {
        let keys = Wiring::Mux.rotate().unwrap();
        assert_eq!(mux(keys.as_bytes()), (vec![], vec![b'c']));
        let keys = Wiring::Mux.break_next(b'h').unwrap();
        assert_eq!(mux(keys.as_bytes()), (vec![b'h'], vec![b'c', b'b', b'c']));
        let keys = Wiring::Mux.text_next(&[ESCAPE, b'h']).unwrap();
        assert_eq!(mux(keys.as_bytes()), (vec![ESCAPE, b'h'], vec![b'c', b'c']));
        let plain = Wiring::Plain;
        assert!(plain.rotate().is_none() && plain.break_next(b'h').is_none());
        assert!(plain.text_next(b"h").is_none());
    }
}
