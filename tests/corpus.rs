//! What fuzzing found, again: every input that ever broke something, and a few for each target that
//! together go most of the ways there are. `hack/fuzz` looks for more.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

#[path = "../fuzz/src/targets/mod.rs"]
mod targets;

use std::path::Path;

/// A file a target, in which an input a line stands in hexadecimal digits.
const CORPUS: &str = "tests/data/fuzz";

#[test]
fn every_input_is_taken() {
    for (name, target) in targets::TARGETS {
        let path = Path::new(CORPUS).join(name);
        let text = std::fs::read_to_string(&path).unwrap();
        let inputs = text.lines().filter(|line| !line.starts_with('#'));
        let inputs: Vec<Vec<u8>> = inputs.map(bytes).collect();
        assert!(!inputs.is_empty(), "{} is empty", path.display());
        for (number, input) in inputs.iter().enumerate() {
            println!("{name}, input {}", number + 1);
            target(input);
        }
    }
}

#[test]
fn every_file_is_of_a_target() {
    for entry in std::fs::read_dir(CORPUS).unwrap() {
        let name = entry.unwrap().file_name();
        assert!(targets::TARGETS.iter().any(|(known, _)| name == *known), "{name:?}");
    }
}

fn bytes(line: &str) -> Vec<u8> {
    let digits: Vec<u32> = line.chars().map(|digit| digit.to_digit(16).unwrap()).collect();
    digits.chunks_exact(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect()
}
