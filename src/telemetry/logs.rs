//! Log lines, for people or for machines.

use tracing_subscriber::EnvFilter;

/// What a line looks like.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Why logging did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The level is none.
    #[error("`{level}` is no log level: error, warn, info, debug, trace, or module=level,..")]
    Level {
        /// What was asked for.
        level: String,
        /// What the filter says of it.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// There is a logger already.
    #[error("logging was started twice")]
    Twice,
}

/// Starts logging to standard error.
///
/// # Errors
///
/// When the level is none, or logging was started before.
pub fn start(format: Format, level: &str) -> Result<(), Error> {
    let filter = EnvFilter::try_new(level)
        .map_err(|source| Error::Level { level: level.to_owned(), source })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match format {
        Format::Text => {
            let colour = std::io::IsTerminal::is_terminal(&std::io::stderr());
            builder.with_target(false).with_ansi(colour).try_init()
        }
        Format::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|_| Error::Twice)
}
