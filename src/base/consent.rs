//! What may be done to a guest.

use std::fmt;

/// A rising scale; each consent includes those below it.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub enum Consent {
    /// Read what the guest emits anyway.
    Observe,
    /// Ask the hypervisor and read memory: the guest cannot notice.
    #[default]
    Query,
    /// Type on the console, press SysRq.
    Input,
    /// Stop it for a dump or a debugger.
    Pause,
    /// Send it a non-maskable interrupt.
    Nmi,
    /// Restart it.
    Reset,
}

impl Consent {
    /// All of them, rising.
    pub const ALL: [Self; 6] =
        [Self::Observe, Self::Query, Self::Input, Self::Pause, Self::Nmi, Self::Reset];

    /// The word for it in a binding.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Query => "query",
            Self::Input => "input",
            Self::Pause => "pause",
            Self::Nmi => "nmi",
            Self::Reset => "reset",
        }
    }
}

impl fmt::Display for Consent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}
