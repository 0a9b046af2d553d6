//! The controller's command line.
//!
//! Parses what was typed, reads the config, and leaves the rest to [`lifesign::controller`]. Only
//! here is anything printed: results to stdout, and what went wrong to stderr with its causes.

use anyhow::{Context, anyhow};
use clap::{Args, Parser, Subcommand};
use lifesign::base::endpoint::BrokerUrl;
use lifesign::base::id::{DeviceId, DumpName};
use lifesign::base::problem::{Problems, Source};
use lifesign::base::time::Clock;
use lifesign::controller::config::Config;
use lifesign::controller::publish::{self, Files, PublishError};
use lifesign::controller::{dumps, run, show};
use lifesign::telemetry::{logs, signal};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Receives what devices report of virtual machines that stopped answering, and tells why.
#[derive(Parser)]
#[command(name = "lifesign-controller", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Receive, until SIGTERM or SIGINT
    Run {
        /// The config file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Use this broker, whatever the config says: mqtts://host:port, or mqtt:// without TLS
        #[arg(long, value_name = "URL")]
        broker: Option<BrokerUrl>,
    },
    /// List incidents, newest first
    Incidents {
        #[command(flatten)]
        place: Place,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show one incident: the verdict, the facts, what was tried and what was collected
    Show {
        /// The incident, or as many of its first digits as tell it from others
        #[arg(value_name = "ID")]
        id: String,
        #[command(flatten)]
        place: Place,
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Write the bytes of this artifact to stdout, as they were collected
        #[arg(long, value_name = "NAME", conflicts_with = "json")]
        artifact: Option<String>,
    },
    /// Write the sealed bundle of an incident to a file, byte for byte as the device sealed it
    Export {
        /// The incident, or as many of its first digits as tell it from others
        #[arg(value_name = "ID")]
        id: String,
        /// The file; it must not exist yet
        #[arg(value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        place: Place,
    },
    /// Say which scenarios devices run: publish it, see what became of it, withdraw it
    #[command(subcommand)]
    Bindings(Bindings),
    /// Have the dumps of guests' memory that devices keep: see which there are, ask for one, save it
    #[command(subcommand)]
    Dumps(Dumps),
}

#[derive(Subcommand)]
enum Dumps {
    /// List the dumps that devices say they keep, and what has come of those that were asked for
    List {
        /// The controller's config file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Ask a device for a dump
    ///
    /// The running controller says it to the device, which sends the dump behind everything else, and
    /// goes on wherever it was interrupted. `list` tells how far it is.
    Request {
        #[command(flatten)]
        which: Which,
    },
    /// Take a request back, and remove what is here of the dump
    Cancel {
        #[command(flatten)]
        which: Which,
    },
    /// Write a dump that is here to a file
    Save {
        #[command(flatten)]
        which: Which,
        /// The file; it must not exist yet
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

/// Which dump.
#[derive(Args)]
struct Which {
    /// The device
    #[arg(value_name = "DEVICE")]
    device: DeviceId,
    /// What the dump is called there
    #[arg(value_name = "NAME")]
    name: DumpName,
    /// The controller's config file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

#[derive(Subcommand)]
enum Bindings {
    /// Check a bindings file, sign it for each device, and have the running controller say it
    ///
    /// What a device would refuse is refused here, in the same words, and nothing is published. The
    /// bindings replace all that was published for these devices before. If no controller runs now,
    /// the next one says it.
    Publish {
        /// For this device; may be given several times
        #[arg(long, value_name = "NAME", required_unless_present = "all", conflicts_with = "all")]
        device: Vec<DeviceId>,
        /// For every enrolled device
        #[arg(long)]
        all: bool,
        /// A scenario that the bindings name; may be given several times. Those that a device has
        /// itself are not meant
        #[arg(long, value_name = "FILE")]
        scenario: Vec<PathBuf>,
        /// The bindings file
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// The controller's config file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Show what is published for a device, what is in force there, and why not
    Show {
        /// The device
        #[arg(value_name = "DEVICE")]
        device: DeviceId,
        /// The controller's config file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Withdraw all that was published for a device; its own bindings stay
    Withdraw {
        /// The device
        #[arg(value_name = "DEVICE")]
        device: DeviceId,
        /// The controller's config file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
}

/// Where the controller keeps what it received.
#[derive(Args)]
#[group(required = true, multiple = false)]
struct Place {
    /// The controller's data directory
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The config file that names it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

fn main() -> ExitCode {
    match execute(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads us has seen enough, as `head` does.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // If stderr is gone, too, only the exit code is left to tell.
            drop(writeln!(io::stderr().lock(), "{}", complaint(&error)));
            ExitCode::FAILURE
        }
    }
}

/// Mistakes in a file are shown as a compiler shows them, which leaves no room before them.
fn complaint(error: &anyhow::Error) -> String {
    if let Some(problems) = error.downcast_ref::<Problems>() {
        let terminal = io::stderr().is_terminal();
        return if terminal { problems.coloured() } else { problems.to_string() };
    }
    match error.downcast_ref::<PublishError>() {
        Some(wrong @ PublishError::Wrong(_)) => wrong.to_string(),
        Some(_) | None => format!("lifesign-controller: {error:#}"),
    }
}

fn execute(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Run { config, broker } => receive(&config, broker),
        Command::Incidents { place, json } => {
            let data = place.data()?;
            print(&if json {
                show::incidents_json(&data)?
            } else {
                show::incidents(&data, style())?
            })
        }
        Command::Show { id, place, json, artifact } => {
            let data = place.data()?;
            if let Some(name) = artifact {
                return write(&show::artifact(&data, &id, &name)?);
            }
            let text = if json {
                show::incident_json(&data, &id)?
            } else {
                show::incident(&data, &id, style())?
            };
            print(&text)
        }
        Command::Export { id, file, place } => export(&place.data()?, &id, &file),
        Command::Bindings(command) => bindings(command),
        Command::Dumps(command) => dumps(command),
    }
}

fn receive(path: &Path, broker: Option<BrokerUrl>) -> anyhow::Result<()> {
    let config = read(path, broker)?;
    logs::start(&config.log)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start the runtime")?;
    let ended = runtime.block_on(run::run(config, async {
        let _signal = signal::stopped().await;
    }));
    // The worker may be in a commit; it gets another moment, then the process ends around it,
    // which the store is made for.
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(ended?)
}

fn bindings(command: Bindings) -> anyhow::Result<()> {
    match command {
        Bindings::Publish { device, all, scenario, file, config } => {
            let config = read(&config, None)?;
            let files = Files::read(&file, &scenario)?;
            let devices =
                if all { publish::everybody(&config)? } else { publish::these(&config, device)? };
            for warning in files.warnings() {
                drop(writeln!(io::stderr().lock(), "warning: {warning}"));
            }
            let published = publish::publish(&config, &files, &devices, Clock::wall())?;
            let line =
                |(device, sequence)| format!("{device}: bindings {sequence} are published\n");
            print(&published.into_iter().map(line).collect::<String>())
        }
        Bindings::Show { device, config } => {
            let config = read(&config, None)?;
            let key = publish::key(&config)?;
            print(&show::bindings(&config.data, &device, &key, style())?)
        }
        Bindings::Withdraw { device, config } => {
            let config = read(&config, None)?;
            let sequence = publish::withdraw(&config, &device, Clock::wall())?;
            print(&format!("{device}: bindings {sequence} are published, which bind nothing\n"))
        }
    }
}

fn dumps(command: Dumps) -> anyhow::Result<()> {
    let now = Clock::wall();
    match command {
        Dumps::List { config } => {
            let config = read(&config, None)?;
            print(&show::dumps(&dumps::list(&config)?, style()))
        }
        Dumps::Request { which: Which { device, name, config } } => {
            dumps::request(&read(&config, None)?, &device, &name, now)?;
            print(&format!("{device}: {name} is asked for\n"))
        }
        Dumps::Cancel { which: Which { device, name, config } } => {
            dumps::cancel(&read(&config, None)?, &device, &name, now)?;
            print(&format!("{device}: {name} is not asked for any more\n"))
        }
        Dumps::Save { which: Which { device, name, config }, file } => {
            Ok(dumps::save(&read(&config, None)?.data, &device, &name, &file)?)
        }
    }
}

fn export(data: &Path, id: &str, file: &Path) -> anyhow::Result<()> {
    let sealed = show::sealed(data, id)?;
    let write = || -> io::Result<()> {
        let mut target = std::fs::File::create_new(file)?;
        target.write_all(&sealed)?;
        target.sync_all()
    };
    write().with_context(|| format!("failed to write {}", file.display()))
}

fn read(path: &Path, broker: Option<BrokerUrl>) -> anyhow::Result<Config> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("failed to read the config {name}"))?;
    Ok(Config::read(Source { name, text }, broker)?)
}

impl Place {
    fn data(self) -> anyhow::Result<PathBuf> {
        match (self.data, self.config) {
            (Some(data), _) => Ok(data),
            (None, Some(config)) => Ok(read(&config, None)?.data),
            (None, None) => Err(anyhow!("give --data or --config")),
        }
    }
}

fn style() -> show::Style {
    show::Style { colour: io::stdout().is_terminal(), now: Clock::wall() }
}

fn print(text: &str) -> anyhow::Result<()> {
    write(text.as_bytes())
}

fn write(bytes: &[u8]) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).context("failed to write to stdout")
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
