//! Conversations with guests that are made up: each is what it types back to what it is typed.

use super::script::{Exchange, Login, Script};
use super::talk::{Next, Talk};
use super::{Outcome, Report};
use crate::base::rung::{Answer, Rung};
use proptest::prelude::*;

const NONCE: &str = "5eed5eed";

/// What sits at the other end.
struct Guest {
    state: State,
    /// Whether the terminal's driver echoes, and not the program.
    output: Vec<u8>,
    typed: Vec<u8>,
    line: Vec<u8>,
    sessions: u32,
    /// Said by the kernel after every so many bytes.
    kernel: Option<usize>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    /// A shell.
    Shell,
    /// `login:`
    Login,
    /// `Password:`
    Password,
    /// A program that answers each line with OK.
    Program,
    /// No process reads: the driver echoes.
    Echo,
    /// Nothing at all.
    Dead,
    /// A shell whose command never ends.
    Hung,
}

impl Guest {
    fn new(state: State) -> Self {
        let (output, typed, line) = (Vec::new(), Vec::new(), Vec::new());
        Self { state, output, typed, line, sessions: 0, kernel: None }
    }

    fn say(&mut self, text: &[u8]) {
        for byte in text {
            self.output.push(*byte);
            if self.kernel.is_some_and(|every| self.output.len().is_multiple_of(every)) {
                self.output.extend_from_slice(b"[   12.345678] load average: login: x\r\n");
            }
        }
    }

    fn take(&mut self, keys: &[u8]) {
        self.typed.extend_from_slice(keys);
        for key in keys {
            match (self.state, *key) {
                (State::Dead, _) => {}
                (_, 0x15) => self.line.clear(),
                (State::Shell, 0x04) => self.leave(),
                (_, 0x04) => {}
                (_, b'\r') => {
                    self.say(b"\r\n");
                    let line = std::mem::take(&mut self.line);
                    self.enter(&String::from_utf8(line).unwrap());
                }
                (state, byte) => {
                    self.line.push(byte);
                    if state != State::Password {
                        self.say(&[byte]);
                    }
                }
            }
        }
    }

    fn leave(&mut self) {
        self.state = State::Login;
        self.say(b"\r\nweb login: ");
    }

    fn enter(&mut self, line: &str) {
        match self.state {
            State::Shell | State::Hung => self.shell(line),
            State::Login if line.is_empty() => self.say(b"web login: "),
            State::Login => {
                self.state = State::Password;
                self.say(b"Password: ");
            }
            State::Password if line == "open-sesame" => {
                self.state = State::Shell;
                self.sessions += 1;
                self.say(b"Last login: Friday\r\nNobody shall mention the word incorrect\r\n# ");
            }
            State::Password => {
                self.state = State::Login;
                self.say(b"\r\nLogin incorrect\r\nweb login: ");
            }
            State::Program => self.say(b"OK 200\r\n> "),
            State::Echo | State::Dead => {}
        }
    }

    fn shell(&mut self, line: &str) {
        for command in line.split("; ") {
            match command.trim() {
                "uptime" if self.state == State::Hung => return,
                "uptime" => self.say(b" 10:00 up 1 day, load average: 0.1\r\n"),
                "exit" => return self.leave(),
                echo if echo.starts_with("echo ") => {
                    let text = echo["echo ".len()..].replace('\'', "");
                    self.say(text.as_bytes());
                    self.say(b"\r\n");
                }
                "" => {}
                command if command.starts_with('#') => {}
                other => self.say(format!("sh: {other}: not found\r\n").as_bytes()),
            }
        }
        self.say(b"\x1b[6n# ");
    }
}

/// Has the whole conversation, in pieces of some size.
fn converse(script: &Script, guest: &mut Guest, piece: usize) -> Report {
    let (mut talk, mut next) = Talk::new(script, NONCE);
    // As many pauses and seconds as a timeout has.
    let mut events =
        ["pause", "pause", "pause", "pause", "pause", "pause", "second"].iter().cycle().take(42);
    loop {
        match next {
            Next::Type(keys) => guest.take(&keys),
            Next::Listen => {}
            Next::End => break,
        }
        let output = std::mem::take(&mut guest.output);
        next = Next::Listen;
        for piece in output.chunks(piece) {
            if next == Next::Listen {
                next = talk.hear(piece);
            }
        }
        if next == Next::Listen {
            next = match events.next() {
                Some(&"pause") => talk.pause(),
                Some(_) => talk.second(),
                None => break,
            };
        }
    }
    let (report, last_words) = talk.finish();
    guest.take(&last_words.unwrap_or_default());
    report
}

fn script(shell: bool, login: Option<&str>, send: &str, expect: &str) -> Script {
    let login =
        login.map(|password| Login { user: "lab".to_owned(), password: password.to_owned() });
    let exchange = Exchange { send: send.to_owned(), expect: expect.into() };
    Script { login, exchanges: vec![exchange], shell }
}

fn uptime(login: Option<&str>) -> Script {
    script(true, login, "uptime", "load average")
}

#[track_caller]
fn check(script: &Script, state: State, expected: &Outcome) -> Guest {
    let mut guest = Guest::new(state);
    let report = converse(script, &mut guest, 7);
    assert_eq!(report.outcome, *expected);
    assert!(guest.line.is_empty(), "left half typed: {:?}", guest.line);
    guest
}

#[test]
fn a_shell_answers() {
    let guest = check(&uptime(None), State::Shell, &Outcome::Answered);
    assert_eq!(guest.state, State::Shell);
}

#[test]
fn who_logs_in_logs_out() {
    let guest = check(&uptime(Some("open-sesame")), State::Login, &Outcome::Answered);
    assert_eq!((guest.state, guest.sessions), (State::Login, 1));
    let report = converse(&uptime(Some("open-sesame")), &mut Guest::new(State::Login), 9);
    assert!(!report.password_shown);
    // Half a login by somebody else, too.
    let guest = check(&uptime(Some("open-sesame")), State::Password, &Outcome::Answered);
    assert_eq!((guest.state, guest.sessions), (State::Login, 1));
}

#[test]
fn an_open_session_stays_open() {
    let guest = check(&uptime(Some("open-sesame")), State::Shell, &Outcome::Answered);
    assert_eq!((guest.state, guest.sessions), (State::Shell, 0));
    assert!(!guest.typed.windows(4).any(|word| word == b"exit"));
}

#[test]
fn a_wrong_password_is_tried_once_and_says_nothing_of_the_guest() {
    let guest = check(&uptime(Some("sesame")), State::Login, &Outcome::Refused);
    assert_eq!(guest.typed.windows(6).filter(|word| *word == b"sesame").count(), 1);
}

#[test]
fn a_password_is_typed_at_no_other_prompt() {
    for state in [State::Shell, State::Echo, State::Program, State::Dead] {
        let mut guest = Guest::new(state);
        converse(&uptime(Some("open-sesame")), &mut guest, 5);
        assert!(!guest.typed.windows(4).any(|word| word == b"open"), "{state:?}");
    }
}

#[test]
fn a_password_waits_until_the_echo_is_off() {
    let script = uptime(Some("open-sesame"));
    let (mut talk, _) = Talk::new(&script, NONCE);
    talk.hear(b"web login: ");
    talk.pause();
    assert_eq!(talk.pause(), Next::Type(b"lab\r".to_vec()));
    assert_eq!(talk.hear(b"lab\r\nPassword: "), Next::Listen);
    for _ in 0..4 {
        assert_eq!(talk.pause(), Next::Listen);
    }
    assert_eq!(talk.pause(), Next::Type(b"open-sesame\r".to_vec()));
    // If that was too early all the same, it is told.
    talk.hear(b"open-sesame\r\n");
    talk.pause();
    assert!(talk.finish().0.password_shown);
}

#[test]
fn who_talks_over_the_prompts_does_not_hinder_a_login() {
    let script = uptime(Some("open-sesame"));
    let (mut talk, _) = Talk::new(&script, NONCE);
    talk.hear(b"web login: ");
    (0..2).for_each(|_| drop(talk.pause()));
    let noise = b"[   88.293829] usb 1-1: new device\r\nnoise: all is well\r\n";
    assert_eq!(talk.hear(b"lab\r\nPassword: "), Next::Listen);
    talk.hear(noise);
    talk.hear(b"[   88.4] half a li");
    (0..4).for_each(|_| assert_eq!(talk.pause(), Next::Listen, "no command at a password prompt"));
    talk.hear(noise);
    // It never falls silent for half a second. The first second only sees the prompt.
    assert_eq!(talk.second(), Next::Listen);
    talk.hear(noise);
    assert_eq!(talk.second(), Next::Type(b"open-sesame\r".to_vec()));
    talk.hear(b"\r\n/dev/hvc0# ");
    talk.hear(noise);
    assert_eq!(talk.second(), Next::Listen);
    assert_eq!(talk.second(), Next::Type(b"\x15\r".to_vec()));
    talk.hear(b"\r\n/dev/hvc0# ");
    talk.pause();
    assert!(matches!(talk.pause(), Next::Type(question) if question.starts_with(b"\x15echo ")));
}

#[test]
fn a_line_that_only_speaks_of_passwords_asks_for_none() {
    let script = uptime(Some("open-sesame"));
    let (mut talk, _) = Talk::new(&script, NONCE);
    talk.hear(b"web login: ");
    (0..2).for_each(|_| drop(talk.pause()));
    talk.hear(b"lab\r\nsshd[7]: Failed password for root: no\r\n");
    (0..5).for_each(|_| assert_eq!(talk.pause(), Next::Listen));
    (0..3).for_each(|_| assert_eq!(talk.second(), Next::Listen));
}

#[test]
fn the_prompt_of_another_front_end_is_not_ours() {
    let script = uptime(Some("open-sesame"));
    let (mut talk, _) = Talk::new(&script, NONCE);
    talk.hear(b"web login: ");
    (0..2).for_each(|_| drop(talk.pause()));
    talk.hear(b"lab\r\nPassword: ");
    (0..5).for_each(|_| drop(talk.pause()));
    // Ours lets us in, and then the other one begins anew.
    talk.hear(b"\r\n/dev/hvc0# \r\nweb login: ");
    talk.pause();
    assert_eq!(talk.pause(), Next::Type(b"\x15\r".to_vec()));
    talk.hear(b"\r\n/dev/hvc0# ");
    talk.pause();
    assert!(matches!(talk.pause(), Next::Type(question) if question.starts_with(b"\x15echo ")));
    // Whoever is inside leaves again.
    assert_eq!(talk.finish().1, Some(b"\x15exit\r".to_vec()));
}

#[test]
fn no_command_is_typed_at_a_login_prompt() {
    let guest = check(&uptime(None), State::Login, &Outcome::LoginAsked);
    assert!(!guest.typed.windows(6).any(|word| word == b"uptime"));
}

#[test]
fn an_echo_is_no_answer() {
    check(&uptime(None), State::Echo, &Outcome::Echoed);
    check(&uptime(Some("open-sesame")), State::Echo, &Outcome::Echoed);
    for (send, expect) in [("echo hello", "hello"), ("hello", "hello"), ("echo a b", "b")] {
        check(&script(true, None, send, expect), State::Echo, &Outcome::Echoed);
        check(&script(false, None, send, expect), State::Echo, &Outcome::Echoed);
        check(&script(true, None, send, expect), State::Dead, &Outcome::Silent);
    }
    check(&script(true, None, "echo hello", "hello"), State::Shell, &Outcome::Answered);
    // Without marks as well, if the answer can be told from the question.
    check(&script(false, None, "echo hello", "hello"), State::Shell, &Outcome::Answered);
}

#[test]
fn what_else_a_shell_may_say() {
    let said = "sh: downtime: not found".to_owned();
    let script = script(true, None, "downtime", "load average");
    check(&script, State::Shell, &Outcome::Other { said });
    check(&uptime(None), State::Hung, &Outcome::Unfinished);
}

#[test]
fn a_program_that_is_no_shell_is_typed_nothing_but_the_question() {
    let guest = check(&script(false, None, "status", "OK"), State::Program, &Outcome::Answered);
    assert_eq!(guest.typed, b"\x15status\r");
    check(&script(false, None, "status", "READY"), State::Program, &Outcome::Echoed);
}

#[test]
fn several_questions_are_asked_in_their_order() {
    let mut script = uptime(None);
    script.exchanges.push(Exchange { send: "echo two".to_owned(), expect: "two".into() });
    check(&script, State::Shell, &Outcome::Answered);
    script.exchanges.push(Exchange { send: "three".to_owned(), expect: "3".into() });
    let said = "sh: three: not found".to_owned();
    check(&script, State::Shell, &Outcome::Other { said });
}

#[test]
fn the_answer_to_an_earlier_question_is_none() {
    let script = uptime(None);
    let (mut talk, _) = Talk::new(&script, NONCE);
    talk.hear(b"# ");
    talk.pause();
    assert!(matches!(talk.pause(), Next::Type(_)));
    // The last round's answer, marks and all.
    talk.hear(b"0123abcd0a\r\n up 1 day, load average: 0.1\r\n0123abcd0z\r\n# ");
    assert_eq!(talk.pause(), Next::Listen);
    assert_eq!(talk.finish().0.outcome, Outcome::Babbled);
}

#[test]
fn a_flood_is_neither_an_answer_nor_silence() {
    let script = script(false, None, "status", "READY");
    let (mut talk, _) = Talk::new(&script, NONCE);
    assert!(matches!(talk.second(), Next::Type(_)));
    let flood = [b'x'; 4096];
    for _ in 0..100 {
        assert_eq!(talk.hear(&flood), Next::Listen);
    }
    let (report, _) = talk.finish();
    assert_eq!(report.outcome, Outcome::Flooded);
    assert_eq!(report.findings()[0].answer, Answer::Unknown);
}

#[test]
fn an_answer_within_a_flood_is_one() {
    let script = uptime(None);
    let (mut talk, _) = Talk::new(&script, NONCE);
    let flood = [b'x'; 4096];
    talk.hear(&flood);
    talk.second();
    assert!(matches!(talk.second(), Next::Type(_)));
    for _ in 0..100 {
        talk.hear(&flood);
    }
    talk.hear(format!("\n{NONCE}0a\nload ave").as_bytes());
    talk.hear(b"rage\n");
    talk.hear(format!("{NONCE}0z\n").as_bytes());
    for _ in 0..10 {
        talk.hear(&flood);
    }
    assert_eq!(talk.finish().0.outcome, Outcome::Answered);
}

#[test]
fn the_memory_of_a_flood_is_bounded() {
    let script = uptime(None);
    let (mut talk, _) = Talk::new(&script, NONCE);
    for _ in 0..1000 {
        talk.hear(&[b'x'; 4096]);
    }
    assert!(talk.remembers() <= 64 * 1024, "{}", talk.remembers());
}

#[test]
fn each_outcome_says_what_it_proves() {
    let outcomes = [
        Outcome::Answered,
        Outcome::Other { said: "load: high".to_owned() },
        Outcome::Unfinished,
        Outcome::LoginAsked,
        Outcome::Refused,
        Outcome::LoginHangs,
        Outcome::Echoed,
        Outcome::Flooded,
        Outcome::Babbled,
        Outcome::Silent,
    ];
    let mut lines = Vec::new();
    for outcome in outcomes {
        let (asked, expected) = ("uptime".to_owned(), "load average".to_owned());
        let report = Report { outcome, asked, expected, bytes: 70_000, password_shown: false };
        lines.extend(
            report.findings().iter().map(|finding| {
                format!("{:9} {:7} {}", finding.rung, finding.answer, finding.reason)
            }),
        );
    }
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn an_echo_proves_the_kernel() {
    let mut guest = Guest::new(State::Echo);
    let findings = converse(&uptime(None), &mut guest, 100).findings();
    let answers: Vec<_> = findings.iter().map(|finding| (finding.rung, finding.answer)).collect();
    assert_eq!(answers, [(Rung::Userspace, Answer::Dead), (Rung::Kernel, Answer::Alive)]);
}

fn state() -> impl Strategy<Value = State> {
    proptest::sample::select(vec![
        State::Shell,
        State::Login,
        State::Password,
        State::Program,
        State::Echo,
        State::Dead,
        State::Hung,
    ])
}

proptest! {
    #[test]
    fn the_kernel_may_say_anything_anywhere(state in state(), every in 3usize..200, piece in 1usize..50) {
        let script = uptime(Some("open-sesame"));
        let calm = converse(&script, &mut Guest::new(state), piece).outcome;
        let mut guest = Guest::new(state);
        guest.kernel = Some(every);
        prop_assert_eq!(converse(&script, &mut guest, piece).outcome, calm);
    }

    #[test]
    fn any_bytes_are_heard_and_whole_lines_are_typed(
        heard in prop::collection::vec((any::<Vec<u8>>(), 0u8..4), 0..40),
        shell: bool,
        login: bool,
        send in ".*",
        expect in ".*",
    ) {
        let script = script(shell, login.then_some("open-sesame"), &send, &expect);
        let (mut talk, first) = Talk::new(&script, NONCE);
        let mut typed = vec![first];
        for (bytes, event) in heard {
            typed.push(match event {
                0 => talk.pause(),
                1 => talk.second(),
                _ => talk.hear(&bytes),
            });
        }
        let (report, last_words) = talk.finish();
        prop_assert!(!report.findings().is_empty());
        typed.extend(last_words.map(Next::Type));
        for next in typed {
            if let Next::Type(keys) = next {
                prop_assert!(matches!(keys.last(), Some(b'\r' | 0x04)), "{:?}", keys);
            }
        }
    }
}

/// Conversations over real sockets and terminals.
mod lines {
    use super::*;
    use crate::transport::console::{Console, Error, Focus, converse};
    use crate::transport::mux::Wiring;
    use nix::pty::{PtyMaster, grantpt, posix_openpt, ptsname_r, unlockpt};
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;
    use std::path::{Path, PathBuf};
    use std::time::Duration;
    use tokio::time::Instant;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    fn terminal() -> (PtyMaster, PathBuf) {
        let flags = nix::fcntl::OFlag::O_RDWR | nix::fcntl::OFlag::O_NOCTTY;
        let master = posix_openpt(flags).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let path = ptsname_r(&master).unwrap();
        (master, PathBuf::from(path))
    }

    async fn ask(path: &Path, script: &Script, seconds: u64) -> Result<Report, Error> {
        let console = Console::open(path, Wiring::Plain).await?;
        let deadline = Instant::now() + Duration::from_secs(seconds);
        converse(console, script, Focus::AS_FOUND, deadline).await
    }

    #[test]
    fn a_terminal_of_the_host_is_a_console() {
        let (mut master, path) = terminal();
        let guest = std::thread::spawn(move || {
            let mut guest = Guest::new(State::Shell);
            let mut keys = [0; 256];
            // Fails when the last who had it open has left.
            while let Ok(count) = master.read(&mut keys) {
                guest.take(&keys[..count]);
                master.write_all(&std::mem::take(&mut guest.output)).unwrap();
            }
            guest.typed
        });
        let script = uptime(None);
        let report = block_on(ask(&path, &script, 10)).unwrap();
        assert_eq!(report.outcome, Outcome::Answered);
        assert!(guest.join().unwrap().starts_with(b"\x15\r\x15echo "));
    }

    #[test]
    fn a_terminal_serves_one_at_a_time_and_says_when_it_is_gone() {
        let (master, path) = terminal();
        block_on(async {
            let mut console = Console::open(&path, Wiring::Plain).await.unwrap();
            let second = Console::open(&path, Wiring::Plain).await;
            assert!(matches!(second, Err(Error::Held { .. })), "{second:?}");
            drop(master);
            let deadline = Instant::now() + Duration::from_secs(5);
            let heard = console.listen(deadline, |_| false).await;
            assert!(matches!(heard, Err(Error::Closed { .. })), "{heard:?}");
        });
        let missing = block_on(Console::open(Path::new("/nowhere"), Wiring::Plain));
        assert!(matches!(missing, Err(Error::Open { .. })), "{missing:?}");
    }

    /// A multiplexer that has room for so many keys while its guest takes its time, and loses the rest.
    fn small(path: &Path) -> std::thread::JoinHandle<()> {
        const ROOM: usize = 128;
        let listener = UnixListener::bind(path).unwrap();
        std::thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            let (mut guest, mut keys) = (Guest::new(State::Shell), [0; 4096]);
            while let Ok(count @ 1..) = client.read(&mut keys) {
                guest.take(&keys[..count.min(ROOM)]);
                std::thread::sleep(Duration::from_millis(20));
                let _ = client.write_all(&std::mem::take(&mut guest.output));
            }
        })
    }

    #[test]
    fn a_long_line_is_not_typed_faster_than_it_is_taken() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("cons");
        let guest = small(&path);
        let long = format!("echo {}; uptime", "x".repeat(600));
        let mut script = uptime(None);
        script.exchanges[0].send = long;
        assert_eq!(block_on(ask(&path, &script, 10)).unwrap().outcome, Outcome::Answered);
        guest.join().unwrap();
    }

    /// Floods whoever connects until it leaves, perhaps with answers in the midst.
    fn flood(path: &Path, answers: bool) -> std::thread::JoinHandle<usize> {
        let listener = UnixListener::bind(path).unwrap();
        std::thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            client.set_nonblocking(false).unwrap();
            let mut keys = client.try_clone().unwrap();
            keys.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
            let (mut guest, mut typed, mut sent) = (Guest::new(State::Shell), [0; 256], 0);
            let line = [&[b'x'; 63][..], b"\n"].concat().repeat(512);
            while client.write_all(&line).is_ok() {
                sent += line.len();
                if let (true, Ok(count)) = (answers, keys.read(&mut typed)) {
                    guest.take(&typed[..count]);
                    let _ = client.write_all(&std::mem::take(&mut guest.output));
                }
            }
            sent
        })
    }

    #[test]
    fn a_flood_ends_in_time_and_hides_no_answer() {
        for (answers, expected) in [(true, Outcome::Answered), (false, Outcome::Flooded)] {
            let place = tempfile::tempdir().unwrap();
            let path = place.path().join("cons");
            let guest = flood(&path, answers);
            let begun = Instant::now();
            let report = block_on(ask(&path, &uptime(None), 4)).unwrap();
            assert_eq!(report.outcome, expected);
            assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
            let sent = guest.join().unwrap();
            assert!(sent > 1024 * 1024, "{sent} bytes are no flood");
        }
    }
}
