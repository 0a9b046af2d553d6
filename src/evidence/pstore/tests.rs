//! Stores that are whole, spoiled, hostile, or none.

use super::written::{Dump, LAST_WORDS, erst, flash, panic};
use super::*;
use crate::evidence::kernel_log::ReportKind;
use proptest::prelude::*;

/// Every way in which a store holds the same dumps.
fn stores(dumps: &[Dump<'_>]) -> [(Store, Vec<u8>); 3] {
    [
        (Store::Erst, erst(dumps)),
        (Store::Efi, flash(dumps, true)),
        (Store::Efi, flash(dumps, false)),
    ]
}

fn read(store: Store, file: &[u8]) -> Vec<Record> {
    Records::of_file(store, file).unwrap().records
}

/// What Debian's cloud kernel 6.12 wrote into QEMU 7.2's `acpi-erst`, without the slots that stayed empty.
const RECORDED: &[u8] = include_bytes!("../../../tests/data/pstore/erst-6.12");

#[test]
fn a_store_of_a_real_guest_is_read() {
    let records = Records::of_file(Store::Erst, RECORDED).unwrap();
    let [record] = records.records.as_slice() else { panic!("{records:?}") };
    assert_eq!((record.reason.as_str(), record.whole, records.damaged), ("Panic", true, 0));
    assert_eq!(
        (record.at.to_string().as_str(), record.text.len()),
        ("2026-11-20T12:02:30Z", 27_342)
    );
    let log = record.log();
    assert_eq!(log.release.as_deref(), Some("6.12.117+deb12-cloud-amd64"));
    let [panic] = log.reports.as_slice() else { panic!("{:?}", log.reports) };
    assert_eq!(panic.reason, "lifesign_lab: asked to panic");
    assert_eq!(panic.trace.calls()[1].name(), "lab_panic");
}

#[test]
fn the_parts_of_a_panic_are_joined_in_order() {
    for deflated in [true, false] {
        for (store, file) in stores(&[Dump { deflated, ..panic(&LAST_WORDS) }]) {
            let records = Records::of_file(store, &file).unwrap();
            let [record] = records.records.as_slice() else { panic!("{records:?}") };
            assert_eq!((record.reason.as_str(), record.count, records.damaged), ("Panic", 1, 0));
            assert_eq!(record.at.to_string(), "2026-01-01T00:16:40Z");
            assert_eq!((record.whole, record.cleared), (true, false));
            assert_eq!(record.text, [LAST_WORDS[1], LAST_WORDS[0]].concat());
            let log = record.log();
            assert_eq!(log.release.as_deref(), Some("6.12.0-amd64"));
            assert_eq!(log.reports[0].kind, ReportKind::Panic);
            assert_eq!(log.reports[0].trace.calls()[1].name(), "sysrq_handle_crash");
            assert_eq!(Records::read(&records.to_bytes()), records);
        }
    }
}

#[test]
fn an_oops_and_a_panic_of_one_boot_are_two() {
    let oops = Dump { reason: "Oops", ..panic(&["<1>BUG: x\n"]) };
    let after = Dump { count: 2, seconds: oops.seconds + 1, ..panic(&LAST_WORDS) };
    for (store, file) in stores(&[oops, after]) {
        let records = read(store, &file);
        let said: Vec<(&str, u32)> = records.iter().map(|r| (r.reason.as_str(), r.count)).collect();
        assert_eq!(said, [("Oops", 1), ("Panic", 2)]);
    }
}

#[test]
fn a_guest_that_panics_at_every_boot_leaves_a_record_of_each() {
    let boots: Vec<Dump<'_>> =
        [0, 20, 40].map(|s| Dump { seconds: 1_767_226_600 + s, ..panic(&LAST_WORDS) }).into();
    for (store, file) in stores(&boots) {
        let records = read(store, &file);
        assert_eq!(records.len(), 3, "{store:?}");
        assert!(records.iter().all(|record| record.whole));
    }
}

#[test]
fn what_was_cleared_is_there_until_its_place_is_taken() {
    let old = Dump { cleared: true, ..panic(&LAST_WORDS) };
    let new = Dump { seconds: old.seconds + 3600, ..panic(&LAST_WORDS) };
    for (store, file) in stores(&[old, new]) {
        let cleared: Vec<bool> = read(store, &file).iter().map(|record| record.cleared).collect();
        assert_eq!(cleared, [true, false]);
    }
}

#[test]
fn a_store_that_is_full_says_so() {
    let three = panic(&["a\n", "b\n", "c\n"]);
    let more = Dump { count: 2, parts: &["a\n"; 4], ..three.clone() };
    let full = |dumps: &[Dump<'_>]| Records::of_file(Store::Erst, &erst(dumps)).unwrap().full;
    assert!(full(&[three.clone(), more.clone()]));
    assert!(!full(&[Dump { cleared: true, ..three.clone() }, more]));
    assert!(!full(&[three]) && !full(&[]));
}

#[test]
fn a_variable_that_is_there_twice_is_one() {
    let once = panic(&LAST_WORDS);
    let image = flash(&[once.clone(), once], true);
    assert_eq!(read(Store::Efi, &image).len(), 1);
}

#[test]
fn a_torn_part_gives_what_there_is_of_it() {
    let dump = panic(&LAST_WORDS);
    let mut file = erst(std::slice::from_ref(&dump));
    let first = &mut file[8192..16384];
    let length = u32::from_le_bytes(first[132..136].try_into().unwrap()) as usize;
    file[8192 + 200 + length / 2..16384].fill(0);
    let record = &read(Store::Erst, &file)[0];
    assert!(!record.whole && record.text.starts_with(LAST_WORDS[1]));
    assert!(record.text.contains("Trigger a crash"), "{}", record.text);
    // A part of which not even the beginning is there.
    file[8192 + 200..16384].fill(0xff);
    let records = Records::of_file(Store::Erst, &file).unwrap();
    assert_eq!((records.damaged, records.records[0].whole), (1, false));
    assert_eq!(records.records[0].text, LAST_WORDS[1]);
    // The file ends in the midst of the second one.
    let file = erst(&[dump]);
    let records = Records::of_file(Store::Erst, &file[..2 * 8192 + 210]).unwrap();
    assert_eq!((records.damaged, records.records[0].text.as_str()), (1, LAST_WORDS[0]));
}

#[test]
fn what_is_no_store_is_told() {
    let said = |store, file: &[u8]| Records::of_file(store, file).unwrap_err().to_string();
    insta::assert_snapshot!(
        [
            said(Store::Erst, b""),
            said(Store::Erst, b"\x7fELF and more"),
            {
                let mut file = erst(&[]);
                file[8..12].copy_from_slice(&100_u32.to_le_bytes());
                said(Store::Erst, &file)
            },
            said(Store::Efi, b"QFI\xfb\0\0\0\x03"),
            said(Store::Efi, &[0xff; 8192]),
        ]
        .join("\n"),
        @r"
    it is no store of QEMU's `acpi-erst`: it does not begin with ERSTSTOR
    it is no store of QEMU's `acpi-erst`: it does not begin with ERSTSTOR
    its header is of no store that QEMU knows (version 0x100, records of 100 bytes)
    it is a qcow2 image, and only raw ones are read
    it has no variables of a UEFI firmware
    "
    );
    assert_eq!(Records::of_file(Store::Erst, &[0; 65536]), Ok(Records::default()));
    assert_eq!(Records::of_file(Store::Efi, &flash(&[], true)), Ok(Records::default()));
}

#[test]
fn a_bomb_has_bounds() {
    let long = "<6>[    1.000000] x\n".repeat(100_000);
    let dump = panic(&[]);
    let bombs: Vec<Dump<'_>> = (0..40).map(|n| Dump { count: n, ..dump.clone() }).collect();
    let parts = [long.as_str(); 4];
    let bombs: Vec<Dump<'_>> =
        bombs.into_iter().map(|bomb| Dump { parts: &parts, ..bomb }).collect();
    for (store, file) in stores(&bombs) {
        let records = read(store, &file);
        assert!(!records.is_empty() && records.len() <= limits::RECORDS);
        assert!(records.iter().all(|record| record.text.len() <= limits::RECORD_BYTES));
        assert!(records.iter().all(|record| !record.whole));
    }
}

proptest! {
    #[test]
    fn any_bytes_are_taken(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
        for store in [Store::Erst, Store::Efi] {
            Records::of_file(store, &bytes).ok();
        }
        prop_assert!(Records::read(&bytes).records.is_empty());
    }

    /// Stores of which anything may be spoiled: near the headers most is decided.
    #[test]
    fn spoiled_stores_are_taken(
        which in 0_usize..3,
        spoils in prop::collection::vec((prop_oneof![0_usize..600, 8192_usize..8500, any::<usize>()], any::<u8>()), 1..20),
        end in prop_oneof![0_usize..20_000, Just(usize::MAX)],
    ) {
        let dumps = [panic(&LAST_WORDS)];
        let (store, mut file) = match which {
            0 => (Store::Erst, erst(&dumps)),
            _ => (Store::Efi, flash(&dumps, which == 1)),
        };
        for (at, byte) in spoils {
            let at = at % file.len();
            file[at] = byte;
        }
        file.truncate(end);
        if let Ok(records) = Records::of_file(store, &file) {
            for record in &records.records {
                prop_assert!(record.text.len() <= 3 * limits::RECORD_BYTES);
                let log = record.log();
                prop_assert!(log.reports.len() <= record.text.len());
            }
        }
    }
}
