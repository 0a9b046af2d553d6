//! Guests of `hack/lab`, which are gone when they go out of scope.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A running guest.
pub(crate) struct Guest {
    name: String,
    pid: u32,
}

impl Guest {
    /// Starts a guest and waits until it is up.
    pub(crate) fn up(name: &str, options: &[&str]) -> Self {
        let mut guest = Self { name: name.to_owned(), pid: 0 };
        guest.restart(options);
        guest
    }

    /// Ends its hypervisor and starts another one, as a manager restarts an app.
    pub(crate) fn restart(&mut self, options: &[&str]) {
        lab(&["down", &self.name]);
        must(lab(&[&["up", &self.name], options].concat()), "up");
        let pid = std::fs::read_to_string(self.file("pid")).unwrap();
        self.pid = pid.trim().parse().unwrap();
    }

    /// Keeps what it is and ends it: others start `--like` it, without booting.
    pub(crate) fn save(self) {
        must(lab(&["save", &self.name]), "save");
    }

    /// Breaks it; returns once it is broken.
    pub(crate) fn break_it(&self, fault: &str) {
        must(lab(&["break", &self.name, fault]), fault);
    }

    /// What a command in it prints, run off the console.
    pub(crate) fn sh(&self, command: &str) -> String {
        let output = must(lab(&["sh", &self.name, command]), command);
        String::from_utf8(output.stdout).unwrap()
    }

    /// The same of a guest that may not answer.
    pub(crate) fn ask(&self, command: &str) -> Option<String> {
        let output = lab(&["sh", &self.name, command]);
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }

    /// The faults there are, a line each behind a line that says so.
    pub(crate) fn list_faults() -> String {
        String::from_utf8(lab(&["break", "nobody"]).stderr).unwrap()
    }

    /// The kernels there are, and for which of them the lab has its module.
    pub(crate) fn list_kernels() -> Vec<(String, bool)> {
        let listed = must(lab(&["kernels"]), "kernels").stdout;
        let listed = String::from_utf8(listed).unwrap();
        let kernel = |line: &str| {
            let (kernel, built) = line.split_once(' ').unwrap_or((line, ""));
            (kernel.to_owned(), built == "module")
        };
        listed.lines().map(kernel).collect()
    }

    /// Moves this thread to the other end of the cable that a guest with `--tap` has.
    pub(crate) fn enter_its_network(&self) {
        let name = std::fs::read_to_string(self.file("netns")).unwrap();
        let network = std::fs::File::open(format!("/run/netns/{}", name.trim())).unwrap();
        nix::sched::setns(network, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    }

    /// Lets a hypervisor that was stopped go on.
    pub(crate) fn go_on(&self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.pid).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::SIGCONT).unwrap();
    }

    /// One of its files.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        root().join("target/lab").join(&self.name).join(name)
    }

    /// Whether its hypervisor's process is there.
    pub(crate) fn lives(&self) -> bool {
        Path::new(&format!("/proc/{}", self.pid)).exists()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        lab(&["down", &self.name]);
    }
}

/// Where the repository is.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn lab(arguments: &[&str]) -> Output {
    Command::new(root().join("hack/lab")).args(arguments).output().unwrap()
}

fn must(output: Output, what: &str) -> Output {
    assert!(
        output.status.success(),
        "hack/lab {what}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}
