//! Small results for the tests of the report.

use crate::harness::{Measured, Results, Series};
use crate::machine::Machine;
use crate::rows::{Bound, Goal};

/// Series by name, position and figures.
pub fn measured(row: &str, unit: &str, series: &[(&str, Option<f64>, &[f64])]) -> Measured {
    Measured {
        row: row.to_owned(),
        title: format!("Title of {row}"),
        unit: unit.to_owned(),
        axis: series.iter().any(|(_, x, _)| x.is_some()).then(|| "how many".to_owned()),
        series: series
            .iter()
            .map(|(name, x, values)| Series { name: (*name).to_owned(), x: *x, values: values.to_vec() })
            .collect(),
        failed: None,
    }
}

pub fn goal(row: &'static str, ours: &'static str, theirs: Option<&'static str>, bound: Bound) -> Goal {
    Goal { row, ours, theirs, bound, if_missed: "" }
}

pub fn results(rows: Vec<Measured>) -> Results {
    let machine = Machine {
        date: "2026-01-02".to_owned(),
        cpu: "Some Processor".to_owned(),
        cores: 2,
        memory_gib: 23.6,
        kernel: "6.18".to_owned(),
        file_system: "ext4 rw".to_owned(),
        rust: "rustc 1.95".to_owned(),
    };
    Results { machine, rows }
}
