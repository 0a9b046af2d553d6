//! The life of an incident on the device.
//!
//! ```text
//!   begin:  ledger (open) -> headline 1 -> capture -> diagnose -> bundle -> headline 2 -> ledger (sealed)
//!   end:                                                                   headline n -> ledger (gone)
//!   the same as not long ago (`repeats`), or too often: counted in a headline, and no bundle is sealed
//!   after a restart, open but not sealed:    bundle without evidence -> headline -> ledger (sealed);
//!                    and if the app is in another run by now:  end
//! ```
//!
//! Each arrow is durable before the next begins, so a kill between any two loses nothing that was
//! announced: at worst the bundle says that the agent was stopped before it could collect.

use super::capture_cli::Level;
use super::config::Config;
use super::identity;
use super::ledger::{Counted, Ledger, OpenIncident, WriteError};
use super::parcels;
use super::pauses::Pauses;
use super::purse::Purse;
use super::repeats::{self, Failed, Repeats};
use super::turn::Turn;
use crate::base::chain::Chain;
use crate::base::id::{DeviceId, IncidentId, ScenarioName};
use crate::base::limits;
use crate::base::time::{Clock, Instant, Spoken, Timestamp};
use crate::binding::App;
use crate::bundle::{Bundle, Headline, Origin, SealError, Signer, Stage};
use crate::capture::{self, Target, Tell};
use crate::diagnosis::{self, Diagnosis};
use crate::evidence::report::{Outcome, StepReport};
use crate::evidence::rounds::Rounds;
use crate::evidence::{Artifact, Evidence, qmp};
use crate::ladder::End;
use crate::scenario::{Probe, Scenario};
use crate::spool::kept;
use crate::spool::{self, Kept, Mark, Parcel, PutError, Spool};
use crate::telemetry::health::Health;
use crate::telemetry::metrics::Counters;
use crate::transport::log::DeviceLog;
use crate::upload::Worth;
use ring::rand::SecureRandom;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};

/// How long a capture waits for a person who collects by hand, before it goes ahead all the same.
const TURN: Duration = Duration::from_secs(60);

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
    /// Where dumps of guests' memory are kept.
    pub kept: Option<kept::Kept>,
    /// Where what is sealed waits.
    pub spool: Arc<Mutex<Spool>>,
    /// Told when something new waits.
    pub changed: watch::Sender<()>,
    /// So many captures go on at once.
    pub captures: Semaphore,
    /// Which incidents are open.
    pub ledger: Mutex<Ledger>,
    /// What the uplink may still carry.
    pub purse: Arc<Purse>,
    /// What was sent in full not long ago.
    pub repeats: Mutex<Repeats>,
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
    /// The hypervisor's process as it was seen last.
    pub process: Option<u32>,
    /// Told how far the capture has come.
    pub tell: Tell<'a>,
}

/// What a headline says beyond whose incident it is.
enum News {
    /// It has begun.
    Begun,
    /// The evidence is sealed, and shows this.
    Diagnosed(Diagnosis),
    /// No evidence of it comes; if it was looked into, this is what it shows.
    Counted(Option<Diagnosis>),
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
    /// The desk of a device. Who listens to `changed` is told when something new waits.
    #[must_use]
    pub fn open(
        config: &Config,
        signer: Signer,
        spool: Arc<Mutex<Spool>>,
        changed: watch::Sender<()>,
    ) -> Self {
        Self {
            device: config.device.clone(),
            state: config.state.clone(),
            signer,
            boot_id: identity::boot_id(),
            kept: config.dumps.kept(),
            spool,
            changed,
            captures: Semaphore::new(limits::CAPTURES),
            ledger: Mutex::new(Ledger::open(&config.state)),
            purse: Arc::new(Purse::open(&config.state, config.budget)),
            repeats: Mutex::new(Repeats::open(&config.state, config.repeats)),
            pauses: Pauses::new(&config.state),
            log: DeviceLog::default(),
            health: Health::new(),
            incidents: Counters::default(),
        }
    }

    /// An incident begins: announces it, collects, diagnoses, seals.
    pub async fn begin(&self, failure: Failure<'_>) {
        let Failure { app, scenario, rounds, before, process, tell } = failure;
        let Some(mut open) = self.failed(app, scenario) else { return };
        self.remember(app, scenario, &open);
        tracing::warn!(app = %app.name, scenario = %scenario.name(), incident = %open.incident, "the app has failed; collecting evidence");
        self.announce(app, scenario.name(), &open, News::Begun);

        let permit = self.captures.acquire().await;
        let turn = Turn::wait(&self.state, app.id, TURN).await;
        let domain = app.life.domain.as_deref();
        let heard = domain.and_then(|domain| self.log.history(domain));
        let target = target(app, scenario, &self.state);
        let (kept, pid) = (self.kept.clone(), process.or(target.pid));
        let target = Target { heard, pid, kept, ..target };
        let worth = self.purse.worth(self.waiting_bytes());
        let level = if worth == Worth::Full { Level::Full } else { Level::First };
        let (steps, budget) = level.of(scenario);
        let captured = capture::capture(&target, &steps, before, budget, tell).await;
        drop((turn, permit));
        let mut artifacts = captured.artifacts;
        artifacts.push(rounds.to_artifact());
        let diagnosis = diagnosis::diagnose(&Evidence::read(&artifacts));
        self.incidents.get_or_create(&[("class", diagnosis.class.word().to_owned())]).inc();
        tracing::warn!(app = %app.name, incident = %open.incident, class = %diagnosis.class, title = %diagnosis.title, "diagnosed");
        let (id, signature) = (app.id, diagnosis.signature.clone());
        let counted = self.lock_repeats().count(id, &signature, open.failed_at);
        if let Some(counted) = counted.filter(|counted| !self.was_dropped(&counted.full)) {
            let Counted { count, first, full, .. } = &counted;
            let fact = format!(
                "the same was seen {count} times since {first}; the evidence is that of incident {full}"
            );
            self.withhold(app, scenario, &mut open, (counted, fact, diagnosis));
            return;
        }
        if worth == Worth::Headline {
            let (first, full) = (open.failed_at, String::new());
            let counted = Counted { count: 1, first, last: first, full };
            let fact = "no evidence is sent: the budget of the uplink is spent".to_owned();
            self.withhold(app, scenario, &mut open, (counted, fact, diagnosis));
            return;
        }
        self.seal(app, scenario, &mut open, (captured.steps, diagnosis, artifacts));
        if let Some(incident) = open.id().filter(|_| open.sealed) {
            self.lock_repeats().sent(id, &signature, incident, open.failed_at);
        }
    }

    /// The incident of a failure, unless it is only counted.
    fn failed(&self, app: &App, scenario: &Scenario) -> Option<OpenIncident> {
        let fresh = OpenIncident {
            incident: new_incident().to_string(),
            failed_at: Clock::wall(),
            failed_uptime: Clock::now(),
            boot_id: self.boot_id,
            life: app.life.clone(),
            revision: 1,
            sealed: false,
            counted: None,
        };
        let (name, now) = (scenario.name(), Clock::now());
        let failed = self.lock_repeats().failed(app, name, fresh, now);
        let (open, tell) = match failed {
            Failed::Alone(open) => return Some(open),
            Failed::Counted { open, tell } => (open, tell),
        };
        tracing::warn!(app = %app.name, scenario = %name, incident = %open.incident, "the app has failed again; so often that it is only counted");
        self.remember(app, scenario, &open);
        if tell {
            self.announce(app, name, &open, News::Counted(None));
        }
        None
    }

    /// A headline has to do: why, stands in it.
    fn withhold(
        &self,
        app: &App,
        scenario: &Scenario,
        open: &mut OpenIncident,
        (counted, fact, mut diagnosis): (Counted, String, Diagnosis),
    ) {
        tracing::info!(app = %app.name, incident = %open.incident, "no bundle is sealed: {fact}");
        diagnosis.facts_for.insert(0, fact);
        open.revision += 1;
        open.sealed = true;
        open.counted = Some(counted);
        self.announce(app, scenario.name(), open, News::Counted(Some(diagnosis)));
        self.remember(app, scenario, open);
    }

    /// An incident that was open when the agent stopped goes on, unless the app was restarted since.
    /// Gives since when it fails, if it does.
    pub fn resume(&self, app: &App, scenario: &Scenario) -> Option<Instant> {
        let mut open = self.lock_ledger().get(app.id, scenario.name()).cloned()?;
        let spooled = open.id().is_some_and(|id| self.has_bundle(id));
        if !open.sealed && !spooled {
            self.seal_nothing(app, scenario, &mut open);
        }
        if !open.may_be_of(&app.life, self.boot_id) {
            self.end(app, scenario, End::Restarted);
            return None;
        }
        tracing::info!(app = %app.name, incident = %open.incident, "the incident is still open from before");
        let life = app.life.clone().or(&open.life);
        if life != open.life {
            open.life = life;
            self.remember(app, scenario, &open);
        }
        Some(open.failed_uptime)
    }

    /// Evidence that was not sealed before the agent stopped never will be: that is said in its place.
    fn seal_nothing(&self, app: &App, scenario: &Scenario, open: &mut OpenIncident) {
        let step = StepReport {
            name: "capture".to_owned(),
            outcome: Outcome::Failed,
            reason: "the agent was stopped before the evidence was sealed".to_owned(),
            took_ms: 0,
            bytes: 0,
        };
        let diagnosis = diagnosis::diagnose(&Evidence::default());
        self.seal(app, scenario, open, (vec![step], diagnosis, Vec::new()));
    }

    /// The incident is over, if one is open.
    pub fn end(&self, app: &App, scenario: &Scenario, end: End) {
        let open = self.lock_ledger().get(app.id, scenario.name()).cloned();
        let Some(mut open) = open else { return };
        if self.lock_repeats().is_flood(&open) {
            // It stands for many: that one of them is over is no news.
            let written = self.lock_ledger().remove(app.id, scenario.name());
            self.note_ledger(written);
            return;
        }
        open.revision += 1;
        let ended = Clock::wall();
        let lasted = ended.as_millis().saturating_sub(open.failed_at.as_millis());
        let lasted = Spoken(Duration::from_millis(u64::try_from(lasted).unwrap_or_default()));
        tracing::info!(app = %app.name, scenario = %scenario.name(), incident = %open.incident, "the incident is over after {lasted}: {end}");
        self.announce(app, scenario.name(), &open, News::Ended(ended));
        let written = self.lock_ledger().remove(app.id, scenario.name());
        self.note_ledger(written);
    }

    /// Tells of floods what is to be told, and tries again to bring to disk what it did not take.
    pub fn settle(&self) {
        let news = self.lock_repeats().news(Clock::now());
        self.purse.keep();
        for repeats::News { app, scenario, open } in news {
            self.announce(&app, &scenario, &open, News::Counted(None));
        }
        let (settled, before, usage) = {
            let mut spool = self.spool.lock().unwrap_or_else(PoisonError::into_inner);
            let before = spool.usage();
            (spool.settle(), before, spool.usage())
        };
        if (before.parcels, before.held) != (usage.parcels, usage.held) {
            self.changed.send_replace(());
        }
        match settled {
            Ok(()) => self.note_spool(&usage),
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
        let Some(origin) = self.origin(app, scenario.name(), open) else { return };
        let incident = origin.incident;
        let bundle =
            Bundle { origin, steps, diagnosis: diagnosis.clone(), artifacts, redaction: None };
        let sealed = self.signer.seal_bundle(&bundle).map_err(Error::Seal);
        let spooled = sealed.and_then(|bytes| {
            let (kind, mark) = (spool::Kind::Bundle, Mark::of(&diagnosis.signature));
            self.spool(Parcel { kind, incident, mark, bytes })
        });
        if let Err(error) = spooled {
            tracing::error!(%incident, error = %Chain(&error), "the evidence is lost");
            return;
        }
        open.revision += 1;
        open.sealed = true;
        self.announce(app, scenario.name(), open, News::Diagnosed(diagnosis));
        self.remember(app, scenario, open);
    }

    /// Puts a headline into the spool.
    fn announce(&self, app: &App, scenario: &ScenarioName, open: &OpenIncident, news: News) {
        let Some(origin) = self.origin(app, scenario, open) else { return };
        let incident = origin.incident;
        let stage = match (&open.counted, open.sealed) {
            (Some(_), _) => Stage::Counted,
            (None, true) => Stage::Sealed,
            (None, false) => Stage::Capturing,
        };
        let (diagnosis, ended) = match news {
            News::Begun => (None, None),
            News::Diagnosed(diagnosis) => (Some(diagnosis), None),
            News::Counted(diagnosis) => (diagnosis, None),
            News::Ended(at) => (None, Some(at)),
        };
        let repeats = open.counted.as_ref().map(Counted::repeats);
        let revision = open.revision;
        let headline = Headline { origin, diagnosis, stage, ended, revision, repeats };
        let sealed = self.signer.seal_headline(&headline).map_err(Error::Seal);
        let spooled = sealed.and_then(|bytes| {
            let (kind, mark) = (spool::Kind::Headline, Mark::default());
            self.spool(Parcel { kind, incident, mark, bytes })
        });
        if let Err(error) = spooled {
            tracing::error!(%incident, error = %Chain(&error), "the headline is lost");
        }
    }

    fn spool(&self, parcel: Parcel) -> Result<(), Error> {
        let (kept, usage) = {
            let mut spool = self.spool.lock().unwrap_or_else(PoisonError::into_inner);
            (spool.put(parcel), spool.usage())
        };
        match kept {
            Ok(Kept::OnDisk) => self.note_spool(&usage),
            Ok(Kept::InMemory { why }) => {
                tracing::error!(%why, "evidence is held in memory only");
                self.health.degraded("spool", why);
            }
            Err(error) => {
                self.health.degraded("spool", Chain(&error).to_string());
                return Err(error.into());
            }
        }
        self.changed.send_replace(());
        Ok(())
    }

    /// Whether the evidence of an incident had to make room, and will never come.
    fn was_dropped(&self, incident: &str) -> bool {
        let spool = self.spool.lock().unwrap_or_else(PoisonError::into_inner);
        spool.gone().any(|gone| gone.incident.to_string() == incident)
    }

    fn waiting_bytes(&self) -> u64 {
        let usage = self.spool.lock().unwrap_or_else(PoisonError::into_inner).usage();
        usage.bytes + usage.held_bytes
    }

    fn note_spool(&self, usage: &spool::Usage) {
        match parcels::trouble(usage) {
            Some(why) => self.health.degraded("spool", why),
            None => self.health.ok("spool"),
        }
    }

    fn has_bundle(&self, incident: IncidentId) -> bool {
        let spool = self.spool.lock().unwrap_or_else(PoisonError::into_inner);
        spool
            .waiting()
            .any(|waiting| waiting.incident == incident && waiting.kind == spool::Kind::Bundle)
    }

    fn origin(&self, app: &App, scenario: &ScenarioName, open: &OpenIncident) -> Option<Origin> {
        Some(Origin {
            incident: open.id()?,
            device: self.device.clone(),
            app: app.id,
            app_name: app.name.clone(),
            scenario: scenario.clone(),
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

    fn lock_repeats(&self) -> std::sync::MutexGuard<'_, Repeats> {
        self.repeats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_ledger(&self) -> std::sync::MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A name that nobody else gives to an incident.
#[must_use]
pub(super) fn new_incident() -> IncidentId {
    let mut bytes = [0; 16];
    ring::rand::SystemRandom::new()
        .fill(&mut bytes)
        .expect("the kernel gives random numbers once it has booted");
    IncidentId::new(bytes)
}

/// An app as a capture under a scenario sees it, by an agent that keeps its state there.
#[must_use]
pub fn target(app: &App, scenario: &Scenario, state: &Path) -> Target {
    Target {
        app: app.name.clone(),
        console: app.console.clone(),
        console_log: app.console_log.clone(),
        heard: None,
        erst: app.erst.clone(),
        flash: app.flash.clone(),
        qmp: app.qmp.clone(),
        pid: app.life.pid,
        guest_agent: app.guest_agent.clone(),
        shell: scenario.probes().iter().any(Probe::has_shell),
        by: None,
        undo: Some(state.join("undo").join(app.id.to_string())),
        learnt: Some(learnt(app, state)),
        kept: None,
        consent: app.consent,
    }
}

/// Where it is kept what was learnt of an app's kernel. What a guest says of its kernel is believed of
/// that guest alone, so each has its own.
#[must_use]
pub fn learnt(app: &App, state: &Path) -> PathBuf {
    state.join("kernels").join(app.id.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::{AppId, Digest};
    use crate::base::problem::Source;
    use crate::binding::Life;
    use crate::scenario;
    use crate::upload::{Bounds, Month};
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
    use std::path::Path;

    fn desk(state: &Path) -> Desk {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let (spool, _) = Spool::open(&state.join("spool"), spool::Limits::STANDARD).unwrap();
        Desk {
            device: "edge-1".parse().unwrap(),
            state: state.to_owned(),
            signer: Signer::new(key.as_ref(), b"a certificate").unwrap(),
            boot_id: [3; 16],
            kept: None,
            spool: Arc::new(Mutex::new(spool)),
            changed: watch::channel(()).0,
            captures: Semaphore::new(limits::CAPTURES),
            ledger: Mutex::new(Ledger::open(state)),
            purse: Arc::new(Purse::open(state, Bounds::default())),
            repeats: Mutex::new(Repeats::open(state, repeats::Settings::STANDARD)),
            pauses: Pauses::new(state),
            log: DeviceLog::default(),
            health: Health::new(),
            incidents: Counters::default(),
        }
    }

    fn app(pid: u32) -> App {
        let life = Life { pid: Some(pid), ..Life::default() };
        App { life, ..App::new(AppId::new([1; 16]), "web") }
    }

    fn quick() -> Scenario {
        let text = "scenario: quick\nsummary: s\nprobe: [ { log: { label: x, within: 1m } } ]\n\
                    diagnose: [host]\n";
        let source = Source { name: "quick.yaml".to_owned(), text: text.to_owned() };
        scenario::read(source).unwrap()
    }

    /// An agent sees the app fail, and ends.
    async fn begin(state: &Path, scenario: &Scenario) {
        let (app, rounds) = (app(7), Rounds { rounds: Vec::new() });
        let before = Vec::new();
        let failure = Failure { app: &app, scenario, rounds, before, process: None, tell: &|_| {} };
        desk(state).begin(failure).await;
    }

    /// A later headline of an incident takes the place of an earlier one.
    fn headline(desk: &Desk) -> Digest {
        let spool = desk.spool.lock().unwrap();
        let headline = |waiting: &spool::Waiting| waiting.kind == spool::Kind::Headline;
        spool.waiting().find(headline).unwrap().digest
    }

    #[tokio::test]
    async fn an_incident_outlives_the_agent_but_not_the_run_of_the_app() {
        let state = tempfile::tempdir().unwrap();
        let scenario = quick();
        begin(state.path(), &scenario).await;

        let again = desk(state.path());
        let since = again.lock_ledger().get(app(7).id, scenario.name()).unwrap().failed_uptime;
        assert_eq!(again.resume(&app(7), &scenario), Some(since));
        let unheard = App::new(app(7).id, "web");
        assert_eq!(again.resume(&unheard, &scenario), Some(since), "unknown is not another");
        let before = headline(&again);

        drop(again);
        let later = desk(state.path());
        assert_eq!(later.resume(&app(8), &scenario), None);
        assert_ne!(headline(&later), before, "its end is told");
        assert_eq!(later.resume(&app(7), &scenario), None, "and it is over for good");
    }

    /// What waits to be sent, by kind.
    fn waiting(desk: &Desk) -> (usize, usize) {
        let spool = desk.spool.lock().unwrap();
        let bundles = spool.waiting().filter(|w| w.kind == spool::Kind::Bundle).count();
        (spool.waiting().count() - bundles, bundles)
    }

    #[tokio::test]
    async fn the_same_is_counted_and_a_flood_of_it_is_one_headline() {
        let state = tempfile::tempdir().unwrap();
        let scenario = quick();
        let mut desk = desk(state.path());
        let settings = repeats::Settings { hourly: 3, ..repeats::Settings::STANDARD };
        desk.repeats = Mutex::new(Repeats::open(state.path(), settings));
        for failure in 0..20 {
            let (app, rounds, before) = (app(7), Rounds { rounds: Vec::new() }, Vec::new());
            let (scenario, tell): (_, Tell<'_>) = (&scenario, &|_| {});
            desk.begin(Failure { app: &app, scenario, rounds, before, process: None, tell }).await;
            let open = desk.lock_ledger().get(app.id, scenario.name()).cloned().unwrap();
            let count = open.counted.map(|counted| counted.count);
            let expected = [None, Some(2), Some(3)];
            let flood = u32::try_from(failure).unwrap().saturating_sub(2);
            assert_eq!(count, expected.get(failure).copied().unwrap_or(Some(flood)));
            desk.end(&app, scenario, End::Recovered);
        }
        assert_eq!(waiting(&desk), (4, 1), "of the flood the latest word alone waits");
    }

    #[tokio::test]
    async fn a_spent_budget_leaves_headlines_that_say_so() {
        let state = tempfile::tempdir().unwrap();
        let month = Month { began: Clock::wall(), sent: 1 << 30 };
        std::fs::write(state.path().join("budget.json"), serde_json::to_vec(&month).unwrap())
            .unwrap();
        let mut desk = desk(state.path());
        let bounds = Bounds { hour: None, month: Some(1 << 20) };
        desk.purse = Arc::new(Purse::open(state.path(), bounds));
        let (app, rounds, before) = (app(7), Rounds { rounds: Vec::new() }, Vec::new());
        let (scenario, tell): (_, Tell<'_>) = (&quick(), &|_| {});
        desk.begin(Failure { app: &app, scenario, rounds, before, process: None, tell }).await;
        assert_eq!(waiting(&desk), (1, 0));
        let open = desk.lock_ledger().get(app.id, scenario.name()).cloned().unwrap();
        assert!(open.sealed && open.counted.unwrap().full.is_empty());
    }

    #[tokio::test]
    async fn no_incident_outlives_the_boot_of_its_machine() {
        let state = tempfile::tempdir().unwrap();
        let scenario = quick();
        begin(state.path(), &scenario).await;
        let booted = Desk { boot_id: [4; 16], ..desk(state.path()) };
        assert_eq!(booted.resume(&app(7), &scenario), None);
    }
}
