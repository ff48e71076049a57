//! When a failed job is tried again, and how long it waits first. Nobody waits here: it only says
//! how long.
//!
//! The wait grows exponentially up to a ceiling and is then drawn at random
//! between zero and that ceiling: "full jitter" in Marc Brooker, *Exponential
//! Backoff And Jitter*, AWS Architecture Blog, 4 March 2015,
//! <https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>:
//!
//! ```text
//! sleep = random_between(0, min(cap, base * 2 ** attempt))
//! ```
//!
//! Among the schemes measured there it lets many clients that failed together
//! finish with the least total work, because it spreads them over the whole
//! interval rather than around its end.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// How the wait before a retry is drawn from its exponential ceiling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Jitter {
    /// Evenly between zero and the ceiling. The default, and right whenever
    /// more than one job may fail for the same reason.
    #[default]
    Full,
    /// Exactly the ceiling: a predictable schedule.
    None,
}

/// How often a job is tried and how long it waits between two attempts.
///
/// All values are accepted: those that make no sense are read as the nearest
/// one that does, as each field says, so no method here fails or panics.
///
/// ```
/// use std::time::Duration;
/// use fiefdom::jobs::{Jitter, RetryPolicy};
///
/// // Three attempts, with waits of exactly 1 s and 2 s between them.
/// let policy = RetryPolicy::attempts(3).with_base(Duration::from_secs(1)).with_jitter(Jitter::None);
/// assert_eq!((policy.max_attempts, policy.factor), (3, 2.0));
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryPolicy {
    /// Attempts in all, the first included; 0 is read as 1.
    pub max_attempts: u32,
    /// The ceiling of the wait after the first failed attempt.
    pub base: Duration,
    /// What the ceiling is multiplied with after each further failed attempt;
    /// anything below 1 (and NaN) is read as 1, a constant wait.
    pub factor: f64,
    /// No wait is longer than this.
    pub max_delay: Duration,
    /// How the wait is drawn from its ceiling.
    pub jitter: Jitter,
}

impl RetryPolicy {
    /// One attempt and no retry.
    ///
    /// ```
    /// use fiefdom::jobs::RetryPolicy;
    ///
    /// assert_eq!(RetryPolicy::none(), RetryPolicy::attempts(1));
    /// ```
    #[must_use]
    pub const fn none() -> Self {
        Self::attempts(1)
    }

    /// `max_attempts` attempts in all (0 is read as 1), with ceilings of 0.5 s,
    /// 1 s, 2 s and so on up to 30 s, and full jitter.
    #[must_use]
    pub const fn attempts(max_attempts: u32) -> Self {
        Self {
            max_attempts: if max_attempts == 0 { 1 } else { max_attempts },
            base: Duration::from_millis(500),
            factor: 2.0,
            max_delay: Duration::from_secs(30),
            jitter: Jitter::Full,
        }
    }

    /// The same policy with another [`base`](Self::base).
    #[must_use]
    pub const fn with_base(mut self, base: Duration) -> Self {
        self.base = base;
        self
    }

    /// The same policy with another [`factor`](Self::factor).
    ///
    /// ```
    /// use std::time::Duration;
    /// use fiefdom::jobs::RetryPolicy;
    ///
    /// // Up to 10 s, 30 s, 90 s, and then 2 min each time.
    /// let policy = RetryPolicy::attempts(8)
    ///     .with_base(Duration::from_secs(10))
    ///     .with_factor(3.0)
    ///     .with_max_delay(Duration::from_secs(120));
    /// # assert_eq!(policy.max_delay.as_secs(), 120);
    /// ```
    #[must_use]
    pub const fn with_factor(mut self, factor: f64) -> Self {
        self.factor = factor;
        self
    }

    /// The same policy with another [`max_delay`](Self::max_delay). The example is at
    /// [`RetryPolicy::with_factor`].
    #[must_use]
    pub const fn with_max_delay(mut self, max_delay: Duration) -> Self {
        self.max_delay = max_delay;
        self
    }

    /// The same policy with another [`jitter`](Self::jitter).
    #[must_use]
    pub const fn with_jitter(mut self, jitter: Jitter) -> Self {
        self.jitter = jitter;
        self
    }

    /// Whether another attempt follows when `attempt` (counted from 1) failed.
    pub(super) const fn retries_after(&self, attempt: u32) -> bool {
        attempt < self.max_attempts
    }

    /// The wait between the failure of `attempt` (counted from 1; 0 is read as
    /// one) and the next attempt. Whether there is a next one is for
    /// [`retries_after`](Self::retries_after) to say.
    ///
    /// `random` is a number from 0 up to but not including 1, for example from
    /// a generator; one outside is moved to the nearest end (NaN: 0). The result
    /// depends on the arguments alone and is never above
    /// [`max_delay`](Self::max_delay), whatever `attempt` is.
    pub(super) fn delay(&self, attempt: u32, random: f64) -> Duration {
        let share = match self.jitter {
            Jitter::None => 1.0,
            // Not `clamp`, which keeps NaN, where `max` turns it into 0.
            #[expect(clippy::manual_clamp, reason = "NaN has to become 0")]
            Jitter::Full => random.max(0.0).min(1.0),
        };
        let ceiling = self.ceiling(attempt);
        // Every step is exact or rounded, never overflowing: a share of at most
        // 1 cannot push a Duration over its range by more than rounding, which
        // the two last calls undo.
        Duration::try_from_secs_f64(ceiling.as_secs_f64() * share).unwrap_or(ceiling).min(ceiling)
    }

    /// `min(max_delay, base * factor ^ (attempt - 1))`.
    fn ceiling(&self, attempt: u32) -> Duration {
        if self.base.is_zero() {
            // 0 * infinity would be NaN.
            return Duration::ZERO;
        }
        let doublings = attempt.saturating_sub(1);
        let seconds = self.base.as_secs_f64() * self.factor.max(1.0).powf(f64::from(doublings));
        // powf saturates to infinity, and what no Duration can hold is surely
        // above the longest wait.
        Duration::try_from_secs_f64(seconds).unwrap_or(self.max_delay).min(self.max_delay)
    }
}

impl Default for RetryPolicy {
    /// [`RetryPolicy::none`].
    fn default() -> Self {
        Self::none()
    }
}

/// A number drawn evenly from 0 up to but not including 1.
///
/// It is a keyed hash (`SipHash`) of nothing, under a key that the standard
/// library takes from the operating system once for each thread and changes at
/// each use. That is enough here: jitter only has to differ between jobs and
/// between machines, nobody gains by predicting it, and no dependency on a
/// generator is needed. Never use it for secrets.
#[must_use]
pub(super) fn random() -> f64 {
    let bits = RandomState::new().hash_one(());
    // The upper 53 bits, as many as an f64 holds exactly, over 2^53: always
    // below 1.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit an f64 exactly")]
    let fraction = (bits >> 11) as f64 / (1_u64 << 53) as f64;
    fraction
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn the_ceiling_doubles_until_it_reaches_the_longest_wait() {
        let policy = RetryPolicy::attempts(9).with_jitter(Jitter::None);
        let waits: Vec<_> = (1..=8).map(|attempt| policy.delay(attempt, 0.3)).collect();
        let expected = [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000].map(MS);
        assert_eq!(waits, expected);
    }

    #[test]
    fn full_jitter_scales_the_ceiling_by_the_random_number() {
        let policy = RetryPolicy::attempts(5);
        assert_eq!(policy.delay(1, 0.0), Duration::ZERO);
        assert_eq!(policy.delay(1, 0.5), MS(250));
        assert_eq!(policy.delay(3, 0.25), MS(500));
        assert!(policy.delay(3, 0.999_999) < MS(2000));
    }

    #[test]
    fn no_argument_makes_the_delay_overflow_or_pass_the_longest_wait() {
        let durations = [Duration::ZERO, Duration::from_nanos(1), MS(500), Duration::MAX];
        let factors = [f64::NAN, f64::NEG_INFINITY, 0.0, 1.0, 1.5, 2.0, 1e300, f64::INFINITY];
        let randoms = [f64::NAN, -1.0, 0.0, 0.5, 1.0, 7.0, f64::INFINITY];
        for base in durations {
            for max_delay in durations {
                for factor in factors {
                    for random in randoms {
                        for attempt in [0, 1, 2, 64, 2000, u32::MAX] {
                            for jitter in [Jitter::Full, Jitter::None] {
                                let policy = RetryPolicy::attempts(u32::MAX)
                                    .with_base(base)
                                    .with_factor(factor)
                                    .with_max_delay(max_delay)
                                    .with_jitter(jitter);
                                assert!(policy.delay(attempt, random) <= max_delay);
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn the_last_attempt_is_not_retried() {
        assert!(!RetryPolicy::none().retries_after(1));
        assert!(!RetryPolicy::attempts(0).retries_after(1));
        let three = RetryPolicy::attempts(3);
        assert!(three.retries_after(2));
        assert!(!three.retries_after(3));
        assert!(!three.retries_after(u32::MAX));
    }

    #[test]
    fn random_numbers_lie_in_their_range_and_are_spread_over_it() {
        let mut tenths = [0_u32; 10];
        for _ in 0..10_000 {
            let number = random();
            assert!((0.0..1.0).contains(&number));
            let tenth = tenths.iter_mut().zip(1..).find(|(_, end)| number * 10.0 < f64::from(*end));
            *tenth.unwrap().0 += 1;
        }
        // About 1000 each; 800 is more than six standard deviations away.
        assert!(tenths.iter().all(|&count| (800..=1200).contains(&count)), "{tenths:?}");
    }
}
