//! Keys that the kernel answers, where something stands in their way.

use super::lab::Guest;
use super::programs::{Place, eventually};

pub(super) fn level(guest: &Guest) -> String {
    guest.sh("cut -f 1 /proc/sys/kernel/printk").trim().to_owned()
}

/// A binding without some of its lines.
pub(super) fn without(keys: &[&str], binding: &str) -> String {
    let has =
        |line: &&str| !keys.iter().any(|key| line.trim_start().starts_with(&format!("{key}:")));
    binding.split_inclusive('\n').filter(has).collect()
}

fn capture(place: &Place) -> String {
    let output = place.lifesign(&["capture", "--config", "agent.yaml", "web"]);
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_log_level_that_was_raised_is_put_back_even_by_the_next_agent() {
    let guest = Guest::up("quiet", &["--quiet", "--sysrq", "all"]);
    let place = Place::new(&guest);
    assert_eq!(level(&guest), "4");
    let said = capture(&place);
    assert!(said.contains("sysrq task-states                  done"), "{said}");
    assert!(said.contains("raised to 9, and put back to 4"), "{said}");
    assert_eq!(level(&guest), "4");

    let capturing = place.begin(&["capture", "--config", "agent.yaml", "web"]);
    let note = place.path("state/undo");
    eventually("the level is raised", 20, || {
        let noted = std::fs::read_dir(&note).is_ok_and(|mut notes| notes.next().is_some());
        (noted && level(&guest) == "9").then_some(())
    });
    capturing.kill();
    let agent = place.agent();
    eventually("the level is put back", 20, || (level(&guest) == "4").then_some(()));
    eventually("the note is gone", 5, || {
        std::fs::read_dir(&note).unwrap().next().is_none().then_some(())
    });
    drop(agent);
}

#[test]
fn a_mask_that_refuses_is_passed_by_whoever_is_inside() {
    let guest = Guest::up("inside", &["--agent"]);
    let place = Place::new(&guest);
    let said = capture(&place);
    // The scenario's probe says that a shell is there, and it is root's.
    assert!(said.contains("sysrq task-states                  done"), "{said}");
    assert!(!said.contains("through the guest agent"), "{said}");
    let agent = format!("    guest-agent: {}\n", guest.file("qga").display());
    place.write_agent_config(
        &(without(&["console", "console-log"], &place.binding(&guest)) + &agent),
    );
    let said = capture(&place);
    let lines: Vec<&str> = said.lines().filter(|line| line.starts_with("sysrq ")).collect();
    assert!(lines.len() >= 4, "{said}");
    let from_inside =
        |line: &&str| line.contains("done") && line.contains("through the guest agent");
    assert!(lines.iter().all(from_inside), "{said}");
}

#[test]
fn a_console_that_is_only_logged_answers_the_machines_keyboard() {
    let guest = Guest::up("keyboard", &["--wiring", "plain", "--sysrq", "all", "--quiet"]);
    let place = Place::new(&guest);
    place.write_agent_config(&without(&["console"], &place.binding(&guest)));
    let said = capture(&place);
    assert!(said.contains("answered by way of the machine's keyboard"), "{said}");
    assert!(said.contains("sysrq task-states                  done"), "{said}");
    assert!(said.contains("put back to 4"), "{said}");
    assert_eq!(level(&guest), "4");
}

/// Asks for keys that the mask of a stock guest forbids, where no shell is known.
const LENT: &str = "scenario: lent
period: 1s
timeout: 1s
probe:
  - log: { never: [never to be seen] }
diagnose:
  - memory
  - lend-sysrq
  - sysrq: [task-states]
";

#[test]
fn what_sysrq_lacks_is_lent_and_put_back_even_by_the_next_agent() {
    let guest = Guest::up("lent", &["--quiet", "--memory", "256"]);
    let place = Place::new(&guest);
    let binding = place.binding(&guest);
    let (before, _) = binding.split_once("linux-console").unwrap();
    place.write_agent_config(&format!("{before}lent]\n"));
    place.write_scenario("lent", LENT);
    let words = || guest.sh("cat /proc/sys/kernel/sysrq; cut -f 1 /proc/sys/kernel/printk");
    assert_eq!(words(), "438\n4\n");
    let said = capture(&place);
    assert!(said.contains("sysrq task-states                  done"), "{said}");
    let lent = "the guest's SysRq mask was 438 and its console's level 4: 1 and 8 were lent, and both \
                are back";
    assert!(said.contains(lent), "{said}");
    assert_eq!(words(), "438\n4\n");

    let capturing = place.begin(&["capture", "--config", "agent.yaml", "web"]);
    eventually("it is lent", 20, || (words() == "1\n8\n").then_some(()));
    capturing.kill();
    let agent = place.agent();
    eventually("it is put back", 20, || (words() == "438\n4\n").then_some(()));
    let note = place.path("state/undo");
    eventually("the note is gone", 5, || {
        std::fs::read_dir(&note).unwrap().next().is_none().then_some(())
    });
    drop(agent);
}
