//! Apps that are found without being listed.

use super::lab::Guest;
use lifesign::binding::source::{Kind, Source};
use lifesign::binding::{Change, Registry};
use lifesign::hypervisor::qmp::Monitor;
use serde_json::json;
use std::time::Duration;
use tokio::time::{Instant, timeout};

const SOON: Duration = Duration::from_secs(10);

#[test]
fn a_guest_is_found_by_its_monitor_and_restarts_and_goes() {
    let directory = tempfile::tempdir().unwrap();
    let guest = Guest::up("i3b-found", &["--wiring", "eve"]);
    let home = guest.file("");
    let text = |name: &str| std::fs::read_to_string(guest.file(name)).unwrap().trim().to_owned();
    let (uuid, pid) = (text("uuid"), text("pid").parse().unwrap());
    std::os::unix::fs::symlink(home, directory.path().join("web")).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut source = Source::new(&Kind::Monitors(directory.path().to_owned()));
        let mut registry = Registry::new(1);
        let begun = Instant::now();
        let seen = timeout(SOON, source.next()).await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        let changes = registry.update(0, seen.apps);
        let [Change::Appeared(app)] = &changes[..] else { panic!("{changes:?}") };
        assert_eq!((app.name.as_str(), app.id.to_string()), ("i3b-found", uuid.clone()));
        assert_eq!(app.life.pid, Some(pid));
        assert!(app.console.is_some() && app.console_log.is_some());

        // The monitor is free again for whoever else asks.
        let mut monitor = Monitor::connect(app.qmp.as_ref().unwrap()).await.unwrap();
        let status = monitor.ask("query-status", json!({})).await.unwrap();
        assert_eq!(status["status"], "running");
        drop(monitor);

        drop(guest);
        let seen = timeout(SOON, source.next()).await.unwrap();
        let app = app.id;
        assert_eq!(registry.update(0, seen.apps), [Change::Gone(app)]);

        let _again = Guest::up("i3b-found", &["--wiring", "eve"]);
        // It may be caught while it starts, and be asked again when it is up.
        let found = async {
            loop {
                let changes = registry.update(0, source.next().await.apps);
                if let [Change::Appeared(app)] = &changes[..] {
                    break app.clone();
                }
            }
        };
        let found = timeout(4 * SOON, found).await.unwrap();
        assert_eq!(found.id, app);
        assert_ne!(found.life.pid, Some(pid));
    });
}
