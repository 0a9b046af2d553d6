//! The dictionaries that bundles are compressed with: what kernels, monitors and we ourselves say all the time.
//!
//! `hack/dictionary` has the recipe of each, and measures. Each has an id, which stands in what it compressed.
//! One that was ever shipped stays here for ever, byte for byte: evidence lies in stores for years.

/// A dictionary of zstd.
pub(crate) struct Dictionary {
    /// Its id, as its own header and the header of every frame have it: from the range that zstd leaves to
    /// everybody, and never used twice.
    pub(crate) id: u32,
    /// All of it.
    pub(crate) bytes: &'static [u8],
}

/// What bundles are compressed with today.
pub(crate) static LATEST: &Dictionary = &ALL[ALL.len() - 1];

/// All that were ever shipped, the oldest first.
static ALL: [Dictionary; 1] =
    [Dictionary { id: 40_001, bytes: include_bytes!("dictionary/40001.zdict") }];

impl Dictionary {
    /// The one with this id.
    pub(crate) fn find(id: u32) -> Option<&'static Self> {
        ALL.iter().find(|dictionary| dictionary.id == id)
    }

    #[cfg(test)]
    pub(crate) fn all() -> &'static [Self] {
        &ALL
    }
}
