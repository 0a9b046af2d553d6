//! What is wrong is said with the place and the way out, and the rest goes on.

use super::lab::Guest;
use super::programs::{Place, Program, eventually, only};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output};

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Waits until a program has logged a line with all of these words.
fn logged(program: &Program, words: &[&str]) -> String {
    eventually(&format!("{words:?} in the log"), 20, || {
        let log = program.log();
        let line = log.lines().find(|line| words.iter().all(|word| line.contains(word)));
        line.map(str::to_owned)
    })
}

#[test]
fn a_wrong_config_is_told_whole_and_nothing_starts() {
    let place = Place::empty();
    std::fs::write(place.path("agent.yaml"), "devise: edge-1\nstate: 7\n").unwrap();
    for command in ["run", "check"] {
        let output = place.lifesign(&[command, "--config", "agent.yaml"]);
        assert_eq!(output.status.code(), Some(2));
        let said = stderr(&output);
        for words in [
            "agent.yaml:1:1",
            "`devise`",
            "did you mean `device`?",
            "agent.yaml:2:8",
            "`broker` is missing",
        ] {
            assert!(said.contains(words), "{words}: {said}");
        }
    }
    let output = place.lifesign(&["run", "--config", "nowhere.yaml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("failed to read nowhere.yaml: No such file"),
        "{}",
        stderr(&output)
    );

    std::fs::write(place.path("controller.yaml"), "listen: here\n").unwrap();
    let output = place.ask_controller(&["run", "--config", "controller.yaml"]);
    assert_ne!(output.status.code(), Some(0));
    let said = stderr(&output);
    assert!(said.contains("controller.yaml:1:9") && said.contains("`data` is missing"), "{said}");
}

#[test]
fn missing_and_false_sockets_are_unknown_never_dead() {
    let place = Place::empty();
    let (cons, qmp) = (place.path("cons"), place.path("qmp"));
    let _console = UnixListener::bind(&cons).unwrap();
    let monitor = UnixListener::bind(&qmp).unwrap();
    std::thread::spawn(move || {
        use std::io::Write;
        for stream in monitor.incoming() {
            stream.unwrap().write_all(b"SSH-2.0-OpenSSH_9.2\r\n").ok();
        }
    });
    let app = |name: &str, uuid: u8, sockets: &str| {
        format!(
            "  - {{ name: {name}, uuid: 0f8fad5b-d9cb-469f-a165-7086772895{uuid:02}, {sockets}, \
             consent: input, scenarios: [linux-console: {{ period: 1s, timeout: 500ms, initialDelay: 0s }}] }}\n"
        )
    };
    let gone = "console: nowhere/cons, qmp: nowhere/qmp";
    let rubbish = "console: cons, qmp: qmp";
    place.write_agent_config(&format!("{}{}", app("gone", 1, gone), app("rubbish", 2, rubbish)));
    let agent = place.agent();
    logged(&agent, &["gone", "unknown", "failed to open the console", "nowhere/cons"]);
    logged(&agent, &["rubbish", "unknown"]);
    assert!(!agent.log().contains("has failed"));
    let probed = place.lifesign(&["probe", "--config", "agent.yaml", "rubbish"]);
    assert_eq!(probed.status.code(), Some(2));
    let said = String::from_utf8(probed.stdout).unwrap();
    assert!(said.contains("is not a QMP monitor"), "{said}");
    let probed = place.lifesign(&["probe", "--config", "agent.yaml", "gone"]);
    assert!(String::from_utf8_lossy(&probed.stdout).contains("No such file"));
    let probed = place.lifesign(&["probe", "--config", "agent.yaml", "wbe"]);
    assert!(stderr(&probed).contains("there are: gone, rubbish"), "{}", stderr(&probed));
}

#[test]
fn a_console_that_somebody_holds_is_unknown() {
    let guest = Guest::up("held", &[]);
    let place = Place::new(&guest);
    let _somebody = std::os::unix::net::UnixStream::connect(guest.file("cons")).unwrap();
    let probed = place.lifesign(&["probe", "--config", "agent.yaml", "web"]);
    assert_eq!(probed.status.code(), Some(2));
    let said = String::from_utf8(probed.stdout).unwrap();
    assert!(said.contains("somebody else holds the console"), "{said}");
}

#[test]
fn what_is_wrong_with_bindings_is_in_the_status_until_it_is_right() {
    let place = Place::empty();
    let bindings = "bindings:
  - { select: { name: wbe }, scenarios: [ping] }
  - select: { name: gone }
    scenarios: [linux-serial-login]
    consent: input
    secrets: { user: { file: nowhere }, password: { file: nowhere } }
";
    std::fs::write(place.path("bindings.yaml"), bindings).unwrap();
    std::fs::create_dir(place.path("secrets")).unwrap();
    let app = "  - { name: gone, uuid: 0f8fad5b-d9cb-469f-a165-708677289501, scenarios: [passive] }
bindings: bindings.yaml
secrets: secrets
";
    place.write_agent_config(app);
    let _agent = place.agent();
    let status = || {
        let told = place.lifesign(&["status", "--config", "agent.yaml"]);
        String::from_utf8(told.stdout).unwrap()
    };
    let told = eventually("the status tells what is wrong", 30, || {
        Some(status()).filter(|told| told.contains("selects no app that is here now"))
    });
    let row = told.lines().find(|line| line.contains("linux-serial-login")).unwrap();
    assert!(row.contains("hindered") && row.contains("consent"), "{told}");
    assert!(told.contains("bindings.yaml:3: the secret `password` is missing"), "{told}");
    let right = bindings.replace("wbe", "gone");
    std::fs::write(place.path("bindings.yaml"), right).unwrap();
    eventually("the status tells that it is right", 30, || {
        Some(status()).filter(|told| !told.contains("selects no app"))
    });
}

#[test]
fn a_broker_that_is_not_there_is_named_and_waited_for() {
    let place = Place::empty();
    let agent = place.agent();
    logged(&agent, &["127.0.0.1", &place.broker().to_string(), "refused"]);
    let _controller = place.controller();
    eventually("the agent finds its broker", 30, || {
        place.agent_page("/health").filter(|page| page.contains("200 OK"))
    });
}

#[test]
fn certificates_that_expired_or_are_foreign_are_named() {
    let place = Place::empty();
    let _controller = place.controller();
    place.certificates("edge-1", -1);
    let agent = place.agent();
    let line = logged(&agent, &["certificate"]);
    assert!(line.contains("expired") || line.contains("refused"), "{line}");
    agent.kill();

    let foreign = Place::empty();
    for file in ["edge-1.pem", "edge-1.key"] {
        std::fs::copy(foreign.path(file), place.path(file)).unwrap();
    }
    std::fs::remove_file(place.path("agent.yaml.log")).unwrap();
    let agent = place.agent();
    logged(&agent, &["certificate"]);
    agent.kill();

    std::fs::copy(foreign.path("ca.pem"), place.path("ca.pem")).unwrap();
    std::fs::remove_file(place.path("agent.yaml.log")).unwrap();
    let agent = place.agent();
    logged(&agent, &["certificate"]);
}

#[test]
fn a_corrupt_parcel_is_set_aside_and_the_others_go() {
    let guest = Guest::up("corrupt", &[]);
    let place = Place::new(&guest);
    let agent = place.agent();
    guest.break_it("vmm-stopped");
    let parcels = || {
        // An agent that has just begun has none yet.
        let files = std::fs::read_dir(place.path("state/spool")).into_iter().flatten();
        let files = files.map(|file| file.unwrap().path());
        let mut files: Vec<_> = files
            .filter(|file| file.extension().is_some_and(|ending| ending == "parcel"))
            .collect();
        files.sort();
        files
    };
    eventually("headline and bundle in the spool", 60, || (parcels().len() >= 2).then_some(()));
    agent.kill();
    let name = parcels()[0].with_file_name("00000000deadbeef.parcel");
    std::fs::write(&name, b"lfspool1 and then rubbish").unwrap();
    let _controller = place.controller();
    let agent = place.agent();
    logged(&agent, &["corrupt"]);
    eventually("the incident arrives all the same", 30, || place.diagnosed());
    assert!(place.path("state/spool/corrupt").read_dir().unwrap().next().is_some());
}

#[test]
fn a_full_disk_loses_nothing() {
    let guest = Guest::up("full", &[]);
    let place = Place::new(&guest);
    let state = place.path("state");
    std::fs::create_dir(&state).unwrap();
    let _disk = SmallDisk::mount(&state);
    std::fs::write(state.join("filler"), vec![0; 8 << 20]).unwrap_err();
    let agent = place.agent();
    guest.break_it("vmm-stopped");
    logged(&agent, &["in memory"]);
    let health = place.agent_page("/health").unwrap();
    assert!(health.contains("503") && health.contains("spool:"), "{health}");
    let _controller = place.controller();
    eventually("the evidence arrives from memory", 60, || place.diagnosed());
    only(place.incidents());
    std::fs::remove_file(state.join("filler")).unwrap();
    eventually("the disk is used again", 30, || {
        place.agent_page("/health").filter(|page| page.contains("200 OK"))
    });
}

/// A disk of a megabyte.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn mount(path: &'a Path) -> Self {
        as_root(&["mount", "-t", "tmpfs", "-o", "size=1m,mode=0777", "lifesign-test"], path);
        Self(path)
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        as_root(&["umount", "--lazy"], self.0);
    }
}

fn as_root(command: &[&str], path: &Path) {
    let sudo: &[&str] = if nix::unistd::geteuid().is_root() { &[] } else { &["sudo", "-n"] };
    let words = [sudo, command].concat();
    let status = Command::new(words[0]).args(&words[1..]).arg(path).status().unwrap();
    assert!(status.success() || std::thread::panicking(), "{words:?} needs to be root");
}
