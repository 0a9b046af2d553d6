//! Mistakes of a file, as a person sees them.

use super::*;
use crate::base::time::{Instant, Timestamp};
use crate::scenario::Cron;
use crate::scenario::schedule::{LOOK, Schedule};
use nix::time::ClockId;
use proptest::prelude::*;
use std::time::Duration;

fn problems(text: &str) -> String {
    let source = Source { name: "test.yaml".to_owned(), text: text.to_owned() };
    read(source).map_or_else(|problems| problems.to_string(), |_| "fine".to_owned())
}

#[test]
fn the_shipped_scenarios_are_right() {
    for file in std::fs::read_dir("scenarios").unwrap() {
        let path = file.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let name = path.display().to_string();
        let scenario = read(Source { name, text }).unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(scenario.name().as_str(), path.file_stem().unwrap().to_str().unwrap());
        assert!(!scenario.summary().is_empty());
    }
}

#[test]
fn every_mistake_is_told_at_once() {
    insta::assert_snapshot!(problems(
        "\
scenario: linux console
perod: 30s
timeout: 1
failureThreshold: 0
probe:
  - console: { send: \"uptime\", expect: \"up\", expct: 1 }
  - consol: {}
diagnose:
  - hosst
  - sysrq: [blocked-task, memory-usage]
  - memory: [log]
  - 7
budget: { time: soon }
"
    ));
}

#[test]
fn broken_yaml_is_shown_where_it_breaks() {
    insta::assert_snapshot!(problems("scenario: a\nprobe: [1\n"));
    insta::assert_snapshot!(problems("scenario: a\nscenario: b\n"));
    insta::assert_snapshot!(problems(""));
}

#[test]
fn broken_files_are_told_well() {
    let mut files: Vec<_> = std::fs::read_dir("tests/data/scenario/bad")
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() >= 30);
    let mut all = String::new();
    for path in files {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        let told = read(Source { name: name.clone(), text }).expect_err(&name).to_string();
        all += &format!("==== {name}\n\n{told}\n\n");
    }
    insta::assert_snapshot!(all);
}

/// What a reader must survive, and answer while the person still looks at the screen.
#[test]
fn what_nobody_wrote_by_hand_is_refused_at_once() {
    let head = "scenario: a\nprobe: [vcpu: {}]\ndiagnose: [host]\n";
    let many = |line: &str, count: usize| format!("{head}{}", line.repeat(count));
    let keys: String = (0..10_000).map(|index| format!("key{index}: 1\n")).collect();
    let texts = [
        ("ten megabytes", many("# ten bytes\n", 1_000_000)),
        ("deep", format!("{head}a: {}", "[".repeat(200_000))),
        ("deep maps", format!("{head}a: {}", "{a: ".repeat(100_000))),
        ("deep lines", format!("{head}a:\n{}", "- ".repeat(200_000))),
        ("many mistakes", format!("{head}{keys}")),
        ("many probes", format!("scenario: a\nprobe:\n{}", "  - consol: {}\n".repeat(5_000))),
        ("many windows", many("", 1) + "except:\n" + &"  - { cron: \"x\" }\n".repeat(5_000)),
        ("one long line", many("x", 900_000)),
        ("zeros", "\0".repeat(500_000)),
        (
            "many steps",
            format!("scenario: a\ndiagnose: [{}]\nprobe: [vcpu: {{}}]\n", "x, ".repeat(200_000)),
        ),
    ];
    for (name, text) in texts {
        let (told, took) = timed(|| problems(&text));
        assert!(took < Duration::from_secs(10), "{name}: {took:?}");
        assert!(told.starts_with("error: ") && told.len() < 100_000, "{name}: {}", told.len());
    }
}

/// What it costs this thread, whatever else the machine does.
fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let spent = || Duration::from(ClockId::CLOCK_THREAD_CPUTIME_ID.now().unwrap());
    let before = spent();
    let done = work();
    (done, spent() - before)
}

/// The examples of the reference, whole scenarios and lists of probes.
#[test]
fn the_examples_of_the_reference_are_right() {
    let reference = include_str!("../../../docs/scenario.md");
    let blocks: Vec<&str> = reference
        .split("```yaml\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
        .collect();
    assert!(blocks.len() >= 8);
    for block in blocks {
        let text = if block.starts_with("- ") {
            format!("scenario: example\nprobe:\n{block}\ndiagnose: [host]\n")
        } else {
            block.to_owned()
        };
        assert_eq!(problems(&text), "fine", "{text}");
    }
}

fn fine(text: &str) -> Scenario {
    let source = Source { name: "test.yaml".to_owned(), text: text.to_owned() };
    read(source).unwrap_or_else(|problems| panic!("{problems}"))
}

#[test]
fn witnesses_are_those_whose_silence_says_something() {
    let witnesses = |probes: &str| {
        let scenario = fine(&format!("scenario: a\nprobe: [{probes}]\ndiagnose: [host]\n"));
        scenario.timing().witnesses
    };
    assert_eq!(witnesses("network: { ping: {} }, network: { tcp: 22 }"), 1);
    assert_eq!(witnesses("network: { ping: {} }, disk: { written-within: 1m }"), 2);
    assert_eq!(witnesses("log: { label: a, within: 1m }, console: { silence: 1m }"), 1);
    assert_eq!(witnesses("log: { never: [a] }, disk: { written-within: 1m }, vcpu: {}"), 1);
}

#[test]
fn a_binding_may_change_the_pace() {
    let cron = fine("scenario: a\ncron: \"*/5 * * * *\"\nprobe: [vcpu: {}]\ndiagnose: [host]\n");
    assert_eq!(cron.timing().period, Duration::from_secs(300));
    let same = cron.clone().with_timing(Timing { failure_threshold: 7, ..cron.timing() });
    assert!(matches!(same.when(), When::Cron(_)));
    let period = Duration::from_secs(60);
    let other = cron.clone().with_timing(Timing { period, ..cron.timing() });
    assert_eq!(*other.when(), When::Every(period));
}

#[test]
fn a_round_leaves_its_last_probe_less_time() {
    let timing = Timing { round_timeout: Duration::from_secs(12), ..Timing::DEFAULT };
    let left = |seconds: u64| {
        let begun = Instant::from_millis(1000);
        timing.left(begun, begun + Duration::from_secs(seconds)).map(|left| left.as_secs())
    };
    assert_eq!([0, 7, 10, 11, 12, 99].map(left), [Some(5), Some(5), Some(2), Some(1), None, None]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// A text that was right and is a little wrong: it is told or it is run, and nothing panics.
    #[test]
    fn whatever_is_written_is_told_or_explained(
        file in 0_usize..11, cut in any::<prop::sample::Index>(), length in 0_usize..12,
        into in prop_oneof![
            "\\PC{0,8}",
            prop::sample::select(vec![
                "{", "[", "]", "}", ": ", "- ", "\"", "0", "-1", "9999999999d", "1e99", "~", "&a *a",
                "\n", "\t", "é", "* * * * *", "{ regex: \"(((\" }", "!!binary ", "<<: ", "|", "0s",
            ]).prop_map(str::to_owned),
        ],
    ) {
        let mut files: Vec<_> = std::fs::read_dir("scenarios")
            .unwrap().map(|file| file.unwrap().path()).collect();
        files.sort();
        let text = std::fs::read_to_string(&files[file]).unwrap();
        let start = cut.index(text.len());
        let end = (start + length).min(text.len());
        let broken = format!("{}{into}{}", &text[..start], &text[end..]);
        let source = Source { name: "test.yaml".to_owned(), text: broken };
        match read(source) {
            Ok(scenario) => {
                prop_assert!(!crate::scenario::explain(&scenario).is_empty());
                let schedule = Schedule::new(&scenario, Instant::default(), 7);
                let due = schedule.next(Instant::default(), Timestamp::default());
                prop_assert!(due.at <= Instant::default() + LOOK);
                prop_assert!(schedule.suppressed(Timestamp::default()).is_none());
            }
            Err(problems) => prop_assert!(problems.to_string().starts_with("error: ")),
        }
    }
}

#[test]
fn a_pattern_is_judged_at_once_however_rare_its_times_are() {
    let rare = [
        "0 0 29 2 *",
        "0 0 30 2 *",
        "0 0 0 29 2 * 2027",
        "0 0 0 1 1 * 4999",
        "0 0 31 2,4,6 *",
        "59 23 29 2 *",
        "* * * * * *",
        "0 0 L 2 *",
        "0 0 * 2 1#5",
        "0 0 1 1 * ",
    ];
    for pattern in rare {
        let (_, took) = timed(|| Cron::new(pattern, Zone::named("Europe/Berlin").unwrap()).is_ok());
        assert!(took < Duration::from_secs(2), "{pattern}: {took:?}");
    }
}
