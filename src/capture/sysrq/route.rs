//! The ways on which a key reaches the guest's kernel.

use crate::transport::mux::Wiring;
use std::fmt;

/// A way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Route {
    /// `^O` on the virtio console in focus.
    ControlO,
    /// BREAK through the multiplexer, on the front end that is next after the one in focus.
    BreakNext,
    /// BREAK by the monitor.
    BreakByMonitor,
    /// The keyboard of the machine, by the monitor.
    Keyboard,
    /// The root shell on the console, which the kernel's mask does not bind.
    Shell,
}

impl Route {
    /// In the order in which they are tried. A shell is not among them: it has to be known.
    pub(super) fn of(wiring: Wiring, has_monitor: bool) -> Vec<Self> {
        let console = match wiring {
            Wiring::Mux => [Self::ControlO, Self::BreakNext],
            Wiring::Plain => [Self::BreakByMonitor, Self::ControlO],
        };
        let all = console.into_iter().chain([Self::Keyboard]);
        let by_monitor = |route: &Self| matches!(route, Self::BreakByMonitor | Self::Keyboard);
        all.filter(|route| has_monitor || !by_monitor(route)).collect()
    }

    /// Whether what is pressed may be taken by a shell for typing, if the kernel does not take it.
    pub(super) fn types(self) -> bool {
        match self {
            Self::ControlO | Self::BreakNext | Self::BreakByMonitor => true,
            Self::Keyboard | Self::Shell => false,
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ControlO => "^O on the console",
            Self::BreakNext => "BREAK on the next front end of the console",
            Self::BreakByMonitor => "BREAK by the monitor",
            Self::Keyboard => "the machine's keyboard",
            Self::Shell => "the root shell on the console",
        })
    }
}
