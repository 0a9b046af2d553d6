//! Kernel reports in console text.
//!
//! ```text
//!             "Linux version": forget all
//!                      v
//!  no report --headline--> report open --end mark, SysRq, many other lines--> no report
//!                              |  ^
//!                              +--+ traces, registers, who was running
//! ```
//!
//! Only the last boot counts. A SysRq dump consists of traces without a headline, so it makes no
//! report; `sysrq::` reads it. What a process wrote cannot be told from what the kernel wrote.

mod headline;
mod report;

pub use report::{Report, ReportKind};

use super::ftrace::{self, Ftrace};
use super::line::{Line, lines};
use super::locks::{self, Holder};
use super::who::is_release;

/// Of a crash loop the first reports and the last are kept, so many of each.
const REPORTS_KEPT: usize = 32;

/// Longer than any part of a report that is not understood; what comes later belongs to none.
const STRANGE_LINES: u32 = 100;

/// What the kernel reported on the console since it booted for the last time.
#[derive(Clone, Debug, Default)]
pub struct KernelLog {
    /// How many times a kernel began to boot.
    pub boots: u32,
    /// The kernel's release, such as `6.1.0-56-amd64`.
    pub release: Option<String>,
    /// In the order in which they were printed.
    pub reports: Vec<Report>,
    /// How many were left out between the first and the last ones.
    pub reports_left_out: u64,
    /// The last time stamp of the kernel, in microseconds after boot.
    pub last_us: Option<u64>,
    /// Who holds which locks, as the kernel printed it last.
    pub locks: Vec<Holder>,
    /// What a kernel that died had recorded before.
    pub ftrace: Option<Ftrace>,
}

impl KernelLog {
    /// Reads console bytes.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Self {
        let mut reader = Reader::default();
        for line in lines(bytes) {
            reader.take(&line);
        }
        reader.finish()
    }

    /// The first report of a kind: of several, the cause rather than a consequence.
    #[must_use]
    pub fn first(&self, kind: ReportKind) -> Option<&Report> {
        self.reports.iter().find(|report| report.kind == kind)
    }

    /// All reports of a kind.
    pub fn all(&self, kind: ReportKind) -> impl Iterator<Item = &Report> {
        self.reports.iter().filter(move |report| report.kind == kind)
    }
}

#[derive(Default)]
struct Reader {
    log: KernelLog,
    open: Option<Report>,
    strange: u32,
    locks: locks::Reader,
    ftrace: ftrace::Reader,
}

impl Reader {
    fn take(&mut self, line: &Line<'_>) {
        self.log.last_us = line.time_us.or(self.log.last_us);
        if let Some(release) = banner(&line.text) {
            self.boot(release);
        } else if let Some(report) = headline::read(line) {
            self.begin(report, line);
        } else if line.text.starts_with("sysrq: ") || line.text.starts_with("SysRq : ") {
            self.close();
        } else {
            self.locks.take(line);
            self.ftrace.take(line);
            self.go_on(line);
        }
    }

    fn boot(&mut self, release: Option<String>) {
        self.open = None;
        (self.locks, self.ftrace) = Default::default();
        self.log =
            KernelLog { boots: self.log.boots.saturating_add(1), release, ..KernelLog::default() };
    }

    fn begin(&mut self, report: Report, line: &Line<'_>) {
        match &mut self.open {
            Some(open) if open.is_told_twice_by(&report) => open.extend(line),
            _ => {
                self.close();
                self.open = Some(report);
                self.strange = 0;
            }
        }
    }

    fn go_on(&mut self, line: &Line<'_>) {
        let Some(open) = &mut self.open else { return };
        if open.take(line) {
            open.extend(line);
            self.strange = 0;
        } else {
            self.strange += 1;
        }
        if self.log.release.is_none() {
            self.log.release.clone_from(&open.who.release);
        }
        if self.strange > STRANGE_LINES || is_end(&line.text) {
            self.close();
        }
    }

    fn close(&mut self) {
        let Some(report) = self.open.take() else { return };
        if self.log.reports.len() == 2 * REPORTS_KEPT {
            self.log.reports.remove(REPORTS_KEPT);
            self.log.reports_left_out += 1;
        }
        self.log.reports.push(report);
    }

    fn finish(mut self) -> KernelLog {
        self.close();
        self.log.locks = self.locks.finish();
        self.log.ftrace = self.ftrace.finish();
        self.log
    }
}

/// The line with which a kernel begins, and its release.
fn banner(text: &str) -> Option<Option<String>> {
    let rest = text.strip_prefix("Linux version ")?;
    let word = rest.split(' ').next().filter(|word| is_release(word))?;
    Some(Some(word.to_owned()))
}

fn is_end(text: &str) -> bool {
    text.starts_with("---[ end Kernel panic") || text.starts_with("---[ end trace")
}

#[cfg(test)]
mod tests;
