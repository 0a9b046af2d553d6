//! The list of dumps.

use super::Style;
use crate::base::text::harmless_line;
use crate::controller::dumps::{Known, Line, There};
use crate::controller::store::{State, Wanted};
use crate::report::table;

/// A table, and below it what a person should know besides.
#[must_use]
pub fn text(known: &Known, style: Style) -> String {
    let mut text = if known.dumps.is_empty() {
        "No device tells of a dump.\n".to_owned()
    } else {
        let rows: Vec<[String; 6]> = known.dumps.iter().map(row).collect();
        let table = table(["DEVICE", "NAME", "APP", "TAKEN", "SIZE", "STATE"], &rows);
        match table.split_once('\n') {
            Some((head, rest)) => format!("{}\n{rest}", style.text().bold(head)),
            None => table,
        }
    };
    for warning in &known.warnings {
        text.push_str(&format!("warning: {}\n", harmless_line(warning.as_bytes())));
    }
    text
}

fn row(line: &Line) -> [String; 6] {
    let Line { device, dump, .. } = line;
    [
        device.to_string(),
        dump.name.to_string(),
        harmless_line(dump.app.as_bytes()),
        dump.taken.to_string(),
        format!("{} MiB", dump.bytes.div_ceil(1 << 20)),
        state(line),
    ]
}

fn state(line: &Line) -> String {
    let Some(wanted) = &line.wanted else {
        return match line.there {
            There::Denied => "on the device, whose config denies it to us".to_owned(),
            There::Lent | There::Gone => "on the device".to_owned(),
        };
    };
    let state = match &wanted.state {
        State::Stored(at) => return format!("here since {at}"),
        State::Refused(why) => return format!("refused: {}", harmless_line(why.as_bytes())),
        State::Coming { hindered: Some(why) } => format!("{}, held up: {why}", share(wanted)),
        State::Coming { hindered: None } => share(wanted),
    };
    match line.there {
        There::Lent => state,
        There::Denied => format!("{state}; the device's config denies us the rest"),
        There::Gone => format!("{state}; the device has it no more"),
    }
}

fn share(wanted: &Wanted) -> String {
    let percent = u128::from(wanted.held) * 100 / u128::from(wanted.bytes.max(1));
    format!("asked for, {percent} % is here")
}
