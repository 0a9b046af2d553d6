//! Apps that are found without being listed, and bindings that the controller publishes.

use super::lab::{Guest, root};
use super::programs::{DEVICE, Place, Program, eventually};
use lifesign::binding::source::{Kind, Source};
use lifesign::binding::{Change, Registry};
use lifesign::bundle::{Bindings, Signer, Text};
use lifesign::controller::store;
use lifesign::hypervisor::qmp::Monitor;
use rumqttc::Transport;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde_json::json;
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::time::{Instant, timeout};

const SOON: Duration = Duration::from_secs(10);

const TOPIC: &str = "lifesign/edge-1/bindings";

/// An app that nobody can reach, so that every probe of it is unknown.
const WEB: &str = "  - name: web\n    uuid: 0f8fad5b-d9cb-469f-a165-70867728950e\n    \
                   qmp: nowhere\n    scenarios: []\ncontroller: { certificate: controller.pem }\n";

const PING: &str = "bindings:\n  - select: { name: \"w*\" }\n    \
                    scenarios: [ping: { initialDelay: 0s, period: 1s, timeout: 500ms }]\n";

#[test]
fn a_guest_is_found_by_its_monitor_and_restarts_and_goes() {
    let directory = tempfile::tempdir().unwrap();
    let guest = Guest::up("i3b-found", &["--wiring", "eve"]);
    let home = guest.file("");
    let text = |name: &str| std::fs::read_to_string(guest.file(name)).unwrap().trim().to_owned();
    let (uuid, pid) = (text("uuid"), text("pid").parse().unwrap());
    std::os::unix::fs::symlink(home, directory.path().join("web")).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut source = Source::new(&Kind::Monitors(directory.path().to_owned()));
        let mut registry = Registry::new(1);
        let begun = Instant::now();
        let seen = timeout(SOON, source.next()).await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        let changes = registry.update(0, seen.apps);
        let [Change::Appeared(app)] = &changes[..] else { panic!("{changes:?}") };
        assert_eq!((app.name.as_str(), app.id.to_string()), ("i3b-found", uuid.clone()));
        assert_eq!(app.life.pid, Some(pid));
        assert!(app.console.is_some() && app.console_log.is_some());

        // The monitor is free again for whoever else asks.
        let mut monitor = Monitor::connect(app.qmp.as_ref().unwrap()).await.unwrap();
        let status = monitor.ask("query-status", json!({})).await.unwrap();
        assert_eq!(status["status"], "running");
        drop(monitor);

        drop(guest);
        let seen = timeout(SOON, source.next()).await.unwrap();
        let app = app.id;
        assert_eq!(registry.update(0, seen.apps), [Change::Gone(app)]);

        let _again = Guest::up("i3b-found", &["--wiring", "eve"]);
        // It may be caught while it starts, and be asked again when it is up.
        let found = async {
            loop {
                let changes = registry.update(0, source.next().await.apps);
                if let [Change::Appeared(app)] = &changes[..] {
                    break app.clone();
                }
            }
        };
        let found = timeout(4 * SOON, found).await.unwrap();
        assert_eq!(found.id, app);
        assert_ne!(found.life.pid, Some(pid));
    });
}

/// A controller and a device, with the controller's own broker or a mosquitto between them.
struct Fleet {
    place: Place,
    mosquitto: Option<Child>,
    own: bool,
}

impl Fleet {
    fn new(own: bool) -> Self {
        let place = Place::empty();
        place.write_agent_config(WEB);
        std::fs::write(place.path("bindings.yaml"), PING).unwrap();
        if !own {
            let agent = std::fs::read_to_string(place.path("agent.yaml")).unwrap();
            std::fs::write(place.path("agent.yaml"), agent.replace("mqtts://", "mqtt://")).unwrap();
        }
        Self { place, mosquitto: None, own }
    }

    /// A controller that runs, and a broker that remembers nothing from before.
    fn controller(&mut self) -> Program {
        if self.own {
            return self.place.controller();
        }
        let port = self.place.broker();
        let config = self.place.path("mosquitto.conf");
        let text = format!("listener {port} 127.0.0.1\nallow_anonymous true\nuser root\n");
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new("mosquitto");
        let command = command.arg("-c").arg(&config).stdout(Stdio::null()).stderr(Stdio::null());
        self.mosquitto = Some(command.spawn().expect("this test needs mosquitto"));
        eventually("mosquitto listens", 10, || TcpStream::connect(("127.0.0.1", port)).ok());
        self.place.controller_with(&["--broker", &format!("mqtt://127.0.0.1:{port}")])
    }

    fn end_broker(&mut self) {
        if let Some(mut mosquitto) = self.mosquitto.take() {
            mosquitto.kill().unwrap();
            mosquitto.wait().unwrap();
        }
    }

    /// `bindings WORDS`: what it printed, and whether all was well.
    fn bindings(&self, words: &[&str]) -> (bool, String) {
        let words = [&["bindings"], words, &["--config", "controller.yaml"]].concat();
        let output = self.place.ask_controller(&words);
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(text).unwrap())
    }

    fn publish(&self, file: &str) -> String {
        let ping = root().join("scenarios/ping.yaml").display().to_string();
        let (well, text) = self.bindings(&["publish", "--all", "--scenario", &ping, file]);
        assert!(well, "{text}");
        text
    }

    /// Waits until `show` says this.
    fn shows(&self, what: &str) -> String {
        eventually(what, 20, || {
            Some(self.bindings(&["show", DEVICE]).1).filter(|shown| shown.contains(what))
        })
    }

    /// Waits until the health page says this of the bindings.
    fn is_told(&self, what: &str) {
        eventually(what, 20, || self.place.agent_page("/health")?.contains(what).then_some(()));
    }

    /// Waits until an app is watched under this scenario, or none under any.
    fn watches(&self, scenario: Option<&str>) {
        eventually("what is watched", 20, || {
            let page = self.place.agent_page("/apps")?;
            let (_, apps) = page.split_once("\r\n\r\n")?;
            let as_wanted = match scenario {
                Some(scenario) => apps.contains(&format!("\"scenario\":\"{scenario}\"")),
                None => apps.trim() == "[]",
            };
            as_wanted.then_some(())
        });
    }

    fn published(&self) -> store::Published {
        let table = store::Bindings::open(&self.place.path("data")).unwrap();
        table.of(&DEVICE.parse().unwrap()).unwrap().unwrap()
    }

    /// Whoever may write the topic says this.
    fn say(&self, sealed: Vec<u8>) {
        let port = self.place.broker();
        let socket = self.place.path("data/broker.sock").display().to_string();
        let mut options = MqttOptions::new("somebody", "127.0.0.1", port);
        if self.own {
            options = MqttOptions::new("somebody", &socket, 0);
            options.set_transport(Transport::Unix);
        }
        options.set_max_packet_size(Some(1 << 18));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (client, mut events) = AsyncClient::new(options, 10);
            client.try_publish(TOPIC, QoS::AtLeastOnce, true, sealed).unwrap();
            while !matches!(events.poll().await.unwrap(), Event::Incoming(Packet::PubAck(_))) {}
        });
    }

    /// Seals in the name of the one whose certificate this is.
    fn sealed(&self, name: &str, sequence: u64, scenario: &str) -> Vec<u8> {
        let path = |end: &str| self.place.path(&format!("{name}.{end}"));
        let certificate = CertificateDer::from_pem_file(path("pem")).unwrap();
        let key = PrivatePkcs8KeyDer::from_pem_file(path("key")).unwrap();
        let signer = Signer::new(key.secret_pkcs8_der(), &certificate).unwrap();
        let text = |name: &str, text: &str| Text { name: name.to_owned(), text: text.to_owned() };
        let bindings = Bindings {
            device: DEVICE.parse().unwrap(),
            sequence,
            scenarios: vec![text("ping.yaml", scenario)],
            bindings: text("bindings.yaml", PING),
            dumps: Vec::new(),
        };
        signer.seal_bindings(&bindings).unwrap()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.end_broker();
    }
}

/// What is published is in force within seconds; what is wrong is not, and both sides say so.
fn what_is_right_is_in_force_and_nothing_else(mut fleet: Fleet) {
    let controller = fleet.controller();
    let agent = fleet.place.agent();
    fleet.watches(None);
    assert!(!fleet.bindings(&["withdraw", DEVICE]).0, "there is nothing to withdraw");
    let begun = lifesign::base::time::Clock::now();
    fleet.publish("bindings.yaml");
    fleet.watches(Some("ping"));
    eprintln!("watched after {:?}", lifesign::base::time::Clock::now().since(begun));
    fleet.shows("are in force on edge-1\n");
    let first = fleet.published();

    // What the controller's own reader refuses never leaves it.
    std::fs::write(fleet.place.path("wrong.yaml"), PING.replace("ping", "pong")).unwrap();
    let ping = root().join("scenarios/ping.yaml").display().to_string();
    let (well, text) = fleet.bindings(&["publish", "--all", "--scenario", &ping, "wrong.yaml"]);
    assert!(!well && text.starts_with("error: ") && text.contains("wrong.yaml:3"), "{text}");
    assert_eq!(fleet.published(), first);

    // What it lets pass, and the device does not: more consent, and a scenario that it cannot read.
    let more = PING.replace("    scenarios", "    consent: pause\n    scenarios");
    std::fs::write(fleet.place.path("more.yaml"), more).unwrap();
    assert!(fleet.publish("more.yaml").contains("warning: more.yaml:2: "));
    let shown = fleet.shows("are not in force: edge-1 refuses them");
    assert!(shown.contains("it consents to `pause`"), "{shown}");
    let number = |n: u64| format!("in force   {n}, it said at ");
    assert!(shown.contains(&number(first.sequence)), "{shown}");
    let sequence = fleet.published().sequence + 10;
    fleet.say(fleet.sealed("controller", sequence, "scenario: ping\nprobes: []\n"));
    fleet.is_told(&format!("bindings {sequence} of the controller are wrong"));
    let shown = fleet.shows("`probes`");
    assert!(shown.contains(&format!("controller-{sequence}/ping.yaml:2:1")), "{shown}");
    fleet.watches(Some("ping"));

    fleet.publish("bindings.yaml");
    fleet.shows("are in force on edge-1\n");
    let second = fleet.published();
    assert!(second.sequence > first.sequence);

    // Somebody else's word, and our own of yesterday.
    let scenario = std::fs::read_to_string(root().join("scenarios/ping.yaml")).unwrap();
    fleet.say(fleet.sealed(DEVICE, second.sequence + 10, &scenario));
    fleet.is_told("the signature does not fit");
    fleet.shows("are in force on edge-1, which refused others since");
    fleet.say(first.sealed);
    fleet.is_told(&format!("its sequence is {}, and {} was", first.sequence, second.sequence));
    fleet.shows(&number(second.sequence));
    assert!(agent.log().contains("the controller's bindings stay as they are: its sequence is"));

    // The controller says it again to a broker that has forgotten it, or was told otherwise.
    drop(controller);
    fleet.end_broker();
    agent.kill();
    let agent = fleet.place.agent();
    fleet.watches(Some("ping"));
    assert!(fleet.place.agent_page("/health").unwrap().contains("broker: "), "there is no link");
    let _controller = fleet.controller();
    fleet.shows("are in force on edge-1\n");

    let (well, text) = fleet.bindings(&["withdraw", DEVICE]);
    assert!(well, "{text}");
    fleet.watches(None);
    let shown = fleet.shows("are in force on edge-1\n");
    assert!(shown.contains("bindings: []"), "{shown}");
    assert_eq!(agent.stop().0, Some(0));
}

#[test]
fn bindings_over_the_controllers_own_broker() {
    what_is_right_is_in_force_and_nothing_else(Fleet::new(true));
}

#[test]
fn bindings_over_mosquitto() {
    what_is_right_is_in_force_and_nothing_else(Fleet::new(false));
}
