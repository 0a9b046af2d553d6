//! Fuzzes the target that `LIFESIGN_FUZZ` names; see `hack/fuzz`.

#![no_main]

mod targets;

use std::sync::OnceLock;
use targets::{TARGETS, Target};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| target().1(bytes));

fn target() -> &'static Target {
    static CHOSEN: OnceLock<&Target> = OnceLock::new();
    CHOSEN.get_or_init(|| {
        let name = std::env::var("LIFESIGN_FUZZ").unwrap_or_default();
        let names = TARGETS.map(|(name, _)| name).join(" ");
        let chosen = TARGETS.iter().find(|(known, _)| *known == name);
        chosen.unwrap_or_else(|| panic!("LIFESIGN_FUZZ is '{name}' and must be one of: {names}"))
    })
}
