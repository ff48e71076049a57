//! Saturation for a long time: whether the rate, the memory and the log stay as they are.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use serde_json::json;

use super::load::{Latencies, Loaded, Setting, Targets, callers};
use super::report::Figures;
use super::scratch::{log_bytes, resident};
use crate::failure::Failure;

/// Parts of the time, each with a rate of its own.
const INTERVALS: u32 = 10;

/// How often the log is looked at.
const LOOK: Duration = Duration::from_millis(100);

#[derive(Serialize)]
struct Interval {
    per_second: f64,
    /// At its end.
    resident_bytes: u64,
    /// The most that was seen, in files and in full segments that wait for their checkpoint.
    log_bytes: u64,
    log_segments: usize,
}

pub(super) async fn run(setting: &Setting, root: &Path) -> Result<Figures, Failure> {
    let store = setting.open(root, setting.options()).await?;
    let made = setting.populate(&store, setting.callers).await?;
    let targets = Targets::live(&store, &made.ids).await?;
    let own = |caller| move || Some(caller);
    let (before, resident_before) = (store.stats().await?, resident());
    let mut all = Loaded { latencies: Latencies::new(), elapsed: Duration::ZERO };
    let mut intervals = Vec::new();
    while intervals.len() < INTERVALS as usize && !setting.stop.is_cancelled() {
        let load = callers(setting, setting.run_for / INTERVALS, &targets, own);
        tokio::pin!(load);
        let (mut most_bytes, mut most_segments) = (0, 0);
        let loaded = loop {
            tokio::select! {
                loaded = &mut load => break loaded?,
                () = tokio::time::sleep(LOOK) => {}
            }
            most_bytes = most_bytes.max(log_bytes(root));
            most_segments = most_segments.max(store.stats().await?.log_segments);
        };
        intervals.push(Interval {
            per_second: loaded.per_second(),
            resident_bytes: resident(),
            log_bytes: most_bytes.max(log_bytes(root)),
            log_segments: most_segments,
        });
        all.latencies.add(&loaded.latencies);
        all.elapsed += loaded.elapsed;
    }
    let after = store.stats().await?;
    let mut figures = Figures::of(&all, made.commit_bytes).batches(before, after);
    drop(targets);
    store.shutdown().await?;
    if let (Some(first), Some(last)) = (intervals.first(), intervals.last()) {
        let (rate, memory) = (last.per_second / first.per_second, ratio(last.resident_bytes, first.resident_bytes));
        let log = intervals.iter().map(|interval| interval.log_bytes).max().unwrap_or_default();
        figures = figures.more("last_to_first", json!(rate)).more("memory_last_to_first", json!(memory)).note(format!(
            "sustained: the rate of the last tenth is {rate:.2} of the first, memory {memory:.2} of it ({} MiB); \
             the log had {} MiB at most",
            last.resident_bytes >> 20,
            log.div_ceil(1 << 20)
        ));
    }
    Ok(figures
        .more("resident_bytes_before", json!(resident_before))
        .more("checkpoints", json!(after.checkpoints))
        .more("intervals", json!(intervals)))
}

fn ratio(ours: u64, theirs: u64) -> f64 {
    ours as f64 / (theirs as f64).max(1.0)
}
