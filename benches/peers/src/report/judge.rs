//! Whether a goal is kept.

use super::stats::Spread;
use super::text::exact;
use crate::harness::{Measured, Series};
use crate::rows::{Bound, Goal};

/// What the figures say of a goal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Judged {
    /// A ratio, or the figure itself of a goal that is no ratio.
    pub figure: Spread,
    pub kept: bool,
}

/// None when what the goal speaks of was not measured.
pub fn judge(goal: &Goal, row: &Measured) -> Option<Judged> {
    let named = |name: &str| row.series.iter().find(|series| series.name == name);
    let figure = match (&goal.bound, goal.theirs) {
        (Bound::Grows { from, to, .. }, _) => {
            let (first, last) = ends(goal.ours, row, *from, *to)?;
            // What grows is a cost: of a rate, the time per operation.
            if row.is_rate() { Spread::of_ratios(first, last)? } else { Spread::of_ratios(last, first)? }
        }
        (_, Some(theirs)) => Spread::of_ratios(named(goal.ours)?, named(theirs)?)?,
        (_, None) => Spread::of(&named(goal.ours)?.values)?,
    };
    let kept = match goal.bound {
        Bound::AtLeast(bound) => figure.median >= bound,
        Bound::AtMost(bound) | Bound::Grows { at_most: bound, .. } => figure.median <= bound,
    };
    Some(Judged { figure, kept })
}

/// The first and the last point of a series between two positions.
fn ends<'a>(name: &str, row: &'a Measured, from: f64, to: f64) -> Option<(&'a Series, &'a Series)> {
    let inside = |series: &&Series| series.name == name && series.x.is_some_and(|x| x >= from && x <= to);
    let by_x = |a: &&Series, b: &&Series| a.x.unwrap_or(0.0).total_cmp(&b.x.unwrap_or(0.0));
    let first = row.series.iter().filter(inside).min_by(by_x)?;
    let last = row.series.iter().filter(inside).max_by(by_x)?;
    (first.x < last.x).then_some((first, last))
}

/// The goal in words.
pub fn worded(goal: &Goal, row: &Measured) -> String {
    let Goal { ours, theirs, bound, .. } = goal;
    match (bound, theirs) {
        (Bound::AtLeast(bound), Some(theirs)) => format!("{ours} ≥ {}x {theirs}", exact(*bound)),
        (Bound::AtMost(bound), Some(theirs)) => format!("{ours} ≤ {}x {theirs}", exact(*bound)),
        (Bound::AtLeast(bound), None) => format!("{ours} ≥ {} {}", exact(*bound), row.unit),
        (Bound::AtMost(bound), None) => format!("{ours} ≤ {} {}", exact(*bound), row.unit),
        (Bound::Grows { from, to, at_most }, _) => {
            let Some((first, last)) = ends(ours, row, *from, *to) else {
                return format!("{ours}: the cost grows ≤ {}x", exact(*at_most));
            };
            let at = |series: &Series| exact(series.x.unwrap_or(f64::NAN));
            format!("{ours}: the cost at {} ≤ {}x that at {}", at(last), exact(*at_most), at(first))
        }
    }
}

/// The unit of what [`judge`] gives.
pub fn unit(goal: &Goal, row: &Measured) -> String {
    match (&goal.bound, goal.theirs) {
        (Bound::Grows { .. }, _) | (_, Some(_)) => "x".to_owned(),
        (_, None) => format!(" {}", row.unit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture::{goal, measured};

    #[test]
    fn a_ratio_is_judged_by_its_median() {
        let row =
            measured("r", "updates/s", &[("fiefdom", None, &[300.0, 100.0, 260.0]), ("SQLite", None, &[200.0; 3])]);
        let judged = judge(&goal("r", "fiefdom", Some("SQLite"), Bound::AtLeast(1.2)), &row).unwrap();
        assert_eq!(judged, Judged { figure: Spread { median: 1.3, least: 0.5, most: 1.5 }, kept: true });
        assert!(!judge(&goal("r", "fiefdom", Some("SQLite"), Bound::AtLeast(1.4)), &row).unwrap().kept);
        assert!(!judge(&goal("r", "fiefdom", Some("SQLite"), Bound::AtMost(1.2)), &row).unwrap().kept);
    }

    #[test]
    fn a_goal_without_a_peer_is_judged_by_the_figure() {
        let row = measured("r", "us", &[("fiefdom", None, &[290.0, 250.0, 310.0])]);
        assert!(judge(&goal("r", "fiefdom", None, Bound::AtMost(300.0)), &row).unwrap().kept);
        assert!(!judge(&goal("r", "fiefdom", None, Bound::AtMost(280.0)), &row).unwrap().kept);
    }

    #[test]
    fn growth_is_that_of_the_cost_between_the_points() {
        let points: &[(&str, Option<f64>, &[f64])] =
            &[("f", Some(1.0), &[50.0]), ("f", Some(10.0), &[100.0]), ("f", Some(100.0), &[150.0])];
        let grows = |from, to, at_most| goal("r", "f", None, Bound::Grows { from, to, at_most });
        let cost = measured("r", "us", points);
        assert_eq!(judge(&grows(0.0, f64::INFINITY, 2.0), &cost).unwrap().figure.median, 3.0);
        assert_eq!(judge(&grows(5.0, f64::INFINITY, 2.0), &cost).unwrap().figure.median, 1.5);
        assert!(judge(&grows(5.0, 100.0, 1.5), &cost).unwrap().kept);
        assert!(!judge(&grows(1.0, 100.0, 1.5), &cost).unwrap().kept);
        // Three times the rate is a third of the cost.
        let rate = measured("r", "updates/s", points);
        assert!((judge(&grows(0.0, f64::INFINITY, 2.0), &rate).unwrap().figure.median - 1.0 / 3.0).abs() < 1e-9);
    }

    #[test]
    fn what_was_not_measured_is_not_judged() {
        let row = measured("r", "us", &[("fiefdom", None, &[290.0])]);
        assert_eq!(judge(&goal("r", "fiefdom", Some("SQLite"), Bound::AtLeast(1.0)), &row), None);
        let all = Bound::Grows { from: 0.0, to: f64::INFINITY, at_most: 1.0 };
        assert_eq!(judge(&goal("r", "fiefdom", None, all), &row), None);
    }
}
