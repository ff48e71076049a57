//! The tail of the latencies at half of the saturated rate, while the log is checkpointed and the
//! files are written.
//!
//! The load is open: an operation is due at its time, whether or not those before it have come back,
//! and its latency counts from then. So a stall shows in every operation that it held up
//! (otherwise those would not have been begun, and the stall would count once: coordinated omission).

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::Semaphore;

use super::load::{Latencies, Loaded, Setting, Targets, callers, finish};
use super::report::Figures;
use super::scratch::failed;
use crate::failure::Failure;

/// Operations come due this often, as many as belong to it: a thread cannot be woken for each.
const TICK: Duration = Duration::from_millis(1);

/// Segments of the log that are filled in the time: each is checkpointed under load. They are smaller
/// than by default when the time is short, so that checkpoints come more often than they would.
const SEGMENTS: u64 = 3;

pub(super) async fn run(setting: &Setting, root: &Path) -> Result<Figures, Failure> {
    let store = setting.open(root, setting.options()).await?;
    let made = setting.populate(&store, setting.callers).await?;
    let targets = Targets::live(&store, &made.ids).await?;
    let own = |caller| move || Some(caller);
    callers(setting, setting.run_for / 10, &targets, own).await?;
    let saturated = callers(setting, setting.run_for / 4, &targets, own).await?.per_second();
    drop(targets);
    store.shutdown().await?;

    let rate = saturated / 2.0;
    let mut options = setting.options();
    let expected = (rate * setting.run_for.as_secs_f64()) as u64 * made.commit_bytes as u64;
    options.log_segment_bytes = (expected / SEGMENTS).clamp(64 << 10, options.log_segment_bytes);
    let segment_bytes = options.log_segment_bytes;
    let store = setting.open(root, options).await?;
    let targets = Targets::live(&store, &made.ids).await?;
    let before = store.stats().await?;
    let loaded = open_load(setting, &targets, rate).await?;
    let after = store.stats().await?;
    let figures = Figures::of(&loaded, made.commit_bytes).batches(before, after);
    store.shutdown().await?;
    let tail = figures.latency.p999 / figures.latency.p50.max(f64::MIN_POSITIVE);
    Ok(figures
        .more("saturated_per_second", json!(saturated))
        .more("offered_per_second", json!(rate))
        .more("checkpoints", json!(after.checkpoints))
        .more("log_segment_bytes", json!(segment_bytes))
        .more("p99.9_to_p50", json!(tail)))
}

/// Operations at a rate, each begun when it is due and a caller is free.
async fn open_load(setting: &Setting, targets: &Arc<Targets>, rate: f64) -> Result<Loaded, Failure> {
    let (latencies, due, taken) = (Latencies::new(), Arc::new(Semaphore::new(0)), Arc::new(AtomicU64::new(0)));
    // How many there are in all; known when the last of them is due.
    let all = Arc::new(AtomicU64::new(u64::MAX));
    // Room for the callers to be there when it begins.
    let begin = Instant::now() + Duration::from_millis(20);
    let tasks: Vec<_> = (0..setting.callers)
        .map(|caller| {
            let (latencies, due, taken) = (latencies.clone(), Arc::clone(&due), Arc::clone(&taken));
            let (all, targets) = (Arc::clone(&all), Arc::clone(targets));
            tokio::spawn(async move {
                while let Ok(one) = due.acquire().await {
                    one.forget();
                    let number = taken.fetch_add(1, Ordering::Relaxed);
                    if number >= all.load(Ordering::Acquire) {
                        break;
                    }
                    let was_due = begin + TICK * tick_of(number, rate);
                    // A failure ends the load of all.
                    targets.update(caller).await.inspect_err(|_| due.close())?;
                    latencies.note(was_due.elapsed());
                }
                Ok(())
            })
        })
        .collect();
    // A thread, because timers of the runtime are as coarse as the ticks.
    let ticks = u32::try_from(setting.run_for.as_millis()).unwrap_or(u32::MAX);
    let (permits, stop) = (Arc::clone(&due), setting.stop.clone());
    let clock = std::thread::Builder::new().name("fiefdom-due".into()).spawn(move || {
        let mut let_go = 0;
        for tick in 0..ticks {
            std::thread::sleep((begin + TICK * tick).saturating_duration_since(Instant::now()));
            if stop.is_cancelled() || permits.is_closed() {
                break;
            }
            let now_due = due_in(tick, rate);
            permits.add_permits(now_due);
            let_go += now_due as u64;
        }
        let_go
    });
    let clock = clock.map_err(|e| failed("start", "a thread", e))?;
    let ended = tokio::task::spawn_blocking(move || clock.join());
    let let_go = ended.await.ok().and_then(Result::ok).unwrap_or_default();
    // Each caller is told by a permit of its own, behind those that are due: a semaphore that is closed
    // takes back what it has given to callers that have not run since, and those would be missing.
    all.store(let_go, Ordering::Release);
    due.add_permits(setting.callers);
    finish(tasks).await?;
    Ok(Loaded { latencies, elapsed: begin.elapsed() })
}

/// The tick at which an operation is due.
fn tick_of(number: u64, rate: f64) -> u32 {
    (number as f64 / rate / TICK.as_secs_f64()).floor() as u32
}

/// Operations that are due at a tick.
fn due_in(tick: u32, rate: f64) -> usize {
    let until = |tick: u32| (f64::from(tick) * TICK.as_secs_f64() * rate).ceil() as u64;
    usize::try_from(until(tick + 1) - until(tick)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_operations_are_let_go_at_a_tick_as_are_due_then() {
        for rate in [7.0, 999.9, 1000.0, 1234.5, 81_920.0] {
            let mut number = 0;
            for tick in 0..3000 {
                for _ in 0..due_in(tick, rate) {
                    // To a tick: the two round a product and a quotient.
                    assert!(tick_of(number, rate).abs_diff(tick) <= 1, "{number} at {tick}, {rate}/s");
                    number += 1;
                }
            }
            assert!((number as f64 - rate * 3.0).abs() <= 1.0, "{number} at {rate}/s");
        }
    }
}
