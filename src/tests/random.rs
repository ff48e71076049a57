//! Long random runs, each crashed at random points, until there have been enough.

use super::crash::crash_at;
use super::process::{STEPS, Step};
use crate::disk::model::Random;

/// Crash points; a campaign sets `FIEFDOM_TEST_CRASH_POINTS`.
const CRASH_POINTS: u64 = 20_000;

/// Longest run, in steps.
const STEPS_MAX: u64 = 24;

/// Part of the moments of a run at which it is crashed, in percent.
const PERCENT: u64 = 25;

#[test]
fn random_runs_crashed_at_random_points() {
    let wanted = std::env::var("FIEFDOM_TEST_CRASH_POINTS").map_or(CRASH_POINTS, |n| n.parse().expect("a number"));
    let seed = u64::from(std::process::id()) ^ u64::try_from(chrono::Utc::now().timestamp_micros()).unwrap_or(1);
    println!("seed {seed}");
    let mut random = Random::new(seed);
    let (mut points, mut runs) = (0, 0);
    while points < wanted {
        let steps: Vec<Step> = (0..3 + random.below(STEPS_MAX - 2)).map(|_| random.choose(&STEPS)).collect();
        points += crash_at(&steps, 0, &mut random, PERCENT, 5);
        runs += 1;
    }
    crate::tests::shown!("{points} crash points in {runs} random runs on the model disk, 0 losses");
}
