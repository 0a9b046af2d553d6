//! Small lives, written out; long ones are in [`simulation`].

mod audit;
mod model;
mod simulation;
mod world;

use super::*;
use crate::base::time::Instant;
use proptest::prelude::*;

const RULES: Rules = Rules {
    failure_threshold: 3,
    success_threshold: 2,
    initial_delay: Duration::from_secs(60),
    witnesses: 1,
    flap: None,
};

/// Rounds 30 s apart, a letter each:
/// - `a`live, `u`nknown, `d`ead on the console, `n` dead on the network, `D` dead on both,
///   `c` dead and conclusive, `l` console dead but network alive;
/// - `p` paused by somebody (the console is dead), `s` dead on a starving host, `x` conclusive on a
///   starving host, `o` network dead and the uplink down, `O` both dead and the uplink down;
/// - `R` a new process, `B` the guest booted anew, `G` gone.
fn hear(letter: char) -> (Vec<Testimony>, Context) {
    let say = |transport, rung, answer| Testimony { transport, rung, answer, conclusive: false };
    let console = |answer| say(Transport::Console, Rung::Userspace, answer);
    let network = |answer| say(Transport::Network, Rung::Service, answer);
    let answers = match letter {
        'a' => vec![console(Answer::Alive)],
        'd' | 'p' | 's' => vec![console(Answer::Dead)],
        'n' | 'o' => vec![network(Answer::Dead)],
        'D' | 'O' => vec![console(Answer::Dead), network(Answer::Dead)],
        'c' | 'x' => vec![say(Transport::Hypervisor, Rung::Vmm, Answer::Dead).conclusive()],
        'l' => vec![console(Answer::Dead), network(Answer::Alive)],
        _ => vec![console(Answer::Unknown)],
    };
    let context = Context {
        pause: (letter == 'p').then_some(Pause::Stopped),
        host_starved: matches!(letter, 's' | 'x'),
        uplink_down: matches!(letter, 'o' | 'O'),
    };
    (answers, context)
}

/// The state after each letter, and marks: `?` it became suspect, `!` an incident began, `.` it ended,
/// `~` it flaps, `=` it is calm, `-` something is suppressed.
fn play(rules: Rules, rounds: &str) -> String {
    let mut ladder = Ladder::new(rules, Instant::default());
    let step = |(index, letter): (usize, char)| {
        let now = Instant::from_millis(30_000 * index as u64);
        let turns = match letter {
            'R' => ladder.started(now),
            'G' => ladder.gone(now),
            'B' => {
                ladder.rebooted(now);
                Vec::new()
            }
            _ => {
                let (answers, context) = hear(letter);
                ladder.round(&answers, context, now).turns
            }
        };
        let marks: String = turns.into_iter().map(mark).collect();
        format!("{}{marks}", ladder.state())
    };
    rounds.chars().enumerate().map(step).collect::<Vec<_>>().join(" ")
}

fn mark(turn: Turn) -> char {
    match turn {
        Turn::BecameSuspect => '?',
        Turn::Failed => '!',
        Turn::Ended(_) => '.',
        Turn::Flapping => '~',
        Turn::Calm => '=',
        Turn::Suppressed(_) => '-',
    }
}

#[test]
fn three_dead_rounds_make_an_incident_and_two_alive_ones_end_it() {
    assert_eq!(
        play(RULES, "adddudaa"),
        "healthy suspect? suspect failed! failed failed failed healthy."
    );
}

#[test]
fn a_booting_guest_has_its_time() {
    assert_eq!(play(RULES, "dddd"), "starting starting suspect? suspect");
    assert_eq!(play(RULES, "uudda"), "starting starting suspect? suspect healthy");
    let patient = Rules { initial_delay: Duration::from_secs(120), ..RULES };
    assert_eq!(play(patient, "uuudd"), "starting starting starting starting suspect?");
}

#[test]
fn unknown_neither_counts_nor_forgets() {
    assert_eq!(play(RULES, "auduudd"), "healthy healthy suspect? suspect suspect suspect failed!");
    assert_eq!(play(RULES, "auuud"), "healthy healthy healthy unknown suspect?");
    assert_eq!(play(RULES, "adduuud"), "healthy suspect? suspect suspect suspect unknown failed!");
}

#[test]
fn a_second_witness_is_waited_for_unless_one_leaves_no_doubt() {
    let two = Rules { witnesses: 2, ..RULES };
    assert_eq!(play(two, "addddn"), "healthy suspect? suspect suspect suspect failed!");
    assert_eq!(play(two, "addDa"), "healthy suspect? suspect failed! failed");
    assert_eq!(play(two, "addc"), "healthy suspect? suspect failed!");
    assert_eq!(play(two, "addladn"), "healthy suspect? suspect healthy healthy suspect? suspect");
}

#[test]
fn a_pause_hears_nobody_and_forgets_what_was_suspected() {
    assert_eq!(
        play(RULES, "addpppdd"),
        "healthy suspect? suspect paused- paused paused suspect? suspect"
    );
    assert_eq!(play(RULES, "apupp"), "healthy paused- unknown paused- paused");
    assert_eq!(
        play(RULES, "uuuppdd"),
        "starting starting unknown paused- paused starting starting"
    );
    assert_eq!(play(RULES, "addd p"), "healthy suspect? suspect failed! failed failed-");
}

#[test]
fn a_starving_host_and_a_dead_uplink_excuse_silence_but_not_what_is_certain() {
    assert_eq!(play(RULES, "asssa"), "healthy healthy- healthy unknown healthy");
    assert_eq!(play(RULES, "axxx"), "healthy suspect? suspect failed!");
    assert_eq!(play(RULES, "aoou"), "healthy healthy- healthy unknown");
    assert_eq!(play(RULES, "aOOO"), "healthy suspect? suspect failed!");
    assert_eq!(play(RULES, "asusds"), "healthy healthy- healthy unknown suspect? suspect-");
}

#[test]
fn a_new_process_begins_anew_and_ends_what_was_open() {
    assert_eq!(
        play(RULES, "adddRda"),
        "healthy suspect? suspect failed! starting. starting healthy"
    );
    assert_eq!(
        play(RULES, "adddGaRa"),
        "healthy suspect? suspect failed! gone. gone starting healthy"
    );
}

#[test]
fn a_guest_that_boots_anew_has_its_time_once() {
    assert_eq!(
        play(RULES, "addBdda"),
        "healthy suspect? suspect starting starting suspect? healthy"
    );
    // It boots over and over, and never answers.
    assert_eq!(
        play(RULES, "adBdBdBdd"),
        "healthy suspect? starting starting starting suspect? suspect suspect failed!"
    );
    assert_eq!(play(RULES, "adddBaa"), "healthy suspect? suspect failed! failed failed healthy.");
    assert_eq!(play(RULES, "aGBaRB"), "healthy gone gone gone starting starting");
    assert_eq!(play(RULES, "apBpda"), "healthy paused- starting paused- starting healthy");
}

#[test]
fn who_flaps_is_told_of_once_and_found_when_it_stays_down() {
    let flap = Some(Flap { changes: 3, within: Duration::from_secs(300) });
    let rules = Rules {
        failure_threshold: 1,
        success_threshold: 1,
        initial_delay: Duration::ZERO,
        flap,
        ..RULES
    };
    assert_eq!(
        play(rules, "adadadad"),
        "healthy failed! healthy. failed!~ failed failed failed failed"
    );
    // It recovers when it was alive for 300 s.
    assert_eq!(
        play(rules, "adadaaaaaaaaaaaa"),
        "healthy failed! healthy. failed!~ failed failed failed failed failed failed failed failed \
         failed failed healthy=. healthy"
    );
    // A new process is a new process, but a failure must last.
    assert_eq!(
        play(rules, "adadRddddddddddd"),
        "healthy failed! healthy. failed!~ starting. suspect? suspect suspect suspect suspect \
         suspect suspect suspect suspect suspect failed=!"
    );
}

#[test]
fn time_does_not_run_backward() {
    let at = Instant::from_millis;
    let (alive, _) = hear('a');
    let mut ladder = Ladder::new(RULES, at(1_000_000));
    let outcome = ladder.round(&alive, Context::PLAIN, at(5));
    assert_eq!(outcome.state, State::Healthy { since: at(1_000_000) });
    let resumed = Ladder::resumed(RULES, at(1_000_000), at(7));
    assert_eq!(resumed.state(), State::Failed { since: at(7), recovery: None });
}

#[test]
fn one_alive_answer_settles_a_round_and_the_hypervisor_alone_does_not() {
    let say =
        |rung, answer| Testimony { transport: Transport::Console, rung, answer, conclusive: false };
    let verdict = Verdict::of(&[
        say(Rung::Userspace, Answer::Dead),
        say(Rung::Storage, Answer::Unknown),
        say(Rung::Service, Answer::Alive),
    ]);
    assert_eq!(verdict.answer(), Answer::Alive);
    assert!(verdict.is_disputed());
    assert_eq!(verdict.to_string(), "service proven, userspace refuted; could not ask storage");
    let hung = Verdict::of(&[
        say(Rung::Vcpu, Answer::Alive),
        say(Rung::Service, Answer::Dead),
        say(Rung::Userspace, Answer::Dead),
    ]);
    assert_eq!((hung.answer(), hung.is_disputed()), (Answer::Dead, false));
    assert_eq!(hung.to_string(), "vcpu proven, userspace refuted");
    let odd = Verdict::of(&[say(Rung::Service, Answer::Dead), say(Rung::Service, Answer::Alive)]);
    assert!(odd.is_disputed());
    let vmm = |answer| Verdict::of(&[say(Rung::Vmm, answer)]).answer();
    assert_eq!(vmm(Answer::Alive), Answer::Unknown);
    assert_eq!(vmm(Answer::Dead), Answer::Dead);
    assert_eq!(vmm(Answer::Unknown), Answer::Unknown);
}

#[test]
fn a_guest_that_is_held_for_a_healthy_reason_is_told_from_a_broken_one() {
    for healthy in ["paused", "save-vm", "suspended", "finish-migrate"] {
        assert!(Pause::of_run_state(healthy).is_some(), "{healthy}");
    }
    for broken in ["io-error", "internal-error", "guest-panicked", "watchdog", "running", ""] {
        assert_eq!(Pause::of_run_state(broken), None, "{broken}");
    }
}

#[test]
fn turns_are_said_in_sentences() {
    let all = [
        Turn::BecameSuspect,
        Turn::Failed,
        Turn::Ended(End::Recovered),
        Turn::Flapping,
        Turn::Calm,
        Turn::Suppressed(Excuse::Paused(Pause::Operator)),
        Turn::Suppressed(Excuse::UplinkDown),
    ];
    insta::assert_snapshot!(all.map(|turn| turn.to_string()).join("\n"), @r"
    it did not answer for the first time
    an incident begins
    the incident is over: it answers again
    it fails and recovers too often; a change must last now
    it no longer fails and recovers too often
    its silence does not count: an operator paused the watch
    its silence does not count: only the network is silent, and the device's uplink is down
    ");
}

proptest! {
    #[test]
    fn without_a_dead_answer_that_counts_there_is_no_incident(rounds in "[aulpsoRBG]{0,200}") {
        prop_assert!(!play(RULES, &rounds).contains('!'));
    }

    #[test]
    fn incidents_begin_and_end_in_turn(rounds in "[adnDclupsxoORBG]{0,200}") {
        let marks: String = play(RULES, &rounds).chars().filter(|c| "!.".contains(*c)).collect();
        prop_assert!(!marks.contains("!!") && !marks.contains("..") && !marks.starts_with('.'));
    }
}
