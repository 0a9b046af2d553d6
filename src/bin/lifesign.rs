//! lifesign
fn main() {}
