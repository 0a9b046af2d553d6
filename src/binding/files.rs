//! The files that people write: config, scenarios, bindings. Read anew when one of them changes.
//!
//! What was read is handed out whole, or not at all: one mistake in one file, and all that is handed
//! out is what is wrong, with file, line and words. Whoever holds the last good one keeps it.

use super::setup::Setup;
use super::watch::{Wanted, Watcher};
use crate::base::document::Document;
use crate::base::id::Digest;
use crate::base::limits;
use crate::base::problem::Source;
use crate::rules::{Rules, Scenarios, read_rules};
use crate::scenario;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What the files say.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// All scenarios.
    pub scenarios: Scenarios,
    /// What the config file says of apps.
    pub setup: Setup,
    /// Where the agent keeps what is its own, if the config file says it.
    pub state: Option<PathBuf>,
    /// All bindings: those of the config file's own apps, and those of the bindings file.
    pub rules: Rules,
}

/// What is wrong with the files: each mistake as a compiler would show it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Wrong(pub Vec<String>);

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n\n"))
    }
}

impl std::error::Error for Wrong {}

/// The files, watched.
pub struct Files {
    config: PathBuf,
    watcher: Watcher,
    told: Option<Digest>,
}

// === impl Files ===

impl Files {
    /// The files that this config file names, and it itself. Belongs into a runtime.
    #[must_use]
    pub fn new(config: &Path) -> Self {
        let watcher = Watcher::new(vec![Wanted::File(config.to_owned())]);
        Self { config: config.to_owned(), watcher, told: None }
    }

    /// What the files say: at once the first time, later when it may be different. A secret that
    /// comes or goes counts as a difference, for it is fetched again with them. May be dropped
    /// midway.
    pub async fn next(&mut self) -> Result<Loaded, Wrong> {
        loop {
            if self.told.is_some() {
                self.watcher.changed().await;
            }
            // The config file may name other files by now: read, watch those, and read again what
            // may have been written in between.
            self.watcher.want(wanted(&self.config));
            self.watcher.arm();
            let mut reading = Reading::default();
            let loaded = reading.load(&self.config);
            let told = reading.digest();
            if self.told != Some(told) {
                self.told = Some(told);
                return loaded;
            }
        }
    }
}

/// Reads a config file and all files that it names.
///
/// # Errors
///
/// When anything is wrong with any of them; all mistakes of all files are told.
pub fn load(config: &Path) -> Result<Loaded, Wrong> {
    Reading::default().load(config)
}

/// What a config file names.
#[derive(Default)]
struct Named {
    scenarios: Option<PathBuf>,
    bindings: Option<PathBuf>,
    secrets: Option<PathBuf>,
    state: Option<PathBuf>,
}

fn wanted(config: &Path) -> Vec<Wanted> {
    let document =
        Reading::default().source(config).and_then(|source| Document::parse(source).ok());
    let named = document.as_ref().map(named).unwrap_or_default();
    let files = [Some(config.to_owned()), named.bindings].into_iter().flatten();
    let directories = [named.scenarios, named.secrets].into_iter().flatten();
    files.map(Wanted::File).chain(directories.map(Wanted::Directory)).collect()
}

/// Whether these keys are right is told when all is read.
fn named(document: &Document) -> Named {
    let named = document.read(|root, notes| {
        let mut map = root.map(notes)?;
        let mut path = |key| map.optional::<PathBuf>(key);
        let scenarios = path("scenarios");
        let (bindings, secrets, state) = (path("bindings"), path("secrets"), path("state"));
        Some(Named { scenarios, bindings, secrets, state })
    });
    named.unwrap_or_default()
}

/// One reading of all files.
#[derive(Default)]
struct Reading {
    wrong: Vec<String>,
    /// Everything that was read, to tell it from the next reading.
    seen: Vec<u8>,
}

impl Reading {
    fn load(&mut self, config: &Path) -> Result<Loaded, Wrong> {
        let loaded = self.read(config);
        match loaded {
            Some(loaded) if self.wrong.is_empty() => Ok(loaded),
            _ => Err(Wrong(std::mem::take(&mut self.wrong))),
        }
    }

    fn read(&mut self, config: &Path) -> Option<Loaded> {
        let source = self.source(config)?;
        let document = self.right(Document::parse(source))?;
        let named = named(&document);
        let scenarios = self.scenarios(named.scenarios.as_deref());
        let setup = document.read(|root, notes| {
            let mut map = root.map(notes)?;
            Setup::read(&mut map, notes, &scenarios)
        });
        let setup = self.right(setup);
        let more = match &named.bindings {
            Some(path) => {
                let source = self.source(path)?;
                self.right(read_rules(source, &scenarios))?
            }
            None => Rules::default(),
        };
        self.see_secrets(named.secrets.as_deref());
        let setup = setup?;
        let rules = setup.rules.clone().and(more);
        Some(Loaded { scenarios, setup, state: named.state, rules })
    }

    fn scenarios(&mut self, directory: Option<&Path>) -> Scenarios {
        let mut scenarios = Scenarios::new();
        let Some(directory) = directory else { return scenarios };
        let mut files = match yaml_files(directory) {
            Ok(files) => files,
            Err(error) => {
                self.wrong.push(format!("failed to read {}: {error}", directory.display()));
                return scenarios;
            }
        };
        files.sort();
        for path in files {
            let Some(source) = self.source(&path) else { continue };
            let Some(scenario) = self.right(scenario::read(source)) else { continue };
            let name = scenario.name().clone();
            if scenarios.insert(name.clone(), scenario).is_some() {
                let path = path.display();
                self.wrong.push(format!("{path}: another file has a scenario `{name}`, too"));
            }
        }
        scenarios
    }

    /// Reads a file, within bounds: what is too large is told when it is parsed.
    fn source(&mut self, path: &Path) -> Option<Source> {
        let name = path.display().to_string();
        let mut text = Vec::new();
        let read = File::open(path)
            .and_then(|file| file.take(limits::DOCUMENT_BYTES as u64 + 1).read_to_end(&mut text));
        self.seen.extend(Digest::of(&text).as_bytes());
        self.seen.extend(name.as_bytes());
        if let Err(error) = read {
            self.seen.extend(error.to_string().as_bytes());
            self.wrong.push(format!("failed to read {name}: {error}"));
            return None;
        }
        let is_whole = text.len() <= limits::DOCUMENT_BYTES;
        match String::from_utf8(text) {
            Ok(text) => Some(Source { name, text }),
            Err(error) if !is_whole => {
                let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
                Some(Source { name, text })
            }
            Err(error) => {
                let at = error.utf8_error().valid_up_to();
                self.wrong.push(format!("{name} is no text: byte {at} is not UTF-8"));
                None
            }
        }
    }

    fn right<T, E: fmt::Display>(&mut self, read: Result<T, E>) -> Option<T> {
        read.map_err(|wrong| self.wrong.push(wrong.to_string())).ok()
    }

    /// Secrets are told apart by what the file system says of them, never by what they are.
    fn see_secrets(&mut self, directory: Option<&Path>) {
        let entries = directory.and_then(|directory| fs::read_dir(directory).ok());
        let mut seen: Vec<String> = entries
            .into_iter()
            .flatten()
            .flatten()
            .take(limits::SCENARIOS)
            .map(|entry| {
                let about = entry.metadata().map(|about| {
                    (about.mode(), about.ino(), about.size(), about.mtime(), about.mtime_nsec())
                });
                format!("{} {about:?}", entry.file_name().display())
            })
            .collect();
        seen.sort();
        seen.iter().for_each(|one| self.seen.extend(one.as_bytes()));
    }

    fn digest(&self) -> Digest {
        Digest::of(&self.seen)
    }
}

fn yaml_files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            files.push(path);
        }
    }
    if files.len() > limits::SCENARIOS {
        let message = format!("more than {} scenarios", limits::SCENARIOS);
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    const SOON: Duration = Duration::from_secs(10);
    const NOT: Duration = Duration::from_millis(800);
    const BINDINGS: &str = "bindings:\n  - select: { name: \"*\" }\n    consent: input\n    scenarios: [linux-console]\n";

    fn run<T>(test: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
    }

    struct Device {
        base: tempfile::TempDir,
        files: Files,
    }

    impl Device {
        fn new() -> Self {
            let base = tempfile::tempdir().unwrap();
            let device = |path: &str| base.path().join(path);
            fs::create_dir(device("scenarios")).unwrap();
            fs::copy("scenarios/linux-console.yaml", device("scenarios/linux-console.yaml"))
                .unwrap();
            let config = "device: d-1\nscenarios: scenarios\nbindings: bindings.yaml\n\
                          secrets: secrets\ndiscover: [eve]\n";
            fs::write(device("agent.yaml"), config).unwrap();
            fs::write(device("bindings.yaml"), BINDINGS).unwrap();
            let files = Files::new(&device("agent.yaml"));
            Self { base, files }
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.base.path().join(path);
            let beside = path.with_extension("new");
            fs::write(&beside, text).unwrap();
            fs::rename(beside, path).unwrap();
        }

        async fn next(&mut self) -> Result<Loaded, String> {
            let loaded = timeout(SOON, self.files.next()).await.expect("a change wakes");
            loaded.map_err(|wrong| {
                wrong.to_string().replace(&self.base.path().display().to_string(), "DIR")
            })
        }
    }

    #[test]
    fn files_are_read_anew_whole_or_not_at_all() {
        run(async {
            let mut device = Device::new();
            let loaded = device.next().await.unwrap();
            assert_eq!((loaded.rules.len(), loaded.scenarios.len()), (1, 1));
            timeout(NOT, device.files.next()).await.unwrap_err();

            device.write("bindings.yaml", &format!("{BINDINGS}    adresses: []\n"));
            device.write("scenarios/broken.yaml", "scenario: broken\nprobe: []\n");
            let wrong = device.next().await.unwrap_err();
            insta::assert_snapshot!(wrong);

            fs::remove_file(device.base.path().join("scenarios/broken.yaml")).unwrap();
            device.write("bindings.yaml", &BINDINGS.replace("input", "nmi"));
            assert!(device.next().await.is_ok());
        });
    }

    #[test]
    fn a_scenario_and_a_secret_that_change_are_seen() {
        run(async {
            let mut device = Device::new();
            device.next().await.unwrap();
            let text = fs::read_to_string("scenarios/linux-console.yaml").unwrap();
            device.write("scenarios/linux-console.yaml", &format!("{text}\n# changed\n"));
            device.next().await.unwrap();
            fs::create_dir(device.base.path().join("secrets")).unwrap();
            device.write("secrets/web", "hunter2");
            device.next().await.unwrap();
        });
    }

    #[test]
    fn a_file_that_is_missing_is_named_and_found_later() {
        run(async {
            let mut device = Device::new();
            fs::remove_file(device.base.path().join("bindings.yaml")).unwrap();
            let wrong = device.next().await.unwrap_err();
            assert!(wrong.starts_with("failed to read DIR/bindings.yaml: "), "{wrong}");
            device.write("bindings.yaml", BINDINGS);
            device.next().await.unwrap();
        });
    }

    #[test]
    fn what_nobody_wrote_by_hand_is_refused() {
        run(async {
            let mut device = Device::new();
            device.write("bindings.yaml", &"# large\n".repeat(2 << 17));
            let wrong = device.next().await.unwrap_err();
            assert!(wrong.contains("the file is too large"), "{wrong}");
            fs::write(device.base.path().join("bindings.yaml"), b"a\xff").unwrap();
            let wrong = device.next().await.unwrap_err();
            assert_eq!(wrong, "DIR/bindings.yaml is no text: byte 1 is not UTF-8");
            let text = fs::read_to_string("scenarios/linux-console.yaml").unwrap();
            device.write("scenarios/twice.yaml", &text);
            device.write("bindings.yaml", BINDINGS);
            let wrong = device.next().await.unwrap_err();
            assert!(wrong.ends_with("another file has a scenario `linux-console`, too"), "{wrong}");
        });
    }
}
