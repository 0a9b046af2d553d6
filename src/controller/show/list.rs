//! The list of incidents.

use super::{Style, state};
use crate::base::text::harmless_line;
use crate::controller::store::Incident;
use crate::report::table;

/// Digits of an id that are shown, if they tell all incidents apart.
const DIGITS: usize = 8;

/// A table, newest first.
pub(super) fn text(incidents: &[Incident], style: Style) -> String {
    if incidents.is_empty() {
        return "No incident was received yet.\n".to_owned();
    }
    let digits = digits(incidents);
    let rows: Vec<[String; 7]> = incidents.iter().map(|incident| row(incident, digits)).collect();
    let head = ["INCIDENT", "FAILED AT", "DEVICE", "APP", "STATE", "CLASS", "TITLE"];
    let text = table(head, &rows);
    match text.split_once('\n') {
        Some((head, rest)) => format!("{}\n{rest}", style.text().bold(head)),
        None => text,
    }
}

fn row(incident: &Incident, digits: usize) -> [String; 7] {
    let id = incident.id.to_string();
    let diagnosis = incident.diagnosis.as_ref().or(incident.claimed.as_ref());
    let word = |text: &str| harmless_line(text.as_bytes());
    [
        id.get(..digits).unwrap_or(&id).to_owned(),
        incident.failed_at.to_string(),
        word(&incident.device),
        word(&incident.app_name),
        state(incident).to_owned(),
        diagnosis.map_or_else(|| "-".to_owned(), |record| word(&record.class)),
        diagnosis.map_or_else(|| "-".to_owned(), |record| word(&record.title)),
    ]
}

/// As few digits as tell all of them apart, but [`DIGITS`] at least.
fn digits(incidents: &[Incident]) -> usize {
    let mut ids: Vec<String> = incidents.iter().map(|incident| incident.id.to_string()).collect();
    ids.sort();
    let shared = ids.windows(2).map(|pair| {
        pair[0].bytes().zip(pair[1].bytes()).take_while(|(one, other)| one == other).count() + 1
    });
    shared.max().unwrap_or(0).max(DIGITS)
}
