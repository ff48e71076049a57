//! What is said of several runs: the middle, and how far they lie apart.

use crate::harness::{Series, median};

/// The median of some figures, with the smallest and the largest of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    pub median: f64,
    pub least: f64,
    pub most: f64,
}

impl Spread {
    /// None when there is no figure, or one that is no number.
    pub fn of(values: &[f64]) -> Option<Self> {
        if values.is_empty() || !values.iter().all(|value| value.is_finite()) {
            return None;
        }
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        Some(Self { median: median(values), least, most })
    }

    /// One series divided by another, round by round: what disturbed a round disturbed both.
    pub fn of_ratios(ours: &Series, theirs: &Series) -> Option<Self> {
        let ratios: Vec<_> = ours.values.iter().zip(&theirs.values).map(|(ours, theirs)| ours / theirs).collect();
        Self::of(&ratios)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(values: &[f64]) -> Series {
        Series { name: "any".to_owned(), x: None, values: values.to_vec() }
    }

    #[test]
    fn a_spread_is_the_middle_and_both_ends() {
        let spread = Spread::of(&[3.0, 1.0, 2.0, 10.0]).unwrap();
        assert_eq!(spread, Spread { median: 2.5, least: 1.0, most: 10.0 });
    }

    #[test]
    fn nothing_is_said_of_no_figures_or_of_one_that_is_no_number() {
        assert_eq!(Spread::of(&[]), None);
        assert_eq!(Spread::of(&[1.0, f64::NAN]), None);
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        // The second round was disturbed: both were four times slower, and the ratio is the same.
        let ratio = Spread::of_ratios(&series(&[200.0, 50.0, 220.0]), &series(&[100.0, 25.0, 100.0])).unwrap();
        assert_eq!(ratio, Spread { median: 2.0, least: 2.0, most: 2.2 });
    }

    #[test]
    fn a_round_that_only_one_of_the_two_has_is_no_ratio() {
        let ratio = Spread::of_ratios(&series(&[2.0, 9.0]), &series(&[1.0])).unwrap();
        assert_eq!(ratio, Spread { median: 2.0, least: 2.0, most: 2.0 });
    }
}
