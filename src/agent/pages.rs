//! What the running agent shows of its apps, beside health and metrics.
//!
//! `/apps` is a list of every app under every scenario, those that cannot be asked among them;
//! `/warnings` is a list of what a person should know of the bindings and the spool as they are now.

use super::board::{Board, Shown};
use crate::base::time::{Clock, Instant, Timestamp};
use crate::binding::Bound;
use crate::telemetry::http;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The word for a scenario that an app should have and that cannot be asked.
const HINDERED: &str = "hindered";

/// What the keeper found when it last looked at the bindings.
#[derive(Clone, Debug, Default)]
pub struct Notices(Arc<Mutex<Noted>>);

#[derive(Debug, Default)]
struct Noted {
    hindered: Vec<Value>,
    warnings: Vec<String>,
    uplink: Vec<String>,
}

impl Notices {
    /// Takes the place of what was found before.
    pub fn replace(&self, bound: &[Bound], warnings: Vec<String>) {
        let hindered = bound.iter().flat_map(|bound| {
            bound.hindered.iter().map(|hindered| {
                json!({
                    "app": bound.app.id.to_string(),
                    "name": bound.app.name,
                    "scenario": hindered.scenario.to_string(),
                    "state": HINDERED,
                    "why": hindered.reason,
                })
            })
        });
        let hindered = hindered.collect();
        let mut noted = self.lock();
        *noted = Noted { hindered, warnings, uplink: std::mem::take(&mut noted.uplink) };
    }

    /// What a person should know of the spool and of what may be sent.
    pub fn of_uplink(&self, troubles: Vec<String>) {
        self.lock().uplink = troubles;
    }

    fn lock(&self) -> MutexGuard<'_, Noted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Every page.
#[must_use]
pub fn pages(board: &Board) -> Vec<(&'static str, http::Show)> {
    let (apps, warnings) = (board.clone(), board.notices.clone());
    let apps: http::Show = Arc::new(move || apps_page(&apps).to_string());
    let warnings: http::Show = Arc::new(move || {
        let noted = warnings.lock();
        json!(noted.warnings.iter().chain(&noted.uplink).collect::<Vec<_>>()).to_string()
    });
    vec![("/apps", apps), ("/warnings", warnings)]
}

fn apps_page(board: &Board) -> Value {
    let (now, wall) = (Clock::now(), Clock::wall());
    let states = board.states().into_iter().map(|shown| row(&shown, now, wall));
    let noted = board.notices.lock();
    let mut rows: Vec<Value> = states.chain(noted.hindered.iter().cloned()).collect();
    rows.sort_by_key(|row| ["name", "app", "scenario"].map(|key| row[key].to_string()));
    Value::Array(rows)
}

fn row(shown: &Shown, now: Instant, wall: Timestamp) -> Value {
    let ago = now.since(shown.state.since()).as_millis();
    let since = wall.as_millis().saturating_sub(i64::try_from(ago).unwrap_or(i64::MAX));
    json!({
        "app": shown.app.id.to_string(),
        "name": shown.app.name,
        "scenario": shown.scenario.to_string(),
        "state": shown.state.word(),
        "rung": shown.rung.map(|rung| rung.to_string()),
        "since": Timestamp::from_millis(since).to_string(),
        "took_ms": shown.took_ms,
        "why": shown.why,
        "capturing": shown.capturing.map(|progress| json!({
            "percent": progress.percent, "stage": progress.stage, "bytes": progress.bytes,
        })),
    })
}
