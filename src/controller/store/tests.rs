//! The store by itself: opened once, read beside its owner, and migrated.

use super::*;

#[test]
fn two_controllers_do_not_share_a_directory() {
    let data = tempfile::tempdir().unwrap();
    let store = Store::open(data.path()).unwrap();
    assert!(matches!(Store::open(data.path()), Err(StoreError::Locked(_))));
    drop(store);
    assert!(Store::open(data.path()).is_ok());
}

#[test]
fn a_file_of_a_later_version_is_left_alone() {
    let data = tempfile::tempdir().unwrap();
    let store = Store::open(data.path()).unwrap();
    store.connection.pragma_update(None, "user_version", 1000).unwrap();
    drop(store);
    assert!(matches!(Store::open(data.path()), Err(StoreError::Newer(1000))));
    assert!(matches!(Reader::open(data.path()), Err(StoreError::Newer(1000))));
}

#[test]
fn looking_writes_nothing_whether_somebody_writes_or_not() {
    let data = tempfile::tempdir().unwrap();
    assert!(matches!(Reader::open(data.path()), Err(StoreError::Absent(_))));
    assert_eq!(fs::read_dir(data.path()).unwrap().count(), 0);

    let store = Store::open(data.path()).unwrap();
    let names = || {
        let entries = fs::read_dir(data.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = names();
    assert!(Reader::open(data.path()).unwrap().incidents().unwrap().is_empty());
    assert_eq!(names(), before);

    drop(store);
    let before = names();
    assert!(Reader::open(data.path()).unwrap().incidents().unwrap().is_empty());
    assert_eq!(names(), before);
}

#[test]
fn a_file_of_an_earlier_version_is_read_as_it_is_and_brought_up_to_date() {
    let data = tempfile::tempdir().unwrap();
    let store = Store::open(data.path()).unwrap();
    let first = "DROP TABLE bindings; DROP TABLE dumps; ALTER TABLE devices DROP COLUMN kept;
                 PRAGMA user_version = 1";
    store.connection.execute_batch(first).unwrap();
    drop(store);
    let device = "d-1".parse().unwrap();
    let reader = Reader::open(data.path()).unwrap();
    assert_eq!(reader.published(&device).unwrap(), None);
    assert!(reader.dumps().unwrap().is_empty() && reader.kept(&device).unwrap().is_none());
    drop(reader);
    // Whoever comes first, and whoever comes beside it.
    let beside = Bindings::open(data.path()).unwrap();
    let _store = Store::open(data.path()).unwrap();
    assert!(beside.numbers().unwrap().is_empty());
}
