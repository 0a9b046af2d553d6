//! A hypervisor that is none, and whoever holds its guest leaving it in all ways.

use super::*;
use crate::base::limits;
use crate::hypervisor::debugger::packet::{Packets, framed, hex};
use crate::kernel::machine::Registers;
use crate::kernel::memory::{Fault, Memory};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread::{self, sleep};
use tempfile::TempDir;
use tokio::sync::oneshot;

const RAM: u64 = 0x20000;

const REGISTERS: &str = "CPU#0\nRDX=0 RDI=0 RBP=0 RSP=0\nR10=0\nR13=0\nRIP=ffffffff8f6592eb RFL=246 CPL=0 \
                         HLT=1\nIDT= 0 0\nCR3=1000 CR4=0\n";

/// What the hypervisor is at.
struct World {
    status: &'static str,
    stub: Option<PathBuf>,
    /// Somebody is attached to it from the beginning.
    is_taken: bool,
    /// The stub answers nothing.
    is_deaf: bool,
    attached: u32,
    conts: u32,
}

struct Fake {
    place: TempDir,
    world: Arc<Mutex<World>>,
}

impl Fake {
    fn new(status: &'static str) -> Self {
        let place = TempDir::new().unwrap();
        let world =
            World { status, stub: None, is_taken: false, is_deaf: false, attached: 0, conts: 0 };
        let world = Arc::new(Mutex::new(world));
        let listener = UnixListener::bind(place.path().join("qmp")).unwrap();
        let ours = Arc::clone(&world);
        thread::spawn(move || {
            for client in listener.incoming() {
                serve_monitor(client.unwrap(), &ours);
            }
        });
        Self { place, world }
    }

    fn note(&self) -> PathBuf {
        self.place.path().join("undo/app.stop")
    }

    fn status(&self) -> &'static str {
        self.world.lock().unwrap().status
    }

    /// A holder, and what ends it as if it were killed.
    fn holder(&self) -> (Debugger, oneshot::Sender<()>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (kill, killed) = oneshot::channel();
        let (qmp, note) = (self.place.path().join("qmp"), self.note());
        thread::spawn(move || {
            run(async {
                tokio::select! {
                    held = holder::hold(theirs, &qmp, &note) => held.unwrap(),
                    Ok(()) = killed => {}
                }
            });
        });
        (Debugger::of(ours, None).unwrap(), kill)
    }

    fn eventually(&self, what: &str, is: impl Fn(&World) -> bool) {
        for _ in 0..3_000 {
            if is(&self.world.lock().unwrap()) {
                return;
            }
            sleep(Duration::from_millis(10));
        }
        panic!("not within 30 s: {what}");
    }
}

fn run<T>(what: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(what)
}

fn serve_monitor(client: UnixStream, world: &Arc<Mutex<World>>) {
    let mut client_ = client.try_clone().unwrap();
    client_.write_all(b"{\"QMP\": {}}\r\n").unwrap();
    for line in BufReader::new(client).lines().map_while(Result::ok) {
        let asked: Value = serde_json::from_str(&line).unwrap();
        let told = json!({ "return": answer(&asked, world), "id": asked["id"] });
        if client_.write_all(format!("{told}\r\n").as_bytes()).is_err() {
            return;
        }
    }
}

fn answer(asked: &Value, world: &Arc<Mutex<World>>) -> Value {
    let mut now = world.lock().unwrap();
    let line = asked["arguments"]["command-line"].as_str().unwrap_or_default();
    match (asked["execute"].as_str().unwrap(), line) {
        ("query-status", _) => json!({ "status": now.status }),
        ("cont", _) => {
            (now.status, now.conts) = ("running", now.conts + 1);
            json!({})
        }
        ("query-chardev", _) => {
            let gone = if now.is_taken { "" } else { "disconnected:" };
            let told = |path: &PathBuf| format!("{gone}unix:{},server=on", path.display());
            let stub =
                now.stub.as_ref().map(|path| json!({ "label": "gdb", "filename": told(path) }));
            stub.into_iter().collect()
        }
        (_, "gdbserver none") => {
            std::fs::remove_file(now.stub.take().unwrap()).unwrap();
            "Disabled gdbserver".into()
        }
        (_, "info mtree -f") => format!(
            "FlatView #0\n AS \"memory\", root: system\n  {:016x}-{:016x} (prio 0, ram): pc.ram\n",
            0,
            RAM - 1
        )
        .into(),
        (_, open) if open.starts_with("gdbserver \"unix:") => {
            let path = open.split([':', ',']).nth(1).unwrap();
            let listener = UnixListener::bind(path).unwrap();
            now.stub = Some(path.into());
            let ours = Arc::clone(world);
            thread::spawn(move || serve_stub(&listener, &ours));
            "Waiting for gdb connection".into()
        }
        _ => json!({}),
    }
}

fn serve_stub(listener: &UnixListener, world: &Mutex<World>) {
    for client in listener.incoming() {
        let mut client = client.unwrap();
        let mut is_detached = false;
        {
            let mut now = world.lock().unwrap();
            (now.status, now.attached) = ("paused", now.attached + 1);
        }
        let (mut packets, mut chunk) = (Packets::default(), [0; 4096]);
        client.write_all(&framed("T02thread:p01.01;")).unwrap();
        while let Ok(count @ 1..) = client.read(&mut chunk) {
            packets.feed(&chunk[..count]);
            while let Ok(Some(asked)) = packets.next_packet() {
                let asked = String::from_utf8(asked).unwrap();
                let mut now = world.lock().unwrap();
                assert!(!is_detached, "QEMU dies of `{asked}` after `D`");
                let replies = if now.is_deaf { Vec::new() } else { replies(&asked) };
                if asked == "D" && !now.is_deaf {
                    (now.status, is_detached) = ("running", true);
                }
                drop(now);
                for reply in replies {
                    client.write_all(&framed(&reply)).ok();
                }
            }
        }
    }
}

/// Every byte of memory tells its place.
fn replies(asked: &str) -> Vec<String> {
    match asked.strip_prefix('m') {
        Some(place) => {
            let (at, bytes) = place.split_once(',').unwrap();
            let number = |digits| u64::from_str_radix(digits, 16).unwrap();
            let places = number(at)..number(at) + number(bytes);
            vec![places.map(|place| format!("{:02x}", place / 251 % 256)).collect()]
        }
        None if asked.starts_with("qRcmd,") => vec![format!("O{}", hex(REGISTERS)), "OK".into()],
        None => vec!["OK".into()],
    }
}

#[test]
fn a_guest_is_held_and_read_and_let_go() {
    let fake = Fake::new("running");
    let (debugger, _kill) = fake.holder();
    for times in 1..=2 {
        let registers = debugger.hold().unwrap();
        let [(0, Registers::X86_64(cpu))] = registers[..] else { panic!("{registers:?}") };
        assert_eq!(cpu.rip, 0xffff_ffff_8f65_92eb);
        assert_eq!((fake.status(), fake.world.lock().unwrap().attached), ("paused", times));
        assert!(fake.note().exists());
        assert_eq!(debugger.ranges().first(), Some(&(0..RAM)));
        let byte = |at: u64| u8::try_from(at / 251 % 256).unwrap();
        for (at, bytes) in [(0_u64, 8_usize), (4090, 12), (0x1003, 70_000), (RAM - 1, 1)] {
            let mut read = vec![0; bytes];
            debugger.read(at, &mut read).unwrap();
            assert!(read.iter().zip(at..).all(|(read, at)| *read == byte(at)), "{at:#x}");
        }
        let beyond = debugger.read(RAM - 4, &mut [0; 8]);
        assert_eq!(beyond, Err(Fault::NoRam(RAM)), "a device may stand there");
        assert!(debugger.release().unwrap() < limits::STANDSTILL);
        let world = fake.world.lock().unwrap();
        assert_eq!((world.status, world.conts, &world.stub), ("running", 0, &None));
        assert!(!fake.note().exists());
    }
    assert_eq!(debugger.read(0, &mut [0; 8]), Err(Fault::Spent));
}

#[test]
fn a_guest_goes_on_when_the_agent_is_gone() {
    let fake = Fake::new("running");
    let (debugger, _kill) = fake.holder();
    debugger.hold().unwrap();
    drop(debugger);
    fake.eventually("it runs, and the stub is closed", |world| {
        world.status == "running" && world.stub.is_none()
    });
    assert_eq!(fake.world.lock().unwrap().conts, 0, "it was detached from in order");
}

#[test]
fn a_guest_goes_on_when_the_time_is_over() {
    let fake = Fake::new("running");
    let (debugger, _kill) = fake.holder();
    debugger.hold().unwrap();
    fake.eventually("it runs", |world| world.status == "running");
    assert_eq!(debugger.read(0, &mut [0; 8]), Err(Fault::Spent));
    assert!(debugger.release().unwrap() >= limits::STANDSTILL);
    assert!(matches!(debugger.release(), Err(DebuggerError::Late)));
}

#[test]
fn a_guest_goes_on_when_the_holder_is_killed() {
    let fake = Fake::new("running");
    let (debugger, kill) = fake.holder();
    debugger.hold().unwrap();
    kill.send(()).unwrap();
    // It dies as soon as it notices.
    let read = std::iter::repeat_with(|| debugger.read(0, &mut [0; 8])).find(Result::is_err);
    assert_eq!(read, Some(Err(Fault::Source(std::io::ErrorKind::BrokenPipe))));
    assert_eq!(fake.status(), "paused", "nobody has detached");
    run(put_back(&fake.note()));
    let world = fake.world.lock().unwrap();
    assert_eq!((world.status, world.conts, &world.stub), ("running", 1, &None));
    assert!(!fake.note().exists());
}

#[test]
fn a_holder_that_is_slow_to_die_is_waited_for() {
    let fake = Fake::new("running");
    let (debugger, kill) = fake.holder();
    debugger.hold().unwrap();
    let dying = thread::spawn(move || {
        sleep(Duration::from_millis(200));
        kill.send(()).unwrap();
    });
    run(put_back(&fake.note()));
    assert_eq!((fake.status(), fake.world.lock().unwrap().conts), ("running", 1));
    dying.join().unwrap();
}

#[test]
fn a_guest_goes_on_when_the_stub_says_nothing() {
    let fake = Fake::new("running");
    fake.world.lock().unwrap().is_deaf = true;
    let (debugger, _kill) = fake.holder();
    let error = debugger.hold().unwrap_err();
    assert_eq!(error.to_string(), "the guest may not stand still for longer");
    let world = fake.world.lock().unwrap();
    assert_eq!((world.status, world.conts, world.attached), ("running", 1, 1));
}

#[test]
fn who_is_paused_by_somebody_else_stays_so() {
    for status in ["paused", "shutdown", "prelaunch", "io-error"] {
        let fake = Fake::new(status);
        let (debugger, _kill) = fake.holder();
        let error = debugger.hold().unwrap_err().to_string();
        assert_eq!(error, format!("the guest does not run (`{status}`), and is left as it is"));
        drop(debugger);
        run(put_back(&fake.note()));
        let world = fake.world.lock().unwrap();
        assert_eq!((world.status, world.attached, world.conts), (status, 0, 0));
    }
}

#[test]
fn a_debugger_of_somebody_else_is_left_alone() {
    let fake = Fake::new("running");
    {
        let mut world = fake.world.lock().unwrap();
        (world.stub, world.is_taken) = (Some("/run/gdb".into()), true);
    }
    let (debugger, _kill) = fake.holder();
    let error = debugger.hold().unwrap_err().to_string();
    assert_eq!(error, "somebody else has attached a debugger to the guest");
    assert!(fake.world.lock().unwrap().stub.is_some() && !fake.note().exists());
}
