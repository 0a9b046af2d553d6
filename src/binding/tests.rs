//! Rules laid over apps, as people write and read them.

use super::*;
use crate::base::consent::Consent;
use crate::base::document::Document;
use crate::base::problem::Source;
use crate::rules::id_of_name;
use crate::scenario;
use std::fmt::Write;

const WEB: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";
const DB: &str = "94e3c619-047e-46ae-91aa-964592b61598";

fn scenarios() -> Scenarios {
    let texts = [
        "scenario: console\nprobe:\n  - console: { send: uptime, expect: load }\ndiagnose: [host]\n",
        "scenario: login\nprobe:\n  - console: { send: id, expect: uid }\ndiagnose: [host]\n",
    ];
    let read = texts.map(|text| {
        let source = Source { name: "test".to_owned(), text: text.to_owned() };
        let scenario = scenario::read(source).unwrap_or_else(|problems| panic!("{problems}"));
        (scenario.name().clone(), scenario)
    });
    read.into_iter().collect()
}

fn rules(text: &str) -> Result<Rules, String> {
    let source = Source { name: "bindings.yaml".to_owned(), text: text.to_owned() };
    read_rules(source, &scenarios()).map_err(|problems| problems.to_string())
}

fn apps() -> Vec<App> {
    let app = |id: &str, name: &str, tier: &str| App {
        labels: [("tier".to_owned(), tier.to_owned())].into(),
        addresses: vec!["10.1.0.2".parse().unwrap()],
        ..App::new(id.parse().unwrap(), name)
    };
    vec![app(WEB, "web-1", "gold"), app(DB, "db-1", "tin")]
}

/// What comes of these rules, for people.
fn resolved(text: &str) -> String {
    let rules = rules(text).unwrap_or_else(|problems| panic!("{problems}"));
    let vault = Vault::open(rules.references(), None);
    let Resolved { bound, unbound, warnings } = resolve(&rules, &apps(), &vault);
    let mut shown = String::new();
    for Bound { app, scenarios, hindered, .. } in bound {
        let names: Vec<String> = scenarios
            .iter()
            .map(|scenario| format!("{} every {:?}", scenario.name(), scenario.timing().period))
            .collect();
        let (name, consent, addresses) = (app.name, app.consent, app.addresses);
        writeln!(shown, "{name}: {names:?}, {consent}, {addresses:?}").unwrap();
        for Hindered { scenario, reason } in hindered {
            writeln!(shown, "  not {scenario}: {reason}").unwrap();
        }
    }
    unbound.iter().for_each(|id| writeln!(shown, "unbound: {id}").unwrap());
    warnings.iter().for_each(|warning| writeln!(shown, "warning: {warning}").unwrap());
    shown
}

#[test]
fn an_app_gets_the_scenarios_of_all_its_bindings() {
    insta::assert_snapshot!(resolved(
        "\
bindings:
  - select: { name: \"*\" }
    consent: input
    scenarios: [console]
  - select: { label: tier=gold }
    scenarios: [login: { period: 10s }]
    addresses: [10.9.0.1]
"
    ));
}

#[test]
fn the_more_precise_binding_decides_and_it_is_told() {
    insta::assert_snapshot!(resolved(&format!(
        "\
bindings:
  - select: {{ label: tier=gold }}
    consent: reset
    scenarios: [console: {{ period: 1m }}]
  - select: {{ name: \"*\" }}
    consent: pause
    scenarios: [console: {{ period: 2m }}]
  - select: {{ name: \"web-*\" }}
    consent: nmi
    scenarios: [console: {{ period: 3m }}]
  - select: {{ name: web-1 }}
    scenarios: [console: {{ period: 4m }}]
  - select: {{ uuid: {WEB} }}
    consent: input
    scenarios: [console: {{ period: 5m }}]
"
    )));
}

#[test]
fn what_cannot_be_asked_hinders_nothing_else() {
    insta::assert_snapshot!(resolved(
        "\
bindings:
  - select: { name: \"*-1\" }
    consent: input
    scenarios: [console]
  - select: { name: web-1 }
    scenarios: [login]
    secrets: { password: { file: web-password } }
  - select: { name: db-1 }
    consent: query
    scenarios: []
    secrets: { user: { env: LIFESIGN_SECRET_NOBODY } }
  - select: { name: mail-1 }
    scenarios: [console]
"
    ));
}

#[test]
fn every_mistake_is_told_at_once() {
    insta::assert_snapshot!(
        rules(
            "\
bindings:
  - select: { name: \"\", label: gold }
    scenarios: [consol]
  - select: {}
    consent: query
    scenarios: [console]
  - scenarios: [console: { period: soon }]
    addresses: [10.1.0]
    secrets: { a: { file: ../x }, b: { env: HOME }, c: { fil: x } }
  - select: { uuid: 7 }
    scenarios: console
binding: []
"
        )
        .unwrap_err()
    );
}

#[test]
fn nothing_said_is_the_least_consent() {
    let rules = rules("bindings:\n  - select: { name: \"*\" }\n    scenarios: []\n").unwrap();
    let resolved = resolve(&rules, &apps(), &Vault::default());
    assert_eq!(resolved.bound[0].app.consent, Consent::Query);
    assert_eq!(rules.len(), 1);
}

#[test]
fn a_warning_names_one_app_and_counts_the_others() {
    let rules =
        rules("bindings:\n  - select: { name: \"*\" }\n    scenarios: [console]\n").unwrap();
    let many: Vec<App> =
        (0..200).map(|n| App::new(id_of_name(&n.to_string()), n.to_string())).collect();
    let resolved = resolve(&rules, &many, &Vault::default());
    let warnings: Vec<String> = resolved.warnings.iter().map(Warning::to_string).collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].ends_with(" and 199 more)"), "{warnings:?}");
}

fn setup(text: &str, known: &Scenarios) -> Result<Setup, String> {
    let source = Source { name: "agent.yaml".to_owned(), text: text.to_owned() };
    let read = Document::parse(source).and_then(|document| {
        document.read(|root, notes| {
            let mut map = root.map(notes)?;
            let setup = Setup::read(&mut map, notes, known);
            map.finish();
            setup
        })
    });
    read.map_err(|problems| problems.to_string())
}

#[test]
fn mistakes_in_the_config_are_told() {
    insta::assert_snapshot!(
        setup(
            "\
apps:
  - uuid: 0f8fad5b-d9cb-469f-a165-70867728950e
    labels: [tier]
    scenarios: []
discover: [evee, monitors, monitors: 7, { eve: /run, libvirt: /run }, libvirt]
controller: { certificat: x, consent: all }
secret: x
",
            &scenarios()
        )
        .unwrap_err()
    );
    let nothing = setup("bindings: x.yaml\n", &scenarios()).unwrap_err();
    assert!(nothing.contains("no app would ever be watched"), "{nothing}");
}

/// The examples of the manual are right, and every word of the language is in it.
#[test]
fn the_manual_is_true() {
    let manual = std::fs::read_to_string("docs/bindings.md").unwrap();
    let known = scenario::read(Source {
        name: "linux-console".to_owned(),
        text: std::fs::read_to_string("scenarios/linux-console.yaml").unwrap(),
    });
    let known = known.unwrap_or_else(|problems| panic!("{problems}"));
    let known: Scenarios = [(known.name().clone(), known)].into();
    let mut examples = 0;
    for block in manual.split("```yaml\n").skip(1) {
        let text = block.split("```").next().unwrap().to_owned();
        let read = if text.starts_with("# agent.yaml") {
            setup(&text, &known).map(drop)
        } else {
            let source = Source { name: "bindings.yaml".to_owned(), text };
            read_rules(source, &known).map(drop).map_err(|problems| problems.to_string())
        };
        read.unwrap_or_else(|problems| panic!("{problems}"));
        examples += 1;
    }
    assert_eq!(examples, 2);
    let nonsense = "\
apps: [{ x: 1 }]
discover: [{ x: 1 }, x]
controller: { x: 1 }
x: 1
";
    let rules = rules("x: 1\nbindings: [{ select: { x: 1 }, secrets: { a: { x: 1 } }, x: 1 }]\n");
    let told = setup(nonsense, &known).unwrap_err() + "\n" + &rules.unwrap_err();
    let allowed = told.lines().filter_map(|line| line.strip_prefix("help: allowed: "));
    let words: Vec<&str> = allowed.flat_map(|words| words.split(", ")).collect();
    assert!(words.len() > 25, "{words:?}");
    for word in words.iter().chain(&Consent::ALL.map(Consent::word)) {
        assert!(manual.contains(word), "docs/bindings.md does not say `{word}`");
    }
}

#[test]
fn a_channel_is_added_only_where_a_binding_says_so_and_consents() {
    let told = |text: &str| {
        let rules = rules(text).unwrap();
        let vault = Vault::open(rules.references(), None);
        let Resolved { bound, warnings, .. } = resolve(&rules, &apps(), &vault);
        let added = bound.iter().filter(|bound| bound.app.add_agent);
        let names: Vec<String> = added.map(|bound| bound.app.name.clone()).collect();
        let warnings: Vec<String> = warnings.iter().map(Warning::to_string).collect();
        format!("{names:?} {warnings:?}")
    };
    let binding = |select: &str, more: &str| {
        format!("  - {{ select: {{ name: \"{select}\" }}, scenarios: []{more} }}\n")
    };
    let add = ", agent: add";
    let all = [
        format!("bindings:\n{}", binding("*", ", consent: input")),
        format!("bindings:\n{}", binding("*", &format!("{add}, consent: input"))),
        format!("bindings:\n{}", binding("*", add)),
        format!(
            "bindings:\n{}{}",
            binding("*", &format!("{add}, consent: input")),
            binding("web-*", ", agent: as-found")
        ),
    ];
    insta::assert_snapshot!(all.map(|text| told(&text)).join("\n"));
    let wrong = rules(&format!("bindings:\n{}", binding("*", ", agent: ad"))).unwrap_err();
    assert!(wrong.contains("did you mean `add`?"), "{wrong}");
}
