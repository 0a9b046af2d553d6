//! Days of rounds in no time: clocks that jump, machines that sleep, and 500 apps on one thread.

use super::*;
use crate::base::problem::Source;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const HOUR: u64 = 3_600_000;

/// 2026-03-28T00:00:00Z: the night after it, Europe's clocks go forward.
const MARCH: i64 = 1_774_656_000_000;

fn scenario(when: &str) -> Scenario {
    let rest = "probe: [vcpu: {}]\ndiagnose: [host]\n";
    let text = format!("scenario: test\n{when}\n{rest}");
    super::super::read(Source { name: "test.yaml".to_owned(), text })
        .unwrap_or_else(|problems| panic!("{problems}"))
}

/// A machine with its two clocks, and the rounds that it ran.
struct Machine {
    schedule: Schedule,
    now: Instant,
    /// The clock on the wall is ahead of the other one by so much.
    ahead: i64,
    rounds: Vec<Due>,
}

impl Machine {
    fn new(when: &str, wall: i64, share: u16) -> Self {
        let now = Instant::from_millis(5_000);
        let schedule = Schedule::new(&scenario(when), now, share);
        Self { schedule, now, ahead: wall - 5_000, rounds: Vec::new() }
    }

    fn wall(&self) -> Timestamp {
        Timestamp::from_millis(i64::try_from(self.now.as_millis()).unwrap() + self.ahead)
    }

    /// Lives for so many milliseconds, as the shell does: a wakeup comes `late`.
    fn live(&mut self, millis: u64, late: u64) {
        let end = self.now + Duration::from_millis(millis);
        // What was due when the last life ended, and would have been woken for too late, is due still.
        let mut has_slept = false;
        loop {
            let due = self.schedule.due(self.now, self.wall());
            let is_ahead = due.at > self.now || !has_slept || self.rounds.is_empty();
            assert!(is_ahead, "no sleep is empty");
            assert!(due.at <= self.now + LOOK);
            if due.at + Duration::from_millis(late) > end {
                self.now = end;
                return;
            }
            self.now = self.now.max(due.at + Duration::from_millis(late));
            has_slept = true;
            if due.round {
                self.schedule.begun(&due);
                self.rounds.push(due);
            }
        }
    }

    fn jump(&mut self, millis: i64) {
        self.ahead += millis;
    }

    fn fired(&self) -> Vec<String> {
        self.rounds.iter().filter_map(|due| due.time).map(|time| time.to_string()).collect()
    }
}

#[test]
fn a_period_beats_whatever_the_wall_says() {
    let mut machine = Machine::new("period: 30s", MARCH, 32_768);
    machine.live(60_000, 3);
    machine.jump(-400 * 86_400_000);
    machine.live(60_000, 3);
    machine.jump(9_000 * 86_400_000);
    machine.live(60_000, 3);
    let beats: Vec<u64> = machine.rounds.iter().map(|due| due.at.as_millis()).collect();
    assert_eq!(beats, [20_000, 50_000, 80_000, 110_000, 140_000, 170_000]);
}

#[test]
fn a_round_that_took_long_is_not_made_up_for() {
    let mut machine = Machine::new("period: 30s", MARCH, 0);
    machine.live(HOUR / 6, 100_000);
    let beats: Vec<u64> = machine.rounds.iter().map(|due| due.at.as_millis() / 1000).collect();
    assert_eq!(beats, [5, 125, 245, 365, 485]);
}

#[test]
fn cron_follows_the_wall_across_daylight_saving() {
    let mut machine = Machine::new("cron: \"30 2 * * *\"\nzone: Europe/Berlin", MARCH, 0);
    machine.live(72 * HOUR, 2);
    assert_eq!(
        machine.fired(),
        ["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]
    );
}

#[test]
fn a_clock_set_back_fires_nothing_twice() {
    let mut machine = Machine::new("cron: \"0 * * * *\"", MARCH, 0);
    machine.live(3 * HOUR + 60_000, 2);
    machine.jump(-i64::try_from(2 * HOUR).unwrap());
    machine.live(4 * HOUR, 2);
    assert_eq!(machine.fired(), [1, 2, 3, 4, 5].map(|hour| format!("2026-03-28T0{hour}:00:00Z")));
}

#[test]
fn a_clock_set_forward_makes_up_for_nothing() {
    let mut machine = Machine::new("cron: \"0 * * * *\"", MARCH, 0);
    machine.live(HOUR + 60_000, 2);
    machine.jump(i64::try_from(1000 * HOUR).unwrap());
    machine.live(2 * HOUR, 2);
    assert_eq!(machine.rounds.len(), 3);
}

#[test]
fn a_clock_that_was_years_ahead_is_forgotten() {
    let mut machine = Machine::new("cron: \"0 * * * *\"", MARCH, 0);
    machine.jump(30 * 365 * 86_400_000);
    machine.live(2 * HOUR + 60_000, 2);
    machine.jump(-30 * 365 * 86_400_000);
    machine.live(2 * HOUR + 60_000, 2);
    assert_eq!(machine.rounds.len(), 4);
}

#[test]
fn a_machine_that_slept_goes_on_at_the_next_time() {
    for when in ["period: 5m", "cron: \"*/5 * * * *\""] {
        let mut machine = Machine::new(when, MARCH, 0);
        machine.live(HOUR, 2);
        let before = machine.rounds.len();
        machine.now = machine.now + Duration::from_secs(8 * 3600);
        machine.live(HOUR, 2);
        assert!((11..=13).contains(&(machine.rounds.len() - before)), "{when}");
    }
}

#[test]
fn windows_and_pauses_are_told_with_their_reason() {
    let when = "except:\n  - { cron: \"0 2 * * 0\", for: 2h, why: weekly update }\n  \
                - { cron: \"0 3 * * 0\", for: 90m, why: backup }\nzone: Europe/Berlin";
    let mut schedule = Schedule::new(&scenario(when), Instant::default(), 0);
    let at = |hour: u64, minute: u64| {
        let minutes = i64::try_from(24 * 60 + hour * 60 + minute).unwrap();
        Timestamp::from_millis(MARCH + minutes * 60_000)
    };
    let told = |schedule: &Schedule, at| schedule.suppressed(at).map(|why| why.to_string());
    assert_eq!(told(&schedule, at(0, 59)), None);
    // That Sunday has no 2 o'clock: both begin at 3, which is 1 o'clock UTC.
    let update = "in a maintenance window until 2026-03-29T03:00:00Z: weekly update";
    assert_eq!(told(&schedule, at(1, 0)).unwrap(), update);
    assert_eq!(told(&schedule, at(2, 59)).unwrap(), update);
    assert_eq!(told(&schedule, at(3, 0)), None);

    schedule.pause(Pause { why: "disk swap".to_owned(), until: Some(at(2, 0)) });
    let paused = "paused by the operator until 2026-03-29T02:00:00Z: disk swap";
    assert_eq!(told(&schedule, at(0, 0)).unwrap(), paused);
    assert_eq!(told(&schedule, at(2, 0)).unwrap(), update);
    schedule.pause(Pause { why: "for good".to_owned(), until: None });
    assert_eq!(told(&schedule, at(9, 0)).unwrap(), "paused by the operator: for good");
    schedule.resume();
    assert_eq!(told(&schedule, at(9, 0)), None);
}

/// So many apps with the ids that a careless person gives them, 1, 2, 3.
fn apps(count: u32) -> Vec<AppId> {
    let id = |number: u32| {
        let mut bytes = [0; 16];
        bytes[12..].copy_from_slice(&number.to_be_bytes());
        AppId::new(bytes)
    };
    (1..=count).map(id).collect()
}

#[test]
fn rounds_of_500_apps_are_spread() {
    let name: ScenarioName = "test".parse().unwrap();
    for (when, span) in [("period: 30s", 30_000_u64), ("cron: \"*/5 * * * *\"", 30_000)] {
        let scenario = scenario(when);
        let mut bins = BTreeMap::new();
        for app in apps(500) {
            let mut schedule = Schedule::new(&scenario, Instant::default(), share(&app, &name));
            let mut due = schedule.next(Instant::default(), Timestamp::from_millis(MARCH));
            while !due.round {
                let wall = MARCH + i64::try_from(due.at.as_millis()).unwrap();
                due = schedule.next(due.at, Timestamp::from_millis(wall));
            }
            schedule.begun(&due);
            *bins.entry(due.at.as_millis() * 30 / span).or_insert(0_u32) += 1;
        }
        // 30 seconds, 17 rounds in each if all was even.
        assert!(bins.len() >= 29, "{when}: {bins:?}");
        assert!(bins.values().all(|rounds| *rounds <= 34), "{when}: {bins:?}");
    }
}

#[test]
fn one_thread_serves_500_apps_fairly() {
    const ROUND: Duration = Duration::from_millis(20);
    let name: ScenarioName = "test".parse().unwrap();
    let scenario = scenario("period: 30s");
    let new = |app| (Schedule::new(&scenario, Instant::default(), share(&app, &name)), 0_u32);
    let mut apps: Vec<(Schedule, u32)> = apps(500).into_iter().map(new).collect();
    let wall = Timestamp::default();
    let mut queue: BTreeSet<(Instant, usize)> = apps
        .iter()
        .enumerate()
        .map(|(index, (schedule, _))| (schedule.next(Instant::default(), wall).at, index))
        .collect();
    let (mut now, mut latest) = (Instant::default(), Duration::ZERO);
    while now < Instant::from_millis(HOUR) {
        let (at, index) = queue.pop_first().unwrap();
        now = now.max(at);
        latest = latest.max(now.since(at));
        let (schedule, rounds) = &mut apps[index];
        schedule.begun(&schedule.next(at - Duration::from_millis(1), wall));
        *rounds += 1;
        now = now + ROUND;
        queue.insert((schedule.next(now, wall).at, index));
    }
    let rounds = |pick: fn(u32, u32) -> u32| apps.iter().map(|app| app.1).reduce(pick).unwrap();
    assert!((119..=120).contains(&rounds(u32::min)), "{}", rounds(u32::min));
    assert!((120..=121).contains(&rounds(u32::max)), "{}", rounds(u32::max));
    assert!(latest < Duration::from_millis(500), "{latest:?}");
}

/// A life: how long, then by how much the wall clock jumps, and how late wakeups are.
fn lives() -> impl Strategy<Value = Vec<(u64, i64, u64)>> {
    let day = 86_400_000_i64;
    let jump = prop_oneof![-5_000..5_000_i64, -2 * day..2 * day, -4000 * day..4000 * day];
    prop::collection::vec((1_u64..2 * HOUR, jump, 0_u64..50), 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn jumps_of_the_clock_neither_repeat_nor_storm(
        lives in lives(), share: u16, start in MARCH - 400 * 86_400_000..MARCH,
        pattern in prop::sample::select(vec![
            "*/5 * * * *", "0 * * * *", "30 2 * * *", "*/20 * * * * *", "0,1 0 * * 0",
        ]),
    ) {
        let when = format!("cron: \"{pattern}\"\nzone: Europe/Berlin");
        let mut machine = Machine::new(&when, start, share);
        let mut newest = machine.wall();
        for (millis, jump, late) in lives {
            machine.live(millis, late);
            newest = newest.max(machine.wall());
            // Back by no more than a day in all: beyond that the past is forgotten.
            let lowest = before(newest, WRONG).as_millis() + 60_000;
            let jump = jump.max(lowest - machine.wall().as_millis());
            machine.jump(jump);
        }
        let times: Vec<Timestamp> = machine.rounds.iter().filter_map(|due| due.time).collect();
        let once: BTreeSet<Timestamp> = times.iter().copied().collect();
        prop_assert_eq!(times.len(), once.len(), "{:?}", times);
        let When::Cron(cron) = &machine.schedule.when else { unreachable!() };
        for pair in machine.rounds.windows(2) {
            prop_assert!(pair[1].at.since(pair[0].at) >= cron.shortest().min(WRONG) / 2);
        }
    }

    #[test]
    fn however_the_clock_jumped_rounds_go_on(lives in lives(), share: u16) {
        let mut machine = Machine::new("cron: \"0 * * * *\"", MARCH, share);
        for (millis, jump, late) in lives {
            machine.live(millis, late);
            machine.jump(jump);
        }
        let before = machine.rounds.len();
        machine.live(27 * HOUR, 0);
        prop_assert!(machine.rounds.len() > before);
    }

    #[test]
    fn beats_are_ahead_and_no_further_than_a_period(
        start in 0_u64..1 << 40, seconds in 1_u64..86_400, share: u16, later in 0_u64..1 << 40,
    ) {
        let scenario = scenario(&format!("period: {seconds}s\ntimeout: 1s"));
        let start = Instant::from_millis(start);
        let schedule = Schedule::new(&scenario, start, share);
        let now = start + Duration::from_millis(later);
        let period = Duration::from_secs(seconds);
        let next = schedule.beat(period, now);
        prop_assert!(next > now || next == schedule.first);
        prop_assert!(next.since(now) <= period);
    }
}

/// Serves schedules of 5 s, one round at a time, each of which takes so many milliseconds; how many
/// rounds of each there were in ten minutes.
fn served(shares: &[u16], takes: u64) -> Vec<usize> {
    let mut now = Instant::from_millis(5_000);
    let wall = Timestamp::from_millis(MARCH);
    let all = shares.iter().map(|share| Schedule::new(&scenario("period: 5s"), now, *share));
    let mut all: Vec<Schedule> = all.collect();
    let mut rounds = vec![0; shares.len()];
    while now < Instant::from_millis(605_000) {
        let due = all.iter_mut().map(|schedule| schedule.due(now, wall)).enumerate();
        let (index, due) = due.min_by_key(|(_, due)| due.at).unwrap();
        now = now.max(due.at);
        all[index].begun(&due);
        rounds[index] += 1;
        now = now + Duration::from_millis(takes);
    }
    rounds
}

#[test]
fn who_falls_into_the_time_of_another_is_asked_all_the_same() {
    // A beat lies in the other's round, every time.
    assert_eq!(served(&[0, 1_000], 500), [121, 120]);
    // Rounds take twice the time that there is: all of them come, half as often.
    let rounds = served(&[0, 9_000, 20_000, 40_000, 60_000], 2_000);
    assert!(rounds.iter().all(|count| (59..=61).contains(count)), "{rounds:?}");
}

proptest! {
    #[test]
    fn nobody_starves(shares in prop::collection::vec(any::<u16>(), 1..8), takes in 1u64..4_000) {
        let rounds = served(&shares, takes);
        let (least, most) = (rounds.iter().min().unwrap(), rounds.iter().max().unwrap());
        prop_assert!(2 * least + 2 >= *most, "{rounds:?}");
    }
}
