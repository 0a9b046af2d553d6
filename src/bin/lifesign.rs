//! The device agent's command line.

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use lifesign::agent::{config, incident, probe, run};
use lifesign::base::chain::Chain;
use lifesign::base::problem::Source;
use lifesign::base::text::Harmless;
use lifesign::base::time::Clock;
use lifesign::binding::Binding;
use lifesign::capture::{self, Budget};
use lifesign::diagnosis::diagnose;
use lifesign::evidence::Evidence;
use lifesign::evidence::rounds::{Round, Rounds};
use lifesign::{scenario, telemetry};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

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
    /// Ask an app's probes once, now
    Probe {
        #[command(flatten)]
        config: ConfigFile,
        /// Name or UUID of the app
        app: String,
    },
    /// Collect an app's evidence now, as an incident would, and say what it shows
    Capture {
        #[command(flatten)]
        config: ConfigFile,
        /// Name or UUID of the app
        app: String,
        /// Write each artifact into this directory
        #[arg(long, value_name = "DIR")]
        output: Option<PathBuf>,
    },
    /// Read scenario files and tell every mistake
    Lint {
        /// The files
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
}

#[derive(clap::Args)]
struct ConfigFile {
    /// The agent's config file
    #[arg(long, value_name = "FILE", default_value = "/etc/lifesign/agent.yaml")]
    config: PathBuf,
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
            runtime.block_on(run::run(config))?;

            Ok(ExitCode::SUCCESS)
        }
        Command::Check(file) => {
            let config = config::read(&file.config)?;
            say(&format!("{}: {} apps, no mistakes", file.config.display(), config.apps.len()));
            Ok(ExitCode::SUCCESS)
        }
        Command::Probe { config, app } => {
            let binding = find(&config.config, &app)?;
            Ok(runtime.block_on(probe_once(&binding)))
        }
        Command::Capture { config, app, output } => {
            let binding = find(&config.config, &app)?;
            runtime.block_on(capture_once(&binding, output.as_deref()))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Lint { files } => lint(&files),
    }
}

fn find(config: &Path, app: &str) -> Result<Binding> {
    let config = config::read(config)?;
    let names: Vec<String> = config.apps.iter().map(|binding| binding.app.name.clone()).collect();
    let found = config
        .apps
        .into_iter()
        .find(|binding| binding.app.name == app || binding.app.id.to_string() == app);
    match found {
        Some(binding) => Ok(binding),
        None => bail!("no app `{app}` is bound; there are: {}", names.join(", ")),
    }
}

/// Exit code 0: alive. 1: dead. 2: cannot be told.
async fn probe_once(binding: &Binding) -> ExitCode {
    use lifesign::base::rung::Answer;
    let mut code = ExitCode::from(2);
    for scenario in &binding.scenarios {
        for question in scenario.probes() {
            let answers = probe::ask(&binding.app, question, scenario.timing().timeout).await;
            for (index, probe) in answers.iter().enumerate() {
                let (name, answer) = (&probe.name, probe.answer);
                say(&format!("{name:<10} {answer:<8} {:>6} ms  {}", probe.took_ms, probe.reason));
                code = match (index, answer) {
                    (0, Answer::Alive) => return ExitCode::SUCCESS,
                    (0, Answer::Dead) => ExitCode::FAILURE,
                    _ => code,
                };
            }
        }
    }
    code
}

async fn capture_once(binding: &Binding, output: Option<&Path>) -> Result<()> {
    let Some(scenario) = binding.scenarios.first() else {
        bail!("the app has no scenario, so there is nothing to collect");
    };
    let budget = scenario.budget();
    let budget = Budget { time: budget.time, bytes: budget.bytes };
    let target = incident::target(&binding.app);
    let before = capture::look(&target).await;
    let mut round = Round { at: Clock::wall(), probes: Vec::new() };
    for question in scenario.probes() {
        let timeout = scenario.timing().timeout;
        round.probes.extend(probe::ask(&binding.app, question, timeout).await);
    }
    let mut captured = capture::capture(&target, scenario.diagnose(), before, budget).await;
    captured.artifacts.push(Rounds { rounds: vec![round] }.to_artifact());
    for step in &captured.steps {
        let (outcome, took) = (step.outcome.word(), step.took_ms);
        say(&format!(
            "{:<34} {outcome:<8} {took:>6} ms {:>8} bytes  {}",
            step.name, step.bytes, step.reason
        ));
    }
    let diagnosis = diagnose(&Evidence::read(&captured.artifacts));
    say(&format!(
        "\n{} ({}, confidence {})",
        diagnosis.title, diagnosis.class, diagnosis.confidence
    ));
    diagnosis.facts_for.iter().for_each(|fact| say(&format!("  + {fact}")));
    diagnosis.facts_against.iter().for_each(|fact| say(&format!("  - {fact}")));
    let Some(directory) = output else { return Ok(()) };
    std::fs::create_dir_all(directory)
        .with_context(|| format!("failed to make {}", directory.display()))?;
    for artifact in &captured.artifacts {
        let path = directory.join(artifact.label());
        std::fs::write(&path, &artifact.data)
            .with_context(|| format!("failed to write {}", path.display()))?;
    }
    Ok(())
}

fn lint(files: &[PathBuf]) -> Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for file in files {
        let name = file.display().to_string();
        let text =
            std::fs::read_to_string(file).with_context(|| format!("failed to read {name}"))?;
        match scenario::read(Source { name: name.clone(), text }) {
            Ok(scenario) => say(&format!("{name}: {}", scenario.summary())),
            Err(problems) => {
                let coloured = io::stderr().is_terminal();
                complain(&if coloured { problems.coloured() } else { problems.to_string() });
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

/// Prints a line. What we print may hold words of a guest.
fn say(line: &str) {
    // A reader that went away (`| head`) is no reason to complain.
    writeln!(io::stdout(), "{}", Harmless(line.as_bytes())).ok();
}

fn complain(text: &str) {
    writeln!(io::stderr(), "{text}").ok();
}
