//! The wire types, generated from `proto/` when the crate is built.
//!
//! Nothing here is checked: whoever decodes a message turns it into types of its own before it is
//! believed (see `bundle`).

#![expect(missing_docs, reason = "generated; the fields are documented in proto/")]
#![expect(clippy::large_enum_variant, reason = "a Sealed lives for the moment of encoding")]

/// The envelope of EVE's scheme.
pub mod auth {
    include!(concat!(env!("OUT_DIR"), "/lifesign.auth.rs"));
}

/// Our own messages.
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/lifesign.v1.rs"));
}

#[cfg(test)]
mod tests;
