//! Tables in `docs/`: what must come of every question when a guest is broken.
//!
//! A row is of one fault on the kernels that it names; where kernels differ, each has a row. A cell is a
//! word, or several with `or` between them where it may honestly be more than one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// The columns that say which row it is.
const FAULT: &str = "fault";
const KERNELS: &str = "Linux";

/// Between words of which any may be heard.
const OR: &str = " or ";

/// One kernel under one fault: what must be heard, by column.
pub(crate) type Row = BTreeMap<String, String>;

/// The table and the text around it.
pub(crate) struct Table {
    before: String,
    after: String,
    columns: Vec<String>,
    /// In the order of the file.
    rows: Vec<(String, String, Row)>,
}

impl Table {
    /// Finds the first table in a text.
    pub(crate) fn read(text: &str) -> Self {
        Self::read_below("", text)
    }

    /// Finds the first table below a line.
    pub(crate) fn read_below(line: &str, text: &str) -> Self {
        let line = text.find(line).unwrap_or_else(|| panic!("a line `{line}`"));
        let head = format!("| {FAULT} ");
        let begin = line + text[line..].find(&head).expect("a line of headings");
        let end = begin + text[begin..].find("\n\n").map_or(text.len() - begin, |at| at + 1);
        let mut lines = text[begin..end].lines().map(cells);
        let columns: Vec<String> = lines.next().unwrap().into_iter().skip(2).collect();
        let mut table = Self {
            before: text[..begin].to_owned(),
            after: text[end..].to_owned(),
            columns,
            rows: Vec::new(),
        };
        for cells in lines.skip(1) {
            let [fault, kernels, words @ ..] = &cells[..] else { panic!("a short row: {cells:?}") };
            assert_eq!(words.len(), table.columns.len(), "the cells of {fault} on {kernels}");
            let row: Row = table.columns.iter().cloned().zip(words.iter().cloned()).collect();
            for kernel in kernels.split(", ") {
                table.rows.push((fault.clone(), kernel.to_owned(), row.clone()));
            }
        }
        table
    }

    /// Its columns, but those that say which row it is.
    pub(crate) fn columns(&self) -> &[String] {
        &self.columns
    }

    /// Which rows there are.
    pub(crate) fn keys(&self) -> BTreeSet<(&str, &str)> {
        self.rows.iter().map(|(fault, kernel, _)| (fault.as_str(), kernel.as_str())).collect()
    }

    /// What must be heard of a fault on a kernel.
    pub(crate) fn row(&self, fault: &str, kernel: &str) -> Option<&Row> {
        let of_it = self.rows.iter().find(|(its, on, _)| its == fault && on == kernel);
        of_it.map(|(_, _, row)| row)
    }

    /// What was heard otherwise than it must be, a line each.
    pub(crate) fn wrong(&self, fault: &str, kernel: &str, heard: &Row) -> Vec<String> {
        let row = self.row(fault, kernel);
        let differs = |(column, words): (&String, &String)| {
            let expected = row.and_then(|row| row.get(column)).map_or("", String::as_str);
            (!allows(expected, words))
                .then(|| format!("{fault} on {kernel}, {column}: `{words}`, expected `{expected}`"))
        };
        heard.iter().filter_map(differs).collect()
    }

    /// Takes what was heard where it is not what may be heard.
    pub(crate) fn correct(&mut self, fault: &str, kernel: &str, heard: &Row) {
        let at = self.rows.iter().position(|(its, on, _)| its == fault && on == kernel);
        let at = at.unwrap_or_else(|| {
            self.rows.push((fault.to_owned(), kernel.to_owned(), Row::new()));
            self.rows.len() - 1
        });
        let row = &mut self.rows[at].2;
        for (column, words) in heard {
            if !row.get(column).is_some_and(|expected| allows(expected, words)) {
                row.insert(column.clone(), words.clone());
            }
        }
    }

    /// The text with the table in it.
    pub(crate) fn write(&self) -> String {
        let mut lines = vec![[&[FAULT.to_owned(), KERNELS.to_owned()], &self.columns[..]].concat()];
        for (fault, kernel, row) in &self.rows {
            let of = |column: &String| row.get(column).cloned().unwrap_or_default();
            let words: Vec<String> = self.columns.iter().map(of).collect();
            match lines.iter_mut().find(|line| line[0] == *fault && line[2..] == words[..]) {
                Some(line) => line[1] = format!("{}, {kernel}", line[1]),
                None => lines.push([&[fault.clone(), kernel.clone()], &words[..]].concat()),
            }
        }
        let widths: Vec<usize> = (0..lines[0].len())
            .map(|at| lines.iter().map(|line| line[at].len()).max().unwrap_or_default())
            .collect();
        lines.insert(1, widths.iter().map(|width| "-".repeat(*width)).collect());
        let mut text = self.before.clone();
        for line in lines {
            for (cell, width) in line.iter().zip(&widths) {
                write!(text, "| {cell:width$} ").unwrap();
            }
            text.push_str("|\n");
        }
        text + &self.after
    }
}

fn cells(line: &str) -> Vec<String> {
    line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
}

/// Puts words of which any may be heard into a cell; each may be such a cell itself.
pub(crate) fn any_of(words: &[String]) -> String {
    let mut words: Vec<&str> = words.iter().flat_map(|words| words.split(OR)).collect();
    words.sort();
    words.dedup();
    words.join(OR)
}

/// Whether a cell lets all of these words be heard.
fn allows(expected: &str, heard: &str) -> bool {
    heard.split(OR).all(|word| expected.split(OR).any(|may| may == word))
}

#[test]
fn a_table_is_corrected_where_it_is_wrong_and_nowhere_else() {
    let text = "Before.\n\n| fault | Linux | a | b |\n|---|---|---|---|\n\
                | x | 6.1, 6.12 | alive | dead or unknown |\n\nAfter.\n";
    let mut table = Table::read(text);
    let heard = |a: &str, b: &str| {
        Row::from([("a".to_owned(), a.to_owned()), ("b".to_owned(), b.to_owned())])
    };
    table.correct("x", "6.1", &heard("alive", "unknown"));
    table.correct("x", "6.12", &heard("dead", "dead"));
    table.correct("y", "6.1", &heard("alive", &any_of(&["dead".into(), "alive".into()])));
    insta::assert_snapshot!(table.write(), @"
    Before.

    | fault | Linux | a     | b               |
    | ----- | ----- | ----- | --------------- |
    | x     | 6.1   | alive | dead or unknown |
    | x     | 6.12  | dead  | dead or unknown |
    | y     | 6.1   | alive | alive or dead   |

    After.
    ");
    assert_eq!(Table::read(&table.write()).write(), table.write());
}
