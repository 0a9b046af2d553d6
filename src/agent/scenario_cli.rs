//! `lifesign scenario ..`: what a person does with scenario files, as text.
//!
//! Nothing here asks a guest: files are read, explained, and tried against the recording of one. Files
//! may come from anywhere, so what is told of them is harmless to a terminal.

use super::probe::testimony;
use crate::base::id::ScenarioName;
use crate::base::limits;
use crate::base::problem::{Problems, Source};
use crate::base::rung::{Answer, Finding, Rung};
use crate::base::text::{Harmless, harmless_line};
use crate::base::time::{Instant, Timestamp};
use crate::ladder::{Context, Ladder, Rules, Testimony, Turn};
use crate::scenario::schedule::Schedule;
use crate::scenario::{self, Probe, Said, Scenario, Trace};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The reference of the language, which is also the long help of the commands.
pub const REFERENCE: &str = include_str!("../../docs/scenario.md");

/// When a trace begins that does not say so: a Monday, 2026-01-05T00:00:00Z.
const MONDAY: i64 = 1_767_571_200_000;

/// A trace is replayed no further: a week of rounds every 30 seconds.
const ROUNDS: usize = 20_160;

/// Why nothing can be said of a file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("failed to read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It was read, and is wrong.
    #[error("{0}")]
    Wrong(Problems),
    /// Both are right, but bindings could not tell them apart.
    #[error("{first} and {second} are both named `{name}`")]
    Twice {
        /// The name.
        name: ScenarioName,
        /// The file that was read first.
        first: PathBuf,
        /// The other one.
        second: PathBuf,
    },
}

/// What came of reading several files.
#[derive(Debug, Default)]
pub struct Linted {
    /// A line for each that is right.
    pub right: Vec<String>,
    /// Those that are wrong, or cannot be read.
    pub wrong: Vec<Error>,
}

// === impl Error ===

impl Error {
    /// As text for a terminal, with colours.
    #[must_use]
    pub fn coloured(&self) -> Option<String> {
        match self {
            Self::Wrong(problems) => Some(problems.coloured()),
            Self::Read { .. } | Self::Twice { .. } => None,
        }
    }
}

/// Reads scenario files, and tells every mistake of all of them.
#[must_use]
pub fn lint(files: &[PathBuf]) -> Linted {
    let mut linted = Linted::default();
    let mut names: BTreeMap<ScenarioName, &PathBuf> = BTreeMap::new();
    for file in files {
        let scenario = match read(file) {
            Ok(scenario) => scenario,
            Err(error) => {
                linted.wrong.push(error);
                continue;
            }
        };
        let (summary, consent) = (harmless_line(scenario.summary().as_bytes()), scenario.consent());
        linted.right.push(format!("{}: {summary} ({consent})", file.display()));
        let name = scenario.name().clone();
        if let Some(first) = names.insert(name.clone(), file) {
            let (first, second) = (first.clone(), file.clone());
            linted.wrong.push(Error::Twice { name, first, second });
        }
    }
    linted
}

/// Says in words what a scenario does.
///
/// # Errors
///
/// When the file cannot be read, or anything is wrong with it.
pub fn explain(file: &Path) -> Result<String, Error> {
    Ok(Harmless(scenario::explain(&read(file)?).as_bytes()).to_string())
}

/// Plays a trace to a scenario, and tells state by state what would come of it.
///
/// # Errors
///
/// When one of the files cannot be read, or anything is wrong with it.
pub fn test(file: &Path, trace: &Path) -> Result<String, Error> {
    let scenario = read(file)?;
    let trace = scenario::read_trace(source(trace)?, &scenario).map_err(Error::Wrong)?;
    Ok(Harmless(replay(&scenario, &trace).as_bytes()).to_string())
}

/// The JSON Schema of the language, for editors.
#[must_use]
pub fn schema() -> String {
    format!("{:#}\n", scenario::schema())
}

fn read(file: &Path) -> Result<Scenario, Error> {
    scenario::read(source(file)?).map_err(Error::Wrong)
}

/// Reads a file, but no more of it than shows that it is too large.
fn source(path: &Path) -> Result<Source, Error> {
    let most = u64::try_from(limits::DOCUMENT_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes));
    read.map_err(|source| Error::Read { path: path.to_owned(), source })?;
    // A cut file may end in half a character, which must not hide that it is too large.
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Ok(Source { name: path.display().to_string(), text })
}

// === replay ===

/// The lines of a replay. Rounds that say the same are told once, and counted.
#[derive(Default)]
struct Tale {
    text: String,
    last: String,
    alike: usize,
}

impl Tale {
    fn tell(&mut self, now: Instant, said: String) {
        if said == self.last {
            self.alike += 1;
            return;
        }
        self.count();
        let _ =
            writeln!(self.text, "{:>12}  {said}", Said(now.since(Instant::default())).to_string());
        self.last = said;
    }

    /// Says how many rounds were like the last one.
    fn count(&mut self) {
        let alike = std::mem::take(&mut self.alike);
        if alike > 0 {
            let _ = writeln!(self.text, "{:>12}  and {alike} more alike", "");
        }
    }
}

/// What would come of a life like this one.
#[must_use]
pub fn replay(scenario: &Scenario, trace: &Trace) -> String {
    let start = Timestamp::from_millis(MONDAY);
    let mut now = Instant::default();
    let mut schedule = Schedule::new(scenario, now, 0);
    let mut ladder = Ladder::new(Rules::from(scenario.timing()), now);
    let mut tale = Tale::default();
    let (mut rounds, mut incidents) = (0, 0);
    while rounds < ROUNDS {
        let due = schedule.next(now, trace.wall(now, start));
        if due.at > trace.end() {
            break;
        }
        now = due.at;
        if !due.round {
            continue;
        }
        schedule.begun(&due);
        rounds += 1;
        if let Some(why) = schedule.suppressed(trace.wall(now, start)) {
            tale.tell(now, format!("no round: {why}"));
            continue;
        }
        let answers = ask(scenario, trace, now);
        let heard: Vec<Testimony> =
            answers.iter().map(|(probe, finding)| testimony(probe, finding)).collect();
        let turns = ladder.round(&heard, Context::PLAIN, now).turns;
        incidents += usize::from(turns.contains(&Turn::Failed));
        tale.tell(now, line(&ladder, &answers, &turns));
    }
    tale.count();
    let _ = writeln!(tale.text, "{rounds} rounds, {incidents} incidents");
    tale.text
}

/// One round: until a probe is alive.
fn ask<'a>(scenario: &'a Scenario, trace: &Trace, now: Instant) -> Vec<(&'a Probe, Finding)> {
    let mut answers = Vec::new();
    for (index, probe) in scenario.probes().iter().enumerate() {
        let Some(finding) = trace.answer(scenario, index, now) else { break };
        let settled = finding.answer == Answer::Alive && finding.rung > Rung::Vcpu;
        answers.push((probe, finding));
        if settled {
            break;
        }
    }
    answers
}

fn line(ladder: &Ladder, answers: &[(&Probe, Finding)], turns: &[Turn]) -> String {
    let said = answers.iter().map(|(probe, Finding { answer, reason, .. })| {
        format!("{} {answer}: {reason}", probe.name())
    });
    let said = said.collect::<Vec<_>>().join("; ");
    let turns: String = turns.iter().map(|turn| mark(*turn)).collect();
    format!("{:<9} {said}{turns}", ladder.state().word())
}

fn mark(turn: Turn) -> String {
    match turn {
        Turn::Failed => "  ** an incident begins".to_owned(),
        Turn::Ended(_) => "  ** the incident is over".to_owned(),
        Turn::Flapping | Turn::Calm | Turn::Suppressed(_) => format!("  ** {turn}"),
        Turn::BecameSuspect => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shipped() -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> =
            std::fs::read_dir("scenarios").unwrap().map(|file| file.unwrap().path()).collect();
        files.sort();
        files
    }

    fn trace(scenario: &Scenario, text: String) -> Trace {
        let source = Source { name: "trace.yaml".to_owned(), text };
        scenario::read_trace(source, scenario).unwrap_or_else(|problems| panic!("{problems}"))
    }

    #[test]
    fn a_terminal_obeys_no_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.yaml");
        let text = "scenario: a\nsummary: \"\\e[2J\\nhidden\"\nprobe:\n\
                    - log: { label: \"\\e]0;x\\a\", within: 1m }\ndiagnose: [host]\n";
        std::fs::write(&file, text).unwrap();
        let mut told = explain(&file).unwrap();
        told += &lint(&[file]).right.join("\n");
        assert!(!told.contains('\u{1b}') && told.contains("\\u{1b}[2J hidden (observe)"), "{told}");
    }

    fn replayed(file: &str, text: &str) -> String {
        let scenario = read(&Path::new("scenarios").join(file)).unwrap();
        replay(&scenario, &trace(&scenario, text.to_owned()))
    }

    /// All probes of a scenario say the same from then on.
    fn all(scenario: &Scenario, at: u64, answer: &str) -> String {
        let probes = 1..=scenario.probes().len();
        let event = |probe| format!("- {{ at: {at}s, probe: {probe}, answer: {answer} }}\n");
        probes.map(event).collect()
    }

    #[test]
    fn the_shipped_scenarios_are_right() {
        let linted = lint(&shipped());
        assert!(linted.wrong.is_empty(), "{:?}", linted.wrong);
        insta::assert_snapshot!(linted.right.join("\n"));
    }

    #[test]
    fn the_shipped_scenarios_find_out_in_time_and_only_what_is_dead() {
        for file in shipped() {
            let scenario = read(&file).unwrap();
            let name = file.display();
            let latest = scenario.latest_incident().as_secs();
            let (died, came_back) = (7200, 7200 + latest);
            let life = all(&scenario, 0, "alive")
                + &all(&scenario, died, "dead")
                + &all(&scenario, came_back, "alive")
                + &format!("- {{ at: {}s }}\n", came_back + 3600);
            let told = replay(&scenario, &trace(&scenario, life));
            assert_eq!(told.matches("an incident begins").count(), 1, "{name}:\n{told}");
            assert_eq!(told.matches("the incident is over").count(), 1, "{name}:\n{told}");

            let unknown = all(&scenario, 0, "alive") + &all(&scenario, 7200, "unknown");
            let told = replay(&scenario, &trace(&scenario, unknown + "- { at: 1d }\n"));
            assert!(told.ends_with(" 0 incidents\n"), "{name}:\n{told}");
        }
    }

    #[test]
    fn a_life_is_told_state_by_state() {
        insta::assert_snapshot!(replayed(
            "linux-console.yaml",
            "\
- { at: 0s, console: \"[    0.000000] Linux version 6.12\\r\\n\" }
- { at: 4m1s, console: \"uptime\\r\\n 10:00:01 up 4 min, load average: 0.08\\r\\n# \" }
- { at: 4m31s, console: \"uptime\\r\\n 10:00:31 up 4 min, load average: 0.08\\r\\n# \" }
- { at: 10m, probe: console, answer: alive }
- { at: 20m, probe: console, answer: unknown, reason: somebody else holds the console }
- { at: 30m, probe: console, answer: alive }
- { at: 31m, console: \"INFO: task kworker blocked for more than 120 seconds\\r\\n\" }
- { at: 32m, probe: console, answer: dead, reason: nothing came back }
- { at: 40m, probe: console, answer: alive }
- { at: 45m }
"
        ));
        insta::assert_snapshot!(replayed(
            "log-label.yaml",
            "\
{\"at\": \"4m\", \"console\": \"root: lifesign-alive\\r\\n\"}
{\"at\": \"9m\", \"console\": \"root: lifesign-alive\\r\\n\"}
{\"at\": \"14m\", \"console\": \"root: lifesign-alive\\r\\n\"}
{\"at\": \"30m\", \"console\": \"root: lifesign-alive\\r\\n\"}
{\"at\": \"35m\"}
"
        ));
    }

    #[test]
    fn an_incident_needs_its_witnesses() {
        let file = "linux-agent.yaml";
        let one = "- { at: 0s, probe: 1, answer: alive }\n- { at: 10m, probe: 1, answer: dead }\n";
        let alone = replayed(file, &format!("{one}- {{ at: 30m }}\n"));
        assert!(alone.ends_with(" 0 incidents\n"), "{alone}");
        let both = replayed(
            file,
            &format!("{one}- {{ at: 10m, probe: 2, answer: dead }}\n- {{ at: 30m }}\n"),
        );
        assert!(both.ends_with(" 1 incidents\n"), "{both}");
        // A kernel that says that it panicked needs nobody else.
        let panic = "- { at: 10m, console: \"Kernel panic - not syncing: Oops\" }\n- { at: 30m }\n";
        let told = replayed("passive.yaml", panic);
        assert!(told.ends_with(" 1 incidents\n"), "{told}");
    }

    #[test]
    fn a_window_is_told_and_the_wall_clock_may_be_set() {
        let text = "scenario: nightly\ncron: \"*/10 * * * *\"\nzone: Europe/Berlin\nexcept:\n  \
                    - { cron: \"30 2 * * *\", for: 30m, why: backup }\n\
                    probe: [network: { ping: {} }]\ndiagnose: [host]\n";
        let source = Source { name: "nightly.yaml".to_owned(), text: text.to_owned() };
        let scenario = scenario::read(source).unwrap();
        let life = "- { at: 0s, wall: \"2026-03-28T23:59:30Z\" }\n\
                    - { at: 0s, probe: ping, answer: alive }\n- { at: 2h }\n";
        insta::assert_snapshot!(replay(&scenario, &trace(&scenario, life.to_owned())));
    }

    #[test]
    fn the_trace_of_the_reference_is_right() {
        let lines: Vec<&str> =
            REFERENCE.lines().filter_map(|line| line.strip_prefix("    ")).collect();
        let events = lines.into_iter().filter(|line| line.starts_with("- { at: "));
        let told = replayed("ping.yaml", &events.collect::<Vec<_>>().join("\n"));
        assert!(told.ends_with("21 rounds, 1 incidents\n"), "{told}");
    }

    #[test]
    fn mistakes_of_a_trace_are_told() {
        let scenario = read(Path::new("scenarios/ping.yaml")).unwrap();
        let text = "- { at: 5, probe: ping, answer: alive }\n\
                    - { at: 5s, probe: pong, answer: alive }\n\
                    - { at: 5s, probe: 3, answer: well }\n- { probe: ping }\n\
                    - { at: 99d, wall: noon }\n";
        let source = Source { name: "trace.yaml".to_owned(), text: text.to_owned() };
        let told = scenario::read_trace(source, &scenario).unwrap_err().to_string();
        insta::assert_snapshot!(told);
    }

    #[test]
    fn the_shipped_scenarios_are_explained() {
        let told: Vec<String> = shipped().iter().map(|file| explain(file).unwrap()).collect();
        insta::assert_snapshot!(told.join("\n----\n\n"));
    }

    #[test]
    fn large_and_missing_files_are_told_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let large = directory.path().join("large.yaml");
        std::fs::write(&large, "ä".repeat(5_000_000)).unwrap();
        let copy = directory.path().join("copy.yaml");
        std::fs::copy("scenarios/ping.yaml", &copy).unwrap();
        let missing = directory.path().join("missing.yaml");
        let linted = lint(&[large, missing, "scenarios/ping.yaml".into(), copy]);
        let told: Vec<String> = linted.wrong.iter().map(ToString::to_string).collect();
        assert!(told[0].starts_with("error: the file is too large"), "{}", told[0]);
        assert!(told[1].starts_with("failed to read"), "{}", told[1]);
        assert!(told[2].starts_with("scenarios/ping.yaml and "), "{}", told[2]);
        assert!(told[2].ends_with("are both named `ping`"), "{}", told[2]);
    }
}
