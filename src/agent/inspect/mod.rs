//! `lifesign inspect`: a guest's kernel on one screen, read out of its memory.
//!
//! A live guest is looked at as a capture does it ([`Gaze`]); it runs on and notices nothing.

use crate::base::chain::Chain;
use crate::capture::memory::{Gaze, GazeError, Guest, Seen};
use crate::diagnosis::{Diagnosis, diagnose};
use crate::evidence::memory::Memory;
use crate::evidence::qmp::{Replies, Reply};
use crate::evidence::{Artifact, Evidence, Kind};
use crate::hypervisor::qmp::Monitor;
use crate::hypervisor::ram::{Dump, DumpError};
use crate::kernel::look::{Outside, look};
use crate::kernel::machine::Registers;
use crate::kernel::{Kernel, OpenError};
use crate::report;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;

/// Whoever asks by hand waits until all of a large guest's RAM is searched.
const PATIENCE: Duration = Duration::from_secs(300);

/// More CPUs than this are not asked for their interrupt controllers one by one.
const APICS: usize = 64;

/// What is looked at.
#[derive(Clone, Debug)]
pub enum Subject {
    /// A guest with a monitor; its process is the one that serves it.
    Monitor(PathBuf),
    /// The same of an app.
    App {
        /// The monitor.
        qmp: PathBuf,
        /// A file for what is learnt of its kernel.
        learnt: PathBuf,
    },
    /// A hypervisor's process, and its monitor if there is one.
    Process {
        /// The process.
        pid: u32,
        /// The monitor.
        qmp: Option<PathBuf>,
    },
    /// A file that `dump-guest-memory`, `makedumpfile` or `pmemsave` wrote.
    Dump(PathBuf),
}

/// What was seen.
#[derive(Debug)]
pub struct Inspection {
    /// What the memory shows.
    pub memory: Memory,
    /// What that means.
    pub diagnosis: Diagnosis,
}

/// Why nothing was seen.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The guest cannot be looked at.
    #[error(transparent)]
    Gaze(#[from] GazeError),
    /// The dump cannot be read.
    #[error("failed to open the dump")]
    Dump(#[source] DumpError),
    /// There is no kernel in it.
    #[error("failed to find the kernel")]
    Open(#[source] OpenError),
    /// There is none in what was written.
    #[error("failed to find the kernel in the dump, which is cut short")]
    Cut(#[source] OpenError),
}

/// Looks at a guest, or at what is left of one.
///
/// # Errors
///
/// When it cannot be read, or there is no kernel in it.
pub async fn inspect(subject: &Subject) -> Result<Inspection, InspectError> {
    let guest = match subject {
        Subject::Monitor(path) => Guest { pid: None, qmp: Some(path), learnt: None },
        Subject::App { qmp, learnt } => Guest { pid: None, qmp: Some(qmp), learnt: Some(learnt) },
        Subject::Process { pid, qmp } => {
            Guest { pid: Some(*pid), qmp: qmp.as_deref(), learnt: None }
        }
        Subject::Dump(path) => return dump(path),
    };
    let gaze = Gaze::begin(guest).await?;
    let Seen { memory, mut replies, .. } = gaze.end(Instant::now() + PATIENCE).await?;
    if let Some(path) = guest.qmp {
        replies.0.extend(interrupts(path, &memory).await);
    }
    Ok(judged(memory, &replies))
}

/// An inspection for people: the verdict, then all that the memory shows.
#[must_use]
pub fn page(inspection: &Inspection) -> String {
    let Inspection { memory, diagnosis } = inspection;
    let Diagnosis { title, class, confidence, facts_for, facts_against, .. } = diagnosis;
    let mut page = format!("{title} ({class}, confidence {confidence})\n");
    page.extend(facts_for.iter().map(|fact| format!("  + {fact}\n")));
    page.extend(facts_against.iter().map(|fact| format!("  - {fact}\n")));
    page + "\n" + &report::memory(memory)
}

/// An inspection for programs: JSON in ASCII, so that nothing of a guest's deceives a terminal either.
#[must_use]
pub fn json(inspection: &Inspection) -> String {
    let Inspection { memory, diagnosis } = inspection;
    let told = json!({
        "verdict": {
            "class": diagnosis.class.word(),
            "subject": diagnosis.subject,
            "title": diagnosis.title,
            "signature": diagnosis.signature,
            "blame": diagnosis.blame.word(),
            "confidence": diagnosis.confidence.to_string(),
            "for": diagnosis.facts_for,
            "against": diagnosis.facts_against,
        },
        "memory": memory,
    });
    let mut text = String::new();
    for c in told.to_string().chars() {
        if c.is_ascii() {
            text.push(c);
        } else {
            let units = c
                .encode_utf16(&mut [0; 2])
                .iter()
                .map(|unit| format!("\\u{unit:04x}"))
                .collect::<String>();
            text.push_str(&units);
        }
    }
    text
}

fn dump(path: &Path) -> Result<Inspection, InspectError> {
    let Dump { ram, cpus, is_whole } = Dump::open(path).map_err(InspectError::Dump)?;
    let unopened = if is_whole { InspectError::Open } else { InspectError::Cut };
    let kernel = Kernel::open(&*ram, &cpus).map_err(unopened)?;
    let registers: Vec<(u32, Registers)> = (0..).zip(cpus).collect();
    let outside = Outside { registers: &registers, before: None };
    let mut memory = look(&kernel, outside);
    memory.doubts.push("a dump is of one moment: whether a CPU gets on is not known".to_owned());
    if !is_whole {
        memory
            .doubts
            .push("the dump is cut short: what was in the rest of it is missing".to_owned());
    }
    Ok(judged(memory, &Replies::default()))
}

fn judged(memory: Memory, replies: &Replies) -> Inspection {
    let artifact = |kind, data| Artifact { kind, name: String::new(), data };
    let mut artifacts = vec![artifact(Kind::Memory, memory.to_bytes())];
    if !replies.0.is_empty() {
        artifacts.push(artifact(Kind::Qmp, replies.to_bytes()));
    }
    Inspection { diagnosis: diagnose(&Evidence::read(&artifacts)), memory }
}

/// What the guest's interrupt controllers wait for.
async fn interrupts(path: &Path, memory: &Memory) -> Vec<Reply> {
    let mut replies = Vec::new();
    let Ok(mut monitor) = Monitor::connect(path).await else { return replies };
    for cpu in memory.cpus.iter().take(APICS) {
        let command = format!("info lapic {}", cpu.index);
        match monitor.ask_human(&command).await {
            Ok(value) => {
                let command = format!("human-monitor-command {command}");
                replies.push(Reply { command, after_ms: 0, value, error: None });
            }
            Err(error) => {
                tracing::debug!(reason = %Chain(&error), "an interrupt controller was not seen");
                break;
            }
        }
    }
    replies
}

#[cfg(test)]
mod recorded;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::memory::{Lock, Task, Wait};

    /// A task that waits for itself.
    fn inspection() -> Inspection {
        let task = Task { pid: 7, tgid: 7, comm: "ab\u{1b}[2J".to_owned(), ..Task::default() };
        let wait = Wait {
            pid: 7,
            kind: Lock::Mutex,
            lock: "lock_a".to_owned(),
            owner: Some(7),
            frozen: None,
        };
        let memory = Memory { tasks: vec![task], waits: vec![wait], ..Memory::default() };
        judged(memory, &Replies::default())
    }

    #[test]
    fn the_verdict_stands_before_what_the_memory_shows() {
        insta::assert_snapshot!(page(&inspection()));
    }

    #[test]
    fn a_dump_without_a_kernel_is_told_and_whether_it_was_cut() {
        let told = |bytes: &[u8]| {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), bytes).unwrap();
            Chain(&dump(file.path()).unwrap_err()).to_string()
        };
        // One program header, of a MiB of RAM that is not in the file.
        let mut elf = b"\x7fELF\x02\x01".to_vec();
        let mut put = |at, bytes: &[u8]| {
            elf.resize(at, 0);
            elf.extend(bytes);
        };
        put(16, &[4, 0, 62, 0]);
        put(32, &[64]);
        put(56, &[1, 0]);
        put(64, &[1]);
        put(98, &[0x10, 0, 0, 0]);
        put(120, b"");
        insta::assert_snapshot!([told(&[0; 4096]), told(&elf)].join("\n"));
    }

    #[test]
    fn a_guest_cannot_break_the_json() {
        let mut inspection = inspection();
        let log = "\u{1b}[2J \u{202e} \u{1f4a5} \"quoted\"";
        inspection.memory.log = log.to_owned();
        let text = json(&inspection);
        assert!(text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' '));
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["memory"]["log"].as_str(), Some(log));
    }
}
