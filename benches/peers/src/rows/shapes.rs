//! The shapes of cost: one quantity is multiplied, everything else stays.
//!
//! `load` multiplies instances, callers and bytes; `log` the events of one instance; `dormant` the
//! instances that nobody uses.

mod dormant;
mod load;
mod log;

use std::future::Future;
use std::time::{Duration, Instant};

use fiefdom::{Durability, InstanceRef, NewInstance, Options, Store, Untyped};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::Goal;
use crate::harness::{Outcome, Row, Setting, median};

pub fn rows() -> Vec<Row> {
    [load::rows(), log::rows(), dormant::rows()].into_iter().flatten().collect()
}

pub fn goals() -> Vec<Goal> {
    [load::goals(), log::goals(), dormant::goals()].into_iter().flatten().collect()
}

const DISK: &str = "fiefdom, on disk";
const OS: &str = "fiefdom, Os";

/// Who writes at once, where that is not what is multiplied.
const CALLERS: usize = 64;

/// The points of a row, a part of them for a short look.
fn points<'a, T>(setting: &Setting, points: &'a [T], quick: usize) -> &'a [T] {
    if setting.quick { &points[..quick] } else { points }
}

/// How long one point is measured: a row has several.
fn slice(setting: &Setting) -> Duration {
    setting.run_for / 2
}

fn runtime() -> Outcome<Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

fn at(durability: Durability) -> Options {
    let mut options = Options::default();
    options.durability = durability;
    options
}

/// A document that is about `bytes` long as JSON.
fn document(bytes: usize) -> Value {
    json!({ "count": 0, "step": "compile", "branch": "main", "note": "x".repeat(bytes.saturating_sub(60)) })
}

/// Makes instances, `CALLERS` at once.
async fn create(store: &Store<Untyped>, count: usize, bytes: usize) -> Outcome<Vec<InstanceRef<Untyped>>> {
    let makers: Vec<_> = (0..CALLERS.min(count))
        .map(|maker| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut made = Vec::new();
                for _ in (maker..count).step_by(CALLERS) {
                    let new = NewInstance::new().input(document(bytes)).durability(Durability::Os);
                    made.push(store.create(new).await?.instance().clone());
                }
                Ok::<_, fiefdom::Error>(made)
            })
        })
        .collect();
    let mut made = Vec::new();
    for maker in makers {
        made.extend(maker.await??);
    }
    Ok(made)
}

async fn update(instance: &InstanceRef<Untyped>) -> fiefdom::Result<()> {
    instance.update(|state| state["count"] = (state["count"].as_u64().unwrap_or(0) + 1).into()).await
}

/// Operations per second of `callers` that each make one after the other; an operation is told who
/// makes it, and which of theirs it is. A quarter of the time before is warm-up.
async fn rate<F, Fut>(callers: usize, run_for: Duration, operation: F) -> Outcome<f64>
where
    F: Fn(usize, usize) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = fiefdom::Result<()>> + Send,
{
    let mut rate = 0.0;
    for run_for in [run_for / 4, run_for] {
        let begun = Instant::now();
        let callers: Vec<_> = (0..callers)
            .map(|caller| {
                let operation = operation.clone();
                tokio::spawn(async move {
                    let mut done = 0;
                    while begun.elapsed() < run_for {
                        operation(caller, done).await?;
                        done += 1;
                    }
                    Ok::<_, fiefdom::Error>(done)
                })
            })
            .collect();
        let mut done = 0;
        for caller in callers {
            done += caller.await??;
        }
        rate = done as f64 / begun.elapsed().as_secs_f64();
    }
    Ok(rate)
}

/// The median of single times, in microseconds.
fn micros(times: &[Duration]) -> f64 {
    median(&times.iter().map(|time| time.as_secs_f64() * 1e6).collect::<Vec<_>>())
}
