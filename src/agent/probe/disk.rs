//! Asks an app's disks: by the hypervisor's counters, and by a record that the guest writes.

use super::{
    Answer, App, BTreeMap, Chain, Clock, Duration, Finding, Heartbeat, Instant, Progress, Rung,
};
use crate::base::limits;
use crate::evidence::qmp::disks::{self, Disks};
use crate::hypervisor::blocks::Demand;
use crate::hypervisor::qmp::{AskError, Monitor};
use serde_json::json;

/// Whether something was written lately.
pub(super) async fn written(app: &App, progress: &mut Progress, demand: &Demand<'_>) -> Finding {
    let Some(path) = &app.qmp else {
        return Finding::unknown(Rung::Storage, "the app's monitor is not known: bind `qmp`");
    };
    let mut monitor = match Monitor::connect(path).await {
        Ok(monitor) => monitor,
        Err(error) => return Finding::unknown(Rung::Storage, Chain(&error).to_string()),
    };
    match counted(&mut monitor).await {
        Ok(disks) => progress.judge(&disks, demand, Clock::now()),
        Err(error) => Finding::unknown(Rung::Storage, Chain(&error).to_string()),
    }
}

async fn counted(monitor: &mut Monitor) -> Result<Disks, AskError> {
    let mut disks = disks::disks(&monitor.ask("query-blockstats", json!({})).await?);
    // Hypervisors before 7.2 do not know their queues; then nothing is known to be in flight.
    let Ok(virtio) = monitor.ask("x-query-virtio", json!({})).await else { return Ok(disks) };
    for path in disks::queued(&virtio, &disks) {
        for queue in 0..limits::DISK_QUEUES {
            let which = json!({ "path": path, "queue": queue });
            match monitor.ask("x-query-virtio-queue-status", which).await {
                Ok(status) => disks::add_queue(disks.values_mut(), &path, &status),
                Err(_) => break,
            }
        }
    }
    Ok(disks)
}

/// Whether the guest renewed its record on the disk that it calls `device`.
pub(super) async fn heartbeat(
    app: &App,
    heartbeats: &mut BTreeMap<String, Heartbeat>,
    (device, within): (&str, Duration),
    deadline: Instant,
) -> Finding {
    let Some(disk) = number(device).and_then(|number| app.disks.get(number)) else {
        let reason = format!("which disk is `{device}` is not known: {} are", app.disks.len());
        return Finding::unknown(Rung::Storage, reason);
    };
    let heartbeat =
        heartbeats.entry(device.to_owned()).or_insert_with(|| Heartbeat::new(&disk.path, 0));
    let finding = heartbeat.ask(within, deadline).await;
    debug_assert!(finding.rung == Rung::Storage || finding.answer == Answer::Unknown);
    finding
}

/// `vda` is the first disk.
fn number(device: &str) -> Option<usize> {
    let [.., letter @ b'a'..=b'z'] = device.as_bytes() else { return None };
    device.starts_with("vd").then(|| usize::from(letter - b'a'))
}
