//! An app, what is around it, and everything that may happen to both: the alphabet of the simulation.

use crate::base::rung::{Answer, Rung};
use crate::base::time::Instant;
use crate::ladder::{Context, Flap, Pause, Rules, Testimony, Transport};
use std::fmt;
use std::time::Duration;

/// Something that happens.
#[derive(Clone, Debug)]
pub(super) enum Letter {
    /// Everybody is asked.
    Round(Vec<Testimony>, Context),
    /// The guest is another from now on.
    Guest(Guest),
    /// Somebody takes the console, or leaves it.
    Console { stolen: bool },
    /// The guest is held for this reason, or let go.
    Hold(Option<Pause>),
    /// The host starves, or does no longer.
    Host { starved: bool },
    /// The uplink goes down, or comes back.
    Uplink { down: bool },
    /// The agent dies and comes back, with what it had saved.
    AgentCrash,
    /// The machine reboots under it: time begins anew.
    Reboot,
    /// The machine sleeps.
    Sleep(Duration),
    /// Somebody hands in an earlier time.
    ClockBack(Duration),
    /// The guest boots anew in its process.
    GuestBoots,
    /// The app has another process.
    Restart,
    /// The app leaves the device.
    Gone,
}

impl fmt::Display for Letter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Round(heard, Context { pause, host_starved, uplink_down }) = self else {
            return write!(f, "{self:?}");
        };
        for Testimony { transport, rung, answer, conclusive } in heard {
            let mark = if *conclusive { "!" } else { "" };
            write!(f, "{transport}/{rung} {answer}{mark}, ")?;
        }
        let or_not = |what: &str, is| if is { format!(", {what}") } else { String::new() };
        write!(f, "pause {pause:?}{}", or_not("the host starves", *host_starved))?;
        write!(f, "{}", or_not("the uplink is down", *uplink_down))
    }
}

/// How a guest answers.
#[derive(Clone, Copy, Debug)]
pub(super) enum Guest {
    Well,
    Silent,
    /// In time or not.
    Slow,
    /// Alive on one way, dead on the others.
    Lying(Transport),
    /// Dead, and it said so.
    Panicked,
    /// It cannot be asked.
    Hidden,
    /// Anything, even a conclusive answer of something that lives.
    Erratic,
}

/// Numbers that a seed determines: SplitMix64.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below.max(1)
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.roll(n) == 0
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[usize::try_from(self.roll(all.len() as u64)).unwrap()]
    }

    fn below(&mut self, n: u32) -> u32 {
        u32::try_from(self.roll(n.into())).unwrap()
    }

    pub(super) fn seconds(&mut self, below: u64) -> Duration {
        Duration::from_secs(self.roll(below))
    }
}

const WAYS: [(Transport, Rung); 6] = [
    (Transport::Console, Rung::Userspace),
    (Transport::Disk, Rung::Storage),
    (Transport::Network, Rung::Kernel),
    (Transport::Network, Rung::Service),
    (Transport::Agent, Rung::Userspace),
    (Transport::Console, Rung::Kernel),
];

const PAUSES: [Pause; 3] = [Pause::Stopped, Pause::Saved, Pause::Operator];

/// The app and what is around it.
pub(super) struct World {
    dice: Dice,
    /// What the scenario asks, in order.
    ways: Vec<(Transport, Rung)>,
    guest: Guest,
    console_stolen: bool,
    gone: bool,
    context: Context,
    /// From round to round it is this, or anything.
    period: Option<Duration>,
    /// One in so many steps changes something.
    calm: u64,
}

impl World {
    pub(super) fn new(mut dice: Dice) -> Self {
        let count = 1 + dice.roll(4);
        let ways = (0..count).map(|_| dice.of(&WAYS)).collect();
        let calm = 3 + dice.roll(10);
        let period = dice.one_in(2).then_some(Duration::from_secs(30));
        let (guest, context) = (Guest::Well, Context::PLAIN);
        Self { dice, ways, guest, console_stolen: false, gone: false, context, period, calm }
    }

    pub(super) fn next(&mut self) -> Letter {
        if self.gone && self.dice.one_in(3) {
            return Letter::Restart;
        }
        if self.context.pause.is_some() && self.dice.one_in(5) {
            return Letter::Hold(None);
        }
        if !self.dice.one_in(self.calm) {
            return Letter::Round(self.answers(), self.context);
        }
        match self.dice.roll(22) {
            0..=7 => Letter::Guest(self.another_guest()),
            8 => Letter::Console { stolen: !self.console_stolen },
            9 => Letter::Hold(Some(self.dice.of(&PAUSES))),
            10 => Letter::Host { starved: false },
            11 => Letter::Host { starved: !self.context.host_starved },
            12 => Letter::Uplink { down: !self.context.uplink_down },
            13 | 14 => Letter::AgentCrash,
            15 => Letter::Reboot,
            16 => Letter::Sleep(self.dice.seconds(7200)),
            17 => Letter::ClockBack(self.dice.seconds(3600)),
            18 => Letter::Restart,
            19 | 20 => Letter::GuestBoots,
            _ => Letter::Gone,
        }
    }

    fn another_guest(&mut self) -> Guest {
        match self.dice.roll(10) {
            0..=2 => Guest::Well,
            8 => Guest::Hidden,
            3 | 4 => Guest::Silent,
            5 => Guest::Slow,
            7 => Guest::Erratic,
            6 => Guest::Lying(self.dice.of(&WAYS).0),
            _ => Guest::Panicked,
        }
    }

    /// From this round to the next.
    pub(super) fn pace(&mut self) -> Duration {
        self.period.unwrap_or(Duration::from_secs(10) + self.dice.seconds(40))
    }

    /// How long ago the machine booted when the agent starts.
    pub(super) fn boot(&mut self) -> Instant {
        Instant::from_millis(self.dice.roll(100_000))
    }

    pub(super) fn happens(&mut self, letter: &Letter) {
        match letter {
            Letter::Guest(guest) => self.guest = *guest,
            Letter::Console { stolen } => self.console_stolen = *stolen,
            Letter::Hold(pause) => self.context.pause = *pause,
            Letter::Host { starved } => self.context.host_starved = *starved,
            Letter::Uplink { down } => self.context.uplink_down = *down,
            Letter::Restart => (self.guest, self.gone) = (Guest::Well, false),
            Letter::GuestBoots if self.gone => {}
            Letter::GuestBoots => self.guest = self.dice.of(&[Guest::Well, Guest::Silent]),
            Letter::AgentCrash | Letter::Reboot => self.gone = false,
            Letter::Gone => self.gone = true,
            Letter::Round(..) | Letter::Sleep(_) | Letter::ClockBack(_) => {}
        }
    }

    /// What everybody answers. Mostly the first alive answer settles it, sometimes all are asked.
    fn answers(&mut self) -> Vec<Testimony> {
        let all = self.dice.one_in(4);
        let mut answers = Vec::new();
        for (transport, rung) in self.ways.clone() {
            let (answer, conclusive) = self.answer(transport);
            answers.push(Testimony { transport, rung, answer, conclusive });
            if answer == Answer::Alive && !all {
                return answers;
            }
        }
        let looked = self.dice.of(&[Rung::Vmm, Rung::Vcpu]);
        let answer = match self.dice.roll(12) {
            0 => Answer::Dead,
            1 | 2 => Answer::Unknown,
            _ => Answer::Alive,
        };
        let conclusive = looked == Rung::Vmm && answer == Answer::Dead;
        answers.push(Testimony {
            transport: Transport::Hypervisor,
            rung: looked,
            answer,
            conclusive,
        });
        answers
    }

    fn answer(&mut self, transport: Transport) -> (Answer, bool) {
        if self.dice.one_in(25) || (self.console_stolen && transport == Transport::Console) {
            return (Answer::Unknown, false);
        }
        if transport == Transport::Network && self.context.uplink_down {
            return (Answer::Dead, false);
        }
        if self.context.pause.is_some() {
            // User-mode networks accept connections for a paused guest.
            let fooled = transport == Transport::Network && self.dice.one_in(2);
            return (if fooled { Answer::Alive } else { Answer::Dead }, false);
        }
        if self.context.host_starved && self.dice.one_in(2) {
            return (Answer::Dead, false);
        }
        match self.guest {
            Guest::Well => (Answer::Alive, false),
            Guest::Silent => (Answer::Dead, false),
            Guest::Hidden => (Answer::Unknown, false),
            Guest::Erratic => {
                (self.dice.of(&[Answer::Alive, Answer::Dead, Answer::Unknown]), self.dice.one_in(9))
            }
            Guest::Slow => (self.dice.of(&[Answer::Alive, Answer::Dead, Answer::Dead]), false),
            Guest::Lying(way) if way == transport => (Answer::Alive, false),
            Guest::Lying(_) => (Answer::Dead, false),
            Guest::Panicked => (Answer::Dead, transport == Transport::Console),
        }
    }
}

pub(super) fn rules(dice: &mut Dice) -> Rules {
    let changes = 1 + dice.below(6);
    let flap = Flap { changes, within: 30 * dice.seconds(12) };
    Rules {
        failure_threshold: dice.below(5).min(dice.below(5)),
        success_threshold: dice.below(4).min(dice.below(4)),
        initial_delay: if dice.one_in(3) { Duration::ZERO } else { dice.seconds(240) },
        witnesses: dice.below(4).min(dice.below(4)),
        flap: (!dice.one_in(3)).then_some(flap),
    }
}
