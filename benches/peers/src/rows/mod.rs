//! The tables of the report, in its order. A file has the rows of one subject, with their goals
//! and their contenders.

mod roots;
pub mod scale;

use crate::harness::Row;

/// Every row.
pub fn all() -> Vec<Row> {
    let subjects: &[fn() -> Vec<Row>] = &[scale::rows];
    subjects.iter().flat_map(|rows| rows()).collect()
}

/// Every goal.
pub fn goals() -> Vec<Goal> {
    let subjects: &[fn() -> Vec<Goal>] = &[scale::goals];
    subjects.iter().flat_map(|goals| goals()).collect()
}

/// What is expected of a row.
pub struct Goal {
    pub row: &'static str,
    /// The series that has to reach it.
    pub ours: &'static str,
    /// What it is divided by, in the same run; none for a goal that is no ratio.
    pub theirs: Option<&'static str>,
    pub bound: Bound,
    /// Why it is missed, where it is, and what would close it: a paragraph of the report that is
    /// printed only when it is missed.
    pub if_missed: &'static str,
}

/// Ratios are of the figures as they are, ours divided by theirs.
pub enum Bound {
    AtLeast(f64),
    AtMost(f64),
}
