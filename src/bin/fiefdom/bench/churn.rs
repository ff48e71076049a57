//! Activation churn: a quarter of the instances may be live at once, and the callers want them in
//! random order, so that three of four changes bring one to life and let another go.

use std::path::Path;
use std::sync::Arc;

use serde_json::json;

use super::load::{Random, Setting, Targets, callers};
use super::report::Figures;
use crate::failure::Failure;

/// Of the order, the same in every run.
const SEED: u64 = 0x0F1E_FD03;

pub(super) async fn run(setting: &Setting, root: &Path) -> Result<Figures, Failure> {
    let mut options = setting.options();
    options.live_instances = (setting.instances / 4).max(1);
    let live = options.live_instances;
    let store = setting.open(root, options).await?;
    let made = setting.populate(&store, setting.instances).await?;
    let count = made.ids.len();
    let targets = Arc::new(Targets::Dormant(store.clone(), made.ids));
    let random = |caller: usize| {
        let mut random = Random(SEED + caller as u64);
        move || Some(random.below(count.max(1)))
    };
    callers(setting, setting.run_for / 10, &targets, random).await?;
    let before = store.stats().await?;
    let loaded = callers(setting, setting.run_for, &targets, random).await?;
    let figures = Figures::of(&loaded, made.commit_bytes).batches(before, store.stats().await?);
    store.shutdown().await?;
    Ok(figures.more("live_limit", json!(live)))
}
