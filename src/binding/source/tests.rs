//! Sources driven as the device drives them: files appear, are replaced, torn, removed, and come in
//! floods.

use super::*;
use crate::base::id::AppId;
use crate::binding::{Change, Life, Registry};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;
use tokio::time::timeout;

const WEB: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";
const SOON: Duration = Duration::from_secs(10);

fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
}

/// A device with the files of a real one, and somebody who follows what becomes of its apps.
struct Device {
    base: tempfile::TempDir,
    source: Source,
    registry: Registry,
    problems: Vec<String>,
}

impl Device {
    fn new() -> Self {
        let base = tempfile::tempdir().unwrap();
        copy(Path::new("tests/data/eve-run"), base.path());
        let source = Source::new(&Kind::Eve(base.path().to_owned()));
        Self { base, source, registry: Registry::new(1), problems: Vec::new() }
    }

    fn status(&self, id: &str) -> PathBuf {
        self.base.path().join("domainmgr/DomainStatus").join(format!("{id}.json"))
    }

    /// Publishes as EVE does: a temporary file beside, renamed.
    fn publish(&self, id: &str, text: &str) {
        let path = self.status(id);
        let beside = path.with_file_name(format!("tmp{id}"));
        fs::write(&beside, text).unwrap();
        fs::rename(beside, path).unwrap();
    }

    fn edit(&self, edit: impl Fn(String) -> String) {
        self.publish(WEB, &edit(fs::read_to_string(self.status(WEB)).unwrap()));
    }

    /// What the next look brings.
    async fn changes(&mut self) -> Vec<Change> {
        let seen = timeout(SOON, self.source.next()).await.expect("the source wakes");
        self.problems = seen.problems;
        self.registry.update(0, seen.apps)
    }

    fn web(&self) -> &App {
        self.registry.get(WEB.parse().unwrap()).expect("web is there")
    }
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            fs::create_dir_all(&target).unwrap();
            copy(&path, &target);
        } else {
            fs::copy(path, target).unwrap();
        }
    }
}

#[test]
fn what_eve_publishes_is_read() {
    run(async {
        let mut device = Device::new();
        let sockets = device.base.path().join(format!("hypervisor/kvm/{WEB}.3.1"));
        fs::create_dir_all(&sockets).unwrap();
        let _shim = UnixListener::bind(sockets.join("shim-cons")).unwrap();
        let changes = device.changes().await;
        assert_eq!(changes.len(), 2, "a halted app is not here");
        let shown = format!("{:#?}", device.web());
        insta::assert_snapshot!(shown.replace(&device.base.path().display().to_string(), "RUN"));
        assert_eq!(device.problems, Vec::<String>::new());
        let usage = read_usage(device.base.path(), WEB.parse().unwrap()).unwrap();
        assert_eq!((usage.cpu_ns, usage.memory_mib), (81_273_645_123, 611));
    });
}

#[test]
fn nothing_secret_is_kept() {
    run(async {
        let mut device = Device::new();
        let changes = device.changes().await;
        assert!(!format!("{changes:?}").contains("correct horse"));
        let text = fs::read_to_string(device.status(WEB)).unwrap();
        let end = text.find("correct horse").unwrap() + 20;
        device.publish(WEB, &text[..end]);
        device.changes().await;
        assert!(!device.problems.is_empty());
        assert!(!device.problems.concat().contains("correct"), "{:?}", device.problems);
    });
}

#[test]
fn an_app_restarts_and_is_renamed_and_goes_and_comes() {
    run(async {
        let mut device = Device::new();
        device.changes().await;
        device.edit(|text| text.replace("41237", "51000"));
        let [Change::Restarted(app)] = &device.changes().await[..] else { panic!("a restart") };
        assert_eq!(app.life.pid, Some(51000));

        // Purged: another version, another name of the domain, other sockets.
        device.edit(|text| text.replace(".3.1\"", ".4.1\"").replace("51000", "52000"));
        let [Change::Restarted(app)] = &device.changes().await[..] else { panic!("a restart") };
        assert!(app.qmp.as_ref().unwrap().ends_with(format!("{WEB}.4.1/qmp")));

        device.edit(|text| text.replace("\"DisplayName\": \"web\"", "\"DisplayName\": \"shop\""));
        let [Change::Changed(app)] = &device.changes().await[..] else { panic!("a new name") };
        assert_eq!(app.name, "shop");

        // Halted: no process any more.
        device.edit(|text| text.replace("52000", "0").replace("\"State\": 115", "\"State\": 119"));
        assert_eq!(device.changes().await, [Change::Gone(WEB.parse().unwrap())]);
        device
            .edit(|text| text.replace("\"DomainId\": 0", "\"DomainId\": 7").replace("119", "115"));
        assert!(matches!(device.changes().await[..], [Change::Appeared(_)]));

        fs::remove_file(device.status(WEB)).unwrap();
        assert_eq!(device.changes().await, [Change::Gone(WEB.parse().unwrap())]);
    });
}

#[test]
fn a_torn_file_keeps_its_last_meaning_and_is_told() {
    run(async {
        let mut device = Device::new();
        device.changes().await;
        let text = fs::read_to_string(device.status(WEB)).unwrap();
        fs::write(device.status(WEB), &text[..text.len() / 2]).unwrap();
        assert_eq!(device.changes().await, []);
        let [problem] = &device.problems[..] else { panic!("{:?}", device.problems) };
        assert!(problem.contains("ends too early"), "{problem}");
        assert_eq!(device.web().name, "web");

        fs::write(device.status(WEB), text.replace("41237", "41238")).unwrap();
        assert!(matches!(device.changes().await[..], [Change::Restarted(_)]));
        assert_eq!(device.problems, Vec::<String>::new());
    });
}

#[test]
fn rubbish_in_the_directory_hinders_nobody() {
    run(async {
        let mut device = Device::new();
        let directory = device.base.path().join("domainmgr/DomainStatus");
        fs::write(directory.join("restarted"), "").unwrap();
        fs::write(directory.join("tmp123"), "{").unwrap();
        fs::write(directory.join("empty.json"), "").unwrap();
        fs::write(directory.join("other.json"), "[1, 2]").unwrap();
        fs::write(directory.join("bytes.json"), b"\xff\xfe\0").unwrap();
        fs::create_dir(directory.join("directory.json")).unwrap();
        std::os::unix::fs::symlink("nowhere", directory.join("link.json")).unwrap();
        nix::unistd::mkfifo(&directory.join("pipe.json"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let large = "x".repeat(2 << 20);
        fs::write(directory.join("large.json"), large).unwrap();
        assert_eq!(device.changes().await.len(), 2);
        assert_eq!(device.problems.len(), 6, "{:#?}", device.problems);
    });
}

/// What EVE does to the file of one of four apps.
#[derive(Clone, Debug)]
enum Deed {
    Publish { app: usize, pid: u32, version: u32 },
    Tear { app: usize, at: usize },
    Halt { app: usize },
    Remove { app: usize },
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        4 => (0_usize..4, 1_u32..4, 1_u32..3)
            .prop_map(|(app, pid, version)| Deed::Publish { app, pid, version }),
        1 => (0_usize..4, 1_usize..400).prop_map(|(app, at)| Deed::Tear { app, at }),
        1 => (0_usize..4).prop_map(|app| Deed::Halt { app }),
        1 => (0_usize..4).prop_map(|app| Deed::Remove { app }),
    ]
}

/// What is there: name of the domain and process.
type Model = BTreeMap<usize, (String, u32)>;

fn walk(base: &Path, deeds: Vec<Deed>) -> Result<(), TestCaseError> {
    let template =
        fs::read_to_string(format!("tests/data/eve-run/domainmgr/DomainStatus/{WEB}.json"))
            .unwrap();
    let directory = base.join("domainmgr/DomainStatus");
    fs::create_dir_all(&directory).unwrap();
    let id = |app: usize| format!("0000000{app}-0000-4000-8000-000000000000");
    let path = |app: usize| directory.join(format!("{}.json", id(app)));
    let text = |app: usize, pid: u32, version: u32| {
        let text = template.replace(WEB, &id(app)).replace("41237", &pid.to_string());
        text.replace(".3.1\"", &format!(".{version}.1\""))
    };
    let mut eve = eve::Eve::new(base);
    let mut registry = Registry::new(1);
    let mut model = Model::new();
    for deed in deeds {
        match deed {
            Deed::Publish { app, pid, version } => {
                fs::write(path(app), text(app, pid, version)).unwrap();
                model.insert(app, (format!("{}.{version}.1", id(app)), pid));
            }
            // Torn while it is written: what was known before holds.
            Deed::Tear { app, at } => fs::write(path(app), &text(app, 9, 9)[..at]).unwrap(),
            Deed::Halt { app } => {
                fs::write(path(app), text(app, 0, 1)).unwrap();
                model.remove(&app);
            }
            Deed::Remove { app } => {
                fs::remove_file(path(app)).ok();
                model.remove(&app);
            }
        }
        let before: BTreeMap<AppId, Life> =
            registry.apps().map(|app| (app.id, app.life.clone())).collect();
        let changes = registry.update(0, eve.look().apps);
        let now: Model = registry
            .apps()
            .map(|app| {
                let number = usize::from(app.id.as_bytes()[3]);
                (number, (app.life.domain.clone().unwrap(), app.life.pid.unwrap()))
            })
            .collect();
        prop_assert_eq!(&now, &model);
        for change in changes {
            if let Change::Changed(app) = change {
                prop_assert!(before[&app.id].continues_as(&app.life), "a restart was not told");
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn whatever_happens_to_the_files_the_apps_are_known(deeds in prop::collection::vec(deed(), 1..40)) {
        let base = tempfile::tempdir().unwrap();
        walk(base.path(), deeds)?;
    }
}

#[test]
fn a_name_that_would_deceive_is_made_harmless() {
    run(async {
        let mut device = Device::new();
        device.edit(|text| {
            text.replace("\"DisplayName\": \"web\"", "\"DisplayName\": \"w\\u001b[2J\\nb\"")
        });
        device.changes().await;
        assert_eq!(device.web().name, "w\\u{1b}[2J b");
    });
}

#[test]
fn five_hundred_apps_come_at_once_and_go() {
    run(async {
        let mut device = Device::new();
        device.changes().await;
        let text = fs::read_to_string(device.status(WEB)).unwrap();
        let ids: Vec<String> =
            (0..500).map(|n| format!("{n:08x}-0000-4000-8000-000000000000")).collect();
        for id in &ids {
            device.publish(id, &text.replace(WEB, id));
        }
        let mut appeared = 0;
        let mut looks = 0;
        while appeared < ids.len() {
            appeared += device.changes().await.len();
            looks += 1;
        }
        assert_eq!(device.registry.apps().count(), 502);
        assert!(looks <= 20, "{looks} looks for one flood");
        ids.iter().for_each(|id| fs::remove_file(device.status(id)).unwrap());
        let mut gone = 0;
        while gone < ids.len() {
            gone += device.changes().await.len();
        }
        assert_eq!(device.registry.apps().count(), 2);
    });
}

#[test]
fn services_that_start_later_are_found() {
    run(async {
        let base = tempfile::tempdir().unwrap();
        let mut source = Source::new(&Kind::Eve(base.path().join("run")));
        assert_eq!(source.next().await, Seen::default());
        fs::create_dir(base.path().join("run")).unwrap();
        copy(Path::new("tests/data/eve-run"), &base.path().join("run"));
        let seen = timeout(SOON, source.next()).await.unwrap();
        assert_eq!(seen.apps.len(), 2);
    });
}

#[test]
fn other_hypervisors_have_no_sockets_of_ours() {
    run(async {
        let mut device = Device::new();
        fs::write(device.base.path().join("eve-hv-type"), "k\n").unwrap();
        device.changes().await;
        assert_eq!((device.web().qmp.as_ref(), device.web().life.pid), (None, None));
        assert!(!device.web().addresses.is_empty());
    });
}

#[test]
fn machines_of_libvirt_are_found() {
    run(async {
        let base = tempfile::tempdir().unwrap();
        let mut source = Source::new(&Kind::Libvirt(base.path().to_owned()));
        assert_eq!(source.next().await, Seen::default());
        let text = fs::read_to_string("tests/data/libvirt-run/web.xml").unwrap();
        fs::write(base.path().join("web.xml.new"), &text).unwrap();
        fs::rename(base.path().join("web.xml.new"), base.path().join("web.xml")).unwrap();
        fs::write(base.path().join("autostart.xml"), "<network/>").unwrap();
        let seen = timeout(SOON, source.next()).await.unwrap();
        let [web] = &seen.apps[..] else { panic!("{seen:?}") };
        assert_eq!((web.name.as_str(), web.life.pid), ("web", Some(4242)));
        assert_eq!(seen.problems.len(), 1);
        fs::write(base.path().join("web.xml"), text.replace("state='running'", "state='shutoff'"))
            .unwrap();
        assert_eq!(timeout(SOON, source.next()).await.unwrap().apps, []);
    });
}

#[test]
fn a_list_is_told_once() {
    run(async {
        let app = App::new(WEB.parse().unwrap(), "web");
        let mut source = Source::list(vec![app.clone()]);
        assert_eq!(source.next().await.apps, [app]);
        timeout(Duration::from_millis(50), source.next()).await.unwrap_err();
    });
}

/// A monitor that says who it is, to one client after the other.
fn monitor(socket: &Path, name: Option<&str>, uuid: &str) {
    let listener = UnixListener::bind(socket).unwrap();
    let name = name.map_or_else(|| "{}".to_owned(), |name| format!(r#"{{"name": "{name}"}}"#));
    let uuid = format!(r#"{{"UUID": "{uuid}"}}"#);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            serve(&stream, &name, &uuid).ok();
        }
    });
}

fn serve(mut stream: &UnixStream, name: &str, uuid: &str) -> std::io::Result<()> {
    writeln!(stream, r#"{{"QMP": {{"version": {{}}, "capabilities": []}}}}"#)?;
    for line in BufReader::new(stream).lines() {
        let asked: serde_json::Value = serde_json::from_str(&line?)?;
        let answer = match asked["execute"].as_str() {
            Some("query-name") => name,
            Some("query-uuid") => uuid,
            _ => "{}",
        };
        writeln!(stream, r#"{{"return": {answer}, "id": {}}}"#, asked["id"])?;
    }
    Ok(())
}

#[test]
fn monitors_say_who_they_are() {
    run(async {
        let base = tempfile::tempdir().unwrap();
        let place = |name: &str| base.path().join(name);
        monitor(&place("a.qmp"), Some("web"), WEB);
        // Started without a name and without a key.
        monitor(&place("plain.sock"), None, "00000000-0000-0000-0000-000000000000");
        fs::create_dir(place("db")).unwrap();
        monitor(&place("db/qmp"), Some("db"), "94e3c619-047e-46ae-91aa-964592b61598");
        let _console = UnixListener::bind(place("db/cons")).unwrap();
        fs::write(place("notes.txt"), "no socket").unwrap();
        let mut source = Source::new(&Kind::Monitors(base.path().to_owned()));
        let seen = source.next().await;
        assert_eq!(seen.problems, Vec::<String>::new());
        let names: Vec<(&str, bool)> =
            seen.apps.iter().map(|app| (app.name.as_str(), app.console.is_some())).collect();
        assert!(names.contains(&("web", false)) && names.contains(&("db", true)), "{names:?}");
        let plain = seen.apps.iter().find(|app| app.name == "plain").unwrap();
        assert_eq!(plain.id, crate::rules::id_of_name("plain"));
        assert_eq!(plain.life.pid, Some(std::process::id()));
    });
}

#[test]
fn a_monitor_that_is_busy_or_none_hinders_no_other() {
    run(async {
        let base = tempfile::tempdir().unwrap();
        let place = |name: &str| base.path().join(name);
        monitor(&place("web.qmp"), Some("web"), WEB);
        let busy: Vec<UnixListener> =
            (0..40).map(|n| UnixListener::bind(place(&format!("busy-{n}.qmp"))).unwrap()).collect();
        drop(UnixListener::bind(place("dead.qmp")).unwrap());
        let mut source = Source::new(&Kind::Monitors(base.path().to_owned()));
        let begun = tokio::time::Instant::now();
        let seen = source.next().await;
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        assert_eq!((seen.apps.len(), seen.problems.len()), (1, busy.len() + 1));
        let told = seen.problems.concat();
        assert!(told.contains("does not greet") && told.contains("refused"), "{told}");
    });
}

#[test]
fn a_monitor_that_is_made_anew_is_another_life() {
    run(async {
        let base = tempfile::tempdir().unwrap();
        let socket = base.path().join("web.qmp");
        let mut source = Source::new(&Kind::Monitors(base.path().to_owned()));
        let mut registry = Registry::new(1);
        registry.update(0, source.next().await.apps);
        monitor(&socket, Some("web"), WEB);
        let seen = timeout(SOON, source.next()).await.unwrap();
        assert!(matches!(registry.update(0, seen.apps)[..], [Change::Appeared(_)]));
        fs::remove_file(&socket).unwrap();
        monitor(&socket, Some("web"), WEB);
        let seen = timeout(SOON, source.next()).await.unwrap();
        assert!(matches!(registry.update(0, seen.apps)[..], [Change::Restarted(_)]));
        fs::remove_file(&socket).unwrap();
        let seen = timeout(SOON, source.next()).await.unwrap();
        assert_eq!(registry.update(0, seen.apps), [Change::Gone(WEB.parse().unwrap())]);
    });
}
