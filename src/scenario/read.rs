//! The language: from a document to a [`Scenario`], or to all of its mistakes.

use super::{Budget, Probe, Scenario, Timing};
use crate::base::document::{Bytes, Document, FromNode, Map, Node, Notes, Value, parsed};
use crate::base::id::ScenarioName;
use crate::base::problem::{Problem, Problems, Source};
use crate::base::step::{Action, Query, Step};
use std::time::Duration;

/// Below this a probe would answer for the machine's load, not for the app.
const TIMEOUT_MIN: Duration = Duration::from_millis(100);

/// Reads a scenario.
///
/// # Errors
///
/// When anything is wrong with it; all mistakes are told.
pub fn read(source: Source) -> Result<Scenario, Problems> {
    Document::parse(source)?.read(|root, notes| {
        let mut map = root.map(notes)?;
        let name = map.required("scenario");
        let summary = map.or("summary", String::new());
        let timing = read_timing(&mut map, notes, Timing::DEFAULT);
        let probes = map.required_node("probe").and_then(|node| read_probes(node, notes));
        let diagnose = map.required_node("diagnose").and_then(|node| read_steps(node, notes));
        let budget = match map.node("budget") {
            Some(node) => read_budget(node, notes),
            None => Some(Budget::DEFAULT),
        };
        map.finish();
        Some(Scenario {
            name: name?,
            summary: summary?,
            timing: timing?,
            probes: probes?,
            diagnose: diagnose?,
            budget: budget?,
        })
    })
}

/// Reads the keys that say when; those that are missing keep their value in `default`. A binding
/// may say them again for one app.
#[must_use]
pub fn read_timing(map: &mut Map<'_>, notes: &Notes, default: Timing) -> Option<Timing> {
    let period_node = map.node("period");
    let timeout_node = map.node("timeout");
    let period = map.or("period", default.period);
    let timeout = map.or("timeout", default.timeout);
    let failure_threshold = map.or("failureThreshold", default.failure_threshold);
    let success_threshold = map.or("successThreshold", default.success_threshold);
    let initial_delay = map.or("initialDelay", default.initial_delay);
    for (key, value) in
        [("failureThreshold", failure_threshold), ("successThreshold", success_threshold)]
    {
        if let Some(node) = map.node(key).filter(|_| value == Some(0)) {
            let message = format!("`{key}` must be at least 1");
            notes.note(Problem::new(node.span.clone(), message, "no round would ever count"));
        }
    }
    let timing = Timing {
        period: period?,
        timeout: timeout?,
        failure_threshold: failure_threshold?,
        success_threshold: success_threshold?,
        initial_delay: initial_delay?,
    };
    let place = |node: Option<&Node>| node.map_or(map.span(), |node| node.span.clone());
    if timing.timeout < TIMEOUT_MIN {
        let problem = Problem::new(place(timeout_node), "`timeout` is too short", "below 100ms");
        notes.note(problem.help("a busy device alone takes longer than that to answer"));
    }
    if timing.timeout > timing.period {
        let span = place(timeout_node.or(period_node));
        let label = format!("the period is {:?}, the timeout {:?}", timing.period, timing.timeout);
        let problem = Problem::new(span, "a probe may not take longer than the period", label);
        notes.note(problem.help("lengthen `period` or shorten `timeout`"));
    }
    Some(timing)
}

fn read_probes(node: &Node, notes: &Notes) -> Option<Vec<Probe>> {
    let items = node.list(notes)?;
    if items.is_empty() {
        let problem = Problem::new(node.span.clone(), "no probe", "nothing would ever be asked");
        notes.note(
            problem.help("for example  - console: { send: \"uptime\", expect: \"load average\" }"),
        );
    }
    // Every item is read, so that every mistake is noted.
    let probes: Vec<Option<Probe>> = items.iter().map(|item| read_probe(item, notes)).collect();
    probes.into_iter().collect()
}

fn read_probe(node: &Node, notes: &Notes) -> Option<Probe> {
    let (_, node) = node.map(notes)?.only("probe", &["console"])?;
    let mut map = node.map(notes)?;
    let send: Option<String> = map.required("send");
    let expect: Option<String> = map.required("expect");
    let span = map.node("expect").map_or(map.span(), |node| node.span.clone());
    map.finish();
    let (send, expect) = (send?, expect?);
    if send.contains(&expect) {
        let label = "this stands in `send`, too";
        let problem = Problem::new(span, "a dead console would pass this probe", label);
        notes.note(problem.help(
            "a console echoes what is typed: expect a text that only a running command can print",
        ));
    }
    Some(Probe::Console { send, expect })
}

fn read_steps(node: &Node, notes: &Notes) -> Option<Vec<Step>> {
    let items = node.list(notes)?;
    let steps: Vec<Option<Vec<Step>>> = items.iter().map(|item| read_step(item, notes)).collect();
    steps.into_iter().collect::<Option<Vec<_>>>().map(|steps| steps.concat())
}

fn read_step(node: &Node, notes: &Notes) -> Option<Vec<Step>> {
    const WHAT: &str = "thing to collect";
    match &node.value {
        Value::Text(_) => {
            let words = [("host", Step::Host), ("console", Step::Console)];
            node.word(notes, WHAT, &words).map(|step| vec![step])
        }
        Value::Map(_) => match node.map(notes)?.only(WHAT, &["qmp", "sysrq"])? {
            ("qmp", list) => {
                let words = Query::ALL.map(|query| (query.word(), Step::Qmp(query)));
                read_words(list, notes, "question to qmp", &words)
            }
            (_, list) => {
                let words = Action::ALL.map(|action| (action.word(), Step::Sysrq(action)));
                read_words(list, notes, "sysrq action", &words)
            }
        },
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::List(_) => {
            notes.expected(node, "`host`, `console`, `qmp: [..]` or `sysrq: [..]`");
            None
        }
    }
}

fn read_words<T: Copy>(
    node: &Node,
    notes: &Notes,
    what: &str,
    words: &[(&str, T)],
) -> Option<Vec<T>> {
    let items = node.list(notes)?;
    let values: Vec<Option<T>> = items.iter().map(|item| item.word(notes, what, words)).collect();
    values.into_iter().collect()
}

fn read_budget(node: &Node, notes: &Notes) -> Option<Budget> {
    let mut map = node.map(notes)?;
    let time = map.or("time", Budget::DEFAULT.time);
    let bytes = map.or("bytes", Bytes(Budget::DEFAULT.bytes));
    map.finish();
    Some(Budget { time: time?, bytes: bytes?.0 })
}

impl FromNode for ScenarioName {
    const EXPECTED: &'static str = "a name: 1 to 64 of a-z, A-Z, 0-9, `-`, `_` and `.`";

    fn from_node(node: &Node, notes: &Notes) -> Option<Self> {
        parsed(node, notes, |text| text.parse().ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> String {
        let source = Source { name: "test.yaml".to_owned(), text: text.to_owned() };
        read(source).map_or_else(|problems| problems.to_string(), |_| "fine".to_owned())
    }

    #[test]
    fn the_shipped_scenarios_are_right() {
        for file in std::fs::read_dir("scenarios").unwrap() {
            let path = file.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            let name = path.display().to_string();
            let scenario =
                read(Source { name, text }).unwrap_or_else(|problems| panic!("{problems}"));
            assert_eq!(scenario.name().as_str(), path.file_stem().unwrap().to_str().unwrap());
            assert!(!scenario.summary().is_empty());
        }
    }

    #[test]
    fn every_mistake_is_told_at_once() {
        insta::assert_snapshot!(problems(
            "\
scenario: linux console
perod: 30s
timeout: 1
failureThreshold: 0
probe:
  - console: { send: \"uptime\", expect: \"up\", expct: 1 }
  - consol: {}
diagnose:
  - hosst
  - sysrq: [blocked-task, memory-usage]
  - memory: [log]
  - 7
budget: { time: soon }
"
        ));
    }

    #[test]
    fn broken_yaml_is_shown_where_it_breaks() {
        insta::assert_snapshot!(problems("scenario: a\nprobe: [1\n"));
        insta::assert_snapshot!(problems("scenario: a\nscenario: b\n"));
        insta::assert_snapshot!(problems(""));
    }
}
