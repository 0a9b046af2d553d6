//! Every fault of the lab against every question of the shipped scenarios, on both kernels.
//!
//! What must come of it stands in `docs/faults.md` and nowhere else. `hack/test` tries one row,
//! `hack/matrix` all of them.
//!
//! A guest has everything that the scenarios ask about. Every question has a watch of its own, as in the
//! agent, and is asked in rounds: until the guest is well, and from when it is broken until time has
//! passed and two rounds agree. The questions are the shipped ones, at another pace: see [`PACE`].

use super::lab::{Guest, root};
use super::programs::Place;
use super::table::{Row, Table, any_of};
use lifesign::agent::keeper;
use lifesign::agent::probe::{Asked, Asker, testimony};
use lifesign::base::rung::{Answer, Finding};
use lifesign::binding::Bound;
use lifesign::ladder::{Testimony, Transport, Verdict};
use lifesign::scenario::Probe;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

pub(super) const KERNELS: [&str; 2] = ["6.1", "6.12"];

/// The row of a guest that nobody broke.
pub(super) const NO_FAULT: &str = "none";

const GUEST: &str = "matrix";
const OPTIONS: [&str; 11] = [
    "--disk", "--beat", "--tap", "--agent", "--shim", "--door", "--label", "--sysrq", "all",
    "--kernel", "",
];

/// The columns, and of which scenario and which of its questions each is.
const QUESTIONS: [(&str, &str, usize); 12] = [
    ("console", "linux-console", 0),
    ("login", "linux-serial-login", 0),
    ("shim", "container-shim", 0),
    ("agent", "linux-agent", 0),
    ("http", "http-service", 0),
    ("banner", "tcp-service", 0),
    ("arp", "ping", 0),
    ("ping", "ping", 1),
    ("writes", "disk-writes", 0),
    ("heartbeat", "disk-heartbeat", 0),
    ("label", "log-label", 0),
    ("never", "passive", 0),
];

/// What the shipped scenarios say, and what is said here, so that a fault takes a minute and not an hour.
const PACE: [(&str, &str); 7] = [
    ("written-within: 10m", "written-within: 8s"),
    ("written-within: 5m", "written-within: 8s"),
    ("device: vdb, within: 1m", "device: vdb, within: 8s"),
    ("\"lifesign-alive\", within: 6m", "\"lifesign-alive\", within: 8s"),
    ("timeout: 15s", "timeout: 7s"),
    ("timeout: 10s", "timeout: 5s"),
    ("timeout: 2s", "timeout: 3s"),
];

/// In the guest: it writes back sooner, or its kernel would write for half a minute what processes
/// left to it, and it complains of itself sooner.
const HASTE: &str = "cd /proc/sys; echo 100 >vm/dirty_expire_centisecs; \
    echo 100 >vm/dirty_writeback_centisecs; echo 10 >kernel/hung_task_timeout_secs; \
    echo 6 >kernel/watchdog_thresh";

/// From a fault until all that it will do has been done: 8 s until silence counts, after the last write
/// of a kernel that has nobody to write for; 20 s until it says that a task hangs.
const SETTLED: Duration = Duration::from_secs(25);
/// What does not come to rest by then is told as it is.
const RESTLESS: Duration = Duration::from_secs(90);
/// A guest that boots on a busy host.
const WELL: Duration = Duration::from_secs(90);

/// Between the questions of a round: a monitor serves one at a time.
const STAGGER: Duration = Duration::from_millis(250);

/// A question, and what it remembers.
struct Question {
    column: &'static str,
    probe: Probe,
    timeout: Duration,
    asker: Asker,
}

/// What was heard in a round, by column.
struct Round {
    asked: BTreeMap<&'static str, Finding>,
    verdict: Verdict,
}

/// A guest, and all that is asked of it.
struct Subject {
    guest: Guest,
    place: Place,
    questions: Vec<Question>,
}

// === the guest and its config ===

impl Subject {
    async fn up(kernel: &str) -> Self {
        let mut options = OPTIONS;
        options[OPTIONS.len() - 1] = kernel;
        let guest = Guest::up(GUEST, &options);
        guest.sh(HASTE);
        let place = place(&guest);
        let resolved = keeper::bound_now(&place.path("agent.yaml")).await.unwrap();
        assert_eq!(resolved.warnings, [], "the config is right");
        let mut questions: Vec<Question> = QUESTIONS
            .iter()
            .map(|(column, scenario, at)| question(column, &resolved.bound, scenario, *at))
            .collect();
        all_is_asked(&resolved.bound, &questions);
        let vcpu = question("vcpu", &resolved.bound, "linux-console", 0);
        questions.push(Question { probe: Probe::Vcpu, ..vcpu });
        Self { guest, place, questions }
    }

    /// Asks everything once.
    async fn round(&mut self) -> Round {
        let mut asking = JoinSet::new();
        for (at, mut question) in self.questions.drain(..).enumerate() {
            asking.spawn(async move {
                sleep(STAGGER * u32::try_from(at).unwrap()).await;
                let asked = question.asker.ask(&question.probe, question.timeout).await;
                (at, question, asked)
            });
        }
        let mut all = asking.join_all().await;
        all.sort_by_key(|(at, _, _)| *at);
        let vmm = all[0].1.asker.look().await.finding();
        let mut testimonies = vec![Testimony::new(Transport::Hypervisor, &vmm)];
        let mut asked = BTreeMap::from([("vmm", vmm)]);
        for (_, question, Asked { finding, .. }) in all {
            testimonies.push(testimony(&question.probe, &finding));
            asked.insert(question.column, finding);
            self.questions.push(question);
        }
        Round { asked, verdict: Verdict::of(&testimonies) }
    }

    /// Waits until every question that can be answered is.
    async fn get_well(&mut self) {
        let begun = Instant::now();
        loop {
            let round = self.round().await;
            let well = |(column, finding): (&&str, &Finding)| {
                *column == "never" || finding.answer == Answer::Alive
            };
            if round.asked.iter().all(well) {
                return;
            }
            assert!(begun.elapsed() < WELL, "not well after {WELL:?}:\n{round}");
        }
    }

    /// Asks until two rounds agree.
    async fn settle(&mut self) -> [Round; 2] {
        let begun = Instant::now();
        let mut last = self.round().await;
        loop {
            let round = self.round().await;
            let agree = round.row() == last.row();
            if begun.elapsed() >= RESTLESS || agree && begun.elapsed() >= SETTLED {
                return [last, round];
            }
            last = round;
        }
    }

    /// What a capture makes of it: the class of its diagnosis.
    fn captured(&self) -> String {
        let output = self.place.lifesign(&["capture", "--config", "agent.yaml", "web"]);
        let said = String::from_utf8(output.stdout).unwrap();
        let title =
            said.split("\n\n").nth(1).unwrap_or_default().lines().next().unwrap_or_default();
        eprintln!("  {title}");
        let class = title.rsplit_once('(').and_then(|(_, rest)| rest.split_once(','));
        class.map_or_else(|| panic!("no diagnosis:\n{said}"), |(class, _)| class.to_owned())
    }
}

/// The agent's config: the guest, and its console behind a login as an app of its own.
fn place(guest: &Guest) -> Place {
    let place = Place::empty();
    std::fs::create_dir(place.path("scenarios")).unwrap();
    for entry in std::fs::read_dir(root().join("scenarios")).unwrap() {
        let entry = entry.unwrap();
        let mut text = std::fs::read_to_string(entry.path()).unwrap();
        for (shipped, here) in PACE {
            text = text.replace(shipped, here);
        }
        std::fs::write(place.path("scenarios").join(entry.file_name()), text).unwrap();
    }
    std::fs::create_dir(place.path("secrets")).unwrap();
    secret(place.path("secrets/user"), "lab");
    secret(place.path("secrets/password"), "open-sesame");
    let at = |name: &str| guest.file(name).display().to_string();
    place.write_agent_config(&format!(
        "  - name: web\n    uuid: {uuid}\n    console: {cons}\n    shim-console: {shim}\n    \
         console-log: {log}\n    qmp: {qmp}\n    guest-agent: {agent}\n    \
         disks: [{disk}, {beat}]\n    addresses: [10.0.2.15]\n    consent: input\n    \
         scenarios: [{scenarios}]\n  \
         - name: door\n    uuid: 6f1a2b3c-0000-4000-8000-000000000001\n    console: {door}\n    \
         qmp: {qmp}\n    consent: input\n    scenarios: [linux-serial-login]\n    \
         secrets: {{ console-user: {{ file: user }}, console-password: {{ file: password }} }}\n\
         secrets: secrets\n",
        uuid = std::fs::read_to_string(guest.file("uuid")).unwrap().trim(),
        cons = at("cons"),
        shim = at("shim"),
        log = at("console.log"),
        qmp = at("qmp"),
        agent = at("qga"),
        disk = at("disk.img"),
        beat = at("beat.img"),
        door = at("door"),
        scenarios = "linux-console, container-shim, linux-agent, http-service, tcp-service, ping, \
                     disk-writes, disk-heartbeat, log-label, passive",
    ));
    let config = place.path("agent.yaml");
    let shipped = format!("scenarios: {}", root().join("scenarios").display());
    let text = std::fs::read_to_string(&config).unwrap().replace(&shipped, "scenarios: scenarios");
    std::fs::write(config, text).unwrap();
    place
}

fn secret(path: PathBuf, word: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(&path, word).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
}

fn question(column: &'static str, bound: &[Bound], name: &str, at: usize) -> Question {
    let of_it = bound.iter().find_map(|bound| {
        let scenario = bound.scenarios.iter().find(|scenario| scenario.name().as_str() == name)?;
        Some((bound, scenario))
    });
    let (bound, scenario) = of_it.unwrap_or_else(|| panic!("{name} is bound"));
    Question {
        column,
        probe: scenario.probes()[at].clone(),
        timeout: scenario.timing().timeout,
        asker: Asker::new(bound.app.clone(), bound.secrets.clone()),
    }
}

/// No question of a shipped scenario is left out.
fn all_is_asked(bound: &[Bound], questions: &[Question]) {
    let shipped = std::fs::read_dir(root().join("scenarios")).unwrap().count();
    let scenarios = || bound.iter().flat_map(|bound| &bound.scenarios);
    assert_eq!(scenarios().count(), shipped, "every shipped scenario is bound");
    for probe in scenarios().flat_map(|scenario| scenario.probes()) {
        assert!(questions.iter().any(|question| question.probe == *probe), "{probe:?} is asked");
    }
}

// === what was heard ===

impl Round {
    fn row(&self) -> Row {
        let words = |(column, finding): (&&str, &Finding)| {
            ((*column).to_owned(), finding.answer.to_string())
        };
        let rung = |rung: Option<lifesign::base::rung::Rung>| {
            rung.map_or_else(|| "-".to_owned(), |rung| rung.to_string())
        };
        let mut row: Row = self.asked.iter().map(words).collect();
        row.insert("proven".to_owned(), rung(self.verdict.proven));
        row.insert("refuted".to_owned(), rung(self.verdict.refuted));
        row
    }
}

impl std::fmt::Display for Round {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (column, Finding { rung, answer, reason }) in &self.asked {
            writeln!(f, "  {column:<10} {answer:<8} {rung:<10} {reason}")?;
        }
        Ok(())
    }
}

/// Both rounds in one row.
fn both(rounds: &[Round; 2]) -> Row {
    let [before, after] = rounds.each_ref().map(Round::row);
    let words = after.into_iter().map(|(column, word)| {
        let words = any_of(&[before[&column].clone(), word]);
        (column, words)
    });
    words.collect()
}

/// Breaks a guest, and tells what was heard.
fn heard_of(fault: &str, kernel: &str) -> Row {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut subject = Subject::up(kernel).await;
        subject.guest.enter_its_network();
        subject.get_well().await;
        if fault != NO_FAULT {
            subject.guest.break_it(fault);
        }
        let rounds = subject.settle().await;
        eprintln!("{fault} on {kernel}:\n{}", rounds[1]);
        let mut row = both(&rounds);
        row.insert("capture".to_owned(), subject.captured());
        row
    })
}

/// The same, on a thread that moves into the guest's network and ends there. Nothing where that failed.
fn heard_apart(fault: &str, kernel: &str) -> Option<Row> {
    let (fault, kernel) = (fault.to_owned(), kernel.to_owned());
    std::thread::spawn(move || heard_of(&fault, &kernel)).join().ok()
}

// === the table ===

fn path() -> PathBuf {
    root().join("docs/faults.md")
}

fn expected() -> Table {
    Table::read(&std::fs::read_to_string(path()).unwrap())
}

#[test]
fn a_fault_is_seen_as_the_table_says() {
    let (fault, kernel) = ("net-down", "6.1");
    let wrong = expected().wrong(fault, kernel, &heard_apart(fault, kernel).unwrap());
    assert_eq!(wrong, [""; 0], "see the lines above");
}

/// The long proof, which `hack/matrix` asks for by LIFESIGN_MATRIX: faults, or nothing for all of them.
/// With LIFESIGN_MATRIX_WRITE the table is corrected instead of held against what is heard.
#[test]
fn every_fault_is_seen_as_the_table_says() {
    let Some(wanted) = std::env::var_os("LIFESIGN_MATRIX") else { return };
    let wanted = wanted.into_string().unwrap();
    let write = std::env::var_os("LIFESIGN_MATRIX_WRITE").is_some();
    let wanted: Vec<&str> = wanted.split_whitespace().collect();
    let mut all_wrong = Vec::new();
    let faults = faults();
    for fault in faults.iter().filter(|fault| wanted.is_empty() || wanted.contains(&fault.as_str()))
    {
        for kernel in KERNELS {
            let Some(heard) = heard_apart(fault, kernel) else {
                all_wrong.push(format!("{fault} on {kernel} could not be tried"));
                continue;
            };
            let mut table = expected();
            let wrong = table.wrong(fault, kernel, &heard);
            wrong.iter().for_each(|line| eprintln!("  {line}"));
            if write {
                table.correct(fault, kernel, &heard);
                std::fs::write(path(), table.write()).unwrap();
            } else {
                all_wrong.extend(wrong);
            }
        }
    }
    assert_eq!(all_wrong, [""; 0]);
}

#[test]
fn the_table_has_every_fault_and_every_question() {
    let table = expected();
    let faults = faults();
    let keys = faults.iter().flat_map(|fault| KERNELS.map(|kernel| (fault.as_str(), kernel)));
    assert_eq!(table.keys(), keys.collect());
    let columns = QUESTIONS.iter().map(|(column, ..)| *column);
    let columns: Vec<&str> =
        columns.chain(["vcpu", "vmm", "proven", "refuted", "capture"]).collect();
    assert_eq!(table.columns(), columns);
}

/// All faults of the lab, and none.
pub(super) fn faults() -> Vec<String> {
    let listed = Guest::list_faults();
    let names = listed.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    [NO_FAULT].into_iter().chain(names).map(str::to_owned).collect()
}
