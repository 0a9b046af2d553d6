//! Turns `proto/` into Rust. The compiler is a library (`protox`), so no `protoc` is needed.
//!
//! Beside it, `wire.txt` in cargo's directory lists all that is on the wire, a line each, for the test that
//! nothing of it ever changes (`src/pb/tests.rs`).

use protox::prost_reflect::{DescriptorPool, EnumDescriptor, MessageDescriptor};
use std::error::Error;
use std::path::PathBuf;

const FILES: [&str; 2] = ["proto/auth.proto", "proto/lifesign.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let listed = list(&DescriptorPool::from_file_descriptor_set(descriptors.clone())?);
    let directory = std::env::var_os("OUT_DIR").ok_or("cargo says no OUT_DIR")?;
    std::fs::write(PathBuf::from(directory).join("wire.txt"), listed)?;
    // BTreeMap and Bytes are not asked for: no message has a map, and a copy of 32 KiB is cheap.
    prost_build::Config::new().compile_fds(descriptors)?;
    Ok(())
}

fn list(pool: &DescriptorPool) -> String {
    let messages = pool.all_messages().flat_map(|message| of_message(&message));
    let mut lines: Vec<String> =
        messages.chain(pool.all_enums().flat_map(|e| of_enum(&e))).collect();
    lines.sort();
    lines.join("\n") + "\n"
}

fn of_message(message: &MessageDescriptor) -> Vec<String> {
    let name = message.full_name();
    let mut lines = vec![format!("{name} is a message")];
    for field in message.fields() {
        let (number, word, kind) = (field.number(), field.name(), field.kind());
        let many = if field.is_list() { "repeated " } else { "" };
        let one = field.containing_oneof().map(|one| format!(" oneof {}", one.name()));
        lines.push(format!("{name} {number} {word}: {many}{kind:?}{}", one.unwrap_or_default()));
    }
    let numbers = message.reserved_ranges().flatten().map(|number| number.to_string());
    let reserved = numbers.chain(message.reserved_names().map(str::to_owned));
    lines.extend(reserved.map(|what| format!("{name} {what} reserved")));
    lines
}

fn of_enum(words: &EnumDescriptor) -> Vec<String> {
    let name = words.full_name();
    let mut lines = vec![format!("{name} is an enum")];
    lines.extend(words.values().map(|word| format!("{name} {} {}", word.number(), word.name())));
    let numbers = words.reserved_ranges().flatten().map(|number| number.to_string());
    let reserved = numbers.chain(words.reserved_names().map(str::to_owned));
    lines.extend(reserved.map(|what| format!("{name} {what} reserved")));
    lines
}
