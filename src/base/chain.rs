//! Printing an error with its causes.
//!
//! An error's own text never repeats its source, so whoever shows one prints the chain.

use std::error::Error;
use std::fmt;

/// Shows an error and everything that caused it on one line.
pub struct Chain<'a>(pub &'a dyn Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
