//! The device agent's command line.

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use lifesign::agent::capture_cli;
use lifesign::agent::config::Config;
use lifesign::agent::pauses::{self, Told, Whom};
use lifesign::agent::survey::{Paint, survey};
use lifesign::agent::{
    assignment, bundle_cli, bundle_file, config, dumps, incident, inspect, keeper, run,
    scenario_cli, spool_cli, status,
};
use lifesign::base::chain::Chain;
use lifesign::base::consent::Consent;
use lifesign::base::document::{FromNode, parse_duration};
use lifesign::base::id::DumpName;
use lifesign::base::rung::Answer;
use lifesign::base::text::Harmless;
use lifesign::base::time::{Clock, NoDate, Timestamp};
use lifesign::binding::Bound;
use lifesign::bundle::Sealed;
use lifesign::capture::Progress;
use lifesign::evidence::Artifact;
use lifesign::hypervisor::debugger;
use lifesign::report::{self, Style, Whole};
use lifesign::telemetry;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Tells why an application on this device stopped answering.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Watch the apps of this device and report those that fail
    Run(ConfigFile),
    /// Read the config file and its scenarios, and tell every mistake
    Check(ConfigFile),
    /// Ask an app by every way once, now: how far up it lives, and what cannot be asked
    #[command(after_long_help = include_str!("../../docs/probe.md"))]
    Probe {
        #[command(flatten)]
        config: ConfigFile,
        /// Name or UUID of the app
        app: String,
        /// Print it as JSON
        #[arg(long)]
        json: bool,
    },
    /// Collect an app's evidence now, as an incident would, and say what it shows
    Capture {
        #[command(flatten)]
        config: ConfigFile,
        /// Name or UUID of the app
        app: String,
        #[command(flatten)]
        ask: Ask,
    },
    /// Show a bundle that `capture --out` or the controller's `export` wrote
    Show {
        #[command(flatten)]
        config: ConfigFile,
        #[command(flatten)]
        wanted: Wanted,
    },
    /// Verify sealed bundles, or redact one for somebody who may not see everything
    #[command(subcommand)]
    Bundle(bundle_cli::Command),
    /// Leave apps alone for a while: they are not asked, and report nothing
    Pause {
        #[command(flatten)]
        config: ConfigFile,
        /// Name, pattern of names (`web-*`) or UUID
        apps: String,
        /// What for; people will read it
        #[arg(long, value_name = "TEXT")]
        why: String,
        #[command(flatten)]
        end: End,
    },
    /// Show which apps are paused
    Pauses(ConfigFile),
    /// End a pause
    Resume {
        #[command(flatten)]
        config: ConfigFile,
        /// As the pause was given
        apps: String,
    },
    /// Read a guest's kernel out of its memory: why it hangs, its CPUs, locks, stacks and log
    Inspect(Inspect),
    /// The dumps of guests' memory that this device keeps: list them, or act on one
    Dumps {
        #[command(flatten)]
        config: ConfigFile,
        #[command(subcommand)]
        act: Option<DumpsCommand>,
    },
    /// What is sealed and waits to be sent: list it, look at it, prove it whole, copy it to a stick
    #[command(after_long_help = include_str!("../../docs/spool.md"))]
    Spool {
        #[command(flatten)]
        config: ConfigFile,
        #[command(subcommand)]
        act: SpoolCommand,
    },
    /// Show the state of every app, as the running agent has it
    Status {
        #[command(flatten)]
        config: ConfigFile,
        /// Go on showing it, every second
        #[arg(long)]
        watch: bool,
    },
    /// Hold a guest for the agent that started us, and let it go
    #[command(hide = true)]
    Hold {
        /// The guest's monitor
        qmp: PathBuf,
        /// Where it is noted meanwhile
        note: PathBuf,
    },
    /// Work on scenario files, without any VM
    #[command(subcommand, after_long_help = include_str!("../../docs/scenario.md"))]
    Scenario(ScenarioCommand),
}

#[derive(Subcommand)]
enum SpoolCommand {
    /// List what waits, what was dropped and what is set aside
    Ls {
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Show what a parcel says
    Show {
        /// As `lifesign spool ls` lists it
        parcel: String,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Read every parcel, and prove that it is what this device has sealed
    Verify {
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Copy all that waits into a directory, for a controller that no network leads to
    Export {
        /// A directory that is there, such as one on a stick
        to: PathBuf,
    },
}

#[derive(Subcommand)]
enum DumpsCommand {
    /// Copy one into a new file, for `crash` or another device
    Copy {
        /// As `lifesign dumps` lists it
        name: DumpName,
        /// The file
        to: PathBuf,
    },
    /// Remove one
    Remove {
        /// As `lifesign dumps` lists it
        name: DumpName,
    },
}

#[derive(Subcommand)]
enum ScenarioCommand {
    /// Read scenario files and tell every mistake
    Lint {
        /// The files
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Say in words what a scenario asks when, what it needs, and how soon it finds out
    Explain {
        /// The file
        file: PathBuf,
    },
    /// Play recorded answers to a scenario, and show what would come of them
    Test {
        /// The file
        file: PathBuf,
        /// The recorded answers
        #[arg(long, value_name = "FILE")]
        trace: PathBuf,
    },
    /// Print the JSON Schema of the language, for editors
    Schema,
}

#[derive(clap::Args)]
struct Ask {
    /// How much to collect
    #[arg(long, value_enum, default_value_t = Level::Full)]
    level: Level,
    /// Seal it all into this file, for `lifesign show` and for whoever shall look at it
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Write each artifact into this directory
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

#[derive(clap::Args)]
struct Wanted {
    /// The file
    file: PathBuf,
    /// Of the device that sealed it, PEM; the one of this device if nothing is said
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,
    /// For programs
    #[arg(long)]
    json: bool,
    /// Write the bytes of one artifact, as the guest or the hypervisor gave them
    #[arg(long, value_name = "NAME", conflicts_with = "json")]
    artifact: Option<String>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Level {
    /// What the host and the monitor tell within a second; the guest is not asked
    Headline,
    /// What fits into 64 KiB: all but the states of all tasks
    First,
    /// What the app's first scenario says
    Full,
}

impl From<Level> for capture_cli::Level {
    fn from(level: Level) -> Self {
        match level {
            Level::Headline => Self::Headline,
            Level::First => Self::First,
            Level::Full => Self::Full,
        }
    }
}

#[derive(clap::Args)]
struct Inspect {
    #[command(flatten)]
    config: ConfigFile,
    /// Name or UUID of the app
    #[arg(required_unless_present_any = ["pid", "dump"], conflicts_with_all = ["pid", "dump"])]
    app: Option<String>,
    /// The hypervisor's process, instead of an app
    #[arg(long, conflicts_with = "dump")]
    pid: Option<u32>,
    /// The monitor of that process; without it the kernel has to be searched
    #[arg(long, value_name = "SOCKET", requires = "pid")]
    qmp: Option<PathBuf>,
    /// A file that `dump-guest-memory`, `makedumpfile` or `pmemsave` wrote, instead of an app
    #[arg(long, value_name = "FILE")]
    dump: Option<PathBuf>,
    /// Print all that was read as JSON
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct ConfigFile {
    /// The agent's config file
    #[arg(long, value_name = "FILE", default_value = "/etc/lifesign/agent.yaml")]
    config: PathBuf,
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct End {
    /// How long, such as 30m, 2h or 7d
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    lasting: Option<Duration>,
    /// Until when, such as 2030-01-31T18:00Z
    #[arg(long, value_name = "DATE", value_parser = date)]
    until: Option<Timestamp>,
    /// Until it is resumed
    #[arg(long)]
    for_good: bool,
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| format!("is not {}", Duration::EXPECTED))
}

fn date(text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|error: NoDate| error.to_string())
}

fn main() -> ExitCode {
    match act(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            complain(&Chain(error.as_ref()).to_string());
            ExitCode::from(2)
        }
    }
}

fn act(command: Command) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start the runtime")?;
    match command {
        Command::Run(file) => {
            let config = config::read(&file.config)?;
            telemetry::logs::start(&config.log)?;
            runtime.block_on(run::run(config, file.config))?;

            Ok(ExitCode::SUCCESS)
        }
        Command::Check(file) => {
            let config = config::read(&file.config)?;
            let found = runtime.block_on(keeper::bound_now(&file.config))?;
            assignment::describe(&config)?.iter().for_each(|line| say(line));
            found.warnings.iter().for_each(|warning| say(&format!("warning: {warning}")));
            say(&format!("{}: {} apps, no mistakes", file.config.display(), found.bound.len()));
            Ok(ExitCode::SUCCESS)
        }
        Command::Probe { config, app, json } => {
            let binding = runtime.block_on(find(&config.config, &app))?;
            Ok(runtime.block_on(probe_once(binding, json)))
        }
        Command::Capture { config, app, ask } => {
            let binding = runtime.block_on(find(&config.config, &app))?;
            let config = config::read(&config.config)?;
            runtime.block_on(capture_once(binding, &config, &ask))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Show { config, wanted } => {
            show(&wanted, &config.config)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Bundle(command) => on_bundles(&command),
        Command::Inspect(inspect) => runtime.block_on(inspect_once(inspect)),
        Command::Pause { config, apps, why, end } => {
            let (state, now) = (config::read(&config.config)?.state, Clock::wall());
            pauses::pause(&state, Whom(apps), Told { why, until: end.date(now) }, now)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Pauses(file) => {
            let state = config::read(&file.config)?.state;
            pauses::lines(&state, Clock::wall())?.iter().for_each(|line| say(line));
            Ok(ExitCode::SUCCESS)
        }
        Command::Resume { config, apps } => {
            let state = config::read(&config.config)?.state;
            pauses::resume(&state, &Whom(apps), Clock::wall())?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Dumps { config, act } => {
            on_dumps(&config.config, act)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Spool { config, act } => on_spool(&config.config, &act),
        Command::Status { config, watch } => {
            runtime.block_on(show_status(&config.config, watch))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Hold { qmp, note } => {
            runtime.block_on(debugger::hold_for_stdin(&qmp, &note))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Scenario(command) => on_scenarios(&command),
    }
}

impl End {
    /// None: for good.
    fn date(&self, now: Timestamp) -> Option<Timestamp> {
        self.lasting.map(|lasting| now + lasting).or(self.until)
    }
}

async fn find(config: &Path, app: &str) -> Result<Bound> {
    config::read(config)?;
    let bound = keeper::bound_now(config).await?.bound;
    let names: Vec<String> = bound.iter().map(|binding| binding.app.name.clone()).collect();
    let found = bound
        .into_iter()
        .find(|binding| binding.app.name == app || binding.app.id.to_string() == app);
    match found {
        Some(binding) => Ok(binding),
        None => bail!("no app `{app}` is bound; there are: {}", names.join(", ")),
    }
}

/// Asks every way once. Exit code 0: alive. 1: dead. 2: cannot be told.
async fn probe_once(bound: Bound, json: bool) -> ExitCode {
    let survey = survey(bound).await;
    let paint = if io::stdout().is_terminal() { Paint::Coloured } else { Paint::Plain };
    let told = if json { survey.json() } else { survey.text(paint) };
    // It is harmless already, but for colours.
    writeln!(io::stdout(), "{}", told.trim_end()).ok();
    match survey.verdict.answer {
        Answer::Alive => ExitCode::SUCCESS,
        Answer::Dead => ExitCode::FAILURE,
        Answer::Unknown => ExitCode::from(2),
    }
}

async fn show_status(config: &Path, watch: bool) -> Result<()> {
    let Some(address) = config::read(config)?.http else {
        bail!("the config says no `http` address, by which the running agent could be asked");
    };
    if !watch {
        status::lines(&status::fetch(address).await?).iter().for_each(|line| say(line));
        return Ok(());
    }
    let terminal = io::stdout().is_terminal();
    let told = status::watch(address, terminal, |lines| {
        let mut screen = String::new();
        lines.iter().for_each(|line| screen += &format!("{}\n", Harmless(line.as_bytes())));
        let mut stdout = io::stdout().lock();
        let clear = if terminal { "\u{1b}[H\u{1b}[2J" } else { "" };
        stdout.write_all(format!("{clear}{screen}").as_bytes()).and_then(|()| stdout.flush())
    });
    // A reader that went away (`| head`) is no reason to complain.
    told.await.ok();
    Ok(())
}

async fn capture_once(binding: Bound, config: &Config, ask: &Ask) -> Result<()> {
    let bar = Bar::new();
    let tell = |progress| bar.draw(progress);
    let collected = capture_cli::collect(&binding, config, ask.level.into(), &tell).await;
    bar.clear();
    let bundle = collected?;
    for step in &bundle.steps {
        let (outcome, took) = (step.outcome.word(), step.took_ms);
        say(&format!(
            "{:<34} {outcome:<8} {took:>6} ms {:>8} bytes  {}",
            step.name, step.bytes, step.reason
        ));
    }
    let diagnosis = &bundle.diagnosis;
    say(&format!(
        "\n{} ({}, confidence {})",
        diagnosis.title, diagnosis.class, diagnosis.confidence
    ));
    diagnosis.facts_for.iter().for_each(|fact| say(&format!("  + {fact}")));
    diagnosis.facts_against.iter().for_each(|fact| say(&format!("  - {fact}")));
    if let Some(path) = &ask.out {
        let bytes = bundle_file::write(path, &bundle, config)?;
        say(&format!("\n{bytes} bytes sealed into {}", path.display()));
    }
    let Some(directory) = &ask.output else { return Ok(()) };
    std::fs::create_dir_all(directory)
        .with_context(|| format!("failed to make {}", directory.display()))?;
    for artifact in &bundle.artifacts {
        let path = directory.join(artifact.label());
        std::fs::write(&path, &artifact.data)
            .with_context(|| format!("failed to write {}", path.display()))?;
    }
    Ok(())
}

fn show(wanted: &Wanted, config: &Path) -> Result<()> {
    let certificate = match &wanted.certificate {
        Some(path) => path.clone(),
        None => {
            config::read(config)
                .context("give the certificate of the device that sealed it, by --certificate")?
                .certificate
        }
    };
    let (bundle, bytes) = bundle_file::read(&wanted.file, &certificate)?;
    if let Some(name) = &wanted.artifact {
        let found = bundle.artifacts.iter().find(|artifact| artifact.label() == *name);
        let Some(artifact) = found else {
            let names: Vec<String> = bundle.artifacts.iter().map(Artifact::label).collect();
            bail!("the bundle has no artifact `{name}`; it has: {}", names.join(", "));
        };
        // As the guest gave them: whoever asks for them by name knows what to do with them.
        return Ok(io::stdout().write_all(&artifact.data)?);
    }
    if wanted.json {
        say(&serde_json::to_string_pretty(&Whole::new(bytes, &bundle))?);
        return Ok(());
    }
    let style = Style { colour: io::stdout().is_terminal() };
    let more = format!("lifesign show {} --artifact NAME", wanted.file.display());
    write!(io::stdout(), "{}", report::bundle(&bundle, style, &more)).ok();
    Ok(())
}

async fn inspect_once(asked: Inspect) -> Result<ExitCode> {
    let subject = match (asked.dump, asked.pid, asked.app) {
        (Some(file), ..) => inspect::Subject::Dump(file),
        (None, Some(pid), _) => inspect::Subject::Process { pid, qmp: asked.qmp },
        (None, None, app) => {
            let bound = find(&asked.config.config, &app.unwrap_or_default()).await?;
            let state = config::read(&asked.config.config)?.state;
            let learnt = incident::learnt(&bound.app, &state);
            let Some(qmp) = bound.app.qmp else {
                bail!("the binding of `{}` names no `qmp` socket", bound.app.name);
            };
            if bound.app.consent < Consent::Query {
                bail!("to read the memory of `{}` needs the consent `query`", bound.app.name);
            }
            inspect::Subject::App { qmp, learnt }
        }
    };
    let inspection = inspect::inspect(&subject).await?;
    match asked.json {
        true => say(&inspect::json(&inspection)),
        false => say(inspect::page(&inspection).trim_end()),
    }
    Ok(ExitCode::SUCCESS)
}

/// A line on a terminal that says how far we are.
struct Bar {
    shown: bool,
}

impl Bar {
    const WIDTH: usize = 30;

    fn new() -> Self {
        Self { shown: io::stderr().is_terminal() }
    }

    fn draw(&self, Progress { percent, stage, bytes }: Progress) {
        let full = usize::from(percent) * Self::WIDTH / 100;
        let bar = "#".repeat(full) + &".".repeat(Self::WIDTH - full);
        self.write(&format!("\r\x1b[K[{bar}] {percent:>3} %  {} KiB  {stage}", bytes / 1024));
    }

    fn clear(&self) {
        self.write("\r\x1b[K");
    }

    fn write(&self, text: &str) {
        if self.shown {
            io::stderr().write_all(text.as_bytes()).ok();
        }
    }
}

/// Exit code 0: all are right. 1: one is wrong. 2: one cannot be told.
fn on_bundles(command: &bundle_cli::Command) -> Result<ExitCode> {
    let told = bundle_cli::act(command)?;
    told.right.iter().for_each(|line| say(line));
    told.wrong.iter().for_each(|line| complain(&Harmless(line.as_bytes()).to_string()));
    Ok(ExitCode::from(told.code))
}

fn on_dumps(config: &Path, act: Option<DumpsCommand>) -> Result<()> {
    let dumps = config::read(config)?.dumps;
    let kept = dumps.open();
    let kept =
        kept.with_context(|| format!("failed to open the dumps in {}", dumps.directory.display()))?;
    match act {
        None => dumps::lines(&kept)?.iter().for_each(|line| say(line)),
        Some(DumpsCommand::Copy { name, to }) => {
            let bytes = dumps::copy(&kept, &name, &to)?;
            say(&format!("{bytes} bytes copied into {}", to.display()));
        }
        Some(DumpsCommand::Remove { name }) => {
            kept.remove(&name).with_context(|| format!("failed to remove the dump `{name}`"))?;
        }
    }
    Ok(())
}

fn on_spool(config: &Path, act: &SpoolCommand) -> Result<ExitCode> {
    let config = config::read(config)?;
    let look = spool_cli::look(&config.spool.directory)?;
    match act {
        SpoolCommand::Ls { json: true } => {
            say(&serde_json::to_string_pretty(&spool_cli::json(&look))?);
        }
        SpoolCommand::Ls { json: false } => spool_cli::lines(&look).iter().for_each(|l| say(l)),
        SpoolCommand::Show { parcel, json } => {
            let (sealed, bytes) = spool_cli::open(&look, parcel, &config.certificate)?;
            match sealed {
                Sealed::Bundle(bundle) if *json => {
                    say(&serde_json::to_string_pretty(&Whole::new(bytes, &bundle))?);
                }
                Sealed::Bundle(bundle) => {
                    let style = Style { colour: io::stdout().is_terminal() };
                    let more = "lifesign spool export DIR, then lifesign show FILE --artifact NAME";
                    write!(io::stdout(), "{}", report::bundle(&bundle, style, more)).ok();
                }
                Sealed::Headline(headline) if *json => {
                    say(&serde_json::to_string_pretty(&spool_cli::headline_json(&headline))?);
                }
                Sealed::Headline(headline) => {
                    spool_cli::headline(&headline).iter().for_each(|line| say(line));
                }
            }
        }
        SpoolCommand::Verify { json } => {
            let key = bundle_file::key(&config.certificate)?;
            let verified = spool_cli::verify(&look, &key);
            match json {
                true => say(&serde_json::to_string_pretty(&verified.json())?),
                false => verified.lines().iter().for_each(|line| say(line)),
            }
            return Ok(code_of(&verified.wrong));
        }
        SpoolCommand::Export { to } => {
            let exported = spool_cli::export(&look, to)?;
            exported.lines(to).iter().for_each(|line| say(line));
            return Ok(code_of(&exported.left));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn code_of(wrong: &[(String, String)]) -> ExitCode {
    if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn on_scenarios(command: &ScenarioCommand) -> Result<ExitCode> {
    let told = match command {
        ScenarioCommand::Lint { files } => return Ok(lint(files)),
        ScenarioCommand::Explain { file } => scenario_cli::explain(file),
        ScenarioCommand::Test { file, trace } => scenario_cli::test(file, trace),
        ScenarioCommand::Schema => Ok(scenario_cli::schema()),
    };
    match told {
        Ok(text) => say(text.trim_end()),
        Err(error) => {
            complain_of(&error);
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn lint(files: &[PathBuf]) -> ExitCode {
    let linted = scenario_cli::lint(files);
    linted.right.iter().for_each(|line| say(line));
    linted.wrong.iter().for_each(complain_of);
    if linted.wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn complain_of(error: &scenario_cli::Error) {
    match error.coloured().filter(|_| io::stderr().is_terminal()) {
        Some(coloured) => complain(&coloured),
        None => complain(&Chain(error).to_string()),
    }
}

/// Prints a line. What we print may hold words of a guest.
fn say(line: &str) {
    // A reader that went away (`| head`) is no reason to complain.
    writeln!(io::stdout(), "{}", Harmless(line.as_bytes())).ok();
}

fn complain(text: &str) {
    writeln!(io::stderr(), "{text}").ok();
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
