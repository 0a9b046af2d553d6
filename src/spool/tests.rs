//! The spool on a real directory, and a simulation on a disk that fails by one seed.

use super::faulty::{Dice, Faulty};
use super::*;
use crate::base::chain::Chain;
use std::collections::BTreeSet;
use std::path::Path;

const LIMITS: Limits =
    Limits { bytes: 1 << 20, parcels: 1000, held_bytes: 64 * 1024, free_percent: 10, age: AGE };
const AGE: Duration = Duration::from_secs(1000);

fn parcel(kind: Kind, incident: u8, text: &str) -> Parcel {
    let (incident, mark) = (IncidentId::new([incident; 16]), Mark::default());
    Parcel { kind, incident, mark, bytes: text.as_bytes().to_vec() }
}

fn bundle(incident: u8) -> Parcel {
    parcel(Kind::Bundle, incident, &format!("bundle {incident}"))
}

fn texts<F: Files>(spool: &mut Spool<F>) -> Vec<String> {
    let waiting: Vec<Waiting> = spool.waiting().collect();
    let text = |w: Waiting| String::from_utf8(spool.read(w.digest).unwrap()).unwrap();
    waiting.into_iter().map(text).collect()
}

#[test]
fn parcels_survive_a_restart_in_order_headlines_first() {
    let dir = tempfile::tempdir().unwrap();
    {
        let (mut spool, report) = Spool::open(dir.path(), LIMITS).unwrap();
        assert_eq!(report, Report::default());
        assert_eq!(spool.put(bundle(1)).unwrap(), Kept::OnDisk);
        assert_eq!(spool.put(bundle(2)).unwrap(), Kept::OnDisk);
        spool.put(parcel(Kind::Headline, 2, "old")).unwrap();
        spool.put(parcel(Kind::Headline, 1, "one")).unwrap();
        spool.put(parcel(Kind::Headline, 2, "new")).unwrap();
    }
    let (mut spool, report) = Spool::open(dir.path(), LIMITS).unwrap();
    assert_eq!((report.parcels, report.damaged.len()), (4, 0));
    assert_eq!(texts(&mut spool), ["one", "new", "bundle 1", "bundle 2"]);
    spool.forget(bundle(1).digest());
    spool.set_aside(bundle(2).digest(), "no such device");
    assert_eq!(texts(&mut spool), ["one", "new"]);
    assert_eq!(std::fs::read_dir(dir.path().join("refused")).unwrap().count(), 1);
    assert_eq!(spool.usage().refused, 1);
    spool.put(bundle(3)).unwrap();
    drop(spool);
    let (mut spool, _) = Spool::open(dir.path(), LIMITS).unwrap();
    assert_eq!(texts(&mut spool), ["one", "new", "bundle 3"]);
}

#[test]
fn a_directory_has_one_owner() {
    let dir = tempfile::tempdir().unwrap();
    let first = Spool::open(dir.path(), LIMITS).unwrap();
    let second = Spool::open(dir.path(), LIMITS).unwrap_err();
    assert!(second.to_string().contains("in use by another lifesign"), "{second}");
    drop(first);
    Spool::open(dir.path(), LIMITS).unwrap();
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let error = Spool::open(Path::new("/proc/lifesign"), LIMITS).unwrap_err();
    assert!(Chain(&error).to_string().contains("/proc/lifesign"), "{error}");
}

#[test]
fn damaged_files_are_set_aside_and_a_few_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (mut spool, _) = Spool::open(dir.path(), LIMITS).unwrap();
    for incident in 0..20 {
        spool.put(bundle(incident)).unwrap();
    }
    drop(spool);
    let path = |n: u64| dir.path().join(format::name(n));
    let cut = std::fs::read(path(1)).unwrap();
    std::fs::write(path(1), &cut[..cut.len() - 1]).unwrap();
    std::fs::rename(path(3), path(99)).unwrap();
    std::fs::write(dir.path().join(format::name_unfinished(50)), "half").unwrap();
    std::fs::write(dir.path().join("note"), "not ours").unwrap();
    for n in 4..20 {
        let mut flipped = std::fs::read(path(n)).unwrap();
        flipped[90] ^= 1;
        std::fs::write(path(n), flipped).unwrap();
    }

    let (mut spool, report) = Spool::open(dir.path(), LIMITS).unwrap();
    assert_eq!((report.parcels, report.unfinished), (18, 1));
    let mut reasons: Vec<String> = report.damaged.iter().map(ToString::to_string).collect();
    reasons.sort();
    assert_eq!(
        reasons,
        [
            "0000000000000001.parcel was moved to `corrupt`: 7 bytes where the header promises 8",
            "0000000000000063.parcel was moved to `corrupt`: the header is whole but makes no \
             sense: the file bears the name of another parcel",
        ]
    );
    let waiting: Vec<Waiting> = spool.waiting().collect();
    let damaged = waiting.iter().filter(|w| spool.read(w.digest).is_err()).count();
    assert_eq!(damaged, 16);
    assert_eq!(texts(&mut spool), ["bundle 1", "bundle 19"]);
    assert_eq!(spool.usage().corrupt, 18);
    let kept = std::fs::read_dir(dir.path().join("corrupt")).unwrap().count();
    assert_eq!(kept, limits::ASIDE_PARCELS);
    assert!(dir.path().join("note").exists());
}

#[test]
fn a_full_disk_loses_nothing_while_the_process_lives() {
    let disk = Faulty::new(1);
    let (mut spool, _) = Spool::over(disk.clone(), LIMITS).unwrap();
    spool.put(parcel(Kind::Headline, 1, "on disk")).unwrap();
    disk.with(|d| d.free = 100);
    let kept = spool.put(bundle(1)).unwrap();
    let Kept::InMemory { why } = kept else { panic!("{kept:?}") };
    assert!(why.starts_with("the disk is full: 5 bytes are free"), "{why}");
    assert!(matches!(spool.put(bundle(1)).unwrap(), Kept::InMemory { .. }));
    let headline = spool.put(parcel(Kind::Headline, 1, "newer")).unwrap();
    assert!(matches!(headline, Kept::InMemory { .. }), "{headline:?}");
    assert!(spool.settle().is_err());
    assert_eq!(texts(&mut spool), ["newer", "bundle 1"]);
    assert_eq!((spool.usage().held, spool.usage().parcels), (2, 1));

    let (mut after_a_crash, _) = Spool::over(disk.clone(), LIMITS).unwrap();
    assert_eq!(texts(&mut after_a_crash), ["on disk"]);
    disk.with(|d| d.free = 1 << 20);
    spool.settle().unwrap();
    assert_eq!((spool.usage().held, spool.usage().parcels), (0, 2));
    let (mut reopened, _) = Spool::over(disk, LIMITS).unwrap();
    assert_eq!(texts(&mut reopened), ["newer", "bundle 1"]);
}

#[test]
fn what_cannot_be_held_is_refused_with_the_reason_and_counted() {
    let disk = Faulty::new(1);
    disk.with(|d| d.free = 0);
    let limits = Limits { held_bytes: 10, ..LIMITS };
    let (mut spool, _) = Spool::over(disk, limits).unwrap();
    spool.put(bundle(1)).unwrap();
    let lost = spool.put(bundle(2)).unwrap_err();
    assert!(lost.to_string().contains("8 bytes wait in memory already"), "{lost}");
    assert_eq!(spool.usage().lost, 1);
    let large = parcel(Kind::Headline, 1, &"x".repeat(5000));
    assert!(matches!(spool.put(large), Err(PutError::TooLarge { size: 5000, max: 4096 })));
}

#[test]
fn the_oldest_but_one_makes_room_and_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { parcels: 4, free_percent: 0, ..LIMITS };
    let (mut spool, _) = Spool::open(dir.path(), limits).unwrap();
    spool.put(parcel(Kind::Headline, 1, "headline")).unwrap();
    for incident in 1..=5 {
        assert_eq!(spool.put(bundle(incident)).unwrap(), Kept::OnDisk);
    }
    assert_eq!(texts(&mut spool), ["headline", "bundle 1", "bundle 4", "bundle 5"]);
    assert_eq!(spool.usage().evicted, 2);
    drop(spool);
    let (spool, report) = Spool::open(dir.path(), limits).unwrap();
    assert_eq!(report.damaged, []);
    let Usage { evicted, evicted_bytes, evicted_lately, .. } = spool.usage();
    assert_eq!((evicted, evicted_bytes, evicted_lately), (2, 16, 0), "it is known for good");
    let gone: Vec<IncidentId> = spool.gone().map(|gone| gone.incident).collect();
    assert_eq!(gone, [IncidentId::new([2; 16]), IncidentId::new([3; 16])]);
}

#[test]
fn what_was_told_to_be_dropped_is_dropped_after_a_crash_in_between() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { parcels: 2, free_percent: 0, ..LIMITS };
    let (mut spool, _) = Spool::open(dir.path(), limits).unwrap();
    spool.put(bundle(1)).unwrap();
    spool.put(bundle(2)).unwrap();
    let path = dir.path().join(format::name(2));
    let file = std::fs::read(&path).unwrap();
    spool.put(bundle(3)).unwrap();
    drop(spool);
    std::fs::write(path, file).unwrap();
    let (mut spool, _) = Spool::open(dir.path(), limits).unwrap();
    assert_eq!(texts(&mut spool), ["bundle 1", "bundle 3"]);
    assert_eq!(spool.usage().evicted, 1);
    // A sequence number that was told is not given again.
    spool.forget(bundle(3).digest());
    spool.forget(bundle(1).digest());
    drop(spool);
    let (mut spool, _) = Spool::open(dir.path(), limits).unwrap();
    spool.put(bundle(4)).unwrap();
    assert!(dir.path().join(format::name(3)).exists());
}

#[test]
fn a_list_of_what_was_dropped_that_is_damaged_is_set_aside_and_told() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("evicted"), "lfgone01").unwrap();
    let (spool, report) = Spool::open(dir.path(), LIMITS).unwrap();
    assert!(matches!(&report.damaged[..], [Damaged::SetAside { flaw: Flaw::Tally, .. }]));
    assert!(dir.path().join("corrupt/evicted").exists());
    assert_eq!(spool.usage().corrupt, 1);
}

#[test]
fn repeats_grow_old_and_a_wrong_clock_costs_nothing() {
    let disk = Faulty::new(1);
    let at = |secs: i64| disk.with(|d| d.now = Timestamp::from_millis(secs * 1000));
    let (mut spool, _) = Spool::over(disk.clone(), LIMITS).unwrap();
    let mark = Mark::of("hung-task");
    at(0);
    for incident in 1..=3 {
        spool.put(Parcel { mark, ..bundle(incident) }).unwrap();
    }
    at(4_291_747_200);
    spool.put(Parcel { mark, ..bundle(4) }).unwrap();
    spool.settle().unwrap();
    assert_eq!(spool.usage().evicted, 0, "1970 and 2106 are no ages");
    at(1001);
    let (mut spool, _) = Spool::over(disk.clone(), LIMITS).unwrap();
    spool.settle().unwrap();
    assert_eq!(texts(&mut spool), ["bundle 1", "bundle 4"]);
    assert_eq!(spool.usage().evicted_lately, 2);
}

#[test]
fn a_locked_vault_is_waited_for_and_what_came_meanwhile_goes_behind() {
    let disk = Faulty::new(1);
    let (mut spool, _) = Spool::over(disk.clone(), LIMITS).unwrap();
    spool.put(parcel(Kind::Headline, 1, "before")).unwrap();
    spool.put(bundle(1)).unwrap();
    drop(spool);
    disk.with(|d| d.is_absent = true);
    assert!(Spool::over(disk.clone(), LIMITS).is_err());
    let limits = Limits { held_bytes: 40, ..LIMITS };
    let (mut spool, report) = Spool::over_or_wait(disk.clone(), limits).unwrap();
    assert!(report.absent.unwrap().contains("mounted and unlocked"));
    let mark = Mark::of("hung-task");
    for incident in 2..=7 {
        let kept = spool.put(Parcel { mark, ..bundle(incident) }).unwrap();
        let Kept::InMemory { why } = kept else { panic!("{kept:?}") };
        assert!(why.starts_with("the spool vault/spool is not to be had yet"), "{why}");
    }
    assert!(spool.settle().is_err());
    assert_eq!((spool.usage().held_bytes, spool.usage().evicted_lately), (40, 1));

    disk.with(|d| d.is_absent = false);
    spool.put(parcel(Kind::Headline, 1, "after")).unwrap();
    spool.settle().unwrap();
    let all = ["after", "bundle 1", "bundle 2", "bundle 4", "bundle 5", "bundle 6", "bundle 7"];
    assert_eq!(texts(&mut spool), all);
    assert_eq!((spool.usage().held, spool.usage().evicted), (0, 1));
    let (mut reopened, _) = Spool::over(disk, LIMITS).unwrap();
    assert_eq!(texts(&mut reopened), all);
    assert_eq!(reopened.usage().evicted, 1);
}

#[test]
fn only_the_last_directory_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let vault = dir.path().join("vault");
    let (mut spool, report) = Spool::open_or_wait(&vault.join("spool"), LIMITS).unwrap();
    assert!(report.absent.is_some() && !vault.exists());
    assert!(matches!(spool.put(bundle(1)).unwrap(), Kept::InMemory { .. }));
    std::fs::create_dir(&vault).unwrap();
    spool.settle().unwrap();
    assert_eq!((spool.usage().parcels, spool.usage().held), (1, 0));
    assert!(vault.join("spool/corrupt").exists());
}

/// What must be there after a crash.
#[derive(Default)]
struct Model {
    /// Every parcel that was ever put.
    known: BTreeMap<Digest, Parcel>,
    /// Those of which `put` said that they are on disk, and which nobody let go of.
    promised: BTreeSet<Digest>,
    /// The files of those that were flipped.
    flipped: BTreeSet<String>,
    evicted: u64,
}

impl Model {
    fn put(&mut self, spool: &mut Spool<Faulty>, parcel: Parcel) {
        let digest = parcel.digest();
        self.known.insert(digest, parcel.clone());
        if parcel.kind == Kind::Headline {
            // From now on either may be what is found.
            let known = &self.known;
            self.promised.retain(|old| {
                let old = &known[old];
                old.kind != Kind::Headline || old.incident != parcel.incident
            });
        }
        if spool.put(parcel).is_ok_and(|kept| kept == Kept::OnDisk) {
            self.promised.insert(digest);
        }
        self.settled(spool);
    }

    /// What was held may have come to disk, and what was dropped to make room was told.
    fn settled(&mut self, spool: &Spool<Faulty>) {
        let held = |digest| spool.find(digest).is_none_or(|(_, entry)| entry.held.is_some());
        let waiting: BTreeSet<Digest> = spool.waiting().map(|w| w.digest).collect();
        self.promised.extend(waiting.iter().filter(|digest| !held(**digest)));
        let gone: Vec<Digest> = self.promised.difference(&waiting).copied().collect();
        let evicted = spool.usage().evicted - self.evicted;
        assert!(gone.len() as u64 <= evicted, "{} gone, {evicted} dropped", gone.len());
        assert!(gone.iter().all(|digest| self.known[digest].kind == Kind::Bundle));
        self.evicted += evicted;
        self.promised.retain(|digest| waiting.contains(digest));
    }

    fn check(&self, spool: &mut Spool<Faulty>, report: &Report, context: &str) {
        let waiting: Vec<Waiting> = spool.waiting().collect();
        let mut damaged = report.damaged.len();
        for w in &waiting {
            match spool.read(w.digest) {
                Ok(bytes) => {
                    assert_eq!(bytes, self.known[&w.digest].bytes, "{context}");
                    assert_eq!(w.incident, self.known[&w.digest].incident, "{context}");
                }
                Err(ReadError::Corrupt { .. }) => damaged += 1,
                Err(error) => panic!("{context}: {error}"),
            }
        }
        assert!(damaged <= self.flipped.len(), "{context}: {report:?}");
        let there: BTreeSet<Digest> = waiting.iter().map(|w| w.digest).collect();
        let missing = self.promised.difference(&there).count();
        assert!(missing <= report.damaged.len(), "{context}: {missing} of the promised are gone");
    }
}

/// Puts, replaces, forgets and sets aside; the same for every crash point.
fn script(spool: &mut Spool<Faulty>, model: &mut Model) {
    for round in 0..3 {
        model.put(spool, parcel(Kind::Headline, round, &format!("capturing {round}")));
        model.put(spool, bundle(round));
        let sealed = format!("sealed {round}");
        model.put(spool, parcel(Kind::Headline, round, &sealed));
    }
    let forgotten = bundle(0).digest();
    model.promised.remove(&forgotten);
    spool.forget(forgotten);
    let refused = bundle(1).digest();
    model.promised.remove(&refused);
    spool.set_aside(refused, "refused");
}

#[test]
fn a_crash_at_any_step_loses_nothing_that_was_promised() {
    let steps = {
        let disk = Faulty::new(0);
        let (mut spool, _) = Spool::over(disk.clone(), LIMITS).unwrap();
        script(&mut spool, &mut Model::default());
        disk.steps()
    };
    assert!(steps > 40, "{steps}");
    for step in 0..steps {
        for seed in 0..20 {
            let disk = Faulty::new(0);
            disk.with(|d| d.crash_at = Some(step));
            let mut model = Model::default();
            let (mut spool, _) = Spool::over(disk.clone(), LIMITS).unwrap();
            script(&mut spool, &mut model);
            disk.crash(&mut Dice(seed));
            let (mut spool, report) = Spool::over(disk, LIMITS).unwrap();
            model.check(&mut spool, &report, &format!("step {step}, seed {seed}"));
        }
    }
}

#[test]
fn a_disk_that_is_full_from_any_step_on_loses_nothing() {
    for step in 0..80 {
        let disk = Faulty::new(0);
        disk.with(|d| d.full_at = Some(step));
        let mut model = Model::default();
        let (mut spool, _) = Spool::over(disk.clone(), LIMITS).unwrap();
        script(&mut spool, &mut model);
        let before = texts(&mut spool);
        assert_eq!(before.len(), 4, "step {step}: {before:?}");
        disk.with(|d| d.full_at = None);
        spool.settle().unwrap();
        assert_eq!(spool.usage().held, 0, "step {step}");
        let (mut reopened, report) = Spool::over(disk, LIMITS).unwrap();
        assert_eq!(report.damaged, [], "step {step}");
        assert_eq!(texts(&mut reopened), before, "step {step}");
    }
}

#[test]
fn no_seed_loses_what_was_promised() {
    for seed in 0..400 {
        simulate(seed);
    }
}

/// A life of a spool with everything that can go wrong.
fn simulate(seed: u64) {
    let mut dice = Dice(seed);
    let disk = Faulty::new(seed);
    let mut model = Model::default();
    let (mut spool, _) = Spool::over(disk.clone(), LIMITS).unwrap();
    for turn in 0..60 {
        let context = format!("seed {seed}, turn {turn}");
        match dice.roll(12) {
            0..=3 => {
                let text = format!("{turn} {}", "x".repeat(dice.roll(3000) as usize));
                let kind = if dice.one_in(2) { Kind::Headline } else { Kind::Bundle };
                model.put(&mut spool, parcel(kind, dice.roll(5) as u8, &text));
            }
            4 => drop_one(&mut spool, &mut model, &mut dice),
            5 => {
                let _ = spool.settle();
                model.settled(&spool);
            }
            6 => disk.with(|d| d.free = dice.roll(1 << 17)),
            7 => disk.with(|d| d.free = 1 << 20),
            8 => disk.with(|d| d.fails_one_in = [0, 2, 5][dice.roll(3) as usize]),
            9 => model.flipped.extend(disk.flip(&mut dice)),
            10 => disk.with(|d| d.crash_at = Some(d.steps + dice.roll(8))),
            _ => {
                disk.crash(&mut dice);
                disk.with(|d| d.fails_one_in = 0);
                drop(spool);
                let (reopened, report) = Spool::over(disk.clone(), LIMITS).unwrap();
                spool = reopened;
                model.check(&mut spool, &report, &context);
                // From here on whatever was found is what there is.
                model.promised = spool.waiting().map(|w| w.digest).collect();
                model.flipped.clear();
                model.evicted = spool.usage().evicted;
            }
        }
        if !disk.crashed() {
            assert!(spool.usage().held_bytes <= LIMITS.held_bytes, "{context}");
        }
    }
}

fn drop_one(spool: &mut Spool<Faulty>, model: &mut Model, dice: &mut Dice) {
    let waiting: Vec<Waiting> = spool.waiting().collect();
    let Some(chosen) = waiting.get(dice.roll(waiting.len() as u64) as usize) else { return };
    model.promised.remove(&chosen.digest);
    if dice.one_in(3) {
        spool.set_aside(chosen.digest, "refused");
    } else {
        spool.forget(chosen.digest);
    }
}
