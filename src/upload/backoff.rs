//! How long to wait before asking again. No IO, no clock.

use std::time::Duration;

/// Pauses that double from `first` to `most`, each shortened by up to a quarter, so that devices
/// which lost the same broker at the same time do not all come back at the same time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backoff {
    pub(super) first: Duration,
    pub(super) most: Duration,
}

/// Numbers that a seed determines (SplitMix64): enough to spread devices, and no secret.
#[derive(Clone, Debug)]
pub(super) struct Dice(u64);

// === impl Backoff ===

impl Backoff {
    /// The pause after so many tries in vain.
    pub(super) fn pause(self, tries: u32, dice: &mut Dice) -> Duration {
        let doubled = self.first.saturating_mul(2_u32.saturating_pow(tries));
        let whole = u64::try_from(doubled.min(self.most).as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(whole - dice.roll(whole / 4 + 1))
    }
}

// === impl Dice ===

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `below`, which must not be 0.
    pub(super) fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_within_their_bounds() {
        let backoff = Backoff { first: Duration::from_secs(2), most: Duration::from_secs(300) };
        let mut dice = Dice::new(7);
        for (tries, whole) in [(0, 2), (1, 4), (2, 8), (7, 256), (8, 300), (u32::MAX, 300)] {
            for _ in 0..100 {
                let pause = backoff.pause(tries, &mut dice).as_millis();
                assert!((whole * 750..=whole * 1000).contains(&pause), "{tries}: {pause}");
            }
        }
    }
}
