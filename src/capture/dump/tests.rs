//! Against a hypervisor that dumps, fails to, or does not let its guest go on.

use super::*;
use crate::base::id::Digest;
use crate::capture::fake::{Fake, Manner, files};
use crate::capture::progress;
use crate::spool::kept::Quota;
use std::sync::Mutex;

async fn dumped(fake: &Fake, quota: u64) -> (Outcome, String, Vec<u8>) {
    let quota = Quota { bytes: Some(quota), dumps: 2 };
    let kept = Kept::open(&fake.path("dumps"), quota, 0).unwrap();
    let (app, qmp) = ("my web".to_owned(), Some(fake.path("qmp")));
    let target = Target { app, qmp, kept: Some(kept), ..Target::default() };
    let told = Mutex::new(Vec::new());
    let tell = |progress: progress::Progress| told.lock().unwrap().push(progress.percent);
    let meter = Meter::new(1, &tell);
    let capture = take(&target, Instant::now() + Duration::from_secs(60), &meter).await;
    let step = &capture.steps[0];
    assert_eq!((step.name.as_str(), capture.artifacts.len()), ("dump", 0));
    (step.outcome, step.reason.clone(), told.into_inner().unwrap())
}

#[tokio::test]
async fn a_dump_is_kept_and_the_guest_runs_again() {
    let fake = Fake::new(Manner::GOOD);
    let (outcome, reason, told) = dumped(&fake, 1 << 30).await;
    assert_eq!(outcome, Outcome::Done, "{reason}");
    assert_eq!(told, [0, 25, 50]);
    assert_eq!(fake.did(), ["getfd", "dump-guest-memory"], "no `cont` where none is needed");
    let kept = Kept::open(&fake.path("dumps"), Quota::STANDARD, 0).unwrap();
    let items = kept.list().unwrap();
    let Item { name, app, bytes, sha256, format, ram, .. } = &items[0];
    assert!(name.as_str().starts_with("my-web-2") && name.as_str().ends_with('Z'), "{name}");
    assert_eq!(
        (app.as_str(), *bytes, format.as_str(), *ram),
        ("my web", 14, "kdump-zlib", 1 << 20)
    );
    assert_eq!(*sha256, Digest::of(b"all the memory"));
    let said = format!("kept on the device as {name}: 14 bytes, kdump-zlib, SHA-256 {sha256}; ");
    assert!(reason.starts_with(&said) && reason.contains("stood still for"), "{reason}");
}

#[tokio::test]
async fn no_guest_is_stopped_for_a_dump_that_may_not_fit() {
    let fake = Fake::new(Manner::GOOD);
    let (outcome, reason, _) = dumped(&fake, 1 << 20).await;
    assert_eq!(outcome, Outcome::Refused);
    let figures = "the dump may have 18 MiB, and 1 MiB are set apart for dumps; raise `quota`";
    assert!(reason.starts_with(figures), "{reason}");
    assert_eq!(fake.did(), Vec::<String>::new());
    let away = Fake::new(Manner { state: "inmigrate", ..Manner::GOOD });
    let (outcome, reason, _) = dumped(&away, 1 << 30).await;
    assert_eq!(outcome, Outcome::Skipped, "{reason}");
    assert_eq!((away.did(), files(&away.path("dumps"))), (Vec::new(), Vec::new()));
}

#[tokio::test]
async fn nothing_is_kept_of_one_that_failed() {
    let fake = Fake::new(Manner { dump: None, ..Manner::GOOD });
    let (outcome, reason, _) = dumped(&fake, 1 << 30).await;
    assert_eq!(outcome, Outcome::Failed);
    assert!(reason.contains("failed to write the dump"), "{reason}");
    assert_eq!(files(&fake.path("dumps")), Vec::<String>::new());
}

#[tokio::test]
async fn a_guest_that_is_left_standing_is_let_go_on() {
    let fake = Fake::new(Manner { resumes: false, ..Manner::GOOD });
    let (outcome, reason, _) = dumped(&fake, 1 << 30).await;
    assert_eq!(outcome, Outcome::Done, "{reason}");
    assert_eq!(fake.did(), ["getfd", "dump-guest-memory", "cont"]);
    // One that stood still before stays so: it is not for us to start it.
    let paused = Fake::new(Manner { state: "paused", resumes: false, ..Manner::GOOD });
    let (_, reason, _) = dumped(&paused, 1 << 30).await;
    assert!(reason.ends_with("the run state of the guest is `save-vm`, and was `paused` before"));
    assert_eq!(paused.did(), ["getfd", "dump-guest-memory"]);
}

#[test]
fn a_disk_that_completes_nothing_is_no_time_for_a_dump() {
    let disk = |in_flight, idle| Disk { in_flight, idle, ..Disk::default() };
    let hung = |disk: Disk| {
        let disks = [("vda".to_owned(), vec![disk])].into();
        hung_disk(&Qmp { disks, ..Qmp::default() })
    };
    let long = Some(Duration::from_secs(9));
    assert_eq!(hung(disk(Some(1), long)).as_deref(), Some("vda"));
    assert_eq!(hung(disk(Some(1), None)).as_deref(), Some("vda"));
    for well in [disk(Some(0), long), disk(None, long), disk(Some(1), Some(Duration::ZERO))] {
        assert_eq!(hung(well), None);
    }
}

#[test]
fn a_name_is_made_of_whatever_an_app_is_called() {
    let at = Timestamp::from_millis(1_700_000_000_123);
    let name = |app| name(app, at).unwrap().to_string();
    assert_eq!(name("web"), "web-20231114T221320Z");
    assert_eq!(name("../../etc"), "-..-etc-20231114T221320Z");
    assert_eq!(name(""), "app-20231114T221320Z");
    assert_eq!(name("é日"), "---20231114T221320Z");
    assert_eq!(name(&"x".repeat(99)).len(), 57);
}
