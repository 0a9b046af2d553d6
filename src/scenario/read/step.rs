//! What to collect, and what that may cost.

use crate::base::document::{Bytes, Node, Notes, Value};
use crate::base::step::{Action, Query, Step};
use crate::scenario::Budget;

pub(super) fn read_all(node: &Node, notes: &Notes) -> Option<Vec<Step>> {
    let items = node.list(notes)?;
    let steps: Vec<Option<Vec<Step>>> = items.iter().map(|item| read_step(item, notes)).collect();
    steps.into_iter().collect::<Option<Vec<_>>>().map(|steps| steps.concat())
}

fn read_step(node: &Node, notes: &Notes) -> Option<Vec<Step>> {
    const WHAT: &str = "thing to collect";
    match &node.value {
        Value::Text(_) => {
            let words = [
                ("host", Step::Host),
                ("console", Step::Console),
                ("records", Step::Records),
                ("memory", Step::Memory),
                ("lend-sysrq", Step::LendSysrq),
                ("debugger", Step::Debugger),
                ("dump", Step::Dump),
                ("nmi", Step::Nmi),
            ];
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
            const STEPS: &str = "`host`, `console`, `records`, `memory`, `qmp: [..]`, `lend-sysrq`, \
                                 `sysrq: [..]`, `debugger`, `dump` or `nmi`";
            notes.expected(node, STEPS);
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

pub(super) fn read_budget(node: &Node, notes: &Notes) -> Option<Budget> {
    let mut map = node.map(notes)?;
    let time = map.or("time", Budget::DEFAULT.time);
    let bytes = map.or("bytes", Bytes(Budget::DEFAULT.bytes));
    map.finish();
    Some(Budget { time: time?, bytes: bytes?.0 })
}
