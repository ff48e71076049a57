//! How a row is measured: every contender in turn, round after round, so that what the machine
//! does meanwhile meets all of them alike.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A failure of the measurement itself. It ends the row, and the report says so.
pub type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// What a contender is given.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Where the contenders may write, on the disk to be measured. Use [`Setting::fresh_dir`].
    pub dir: PathBuf,
    /// How long one run of a contender lasts, where a duration is what bounds it.
    pub run_for: Duration,
    /// A short look instead of figures to quote: sizes may be a tenth or less.
    pub quick: bool,
}

impl Setting {
    /// A new empty directory. It stays until the whole measurement has ended: ext4 without a
    /// journal takes long to make files where many were deleted a moment ago.
    pub fn fresh_dir(&self, name: &str) -> Outcome<PathBuf> {
        std::fs::create_dir_all(&self.dir)?;
        Ok(tempfile::Builder::new().prefix(name).rand_bytes(6).tempdir_in(&self.dir)?.keep())
    }
}

/// One figure of one run.
pub struct Figure {
    /// Whose: the name of a series of the row, the same in every run.
    pub series: String,
    /// Where on the horizontal axis, for a row that shows how a cost grows.
    pub x: Option<f64>,
    /// In the unit of the row.
    pub value: f64,
}

impl Figure {
    pub fn new(series: impl Into<String>, value: f64) -> Self {
        Self { series: series.into(), x: None, value }
    }

    pub fn at(self, x: f64) -> Self {
        Self { x: Some(x), ..self }
    }
}

/// One run of one contender: it prepares, measures, and gives its figures (most give one).
pub type Contender = Box<dyn Fn(&Setting) -> Outcome<Vec<Figure>>>;

/// A table of the report.
pub struct Row {
    /// Its name on the command line and in the results.
    pub name: &'static str,
    /// What is measured, in the words of the report.
    pub title: &'static str,
    /// The unit of its figures: one that ends in `/s` is better when it is larger, any other when it is smaller.
    pub unit: &'static str,
    /// What the horizontal axis is, for a row that shows how a cost grows.
    pub axis: Option<&'static str>,
    /// At most so many runs; slow rows take fewer than asked for.
    pub at_most: usize,
    pub contenders: Vec<Contender>,
}

/// What was measured, as it is written to the results.
#[derive(Debug, Deserialize, Serialize)]
pub struct Measured {
    pub row: String,
    pub title: String,
    pub unit: String,
    pub axis: Option<String>,
    pub series: Vec<Series>,
    /// Why there is no more of it.
    pub failed: Option<String>,
}

/// The figures of one contender, one for each run.
#[derive(Debug, Deserialize, Serialize)]
pub struct Series {
    pub name: String,
    pub x: Option<f64>,
    pub values: Vec<f64>,
}

impl Row {
    /// Every contender once in each of `runs` rounds.
    pub fn measure(&self, setting: &Setting, runs: usize) -> Measured {
        let mut measured = Measured {
            row: self.name.to_owned(),
            title: self.title.to_owned(),
            unit: self.unit.to_owned(),
            axis: self.axis.map(str::to_owned),
            series: Vec::new(),
            failed: None,
        };
        for run in 0..runs.min(self.at_most) {
            for contender in &self.contenders {
                match contender(setting) {
                    Ok(figures) => figures.into_iter().for_each(|figure| measured.add(run, figure)),
                    Err(error) => {
                        measured.failed = Some(error.to_string());
                        return measured;
                    }
                }
            }
        }
        measured
    }
}

impl Measured {
    /// Whether more is better.
    pub fn is_rate(&self) -> bool {
        self.unit.ends_with("/s")
    }

    fn add(&mut self, run: usize, figure: Figure) {
        eprintln!("{:>28}  run {}  {:<44} {:>14.2} {}", self.row, run + 1, figure.series, figure.value, self.unit);
        let known = self.series.iter_mut().find(|series| series.name == figure.series && series.x == figure.x);
        match known {
            Some(series) => series.values.push(figure.value),
            None => self.series.push(Series { name: figure.series, x: figure.x, values: vec![figure.value] }),
        }
    }
}

/// Runs this program again as a fresh process, `fiefdom-peers child ARGS...`, and gives what it printed.
pub fn child(args: &[&str]) -> Outcome<String> {
    let out = std::process::Command::new(std::env::current_exe()?).arg("child").args(args).output()?;
    if !out.status.success() {
        return Err(format!("child {args:?}: {}", String::from_utf8_lossy(&out.stderr)).into());
    }
    Ok(String::from_utf8(out.stdout)?)
}

/// The middle of some figures.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// Where the results of one machine and file system are.
pub fn write_results(path: &Path, results: &Results) -> Outcome<()> {
    path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
    Ok(std::fs::write(path, serde_json::to_string_pretty(results)? + "\n")?)
}

/// One measurement: on one machine, on one file system.
#[derive(Debug, Deserialize, Serialize)]
pub struct Results {
    pub machine: crate::machine::Machine,
    pub rows: Vec<Measured>,
}
