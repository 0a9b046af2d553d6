//! Asks an app by every transport once, whatever its scenarios ask: how far up does it live, and what
//! could not be asked?
//!
//! What scenarios ask is asked as they say it. Where none asks by a transport, the app's consent allows
//! it and the way is known, its harmless question is asked ([`Asker::unbidden`]). What means something only
//! over time (counters, vCPUs, logs) is looked at twice, [`SPAN`] apart, while the rest is asked in
//! between. What is left is told in [`coverage`] with the way out.
//!
//! Whether the app is alive is what its scenarios would say; only if they cannot tell, what all say.

mod coverage;
mod show;
#[cfg(test)]
mod tests;

pub use coverage::{Covered, Way};
pub use show::Paint;

use super::probe::unbidden::{consent, has_way};
use super::probe::vmm::{self, Vmm};
use super::probe::{Asked, Asker, testimony};
use crate::base::consent::Consent;
use crate::base::rung::{Answer, Finding, Rung};
use crate::base::text::harmless_line;
use crate::binding::{App, Bound};
use crate::hypervisor::vcpu::SPAN;
use crate::ladder::{self, Testimony, Verdict};
use crate::scenario::{Probe, Scenario, Transport};
use serde::Serialize;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// The version of the object that `--json` prints: docs/probe.md.
const SCHEMA: u32 = 1;

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Survey {
    /// The version of this object.
    pub schema: u32,
    /// Of which app.
    pub app: Whom,
    /// What was asked and answered.
    pub findings: Vec<Heard>,
    /// What all of it says.
    pub verdict: Summary,
    /// What can be asked of the app by each way, and what would make it so.
    pub coverage: Vec<Covered>,
    /// Scenarios that it should have and that cannot be asked.
    pub hindered: Vec<Hindered>,
}

/// An app.
#[derive(Clone, Debug, Serialize)]
pub struct Whom {
    /// Its key.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// What may be done to it.
    pub consent: &'static str,
}

/// One answer.
#[derive(Clone, Debug, Serialize)]
pub struct Heard {
    /// Which question.
    pub name: String,
    /// By which way.
    pub transport: Way,
    /// The rung that is proven by *alive*, refuted by *dead*.
    pub rung: Rung,
    /// What was found out.
    pub answer: Answer,
    /// A sentence for a person.
    pub reason: String,
    /// How long it took.
    pub took_ms: u64,
}

/// What all answers say.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Alive, dead, or not to be told: the exit code.
    pub answer: Answer,
    /// The highest rung proven.
    pub proven: Option<Rung>,
    /// The lowest rung refuted.
    pub refuted: Option<Rung>,
    /// Rungs of which nobody could say anything, from below.
    pub unknown: Vec<Rung>,
    /// The same in words.
    pub text: String,
}

/// A scenario that cannot be asked.
#[derive(Clone, Debug, Serialize)]
pub struct Hindered {
    /// Which.
    pub scenario: String,
    /// Why.
    pub reason: String,
}

/// A question that will be asked.
enum Question<'a> {
    /// As a scenario asks it.
    Bound(&'a Probe, Duration),
    /// As nobody asks it.
    Unbidden(Transport),
}

/// An answer, and whether a scenario wanted it.
struct Answered {
    heard: Heard,
    /// What it says to the ladder, if it is a scenario's own.
    own: Option<Testimony>,
}

/// Asks.
pub async fn survey(bound: Bound) -> Survey {
    let Bound { app, scenarios, hindered, secrets } = bound;
    let mut asker = Asker::new(app, secrets);
    let (over_time, at_once): (Vec<_>, Vec<_>) = questions(asker.app(), &scenarios)
        .into_iter()
        .partition(|question| question.takes_time(asker.app()));
    let mut answered = Vec::new();

    let started = Instant::now();
    let vmm = vmm::look(asker.app(), None).await;
    answered.push(Answered::beside("monitor", Way::Monitor, vmm.finding(), started.elapsed()));
    let mut first = Vec::new();
    for question in &over_time {
        first.push(question.ask(&mut asker).await);
    }
    let looked = Instant::now();
    for question in &at_once {
        answered.extend(question.ask(&mut asker).await);
    }
    if over_time.is_empty() || !is_worth_a_second_look(&vmm, asker.app()) {
        answered.extend(first.into_iter().flatten());
    } else {
        sleep_until(looked + SPAN).await;
        for question in &over_time {
            let mut second = question.ask(&mut asker).await;
            // It is the time between the looks that makes it an answer; an agent answers by itself.
            for answered in second.iter_mut().filter(|one| one.heard.transport != Way::Agent) {
                answered.heard.took_ms = ms(started.elapsed());
            }
            answered.append(&mut second);
        }
    }
    let hindered = hindered.into_iter().map(|hindered| Hindered {
        scenario: hindered.scenario.to_string(),
        reason: harmless_line(hindered.reason.as_bytes()),
    });
    Survey::of(asker.app(), answered, hindered.collect())
}

/// Where neither the monitor nor a log can be read, another look would bring nothing.
fn is_worth_a_second_look(vmm: &Vmm, app: &App) -> bool {
    !matches!(vmm, Vmm::Unknown { .. }) || app.console_log.as_ref().is_some_and(|log| log.exists())
}

/// Those of the scenarios, each once, and those of the transports that they leave out. What disturbs
/// least comes first: what is typed on a console is written to its log.
fn questions<'a>(app: &App, scenarios: &'a [Scenario]) -> Vec<Question<'a>> {
    let mut probes: Vec<(&Probe, Duration)> = Vec::new();
    for scenario in scenarios {
        for probe in scenario.probes() {
            if !probes.iter().any(|(known, _)| *known == probe) {
                probes.push((probe, scenario.timing().timeout));
            }
        }
    }
    let left_out = Transport::ALL.into_iter().filter(|transport| {
        probes.iter().all(|(probe, _)| probe.transport() != *transport)
            && consent(*transport) <= app.consent
            && has_way(app, *transport)
    });
    let left_out: Vec<Question<'a>> = left_out.map(Question::Unbidden).collect();
    let bound = probes.into_iter().map(|(probe, timeout)| Question::Bound(probe, timeout));
    let mut questions: Vec<Question<'a>> = bound.chain(left_out).collect();
    questions.sort_by_key(Question::consent);
    questions
}

impl Question<'_> {
    /// Whether it takes two looks to answer it. A guest needs some seconds to find the channel that is
    /// added when its agent is asked for the first time.
    fn takes_time(&self, app: &App) -> bool {
        let (transport, over_time) = match self {
            Self::Bound(probe, _) => (probe.transport(), !probe.waits()),
            Self::Unbidden(transport) => {
                (*transport, matches!(transport, Transport::Disk | Transport::Vcpu))
            }
        };
        over_time || transport == Transport::Agent && app.add_agent && app.guest_agent.is_none()
    }

    fn consent(&self) -> Consent {
        match self {
            Self::Bound(probe, _) => probe.consent(),
            Self::Unbidden(transport) => consent(*transport),
        }
    }

    async fn ask(&self, asker: &mut Asker) -> Vec<Answered> {
        match self {
            Self::Bound(probe, timeout) => {
                let asked = asker.ask(probe, *timeout).await;
                let own = testimony(probe, &asked.finding);
                let mut all = all((probe.name(), Way::of(probe)), asked);
                all[0].own = Some(own);
                all
            }
            Self::Unbidden(transport) => {
                let asked = asker.unbidden(*transport).await;
                let way = Way::from(*transport);
                asked.into_iter().flat_map(|(name, asked)| all((name, way), asked)).collect()
            }
        }
    }
}

fn all((name, way): (&str, Way), asked: Asked) -> Vec<Answered> {
    let findings = std::iter::once(asked.finding).chain(asked.beside);
    findings.map(|finding| Answered::beside(name, way, finding, asked.took)).collect()
}

impl Answered {
    fn beside(name: &str, transport: Way, finding: Finding, took: Duration) -> Self {
        let Finding { rung, answer, reason } = finding;
        let reason = harmless_line(reason.as_bytes());
        let (name, took_ms) = (name.to_owned(), ms(took));
        Self { heard: Heard { name, transport, rung, answer, reason, took_ms }, own: None }
    }
}

fn ms(took: Duration) -> u64 {
    u64::try_from(took.as_millis()).unwrap_or(u64::MAX)
}

impl Survey {
    fn of(app: &App, answered: Vec<Answered>, hindered: Vec<Hindered>) -> Self {
        let own: Vec<Testimony> = answered.iter().filter_map(|answered| answered.own).collect();
        let findings: Vec<Heard> = answered.into_iter().map(|answered| answered.heard).collect();
        let consent = app.consent.word();
        let name = harmless_line(app.name.as_bytes());
        Self {
            schema: SCHEMA,
            app: Whom { id: app.id.to_string(), name, consent },
            verdict: Summary::of(&own, &findings),
            coverage: coverage::coverage(app, &findings),
            findings,
            hindered,
        }
    }

    /// As a program reads it: docs/probe.md.
    #[must_use]
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("plain data becomes JSON")
    }
}

impl Summary {
    fn of(own: &[Testimony], findings: &[Heard]) -> Self {
        let all: Vec<Testimony> = findings.iter().map(Heard::testimony).collect();
        let mut verdict = Verdict::of(&all);
        let is_known = |rung: Rung| {
            all.iter().any(|heard| heard.rung == rung && heard.answer != Answer::Unknown)
        };
        verdict.unknown.retain(|rung| !is_known(*rung));
        let answer = match Verdict::of(own).answer() {
            Answer::Unknown => verdict.answer(),
            answer @ (Answer::Alive | Answer::Dead) => answer,
        };
        let text = verdict.to_string();
        let Verdict { proven, refuted, unknown } = verdict;
        Self { answer, proven, refuted, unknown, text }
    }
}

impl Heard {
    /// Which way it came matters to nobody here.
    fn testimony(&self) -> Testimony {
        let finding = Finding { rung: self.rung, answer: self.answer, reason: String::new() };
        Testimony::new(ladder::Transport::Hypervisor, &finding)
    }
}
