//! The life of an incident on the device.
//!
//! ```text
//!   begin:  ledger (open) -> headline 1 -> capture -> diagnose -> bundle -> headline 2 -> ledger (sealed)
//!   end:                                                                   headline n -> ledger (gone)
//!   after a restart, open but not sealed:    bundle without evidence -> headline -> ledger (sealed)
//! ```
//!
//! Each arrow is durable before the next begins, so a kill between any two loses nothing that was
//! announced: at worst the bundle says that the agent was stopped before it could collect.

use super::ledger::{Ledger, OpenIncident, WriteError};
use super::pauses::Pauses;
use crate::base::chain::Chain;
use crate::base::id::{DeviceId, IncidentId};
use crate::base::time::{Clock, Spoken, Timestamp};
use crate::binding::App;
use crate::bundle::{Bundle, Headline, Origin, SealError, Signer, Stage};
use crate::capture::{self, Target};
use crate::diagnosis::{self, Diagnosis};
use crate::evidence::report::{Outcome, StepReport};
use crate::evidence::rounds::Rounds;
use crate::evidence::{Artifact, Evidence, qmp};
use crate::scenario::{Probe, Scenario};
use crate::spool::{Kept, Parcel, PutError, Spool};
use crate::telemetry::health::Health;
use crate::telemetry::metrics::Counters;
use crate::transport::log::DeviceLog;
use ring::rand::SecureRandom;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// What the watches of all apps share.
pub struct Desk {
    /// The name of this device.
    pub device: DeviceId,
    /// Where its state is kept.
    pub state: PathBuf,
    /// Seals in its name.
    pub signer: Signer,
    /// Which boot this is.
    pub boot_id: [u8; 16],
    /// Where what is sealed waits.
    pub spool: Arc<Mutex<Spool>>,
    /// Told when something new waits.
    pub changed: watch::Sender<()>,
    /// Which incidents are open.
    pub ledger: Mutex<Ledger>,
    /// Which apps an operator wishes to be left alone.
    pub pauses: Pauses,
    /// What guests say, where the device hears them.
    pub log: DeviceLog,
    /// What the program tells of itself.
    pub health: Health,
    /// Incidents by class.
    pub incidents: Counters,
}

/// An app that failed, and what led there.
pub struct Failure<'a> {
    /// The app.
    pub app: &'a App,
    /// The scenario that found out.
    pub scenario: &'a Scenario,
    /// The rounds that led there.
    pub rounds: Rounds,
    /// Looks at its vCPUs from before.
    pub before: Vec<qmp::Reply>,
}

/// What a headline says beyond whose incident it is.
enum News {
    /// It has begun.
    Begun,
    /// The evidence is sealed, and shows this.
    Diagnosed(Diagnosis),
    /// It is over.
    Ended(Timestamp),
}

/// Why an incident could not be brought on its way.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be sealed.
    #[error("failed to seal")]
    Seal(#[from] SealError),
    /// Neither disk nor memory took it.
    #[error("failed to spool")]
    Spool(#[from] PutError),
}

impl Desk {
    /// An incident begins: announces it, collects, diagnoses, seals.
    pub async fn begin(&self, failure: Failure<'_>) {
        let Failure { app, scenario, rounds, before } = failure;
        let mut open = OpenIncident {
            incident: self.new_incident().to_string(),
            failed_at: Clock::wall(),
            failed_uptime: Clock::now(),
            boot_id: self.boot_id,
            revision: 1,
            sealed: false,
        };
        self.remember(app, scenario, &open);
        tracing::warn!(app = %app.name, scenario = %scenario.name(), incident = %open.incident, "the app has failed; collecting evidence");
        self.announce(app, scenario, &open, News::Begun);

        let target = target(app, scenario, &self.state);
        let budget = scenario.budget();
        let budget = capture::Budget { time: budget.time, bytes: budget.bytes };
        let captured = capture::capture(&target, scenario.diagnose(), before, budget).await;
        let mut artifacts = captured.artifacts;
        artifacts.push(rounds.to_artifact());
        let diagnosis = diagnosis::diagnose(&Evidence::read(&artifacts));
        self.incidents.get_or_create(&[("class", diagnosis.class.word().to_owned())]).inc();
        tracing::warn!(app = %app.name, incident = %open.incident, class = %diagnosis.class, title = %diagnosis.title, "diagnosed");
        self.seal(app, scenario, &mut open, (captured.steps, diagnosis, artifacts));
    }

    /// An incident that was open when the agent stopped goes on. If its evidence was not sealed, it
    /// never will be: that is said in its place.
    pub fn resume(&self, app: &App, scenario: &Scenario, mut open: OpenIncident) {
        tracing::info!(app = %app.name, incident = %open.incident, "the incident is still open from before the agent's restart");
        let spooled = open.id().is_some_and(|id| self.has_bundle(id));
        if open.sealed || spooled {
            return;
        }
        let step = StepReport {
            name: "capture".to_owned(),
            outcome: Outcome::Failed,
            reason: "the agent was stopped before the evidence was sealed".to_owned(),
            took_ms: 0,
            bytes: 0,
        };
        let diagnosis = diagnosis::diagnose(&Evidence::default());
        self.seal(app, scenario, &mut open, (vec![step], diagnosis, Vec::new()));
    }

    /// The app answers again.
    pub fn end(&self, app: &App, scenario: &Scenario) {
        let open = self.lock_ledger().get(app.id, scenario.name()).cloned();
        let Some(mut open) = open else { return };
        open.revision += 1;
        let lasted = Spoken(Clock::now().since(open.failed_uptime));
        tracing::info!(app = %app.name, incident = %open.incident, "the app answers again after {lasted}");
        self.announce(app, scenario, &open, News::Ended(Clock::wall()));
        let written = self.lock_ledger().remove(app.id, scenario.name());
        self.note_ledger(written);
    }

    /// Tries again to bring to disk what it did not take.
    pub fn settle(&self) {
        let settled = self.spool.lock().unwrap_or_else(PoisonError::into_inner).settle();
        match settled {
            Ok(()) => self.health.ok("spool"),
            Err(error) => self.health.degraded("spool", Chain(&error).to_string()),
        }
        match self.lock_ledger().settle() {
            Ok(()) => self.health.ok("ledger"),
            Err(error) => self.health.degraded("ledger", Chain(&error).to_string()),
        }
    }

    fn seal(
        &self,
        app: &App,
        scenario: &Scenario,
        open: &mut OpenIncident,
        (steps, diagnosis, artifacts): (Vec<StepReport>, Diagnosis, Vec<Artifact>),
    ) {
        let Some(origin) = self.origin(app, scenario, open) else { return };
        let incident = origin.incident;
        let bundle = Bundle { origin, steps, diagnosis: diagnosis.clone(), artifacts };
        let sealed = self.signer.seal_bundle(&bundle).map_err(Error::Seal);
        let spooled = sealed.and_then(|bytes| {
            self.spool(Parcel { kind: crate::spool::Kind::Bundle, incident, bytes })
        });
        if let Err(error) = spooled {
            tracing::error!(%incident, error = %Chain(&error), "the evidence is lost");
            return;
        }
        open.revision += 1;
        open.sealed = true;
        self.announce(app, scenario, open, News::Diagnosed(diagnosis));
        self.remember(app, scenario, open);
    }

    /// Puts a headline into the spool.
    fn announce(&self, app: &App, scenario: &Scenario, open: &OpenIncident, news: News) {
        let Some(origin) = self.origin(app, scenario, open) else { return };
        let incident = origin.incident;
        let stage = if open.sealed { Stage::Sealed } else { Stage::Capturing };
        let (diagnosis, ended) = match news {
            News::Begun => (None, None),
            News::Diagnosed(diagnosis) => (Some(diagnosis), None),
            News::Ended(at) => (None, Some(at)),
        };
        let headline = Headline { origin, diagnosis, stage, ended, revision: open.revision };
        let sealed = self.signer.seal_headline(&headline).map_err(Error::Seal);
        let spooled = sealed.and_then(|bytes| {
            self.spool(Parcel { kind: crate::spool::Kind::Headline, incident, bytes })
        });
        if let Err(error) = spooled {
            tracing::error!(%incident, error = %Chain(&error), "the headline is lost");
        }
    }

    fn spool(&self, parcel: Parcel) -> Result<(), Error> {
        let kept = self.spool.lock().unwrap_or_else(PoisonError::into_inner).put(parcel)?;
        match kept {
            Kept::OnDisk => self.health.ok("spool"),
            Kept::InMemory { why } => {
                tracing::error!(%why, "evidence is held in memory only");
                self.health.degraded("spool", why);
            }
        }
        self.changed.send_replace(());
        Ok(())
    }

    fn has_bundle(&self, incident: IncidentId) -> bool {
        let spool = self.spool.lock().unwrap_or_else(PoisonError::into_inner);
        spool.waiting().any(|waiting| {
            waiting.incident == incident && waiting.kind == crate::spool::Kind::Bundle
        })
    }

    fn origin(&self, app: &App, scenario: &Scenario, open: &OpenIncident) -> Option<Origin> {
        Some(Origin {
            incident: open.id()?,
            device: self.device.clone(),
            app: app.id,
            app_name: app.name.clone(),
            scenario: scenario.name().clone(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            failed_at: open.failed_at,
            failed_uptime: open.failed_uptime,
            boot_id: open.boot_id,
        })
    }

    fn remember(&self, app: &App, scenario: &Scenario, open: &OpenIncident) {
        let written = self.lock_ledger().put(app.id, scenario.name(), open.clone());
        self.note_ledger(written);
    }

    fn note_ledger(&self, written: Result<(), WriteError>) {
        match written {
            Ok(()) => self.health.ok("ledger"),
            Err(error) => {
                let why = Chain(&error).to_string();
                tracing::error!(error = %why, "open incidents are remembered in memory only");
                self.health.degraded("ledger", why);
            }
        }
    }

    fn lock_ledger(&self) -> std::sync::MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn new_incident(&self) -> IncidentId {
        let mut bytes = [0; 16];
        ring::rand::SystemRandom::new()
            .fill(&mut bytes)
            .expect("the kernel gives random numbers once it has booted");
        IncidentId::new(bytes)
    }
}

/// An app as a capture under a scenario sees it, by an agent that keeps its state there.
#[must_use]
pub fn target(app: &App, scenario: &Scenario, state: &Path) -> Target {
    Target {
        console: app.console.clone(),
        console_log: app.console_log.clone(),
        qmp: app.qmp.clone(),
        pid: None,
        guest_agent: app.guest_agent.clone(),
        shell: scenario.probes().iter().any(Probe::has_shell),
        undo: Some(state.join("undo").join(app.id.to_string())),
        consent: app.consent,
    }
}
