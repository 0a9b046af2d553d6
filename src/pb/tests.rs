//! Nothing that was ever on the wire changes its number, its name or its type.
//!
//! `tests/data/wire.txt` is what was. Whoever adds to `proto/` adds to it by
//! `LIFESIGN_WIRE_WRITE=yes cargo test --lib pb::`, which refuses whatever an older reader would misread.

use std::collections::BTreeSet;

const KEPT: &str = "tests/data/wire.txt";
const NOW: &str = include_str!(concat!(env!("OUT_DIR"), "/wire.txt"));

#[test]
fn what_was_on_the_wire_stays_as_it_was() {
    let kept = std::fs::read_to_string(KEPT).unwrap();
    let broken = broken(&kept, NOW);
    assert!(broken.is_empty(), "an older reader would misread this:\n{}", broken.join("\n"));
    if std::env::var_os("LIFESIGN_WIRE_WRITE").is_some() {
        std::fs::write(KEPT, NOW).unwrap();
        return;
    }
    let added: Vec<&str> = lines(NOW).difference(&lines(&kept)).copied().collect();
    let how = "LIFESIGN_WIRE_WRITE=yes cargo test --lib pb::";
    assert!(added.is_empty(), "new, and for ever if `{how}` keeps it:\n{}", added.join("\n"));
}

#[test]
fn every_way_to_be_misread_is_caught() {
    const STEP: &str = "lifesign.v1.Step 3 reason: string";
    assert_eq!(broken(NOW, NOW), Vec::<String>::new());
    assert!(NOW.contains(STEP), "choose another field to play with");
    // As it was, as it is, and what is wrong with it.
    let cases = [
        ("3 reason: string", "13 reason: string", "is gone, and its number is not reserved"),
        ("3 reason: string", "3 reason: bytes", "is now `lifesign.v1.Step 3 reason: bytes`"),
        ("3 reason: string", "3 cause: string", "is now `lifesign.v1.Step 3 cause: string`"),
        ("3 reason: string", "3 reason: repeated string", "is now"),
        ("3 reason: string", "3 reason: string oneof why", "is now"),
        ("3 reason: string", "3 reserved", "is gone, and its name is not reserved"),
        ("3 reason: string", "reason reserved", "is gone, and its number is not reserved"),
    ];
    for (was, is, wrong) in cases {
        let prefix = |text| format!("lifesign.v1.Step {text}\n");
        let found = broken(NOW, &NOW.replace(&prefix(was), &prefix(is)));
        assert_eq!(found.len(), 1, "{is}: {found:?}");
        assert!(found[0].contains(wrong), "{is}: {found:?}");
    }
    let gone: Vec<&str> = NOW.lines().filter(|line| !line.contains("v1.Range ")).collect();
    assert_eq!(broken(NOW, &gone.join("\n")).len(), 3, "the message, and both of its fields");
    let word = "lifesign.v1.Outcome 3 OUTCOME_REFUSED";
    let other = NOW.replace(word, "lifesign.v1.Outcome 3 OUTCOME_MOVED");
    assert_eq!(broken(NOW, &other).len(), 1);
    let reused = NOW.replace("AuthContainer 6 reserved", "AuthContainer 6 cipher: bytes");
    assert_eq!(broken(NOW, &reused).len(), 1);
}

#[test]
fn more_may_come_and_what_goes_is_reserved() {
    let more = format!("{NOW}lifesign.v1.Step 99 mood: string\n");
    assert_eq!(broken(NOW, &more), Vec::<String>::new());
    let field = "lifesign.v1.Step 3 reason: string";
    let reserved = "lifesign.v1.Step 3 reserved\nlifesign.v1.Step reason reserved";
    assert_eq!(broken(NOW, &NOW.replace(field, reserved)), Vec::<String>::new());
}

/// Every enum has a zero that means unknown, and guests' bytes are never text.
#[test]
fn the_rules_of_the_wire_hold() {
    let enums = NOW.lines().filter_map(|line| line.strip_suffix(" is an enum"));
    for name in enums {
        let zero = NOW.lines().find(|line| line.starts_with(&format!("{name} 0 ")));
        let unknown = zero.is_some_and(|z| z.ends_with("_UNKNOWN") || z.ends_with("_INVALID"));
        assert!(unknown, "{name}: {zero:?}");
    }
    assert!(lines(NOW).contains("lifesign.v1.Artifact 3 data: bytes"));
}

/// What an older reader would misread of what is there now.
fn broken(kept: &str, now: &str) -> Vec<String> {
    let now = lines(now);
    let gone = lines(kept).into_iter().filter(|line| !now.contains(line));
    gone.filter_map(|line| misread(line, &now)).collect()
}

/// Why a line may not be gone. None: what it told of is reserved.
fn misread(line: &str, now: &BTreeSet<&str>) -> Option<String> {
    let mut words = line.split(' ');
    let (of, number, name) = (words.next()?, words.next()?, words.next()?);
    let name = name.trim_end_matches(':');
    let is_reserved = |what: &str| now.contains(format!("{of} {what} reserved").as_str());
    let same_number = |line: &&&str| line.starts_with(&format!("{of} {number} "));
    let instead = now.iter().find(same_number).filter(|_| !is_reserved(number));
    match instead {
        _ if number == "is" => Some(format!("`{line}` no longer")),
        _ if name == "reserved" => Some(format!("{of} {number} was reserved, and is no longer")),
        Some(instead) => Some(format!("`{line}` is now `{instead}`")),
        None if !is_reserved(number) => {
            Some(format!("`{line}` is gone, and its number is not reserved"))
        }
        None if !is_reserved(name) => {
            Some(format!("`{line}` is gone, and its name is not reserved"))
        }
        None => None,
    }
}

fn lines(text: &str) -> BTreeSet<&str> {
    text.lines().collect()
}
