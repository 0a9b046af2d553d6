//! The dumps that this device keeps: the controller is told of them, and may have those that it asks for
//! as far as the config lets it.
//!
//! ```text
//!   store --list--> sealed --> status                       (whenever it changes)
//!     |
//!     +--file--> its SHA-256 is checked --> lent --> upload
//!                          ^                  |
//!        wishes in force --+                  +--> taken back when the file or the wish is gone,
//!                                                  or the file is not what it was
//! ```
//!
//! The store gives a dump its digest when it is taken; it is checked once before the first byte is sent,
//! for a disk may err and a gigabyte is dear. The file is read a piece at a time, and never held.

use super::assignment::Report;
use super::config::Config;
use super::incident::Desk;
use crate::base::id::{DeviceId, Digest, DumpName};
use crate::bundle::{Dump, KeptDumps};
use crate::spool::kept::{Item, Kept};
use crate::telemetry::signal;
use crate::upload::{self, Lent};
use ring::digest::{Context, SHA256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::spawn_blocking;

/// How often the store is looked at: a directory with a handful of files.
const LOOK: Duration = Duration::from_secs(5);

/// What is read at once to check a file.
const PIECE: usize = 256 * 1024;

/// Tells the controller of dumps, and lends those that it wishes to have.
pub(super) struct Lender {
    /// Nothing, if it cannot be opened.
    kept: Option<Kept>,
    /// Whether the config lets the controller have any.
    on_request: bool,
    desk: Arc<Desk>,
    /// What the controller wishes to have.
    report: watch::Receiver<Report>,
    told: watch::Sender<Vec<u8>>,
    loans: Loans,
}

/// What comes of it.
pub(super) struct Lending {
    /// What the controller may have.
    pub(super) lent: watch::Receiver<Lent>,
    /// What it is told of the store, sealed.
    pub(super) told: watch::Receiver<Vec<u8>>,
}

/// What is lent now.
struct Loans {
    lent: watch::Sender<Lent>,
    checked: BTreeMap<DumpName, Checked>,
}

/// A file that was checked.
struct Checked {
    stamp: Stamp,
    /// Nothing, if it is not what the store says.
    file: Option<Arc<File>>,
}

/// What a file was when it was checked. Another one under its name, or a later time, is checked anew.
type Stamp = (u64, u64, u64, i64, i64);

impl Lender {
    pub(super) fn new(
        config: &Config,
        desk: Arc<Desk>,
        report: watch::Receiver<Report>,
    ) -> (Self, Lending) {
        let on_request = config.controller.as_ref().is_some_and(|controller| controller.dumps);
        let (lending, lent) = watch::channel(Lent::default());
        let (telling, told) = watch::channel(Vec::new());
        let loans = Loans { lent: lending, checked: BTreeMap::new() };
        let kept = desk.kept.clone();
        let lender = Self { kept, on_request, desk, report, told: telling, loans };
        (lender, Lending { lent, told })
    }

    /// Lends until it is told to stop. Nothing is written here, so it may be dropped at any moment.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        tokio::select! {
            biased;
            () = signal::told(&mut stop) => {}
            () = self.lend() => {}
        }
    }

    async fn lend(&mut self) {
        let mut told = None;
        loop {
            let items = match &self.kept {
                Some(kept) => list(kept).await,
                None => Vec::new(),
            };
            if told.as_ref() != Some(&items) {
                self.tell(&items);
                told = Some(items.clone());
            }
            let report = self.report.borrow_and_update().clone();
            if let Some(kept) = &self.kept {
                self.loans.look(kept, &items, &report).await;
            }
            tokio::select! {
                biased;
                Ok(()) = self.report.changed() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    fn tell(&self, items: &[Item]) {
        let device = self.desk.device.clone();
        match self.desk.signer.seal_kept(&told(device, self.on_request, items)) {
            Ok(sealed) => drop(self.told.send_replace(sealed)),
            Err(error) => tracing::warn!("the list of dumps cannot be sealed: {error}"),
        }
    }
}

impl Loans {
    /// Checks what is wished for, one after the other, and lends what is right.
    async fn look(&mut self, kept: &Kept, items: &[Item], report: &Report) {
        let is_wished = |item: &&Item| report.dumps.contains(&item.sha256);
        let wished: Vec<&Item> = items.iter().filter(is_wished).collect();
        self.checked.retain(|name, _| wished.iter().any(|item| item.name == *name));
        let mut lent = Vec::new();
        for item in wished {
            let opened = kept.reader(&item.name).and_then(|file| Ok((stamp(&file)?, file)));
            let Ok((stamp, file)) = opened else { continue };
            if self.checked.get(&item.name).is_none_or(|checked| checked.stamp != stamp) {
                // What was lent of it before is taken back first.
                self.offer(report.sequence, &lent);
                let file = check(item, file).await;
                self.checked.insert(item.name.clone(), Checked { stamp, file });
            }
            let file = self.checked.get(&item.name).and_then(|checked| checked.file.clone());
            let (digest, bytes) = (item.sha256, item.bytes);
            lent.extend(file.map(|file| upload::Dump { digest, bytes, file }));
        }
        self.offer(report.sequence, &lent);
    }

    fn offer(&self, sequence: u64, dumps: &[upload::Dump]) {
        self.lent.send_if_modified(|lent| {
            let same = |(a, b): (&upload::Dump, &upload::Dump)| Arc::ptr_eq(&a.file, &b.file);
            let as_before =
                lent.dumps.len() == dumps.len() && lent.dumps.iter().zip(dumps).all(same);
            let changed = lent.sequence != sequence || !as_before;
            *lent = Lent { sequence, dumps: dumps.to_vec() };
            changed
        });
    }
}

/// What the store has. One that cannot be read has nothing to lend now.
async fn list(kept: &Kept) -> Vec<Item> {
    let kept = kept.clone();
    match blocking(move || kept.list()).await {
        Ok(items) => items,
        Err(error) => {
            tracing::warn!("the dumps cannot be listed: {error}");
            Vec::new()
        }
    }
}

async fn check(item: &Item, file: File) -> Option<Arc<File>> {
    let (name, file) = (&item.name, Arc::new(file));
    match digest(Arc::clone(&file)).await {
        Ok(found) if found == item.sha256 => {
            tracing::info!(dump = %name, bytes = item.bytes, "the controller may have a dump");
            Some(file)
        }
        Ok(found) => {
            tracing::error!(dump = %name, %found, "a dump is not what it was: it is not sent");
            None
        }
        Err(error) => {
            tracing::error!(dump = %name, "a dump cannot be read, and is not sent: {error}");
            None
        }
    }
}

fn told(device: DeviceId, on_request: bool, items: &[Item]) -> KeptDumps {
    let dump = |item: &Item| Dump {
        name: item.name.clone(),
        app: item.app.clone(),
        bytes: item.bytes,
        sha256: item.sha256,
        format: item.format.clone(),
        taken: item.taken,
    };
    KeptDumps { device, on_request, dumps: items.iter().map(dump).collect() }
}

fn stamp(file: &File) -> io::Result<Stamp> {
    let known = file.metadata()?;
    Ok((known.dev(), known.ino(), known.len(), known.mtime(), known.mtime_nsec()))
}

/// Of a whole file, a piece at a time, so that the program can stop in between.
async fn digest(file: Arc<File>) -> io::Result<Digest> {
    let mut state = (Context::new(&SHA256), 0_u64, vec![0; PIECE]);
    loop {
        let file = Arc::clone(&file);
        let (count, after) = blocking(move || {
            let (context, at, piece) = &mut state;
            let count = file.read_at(piece, *at)?;
            context.update(&piece[..count]);
            *at += count as u64;
            io::Result::Ok((count, state))
        })
        .await?;
        state = after;
        if count == 0 {
            return Digest::try_from(state.0.finish().as_ref()).map_err(io::Error::other);
        }
    }
}

async fn blocking<T: Send + 'static>(
    act: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    match spawn_blocking(act).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::Timestamp;
    use crate::spool::kept::{Facts, Quota};
    use std::io::Write;
    use std::time::SystemTime;
    use tempfile::TempDir;

    /// A store with two dumps, and what is lent of them.
    struct Store {
        directory: TempDir,
        kept: Kept,
        items: Vec<Item>,
        loans: Loans,
        lent: watch::Receiver<Lent>,
    }

    impl Store {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let quota = Quota { bytes: Some(1 << 30), dumps: 9 };
            let kept = Kept::open(directory.path(), quota, 0).unwrap();
            for (name, byte) in [("web-1", 1), ("web-2", 2)] {
                let begun = kept.begin(name.parse().unwrap(), 3 << 20).unwrap();
                begun.file().write_all(&vec![byte; 5 << 19]).unwrap();
                let (app, format) = ("web".to_owned(), "elf".to_owned());
                let taken = Timestamp::from_millis(i64::from(byte));
                begun.finish(Facts { app, taken, format, ram: 1 }).unwrap();
            }
            let (lending, lent) = watch::channel(Lent::default());
            let loans = Loans { lent: lending, checked: BTreeMap::new() };
            let items = kept.list().unwrap();
            Self { directory, kept, items, loans, lent }
        }

        /// What is lent after a look, and whether the upload is told.
        async fn look(&mut self, sequence: u64, wished: &[usize]) -> (Vec<Digest>, bool) {
            let dumps = wished.iter().map(|at| self.items[*at].sha256).collect();
            let report = Report { sequence, refused: String::new(), dumps };
            let items = self.kept.list().unwrap();
            self.loans.look(&self.kept, &items, &report).await;
            let told = self.lent.has_changed().unwrap();
            let lent = self.lent.borrow_and_update();
            (lent.dumps.iter().map(|dump| dump.digest).collect(), told)
        }

        /// Writes into a dump, at a time that is told apart from others.
        fn overwrite(&self, name: &str, bytes: &[u8], seconds: u64) {
            let path = self.directory.path().join(name).with_extension("dump");
            let mut file = File::options().write(true).open(path).unwrap();
            file.write_all(bytes).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
        }
    }

    #[tokio::test]
    async fn what_is_wished_for_is_lent_until_it_is_not() {
        let mut store = Store::new();
        let [one, two] = [store.items[0].sha256, store.items[1].sha256];
        assert_eq!(store.look(0, &[]).await, (vec![], false));
        assert_eq!(store.look(1, &[1]).await, (vec![two], true));
        assert_eq!(store.look(1, &[1]).await, (vec![two], false), "nothing is told twice");
        assert_eq!(store.look(2, &[1, 0]).await, (vec![one, two], true));
        // The same wishes in another message: the upload is to offer them again.
        assert_eq!(store.look(3, &[1, 0]).await, (vec![one, two], true));
        store.kept.remove(&store.items[0].name).unwrap();
        assert_eq!(store.look(3, &[1, 0]).await, (vec![two], true));
        assert_eq!(store.look(4, &[]).await, (vec![], true));
        assert!(store.loans.checked.is_empty(), "no file is held that nobody wishes to have");
    }

    #[tokio::test]
    async fn what_is_not_what_it_was_is_taken_back() {
        let mut store = Store::new();
        let [one, two] = [store.items[0].sha256, store.items[1].sha256];
        assert_eq!(store.look(1, &[0, 1]).await.0, [one, two]);
        store.overwrite("web-1", &[7], 7);
        assert_eq!(store.look(1, &[0, 1]).await, (vec![two], true));
        assert_eq!(store.look(1, &[0, 1]).await, (vec![two], false));
        // As large as it was, and right again.
        store.overwrite("web-1", &[1], 8);
        assert_eq!(store.look(1, &[0, 1]).await, (vec![one, two], true));
    }
}
