//! What is told of apps that are known in part, well, broken, and that lie.

use super::*;
use crate::base::id::{AppId, ScenarioName};
use crate::binding;
use std::collections::BTreeMap;
use std::path::PathBuf;

fn app() -> App {
    let mut app = App::new(AppId::new([0x0f; 16]), "web\u{1b}[2J");
    app.console = Some(PathBuf::from("/run/web/cons"));
    app.qmp = Some(PathBuf::from("/run/web/qmp"));
    app
}

fn heard(name: &str, transport: Way, took_ms: u64, finding: Finding) -> Answered {
    Answered::beside(name, transport, finding, Duration::from_millis(took_ms))
}

/// As a scenario's own answer.
fn own(mut answered: Answered) -> Answered {
    answered.own = Some(answered.heard.testimony());
    answered
}

fn hypervisor() -> Vec<Answered> {
    vec![
        heard("monitor", Way::Monitor, 4, Vmm::Runs { console_held: false }.finding()),
        heard("vcpu", Way::Vcpu, 5_120, Finding::alive(Rung::Vcpu, "2 of 2 CPUs work")),
    ]
}

/// Its processes are stopped; its words try to be obeyed.
fn broken() -> Survey {
    let mut answered = hypervisor();
    let reason = "`uptime` was typed and 4711 bytes came back, but not `load average`: it says \
                  `\u{1b}]0;owned\u{7}\u{202e}` over and over again";
    answered.push(own(heard(
        "console",
        Way::Console,
        3_004,
        Finding::dead(Rung::Userspace, reason),
    )));
    let echo = Finding::alive(Rung::Kernel, "the kernel echoes what is typed");
    answered.push(heard("console", Way::Console, 3_004, echo));
    let ping = Finding::alive(Rung::Kernel, "10.1.0.7 answers a ping in 2 ms");
    answered.push(heard("ping", Way::Network, 2, ping));
    let arp = "an ARP request is not permitted: it needs CAP_NET_RAW";
    answered.push(heard("arp", Way::Network, 0, Finding::unknown(Rung::Kernel, arp)));
    let disk = Finding::unknown(Rung::Storage, "its disks are idle: no write was asked of them");
    answered.push(heard("written", Way::Disk, 5_130, disk));
    let mut app = app();
    app.consent = Consent::Input;
    app.addresses = vec!["10.1.0.7".parse().unwrap()];
    let hindered = vec![Hindered {
        scenario: "linux-serial-login".to_owned(),
        reason: "`linux-serial-login` needs the secret `password`, and no binding says where it is"
            .to_owned(),
    }];
    Survey::of(&app, answered, hindered)
}

#[test]
fn a_broken_app_is_drawn_as_a_ladder() {
    insta::assert_snapshot!(broken().text(Paint::Plain));
}

#[test]
fn a_program_reads_the_same() {
    insta::assert_snapshot!(broken().json());
}

#[test]
fn what_is_missing_is_told_with_the_way_out() {
    let known = Survey::of(&app(), hypervisor(), Vec::new()).text(Paint::Plain);
    let unknown = Vmm::Unknown { reason: "the binding names no `qmp` socket to ask".to_owned() };
    let monitor = vec![heard("monitor", Way::Monitor, 0, unknown.finding())];
    let bare = App::new(AppId::new([1; 16]), "db");
    let bare = Survey::of(&bare, monitor, Vec::new()).text(Paint::Plain);
    insta::assert_snapshot!(format!("{known}\n----\n\n{bare}"));
}

#[test]
fn what_scenarios_say_comes_before_what_nobody_asked() {
    let disk = || heard("written", Way::Disk, 1, Finding::alive(Rung::Storage, "it writes"));
    let console = |finding| own(heard("console", Way::Console, 1, finding));
    let dead = console(Finding::dead(Rung::Userspace, "nothing came back"));
    let told = Survey::of(&app(), vec![dead, disk()], Vec::new()).verdict;
    assert_eq!((told.answer, told.proven), (Answer::Dead, Some(Rung::Storage)));
    let held = console(Finding::unknown(Rung::Userspace, "somebody else holds the console"));
    let told = Survey::of(&app(), vec![held, disk()], Vec::new()).verdict;
    assert_eq!((told.answer, told.unknown), (Answer::Alive, vec![Rung::Userspace]));
    let told = Survey::of(&app(), hypervisor(), Vec::new()).verdict;
    assert_eq!((told.answer, told.proven), (Answer::Unknown, Some(Rung::Vcpu)));
}

#[test]
fn nothing_is_asked_beyond_the_consent_or_twice() {
    let asked = |app: &App, scenarios: &[Scenario]| -> Vec<String> {
        let name = |question: &Question<'_>| match question {
            Question::Bound(probe, _) => format!("{} as bound", probe.name()),
            Question::Unbidden(transport) => transport.to_string(),
        };
        questions(app, scenarios).iter().map(name).collect()
    };
    let mut app = app();
    app.console_log = Some(PathBuf::from("/run/web/console.log"));
    app.addresses = vec!["10.1.0.7".parse().unwrap()];
    app.consent = Consent::Observe;
    assert_eq!(asked(&app, &[]), ["log"]);
    app.consent = Consent::Query;
    assert_eq!(asked(&app, &[]), ["log", "disk", "network", "vcpu"]);
    app.consent = Consent::Input;
    assert_eq!(asked(&app, &[]), ["log", "disk", "network", "vcpu", "console"]);
    let ping = shipped("ping");
    let all = [shipped("linux-console"), ping.clone(), ping];
    assert_eq!(
        asked(&app, &all),
        ["log", "arp as bound", "ping as bound", "disk", "vcpu", "console as bound"]
    );
}

fn shipped(name: &str) -> Scenario {
    let path = format!("scenarios/{name}.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    crate::scenario::read(crate::base::problem::Source { name: path, text }).unwrap()
}

#[test]
fn a_terminal_gets_colours_and_nobody_else() {
    let (plain, coloured) = (broken().text(Paint::Plain), broken().text(Paint::Coloured));
    assert!(!plain.contains('\u{1b}'));
    assert!(coloured.contains("\u{1b}[31mdead"), "{coloured}");
    let mut stripped = coloured;
    for colour in ["\u{1b}[31m", "\u{1b}[32m", "\u{1b}[33m", "\u{1b}[0m"] {
        stripped = stripped.replace(colour, "");
    }
    assert_eq!(stripped, plain);
}

#[test]
fn every_key_and_word_is_in_the_reference() {
    fn keys(value: &serde_json::Value, all: &mut Vec<String>) {
        if let Some(map) = value.as_object() {
            all.extend(map.keys().cloned());
            map.values().for_each(|value| keys(value, all));
        }
        value.as_array().into_iter().flatten().for_each(|value| keys(value, all));
    }
    let mut words: Vec<String> = Way::ALL.map(|way| way.word().to_owned()).to_vec();
    keys(&serde_json::from_str(&broken().json()).unwrap(), &mut words);
    let reference = include_str!("../../../docs/probe.md");
    for word in words {
        assert!(reference.contains(&format!("`{word}`")), "docs/probe.md knows no `{word}`");
    }
    for way in Way::ALL {
        assert_eq!(serde_json::to_value(way).unwrap(), way.word());
    }
}

#[tokio::test]
async fn an_app_of_which_nothing_is_there_is_not_waited_for() {
    let mut app = app();
    app.console = Some(PathBuf::from("/nonexistent/cons"));
    app.qmp = Some(PathBuf::from("/nonexistent/qmp"));
    app.consent = Consent::Input;
    let hindered = vec![binding::Hindered {
        scenario: "web".parse::<ScenarioName>().unwrap(),
        reason: "`web` needs \u{7}".to_owned(),
    }];
    let bound = Bound { app, scenarios: Vec::new(), hindered, secrets: BTreeMap::new() };
    let started = Instant::now();
    let survey = survey(bound).await;
    assert!(started.elapsed() < SPAN);
    assert_eq!(survey.verdict.answer, Answer::Unknown);
    assert!(survey.coverage.iter().all(|covered| !covered.askable && covered.remedy.is_some()));
    assert_eq!(survey.hindered[0].reason, "`web` needs \\u{7}");
}
