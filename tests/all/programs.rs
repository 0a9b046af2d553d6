//! The two programs as they are run, in a directory that goes away with them.

use super::lab::{Guest, root};
use serde_json::Value;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// The name of the device in every test.
pub(crate) const DEVICE: &str = "edge-1";

/// A directory with certificates, configs, scenarios and the state of both programs.
pub(crate) struct Place {
    directory: tempfile::TempDir,
    broker: u16,
    agent_http: u16,
    controller_http: u16,
}

/// A program that runs; killed when it goes out of scope.
pub(crate) struct Program {
    child: Child,
    log: PathBuf,
}

impl Place {
    /// A place whose agent watches `guest`, at a pace for tests.
    pub(crate) fn new(guest: &Guest) -> Self {
        let place = Self::empty();
        place.write_agent_config(&place.binding(guest));
        place
    }

    /// A place whose agent watches nothing yet.
    pub(crate) fn empty() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let [broker, agent_http, controller_http] = free_ports();
        let place = Self { directory, broker, agent_http, controller_http };
        place.certificates(DEVICE, 30);
        std::fs::create_dir(place.path("devices")).unwrap();
        std::fs::copy(place.path("edge-1.pem"), place.path("devices/edge-1.pem")).unwrap();
        let controller = format!(
            "listen: 127.0.0.1:{broker}\nhttp: 127.0.0.1:{controller_http}\ndata: data\n\
             devices: devices\n\
             tls: {{ certificate: controller.pem, key: controller.key, ca: ca.pem }}\n",
        );
        std::fs::write(place.path("controller.yaml"), controller).unwrap();
        place.write_agent_config("");
        place
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn broker(&self) -> u16 {
        self.broker
    }

    /// Makes certificates for a device, by the same script as the demo.
    pub(crate) fn certificates(&self, device: &str, days: i32) {
        let made = Command::new(root().join("hack/certs"))
            .env("HACK_CERTS_DAYS", days.to_string())
            .args([self.directory.path().as_os_str(), device.as_ref()])
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }

    /// The lines of a config that bind a guest, failing after three rounds of a second.
    pub(crate) fn binding(&self, guest: &Guest) -> String {
        format!(
            "  - name: web\n    uuid: {}\n    console: {}\n    console-log: {}\n    qmp: {}\n    \
             consent: input\n    scenarios: [linux-console: {{ period: 1s, timeout: 1s, initialDelay: 0s }}]\n",
            std::fs::read_to_string(guest.file("uuid")).unwrap().trim(),
            guest.file("cons").display(),
            guest.file("console.log").display(),
            guest.file("qmp").display(),
        )
    }

    pub(crate) fn write_agent_config(&self, bindings: &str) {
        let apps = if bindings.is_empty() {
            "apps: []\n".to_owned()
        } else {
            format!("apps:\n{bindings}")
        };
        let config = format!(
            "device: {DEVICE}\nstate: state\ncertificate: {DEVICE}.pem\nkey: {DEVICE}.key\n\
             broker: {{ url: \"mqtts://127.0.0.1:{}\", ca: ca.pem }}\nhttp: 127.0.0.1:{}\n\
             scenarios: {}\n{apps}",
            self.broker,
            self.agent_http,
            root().join("scenarios").display(),
        );
        std::fs::write(self.path("agent.yaml"), config).unwrap();
    }

    /// The agent knows this scenario, and no shipped one.
    pub(crate) fn write_scenario(&self, name: &str, text: &str) {
        std::fs::create_dir(self.path("own")).unwrap();
        std::fs::write(self.path("own").join(name).with_extension("yaml"), text).unwrap();
        let config = std::fs::read_to_string(self.path("agent.yaml")).unwrap();
        let shipped = root().join("scenarios").display().to_string();
        std::fs::write(self.path("agent.yaml"), config.replace(&shipped, "own")).unwrap();
    }

    pub(crate) fn agent(&self) -> Program {
        self.start(env!("CARGO_BIN_EXE_lifesign"), "agent.yaml", &[])
    }

    pub(crate) fn controller(&self) -> Program {
        self.controller_with(&[])
    }

    pub(crate) fn controller_with(&self, arguments: &[&str]) -> Program {
        let program =
            self.start(env!("CARGO_BIN_EXE_lifesign-controller"), "controller.yaml", arguments);
        if arguments.is_empty() {
            eventually("the broker listens", 10, || {
                TcpStream::connect(("127.0.0.1", self.broker)).ok().map(drop)
            });
        }
        program
    }

    fn start(&self, program: &str, config: &str, arguments: &[&str]) -> Program {
        let log = self.path(&format!("{config}.log"));
        let file = File::options().create(true).append(true).open(&log).unwrap();
        let child = Command::new(program)
            .current_dir(self.directory.path())
            .args(["run", "--config", config])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .unwrap();
        Program { child, log }
    }

    /// Runs `lifesign ARGUMENTS` to its end.
    pub(crate) fn lifesign(&self, arguments: &[&str]) -> Output {
        self.once(env!("CARGO_BIN_EXE_lifesign"), arguments)
    }

    /// Starts `lifesign ARGUMENTS`.
    pub(crate) fn begin(&self, arguments: &[&str]) -> Program {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lifesign"));
        command.current_dir(self.directory.path()).args(arguments);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Program { child, log: PathBuf::from("/dev/null") }
    }

    /// Runs `lifesign-controller ARGUMENTS` to its end.
    pub(crate) fn ask_controller(&self, arguments: &[&str]) -> Output {
        self.once(env!("CARGO_BIN_EXE_lifesign-controller"), arguments)
    }

    fn once(&self, program: &str, arguments: &[&str]) -> Output {
        Command::new(program).current_dir(self.directory.path()).args(arguments).output().unwrap()
    }

    /// The first incident whose evidence the controller has stored and looked into.
    pub(crate) fn diagnosed(&self) -> Option<Value> {
        let is_done =
            |incident: &Value| incident["state"] == "stored" && !incident["diagnosis"].is_null();
        self.incidents().into_iter().find(is_done)
    }

    /// What the controller knows.
    pub(crate) fn incidents(&self) -> Vec<Value> {
        let output = self.ask_controller(&["incidents", "--json", "--config", "controller.yaml"]);
        let incidents: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        incidents.as_array().cloned().unwrap_or_default()
    }

    /// The agent's status page.
    pub(crate) fn agent_page(&self, path: &str) -> Option<String> {
        page(self.agent_http, path)
    }

    /// The controller's status page.
    pub(crate) fn controller_page(&self, path: &str) -> Option<String> {
        page(self.controller_http, path)
    }
}

impl Program {
    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM; the exit code, and how long it took.
    pub(crate) fn stop(mut self) -> (Option<i32>, Duration) {
        let pid = i32::try_from(self.child.id()).unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGTERM).unwrap();
        let begun = lifesign::base::time::Clock::now();
        let status = self.child.wait().unwrap();
        (status.code(), lifesign::base::time::Clock::now().since(begun))
    }

    /// What it logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.log.display(), self.log());
        }
    }
}

/// Waits for something for so many seconds.
pub(crate) fn eventually<T>(what: &str, seconds: u32, mut look: impl FnMut() -> Option<T>) -> T {
    for _ in 0..seconds * 10 {
        if let Some(found) = look() {
            return found;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("not within {seconds} s: {what}");
}

/// Three ports that were free a moment ago.
fn free_ports() -> [u16; 3] {
    let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

fn page(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// The one entry of a list.
pub(crate) fn only<T>(mut list: Vec<T>) -> T {
    assert_eq!(list.len(), 1, "exactly one");
    list.remove(0)
}

/// A file's bytes.
pub(crate) fn bytes(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
