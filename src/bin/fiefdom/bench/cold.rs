//! A cold start: nothing is live, and all callers come at once. Each takes the next instance until
//! every one was changed once; then the store is opened anew, and it begins again.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use super::load::{Latencies, Loaded, Setting, Targets, callers};
use super::report::Figures;
use crate::failure::Failure;

pub(super) async fn run(setting: &Setting, root: &Path) -> Result<Figures, Failure> {
    let store = setting.open(root, setting.options()).await?;
    let made = setting.populate(&store, setting.instances).await?;
    store.shutdown().await?;
    let (begun, mut bursts) = (Instant::now(), 0_u32);
    let mut all = Loaded { latencies: Latencies::new(), elapsed: Duration::ZERO };
    let (mut commits, mut batches) = (0, 0);
    // Opening and closing counts towards the time of the shape, and not in the figures.
    while (bursts == 0 || begun.elapsed() < setting.run_for) && !setting.stop.is_cancelled() {
        let store = setting.open(root, setting.options()).await?;
        let targets = Arc::new(Targets::Dormant(store.clone(), made.ids.clone()));
        let (taken, count) = (Arc::new(AtomicUsize::new(0)), made.ids.len());
        let next = |_| {
            let taken = Arc::clone(&taken);
            move || Some(taken.fetch_add(1, Ordering::Relaxed)).filter(|number| *number < count)
        };
        let loaded = callers(setting, Duration::MAX, &targets, next).await?;
        let stats = store.stats().await?;
        store.shutdown().await?;
        (commits, batches) = (commits + stats.commits, batches + stats.batches);
        all.latencies.add(&loaded.latencies);
        all.elapsed += loaded.elapsed;
        bursts += 1;
    }
    let mut figures = Figures::of(&all, made.commit_bytes).more("bursts", json!(bursts));
    figures.count_batches(commits, batches);
    Ok(figures)
}
