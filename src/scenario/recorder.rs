//! What a guest's kernel records while it is well, so that a dump of it tells what led to a failure.
//!
//! Only the kernel's own ring of traces will do, for that is what its magic key prints. Whoever uses it
//! already is not disturbed, and what is asked of the guest leaves it recording or as it was.

use super::{AgentProbe, ConsoleProbe, Exchange, Pattern, Probe};

/// What is recorded.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Recorder {
    /// These events.
    pub events: Vec<Event>,
    /// And every call of a function, which costs a guest much of its time.
    pub calls: bool,
    /// How much of it is kept of each CPU.
    pub buffer_kib: u32,
}

/// An event by the kernel's own name, or all of one subsystem: `sched:sched_switch`, `irq`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Event(String);

/// What the guest says who records.
const RECORDING: &str = "recording";

/// Enough for what led to a failure, and little enough to be printed in some seconds.
pub(super) const BUFFER_KIB: u32 = 64;

impl Event {
    /// The name, which goes into a command: nothing in it means anything to a shell.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let is_word = |part: &str| {
            let plain =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
            !part.is_empty() && part.len() <= 48 && part.bytes().all(plain)
        };
        let mut parts = name.split(':');
        let fits = parts.next().is_some_and(is_word) && parts.next().is_none_or(is_word);
        (fits && parts.next().is_none()).then(|| Self(name.to_owned()))
    }

    /// As the kernel says it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Recorder {
    /// What has to be asked for a guest to record, by the first way on which `probes` give a shell.
    /// To ask again changes nothing.
    #[must_use]
    pub fn probe(&self, probes: &[Probe]) -> Option<Probe> {
        probes.iter().find_map(|probe| match probe {
            Probe::Console(ConsoleProbe::Ask { port, login, shell: true, .. }) => {
                let expect = Pattern::Text(RECORDING.to_owned());
                let dialogue = vec![Exchange { send: self.command(), expect }];
                let (port, login) = (*port, login.clone());
                Some(Probe::Console(ConsoleProbe::Ask { port, login, shell: true, dialogue }))
            }
            Probe::Agent(_) => {
                let command = vec!["/bin/sh".to_owned(), "-c".to_owned(), self.command()];
                Some(Probe::Agent(AgentProbe::Exec { command }))
            }
            Probe::Console(_)
            | Probe::Log(_)
            | Probe::Disk(_)
            | Probe::Network(_)
            | Probe::Vcpu => None,
        })
    }

    /// What came of asking, without the command.
    #[must_use]
    pub fn shortened(&self, reason: &str) -> String {
        reason.replace(&format!("`{}`", self.command()), "the order to record")
    }

    /// For any shell, in one line that any shell takes.
    fn command(&self) -> String {
        let events: Vec<String> =
            self.events.iter().map(|event| event.as_str().replace(':', "/")).collect();
        let (events, kib) = (events.join(" "), self.buffer_kib);
        let tracer = if self.calls { "function" } else { "nop" };
        [
            "(d=/sys/kernel/tracing",
            "[ -e $d/tracing_on ] || mount -t tracefs none $d 2>/dev/null",
            "[ -e $d/tracing_on ] || d=/sys/kernel/debug/tracing",
            "no() { echo \"$1\" >&2; exit 1; }",
            &format!("e='{events}'"),
            "on() { for i in $e; do [ \"$(cat events/$i/enable)\" = 1 ] || return 1; done; \
             set -- $(cat current_tracer buffer_size_kb)",
            // The kernel rounds up to whole pages.
            &format!(
                "[ \"$1\" = {tracer} ] && [ \"$2\" -ge {kib} ] && [ \"$2\" -lt {} ]; }}",
                kib + 8
            ),
            "cd $d 2>/dev/null && [ -w tracing_on ] || no 'nothing can be traced here'",
            "on || { set -- $(cat current_tracer events/enable)",
            "[ \"$1$2\" = nop0 ] || no 'somebody else traces'",
            &format!("echo {kib} >buffer_size_kb"),
            "for i in $e; do echo 1 >events/$i/enable; done",
            &format!("echo {tracer} >current_tracer"),
            "on || { echo 0 >events/enable; echo nop >current_tracer",
            "no 'not all of that can be traced'; }; }",
            &format!("echo 1 >tracing_on && echo {RECORDING})"),
        ]
        .join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorder(events: &[&str], calls: bool) -> Recorder {
        let events = events.iter().map(|name| Event::named(name).unwrap()).collect();
        Recorder { events, calls, buffer_kib: 64 }
    }

    #[test]
    fn an_event_means_nothing_to_a_shell() {
        for name in ["irq", "sched:sched_switch", "x86:a1"] {
            assert_eq!(Event::named(name).unwrap().as_str(), name);
        }
        for name in ["", ":", "a:", ":b", "a:b:c", "a b", "../x", "a;b", "$x", "A", "a/b", "é"] {
            assert_eq!(Event::named(name), None, "{name}");
        }
    }

    /// A directory that looks like the kernel's, with files that keep what is written.
    struct Tracing(tempfile::TempDir);

    impl Tracing {
        fn new(tracer: &str, enabled: &str) -> Self {
            let tracing = Self(tempfile::tempdir().unwrap());
            for (file, text) in [
                ("tracing_on", "1"),
                ("current_tracer", tracer),
                ("buffer_size_kb", "7 (expanded: 1408)"),
                ("events/enable", enabled),
                ("events/irq/enable", "0"),
                ("events/sched/sched_switch/enable", "0"),
            ] {
                let path = tracing.0.path().join(file);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, format!("{text}\n")).unwrap();
            }
            tracing
        }

        fn ask(&self, recorder: &Recorder) -> String {
            let place = self.0.path().to_str().unwrap();
            let command = recorder.command().replace("/sys/kernel/tracing", place);
            // The kernel of whoever runs the test is none of its business.
            let command = command.replace("/sys/kernel/debug/tracing", "/nowhere");
            let command = command.replace("mount -t tracefs", "false");
            let shell = std::process::Command::new("sh").arg("-c").arg(command).output().unwrap();
            let said = if shell.status.success() { shell.stdout } else { shell.stderr };
            String::from_utf8(said).unwrap().trim().to_owned()
        }

        fn has(&self, file: &str) -> String {
            std::fs::read_to_string(self.0.path().join(file)).unwrap().trim().to_owned()
        }
    }

    #[test]
    fn a_shell_makes_the_kernel_record() {
        let recorder = recorder(&["irq", "sched:sched_switch"], true);
        let tracing = Tracing::new("nop", "0");
        assert_eq!(tracing.ask(&recorder), "recording");
        assert_eq!(tracing.has("current_tracer"), "function");
        assert_eq!(tracing.has("buffer_size_kb"), "64");
        assert_eq!(tracing.has("events/irq/enable"), "1");
        assert_eq!(tracing.has("events/sched/sched_switch/enable"), "1");
        // A dump stops it, and now the kernel would say that some events are on.
        std::fs::write(tracing.0.path().join("tracing_on"), "0\n").unwrap();
        std::fs::write(tracing.0.path().join("events/enable"), "X\n").unwrap();
        assert_eq!(tracing.ask(&recorder), "recording");
        assert_eq!(tracing.has("tracing_on"), "1");
        for (kib, said) in [("67", "recording"), ("1408", "somebody else traces")] {
            std::fs::write(tracing.0.path().join("buffer_size_kb"), kib).unwrap();
            assert_eq!(tracing.ask(&recorder), said);
        }
    }

    #[test]
    fn a_refusal_is_told_without_the_command() {
        let recorder = recorder(&["irq"], false);
        let reason = format!("`{}` answers `no`, not `recording`", recorder.command());
        let short = recorder.shortened(&reason);
        assert_eq!(short, "the order to record answers `no`, not `recording`");
    }

    #[test]
    fn whoever_traces_is_not_disturbed() {
        let recorder = recorder(&["irq"], false);
        for (tracer, enabled) in [("function_graph", "0"), ("nop", "X"), ("nop", "1")] {
            let tracing = Tracing::new(tracer, enabled);
            assert_eq!(tracing.ask(&recorder), "somebody else traces");
            assert_eq!(tracing.has("current_tracer"), tracer);
            assert_eq!(tracing.has("events/irq/enable"), "0");
        }
    }

    #[test]
    fn what_cannot_be_recorded_leaves_nothing_behind() {
        let tracing = Tracing::new("nop", "0");
        let said = tracing.ask(&recorder(&["irq", "none:such"], false));
        assert!(said.ends_with("not all of that can be traced"), "{said}");
        assert_eq!(tracing.has("events/enable"), "0");
        let nowhere = Tracing(tempfile::tempdir().unwrap());
        assert!(nowhere.ask(&recorder(&["irq"], false)).ends_with("nothing can be traced here"));
    }
}
