//! A store over restarts, quotas, and writers that die.

use super::*;
use std::os::unix::fs::FileExt;

const QUOTA: Quota = Quota { bytes: Some(10_000), dumps: 3 };

fn open(directory: &Path) -> Kept {
    Kept::open(directory, QUOTA, 0).unwrap()
}

fn name(text: &str) -> DumpName {
    text.parse().unwrap()
}

fn facts(taken: i64) -> Facts {
    let taken = Timestamp::from_millis(taken);
    Facts { app: "web".to_owned(), taken, format: "elf".to_owned(), ram: 1 << 20 }
}

fn keep(kept: &Kept, text: &str, taken: i64, bytes: &[u8]) -> Item {
    let begun = kept.begin(name(text), 4000).unwrap();
    begun.file().write_all_at(bytes, 0).unwrap();
    begun.finish(facts(taken)).unwrap()
}

fn names(kept: &Kept) -> Vec<String> {
    kept.list().unwrap().iter().map(|item| item.name.to_string()).collect()
}

fn files(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut files: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    files
}

#[test]
fn a_dump_is_kept_over_restarts_and_given_back() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("dumps");
    let kept = open(&directory);
    let item = keep(&kept, "web-1", 7, b"the memory");
    assert_eq!((item.bytes, item.sha256), (10, Digest::of(b"the memory")));
    let again = open(&directory);
    assert_eq!(again.list().unwrap(), [item]);
    let mut bytes = Vec::new();
    again.reader(&name("web-1")).unwrap().read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, b"the memory");
    let used = fs::metadata(directory.join("web-1.dump")).unwrap().blocks() * 512;
    assert!(used <= 4096, "what was reserved is given back: {used}");
    assert!(again.begin(name("web-1"), 1).is_err(), "a dump is never written over");
    again.remove(&name("web-1")).unwrap();
    assert_eq!(files(&directory), Vec::<String>::new());
    assert!(again.reader(&name("web-1")).is_err() && again.remove(&name("web-1")).is_err());
}

#[test]
fn the_oldest_goes_first_and_what_cannot_fit_costs_none() {
    let place = tempfile::tempdir().unwrap();
    let kept = open(place.path());
    keep(&kept, "b", 1, &[0; 4000]);
    keep(&kept, "a", 2, &[0; 4000]);
    keep(&kept, "c", 3, &[0; 2000]);
    assert_eq!(names(&kept), ["a", "c"]);
    keep(&kept, "d", 4, b"");
    keep(&kept, "e", 5, b"");
    assert_eq!(names(&kept), ["c", "d", "e"], "three at most");
    let refused = kept.begin(name("f"), 10_001).unwrap_err();
    assert!(matches!(refused, Refused::Large { worst: 10_001, quota: 10_000 }), "{refused}");
    assert_eq!(names(&kept), ["c", "d", "e"]);
    let full = Kept::open(place.path(), QUOTA, 100).unwrap();
    assert!(matches!(full.begin(name("f"), 1), Err(Refused::Disk { .. })));
    assert_eq!(names(&kept), ["c", "d", "e"]);
}

#[test]
fn room_that_was_taken_is_nobody_elses() {
    let place = tempfile::tempdir().unwrap();
    let kept = open(place.path());
    let begun = kept.begin(name("a"), 8000).unwrap();
    assert!(matches!(kept.begin(name("b"), 4000), Err(Refused::Busy { .. })));
    drop(begun);
    assert_eq!(files(place.path()), Vec::<String>::new(), "given up");
    kept.begin(name("b"), 4000).unwrap();
}

#[test]
fn what_was_not_finished_is_removed_but_not_under_whoever_writes() {
    let place = tempfile::tempdir().unwrap();
    let kept = open(place.path());
    let item = keep(&kept, "whole", 1, b"whole");
    let begun = kept.begin(name("begun"), 4000).unwrap();
    // As the hypervisor has it, when we are killed.
    let theirs = begun.file().try_clone().unwrap();
    std::mem::forget(begun);
    // One that was killed between the last two steps of `finish`.
    fs::write(place.path().join("late.part"), b"whole as well").unwrap();
    fs::write(place.path().join("late.json"), b"{").unwrap();
    let with = ["begun.part", "whole.dump", "whole.json"];
    let kept = open(place.path());
    assert_eq!(
        (files(place.path()), kept.list().unwrap()),
        (with.map(str::to_owned).into(), vec![item])
    );
    theirs.unlock().unwrap();
    drop(theirs);
    // A store that was open all along finds that out, too, before it counts what it holds.
    kept.begin(name("next"), 8000).unwrap();
    assert_eq!(files(place.path()), with[1..]);
}

#[test]
fn what_is_not_ours_is_neither_listed_nor_removed() {
    let place = tempfile::tempdir().unwrap();
    let kept = open(place.path());
    keep(&kept, "a", 1, b"a");
    keep(&kept, "b", 2, b"b");
    fs::write(place.path().join("a.dump"), b"longer").unwrap();
    fs::write(place.path().join("b.json"), b"rubbish").unwrap();
    fs::write(place.path().join("notes.txt"), b"a person's").unwrap();
    fs::create_dir(place.path().join("x.dump")).unwrap();
    let before = files(place.path());
    assert_eq!(names(&open(place.path())), Vec::<String>::new());
    assert_eq!(files(place.path()), before);
}
