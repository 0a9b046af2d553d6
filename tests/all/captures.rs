//! Every fault of the lab against every way in which a capture asks, on both kernels, by what the kernel
//! lets a key do and by how its console is wired.
//!
//! What must come of it stands in `docs/captures.md` and nowhere else. `hack/test` tries a few rows,
//! `hack/captures` all of them.
//!
//! For every combination a guest is started and broken, and then asked by one way after the other, each
//! alone and by the product's own code, for the backtraces of its CPUs: a short dump that is never empty.
//! Then the monitor, the host and its memory tell what they know.

use super::lab::{Guest, root};
use super::matrix::{KERNELS, NO_FAULT, faults};
use super::table::{Row, Table, any_of};
use lifesign::base::consent::Consent;
use lifesign::base::step::{Action, Query, Step};
use lifesign::base::time::Clock;
use lifesign::capture::{Budget, Capture, Route, Target, capture};
use lifesign::evidence::report::{Outcome, StepReport};
use lifesign::evidence::sysrq::{self, Answer};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

/// How the console of a guest is wired.
#[derive(Debug)]
struct Wiring {
    name: &'static str,
    /// Of its table.
    heading: &'static str,
    options: [&'static str; 4],
    /// The way for keys that its console has, and what the columns call it.
    own: (&'static str, Route),
    /// Ways that other wirings have.
    others: &'static [Route],
}

static WIRINGS: [Wiring; 3] = [
    Wiring {
        name: "eve-hvc0",
        heading: "## EVE, the kernel's console on hvc0",
        options: ["--wiring", "eve", "--console", "hvc0"],
        own: ("^O", Route::ControlO),
        others: &[Route::BreakNext, Route::BreakByMonitor],
    },
    Wiring {
        name: "eve-ttyS0",
        heading: "## EVE, the kernel's console on ttyS0",
        options: ["--wiring", "eve", "--console", "ttyS0"],
        own: ("BREAK", Route::BreakNext),
        others: &[Route::ControlO, Route::BreakByMonitor],
    },
    Wiring {
        name: "plain",
        heading: "## A plain serial line",
        options: ["--wiring", "plain", "--console", "ttyS0"],
        own: ("BREAK", Route::BreakByMonitor),
        others: &[Route::ControlO],
    },
];

/// What a kernel lets a key do, and how much its console shows of it.
static MASKS: [(&str, &[&str]); 3] = [
    ("stock", &["--sysrq", "default"]),
    ("all", &["--sysrq", "all"]),
    ("quiet", &["--sysrq", "all", "--quiet"]),
];

/// What every guest has, so that it can be broken in every way and asked in every way.
const OPTIONS: [&str; 3] = ["--disk", "--net", "--agent"];

/// Neither mask nor wiring matters to them, so a cell is of all masks.
const SHARED: [&str; 5] = ["shell", "agent", "qmp", "host", "memory"];

/// What is asked of the monitor here. The rest depends on what devices a guest has.
const QUERIES: [Query; 4] = [Query::Status, Query::Cpus, Query::Registers, Query::Blocks];

const BUDGET: Budget = Budget { time: Duration::from_secs(40), bytes: 4 << 20 };

/// A guest that said nothing to any way says nothing for so long after it was asked.
const SILENCE: Duration = Duration::from_secs(3);

/// As many as there are CPUs for them.
const AT_ONCE: usize = 2;

const SILENT: &str = "silent";
const NOT_PRESSED: &str = "n/a";
const WORDS: [&str; 5] = ["collected", "header", "refused", SILENT, NOT_PRESSED];

/// A guest that is broken in one way.
#[derive(Clone, Copy, Debug)]
struct Combination<'a> {
    fault: &'a str,
    kernel: &'static str,
    mask: &'static str,
    wiring: &'static Wiring,
}

/// A way to ask its kernel.
#[derive(Clone, Copy)]
enum Way {
    Key(Route),
    Agent,
}

/// A guest, and a place for what has to be put back in it.
struct Subject {
    guest: Guest,
    notes: tempfile::TempDir,
}

// === what is asked ===

impl Combination<'_> {
    fn options(&self) -> Vec<String> {
        let mask = MASKS.iter().find(|(mask, _)| *mask == self.mask).unwrap();
        let all = [&self.wiring.options[..], mask.1, &OPTIONS, &["--kernel", self.kernel]].concat();
        all.into_iter().map(str::to_owned).collect()
    }

    /// The guest that is saved for all faults of a kernel, a mask and a wiring.
    fn saved(&self) -> String {
        let name = format!("cap-{}-{}-{}", self.kernel, self.mask, self.wiring.name);
        name.to_lowercase().replace('.', "-")
    }

    fn save(&self) {
        let options = self.options();
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        Guest::up(&self.saved(), &options).save();
    }

    /// The ways to its kernel, from the least disturbing on, and in which column each is.
    fn ways(&self) -> [(String, Way); 4] {
        let (own, route) = self.wiring.own;
        [
            ("agent".to_owned(), Way::Agent),
            (format!("{own} {}", self.mask), Way::Key(route)),
            (format!("keyboard {}", self.mask), Way::Key(Route::Keyboard)),
            ("shell".to_owned(), Way::Key(Route::Shell)),
        ]
    }

    /// Breaks a guest of this name, perhaps one that was saved whole, and tells what was heard.
    fn heard(&self, name: &str, saved: bool) -> Row {
        let options = if saved { vec!["--like".to_owned(), self.saved()] } else { self.options() };
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let guest = Guest::up(name, &options);
        if self.fault != NO_FAULT {
            guest.break_it(self.fault);
        }
        let subject = Subject { guest, notes: tempfile::tempdir().unwrap() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(subject.ask_all(self))
    }
}

impl Subject {
    async fn ask_all(&self, what: &Combination<'_>) -> Row {
        let said_before = self.said().len();
        let mut row = Row::new();
        for (column, way) in what.ways() {
            row.insert(column, self.ask(way).await);
        }
        let asked = Clock::now();
        let answers = row.values().any(|word| ![SILENT, NOT_PRESSED].contains(&word.as_str()));
        self.look(&mut row).await;
        if answers {
            // Who answers late on one way is not told from who answers the next one.
            for (column, way) in what.ways() {
                if row[&column] == SILENT {
                    let again = self.ask(way).await;
                    row.insert(column, any_of(&[SILENT.to_owned(), again]));
                }
            }
        } else {
            tokio::time::sleep(SILENCE.saturating_sub(Clock::now().since(asked))).await;
            let said = self.said().split_off(said_before);
            assert!(!is_answer(&said), "late: {}", String::from_utf8_lossy(&said));
        }
        if what.fault == NO_FAULT {
            for route in what.wiring.others {
                assert_eq!(self.ask(Way::Key(*route)).await, SILENT, "{route}");
            }
        }
        row
    }

    /// One way alone.
    async fn ask(&self, way: Way) -> String {
        let file = |name: &str| Some(self.guest.file(name));
        let alone = Target {
            qmp: file("qmp"),
            undo: Some(self.notes.path().join("undo")),
            consent: Consent::Input,
            ..Target::default()
        };
        let target = match way {
            Way::Agent => Target { guest_agent: file("qga"), ..alone },
            Way::Key(route) => Target {
                console: file("cons"),
                by: Some(route),
                shell: route == Route::Shell,
                ..alone
            },
        };
        let key = Step::Sysrq(Action::BacktraceAllActiveCpus);
        let captured = capture(&target, &[key], Vec::new(), BUDGET, &|_| {}).await;
        for step in captured.steps.iter().filter(|step| step.outcome != Outcome::Done) {
            eprintln!("    {} {}: {}", step.name, step.outcome, step.reason);
        }
        let step = captured.steps.iter().find(|step| step.name == key.name()).unwrap();
        answered(step, &captured)
    }

    /// What is seen of it without its help.
    async fn look(&self, row: &mut Row) {
        let target = Target {
            qmp: Some(self.guest.file("qmp")),
            consent: Consent::Query,
            ..Target::default()
        };
        let own = [Step::Host, Step::Memory].into_iter();
        let steps: Vec<Step> = own.chain(QUERIES.map(Step::Qmp)).collect();
        let captured = capture(&target, &steps, Vec::new(), BUDGET, &|_| {}).await;
        for column in ["qmp", "host", "memory"] {
            let mut words: Vec<String> = Vec::new();
            for step in captured.steps.iter().filter(|step| step.name.starts_with(column)) {
                if step.outcome != Outcome::Done {
                    eprintln!("    {} {}: {}", step.name, step.outcome, step.reason);
                }
                words.push(seen(step.outcome));
            }
            row.insert(column.to_owned(), any_of(&words));
        }
    }

    /// All that came out of its console.
    fn said(&self) -> Vec<u8> {
        std::fs::read(self.guest.file("console.log")).unwrap()
    }
}

/// The word for what a key brought.
fn answered(step: &StepReport, captured: &Capture) -> String {
    let heard = captured.artifacts.first().map(|artifact| artifact.data.as_slice());
    let answer = Answer::read(Action::BacktraceAllActiveCpus.word(), heard.unwrap_or_default());
    if step.outcome == Outcome::Done {
        assert!(!answer.cpus.is_empty(), "{answer:?}");
    }
    let header_alone = answer.outcome == sysrq::Outcome::HeaderOnly;
    if step.outcome == Outcome::Partial && header_alone {
        return "header".to_owned();
    }
    seen(step.outcome)
}

fn seen(outcome: Outcome) -> String {
    let word = match outcome {
        Outcome::Done => "collected",
        Outcome::Skipped => NOT_PRESSED,
        Outcome::Partial | Outcome::Refused | Outcome::Silent | Outcome::Failed => outcome.word(),
    };
    word.to_owned()
}

/// Whether the kernel's handler of keys, or the shell that is asked who it is, said anything.
fn is_answer(said: &[u8]) -> bool {
    ["sysrq: ", "uid=0."]
        .iter()
        .any(|word| said.windows(word.len()).any(|window| window == word.as_bytes()))
}

// === the tables ===

fn path() -> PathBuf {
    root().join("docs/captures.md")
}

impl Wiring {
    /// The masks that its table has columns for: what it has none for was not measured.
    fn masks(&self) -> Vec<&'static str> {
        let table = expected(self);
        let has = |mask: &&str| table.columns().contains(&format!("{} {mask}", self.own.0));
        MASKS.iter().map(|(mask, _)| *mask).filter(has).collect()
    }
}

fn expected(wiring: &Wiring) -> Table {
    Table::read_below(wiring.heading, &std::fs::read_to_string(path()).unwrap())
}

/// What was heard so far, and what of it was wrong.
#[derive(Default)]
struct Heard {
    rows: BTreeMap<(&'static str, String, &'static str), Row>,
    wrong: Vec<String>,
    corrects: bool,
}

impl Heard {
    /// Holds a row against the table, or corrects it there.
    fn take(&mut self, what: &Combination<'_>, row: Option<Row>) {
        let Some(row) = row else {
            self.wrong.push(format!("{} could not be tried", what.name()));
            return;
        };
        let key = (what.wiring.name, what.fault.to_owned(), what.kernel);
        let heard = self.rows.entry(key).or_default();
        for (column, words) in row {
            let all = match heard.get(&column) {
                Some(before) => any_of(&[before.clone(), words]),
                None => words,
            };
            heard.insert(column, all);
        }
        let mut table = expected(what.wiring);
        let wrong = table.wrong(what.fault, what.kernel, heard);
        wrong.iter().for_each(|line| eprintln!("  {}: {line}", what.wiring.name));
        if self.corrects {
            table.correct(what.fault, what.kernel, heard);
            std::fs::write(path(), table.write()).unwrap();
        } else {
            self.wrong.extend(wrong);
        }
    }
}

impl Combination<'_> {
    fn name(&self) -> String {
        let Self { fault, kernel, mask, wiring } = self;
        format!("{fault} on {kernel}, {mask}, {}", wiring.name)
    }

    /// On a thread of its own, so that one that fails does not end the others. It is tried again: on a host
    /// that is busy a guest may not be seen to break in time.
    fn heard_apart(&self, name: &str, saved: bool) -> Option<Row> {
        let begun = Clock::now();
        let heard = || std::thread::scope(|scope| scope.spawn(|| self.heard(name, saved)).join());
        let row = heard().or_else(|_panic| heard()).ok();
        eprintln!("{} ({} s): {row:?}", self.name(), Clock::now().since(begun).as_secs());
        row
    }
}

/// Tries some combinations, two at once, in their order.
fn try_each(combinations: &[Combination<'_>], saved: bool, heard: &Mutex<Heard>) {
    let queue = Mutex::new(combinations.iter());
    std::thread::scope(|scope| {
        for worker in 1..=AT_ONCE {
            let queue = &queue;
            scope.spawn(move || {
                loop {
                    let Some(next) = queue.lock().unwrap().next() else { return };
                    // The long proof and the few may run at the same time.
                    let name = format!("cap-{}{worker}", if saved { "" } else { "few-" });
                    let row = next.heard_apart(&name, saved);
                    heard.lock().unwrap().take(next, row);
                }
            });
        }
    });
}

/// The same of a block, of one mask and one wiring: its guests boot once and are saved, for to boot takes
/// longer than all the rest.
fn try_block(block: &[Combination<'_>], heard: &Mutex<Heard>) {
    let mut guests: Vec<&Combination<'_>> = block.iter().collect();
    guests.sort_by_key(|what| what.kernel);
    guests.dedup_by_key(|what| what.kernel);
    std::thread::scope(|scope| {
        for what in &guests {
            scope.spawn(|| what.save());
        }
    });
    try_each(block, true, heard);
    for what in guests {
        std::fs::remove_dir_all(root().join("target/lab").join(what.saved())).unwrap();
    }
}

#[test]
fn a_few_guests_give_what_the_table_says() {
    let [hvc0, _, plain] = &WIRINGS;
    let stopped = "userspace-stopped";
    let few = [
        Combination { fault: stopped, kernel: "6.12", mask: "stock", wiring: plain },
        Combination { fault: "irq-off-all", kernel: "6.1", mask: "all", wiring: hvc0 },
    ];
    let heard = Mutex::default();
    try_each(&few, false, &heard);
    assert_eq!(heard.into_inner().unwrap().wrong, [""; 0], "see the lines above");
}

/// The long proof, which `hack/captures` asks for by LIFESIGN_CAPTURES: words of which each names a fault,
/// a kernel, a mask or a wiring; of what none is named, all are tried. With LIFESIGN_CAPTURES_WRITE the
/// tables are corrected instead of held against what is heard.
#[test]
fn every_guest_gives_what_the_table_says() {
    let Some(wanted) = std::env::var_os("LIFESIGN_CAPTURES") else { return };
    let wanted = wanted.into_string().unwrap();
    let wanted: Vec<&str> = wanted.split_whitespace().collect();
    let corrects = std::env::var_os("LIFESIGN_CAPTURES_WRITE").is_some();
    let faults = faults();
    let begun = Clock::now();
    let mut combinations = all_of(&faults);
    for names in [
        faults.iter().map(String::as_str).collect(),
        KERNELS.to_vec(),
        MASKS.map(|(mask, _)| mask).to_vec(),
        WIRINGS.each_ref().map(|wiring| wiring.name).to_vec(),
    ] {
        let wanted: Vec<&str> =
            wanted.iter().copied().filter(|word| names.contains(word)).collect();
        combinations.retain(|what| {
            let own = [what.fault, what.kernel, what.mask, what.wiring.name];
            wanted.is_empty() || own.iter().any(|name| wanted.contains(name))
        });
    }
    let heard = Mutex::new(Heard { corrects, ..Heard::default() });
    let block = |what: &Combination<'_>| (what.mask, what.wiring.name);
    for block in combinations.chunk_by(|one, next| block(one) == block(next)) {
        try_block(block, &heard);
    }
    let took = Clock::now().since(begun).as_secs();
    eprintln!("{} guests, {} min {} s", combinations.len(), took / 60, took % 60);
    assert_eq!(heard.into_inner().unwrap().wrong, [""; 0]);
}

/// All, block by block: of what was stopped midway, whole blocks are tried.
fn all_of(faults: &[String]) -> Vec<Combination<'_>> {
    let blocks = MASKS.iter().flat_map(|(mask, _)| {
        let measured = |wiring: &&Wiring| wiring.masks().contains(mask);
        WIRINGS.iter().filter(measured).map(move |wiring| (*mask, wiring))
    });
    let of_block = |(mask, wiring)| {
        let of_fault =
            move |fault| KERNELS.map(|kernel| Combination { fault, kernel, mask, wiring });
        faults.iter().map(String::as_str).flat_map(of_fault).collect::<Vec<_>>()
    };
    blocks.flat_map(of_block).collect()
}

#[test]
fn the_tables_have_every_fault_and_every_way() {
    let faults = faults();
    for wiring in &WIRINGS {
        let table = expected(wiring);
        let keys = faults.iter().flat_map(|fault| KERNELS.map(|kernel| (fault.as_str(), kernel)));
        assert_eq!(table.keys(), keys.collect());
        let masks = wiring.masks();
        assert!(masks.starts_with(&["stock", "all"]), "{}: {masks:?}", wiring.name);
        let keyed = masks
            .iter()
            .flat_map(|mask| [wiring.own.0, "keyboard"].map(|way| format!("{way} {mask}")));
        let columns: Vec<String> = keyed.chain(SHARED.map(str::to_owned)).collect();
        assert_eq!(table.columns(), columns);
        for (fault, kernel) in table.keys() {
            for (column, words) in table.row(fault, kernel).unwrap() {
                let known = words.split(" or ").all(|word| WORDS.contains(&word));
                assert!(known, "{fault} on {kernel}, {column}: `{words}`");
            }
        }
    }
}
