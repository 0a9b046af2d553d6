//! What a guest shall record while it is well.

use crate::base::document::{Bytes, FromNode, Map, Node, Notes, parsed};
use crate::base::problem::Problem;
use crate::scenario::Probe;
use crate::scenario::recorder::{BUFFER_KIB, Event, Recorder};
use std::ops::RangeInclusive;

/// The line that a shell is typed holds all of them.
const EVENTS: usize = 8;

/// Each CPU keeps so much, and all of it is printed.
const KIB: RangeInclusive<u64> = 4..=1024;

pub(super) fn read(node: &Node, notes: &Notes, probes: Option<&[Probe]>) -> Option<Recorder> {
    let mut map = node.map(notes)?;
    let events = map.or("events", Vec::<Event>::new());
    let calls = map.node("tracer").map(|node| node.word(notes, "tracer", &[("function", true)]));
    let buffer_kib = read_buffer(&mut map, notes);
    if events.as_ref().is_some_and(Vec::is_empty) && calls.is_none() {
        let problem = Problem::new(map.span(), "nothing would be recorded", "no event, no tracer");
        notes.note(problem.help("`events: [\"sched:sched_switch\"]`, or `tracer: function`"));
    }
    if let (Some(node), Some(true)) =
        (map.node("events"), events.as_ref().map(|events| events.len() > EVENTS))
    {
        let problem = Problem::new(node.span.clone(), "too many events", "more than 8");
        notes.note(problem.help("all of a kind are one: `sched`"));
    }
    map.finish();
    let recorder =
        Recorder { events: events?, calls: calls.unwrap_or(Some(false))?, buffer_kib: buffer_kib? };
    if probes.is_some_and(|probes| recorder.probe(probes).is_none()) {
        let problem = Problem::new(node.span.clone(), "nobody could be told to record", "here");
        notes.note(
            problem.help("it takes a probe that has a shell: `console` with one, or `agent`"),
        );
    }
    Some(recorder)
}

fn read_buffer(map: &mut Map<'_>, notes: &Notes) -> Option<u32> {
    let Some(node) = map.node("buffer") else { return Some(BUFFER_KIB) };
    let Bytes(bytes) = map.required("buffer")?;
    let kib = bytes / 1024;
    if !KIB.contains(&kib) || bytes % 1024 != 0 {
        let problem = Problem::new(node.span.clone(), "no size for a buffer", "not 4KiB to 1MiB");
        notes.note(problem.help("every CPU has one, and all of them are printed"));
        return None;
    }
    u32::try_from(kib).ok()
}

impl FromNode for Event {
    const EXPECTED: &'static str =
        "an event such as `sched:sched_switch`, or a subsystem such as `irq`";

    fn from_node(node: &Node, notes: &Notes) -> Option<Self> {
        parsed(node, notes, Self::named)
    }
}
