//! The tables of the report, in its order. A file has the rows of one subject, with their goals
//! and their contenders.

mod creations;
mod events;
mod followers;
mod load;
mod reads;
mod roots;
pub mod run;
pub mod scale;
mod shapes;
mod updates;

use crate::harness::Row;

/// Every row.
pub fn all() -> Vec<Row> {
    let subjects: &[fn() -> Vec<Row>] = &[
        updates::rows,
        reads::rows,
        creations::rows,
        events::rows,
        followers::rows,
        scale::rows,
        run::rows,
        load::rows,
        shapes::rows,
    ];
    subjects.iter().flat_map(|rows| rows()).collect()
}

/// Every goal.
pub fn goals() -> Vec<Goal> {
    let subjects: &[fn() -> Vec<Goal>] = &[
        updates::goals,
        reads::goals,
        creations::goals,
        events::goals,
        followers::goals,
        scale::goals,
        run::goals,
        load::goals,
        shapes::goals,
    ];
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
    /// Of a row with an axis: how often the cost at the first point from `from` on fits into that at
    /// the last one up to `to`. The cost of a rate is its reciprocal.
    Grows {
        from: f64,
        to: f64,
        at_most: f64,
    },
}
