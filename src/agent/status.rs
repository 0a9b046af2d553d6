//! What the running agent says of its apps, asked for on its own status page.

use serde::Deserialize;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The agent is on this machine.
const PATIENCE: Duration = Duration::from_secs(5);

/// 500 apps take a tenth of this.
const ANSWER_BYTES: u64 = 1 << 20;

/// An app under a scenario.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub struct AppState {
    /// Its key.
    pub app: String,
    /// What people call it.
    pub name: String,
    /// Under which scenario.
    pub scenario: String,
    /// Its state.
    pub state: String,
    /// Why it is in it, in words.
    #[serde(default)]
    pub why: String,
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
pub async fn fetch(address: SocketAddr) -> Result<Vec<AppState>, Error> {
    let nobody = |source| Error::Nobody { address, source };
    let answer = timeout(PATIENCE, get(address)).await;
    let answer = answer.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(nobody)?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    serde_json::from_str(body).map_err(|_| Error::Other(address))
}

async fn get(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    // HTTP/1.0, so that the answer ends with the connection and comes in one piece.
    stream.write_all(b"GET /apps HTTP/1.0\r\n\r\n").await?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES).read_to_string(&mut answer).await?;
    Ok(answer)
}

/// A line for each, under a heading.
#[must_use]
pub fn lines(apps: &[AppState]) -> Vec<String> {
    if apps.is_empty() {
        return vec!["no app is watched: none is here, or no binding selects one".to_owned()];
    }
    let width = |of: fn(&AppState) -> &str, heading: &str| {
        apps.iter().map(|app| of(app).len()).chain([heading.len()]).max().unwrap_or(0)
    };
    let (name, scenario) = (width(|app| &app.name, "APP"), width(|app| &app.scenario, "SCENARIO"));
    let line = |cells: [&str; 4]| {
        let [app, of, state, why] = cells;
        format!("{app:<name$}  {of:<scenario$}  {state:<8}  {why}").trim_end().to_owned()
    };
    let heading = line(["APP", "SCENARIO", "STATE", "WHY"]);
    let rows = apps.iter().map(|app| line([&app.name, &app.scenario, &app.state, &app.why]));
    std::iter::once(heading).chain(rows).collect()
}
