//! Steady state: every caller changes an instance of its own that stays live.

use std::path::Path;

use super::load::{Setting, Targets, callers};
use super::report::Figures;
use crate::failure::Failure;

pub(super) async fn run(setting: &Setting, root: &Path) -> Result<Figures, Failure> {
    let store = setting.open(root, setting.options()).await?;
    let made = setting.populate(&store, setting.callers).await?;
    let targets = Targets::live(&store, &made.ids).await?;
    let own = |caller| move || Some(caller);
    callers(setting, setting.run_for / 10, &targets, own).await?;
    let before = store.stats().await?;
    let loaded = callers(setting, setting.run_for, &targets, own).await?;
    let figures = Figures::of(&loaded, made.commit_bytes).batches(before, store.stats().await?);
    store.shutdown().await?;
    Ok(figures)
}
