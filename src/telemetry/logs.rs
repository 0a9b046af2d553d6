//! Log lines, for people or for machines.

use crate::base::document::{Map, Notes};
use tracing_subscriber::EnvFilter;

/// What is logged, and how.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settings {
    /// For people or for machines.
    pub format: Format,
    /// `error` to `trace`, or a filter such as `info,rumqttc=debug`.
    pub level: String,
}

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

impl Default for Settings {
    fn default() -> Self {
        Self { format: Format::Text, level: "info".to_owned() }
    }
}

impl Settings {
    /// Reads the key `log` of a config, which may be missing.
    #[must_use]
    pub fn read(map: &mut Map<'_>, notes: &Notes) -> Option<Self> {
        let Some(node) = map.node("log") else { return Some(Self::default()) };
        let formats = [("text", Format::Text), ("json", Format::Json)];
        let mut map = node.map(notes)?;
        let format = match map.node("format") {
            Some(node) => node.word(notes, "log format", &formats),
            None => Some(Format::Text),
        };
        let level = map.or("level", Self::default().level);
        map.finish();
        Some(Self { format: format?, level: level? })
    }
}

/// Starts logging to standard error.
///
/// # Errors
///
/// When the level is none, or logging was started before.
pub fn start(settings: &Settings) -> Result<(), Error> {
    let level = &settings.level;
    let filter = EnvFilter::try_new(level)
        .map_err(|source| Error::Level { level: level.clone(), source })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match settings.format {
        Format::Text => {
            let colour = std::io::IsTerminal::is_terminal(&std::io::stderr());
            builder.with_target(false).with_ansi(colour).try_init()
        }
        Format::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|_| Error::Twice)
}
