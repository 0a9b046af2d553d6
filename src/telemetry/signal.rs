//! The wish to stop.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

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

/// Waits until a task is told to stop: the channel turns true, or whoever could turn it is gone.
pub async fn told(stop: &mut watch::Receiver<bool>) {
    // What is borrowed from the channel is let go of here, so that a task may wait for other things
    // while it waits for this.
    stop.wait_for(|stop| *stop).await.ok();
}
