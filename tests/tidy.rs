//! Holds the code to `docs/ARCHITECTURE.md`: who imports whom, what is pure, how long things are, and
//! that every module says what it is for.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

const FILE_LINES: usize = 800;
const FUNCTION_LINES: usize = 70;

/// What a pure file may not name, and what stands for it.
const IMPURE: [&str; 12] = [
    "tokio",
    "std::fs",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::ToSocketAddrs",
    "std::net::UdpSocket",
    "std::os",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "crate::base::time::Clock",
];

/// The clock is let in here.
const CLOCK: &str = "src/base/time.rs";

#[test]
fn rooms_import_what_the_table_allows() {
    let table = Table::read();
    let mut wrong = Vec::new();
    for file in sources() {
        wrong.extend(table.misplaced_imports(&file));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_room_is_in_the_table_and_no_other() {
    let table = Table::read();
    let rooms: BTreeSet<String> = sources().iter().filter_map(Source::room).collect();
    let listed: BTreeSet<String> = table.allowed.keys().cloned().collect();
    assert_eq!(rooms, listed);
}

#[test]
fn pure_files_know_no_io_and_no_clock() {
    let table = Table::read();
    let mut wrong = Vec::new();
    for file in sources() {
        if table.is_pure(&file) {
            wrong.extend(impurities(&file));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What changes a guest's run state, and who may say it.
const COMMANDS: [(&str, &[&str]); 7] = [
    ("cont", &["src/hypervisor/debugger/resume.rs", "src/hypervisor/dump.rs"]),
    ("quit", &[]),
    ("set-action", &[]),
    ("stop", &[]),
    ("system_powerdown", &[]),
    ("system_reset", &[]),
    ("system_wakeup", &[]),
];

#[test]
fn a_guest_s_run_state_is_changed_in_one_place() {
    let mut wrong = Vec::new();
    for file in sources().iter().filter(|file| !file.is_test()) {
        for (command, allowed) in COMMANDS {
            let is_said = file.text.contains(&format!("\"{command}\""));
            if is_said && !allowed.iter().any(|path| file.path == Path::new(path)) {
                wrong.push(format!("{}: says `{command}` to a monitor", file.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn features_stand_on_mod_lines_of_the_crate_alone() {
    for file in sources() {
        if file.path != Path::new("src/lib.rs") {
            assert!(!file.text.contains("feature = \""), "{}: cfg(feature)", file.path.display());
        }
    }
}

#[test]
fn files_and_functions_are_short_and_modules_say_what_they_are_for() {
    let mut wrong = Vec::new();
    for file in sources() {
        let lines = file.text.lines().count();
        if lines > FILE_LINES {
            wrong.push(format!("{}: {lines} lines, {FILE_LINES} at most", file.path.display()));
        }
        if !file.text.starts_with("//!") {
            wrong.push(format!("{}: no module documentation", file.path.display()));
        }
        wrong.extend(long_functions(&file));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_bad_sample_is_caught() {
    let table = Table::read();
    let sample = |path: &str, text: &str| Source { path: path.into(), text: text.to_owned() };

    let upward = sample("src/ladder/sample.rs", "use crate::transport::{console, mux};");
    assert_eq!(
        table.misplaced_imports(&upward),
        ["src/ladder/sample.rs:1: ladder may not import transport"]
    );
    let inline = sample("src/spool/sample.rs", "fn f() { crate::upload::session::go() }");
    assert_eq!(table.misplaced_imports(&inline).len(), 1);
    let grouped = sample("src/agent/sample.rs", "use crate::{base::id, controller::store};");
    assert_eq!(table.misplaced_imports(&grouped).len(), 1);
    let relative = sample("src/base/sample.rs", "use super::super::spool::Spool;");
    assert_eq!(table.misplaced_imports(&relative).len(), 1);
    let fine =
        sample("src/ladder/sample.rs", "use crate::base::id; fn f(x: crate::scenario::Plan) {}");
    assert_eq!(table.misplaced_imports(&fine), Vec::<String>::new());

    let impure = sample("src/ladder/sample.rs", "use std::{fmt, fs}; fn f() { tokio::spawn(g()) }");
    assert_eq!(impurities(&impure).len(), 2);
    let in_a_test = sample("src/ladder/sample.rs", "#[cfg(test)] mod tests { use std::fs; }");
    assert_eq!(impurities(&in_a_test), Vec::<String>::new());

    let long = format!("fn f() {{\n{}}}", "g();\n".repeat(FUNCTION_LINES));
    assert_eq!(long_functions(&sample("src/ladder/sample.rs", &long)).len(), 1);
}

// === the sources ===

struct Source {
    path: PathBuf,
    text: String,
}

fn sources() -> Vec<Source> {
    let mut sources = Vec::new();
    let mut directories = vec![PathBuf::from("src")];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                sources.push(Source { path, text });
            }
        }
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(sources.len() > 20, "tidy must be run where `src` is");
    sources
}

impl Source {
    /// The room in which it stands. Programs and the crate's own root stand in none.
    fn room(&self) -> Option<String> {
        let inside = self.path.strip_prefix("src").unwrap();
        let first = inside.components().next()?.as_os_str().to_str()?;
        let room = first.strip_suffix(".rs").unwrap_or(first);
        (!matches!(room, "lib" | "bin")).then(|| room.to_owned())
    }

    /// The body of a `#[cfg(test)] mod tests;`, or of a faulty double for it.
    fn is_test(&self) -> bool {
        self.path.components().any(|part| {
            let name = Path::new(part.as_os_str()).file_stem();
            name.is_some_and(|name| ["tests", "faulty", "fake"].iter().any(|test| name == *test))
        })
    }

    /// How many levels below the crate's root its own module is.
    fn depth(&self) -> usize {
        let inside = self.path.strip_prefix("src").unwrap();
        let files = inside.components().count();
        if self.path.ends_with("mod.rs") { files - 1 } else { files }
    }

    fn parse(&self) -> syn::File {
        syn::parse_file(&self.text).unwrap_or_else(|e| panic!("{}: {e}", self.path.display()))
    }

    fn at(&self, line: usize) -> String {
        format!("{}:{line}", self.path.display())
    }
}

// === the table ===

struct Table {
    allowed: BTreeMap<String, BTreeSet<String>>,
    pure_rooms: BTreeSet<String>,
    pure_files: BTreeSet<PathBuf>,
}

impl Table {
    fn read() -> Self {
        let text = std::fs::read_to_string("docs/ARCHITECTURE.md").unwrap();
        let rows =
            text.lines().filter(|line| line.starts_with("| ") && !line.contains("may import"));
        let allowed = rows.map(|row| {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            let rooms = cells[3].split(", ").filter(|room| *room != "-").map(str::to_owned);
            (cells[1].to_owned(), rooms.collect())
        });
        let allowed = allowed.collect();
        let (_, pure) = text.split_once("Pure rooms are ").unwrap();
        let (rooms, rest) = pure.split_once(':').unwrap();
        let pure_rooms = rooms.split([',', ' ']).filter(|word| !matches!(*word, "" | "and"));
        let (files, _) = rest.split_once("\n\n").unwrap();
        let pure_files = files.split('`').filter(|part| part.starts_with("src/"));
        Self {
            allowed,
            pure_rooms: pure_rooms.map(str::to_owned).collect(),
            pure_files: pure_files.map(PathBuf::from).collect(),
        }
    }

    fn is_pure(&self, file: &Source) -> bool {
        let in_pure_room = file.room().is_some_and(|room| self.pure_rooms.contains(&room));
        (in_pure_room && file.path != Path::new(CLOCK)) || self.pure_files.contains(&file.path)
    }

    fn misplaced_imports(&self, file: &Source) -> Vec<String> {
        let Some(room) = file.room() else { return Vec::new() };
        let allowed =
            self.allowed.get(&room).unwrap_or_else(|| panic!("{room} is not in the table"));
        let mut wrong = BTreeSet::new();
        for (path, line) in paths(file) {
            let target = path.strip_prefix("crate::").and_then(|rest| rest.split("::").next());
            if let Some(target) = target.filter(|target| self.allowed.contains_key(*target))
                && target != room
                && !allowed.contains(target)
            {
                wrong.insert(format!("{}: {room} may not import {target}", file.at(line)));
            }
        }
        wrong.into_iter().collect()
    }
}

#[test]
fn pure_files_exist() {
    for file in Table::read().pure_files {
        assert!(file.exists(), "{} is called pure and is not there", file.display());
    }
}

fn impurities(file: &Source) -> Vec<String> {
    let mut wrong = BTreeSet::new();
    for (path, line) in paths(file) {
        let named = IMPURE.iter().find(|impure| {
            path == **impure
                || path.strip_prefix(**impure).is_some_and(|rest| rest.starts_with("::"))
        });
        if let Some(impure) = named {
            wrong.insert(format!("{}: a pure file names {impure}", file.at(line)));
        }
    }
    wrong.into_iter().collect()
}

// === what a file names ===

/// Every path outside of tests, absolute as far as that can be seen, and its line.
fn paths(file: &Source) -> Vec<(String, usize)> {
    if file.is_test() {
        return Vec::new();
    }
    let room = file.room().unwrap_or_default();
    let mut paths = Paths { depth: file.depth(), room, found: Vec::new() };
    paths.visit_file(&file.parse());
    paths.found
}

struct Paths {
    depth: usize,
    room: String,
    found: Vec<(String, usize)>,
}

impl Paths {
    fn note(&mut self, segments: &[String], line: usize) {
        let supers = segments.iter().take_while(|segment| *segment == "super").count();
        let path = if supers > 0 {
            // `super` out of the room leads to the crate's root; inside, it stays in the room.
            let rest = segments[supers..].join("::");
            if supers >= self.depth {
                format!("crate::{rest}")
            } else {
                format!("crate::{}::{rest}", self.room)
            }
        } else {
            segments.join("::")
        };
        self.found.push((path, line));
    }

    fn note_use(&mut self, tree: &syn::UseTree, before: &[String]) {
        let with = |ident: &syn::Ident| {
            let mut path = before.to_vec();
            path.push(ident.to_string());
            path
        };
        match tree {
            syn::UseTree::Path(path) => self.note_use(&path.tree, &with(&path.ident)),
            syn::UseTree::Name(name) => self.note(&with(&name.ident), name.span().start().line),
            syn::UseTree::Rename(name) => self.note(&with(&name.ident), name.span().start().line),
            syn::UseTree::Glob(glob) => self.note(before, glob.span().start().line),
            syn::UseTree::Group(group) => {
                group.items.iter().for_each(|tree| self.note_use(tree, before));
            }
        }
    }
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_test(&item.attrs) {
            self.depth += 1;
            visit::visit_item_mod(self, item);
            self.depth -= 1;
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.note_use(&item.tree, &[]);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        self.note(&segments, path.span().start().line);
        visit::visit_path(self, path);
    }
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Ident>().is_ok_and(|word| word == "test")
    })
}

// === how long functions are ===

fn long_functions(file: &Source) -> Vec<String> {
    let mut functions = Functions { found: Vec::new() };
    functions.visit_file(&file.parse());
    let long = functions.found.into_iter().filter(|(_, _, lines)| *lines > FUNCTION_LINES);
    long.map(|(name, line, lines)| {
        format!("{}: {name} has {lines} lines, {FUNCTION_LINES} at most", file.at(line))
    })
    .collect()
}

struct Functions {
    found: Vec<(String, usize, usize)>,
}

impl Functions {
    fn note(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let (first, last) = (block.span().start().line, block.span().end().line);
        self.found.push((signature.ident.to_string(), first, last - first + 1));
    }
}

impl<'ast> Visit<'ast> for Functions {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.note(&item.sig, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.note(&item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }
}
