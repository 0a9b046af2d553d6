//! The thread that reads: a look takes a CPU for a while, and must not hold up whoever else captures.

use super::gaze::GazeError;
use super::learnt;
use crate::base::time::Clock;
use crate::evidence::memory::Memory;
use crate::hypervisor::ram::{Placed, Ram};
use crate::kernel::look::{Outside, look};
use crate::kernel::machine::Registers;
use crate::kernel::memory::{Fault, Memory as Physical};
use crate::kernel::{Kernel, OpenError, Sample};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, timeout, timeout_at};

/// From being told to stop until the end of it: a read is over in microseconds, but on a busy host a
/// thread may wait for its turn.
const STOPPING: Duration = Duration::from_secs(2);

/// Where the guest's RAM is.
pub(super) enum Place {
    /// The monitor told.
    Told { pid: u32, placed: Vec<Placed> },
    /// Nobody told.
    Searched { pid: u32 },
}

/// What is known from outside at the second look.
pub(super) struct Second {
    pub(super) registers: Vec<(u32, Registers)>,
    /// What CPUs do not do then is not their fault.
    pub(super) is_paused: bool,
}

/// A thread that has looked once, or will have.
pub(super) struct Reader {
    first: oneshot::Receiver<Instant>,
    second: oneshot::Sender<Second>,
    done: JoinHandle<Result<Memory, GazeError>>,
    stop: Stop,
}

/// Ends the reading when it is dropped: nobody waits for it any more.
struct Stop(Arc<AtomicBool>);

impl Reader {
    /// `learnt` is the file for what is learnt of this guest's kernel.
    pub(super) fn start(place: Place, cpus: Vec<Registers>, learnt: Option<PathBuf>) -> Self {
        let (looked, first) = oneshot::channel();
        let (second, asked) = oneshot::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let done = spawn_blocking(move || {
            let turns = Turns { looked, asked, stopped: &stopped, learnt };
            turns.take(&place, &cpus)
        });
        Self { first, second, done, stop: Stop(stop) }
    }

    /// When the first look was over.
    pub(super) async fn first(&mut self) -> Result<Instant, GazeError> {
        if let Ok(at) = (&mut self.first).await {
            return Ok(at);
        }
        // It has ended without one.
        match (&mut self.done).await {
            Ok(Err(error)) => Err(error),
            Ok(Ok(_)) | Err(_) => Err(GazeError::Broken),
        }
    }

    /// The second look, and whether there was time for all of it.
    pub(super) async fn finish(
        self,
        second: Second,
        deadline: Instant,
    ) -> Result<(Memory, bool), GazeError> {
        let Self { second: ask, mut done, stop, .. } = self;
        // Nobody listens where the thread is gone, which is seen below.
        ask.send(second).ok();
        let ended = match timeout_at(deadline, &mut done).await {
            Ok(ended) => ended,
            Err(_) => {
                stop.0.store(true, Relaxed);
                timeout(STOPPING, &mut done).await.map_err(|_| GazeError::Late)?
            }
        };
        let mut memory = ended.map_err(|_| GazeError::Broken)??;
        let is_whole = !stop.0.load(Relaxed);
        if !is_whole {
            memory.doubts.push("there was no time to read all of it".to_owned());
        }
        Ok((memory, is_whole))
    }
}

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// What the thread says, hears, and heeds.
struct Turns<'s> {
    looked: oneshot::Sender<Instant>,
    asked: oneshot::Receiver<Second>,
    stopped: &'s AtomicBool,
    learnt: Option<PathBuf>,
}

impl Turns<'_> {
    fn take(self, place: &Place, cpus: &[Registers]) -> Result<Memory, GazeError> {
        let guesses = match place {
            Place::Told { pid, placed } => Ram::of_process(*pid, placed).map(|ram| vec![ram]),
            Place::Searched { pid } => Ram::guesses(*pid),
        };
        let learnt = self.learnt.as_deref().and_then(learnt::read);
        let mut failed = OpenError::NotFound;
        for ram in guesses.map_err(GazeError::Ram)? {
            let ram = Heeding { ram, stopped: self.stopped };
            let opened = match &learnt {
                Some(learnt) => Kernel::open_again(&ram, cpus, learnt),
                None => Kernel::open(&ram, cpus),
            };
            match opened {
                Ok(kernel) => return self.look_twice(&kernel),
                Err(error) => failed = error,
            }
        }
        Err(GazeError::Open(failed))
    }

    fn look_twice(self, kernel: &Kernel<'_>) -> Result<Memory, GazeError> {
        let first = Sample::take(kernel).unwrap_or_default();
        let since = Clock::now();
        // Whoever does not listen any more does not ask any more either.
        self.looked.send(Instant::now()).ok();
        if let (Some(path), Some(learnt)) = (&self.learnt, kernel.learnt()) {
            learnt::keep(path, learnt);
        }
        let Second { registers, is_paused } =
            self.asked.blocking_recv().map_err(|_| GazeError::Late)?;
        let before = (!is_paused).then(|| (&first, Clock::now().since(since)));
        Ok(look(kernel, Outside { registers: &registers, before }))
    }
}

/// RAM of which nothing more can be read once nobody waits for it.
struct Heeding<'s, M> {
    ram: M,
    stopped: &'s AtomicBool,
}

impl<M: Physical> Physical for Heeding<'_, M> {
    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Fault> {
        if self.stopped.load(Relaxed) {
            return Err(Fault::Spent);
        }
        self.ram.read(at, into)
    }

    fn ranges(&self) -> Vec<Range<u64>> {
        self.ram.ranges()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::faulty::Sparse;
    use crate::kernel::tests::kernel;

    /// Looks twice at a guest with one CPU that does nothing.
    fn looked(second: Option<Second>) -> Result<Memory, GazeError> {
        let mut ram = Sparse::default();
        let names = ["nr_cpu_ids", "__cpu_online_mask", "__per_cpu_offset", "runqueues"];
        let symbols: Vec<(&'static str, u64)> =
            names.into_iter().zip([0x1000, 0x2000, 0x3000, 0x4000]).collect();
        for ((_, at), word) in symbols.iter().zip([1_u64, 1, 0, 0]) {
            ram.write(*at, &word.to_le_bytes());
        }
        let ((looked, _first), (ask, asked)) = (oneshot::channel(), oneshot::channel());
        match second {
            Some(second) => ask.send(second).ok().unwrap(),
            None => drop(ask),
        }
        let stopped = AtomicBool::new(false);
        let turns = Turns { looked, asked, stopped: &stopped, learnt: None };
        turns.look_twice(&kernel(&ram, 1000, &symbols))
    }

    #[test]
    fn what_a_cpu_did_is_told_unless_the_guest_was_paused() {
        let progress = |is_paused| {
            let memory = looked(Some(Second { registers: Vec::new(), is_paused })).unwrap();
            let [cpu] = &memory.cpus[..] else { panic!("{:?}", memory.cpus) };
            cpu.progress
        };
        assert!(progress(false).is_some());
        assert_eq!(progress(true), None);
    }

    #[test]
    fn who_is_not_asked_again_ends() {
        assert!(matches!(looked(None), Err(GazeError::Late)));
    }

    #[test]
    fn nobody_who_waits_is_nothing_to_read() {
        let mut ram = Sparse::default();
        ram.write(0x1000, b"word");
        let stopped = Arc::new(AtomicBool::new(false));
        let stop = Stop(Arc::clone(&stopped));
        let ram = Heeding { ram, stopped: &stopped };
        let mut word = [0; 4];
        assert_eq!((ram.read(0x1000, &mut word), &word), (Ok(()), b"word"));
        drop(stop);
        assert_eq!(ram.read(0x1000, &mut word), Err(Fault::Spent));
    }
}
