//! Listens to what an app logs by itself.
//!
//! Each question has an ear of its own, which begins to listen when it is first asked: what was logged
//! before is not held against a guest.

use super::{App, Clock, Duration, Finding, Rung};
use crate::base::time::{Instant, Spoken};
use crate::scenario::LogProbe;
use crate::transport::log::{self, BadLine, DeviceLog, FileTap, Label, Tap, Watch, Watcher};

/// A bad line is told for so long: it takes several rounds to make an incident.
const BAD_FOR: Duration = Duration::from_secs(600);

/// The questions so far, and what was heard for each.
#[derive(Debug, Default)]
pub(super) struct Overheard {
    /// Where guests are heard whose console no file has.
    device: DeviceLog,
    asked: Vec<(Question, Ear)>,
}

/// What is listened for.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Question {
    Log(LogProbe),
    Silence(Duration),
}

#[derive(Debug)]
struct Ear {
    /// Of the file or the domain.
    of: String,
    tap: Box<dyn Tap>,
    watcher: Watcher,
    bad: Option<(Instant, Finding)>,
    /// The guest has booted, or was held, since it was last listened to.
    anew: bool,
}

impl Overheard {
    pub(super) fn new(device: DeviceLog) -> Self {
        Self { device, asked: Vec::new() }
    }

    /// Whether a label came by, or a line that must not.
    pub(super) async fn ask(&mut self, app: &App, probe: &LogProbe) -> Finding {
        self.listen(app, Question::Log(probe.clone())).await
    }

    /// Whether anything came by.
    pub(super) async fn silence(&mut self, app: &App, after: Duration) -> Finding {
        self.listen(app, Question::Silence(after)).await
    }

    /// What was logged before proves nothing, and silence since neither.
    pub(super) fn begin_anew(&mut self) {
        self.asked.iter_mut().for_each(|(_, ear)| ear.anew = true);
    }

    /// Bad lines that were told are of the past.
    pub(super) fn forgive(&mut self) {
        self.asked.iter_mut().for_each(|(_, ear)| ear.bad = None);
    }

    async fn listen(&mut self, app: &App, question: Question) -> Finding {
        let of = match (&app.console_log, &app.life.domain) {
            (Some(path), _) => path.display().to_string(),
            (None, Some(domain)) => domain.clone(),
            (None, None) => {
                let reason = "no log of the app is known: bind `console-log`";
                return Finding::unknown(Rung::Userspace, reason);
            }
        };
        let known = self.asked.iter().position(|(own, ear)| *own == question && ear.of == of);
        let mut ear = match known {
            Some(at) => self.asked.swap_remove(at).1,
            None => {
                let tap: Box<dyn Tap> = match &app.console_log {
                    Some(path) => Box::new(FileTap::new(path)),
                    None => Box::new(self.device.ear(&of)),
                };
                Ear::new(of, tap, &question)
            }
        };
        // Reading blocks for as long as the disk does.
        let listened = tokio::task::spawn_blocking(move || {
            let finding = ear.listen();
            (ear, finding)
        });
        match listened.await {
            Ok((ear, finding)) => {
                self.asked.push((question, ear));
                finding
            }
            Err(_) => Finding::unknown(Rung::Userspace, "reading the log was given up"),
        }
    }
}

/// When anything was written last. That says little: who typed on the console wrote to its log as well.
pub(super) async fn written(app: &App) -> Finding {
    let unknown = |reason: String| Finding::unknown(Rung::Kernel, reason);
    let Some(path) = &app.console_log else {
        return unknown("no log of the app is known: bind `console-log`".to_owned());
    };
    match tokio::fs::metadata(path).await.and_then(|about| about.modified()) {
        Ok(written) => {
            let since = written.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            let now = u64::try_from(Clock::wall().as_millis()).unwrap_or_default();
            let ago = Spoken(Duration::from_millis(now).saturating_sub(since));
            unknown(format!("its log was last written {ago} ago, and no scenario listens to it"))
        }
        Err(error) => unknown(format!("failed to look at the log {}: {error}", path.display())),
    }
}

impl Ear {
    fn new(of: String, tap: Box<dyn Tap>, question: &Question) -> Self {
        let watch = match question {
            Question::Silence(after) => Watch { silence: Some(*after), ..Watch::default() },
            Question::Log(LogProbe::Label { label, within }) => {
                let label = Label { text: label.clone(), within: *within };
                Watch { label: Some(label), ..Watch::default() }
            }
            Question::Log(LogProbe::Never(patterns)) => {
                let bad = |pattern: &crate::base::pattern::Pattern| BadLine {
                    text: pattern.clone(),
                    rung: Rung::Service,
                };
                Watch { bad_lines: patterns.iter().map(bad).collect(), ..Watch::default() }
            }
        };
        let watcher = Watcher::new(watch, Clock::now());
        Self { of, tap, watcher, bad: None, anew: false }
    }

    fn listen(&mut self) -> Finding {
        let now = Clock::now();
        log::read(self.tap.as_mut(), &mut self.watcher, now);
        if std::mem::take(&mut self.anew) {
            // What was just read may be from before; a bad line of it is told all the same.
            self.watcher.forget(now);
        }
        let mut findings = self.watcher.findings(now);
        if let Some(at) = findings.iter().position(|f| f.answer == super::Answer::Dead) {
            self.bad = Some((now, findings.swap_remove(at)));
        }
        match (&self.bad, findings.pop()) {
            (Some((at, bad)), None) if now.since(*at) < BAD_FOR => bad.clone(),
            (Some((at, bad)), Some(_)) if *at == now => bad.clone(),
            (_, Some(finding)) => finding,
            (_, None) => Finding::unknown(Rung::Service, "no bad line was logged"),
        }
    }
}
