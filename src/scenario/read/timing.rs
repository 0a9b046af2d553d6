//! When: periods, cron, windows, and the numbers that make a state.

use crate::base::document::{FromNode, Map, Node, Notes, Value};
use crate::base::problem::Problem;
use crate::scenario::cron::Refused;
use crate::scenario::{Cron, Flap, Said, Timing, Transport, When, Window, Zone};
use std::collections::BTreeSet;
use std::time::Duration;

/// Below this a probe would answer for the machine's load, not for the app.
const TIMEOUT_MIN: Duration = Duration::from_millis(100);

/// Below this a device would do little else.
const PERIOD_MIN: Duration = Duration::from_secs(1);

/// A month: who asks less often does not watch.
const PERIOD_MAX: Duration = Duration::from_secs(31 * 86_400);

/// Reads the keys that say when; those that are missing keep their value in `default`. A binding
/// may say them again for one app.
#[must_use]
pub fn read_timing(map: &mut Map<'_>, notes: &Notes, default: Timing) -> Option<Timing> {
    let period = bounded(map, notes, "period", (default.period, PERIOD_MIN));
    let timeout = bounded(map, notes, "timeout", (default.timeout, TIMEOUT_MIN));
    let shorter = period.unwrap_or(default.period).min(default.round_timeout);
    let shorter = shorter.max(timeout.unwrap_or(default.timeout));
    let round_timeout = bounded(map, notes, "roundTimeout", (shorter, TIMEOUT_MIN));
    let failure_threshold = count(map, notes, "failureThreshold", default.failure_threshold);
    let success_threshold = count(map, notes, "successThreshold", default.success_threshold);
    let initial_delay = map.or("initialDelay", default.initial_delay);
    let witnesses = count(map, notes, "witnesses", default.witnesses);
    let flap = match map.node("flap") {
        Some(node) => read_flap(node, notes),
        None => Some(default.flap),
    };
    let timing = Timing {
        period: period?,
        timeout: timeout?,
        round_timeout: round_timeout?,
        failure_threshold: failure_threshold?,
        success_threshold: success_threshold?,
        initial_delay: initial_delay?,
        witnesses: witnesses?,
        flap: flap?,
    };
    check(map, notes, &timing);
    Some(timing)
}

/// A time of at least so much.
fn bounded(
    map: &mut Map<'_>,
    notes: &Notes,
    key: &'static str,
    (default, least): (Duration, Duration),
) -> Option<Duration> {
    let Some(node) = map.node(key) else { return Some(default) };
    let value = Duration::from_node(node, notes)?;
    if value < least {
        let message = format!("`{key}` is too short");
        let problem = Problem::new(node.span.clone(), message, format!("below {}", Said(least)));
        let help = match key {
            "period" => "a device that asks more often does little else",
            _ => "a busy device alone takes longer than that to answer",
        };
        notes.note(problem.help(help));
        return None;
    }
    if value > PERIOD_MAX {
        let message = format!("`{key}` is too long");
        let problem = Problem::new(node.span.clone(), message, "more than 31 days");
        notes.note(problem.help("who asks less often than every month does not watch"));
        return None;
    }
    Some(value)
}

fn count(map: &mut Map<'_>, notes: &Notes, key: &'static str, default: u32) -> Option<u32> {
    let node = map.node(key);
    let value = map.or(key, default)?;
    if let Some(node) = node.filter(|_| value == 0) {
        let message = format!("`{key}` must be at least 1");
        let label = match key {
            "witnesses" => "nobody would ever have to say `dead`",
            _ => "no round would ever count",
        };
        notes.note(Problem::new(node.span.clone(), message, label));
    }
    Some(value)
}

fn read_flap(node: &Node, notes: &Notes) -> Option<Flap> {
    let mut map = node.map(notes)?;
    let within_node = map.node("within");
    let changes = map.required("changes");
    let within: Option<Duration> = map.required("within");
    if changes.is_some_and(|changes: u32| changes < 2) {
        let span = map.node("changes").map_or(map.span(), |node| node.span.clone());
        let problem =
            Problem::new(span, "`changes` must be at least 2", "one change is no flapping");
        notes.note(problem.help("an app that fails and comes back has changed twice"));
    }
    if let Some(node) = within_node.filter(|_| within == Some(Duration::ZERO)) {
        let label = "no change would ever fall into it";
        notes.note(Problem::new(node.span.clone(), "`within` is too short", label));
    }
    map.finish();
    Some(Flap { changes: changes?, within: within? })
}

fn check(map: &mut Map<'_>, notes: &Notes, timing: &Timing) {
    let mut place = |keys: [&'static str; 3]| {
        let node = keys.into_iter().find_map(|key| map.node(key));
        node.map_or(map.span(), |node| node.span.clone())
    };
    let (period, timeout) = (Said(timing.period), Said(timing.timeout));
    let round = Said(timing.round_timeout);
    if timing.timeout > timing.period {
        let label = format!("the period is {period}, the timeout {timeout}");
        let span = place(["timeout", "period", "cron"]);
        let problem = Problem::new(span, "a probe may not take longer than the period", label);
        notes.note(problem.help("lengthen `period` or shorten `timeout`"));
    } else if timing.round_timeout > timing.period {
        let label = format!("the period is {period}, the round's {round}");
        let span = place(["roundTimeout", "period", "cron"]);
        let problem = Problem::new(span, "a round may not take longer than the period", label);
        notes.note(problem.help("lengthen `period` or shorten `roundTimeout`"));
    } else if timing.round_timeout < timing.timeout {
        let label = format!("the round has {round}, one probe {timeout}");
        let span = place(["roundTimeout", "timeout", "period"]);
        let problem = Problem::new(span, "a round is too short for one of its probes", label);
        notes.note(problem.help("lengthen `roundTimeout` or shorten `timeout`"));
    }
}

/// That as many witnesses as are asked for can exist. The virtual processors are always one.
pub(super) fn check_witnesses(
    map: &mut Map<'_>,
    notes: &Notes,
    timing: Option<Timing>,
    mut all: BTreeSet<Transport>,
) {
    let Some((timing, node)) = timing.zip(map.node("witnesses")) else { return };
    all.insert(Transport::Vcpu);
    if usize::try_from(timing.witnesses).is_ok_and(|witnesses| witnesses > all.len()) {
        let words: Vec<&str> = all.iter().map(|transport| transport.word()).collect();
        let label = format!("there are {}: {}", all.len(), words.join(", "));
        let message = "there are not so many witnesses";
        let problem = Problem::new(node.span.clone(), message, label);
        notes.note(problem.help(
            "a transport is one witness, however many of its probes are asked, and a console and \
             its log are one; add a probe of another transport, or ask for fewer witnesses",
        ));
    }
}

/// The zone of `cron` and of the windows.
pub(super) fn read_zone(map: &mut Map<'_>, notes: &Notes) -> Option<Zone> {
    let Some(node) = map.node("zone") else { return Some(Zone::utc()) };
    if map.node("cron").is_none() && map.node("except").is_none() {
        let label = "neither `cron` nor `except` is there";
        notes.note(Problem::new(node.span.clone(), "`zone` says nothing here", label));
    }
    Zone::from_node(node, notes)
}

/// `period` or `cron`, not both. Of a period the value is read with the other times.
pub(super) fn read_when(map: &mut Map<'_>, notes: &Notes, zone: Option<&Zone>) -> Option<When> {
    let (period, cron) = (map.node("period"), map.node("cron"));
    let Some(cron) = cron else { return Some(When::Every(Timing::DEFAULT.period)) };
    if let Some(period) = period {
        let message = "`period` and `cron` both say when";
        let problem = Problem::new(period.span.clone(), message, "`cron` is there, too");
        notes.note(problem.help("keep one of them"));
    }
    let pattern = read_cron(cron, notes, zone)?;
    if pattern.shortest() < PERIOD_MIN {
        let label = format!("{} apart", Said(pattern.shortest()));
        notes.note(Problem::new(cron.span.clone(), "`cron` fires too often", label));
    }
    Some(When::Cron(Box::new(pattern)))
}

fn read_cron(node: &Node, notes: &Notes, zone: Option<&Zone>) -> Option<Cron> {
    let text = String::from_node(node, notes)?;
    // A zone that is wrong was noted; the pattern is checked all the same.
    let read = Cron::new(&text, zone.cloned().unwrap_or_else(Zone::utc));
    let refused = match read {
        Ok(cron) => return zone.map(|_| cron),
        Err(refused) => refused,
    };
    let (message, help) = match refused {
        Refused::Never => ("`cron` never fires", "no day of any year to come fits all fields"),
        Refused::Fields(_) | Refused::Field { .. } | Refused::Pattern(_) => (
            "`cron` is not a pattern of times",
            "minute, hour, day, month, day of the week; seconds may stand before, a year after; \
             such as \"*/5 * * * *\" or \"0 30 6 * * MON-FRI\"",
        ),
    };
    notes.note(Problem::new(node.span.clone(), message, refused.to_string()).help(help));
    None
}

/// The maintenance windows.
pub(super) fn read_windows(node: &Node, notes: &Notes, zone: Option<&Zone>) -> Option<Vec<Window>> {
    let items = node.list(notes)?;
    let windows: Vec<Option<Window>> =
        items.iter().map(|item| read_window(item, notes, zone)).collect();
    windows.into_iter().collect()
}

fn read_window(node: &Node, notes: &Notes, zone: Option<&Zone>) -> Option<Window> {
    if let Value::Null | Value::Text(_) = node.value {
        notes.expected(node, "a window such as `{ cron: \"0 2 * * 0\", for: 2h, why: \"..\" }`");
        return None;
    }
    let mut map = node.map(notes)?;
    let cron = map.required_node("cron").and_then(|node| read_cron(node, notes, zone));
    let lasts: Option<Duration> = map.required("for");
    let why: Option<String> = map.required("why");
    let span = map.node("for").map_or(map.span(), |node| node.span.clone());
    map.finish();
    let (cron, lasts, why) = (cron?, lasts?, why?);
    if lasts.is_zero() {
        notes.note(Problem::new(span, "`for` is too short", "the window would never be open"));
    } else if lasts >= cron.longest() && !cron.longest().is_zero() {
        let label = format!("the next one begins within {}", Said(cron.longest()));
        let problem = Problem::new(span, "the window would never close", label);
        notes.note(problem.help("to stop watching for good, take the scenario off the app"));
    }
    Some(Window { cron, lasts, why })
}
