//! What real guests left behind, for tests: `tests/data/console/<fault>-<kernel>/`.

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
