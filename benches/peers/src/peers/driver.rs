//! The loop that drives every contender: so many callers, each with one operation under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

use crate::harness::{Outcome, Setting, median};

/// How long a contender runs before it is measured.
const WARM_UP: Duration = Duration::from_millis(300);

/// The runtime of every contender, with as many workers as there are processors.
pub fn runtime() -> Outcome<Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

/// Operations per second of `callers` tasks that each wait for one operation before the next.
pub async fn rate<F, Fut>(setting: &Setting, callers: usize, operation: F) -> f64
where
    F: Fn(usize) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = ()> + Send,
{
    let stop = Arc::new(AtomicBool::new(false));
    let counts: Arc<Vec<Count>> = Arc::new((0..callers).map(|_| Count::default()).collect());
    let tasks: Vec<_> = (0..callers)
        .map(|caller| {
            let (operation, stop, counts) = (operation.clone(), Arc::clone(&stop), Arc::clone(&counts));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    operation(caller).await;
                    counts[caller].0.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    tokio::time::sleep(WARM_UP).await;
    let (begun, before) = (Instant::now(), total(&counts));
    tokio::time::sleep(setting.run_for).await;
    let (took, after) = (begun.elapsed(), total(&counts));
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.expect("an operation of a contender panicked");
    }
    (after - before) as f64 / took.as_secs_f64()
}

/// The median time in microseconds of one operation after the other, by one caller.
pub async fn latency<F, Fut>(setting: &Setting, operation: F) -> f64
where
    F: Fn() -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send,
{
    // In a task, as callers are: the thread that blocks on the runtime is not one of its workers.
    let run_for = setting.run_for;
    let task = tokio::spawn(async move {
        let mut taken = Vec::new();
        let begun = Instant::now();
        while begun.elapsed() < WARM_UP + run_for {
            let before = Instant::now();
            operation().await;
            if begun.elapsed() > WARM_UP {
                taken.push(before.elapsed().as_secs_f64() * 1e6);
            }
        }
        median(&taken)
    });
    task.await.expect("an operation of a contender panicked")
}

/// [`latency`] of something that blocks: on a thread of its own, without a runtime.
pub fn blocking_latency(setting: &Setting, mut operation: impl FnMut() -> Outcome<()>) -> Outcome<f64> {
    let mut taken = Vec::new();
    let begun = Instant::now();
    while begun.elapsed() < WARM_UP + setting.run_for {
        let before = Instant::now();
        operation()?;
        if begun.elapsed() > WARM_UP {
            taken.push(before.elapsed().as_secs_f64() * 1e6);
        }
    }
    Ok(median(&taken))
}

/// Operations per second of something that blocks and does `each` of them at a time.
pub fn blocking_rate(setting: &Setting, each: usize, mut operation: impl FnMut() -> Outcome<()>) -> Outcome<f64> {
    let warm = Instant::now();
    while warm.elapsed() < WARM_UP {
        operation()?;
    }
    let (begun, mut done) = (Instant::now(), 0);
    while begun.elapsed() < setting.run_for {
        operation()?;
        done += each;
    }
    Ok(done as f64 / begun.elapsed().as_secs_f64())
}

/// On a cache line of its own, so that callers do not slow each other down by counting.
#[derive(Default)]
#[repr(align(128))]
struct Count(AtomicU64);

fn total(counts: &[Count]) -> u64 {
    counts.iter().map(|count| count.0.load(Ordering::Relaxed)).sum()
}
