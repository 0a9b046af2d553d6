//! A hypervisor for tests, as far as it is told to dump a guest or to send an NMI.

use nix::cmsg_space;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use serde_json::{Value, json};
use std::fs::OpenOptions;
use std::io::{IoSliceMut, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;

/// How it behaves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner {
    /// The run state of the guest.
    pub(super) state: &'static str,
    /// What it writes as the guest's dump; nothing: it fails to.
    pub(super) dump: Option<&'static [u8]>,
    /// Whether the guest runs again after its dump by itself.
    pub(super) resumes: bool,
    /// Whether somebody has the console.
    pub(super) held: bool,
    /// What the guest writes to its console when it gets an NMI.
    pub(super) says: &'static str,
}

impl Manner {
    pub(super) const GOOD: Self = Self {
        state: "running",
        dump: Some(b"all the memory"),
        resumes: true,
        held: false,
        says: "",
    };
}

/// One that serves until it is dropped.
pub(super) struct Fake {
    directory: tempfile::TempDir,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Fake {
    pub(super) fn new(manner: Manner) -> Self {
        let (directory, asked) = (tempfile::tempdir().unwrap(), Arc::default());
        let monitor = UnixListener::bind(directory.path().join("qmp")).unwrap();
        let console = UnixListener::bind(directory.path().join("cons")).unwrap();
        let path = directory.path().join("cons");
        let mut guest =
            Guest { manner, path, console, asked: Arc::clone(&asked), lent: None, looks: None };
        thread::spawn(move || {
            while let Ok((stream, _)) = monitor.accept() {
                guest.serve(stream);
            }
        });
        Self { directory, asked }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Commands that it was given, of those that do something.
    pub(super) fn did(&self) -> Vec<String> {
        let asked = self.asked.lock().unwrap();
        let acts = |command: &&String| !command.contains("query") && !command.contains("human");
        asked
            .iter()
            .filter(acts)
            .filter(|command| *command != "qmp_capabilities")
            .cloned()
            .collect()
    }
}

struct Guest {
    manner: Manner,
    path: PathBuf,
    console: UnixListener,
    asked: Arc<Mutex<Vec<String>>>,
    lent: Option<RawFd>,
    /// How many more looks see the dump go on, once it has begun.
    looks: Option<u8>,
}

impl Guest {
    fn serve(&mut self, mut stream: UnixStream) {
        stream.write_all(b"{\"QMP\": {}}\n").unwrap();
        while let Some((line, file)) = receive(&stream) {
            self.lent = file.or(self.lent);
            let message: Value = serde_json::from_slice(&line).unwrap();
            let command = message["execute"].as_str().unwrap().to_owned();
            self.asked.lock().unwrap().push(command.clone());
            let line = message["arguments"]["command-line"].as_str().unwrap_or_default();
            let reply = match self.answer(if line.is_empty() { &command } else { line }) {
                Some(value) => json!({ "id": message["id"], "return": value }),
                None => json!({ "id": message["id"], "error": { "desc": "not known" } }),
            };
            if stream.write_all(format!("{reply}\n").as_bytes()).is_err() {
                return;
            }
        }
    }

    fn answer(&mut self, command: &str) -> Option<Value> {
        Some(match command {
            "query-status" => {
                json!({ "status": self.manner.state, "running": self.manner.state == "running" })
            }
            "query-dump-guest-memory-capability" => json!({ "formats": ["elf", "kdump-zlib"] }),
            "info registers -a" => {
                "CPU#0\r\nRIP=ffffffff8f6592eb RFL=00000006 CPL=0 II=0 HLT=0\r\n".into()
            }
            "info mtree -f" => {
                let slot = " 0000000000000000-00000000000fffff (prio 0, ram): pc.ram KVM";
                format!("FlatView #0\n AS \"memory\", root: system\n {slot}\n").into()
            }
            "query-chardev" => {
                let before = if self.manner.held { "" } else { "disconnected:" };
                let filename = format!("{before}unix:{},server=on", self.path.display());
                json!([{ "label": "charserial0", "filename": filename }])
            }
            "dump-guest-memory" => {
                self.manner.state = "save-vm";
                self.looks = Some(2);
                let path = format!("/proc/self/fd/{}", self.lent.unwrap());
                let mut file = OpenOptions::new().write(true).open(path).unwrap();
                file.write_all(self.manner.dump.unwrap_or_default()).unwrap();
                json!({})
            }
            "query-dump" => self.dump(),
            "cont" => {
                self.manner.state = "running";
                json!({})
            }
            "inject-nmi" => {
                let (mut console, _) = self.console.accept().unwrap();
                console.write_all(self.manner.says.as_bytes()).unwrap();
                // Whoever listens leaves first.
                thread::spawn(move || receive(&console));
                json!({})
            }
            "qmp_capabilities" | "getfd" => json!({}),
            _ => return None,
        })
    }

    fn dump(&mut self) -> Value {
        let Some(looks) = &mut self.looks else { return json!({ "status": "none" }) };
        if *looks > 0 {
            *looks -= 1;
            return json!({ "status": "active", "completed": 2 - *looks, "total": 4 });
        }
        if self.manner.resumes {
            self.manner.state = "running";
        }
        json!({ "status": if self.manner.dump.is_some() { "completed" } else { "failed" } })
    }
}

/// A line, and the file that came with it.
fn receive(stream: &UnixStream) -> Option<(Vec<u8>, Option<RawFd>)> {
    let (mut line, mut space) = ([0; 4096], cmsg_space!([RawFd; 1]));
    let mut slices = [IoSliceMut::new(&mut line)];
    let flags = MsgFlags::empty();
    let got = recvmsg::<()>(stream.as_raw_fd(), &mut slices, Some(&mut space), flags).ok()?;
    let (count, mut files) = (got.bytes, got.cmsgs().ok()?);
    let file = files.find_map(|message| {
        let ControlMessageOwned::ScmRights(files) = message else { return None };
        files.first().copied()
    });
    (count > 0).then(|| (line[..count].to_vec(), file))
}

/// The names of the files in a directory.
pub(super) fn files(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
