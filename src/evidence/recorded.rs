//! What real guests left behind, for tests: `tests/data/console/<fault>-<kernel>/`;
//! and what monitors told.

macro_rules! bytes {
    ($case:literal, $file:literal) => {
        include_bytes!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/data/console/",
            $case,
            "/",
            $file
        ))
        .as_slice()
    };
}
pub(crate) use bytes;

/// What a monitor of QEMU 7.2 told of a machine with one of everything, whose CPUs never ran.
pub(crate) const MONITOR: &[u8] =
    include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/qmp/q35-7.2.json"));
