//! Numbers and names in somebody else's bytes.

/// A name of 128 bits, as it stands in a file.
pub(super) type Guid = [u8; 16];

/// Of a name as it is written, `c197e04e-d545-..`: its first three parts stand backwards in a file.
pub(super) const fn guid(written: u128) -> Guid {
    let [a, b, c, d, e, f, g, h, rest @ ..] = written.to_be_bytes();
    let [i, j, k, l, m, n, o, p] = rest;
    [d, c, b, a, f, e, h, g, i, j, k, l, m, n, o, p]
}

/// The bytes that stand there, if there are so many.
pub(super) fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

pub(super) fn u16(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_le_bytes)
}

pub(super) fn u32(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_le_bytes)
}

pub(super) fn u64(bytes: &[u8], at: usize) -> Option<u64> {
    array(bytes, at).map(u64::from_le_bytes)
}

/// The same as a place or a length.
pub(super) fn size(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u32(bytes, at)?).ok()
}

/// From there on, so many bytes or what there is of them.
pub(super) fn most(bytes: &[u8], at: usize, length: usize) -> &[u8] {
    let from = bytes.get(at..).unwrap_or_default();
    from.get(..length).unwrap_or(from)
}
