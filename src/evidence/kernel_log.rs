//! Kernel reports in console text.

/// What the kernel reported on the console.
#[derive(Clone, Debug, Default)]
pub struct KernelLog {}

impl KernelLog {
    /// Reads console bytes.
    #[must_use]
    pub fn read(_bytes: &[u8]) -> Self {
        Self::default()
    }
}
