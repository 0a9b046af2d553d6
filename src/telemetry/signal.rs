//! The wish to stop.

use tokio::signal::unix::{SignalKind, signal};

/// Waits until somebody asks the program to stop: SIGTERM, or SIGINT from a terminal.
///
/// # Errors
///
/// When the kernel does not let us listen for signals.
pub async fn stopped() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
