//! What a guest did, as a file: recorded answers and what it wrote, against time.
//!
//! A trace stands for a guest when a scenario is tried without one. What is recorded of a probe
//! holds until something else is recorded of it; of what nothing is recorded is found out from the
//! bytes of the console, if there are any, and is *unknown* otherwise.

use super::{ConsoleProbe, Exchange, LogProbe, Probe, Scenario};
use crate::base::document::{Document, FromNode, Node, Notes, Value, parsed};
use crate::base::problem::{Problem, Problems, Source};
use crate::base::rung::{Answer, Finding};
use crate::base::time::{Instant, Timestamp};
use std::time::Duration;

/// Events that a trace may have.
const EVENTS: usize = 20_000;

/// Longer lives are not replayed.
const LENGTH_MAX: Duration = Duration::from_secs(31 * 86_400);

/// A guest's life.
#[derive(Clone, Debug)]
pub struct Trace {
    events: Vec<Event>,
}

#[derive(Clone, Debug)]
struct Event {
    at: Instant,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    /// A probe's answer from now on, by its place in the scenario.
    Answer { probe: usize, answer: Answer, reason: String },
    /// What the guest wrote to its console.
    Console(String),
    /// What the clock on the wall says.
    Wall(Timestamp),
    /// Time goes by.
    Nothing,
}

/// Reads a trace of a scenario: a list in YAML, or JSON with one event a line.
///
/// # Errors
///
/// When anything is wrong with it; all mistakes are told.
pub fn read_trace(mut source: Source, scenario: &Scenario) -> Result<Trace, Problems> {
    if source.text.trim_start().starts_with('{') {
        let lines = source.text.lines().filter(|line| !line.trim().is_empty());
        source.text = lines.map(|line| format!("- {line}\n")).collect();
    }
    let document = Document::parse(source)?;
    document.read(|root, notes| {
        let items = root.list(notes)?;
        if items.len() > EVENTS {
            let label = format!("{} of them, {EVENTS} at most", items.len());
            notes.note(Problem::new(root.span.clone(), "too many events", label));
            return None;
        }
        let events: Vec<Option<Event>> =
            items.iter().map(|item| read_event(item, notes, scenario)).collect();
        let mut events: Vec<Event> = events.into_iter().collect::<Option<_>>()?;
        events.sort_by_key(|event| event.at);
        Some(Trace { events })
    })
}

fn read_event(node: &Node, notes: &Notes, scenario: &Scenario) -> Option<Event> {
    let mut map = node.map(notes)?;
    let at: Option<Duration> = map.required("at");
    if let Some(node) = map.node("at").filter(|_| at.is_some_and(|at| at > LENGTH_MAX)) {
        let label = "more than 31 days";
        notes.note(Problem::new(node.span.clone(), "the trace is too long", label));
    }
    let what = if map.node("probe").is_some() {
        let probe = map.node("probe").and_then(|node| read_probe(node, notes, scenario));
        let words = [Answer::Alive, Answer::Dead, Answer::Unknown];
        let words = words.map(|answer| (answer.to_string(), answer));
        let words: Vec<(&str, Answer)> =
            words.iter().map(|(word, answer)| (word.as_str(), *answer)).collect();
        let answer =
            map.required_node("answer").and_then(|node| node.word(notes, "kind of answer", &words));
        let reason = map.or("reason", "as recorded".to_owned());
        probe.zip(answer).zip(reason).map(|((probe, answer), reason)| What::Answer {
            probe,
            answer,
            reason,
        })
    } else if map.node("console").is_some() {
        map.optional("console").map(What::Console)
    } else if map.node("wall").is_some() {
        map.optional("wall").map(What::Wall)
    } else {
        Some(What::Nothing)
    };
    map.finish();
    Some(Event { at: Instant::default() + at?, what: what? })
}

/// A probe by its name, or by its number if it is one of several of that name.
fn read_probe(node: &Node, notes: &Notes, scenario: &Scenario) -> Option<usize> {
    let probes = scenario.probes();
    if let Value::Int(number) = &node.value {
        let index = usize::try_from(*number).ok().and_then(|number| number.checked_sub(1));
        let index = index.filter(|index| *index < probes.len());
        if index.is_none() {
            let label = format!("the scenario has {}", probes.len());
            notes.note(Problem::new(node.span.clone(), "there is no such probe", label));
        }
        return index;
    }
    let words: Vec<(&str, usize)> =
        probes.iter().enumerate().map(|(index, probe)| (probe.name(), index)).collect();
    node.word(notes, "probe", &words)
}

impl FromNode for Timestamp {
    const EXPECTED: &'static str = "a time such as 2026-03-29T00:30:00Z";

    fn from_node(node: &Node, notes: &Notes) -> Option<Self> {
        let read = |text: &str| text.parse::<jiff::Timestamp>().ok();
        parsed(node, notes, |text| read(text).map(|at| Self::from_millis(at.as_millisecond())))
    }
}

// === impl Trace ===

impl Trace {
    /// When it ends.
    #[must_use]
    pub fn end(&self) -> Instant {
        self.events.last().map_or(Instant::default(), |event| event.at)
    }

    /// What the clock on the wall says: it is set by the trace, and goes on from there.
    #[must_use]
    pub fn wall(&self, now: Instant, start: Timestamp) -> Timestamp {
        let until = self.events.iter().rev().filter(|event| event.at <= now);
        let mut set = until.filter_map(|event| match &event.what {
            What::Wall(wall) => Some((*wall, event.at)),
            What::Answer { .. } | What::Console(_) | What::Nothing => None,
        });
        let (wall, at) = set.next().unwrap_or((start, Instant::default()));
        let since = i64::try_from(now.since(at).as_millis()).unwrap_or(i64::MAX);
        Timestamp::from_millis(wall.as_millis().saturating_add(since))
    }

    /// The answer of one of the scenario's probes at `now`.
    #[must_use]
    pub fn answer(&self, scenario: &Scenario, index: usize, now: Instant) -> Option<Finding> {
        let probe = scenario.probes().get(index)?;
        let until = self.events.iter().rev().filter(|event| event.at <= now);
        let mut recorded = until.filter_map(|event| match &event.what {
            What::Answer { probe, answer, reason } if *probe == index => Some((*answer, reason)),
            What::Answer { .. } | What::Console(_) | What::Wall(_) | What::Nothing => None,
        });
        if let Some((answer, reason)) = recorded.next() {
            return Some(Finding { rung: probe.rung(), answer, reason: reason.clone() });
        }
        Some(self.overheard(probe, now, scenario.timing().timeout))
    }

    /// What the bytes of the console say of a probe.
    fn overheard(&self, probe: &Probe, now: Instant, timeout: Duration) -> Finding {
        let rung = probe.rung();
        let writes = self.events.iter().any(|event| matches!(event.what, What::Console(_)));
        if !writes {
            return Finding::unknown(rung, "nothing is recorded of it");
        }
        match probe {
            Probe::Console(ConsoleProbe::Ask { dialogue, .. }) => {
                let heard = self.written(now, now + timeout);
                match dialogue.iter().find(|said| said.expect.find(heard.as_bytes()).is_none()) {
                    Some(Exchange { send, expect }) => {
                        Finding::dead(rung, format!("`{send}` was not answered by {expect}"))
                    }
                    None => Finding::alive(rung, "it was answered"),
                }
            }
            Probe::Console(ConsoleProbe::Silence { after, .. }) => {
                self.within(now, *after, |heard| !heard.is_empty(), rung)
            }
            Probe::Log(LogProbe::Label { label, within }) => {
                self.within(now, *within, |heard| heard.contains(label.as_str()), rung)
            }
            Probe::Log(LogProbe::Never(lines)) => {
                let heard = self.written(Instant::default(), now);
                match lines.iter().find(|line| line.find(heard.as_bytes()).is_some()) {
                    Some(line) => Finding::dead(rung, format!("{line} came")),
                    None => Finding::unknown(rung, "none of the lines came"),
                }
            }
            Probe::Disk(_) | Probe::Network(_) | Probe::Agent(_) | Probe::Vcpu => {
                Finding::unknown(rung, "nothing is recorded of it")
            }
        }
    }

    fn within(
        &self,
        now: Instant,
        within: Duration,
        wanted: impl Fn(&str) -> bool,
        rung: crate::base::rung::Rung,
    ) -> Finding {
        if wanted(&self.written(now - within, now)) {
            return Finding::alive(rung, "it came in time");
        }
        if now.since(Instant::default()) < within {
            return Finding::unknown(rung, "it was not listened to for long enough");
        }
        Finding::dead(rung, "it did not come in time")
    }

    /// What the guest wrote from `start` to `end`.
    fn written(&self, start: Instant, end: Instant) -> String {
        let from = self.events.partition_point(|event| event.at < start);
        let until = self.events.partition_point(|event| event.at <= end);
        self.events[from..until]
            .iter()
            .filter_map(|event| match &event.what {
                What::Console(text) => Some(text.as_str()),
                What::Answer { .. } | What::Wall(_) | What::Nothing => None,
            })
            .collect()
    }
}
