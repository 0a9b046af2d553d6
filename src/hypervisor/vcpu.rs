//! Whether a guest's CPUs execute anything.
//!
//! Pure: judges samples that the hypervisor gave without the guest's notice. One sample says little,
//! and two that are close say little more: an idle guest's clock may stand still for a second. So it
//! takes two and [`SPAN`] between the first and the last.
//!
//! ```text
//!   sleeps until an interrupt, and takes them             alive
//!   took interrupts, and ran                              alive
//!   moved on                                              alive
//!   in one place, interrupts off, busy all along          dead: it spins
//!   sleeps, interrupts off, in every sample               parked: says nothing of the others
//! ```
//!
//! A guest is dead on this rung when none of its CPUs lives. One that spins while others work is
//! told in the reason, and by [`spinning`]: it will take the rest with it. A kernel that panicked
//! loops with interrupts on and is alive here; that is what the rung above is for.
//!
//! Of arm64 nothing is known here: its monitor does not tell whether a CPU sleeps, and one that does has its
//! interrupts off and stays in one place.

use crate::base::rung::{Finding, Rung};
use crate::base::time::{Instant, Spoken};
use std::collections::BTreeSet;
use std::time::Duration;

/// Samples must be this far apart to mean anything.
pub const SPAN: Duration = Duration::from_secs(5);

/// A loop that waits for what will never come is a few instructions long.
const PLACE_BYTES: u64 = 256;

/// Of the time between two samples. The rest is lost in measuring: on a host that starves a sample is
/// taken in pieces, some hundred milliseconds apart.
const BUSY_PERCENT: u128 = 70;

/// What the hypervisor told at one moment.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Sample {
    /// When.
    pub at: Instant,
    /// The run state, in the hypervisor's words: `running`, `paused`, ..
    pub status: String,
    /// One per vCPU.
    pub cpus: Vec<Cpu>,
}

/// One vCPU at one moment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Cpu {
    /// Its index.
    pub index: u32,
    /// Where it is.
    pub at: u64,
    /// Whether it takes interrupts.
    pub interrupts_on: bool,
    /// Whether it sleeps until an interrupt.
    pub halted: bool,
    /// How long its thread has run so far, or waited to: see [`cpu_time`].
    pub busy: Option<Duration>,
}

/// What became of one vCPU.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fate {
    Lives,
    Spins,
    Parked,
    Unclear,
}

/// How long a thread has run, from `/proc/<pid>/task/<tid>/schedstat`. What it waited for a CPU of
/// the host's counts as well, or a busy host would hide that a vCPU never rests.
#[must_use]
pub fn cpu_time(schedstat: &str) -> Option<Duration> {
    let mut words = schedstat.split_ascii_whitespace().map(str::parse::<u64>);
    let (ran, waited) = (words.next()?.ok()?, words.next()?.ok()?);
    Some(Duration::from_nanos(ran.saturating_add(waited)))
}

/// What the samples say, the oldest first.
#[must_use]
pub fn judge(samples: &[Sample]) -> Finding {
    let unknown = |reason: String| Finding::unknown(Rung::Vcpu, reason);
    let Some(last) = samples.last() else {
        return unknown("its CPUs were not looked at yet".to_owned());
    };
    if let Some(finding) = stands_still(&last.status) {
        return finding;
    }
    let (samples, span) = running(samples);
    if samples.len() < 2 || span < SPAN {
        let (looks, span, wanted) = (samples.len(), Spoken(span), Spoken(SPAN));
        return unknown(format!(
            "its CPUs were looked at {looks} times in {span}: it takes twice, {wanted} apart"
        ));
    }
    let fates: Vec<(u32, Fate)> =
        indices(samples).into_iter().map(|index| (index, fate(samples, index))).collect();
    sum_up(&fates, span)
}

/// The vCPUs that spin with interrupts off.
#[must_use]
pub fn spinning(samples: &[Sample]) -> Vec<u32> {
    let (samples, span) = running(samples);
    let all = indices(samples).into_iter();
    all.filter(|index| span >= SPAN && fate(samples, *index) == Fate::Spins).collect()
}

/// A guest that does not run by somebody's wish is not dead; one that cannot go on is.
fn stands_still(status: &str) -> Option<Finding> {
    let reason = format!("the guest is in the run state `{status}`");
    match status {
        "running" => None,
        "internal-error" | "io-error" | "guest-panicked" | "watchdog" | "shutdown" => {
            Some(Finding::dead(Rung::Vcpu, reason))
        }
        _ => Some(Finding::unknown(Rung::Vcpu, reason)),
    }
}

/// The latest samples between which the guest was not seen to stand still, and their span.
fn running(samples: &[Sample]) -> (&[Sample], Duration) {
    let stood = samples.iter().rposition(|sample| sample.status != "running");
    let samples = &samples[stood.map_or(0, |at| at + 1)..];
    let span = samples.first().zip(samples.last()).map(|(first, last)| last.at.since(first.at));
    (samples, span.unwrap_or_default())
}

fn indices(samples: &[Sample]) -> BTreeSet<u32> {
    samples.iter().flat_map(|sample| &sample.cpus).map(|cpu| cpu.index).collect()
}

fn fate(samples: &[Sample], index: u32) -> Fate {
    let of_it = |sample: &Sample| sample.cpus.iter().find(|cpu| cpu.index == index).copied();
    let seen: Option<Vec<(Instant, Cpu)>> =
        samples.iter().map(|sample| Some((sample.at, of_it(sample)?))).collect();
    // One that was plugged in meanwhile is for the next time.
    let Some(seen) = seen else { return Fate::Unclear };
    let all = |holds: fn(&Cpu) -> bool| seen.iter().all(|(_, cpu)| holds(cpu));
    if seen.iter().any(|(_, cpu)| cpu.halted && cpu.interrupts_on) {
        return Fate::Lives;
    }
    if all(|cpu| cpu.halted) {
        return Fate::Parked;
    }
    let places = seen.iter().map(|(_, cpu)| cpu.at);
    let spread = places.clone().max().zip(places.min()).map_or(0, |(max, min)| max - min);
    match ran(&seen) {
        Some(Ran::Always) if all(|cpu| !cpu.interrupts_on) && spread < PLACE_BYTES => Fate::Spins,
        Some(Ran::Never) => Fate::Unclear,
        Some(Ran::Sometimes | Ran::Always) if !all(|cpu| !cpu.interrupts_on) => Fate::Lives,
        Some(Ran::Sometimes | Ran::Always) | None if spread >= PLACE_BYTES => Fate::Lives,
        Some(Ran::Sometimes | Ran::Always) | None => Fate::Unclear,
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Ran {
    Never,
    Sometimes,
    Always,
}

/// How much it ran between any two samples.
fn ran(seen: &[(Instant, Cpu)]) -> Option<Ran> {
    let mut all = Vec::new();
    for pair in seen.windows(2) {
        let [(from, before), (to, after)] = pair else { continue };
        let busy = after.busy?.saturating_sub(before.busy?);
        let percent = busy.as_millis() * 100 / to.since(*from).as_millis().max(1);
        all.push(match percent {
            _ if busy.is_zero() => Ran::Never,
            0..BUSY_PERCENT => Ran::Sometimes,
            _ => Ran::Always,
        });
    }
    let first = *all.first()?;
    Some(if all.iter().all(|ran| *ran == first) { first } else { Ran::Sometimes })
}

fn sum_up(fates: &[(u32, Fate)], span: Duration) -> Finding {
    let of = |wanted: Fate| -> Vec<String> {
        fates
            .iter()
            .filter(|(_, fate)| *fate == wanted)
            .map(|(index, _)| index.to_string())
            .collect()
    };
    let (live, spin, parked) = (of(Fate::Lives), of(Fate::Spins), of(Fate::Parked));
    let (spinning, over) = (say_cpus(&spin, "spins", "spin"), Spoken(span));
    if !live.is_empty() {
        let rest = if spin.is_empty() {
            String::new()
        } else {
            format!(", but {spinning} with interrupts off")
        };
        let reason =
            format!("{} of {} CPUs work or rest as they should{rest}", live.len(), fates.len());
        return Finding::alive(Rung::Vcpu, reason);
    }
    if !spin.is_empty() {
        let reason = format!("{spinning} with interrupts off for {over}, and no other works");
        return Finding::dead(Rung::Vcpu, reason);
    }
    if !parked.is_empty() && parked.len() == fates.len() {
        let reason = format!(
            "{} with interrupts off: nothing can wake it",
            say_cpus(&parked, "sleeps", "sleep")
        );
        return Finding::dead(Rung::Vcpu, reason);
    }
    let reason = match fates.len() {
        0 => "the hypervisor tells of no CPU".to_owned(),
        1 => format!("what its CPU did in {over} says nothing"),
        all => format!("what its {all} CPUs did in {over} says nothing"),
    };
    Finding::unknown(Rung::Vcpu, reason)
}

fn say_cpus(indices: &[String], one: &str, more: &str) -> String {
    match indices {
        [index] => format!("CPU {index} {one}"),
        _ => format!("CPUs {} {more}", indices.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cpu(index: u32, at: u64, flags: &str, busy_ms: u64) -> Cpu {
        let busy = Some(Duration::from_millis(busy_ms));
        Cpu { index, at, interrupts_on: flags.contains('I'), halted: flags.contains('H'), busy }
    }

    fn at(ms: u64, cpus: &[Cpu]) -> Sample {
        Sample { at: Instant::from_millis(ms), status: "running".to_owned(), cpus: cpus.to_vec() }
    }

    fn told(samples: &[Sample]) -> String {
        let found = judge(samples);
        format!("{}: {}", found.answer, found.reason)
    }

    #[test]
    fn guests_of_all_kinds() {
        let idle = |index, busy| cpu(index, 0x1000, "IH", busy);
        let spin = |index, busy| cpu(index, 0x2000 + busy % 8, "", busy);
        let two = |before: &[Cpu], after: &[Cpu]| told(&[at(0, before), at(5_000, after)]);
        let all = [
            two(&[idle(0, 0), idle(1, 0)], &[idle(0, 0), idle(1, 0)]),
            two(&[cpu(0, 0x1000, "I", 0)], &[cpu(0, 0x1000, "I", 40)]),
            two(&[cpu(0, 0x1000, "I", 0)], &[cpu(0, 0x1000, "I", 5_000)]),
            two(&[idle(0, 0), spin(1, 0)], &[idle(0, 0), spin(1, 4_900)]),
            two(&[spin(0, 0), spin(1, 0)], &[spin(0, 5_000), spin(1, 4_700)]),
            two(&[spin(0, 0)], &[spin(0, 3_000)]),
            two(&[cpu(0, 0x1000, "", 0)], &[cpu(0, 0x9000, "", 5_000)]),
            two(&[cpu(0, 0x1000, "H", 0)], &[cpu(0, 0x1000, "H", 0)]),
            two(&[spin(0, 0), cpu(1, 0x1000, "H", 0)], &[spin(0, 5_000), cpu(1, 0x1000, "H", 0)]),
            two(&[cpu(0, 0x1000, "I", 7)], &[cpu(0, 0x1000, "I", 7)]),
            two(&[], &[]),
        ];
        insta::assert_snapshot!(all.join("\n"), @"
        alive: 2 of 2 CPUs work or rest as they should
        alive: 1 of 1 CPUs work or rest as they should
        alive: 1 of 1 CPUs work or rest as they should
        alive: 1 of 2 CPUs work or rest as they should, but CPU 1 spins with interrupts off
        dead: CPUs 0, 1 spin with interrupts off for 5.0 s, and no other works
        unknown: what its CPU did in 5.0 s says nothing
        alive: 1 of 1 CPUs work or rest as they should
        dead: CPU 0 sleeps with interrupts off: nothing can wake it
        dead: CPU 0 spins with interrupts off for 5.0 s, and no other works
        unknown: what its CPU did in 5.0 s says nothing
        unknown: the hypervisor tells of no CPU
        ");
    }

    #[test]
    fn it_takes_two_looks_and_some_time() {
        let spin = |ms| at(ms, &[cpu(0, 0x2000, "", ms)]);
        let paused = Sample { status: "paused".to_owned(), ..spin(6_000) };
        let broken = Sample { status: "io-error".to_owned(), ..spin(6_000) };
        let all = [
            told(&[]),
            told(&[spin(0)]),
            told(&[spin(0), spin(4_999)]),
            told(&[spin(0), spin(2_000), spin(5_000)]),
            told(&[spin(0), spin(5_000), paused.clone()]),
            told(&[spin(0), paused, spin(7_000), spin(9_000)]),
            told(&[spin(0), broken]),
        ];
        insta::assert_snapshot!(all.join("\n"), @"
        unknown: its CPUs were not looked at yet
        unknown: its CPUs were looked at 1 times in 0 ms: it takes twice, 5.0 s apart
        unknown: its CPUs were looked at 2 times in 5.0 s: it takes twice, 5.0 s apart
        dead: CPU 0 spins with interrupts off for 5.0 s, and no other works
        unknown: the guest is in the run state `paused`
        unknown: its CPUs were looked at 2 times in 2.0 s: it takes twice, 5.0 s apart
        dead: the guest is in the run state `io-error`
        ");
        assert_eq!(spinning(&[spin(0), spin(5_000)]), [0]);
        assert_eq!(spinning(&[spin(0), spin(4_000)]), [0; 0]);
    }

    #[test]
    fn without_the_right_to_see_threads_nobody_is_called_dead() {
        let blind = |ms, at_: u64, on| {
            let cpu = Cpu { index: 0, at: at_, interrupts_on: on, halted: false, busy: None };
            at(ms, &[cpu])
        };
        assert!(
            told(&[blind(0, 0x1000, false), blind(5_000, 0x1000, false)]).starts_with("unknown")
        );
        assert!(told(&[blind(0, 0x1000, true), blind(5_000, 0x9000, true)]).starts_with("alive"));
    }

    #[test]
    fn a_thread_that_waits_for_the_host_is_busy() {
        assert_eq!(cpu_time("1000000 2000000 42\n"), Some(Duration::from_millis(3)));
        assert_eq!(cpu_time("1000000"), None);
        assert_eq!(cpu_time(""), None);
    }

    proptest! {
        /// A guest that ever rested or took interrupts while it ran is not called dead.
        #[test]
        fn who_takes_interrupts_is_not_dead(places in proptest::collection::vec((any::<u64>(), any::<bool>(), 1_u64..9_000), 2..6), which in any::<usize>()) {
            let which = which % places.len();
            let (mut busy, mut samples) = (0, Vec::new());
            for (number, (place, halted, ran)) in places.into_iter().enumerate() {
                busy += ran;
                let flags = if number == which { "I" } else if halted { "H" } else { "" };
                samples.push(at(number as u64 * 5_000, &[cpu(0, place, flags, busy)]));
            }
            prop_assert_ne!(judge(&samples).answer, crate::base::rung::Answer::Dead);
        }
    }
}
