//! What is said of each shape: figures, beside what the disk itself does.

use fiefdom::Stats;
use serde_json::{Map, Value, json};

use super::limit::Limit;
use super::load::{Loaded, Percentiles};

/// What a shape came to.
pub(super) struct Figures {
    operations: u64,
    seconds: f64,
    pub(super) per_second: f64,
    pub(super) latency: Percentiles,
    /// About how long a line of the log is, in bytes.
    pub(super) commit_bytes: usize,
    /// How many of them became durable together, on average.
    pub(super) commits_per_batch: f64,
    /// Acknowledged changes that are not there.
    pub(super) lost: u64,
    /// What only this shape has.
    more: Map<String, Value>,
    /// A sentence for below the table.
    pub(super) note: Option<String>,
}

impl Figures {
    pub(super) fn of(loaded: &Loaded, commit_bytes: usize) -> Self {
        Self {
            operations: loaded.latencies.count(),
            seconds: loaded.elapsed.as_secs_f64(),
            per_second: loaded.per_second(),
            latency: loaded.latencies.percentiles(),
            commit_bytes,
            commits_per_batch: 1.0,
            lost: 0,
            more: Map::new(),
            note: None,
        }
    }

    /// Counts the batches between two looks at a store.
    pub(super) fn batches(mut self, before: Stats, after: Stats) -> Self {
        self.count_batches(after.commits - before.commits, after.batches - before.batches);
        self
    }

    pub(super) fn count_batches(&mut self, commits: u64, batches: u64) {
        self.commits_per_batch = (commits as f64 / (batches as f64).max(1.0)).max(1.0);
    }

    pub(super) fn more(mut self, name: &str, value: Value) -> Self {
        self.more.insert(name.to_owned(), value);
        self
    }

    pub(super) fn lost(self, lost: u64) -> Self {
        Self { lost, ..self }
    }

    pub(super) fn note(self, note: String) -> Self {
        Self { note: Some(note), ..self }
    }
}

/// A shape, and what the disk did right after it.
pub(super) struct Measured {
    pub(super) shape: &'static str,
    pub(super) figures: Figures,
    /// One commit after the other.
    pub(super) one: Limit,
    /// As many at once as the shape had in a batch.
    pub(super) batch: Limit,
}

pub(super) const HEAD: [&str; 9] =
    ["SHAPE", "    RATE/S", "     P50", "     P90", "     P99", "   P99.9", "      MAX", "  APPEND", "P50/APPEND"];

impl Measured {
    /// A line of the table.
    pub(super) fn row(&self) -> Vec<String> {
        let Percentiles { p50, p90, p99, p999, max } = self.figures.latency;
        let mut row = vec![self.shape.to_owned(), format!("{:>10.0}", self.figures.per_second)];
        row.extend([p50, p90, p99, p999].map(|us| format!("{us:>8.0}")));
        row.push(format!("{max:>9.0}"));
        row.push(format!("{:>8.0}", self.one.latency_us.p50));
        row.push(format!("{:>10.2}", p50 / self.one.latency_us.p50));
        row
    }

    pub(super) fn document(&self) -> Value {
        let figures = &self.figures;
        let mut document = json!({
            "shape": self.shape,
            "operations": figures.operations,
            "seconds": figures.seconds,
            "per_second": figures.per_second,
            "latency_us": figures.latency,
            "commits_per_batch": figures.commits_per_batch,
            "append": self.one,
            "append_batch": self.batch,
            "ratios": {
                "p50_to_append_p50": figures.latency.p50 / self.one.latency_us.p50,
                "rate_to_append_rate": figures.per_second / self.one.per_second,
                "rate_to_append_batch_rate": figures.per_second / (self.batch.per_second * figures.commits_per_batch),
            },
        });
        if let Some(fields) = document.as_object_mut() {
            fields.extend(figures.more.clone());
        }
        document
    }
}
