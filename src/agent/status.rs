//! What the running agent says of its apps, asked for on its own status page.

use crate::base::text::harmless_line;
use crate::base::time::{Clock, Spoken};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The agent is on this machine.
const PATIENCE: Duration = Duration::from_secs(5);

/// 500 apps take a fifth of this.
const ANSWER_BYTES: u64 = 1 << 20;

/// How often a person who watches is told.
const AGAIN: Duration = Duration::from_secs(1);

/// What the agent has.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Status {
    /// Every app under every scenario.
    pub apps: Vec<AppState>,
    /// What a person should know of the bindings.
    pub warnings: Vec<String>,
}

/// An app under a scenario.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
pub struct AppState {
    /// Its key.
    pub app: String,
    /// What people call it.
    pub name: String,
    /// Under which scenario.
    pub scenario: String,
    /// Its state.
    pub state: String,
    /// The highest rung that the last round proved.
    #[serde(default)]
    pub rung: Option<String>,
    /// Since when it is in this state.
    #[serde(default)]
    pub since: String,
    /// How long the last answer took.
    #[serde(default)]
    pub took_ms: Option<u64>,
    /// Why it is in this state, in words.
    #[serde(default)]
    pub why: String,
    /// How far the capture has come that goes on now.
    #[serde(default)]
    pub capturing: Option<Capturing>,
}

/// How far a capture has come.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
pub struct Capturing {
    /// Of all steps, so many are done.
    pub percent: u8,
    /// What is done now.
    pub stage: String,
    /// What was brought so far.
    pub bytes: u64,
}

/// Why nobody told.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody is there.
    #[error("no agent answers on {address}; is it running?")]
    Nobody {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is something else.
    #[error("what answers on {0} is not an agent of this version")]
    Other(SocketAddr),
}

/// Asks the agent.
///
/// # Errors
///
/// When nobody answers, or not an agent.
pub async fn fetch(address: SocketAddr) -> Result<Status, Error> {
    let (apps, warnings) = (page(address, "/apps").await?, page(address, "/warnings").await?);
    Ok(Status { apps, warnings })
}

async fn page<T: DeserializeOwned>(address: SocketAddr, path: &str) -> Result<T, Error> {
    let nobody = |source| Error::Nobody { address, source };
    let answer = timeout(PATIENCE, get(address, path)).await;
    let answer = answer.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(nobody)?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    serde_json::from_str(body).map_err(|_| Error::Other(address))
}

async fn get(address: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    // HTTP/1.0, so that the answer ends with the connection and comes in one piece.
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES).read_to_string(&mut answer).await?;
    Ok(answer)
}

/// Asks again and again, and tells it: all of it to a terminal, to others what has changed. Goes on
/// while the agent does not answer, for it may be restarted meanwhile.
///
/// # Errors
///
/// When nobody listens any more.
pub async fn watch(
    address: SocketAddr,
    terminal: bool,
    mut say: impl FnMut(&[String]) -> io::Result<()>,
) -> io::Result<()> {
    let mut before = Vec::new();
    loop {
        let now = match fetch(address).await {
            Ok(status) if terminal => lines(&status),
            Ok(status) => steady_lines(&status),
            Err(error) => vec![error.to_string()],
        };
        if terminal {
            say(&now)?;
        } else {
            say(&news(&before, &now, &Clock::wall().to_string()))?;
            before = now;
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// The lines that were not there before.
fn news(before: &[String], now: &[String], at: &str) -> Vec<String> {
    let new = now.iter().filter(|line| !line.is_empty() && !before.contains(line));
    new.map(|line| format!("{at}  {line}")).collect()
}

/// A line for each, under a heading, and what a person should know below.
#[must_use]
pub fn lines(status: &Status) -> Vec<String> {
    let apps: Vec<[String; 7]> = status.apps.iter().map(cells).collect();
    if apps.is_empty() {
        let none = "no app is watched: none is here, or no binding selects one".to_owned();
        return std::iter::once(none).chain(warnings(status)).collect();
    }
    let heading = ["APP", "SCENARIO", "STATE", "RUNG", "SINCE", "TOOK", "WHY"].map(str::to_owned);
    let all: Vec<&[String; 7]> = std::iter::once(&heading).chain(&apps).collect();
    let widths: [usize; 7] = std::array::from_fn(|column| {
        all.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)
    });
    let rows = all.iter().map(|row| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    });
    rows.chain(warnings(status)).collect()
}

fn cells(app: &AppState) -> [String; 7] {
    let why = match &app.capturing {
        Some(Capturing { percent, stage, bytes }) => {
            format!("collecting evidence: {percent} %, {stage}, {} KiB so far", bytes / 1024)
        }
        None => app.why.clone(),
    };
    let rung = app.rung.clone().unwrap_or_else(|| "-".to_owned());
    let took = app.took_ms.map(|ms| Spoken(Duration::from_millis(ms)).to_string());
    [
        harmless_line(app.name.as_bytes()),
        app.scenario.clone(),
        app.state.clone(),
        rung,
        if app.since.is_empty() { "-".to_owned() } else { app.since.clone() },
        took.unwrap_or_else(|| "-".to_owned()),
        harmless_line(why.as_bytes()),
    ]
}

fn warnings(status: &Status) -> impl Iterator<Item = String> {
    let gap = (!status.warnings.is_empty()).then(String::new);
    gap.into_iter().chain(status.warnings.iter().map(|warning| format!("warning: {warning}")))
}

/// The same without what differs at every look though nothing has changed.
fn steady_lines(status: &Status) -> Vec<String> {
    let apps = status.apps.iter().map(|app| {
        let AppState { scenario, state, .. } = app;
        let name = harmless_line(app.name.as_bytes());
        let rung = app.rung.as_deref().map(|rung| format!(", {rung} proven")).unwrap_or_default();
        format!("{name} under {scenario}: {state}{rung}")
    });
    apps.chain(warnings(status)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(name: &str, state: &str, rung: Option<&str>, why: &str) -> AppState {
        AppState {
            app: "0f8fad5b-d9cb-469f-a165-70867728950e".to_owned(),
            name: name.to_owned(),
            scenario: "linux-console".to_owned(),
            state: state.to_owned(),
            rung: rung.map(str::to_owned),
            since: "2026-03-28T23:59:30Z".to_owned(),
            took_ms: rung.map(|_| 3_012),
            why: why.to_owned(),
            capturing: None,
        }
    }

    fn status() -> Status {
        let since = String::new();
        let hindered = "`linux-console` needs the consent `input`";
        Status {
            apps: vec![
                state("web", "healthy", Some("userspace"), "`uptime` was answered"),
                state("a-longer-name", "starting", None, ""),
                AppState { since, ..state("db", "hindered", None, hindered) },
            ],
            warnings: vec![
                "bindings.yaml:3: the name `wbe` selects no app that is here now".to_owned(),
                "bindings.yaml:9: the secret `password` is missing: no such file".to_owned(),
            ],
        }
    }

    #[test]
    fn apps_stand_in_a_table_with_the_warnings_below() {
        insta::assert_snapshot!(lines(&status()).join("\n"));
        let nobody = Status { apps: Vec::new(), ..status() };
        assert!(lines(&nobody)[0].starts_with("no app is watched"));
        assert_eq!(lines(&nobody).len(), 4);
        assert_eq!(lines(&Status::default()).len(), 1);
    }

    #[test]
    fn a_pipe_is_told_what_has_changed() {
        let before = steady_lines(&status());
        let mut later = status();
        later.apps[0].took_ms = Some(7);
        assert_eq!(news(&before, &steady_lines(&later), "T"), [""; 0]);
        later.apps[0] = state("web", "failed", Some("kernel"), "nothing came back");
        let told = news(&before, &steady_lines(&later), "T");
        assert_eq!(told, ["T  web under linux-console: failed, kernel proven"]);
        assert_eq!(news(&[], &before, "T").len(), 5);
    }
}
