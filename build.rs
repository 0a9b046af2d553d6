//! Turns `proto/` into Rust. The compiler is a library (`protox`), so no `protoc` is needed.

use std::error::Error;

const FILES: [&str; 2] = ["proto/auth.proto", "proto/lifesign.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    // BTreeMap and Bytes are not asked for: no message has a map, and a copy of 32 KiB is cheap.
    prost_build::Config::new().compile_fds(descriptors)?;
    Ok(())
}
