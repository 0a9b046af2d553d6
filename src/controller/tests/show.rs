//! What an operator reads of a bundle that was received.

use super::device::{Device, Validity, chunk, now, today};
use crate::base::id::DeviceId;
use crate::base::time::Timestamp;
use crate::base::topic::Prefix;
use crate::bundle::{Bindings, Text};
use crate::controller::identity::{self, Enrolled};
use crate::controller::receive::{Message, Receiver};
use crate::controller::show::{self, ShowError, Style};
use crate::controller::store::{self, Change, Published, Store};
use crate::pb::v1;
use prost::Message as _;
use tempfile::TempDir;

fn style() -> Style {
    Style { colour: false, now: Timestamp::from_millis(today().as_millis() + 7_500_000) }
}

/// Two incidents: one complete, one of which there is only a headline.
fn received() -> (TempDir, Vec<u8>) {
    let place = tempfile::tempdir().unwrap();
    let device = Device::new("d-1", Validity::Today);
    device.enrol(place.path());
    let store = Store::open(place.path()).unwrap();
    let enrolled = Enrolled::new(place.path().to_owned());
    let mut receiver = Receiver::new(Prefix::default(), enrolled, store);
    let sealed = device.seal(0x70);
    let payloads = [
        ("headline", device.seal_headline(0x70, 3)),
        ("bundle", chunk(&sealed, 0..sealed.len())),
        ("headline", device.seal_headline(0x71, 1)),
    ];
    for (what, payload) in payloads {
        let topic = format!("lifesign/d-1/{what}");
        receiver.handle(&Message { topic, payload }, now()).unwrap();
    }
    (place, sealed)
}

/// Without what differs from run to run.
fn regular(text: &str) -> String {
    let line = |line: &str| {
        if line.starts_with("bundle ") && line.contains("SHA-256") {
            "bundle     <size> bytes, SHA-256 <digest>".to_owned()
        } else {
            line.to_owned()
        }
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_list_is_a_table() {
    let (place, _) = received();
    insta::assert_snapshot!(show::incidents(place.path(), style()).unwrap());
}

#[test]
fn a_report_says_the_verdict_first() {
    let (place, _) = received();
    insta::assert_snapshot!(regular(&show::incident(place.path(), "70", style()).unwrap()));
}

#[test]
fn a_report_without_a_bundle_says_so() {
    let (place, _) = received();
    insta::assert_snapshot!(show::incident(place.path(), "71", style()).unwrap());
}

#[test]
fn a_bundle_that_the_disk_lost_does_not_hide_its_incident() {
    let (place, _) = received();
    std::fs::remove_dir_all(place.path().join("objects")).unwrap();
    let shown = show::incident(place.path(), "70", style()).unwrap();
    assert!(shown.starts_with("panic: ") && shown.contains("lost from the disk"), "{shown}");
    assert!(show::incident_json(place.path(), "70").unwrap().contains("check the disk"));
    assert!(matches!(show::sealed(place.path(), "70"), Err(ShowError::Store(_))));
}

#[test]
fn colours_are_the_only_escapes() {
    let (place, _) = received();
    let plain = show::incident(place.path(), "70", style()).unwrap();
    assert!(!plain.contains('\x1b'));
    let coloured = show::incident(place.path(), "70", Style { colour: true, ..style() }).unwrap();
    let stripped = coloured.replace("\x1b[1;31m", "").replace("\x1b[1m", "").replace("\x1b[0m", "");
    assert_eq!(stripped, plain);
}

#[test]
fn bytes_come_as_they_are() {
    let (place, sealed) = received();
    assert_eq!(show::sealed(place.path(), "7070").unwrap(), sealed);
    let console = show::artifact(place.path(), "70", "console").unwrap();
    assert!(console.windows(5).any(|window| window == b"\x1b[31m"));
}

#[test]
fn what_is_not_there_is_said_with_the_way_out() {
    let (place, _) = received();
    let data = place.path();
    let refusals: Vec<ShowError> = vec![
        show::incident(data, "7", style()).unwrap_err(),
        show::incident(data, "99", style()).unwrap_err(),
        show::incident(data, "x%", style()).unwrap_err(),
        show::sealed(data, "71").unwrap_err(),
        show::artifact(data, "70", "sysrq").unwrap_err(),
    ];
    let text: Vec<String> = refusals.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(text.join("\n"));
}

#[test]
fn json_has_the_same() {
    let (place, sealed) = received();
    let list: serde_json::Value =
        serde_json::from_str(&show::incidents_json(place.path()).unwrap()).unwrap();
    assert_eq!(list.as_array().unwrap().len(), 2);
    let one: serde_json::Value =
        serde_json::from_str(&show::incident_json(place.path(), "70").unwrap()).unwrap();
    assert_eq!(one["state"], "ended");
    assert_eq!(one["claimed"]["class"], "panic");
    assert_eq!(one["bundle"]["bytes"], sealed.len());
    assert_eq!(one["bundle"]["steps"][2]["outcome"], "silent");
    assert_eq!(one["bundle"]["rounds"][1]["probes"][0]["answer"], "dead");
}

/// What is shown of bindings 7 when a device says this of itself.
fn shown_bindings(status: Option<v1::Status>) -> String {
    let place = tempfile::tempdir().unwrap();
    let controller = Device::new("controller", Validity::Today);
    controller.enrol(place.path());
    let text = |name: &str, text: &str| Text { name: name.to_owned(), text: text.to_owned() };
    let device: DeviceId = "d-1".parse().unwrap();
    let bindings = Bindings {
        device: device.clone(),
        sequence: 7,
        scenarios: vec![text("ping.yaml", "scenario: ping\n")],
        bindings: text("bindings.yaml", "bindings:\n  - select: { name: \"*\" }\n"),
        dumps: Vec::new(),
    };
    let sealed = controller.signer.seal_bindings(&bindings).unwrap();
    let store = Store::open(place.path()).unwrap();
    let row = Published { device: device.clone(), sequence: 7, at: today(), sealed };
    let change = Change { row, after: None, wish: None };
    store::Bindings::open(place.path()).unwrap().publish(&[change]).unwrap();
    if let Some(status) = status {
        store.status("d-1", &status.encode_to_vec(), today()).unwrap();
    }
    let spki = identity::certificate(&place.path().join("controller.pem")).unwrap();
    show::bindings(place.path(), &device, &spki.2, style()).unwrap()
}

#[test]
fn what_became_of_bindings_is_said_first() {
    let says = |sequence, error: &str| {
        let error = error.to_owned();
        Some(v1::Status {
            up: true,
            bindings_sequence: sequence,
            bindings_error: error,
            ..v1::Status::default()
        })
    };
    let wrong = "bindings 7 of the controller are wrong:\n\n\x1b[31merror: unknown scenario\n  |\n";
    let cases = [
        shown_bindings(None),
        shown_bindings(Some(v1::Status::default())),
        shown_bindings(says(7, "")),
        shown_bindings(says(7, "its sequence is 6")),
        shown_bindings(says(6, wrong)),
        shown_bindings(says(0, "")),
    ];
    let heads = cases.map(|shown| shown.split("\n\nScenarios").next().unwrap().to_owned());
    insta::assert_snapshot!(heads.join("\n\n---\n"));
    let whole = shown_bindings(says(7, ""));
    assert!(whole.ends_with("\n\nScenarios that come with it\nping.yaml\n\nbindings.yaml\nbindings:\n  - select: { name: \"*\" }\n"), "{whole}");
}

#[test]
fn bindings_that_another_key_sealed_are_named() {
    let (place, _) = received();
    let (old, new) = (Device::new("old", Validity::Today), Device::new("new", Validity::Today));
    new.enrol(place.path());
    let device: DeviceId = "d-1".parse().unwrap();
    let bindings = Bindings {
        device: device.clone(),
        sequence: 7,
        scenarios: Vec::new(),
        bindings: Text { name: "b".to_owned(), text: "bindings: []\n".to_owned() },
        dumps: Vec::new(),
    };
    let sealed = old.signer.seal_bindings(&bindings).unwrap();
    let row = Published { device: device.clone(), sequence: 7, at: today(), sealed };
    let change = Change { row, after: None, wish: None };
    store::Bindings::open(place.path()).unwrap().publish(&[change]).unwrap();
    let key = identity::certificate(&place.path().join("new.pem")).unwrap().2;
    let shown = show::bindings(place.path(), &device, &key, style()).unwrap();
    assert!(shown.contains("does not open with the controller's certificate of today"), "{shown}");
    let nobody = show::bindings(place.path(), &"d-9".parse().unwrap(), &key, style()).unwrap();
    assert!(nobody.starts_with("nothing is published for d-9\n"), "{nobody}");
}
