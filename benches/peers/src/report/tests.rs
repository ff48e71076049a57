//! The page as a reader finds it.

use std::path::Path;

use super::fixture::{goal, measured, results};
use super::*;
use crate::rows::Bound;

const DISK: &str = "fiefdom, on disk";

fn updates(ours: &[f64], sqlite: &[f64]) -> Measured {
    measured("updates-64", "updates/s", &[(DISK, None, ours), ("SQLite", None, sqlite)])
}

fn growth(last: f64) -> Measured {
    let points: &[(&str, Option<f64>, &[f64])] =
        &[(DISK, Some(1000.0), &[100.0, 110.0]), (DISK, Some(10_000_000.0), &[last, last])];
    measured("shape-log", "us", points)
}

fn report(results: &[Results], goals: &[Goal]) -> Outcome<Report> {
    Report::of(results, goals, &["updates-64", "shape-log"], Path::new("performance"))
}

fn line<'a>(page: &'a str, begin: &str) -> &'a str {
    page.lines().find(|line| line.starts_with(begin)).unwrap_or_else(|| panic!("no {begin:?} in:\n{page}"))
}

#[test]
fn figures_and_ratios_stand_in_tables_with_their_reach() {
    let page = report(&[results(vec![updates(&[200.0, 300.0, 250.0], &[100.0; 3])])], &[]).unwrap().page;
    assert_eq!(line(&page, "| fiefdom, on disk"), "| fiefdom, on disk | 250 [200–300] |");
    assert_eq!(
        page.lines().filter(|line| line.starts_with("| SQLite")).nth(1),
        Some("| SQLite | 2.50x [2.00–3.00] ahead |")
    );
    assert!(page.contains("In updates/s; 3 rounds."), "{page}");
}

#[test]
fn a_loss_is_said_as_plainly_as_a_win() {
    let behind = report(&[results(vec![updates(&[50.0; 3], &[100.0; 3])])], &[]).unwrap().page;
    assert!(behind.contains("| SQLite | 0.500x **behind** |"), "{behind}");
    let level = report(&[results(vec![updates(&[50.0, 150.0], &[100.0; 2])])], &[]).unwrap().page;
    assert!(level.contains("| SQLite | 1.00x [0.500–1.50] level |"), "{level}");
}

#[test]
fn a_second_file_system_stands_beside_the_first_where_it_has_the_row() {
    let first = results(vec![updates(&[200.0], &[100.0]), growth(120.0)]);
    let second = results(vec![updates(&[90.0], &[100.0])]);
    let goals = [goal("updates-64", DISK, Some("SQLite"), Bound::AtLeast(0.5))];
    let page = report(&[first, second], &goals).unwrap().page;
    assert!(page.contains("| fiefdom, on disk | 200 | 90.0 |"), "{page}");
    assert!(page.contains("| 2.00x, kept | 0.900x, kept |"), "{page}");
    assert!(page.contains("| 10 000 000 | 120 |\n"), "{page}");
}

#[test]
fn a_missed_goal_has_its_paragraph() {
    let mut one = goal("updates-64", DISK, Some("SQLite"), Bound::AtLeast(1.2));
    one.if_missed = "Because of this, and that would close it.";
    let page = report(&[results(vec![updates(&[100.0], &[100.0])])], &[one]).unwrap().page;
    assert!(page.contains("fiefdom, on disk ≥ 1.2x SQLite | 1.00x, **missed** |"), "{page}");
    let why = line(&page, "**Title of updates-64** (");
    assert!(why.ends_with("missed on A. Because of this, and that would close it."), "{why}");
    assert!(page.contains("0 of 1 are kept wherever they were measured, 1 missed somewhere."), "{page}");
}

#[test]
fn a_kept_goal_has_no_paragraph() {
    let mut one = goal("updates-64", DISK, Some("SQLite"), Bound::AtLeast(1.2));
    one.if_missed = "Because of this.";
    let page = report(&[results(vec![updates(&[120.0], &[100.0])])], &[one]).unwrap().page;
    assert!(!page.contains("Because of this.") && !page.contains("missed on"), "{page}");
}

#[test]
fn a_missed_goal_without_a_paragraph_makes_no_report() {
    let goals = [goal("updates-64", DISK, Some("SQLite"), Bound::AtLeast(1.2))];
    let kept = results(vec![updates(&[130.0], &[100.0])]);
    let missed = results(vec![updates(&[110.0], &[100.0])]);
    let error = report(&[kept, missed], &goals).err().expect("it is missed on B").to_string();
    assert!(error.contains("updates-64: fiefdom, on disk ≥ 1.2x SQLite"), "{error}");
}

#[test]
fn what_was_not_measured_is_not_called_kept() {
    let goals =
        [goal("other", DISK, None, Bound::AtMost(1.0)), goal("updates-64", DISK, Some("redb"), Bound::AtLeast(1.0))];
    let page = report(&[results(vec![updates(&[100.0], &[100.0])])], &goals).unwrap().page;
    assert!(page.contains("| `other` | | not measured |"), "{page}");
    assert!(page.contains("fiefdom, on disk ≥ 1x redb | not measured |"), "{page}");
    assert!(page.contains("0 of 2 are kept wherever they were measured, 2 not measured."), "{page}");
}

#[test]
fn what_failed_is_named_with_its_reason() {
    let mut row = updates(&[], &[]);
    row.series.clear();
    row.failed = Some("no such\n  program".to_owned());
    let page = report(&[results(vec![row])], &[]).unwrap().page;
    assert!(page.contains("- Title of updates-64 (`updates-64`), on A: no such program"), "{page}");
    assert!(page.contains("**The measurement on A ended early:** no such program"), "{page}");
}

#[test]
fn a_growth_is_a_line_and_a_comparison_is_bars() {
    let made = report(&[results(vec![growth(120.0), updates(&[200.0], &[100.0])])], &[]).unwrap();
    let names: Vec<_> = made.plots.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["updates-64.svg", "shape-log.svg"], "in the order of the program");
    assert!(made.page.contains("![Title of shape-log](performance/shape-log.svg)"), "{}", made.page);
    assert_eq!(made.plots[0].1.matches("height=\"14.0\"").count(), 2, "a bar for each");
    assert_eq!(made.plots[1].1.matches("<polyline").count(), 2, "a line, and its mark in the legend");
}

#[test]
fn bars_are_as_long_as_their_figures() {
    let made = report(&[results(vec![updates(&[200.0], &[50.0])])], &[]).unwrap();
    let width = |rect: &str| rect.split("width=\"").nth(1).unwrap().split('"').next().unwrap().parse::<f64>().unwrap();
    let bars: Vec<f64> = made.plots[0].1.lines().filter(|line| line.contains("height=\"14.0\"")).map(width).collect();
    assert!((bars[0] - 4.0 * bars[1]).abs() < 0.3, "{bars:?}");
}

#[test]
fn the_same_results_give_the_same_bytes() {
    let make = || report(&[results(vec![updates(&[200.0, 210.0], &[100.0, 99.0]), growth(120.0)])], &[]).unwrap();
    let (one, other) = (make(), make());
    assert_eq!(one.page, other.page);
    assert_eq!(one.plots, other.plots);
}

#[test]
fn prose_is_wrapped_and_says_what_it_was_measured_on() {
    let page = report(&[results(vec![updates(&[200.0], &[100.0])])], &[]).unwrap().page;
    assert!(page.lines().filter(|line| !line.starts_with('|')).all(|line| line.chars().count() <= 120), "{page}");
    assert_eq!(line(&page, "| file system"), "| file system | `ext4 rw` |");
    assert_eq!(line(&page, "| memory"), "| memory | 24 GiB |");
}
